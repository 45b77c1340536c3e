//! After a registry was put back from a backup: what it says is not the last word on what was issued.

use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::UnixMillis;

use crate::app::AppError;
use crate::audit::{Act, Actor, Audit};
use crate::authority::Installation;
use crate::clock::Clock;
use crate::config::Settings;
use crate::init::UNFINISHED_MARKER;
use crate::issuance::FORGOTTEN_FOR;
use crate::registry::{Commit, SledStore, Store, StoreError, document, keys};

/// What was said of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Whose it is.
    pub trust_domain: String,
    /// Views are numbered from here on.
    pub epoch: u64,
    /// Until when certificates are good that were issued before now and are on no record.
    pub until: UnixMillis,
}

/// Says that the registry was put back from a backup. Views get a higher epoch than any that was pushed before, so that agents take
/// them although they hold later revisions; and agents are let in by certificates that are on no record, where they were issued
/// before now. No control plane may run on it meanwhile.
///
/// # Errors
/// The registry is missing, unfinished, in use or damaged, or takes no writes.
pub async fn mark(settings: &Settings, clock: &Clock) -> Result<Restored, AppError> {
    if settings.data_dir.join(UNFINISHED_MARKER).exists() {
        return Err(AppError::Unfinished(settings.data_dir.clone()));
    }
    let registry = settings.registry_directory();
    let opened = tokio::task::spawn_blocking(move || SledStore::open(&registry)).await;
    let store: Arc<dyn Store> = Arc::new(opened.map_err(|_| StoreError::Closed)??);
    let missing = StoreError::Damaged { key: keys::INSTALLATION.to_owned(), what: "it is missing" };
    let stored = store.get(keys::INSTALLATION).await?.ok_or(missing)?;
    let mut installation: Installation = document::from_stored(keys::INSTALLATION, &stored)?;
    // The end of this second: certificates know no fractions of it, and one of its beginning is from before.
    let from = clock.now().plus(Duration::from_secs(1)).floor_to_second();
    installation.epoch = from.0.max(installation.epoch.saturating_add(1));
    installation.restored_at = Some(from.0);
    let commit = Commit::new()
        .at(keys::INSTALLATION, stored.version)
        .put(keys::INSTALLATION, document::to_bytes(keys::INSTALLATION, &installation)?);
    let actor = Actor { name: "restored".to_owned(), source: "local".to_owned() };
    let act = Act::done(&actor, "installation.restored", "").because(format!("epoch {}", installation.epoch));
    Audit::open(Arc::clone(&store), clock.clone()).await?.commit(commit, act).await?;
    store.close().await;
    let Installation { trust_domain, epoch, sans: _, restored_at: _ } = installation;
    Ok(Restored { trust_domain, epoch, until: from.plus(FORGOTTEN_FOR) })
}
