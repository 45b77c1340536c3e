//! What an agent says on its stream, and what becomes of it.

use std::collections::BTreeMap;
use std::time::Duration;

use hauberk_identity::Name;
use hauberk_proto::agent::v1::{self as agent, from_agent, to_agent::Message};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use super::{Session, denials};
use crate::instances::Refusal;
use crate::push::close::Close;
use crate::push::holding::MAX_SUBSCRIPTIONS;
use crate::push::incoming::{ProtocolError, shown};
use crate::push::registration::Registration;
use crate::resources::{Kind, ResourceKey};
use crate::revocation::Mark;

/// The most decisions of one message; agents send 256.
const MAX_DECISIONS: usize = 256;

/// The most flows of one message; agents send 64.
const MAX_FLOWS: usize = 256;

/// The longest name, in bytes, that is told to be none of a service.
const MAX_ECHOED: usize = 255;

/// How soon an agent is heard again of one issuer's unknown keys; agents tell of each every 30 seconds at most.
const UNKNOWN_KEY_EVERY: Duration = Duration::from_secs(15);

/// Of how many issuers it is heard within that time.
const MAX_UNKNOWN_KEYS: usize = 64;

/// The issuers with unknown keys of which an agent has told just now.
#[derive(Debug, Default)]
pub(super) struct RecentUnknownKeys(BTreeMap<Name, Instant>);

impl RecentUnknownKeys {
    /// Whether an agent is heard that tells of this one.
    fn hears(&mut self, issuer: &Name) -> bool {
        let now = Instant::now();
        self.0.retain(|_, at| now.duration_since(*at) < UNKNOWN_KEY_EVERY);
        let is_heard = self.0.len() < MAX_UNKNOWN_KEYS && !self.0.contains_key(issuer);
        if is_heard {
            self.0.insert(issuer.clone(), now);
        }
        is_heard
    }
}

