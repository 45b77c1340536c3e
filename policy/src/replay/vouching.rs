//! What bears on a call before policies are asked: whether it comes, what the listener takes, who vouches for callers
//! and users, and what agents reach and gather. Of a recorded call it is not known by which key its caller or its user
//! was found to be who they are, nor whether it had a user at all, nor which host it went to: where a draft changes
//! that, it may not even come to policies.

use std::collections::{BTreeMap, BTreeSet};

use hauberk_identity::{Name, TrustDomain};

use super::{Pair, RecordedFlow, Undecidable};
use crate::compile::Engine;
use crate::decision::{Caller, Decision, Reason};
use crate::fields::is_spelling_of;
use crate::scope::{ObsText, PortScope, Protocol};
use crate::vocabulary::Action;

/// What a draft changes of what comes, and of who vouches for callers and users.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vouching {
    /// Of users.
    pub issuers: Issuers,
    /// The trust domains whose members are not known by the bundle that they are known by now.
    pub other_bundles: BTreeMap<TrustDomain, Bundle>,
    /// Something outside is reached no longer that was: a host, an address, or by this protocol.
    pub reaches_less: bool,
    /// The header fields that hold users' tokens in the draft alone, in lower case: policies are told of them no
    /// longer.
    pub token_fields: BTreeSet<String>,
    /// The ports at which a service is served no longer.
    pub not_called: BTreeSet<u16>,
}

/// What becomes of the bundle of a trust domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bundle {
    /// It is another one, or still to be fetched.
    Other,
    /// Its trust domain is followed no longer: every agent refuses its members before policies are asked.
    Gone,
}

/// What becomes of the issuers of users' tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Issuers {
    /// They stay.
    #[default]
    Same,
    /// There are more, and those that there were stay.
    More,
    /// One goes, or is another.
    Other,
}

/// What is known of a call before policies are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// It may not come to policies as it did: where it is let through by them, that proves nothing.
    Perhaps(Undecidable),
    /// It surely does not come to the draft's policies.
    Refused,
}

impl Pair<'_> {
    /// Why such a call may not come to policies as it did, if it may not.
    pub(super) fn doubts(&self, flow: &RecordedFlow) -> Option<Doubt> {
        // What is sure comes before what may be.
        if self.is_refused(&flow.caller) {
            return Some(Doubt::Refused);
        }
        let perhaps = if self.vouching.not_called.contains(&flow.port) {
            Undecidable::NotCalled
        } else if !self.is_one_world && self.listens_otherwise(flow.port) {
            Undecidable::ListenerChanges
        } else if self.bundle_of(&flow.caller).is_some() {
            Undecidable::BundleChanges
        } else if self.are_vouched_for_otherwise(flow) {
            Undecidable::FactsNotRecorded
        } else {
            return None;
        };
        Some(Doubt::Perhaps(perhaps))
    }

    /// Whether agents of the draft refuse somebody, whatever is asked: nobody vouches for its trust domain any longer.
    pub(super) fn is_refused(&self, caller: &Caller) -> bool {
        self.bundle_of(caller) == Some(Bundle::Gone)
    }

    /// What becomes of the bundle that somebody is known by, unless it stays.
    fn bundle_of(&self, caller: &Caller) -> Option<Bundle> {
        let Caller::Peer(id) = caller else { return None };
        let mut others = self.vouching.other_bundles.iter();
        others.find(|(domain, _)| id.is_member_of(domain)).map(|(_, bundle)| *bundle)
    }

    /// Whether a listener may refuse what it took. Of no call it is recorded whether a field that no policy reads held
    /// bytes beyond ASCII, nor in which version of HTTP it came.
    fn listens_otherwise(&self, number: u16) -> bool {
        let (Some(now), Some(draft)) = (port(self.now, number), port(self.draft, number)) else {
            // Whatever is asked of a port that is not there is denied.
            return false;
        };
        let speaks_otherwise = match (now.protocol, draft.protocol) {
            // HTTP/2 is taken there too.
            (Protocol::Http2, Protocol::Http) => false,
            (now, draft) => now != draft,
        };
        speaks_otherwise
            || draft.protocol != Protocol::Tcp
                && (now.obs_text, draft.obs_text) == (ObsText::Forward, ObsText::Reject)
    }

    /// Whether such a call may be refused, or be for somebody else, before policies are asked.
    fn are_vouched_for_otherwise(&self, flow: &RecordedFlow) -> bool {
        let Vouching { issuers, other_bundles: _, reaches_less, token_fields, not_called: _ } = self.vouching;
        if *reaches_less || flow.action != Action::Connect && self.read_any(token_fields) {
            return true;
        }
        if flow.action == Action::Connect || self.is_one_world && *issuers == Issuers::Same {
            return false;
        }
        let (now, draft) = (taken(self.now, flow.port), taken(self.draft, flow.port));
        // Whoever calls passes users on, also to ports that take no tokens of their own.
        let is_passed_on = matches!(flow.caller, Caller::Peer(_)) && *issuers == Issuers::Other;
        now != draft || now.is_some() && *issuers != Issuers::Same || is_passed_on
    }
}

impl Pair<'_> {
    /// Whether policies of either read one of these header fields, however it is spelled.
    fn read_any(&self, fields: &BTreeSet<String>) -> bool {
        let statements = [self.now, self.draft].into_iter().flat_map(|engine| &engine.0.policies);
        let mut named = statements.flat_map(|compiled| &compiled.headers);
        !fields.is_empty() && named.any(|name| fields.iter().any(|field| is_spelling_of(field, name)))
    }
}

/// What agents do with members of a trust domain that is followed no longer.
pub(super) fn not_federated() -> Decision {
    Decision::denied(Reason::TrustDomainNotFederated)
}

/// Whose tokens are taken at a port; none where nobody looks for any.
fn taken(engine: &Engine, number: u16) -> Option<&[Name]> {
    port(engine, number)?.users.as_ref().map(|users| &*users.issuers)
}

fn port(engine: &Engine, number: u16) -> Option<&PortScope> {
    engine.scope().ports.iter().find(|own| own.number == number)
}
