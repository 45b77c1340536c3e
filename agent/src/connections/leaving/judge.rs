//! What decides of calls that leave the mesh, at one moment.

use std::sync::Arc;

use hauberk_identity::Serial;
use hauberk_policy::{Caller, EscapedSlashes, Moment, Peer};

use super::super::Connections;
use super::super::passage::Subject;
use super::super::rules::{self, Rules, Ruling};
use super::{Destination, NOT_NAMED};
use crate::mesh::{External, NodeView};
use crate::users::{ByHandle, TokenFields};

/// Everything that decides at one moment.
pub(super) struct Judge<'a> {
    rules: &'a Rules,
    pub(super) view: Result<&'a Arc<NodeView>, &'static str>,
    /// Who we are; none without a certificate.
    pub(super) caller: Option<(Caller, Serial)>,
    pub(super) moment: Moment,
}

impl<'a> Judge<'a> {
    pub(super) fn new(connections: &Connections, rules: &'a Rules) -> Self {
        let (current, time) = (connections.context().identity.current(), connections.context().clock.now());
        let own = current.svid();
        let certificate_since = own.map(|own| own.validity().not_before());
        let caller = own.map(|own| (Caller::Peer(own.id().clone()), own.serial()));
        Self { rules, view: rules.view(), caller, moment: Moment { time, certificate_since } }
    }

    pub(super) fn external(&self, to: &Destination) -> Option<&'a Arc<External>> {
        self.view.ok()?.external_with(&to.host)
    }

    /// Where tokens stand.
    pub(super) fn tokens(&self) -> TokenFields {
        self.view.map(|view| view.token_fields()).unwrap_or_default()
    }

    pub(super) fn decide(
        &self,
        external: Option<&Arc<External>>,
        to: &Destination,
        (subject, user): (&Subject, &ByHandle),
        peer: &Peer,
    ) -> Ruling {
        if let Err(reason) = self.view {
            return Ruling::Refused(reason);
        }
        let Some((caller, _)) = &self.caller else { return Ruling::Refused("no_certificate") };
        let Some(external) = external else { return Ruling::Refused(NOT_NAMED) };
        let (port, moment) = (to.port, self.moment);
        if let Some(reason) = user.refusal(moment.time) {
            return Ruling::Refused(reason);
        }
        let decided = subject.with_path((None, EscapedSlashes::Reject), moment, |attempt, _| {
            rules::decide(&self.rules.memo_of(external, caller, peer), port, attempt, moment, None).0
        });
        decided.map_or_else(Ruling::Refused, Ruling::Policy)
    }
}
