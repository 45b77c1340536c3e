//! How far a change of authorities has come with those who live by it.

use std::collections::HashSet;

use hauberk_identity::{InstanceId, SpiffeId, UnixMillis};

use super::{Authorities, LifecycleError};
use crate::authority::book::{Book, Entry, Kind};
use crate::instances::{Trusting, fix_of_absence};
use crate::registry::StoreError;

/// A live instance and whose certificate it holds.
pub(super) struct Holder {
    pub(super) instance: InstanceId,
    pub(super) spiffe_id: SpiffeId,
    issuer: String,
    root: String,
}

impl Holder {
    /// Whether the certificate was signed by this authority, or by one under it.
    pub(super) fn is_by(&self, entry: &Entry) -> bool {
        match entry.kind {
            Kind::Issuing => self.issuer == entry.serial,
            Kind::Root => self.root == entry.serial,
        }
    }
}

/// How far it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Live instances.
    pub concerned: usize,
    /// Those for which something is still to be done, in the order of their nodes.
    pub unsettled: Vec<Unsettled>,
    /// An authority that becomes active once all trust it.
    pub waiting: Option<String>,
}

impl Progress {
    /// Whether nothing is left to do.
    pub fn is_done(&self) -> bool {
        self.unsettled.is_empty() && self.waiting.is_none()
    }
}

/// A live instance that a change of authorities has not reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsettled {
    /// Which.
    pub instance: InstanceId,
    /// What it proves to be.
    pub spiffe_id: SpiffeId,
    /// What it lacks.
    pub reason: &'static str,
    /// What can be done.
    pub fix: String,
    /// Until then it may act on what it holds.
    pub not_after: UnixMillis,
}

impl Authorities {
    /// Who does not trust yet what is to be trusted, or holds a certificate by an authority that signs no longer.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn progress(&self) -> Result<Progress, LifecycleError> {
        let book = Book::read(&*self.parts.store).await?;
        let holders = self.holders(&book).await?;
        let live = self.parts.instances.trusting(self.parts.clock.now());
        let unsettled = live.iter().filter_map(|live| {
            let holder = holders.iter().find(|holder| holder.instance == live.instance);
            let holds_former =
                holder.is_some_and(|holder| book.to_renew().any(|former| holder.is_by(former)));
            unsettled(live, book.trust.version, holds_former)
        });
        let waiting = [Kind::Root, Kind::Issuing].into_iter().find_map(|kind| {
            book.prepared(kind).filter(|waiting| waiting.record.goes_on).map(|waiting| waiting.serial.clone())
        });
        let keys = self.parts.signing_keys.current();
        let jwt_key = keys.prepared(self.parts.clock.now()).filter(|key| key.goes_on);
        let waiting = waiting.or(jwt_key.map(|key| key.key_id));
        Ok(Progress { concerned: live.len(), unsettled: unsettled.collect(), waiting })
    }

    /// Live instances that have not acknowledged this version of trust.
    pub(super) fn not_trusting(&self, version: u64) -> Vec<Trusting> {
        let live = self.parts.instances.trusting(self.parts.clock.now());
        live.into_iter().filter(|live| live.version < version).collect()
    }

    /// Live instances that have not said that nothing rests any longer on what an authority has signed, and may hold
    /// such connections. One that is away does not, where all that it and its workloads hold is by later authorities.
    pub(super) async fn resting_on(&self, book: &Book, entry: &Entry) -> Result<Vec<Trusting>, StoreError> {
        let mut late = self.not_trusting(entry.record.needs_version);
        let away: HashSet<_> =
            late.iter().filter(|late| !late.is_connected).map(|late| late.instance).collect();
        if away.is_empty() {
            return Ok(late);
        }
        let issuers = self.parts.ledger.issuers(&away, self.parts.clock.now()).await?;
        let is_later = |issuer: &Option<String>| {
            let issuer = issuer.as_ref().and_then(|serial| book.find(serial));
            issuer.is_some_and(|issuer| {
                issuer.record.root != entry.serial && issuer.record.created_at > entry.record.created_at
            })
        };
        late.retain(|late| {
            let holds = issuers.get(&late.instance);
            late.is_connected || !holds.is_some_and(|issuers| issuers.iter().all(is_later))
        });
        Ok(late)
    }

    /// Live instances and whose certificates they hold.
    pub(super) async fn holders(&self, book: &Book) -> Result<Vec<Holder>, StoreError> {
        // A release that did not write down who signed had one authority.
        let first = book.of(Kind::Issuing).next().map(|entry| entry.serial.clone()).unwrap_or_default();
        let mut holders = Vec::new();
        for live in self.parts.instances.trusting(self.parts.clock.now()) {
            let record = self.parts.ledger.certificate(live.serial).await?;
            let issuer = record.and_then(|record| record.issuer).unwrap_or_else(|| first.clone());
            let root = book.find(&issuer).map(|entry| entry.record.root.clone()).unwrap_or_default();
            holders.push(Holder { instance: live.instance, spiffe_id: live.spiffe_id, issuer, root });
        }
        Ok(holders)
    }
}

fn unsettled(live: &Trusting, version: u64, holds_former: bool) -> Option<Unsettled> {
    let not_after = live.not_after;
    let (reason, fix) = match (live.version < version, holds_former, live.is_connected) {
        (false, false, _) => return None,
        (_, _, false) => ("not connected", fix_of_absence(live.instance, not_after)),
        (true, _, true) => (
            "has not acknowledged the trust bundle",
            "look again in a moment; then see its log: an agent of an older release does not acknowledge"
                .to_owned(),
        ),
        (false, true, true) => (
            "holds a certificate of an authority that signs no longer",
            format!(
                "it renews within seconds; its log says why it has not. The certificate expires at {not_after}"
            ),
        ),
    };
    let Trusting { instance, spiffe_id, .. } = live;
    Some(Unsettled { instance: *instance, spiffe_id: spiffe_id.clone(), reason, fix, not_after })
}
