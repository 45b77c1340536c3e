//! What a program is given at one moment, and whether it is answered with that.
//!
//! Clients take the first identity of an answer for the one to act as. So an answer is held back for a while where one
//! of a program's certificates is still on its way, and another identity is never given in the place of its first.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hauberk_identity::{Name, SpiffeId};
use hauberk_tls::jwt::JwtBundle;
use hauberk_tls::{LiveState, SpiffeBundle, TrustBundle};

use super::entry::Entries;
use super::keeper::{Kept, WorkloadSvid};
use super::told::RevocationLists;

/// What programs are told that lack a certificate because of this host's clock.
pub(super) const CLOCK_AHEAD: &str = "this host's clock is ahead of the control plane's by more than the certificate's life, so that what is issued has \
     ended here (the agent's log says by how much): let both keep time by NTP";

/// What a caller is given at one moment.
#[derive(Debug)]
pub(super) struct Given {
    /// Its identities, the default first.
    pub(super) identities: Vec<Identity>,
    /// The certificates that there are for them, each with its hint.
    pub(super) svids: Vec<(Arc<WorkloadSvid>, String)>,
    /// The first of them is the default's.
    pub(super) has_default: bool,
    /// Others are on their way.
    pub(super) is_partial: bool,
    /// One that is not there was issued, and has ended by this host's clock.
    pub(super) is_outlived: bool,
    /// What to verify others of our own trust domain by.
    pub(super) bundle: Arc<TrustBundle>,
    /// And those of other domains, as far as its enrollments name them.
    pub(super) federated: Vec<Arc<SpiffeBundle>>,
    /// Which certificates of our own are good no longer.
    pub(super) revocation_lists: RevocationLists,
    /// What to verify tokens of our own trust domain by.
    pub(super) jwt_keys: Option<Arc<JwtBundle>>,
}

/// One identity of a caller's.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) enrollment: Name,
    pub(super) id: SpiffeId,
    /// Unique among the caller's, or empty.
    pub(super) hint: String,
    /// The longest life of its tokens; `None`: that is not known.
    pub(super) token_life: Option<Duration>,
}

/// Whether a caller is answered with what it is given.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sufficiency {
    /// All of it is there.
    Whole,
    /// It would do, and more is on its way: whoever was given nothing yet waits for that a while.
    InPart,
    /// This is waited for, and the caller told so where it does not come.
    Lacks(&'static str),
}

/// What makes an answer.
pub(super) type Suffices = fn(&Given) -> Sufficiency;

impl Given {
    /// What a program is given whose enrollments have these `names`, which `entries` are the present ones.
    pub(super) fn of(
        names: &[Name],
        (entries, kept): (&Entries, &Kept),
        live: &LiveState,
        revocation_lists: RevocationLists,
        jwt_keys: Option<Arc<JwtBundle>>,
    ) -> Self {
        let identities = with_hints(names, entries);
        let svid_of = |identity: &Identity| kept.svids.get(&identity.enrollment).map(Arc::clone);
        let svids =
            identities.iter().filter_map(|identity| Some((svid_of(identity)?, identity.hint.clone())));
        let svids: Vec<_> = svids.collect();
        // What the control plane refuses to issue is waited for by nobody.
        let expected = || {
            identities.iter().filter(|one| svid_of(one).is_some() || !kept.refused.contains(&one.enrollment))
        };
        let default = expected().next().map(|identity| &identity.id);
        Self {
            has_default: default.is_some() && default == svids.first().map(|(first, _)| first.svid.id()),
            is_partial: expected().any(|identity| svid_of(identity).is_none()),
            is_outlived: expected()
                .any(|one| svid_of(one).is_none() && kept.outlived.contains(&one.enrollment)),
            bundle: Arc::clone(live.bundle()),
            federated: federated(names, entries, live),
            identities,
            svids,
            revocation_lists,
            jwt_keys,
        }
    }

    /// Of its own trust domain first, then of the others that have roots: clients take an empty set for a mistake, or
    /// for no check at all.
    pub(super) fn x509_bundles(&self) -> impl Iterator<Item = &TrustBundle> {
        let others = self.federated.iter().map(|bundle| bundle.x509());
        [&*self.bundle].into_iter().chain(others.filter(|bundle| !bundle.roots().is_empty()))
    }

