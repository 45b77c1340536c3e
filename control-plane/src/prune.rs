//! Forgets what has expired: certificates' and instances' records, join tokens, login tokens, revocations.

use std::sync::Arc;
use std::time::Duration;

use crate::app::ControlPlane;
use crate::registry::StoreError;

#[cfg(test)]
mod tests;

/// How often.
const EVERY: Duration = Duration::from_secs(300);

/// Prunes from time to time until the control plane stops.
pub async fn run(control: Arc<ControlPlane>) {
    loop {
        tokio::select! {
            () = control.stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let Pruned { removed, failed } = once(&control).await;
        if removed > 0 {
            tracing::debug!(event = "pruned", removed, "expired records were removed");
        }
        for (what, error) in failed {
            tracing::warn!(event = "prune_failed", what, %error, "expired records of these stay for now");
        }
    }
}

/// What has become of one round.
#[derive(Debug, Default)]
struct Pruned {
    removed: usize,
    /// What was not pruned, and why not.
    failed: Vec<(&'static str, StoreError)>,
}

/// A record that cannot be read keeps those of its kind alone. A clock that is set ahead for a while has nothing forgotten.
async fn once(control: &ControlPlane) -> Pruned {
    let now = control.clock.surely_past();
    let mut pruned = Pruned::default();
    let is_remembered = pruned.note("machines", control.enrollment.prune_attested().await);
    pruned.note("certificates", control.ledger.prune(now).await);
    pruned.note("trust in force", control.instances.prune_trust(&*control.store).await);
    pruned.note("join tokens", control.tokens.prune(now).await);
    // Which machines were revoked is remembered before the revocations are forgotten.
    if is_remembered {
        pruned.note("revocations", control.revocations.prune(now).await);
    }
    pruned.note("login tokens", control.admins.prune(now).await);
    pruned
}

impl Pruned {
    /// Whether it went well.
    fn note(&mut self, what: &'static str, outcome: Result<usize, StoreError>) -> bool {
        match outcome {
            Ok(removed) => {
                self.removed += removed;
                true
            }
            Err(error) => {
                self.failed.push((what, error));
                false
            }
        }
    }
}
