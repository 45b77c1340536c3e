//! Forgets what has expired: certificates' and instances' records, join tokens, login tokens, revocations.

use std::sync::Arc;
use std::time::Duration;

use crate::app::ControlPlane;
use crate::registry::StoreError;

/// How often.
const EVERY: Duration = Duration::from_secs(300);

/// Prunes from time to time until the control plane stops.
pub async fn run(control: Arc<ControlPlane>) {
    loop {
        tokio::select! {
            () = control.stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        match once(&control).await {
            Ok(0) => {}
            Ok(removed) => tracing::debug!(event = "pruned", removed, "expired records were removed"),
            Err(error) => tracing::warn!(event = "prune_failed", %error, "expired records stay for now"),
        }
    }
}

async fn once(control: &ControlPlane) -> Result<usize, StoreError> {
    let now = control.clock.now();
    // First, so that what was revoked is remembered before the revocations are forgotten.
    let attested = control.enrollment.prune_attested().await?;
    let certificates = control.ledger.prune(now).await?;
    let trust = control.instances.prune_trust(&*control.store).await?;
    let tokens = control.tokens.prune(now).await?;
    let revocations = control.revocations.prune(now).await?;
    Ok(attested + certificates + trust + tokens + revocations + control.admins.prune(now).await?)
}