    /// Whom a client acts as that is given this and chooses nobody.
    pub(super) fn default_id(&self) -> Option<&SpiffeId> {
        self.svids.first().filter(|_| self.has_default).map(|(first, _)| first.svid.id())
    }
}

/// There are certificates, the default's among them.
pub(super) fn has_certificate(given: &Given) -> Sufficiency {
    if given.is_outlived && !given.has_default {
        return Sufficiency::Lacks(CLOCK_AHEAD);
    }
    if given.svids.is_empty() {
        return Sufficiency::Lacks("the control plane has not issued the certificate yet");
    }
    if !given.has_default {
        return Sufficiency::Lacks(
            "the control plane has not issued the certificate of this program's first identity yet, and no other is given in its place",
        );
    }
    if given.is_partial { Sufficiency::InPart } else { Sufficiency::Whole }
}

/// It is somebody.
pub(super) fn has_identity(_: &Given) -> Sufficiency {
    Sufficiency::Whole
}

/// Which enrollments' hints were left out of answers, as far as that was told.
#[derive(Debug, Default)]
pub(super) struct HintsLeftOut(Mutex<BTreeSet<Name>>);

impl HintsLeftOut {
    /// Tells of each once: a program has two enrollments with one hint, which only the first of them is given with.
    pub(super) fn tell(&self, identities: &[Identity], entries: &Entries) {
        for Identity { enrollment, hint, .. } in identities {
            let Some(entry) = entries.get(enrollment).filter(|entry| *hint != entry.hint) else { continue };
            let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if told.insert(enrollment.clone()) {
                tracing::warn!(event = "workload_hint_left_out", %enrollment, hint = entry.hint,
                    "another enrollment of the same program has this hint: give each its own");
            }
        }
    }
}

/// Hints are unique in an answer: the first of a kind stays (SPIFFE Workload API §5.2.1).
fn with_hints(names: &[Name], entries: &Entries) -> Vec<Identity> {
    let mut taken = HashSet::new();
    let identities = names.iter().filter_map(|name| {
        let entry = entries.get(name)?;
        let hint = if taken.insert(&entry.hint) { entry.hint.clone() } else { String::new() };
        let (id, token_life) = (entry.certificate.id.clone(), entry.token_life);
        Some(Identity { enrollment: name.clone(), id, hint, token_life })
    });
    identities.collect()
}

/// The bundles of the trust domains that the entries of a caller name, each once.
fn federated(names: &[Name], entries: &Entries, live: &LiveState) -> Vec<Arc<SpiffeBundle>> {
    let named: BTreeSet<_> =
        names.iter().filter_map(|name| entries.get(name)).flat_map(|entry| &entry.federates_with).collect();
    named.into_iter().filter_map(|trust_domain| live.federated().get(trust_domain).cloned()).collect()
}

#[cfg(test)]
mod tests {
    use hauberk_proto::agent::v1 as pb;

    use super::super::entry;
    use super::super::testing::worker;
    use super::*;

    #[test]
    fn a_hint_that_two_have_is_the_firsts_and_that_is_told_once() {
        let entries = ["a", "b", "c"].map(|name| pb::WorkloadEntry {
            enrollment: name.to_owned(),
            hint: if name == "c" { String::new() } else { "internal".to_owned() },
            ..worker()
        });
        let entries = entry::read(pb::WorkloadEntries { entries: entries.into() });
        let names: Vec<Name> = entries.keys().cloned().collect();
        let identities = with_hints(&names, &entries);
        let hints: Vec<&str> = identities.iter().map(|one| one.hint.as_str()).collect();
        assert_eq!(hints, ["internal", "", ""]);
        let left_out = HintsLeftOut::default();
        for _ in 0..2 {
            left_out.tell(&identities, &entries);
            let told = left_out.0.lock().unwrap();
            assert_eq!(told.iter().map(Name::as_str).collect::<Vec<_>>(), ["b"]);
        }
    }
}
