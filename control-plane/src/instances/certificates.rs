//! Which instances hold a certificate, as the registry tells it.

use std::collections::HashMap;
use std::time::Duration;

use hauberk_identity::{InstanceId, Serial, SpiffeId, UnixMillis};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::{Instance, Instances, IssuedTo, Peer};
use crate::clock::Clock;
use crate::issuance::{Holder, InstanceRecord, IssuedRecord};
use crate::registry::{Store, StoreError, Stored, Version, WatchEnd, document, keys};

/// How often those whose certificates have long expired are forgotten.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

/// Before the registry is read again after a failure.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What the registry tells of an instance.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Whom its certificates name.
    pub spiffe_id: SpiffeId,
    /// Which.
    pub instance: InstanceId,
    /// Which node of that name it joined, where that is recorded.
    pub node_uid: Option<String>,
    /// The id of the join token that it came by, likewise.
    pub token: Option<String>,
    /// A certificate of its.
    pub certificate: IssuedTo,
    /// Whether it has said that it denies everything since its node is gone.
    pub is_dismissed: bool,
}

impl Instances {
    /// Takes note of what is recorded of an instance, with its latest certificate.
    pub fn recorded(&self, recorded: Recorded) {
        let Recorded { spiffe_id, instance, node_uid, token, certificate, is_dismissed } = recorded;
        let Some(peer) = Peer::new(spiffe_id, instance, node_uid, certificate, None) else { return };
        self.change(|state| {
            let known = state.know(&peer);
            known.hold_latest(certificate);
            if token.is_some() {
                known.token = token;
            }
            // A stream that stands was begun later.
            known.dismissal.is_obeyed |= is_dismissed && known.session.is_none();
        });
    }

    /// How many live instances have joined by each token.
    pub fn live_by_token(&self, now: UnixMillis) -> HashMap<String, usize> {
        let state = self.lock();
        let mut joined = HashMap::new();
        for instance in state.by_id.values().filter(|instance| state.is_live(instance, now)) {
            if let Some(token) = &instance.token {
                *joined.entry(token.clone()).or_default() += 1;
            }
        }
        joined
    }

    /// Reads all instances that the registry knows, and what they have acknowledged of trust. Gives the point to follow it
    /// from.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load(&self, store: &dyn Store) -> Result<Version, StoreError> {
        let mut after = None;
        let mut from = None;
        loop {
            let page = store.list(keys::INSTANCES, after.as_deref(), 1_000).await?;
            // What changes between two pages is seen again when following from the first.
            from.get_or_insert(page.version);
            for (key, stored) in &page.entries {
                self.take(key, stored);
            }
            after = page.entries.last().map(|(key, _)| key.clone());
            if !page.more {
                self.load_others(store).await?;
                self.load_trust(store).await?;
                return Ok(from.unwrap_or_default());
            }
        }
    }

    /// Reads what these instances were issued before the certificates that are recorded with them.
    async fn load_others(&self, store: &dyn Store) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = store.list(keys::ISSUED, after.as_deref(), 1_000).await?;
            self.change(|state| {
                for (id, certificate) in page.entries.iter().filter_map(|(key, stored)| issued(key, stored)) {
                    if let Some(known) = state.by_id.get_mut(&id) {
                        known.hold(certificate);
                    }
                }
            });
            after = page.entries.last().map(|(key, _)| key.clone());
            if !page.more {
                return Ok(());
            }
            // The store answers at once, so nothing else lets others go on.
            tokio::task::yield_now().await;
        }
    }

    /// Follows the registry from where [`Instances::load`] left it, and forgets who is long gone, until `stop`.
    pub async fn follow(
        &self,
        store: &dyn Store,
        mut from: Version,
        clock: &Clock,
        stop: &CancellationToken,
    ) {
        let mut watch = store.watch(keys::INSTANCES, from);
        let mut prune = tokio::time::interval(PRUNE_EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = prune.tick() => self.prune(clock.surely_past()),
                change = watch.next() => match change {
                    Ok(change) => {
                        for (key, stored) in change.under(keys::INSTANCES) {
                            if let Some(stored) = stored {
                                self.take(key, stored);
                            }
                        }
                    }
                    Err(WatchEnd::Closed) => return,
                    Err(WatchEnd::Compacted) => {
                        match self.load(store).await {
                            Ok(version) => from = version,
                            Err(error) => {
                                error!(event = "instances_unreadable", %error);
                                tokio::time::sleep(READ_AGAIN_AFTER).await;
                            }
                        }
                        watch = store.watch(keys::INSTANCES, from);
                    }
                },
            }
        }
    }

    fn take(&self, key: &str, stored: &Stored) {
        match parse(key, stored) {
            Some(recorded) => self.recorded(recorded),
            None => error!(event = "instance_record_unreadable", key, "an instance is left out"),
        }
    }
}

impl Instance {
    /// Takes note of a certificate of its, which may have been issued before the one that is known to end last.
    pub(super) fn hold(&mut self, certificate: IssuedTo) {
        self.take(certificate, self.certificate.not_after < certificate.not_after);
    }

    /// The same of the latest one.
    pub(super) fn hold_latest(&mut self, certificate: IssuedTo) {
        self.take(certificate, self.certificate.not_after <= certificate.not_after);
    }

    fn take(&mut self, certificate: IssuedTo, is_last: bool) {
        if certificate.serial == self.certificate.serial {
            if is_last {
                self.certificate = certificate;
            }
            return;
        }
        let other = if is_last { std::mem::replace(&mut self.certificate, certificate) } else { certificate };
        self.others.retain(|known| ![other.serial, self.certificate.serial].contains(&known.serial));
        self.others.push(other);
    }
}

/// An instance's own certificate; what else was issued, and what cannot be read, is none.
fn issued(key: &str, stored: &Stored) -> Option<(InstanceId, IssuedTo)> {
    let serial: Serial = key.strip_prefix(keys::ISSUED)?.parse().ok()?;
    let record: IssuedRecord = document::from_stored(key, stored).ok()?;
    let Holder::Instance(id) = record.holder else { return None };
    let (issued_at, not_after) = (Some(UnixMillis(record.issued_at)), UnixMillis(record.not_after));
    Some((InstanceId::parse(&id).ok()?, IssuedTo { serial, issued_at, not_after }))
}

fn parse(key: &str, stored: &Stored) -> Option<Recorded> {
    let instance = InstanceId::parse(key.strip_prefix(keys::INSTANCES)?).ok()?;
    let record: InstanceRecord = document::from_stored(key, stored).ok()?;
    let serial: Serial = record.serial.parse().ok()?;
    let certificate = IssuedTo {
        serial,
        issued_at: Some(UnixMillis(record.issued_at)),
        not_after: UnixMillis(record.not_after),
    };
    Some(Recorded {
        spiffe_id: SpiffeId::parse(&record.spiffe_id).ok()?,
        instance,
        node_uid: record.node_uid,
        token: record.token,
        certificate,
        is_dismissed: record.dismissed_at.is_some(),
    })
}