impl Session<'_> {
    pub(super) fn hear(&mut self, message: from_agent::Message) -> Result<(), Close> {
        self.presence.connected.seen(self.push.clock.now());
        match message {
            from_agent::Message::Hello(_) => return Err(ProtocolError::SecondHello.into()),
            from_agent::Message::Acknowledge(message) => self.hear_acknowledge(&message),
            from_agent::Message::Refuse(message) => self.hear_refuse(&message),
            from_agent::Message::Register(message) => {
                self.registering = Some((message, Instant::now()));
                self.register();
            }
            from_agent::Message::Subscribe(message) => self.hear_subscribe(message)?,
            from_agent::Message::Decisions(message) => self.hear_decisions(message)?,
            from_agent::Message::Flows(message) => self.hear_flows(message)?,
            from_agent::Message::Answer(message) => self.hear_answer(message),
            from_agent::Message::AcknowledgeDenylist(message) => {
                let agent::AcknowledgeDenylist { epoch, revision } = message;
                let after = self.presence.connected.acknowledged_denylist(Mark { epoch, revision });
                if let Some(after) = after {
                    self.push.metrics.acknowledged.observe(after.as_secs_f64());
                }
            }
            from_agent::Message::TrustInForce(message) => self.hear_trust_in_force(&message),
            from_agent::Message::WorkloadDenied(message) => denials::hear(self, message),
            from_agent::Message::UnknownKey(message) => self.hear_unknown_key(&message),
        }
        Ok(())
    }

    fn hear_acknowledge(&self, message: &agent::Acknowledge) {
        let agent::Acknowledge { epoch, revision, service } = message;
        match self.presence.connected.acknowledged(named(service), *epoch, *revision) {
            Some(after) => self.push.metrics.acknowledged.observe(after.as_secs_f64()),
            None => debug!(event = "acknowledge_unexpected", instance = %self.peer.instance, revision),
        }
    }

    /// Whoever fetches an issuer's keys bounds how often that is, whoever asks; and nobody asks of another mesh's, nor so often that
    /// others are not heard.
    fn hear_unknown_key(&mut self, agent::UnknownKey { issuer }: &agent::UnknownKey) {
        let mesh = self.peer.spiffe_id.mesh_and_node().map(|(mesh, _)| mesh);
        if let (Some(mesh), Ok(name)) = (mesh, Name::parse(issuer))
            && self.recent_unknown_keys.hears(&name)
        {
            // One that finds no room is told again.
            let _full = self.push.unknown_keys.try_send(ResourceKey { kind: Kind::JwtIssuer, mesh, name });
        }
    }

    fn hear_trust_in_force(&self, message: &agent::TrustInForce) {
        let agent::TrustInForce { version } = *message;
        let latest = self.trust.borrow().version;
        // Nobody trusts what there is not yet.
        if version <= latest {
            self.presence.connected.trusts(version);
        }
        if version == latest {
            self.presence.connected.believes(&self.view_keys);
        }
    }

    fn hear_refuse(&self, message: &agent::Refuse) {
        let agent::Refuse { epoch, revision, service, reason, detail } = message;
        let refusal = Refusal {
            service: named(service).map(shown),
            revision: *revision,
            reason: shown(reason),
            detail: shown(detail),
        };
        warn!(event = "view_refused", instance = %self.peer.instance, spiffe_id = %self.peer.spiffe_id,
            %refusal, "an agent does not apply a view");
        self.push.metrics.refusals.inc();
        self.presence.connected.refused(named(service), *epoch, refusal);
    }

    /// Takes the registration that waits, if its turn has come.
    pub(super) fn register(&mut self) {
        let Some((message, _)) = self.registering.take() else { return };
        match self.push.shares.register(self.peer.instance, self.push.clock.now()) {
            Ok(()) => self.hear_register(&message),
            Err(again_in) => self.registering = Some((message, Instant::now() + again_in)),
        }
    }

    fn hear_register(&self, message: &agent::Register) {
        let refused = match Registration::parse(message) {
            Ok(registration) => {
                let (peer, session) = (self.peer, self.presence.connected.number());
                self.push.endpoints.register(&peer.spiffe_id, peer.instance, session, registration);
                None
            }
            Err(error) => {
                warn!(event = "registration_refused", instance = %self.peer.instance, %error,
                    "an agent's endpoints are not taken; its former ones stay");
                Some(error.to_string())
            }
        };
        self.presence.connected.registered(refused);
    }

    fn hear_subscribe(&mut self, message: agent::Subscribe) -> Result<(), ProtocolError> {
        let agent::Subscribe { add, remove } = message;
        let too_many = ProtocolError::TooMany { field: "subscribe", limit: MAX_SUBSCRIPTIONS };
        if add.len() > MAX_SUBSCRIPTIONS || remove.len() > MAX_SUBSCRIPTIONS {
            return Err(too_many);
        }
        for name in &remove {
            self.holding.unsubscribe(name);
        }
        let mut impossible = Vec::new();
        let mut names = Vec::new();
        for text in add {
            match Name::parse(&text) {
                Ok(name) => names.push(name),
                Err(_) if text.len() <= MAX_ECHOED => impossible.push(text),
                Err(_) => {}
            }
        }
        if !self.holding.subscribe(names) {
            return Err(too_many);
        }
        if !impossible.is_empty() {
            let revision = self.world.0.revision;
            self.urgent.push_back(Message::ServicesGone(agent::ServicesGone { names: impossible, revision }));
        }
        self.plan();
        Ok(())
    }

    fn hear_decisions(&mut self, mut message: agent::Decisions) -> Result<(), ProtocolError> {
        let count = message.decisions.len();
        if count > MAX_DECISIONS {
            return Err(ProtocolError::TooMany { field: "decisions", limit: MAX_DECISIONS });
        }
        let taken = self.push.shares.decisions(self.peer.instance, count, self.push.clock.now());
        message.decisions.truncate(taken);
        message.dropped = message.dropped.saturating_add((count - taken) as u64);
        let (peer, now) = (self.peer, self.push.clock.now());
        let foreign = self.push.flows.record(&peer.spiffe_id, peer.instance, message, now);
        self.push.metrics.decisions.inc_by(count as u64);
        if foreign > 0 {
            self.push.metrics.foreign_decisions.inc_by(foreign as u64);
            warn!(event = "foreign_decisions", instance = %peer.instance, spiffe_id = %peer.spiffe_id, foreign,
                "an agent reported decisions that are not its own: they are left out");
        }
        Ok(())
    }

    fn hear_flows(&mut self, mut message: agent::FlowSummaries) -> Result<(), Close> {
        let count = message.flows.len();
        if count > MAX_FLOWS {
            return Err(ProtocolError::TooMany { field: "flows", limit: MAX_FLOWS }.into());
        }
        let (peer, now) = (self.peer, self.push.clock.now());
        let taken = self.push.shares.flows(peer.instance, count, now);
        message.unrecorded = message.unrecorded.saturating_add((count - taken) as u64);
        message.flows.truncate(taken);
        let foreign = self.push.flows.count(&peer.spiffe_id, &peer.mesh, message, now);
        if foreign > 0 {
            self.push.metrics.foreign_flows.inc_by(foreign as u64);
            warn!(event = "foreign_flows", instance = %peer.instance, spiffe_id = %peer.spiffe_id, foreign,
                "an agent counted calls that are not its own, or none at all: they are left out");
        }
        Ok(())
    }

    fn hear_answer(&mut self, message: agent::Answer) {
        let agent::Answer { question_id, decision } = message;
        if let Some(question) = self.questions.remove(&question_id) {
            let is_own = |detail: &agent::DecisionDetail| {
                detail.decision.as_ref().is_some_and(|decision| {
                    decision.id == question.decision_id && decision.node == self.peer.spiffe_id.as_str()
                })
            };
            // Whoever asked may have stopped waiting.
            let _heard = question.answer.send(decision.filter(is_own));
        }
    }
}

/// Until a registration may be taken.
pub(super) async fn turn(registering: Option<&(agent::Register, Instant)>) {
    match registering {
        Some((_, at)) => sleep_until(*at).await,
        None => std::future::pending().await,
    }
}

fn named(service: &str) -> Option<&str> {
    if service.is_empty() { None } else { Some(service) }
}
