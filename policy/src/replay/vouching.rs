//! What bears on a call before policies are asked: who vouches for callers and users, and what agents reach and gather. Of a
//! recorded call it is not known by which key its caller or its user was found to be who they are, nor whether it had a user at all,
//! nor which host it went to: where a draft changes that, it may not even come to policies.

use std::collections::BTreeSet;

use hauberk_identity::{Name, TrustDomain};

use super::{Pair, RecordedFlow};
use crate::compile::Engine;
use crate::decision::Caller;
use crate::fields::is_spelling_of;
use crate::vocabulary::Action;

/// What a draft changes of who vouches for callers and users.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vouching {
    /// Of users.
    pub issuers: Issuers,
    /// The trust domains whose members are known by another bundle, or by none any longer.
    pub other_bundles: BTreeSet<TrustDomain>,
    /// Something outside is reached no longer that was: a host, an address, or by this protocol.
    pub reaches_less: bool,
    /// The header fields that hold users' tokens in the draft alone, in lower case: policies are told of them no longer.
    pub token_fields: BTreeSet<String>,
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

impl Pair<'_> {
    /// Whether such a call may be refused, or be for somebody else, before policies are asked.
    pub(super) fn are_vouched_for_otherwise(&self, flow: &RecordedFlow) -> bool {
        let Vouching { issuers, other_bundles, reaches_less, token_fields } = self.vouching;
        if *reaches_less || flow.action != Action::Connect && self.read_any(token_fields) {
            return true;
        }
        let peer = match &flow.caller {
            Caller::Peer(id) => Some(id),
            Caller::Anonymous => None,
        };
        if peer.is_some_and(|id| other_bundles.iter().any(|domain| id.is_member_of(domain))) {
            return true;
        }
        if flow.action == Action::Connect || self.is_one_world && *issuers == Issuers::Same {
            return false;
        }
        let (now, draft) = (taken(self.now, flow.port), taken(self.draft, flow.port));
        // Whoever calls passes users on, also to ports that take no tokens of their own.
        let is_passed_on = peer.is_some() && *issuers == Issuers::Other;
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

/// Whose tokens are taken at a port; none where nobody looks for any.
fn taken(engine: &Engine, port: u16) -> Option<&[Name]> {
    let port = engine.scope().ports.iter().find(|own| own.number == port)?;
    port.users.as_ref().map(|users| &*users.issuers)
}
