//! What an agent is told besides views, as it stands now.

use hauberk_proto::agent::v1::{self as agent, to_agent::Message};

use super::Session;

impl Session<'_> {
    pub(super) fn tell_trust(&mut self) {
        let trust = agent::Trust::clone(&self.trust.borrow_and_update());
        self.urgent.retain(|message| !matches!(message, Message::Trust(_)));
        // Nothing that follows from it may come before it.
        self.urgent.push_front(Message::Trust(trust));
    }

    pub(super) fn tell_observed(&mut self) {
        let all = *self.observed.borrow_and_update();
        let limit_per_second = if all { self.push.decisions_per_second() } else { 0 };
        self.urgent.retain(|message| !matches!(message, Message::Observe(_)));
        self.urgent.push_back(Message::Observe(agent::Observe {
            all,
            limit_per_second,
            flows: self.reports_flows,
        }));
    }
}
