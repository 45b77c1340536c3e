//! Instances that outlive their virtual node: they are told to deny everything, and named until they say that they do.

use hauberk_identity::{InstanceId, UnixMillis};

use super::{Instances, Peer};
use crate::issuance::InstanceRecord;
use crate::registry::{Commit, Store, StoreError, document, keys};

/// How often the record is written again because it has changed meanwhile.
const ATTEMPTS: u32 = 8;

/// How far it has come with an instance whose virtual node is gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Dismissal {
    /// It has said that it denies everything.
    pub(super) is_obeyed: bool,
    is_recorded: bool,
}

impl Instances {
    /// An instance whose virtual node is gone has said that it denies everything. It says so again only while it runs: once it
    /// has ended nobody is left who knows who it was. So this counts only once it is durable; it is written once.
    ///
    /// # Errors
    /// When it cannot be written: then the instance is named until its certificate expires.
    pub async fn dismissed(&self, store: &dyn Store, peer: &Peer, now: UnixMillis) -> Result<(), StoreError> {
        record(store, &peer.instance, now).await?;
        self.change(|state| {
            let instance = state.know(peer);
            instance.dismissal.is_obeyed = true;
            instance.last_seen = Some(now);
        });
        Ok(())
    }

    /// An instance that is on the denylist has said that it denies everything. Whoever says so by a certificate that another
    /// followed says nothing of who holds that one.
    pub fn obeyed(&self, peer: &Peer, now: UnixMillis) {
        self.change(|state| {
            let instance = state.know(peer);
            instance.dismissal.is_obeyed |= instance.certificate.serial == peer.certificate.serial;
            instance.last_seen = Some(now);
        });
    }

    /// Whether it is to be recorded that an instance was sent away because its virtual node is gone: it comes back over and
    /// over, as agents do, and the first time is worth a record.
    pub fn records_dismissal(&self, peer: &Peer) -> bool {
        let mut state = self.lock();
        !std::mem::replace(&mut state.know(peer).dismissal.is_recorded, true)
    }
}

/// Writes it down with what is recorded of the instance. Of one without a record nothing is known after a restart anyway.
async fn record(store: &dyn Store, instance: &InstanceId, now: UnixMillis) -> Result<(), StoreError> {
    let key = format!("{}{instance}", keys::INSTANCES);
    let mut attempt = 1;
    loop {
        let Some(stored) = store.get(&key).await? else { return Ok(()) };
        let mut record: InstanceRecord = document::from_stored(&key, &stored)?;
        if record.dismissed_at.is_some() {
            return Ok(());
        }
        record.dismissed_at = Some(now.0);
        let commit = Commit::new().at(&key, stored.version).put(&key, document::to_bytes(&key, &record)?);
        match store.commit(commit).await {
            Err(StoreError::Conflict { .. }) if attempt < ATTEMPTS => attempt += 1,
            result => return result.map(|_| ()),
        }
    }
}
