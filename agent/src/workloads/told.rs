//! What the control plane tells that concerns workloads: `sync/` writes, the Workload API reads.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use hauberk_identity::TrustDomain;
use hauberk_proto::agent::v1 as pb;
use hauberk_tls::crl_to_pem;
use hauberk_tls::jwt::{JwtBundle, JwtBundleError};
use tokio::sync::watch;

use super::denials::Denials;
use super::entry::{self, Entries};
use crate::state::State;

/// The workloads that are vouched for; `None` until the control plane has told.
pub type Told = Option<Arc<Entries>>;

/// Everything that was told. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Board {
    is_served: bool,
    entries: watch::Sender<Told>,
    jwt_keys: watch::Sender<Option<Arc<JwtBundle>>>,
    /// Those of them that may be in other hands.
    tainted_jwt_keys: watch::Sender<BTreeSet<String>>,
    revocation_lists: watch::Sender<RevocationLists>,
    denials: Denials,
}

/// Which certificates of our own trust domain are good no longer.
#[derive(Debug, Clone, Default)]
pub(super) struct RevocationLists {
    /// In DER, one of each authority; none until they were told.
    pub(super) ders: Arc<[Bytes]>,
    /// All of them in PEM, for programs that refuse each certificate that no list covers; `None` where that would be
    /// good ones.
    pub(super) complete: Option<Bytes>,
    /// The same for programs that hold a peer's own certificate against lists, and none above it.
    pub(super) of_leaves: Option<Bytes>,
    /// Counts how often they were told.
    pub(super) number: u64,
}

impl Board {
    /// Nothing yet. `is_served`: there is a Workload API that needs it.
    pub fn new(is_served: bool) -> Self {
        Self {
            is_served,
            entries: watch::Sender::new(None),
            jwt_keys: watch::Sender::new(None),
            tainted_jwt_keys: watch::Sender::default(),
            revocation_lists: watch::Sender::default(),
            denials: Denials::default(),
        }
    }

    /// Puts in force what was kept of the keys that verify tokens, so that tokens are verified while the control plane
    /// is away.
    pub(crate) fn reload(&self, state: &State, trust_domain: &TrustDomain) {
        let kept = match state.jwt_keys() {
            Ok(None) => return,
            Ok(Some(kept)) => self.take_jwt_keys(&kept, trust_domain).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = kept {
            tracing::error!(
                event = "state_damaged",
                error,
                "no token is verified until the control plane tells the keys"
            );
        }
    }

    /// Whether there is a Workload API that needs all this.
    pub(crate) fn is_served(&self) -> bool {
        self.is_served
    }

    /// Takes over who is vouched for.
    pub(crate) fn take_entries(&self, message: pb::WorkloadEntries) {
        self.entries.send_replace(Some(Arc::new(entry::read(message))));
    }

    /// Nobody is vouched for any longer.
    pub(crate) fn vouch_for_nobody(&self) {
        self.entries.send_replace(Some(Arc::default()));
    }

    /// Takes over the keys that verify tokens.
    ///
    /// # Errors
    /// They are no key set: the former stay.
    pub(crate) fn take_jwt_keys(
        &self,
        message: &pb::JwtKeys,
        trust_domain: &TrustDomain,
    ) -> Result<(), JwtBundleError> {
        let bundle = JwtBundle::from_jwks(trust_domain.clone(), message.jwks.as_bytes())?;
        self.tainted_jwt_keys.send_replace(message.tainted_key_ids.iter().cloned().collect());
        self.jwt_keys.send_replace(Some(Arc::new(bundle)));
        Ok(())
    }

    /// Whether tokens that a key has signed verify, as far as that is known.
    pub(super) fn verifies(&self, key_id: &str) -> bool {
        self.jwt_keys.borrow().as_ref().is_none_or(|keys| keys.key(key_id).is_some())
    }

    /// Whether tokens that a key has signed are to be replaced.
    pub(super) fn is_tainted(&self, key_id: &str) -> bool {
        self.tainted_jwt_keys.borrow().contains(key_id)
    }

    /// Takes over the revocation lists, which programs verify themselves.
    pub(crate) fn take_revocation_lists(&self, message: pb::RevocationList) {
        let pb::RevocationList { der, others, is_complete, covers_leaves } = message;
        // A control plane of an earlier build tells the first alone.
        let covers_leaves = covers_leaves || is_complete;
        let ders: Vec<_> = [der].into_iter().chain(others).filter(|der| !der.is_empty()).collect();
        self.revocation_lists.send_if_modified(|lists| {
            // Told again at each new stream.
            let cover = (lists.complete.is_some(), lists.of_leaves.is_some());
            let is_new = lists.ders[..] != ders[..] || cover != (is_complete, covers_leaves);
            if is_new {
                let pem = || ders.iter().map(|der| crl_to_pem(der)).collect::<String>();
                let of_leaves = covers_leaves.then(pem).map(Bytes::from);
                let complete = of_leaves.clone().filter(|_| is_complete);
                *lists = RevocationLists { ders: ders.into(), complete, of_leaves, number: lists.number + 1 };
            }
            is_new
        });
    }

    /// Programs that got no identity, which the control plane is to be told of next.
    pub(crate) fn next_denials(&self) -> Vec<pb::WorkloadDenied> {
        self.denials.next()
    }

    /// Where such programs are noted.
    pub(super) fn denials(&self) -> Denials {
        self.denials.clone()
    }

    /// Who is vouched for, now and at each change.
    pub(crate) fn entries(&self) -> watch::Receiver<Told> {
        self.entries.subscribe()
    }

    /// The keys that verify tokens; `None` until they were told.
    pub(super) fn jwt_keys(&self) -> watch::Receiver<Option<Arc<JwtBundle>>> {
        self.jwt_keys.subscribe()
    }

    /// The revocation lists, now and at each change.
    pub(super) fn revocation_lists(&self) -> watch::Receiver<RevocationLists> {
        self.revocation_lists.subscribe()
    }
}
