//! What an agent is told besides views, as it stands now.

use hauberk_proto::agent::v1::{self as agent, to_agent::Message};

use super::Session;
use crate::revocation::Denylist;

impl Session<'_> {
    pub(super) fn tell_trust(&mut self) {
        let trust = agent::Trust::clone(&self.trust.borrow_and_update());
        self.urgent.retain(|message| !matches!(message, Message::Trust(_)));
        // Nothing that follows from it may come before it.
        self.urgent.push_front(Message::Trust(trust));
        self.for_workload_api.keys_first(&mut self.urgent);
    }

    pub(super) fn tell_observed(&mut self) {
        let all = *self.observed.borrow_and_update();
        let limit_per_second = if all { self.push.decisions_per_second() } else { 0 };
        self.urgent.retain(|message| !matches!(message, Message::Observe(_)));
        self.urgent.push_back(Message::Observe(agent::Observe {
            all,
            limit_per_second,
            flows: self.reports_flows,
            workload_denials: true,
            unknown_keys: true,
        }));
    }

    pub(super) fn is_denylist_due(&self, list: &Denylist) -> bool {
        let (mark, key_id) = &self.told_denylist;
        let is_told = list.mark == *mark && key_id.as_ref().is_none_or(|key| *key == list.signed.key_id);
        !self.is_ahead && !is_told && (list.mark.epoch, list.mark.revision) != (0, 0)
    }

    pub(super) fn is_denylist_believed(&self, list: &Denylist) -> bool {
        self.view_keys.contains(&list.signed.key_id)
    }

    pub(super) fn tell_denylist(&mut self, denylist: &Denylist) -> Message {
        self.told_denylist = (denylist.mark, Some(denylist.signed.key_id.clone()));
        self.presence.connected.pushed_denylist(denylist.mark);
        Message::Denylist(denylist.signed.clone())
    }
}
