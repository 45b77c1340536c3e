//! What is counted about pushing.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use hauberk_proto::agent::v1::to_agent::Message;

use crate::metrics::Metrics;

/// Upper bounds of the time from a push to its acknowledgement, in seconds.
const ACKNOWLEDGED_WITHIN: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0, 30.0];

/// What was pushed: `node`, `service`, `endpoints`, `services_gone`, `current_at` …
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct KindLabel {
    pub(super) kind: &'static str,
}

/// Why a stream ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReasonLabel {
    pub(super) reason: &'static str,
}

#[derive(Debug)]
pub(super) struct PushMetrics {
    pub(super) connected: Gauge,
    pub(super) pushes: Family<KindLabel, Counter>,
    pub(super) acknowledged: Histogram,
    pub(super) refusals: Counter,
    pub(super) closed: Family<ReasonLabel, Counter>,
    pub(super) decisions: Counter,
    pub(super) foreign_decisions: Counter,
    pub(super) foreign_flows: Counter,
}

impl PushMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let push = Self {
            connected: Gauge::default(),
            pushes: Family::default(),
            acknowledged: Histogram::new(ACKNOWLEDGED_WITHIN),
            refusals: Counter::default(),
            closed: Family::default(),
            decisions: Counter::default(),
            foreign_decisions: Counter::default(),
            foreign_flows: Counter::default(),
        };
        metrics.register(|registry| {
            registry.register("instances_connected", "Agents with a stream", push.connected.clone());
            registry.register("pushes", "Messages sent to agents, by kind", push.pushes.clone());
            registry.register(
                "push_acknowledged_seconds",
                "From the push of a view to its acknowledgement",
                push.acknowledged.clone(),
            );
            registry.register("push_refusals", "Views that agents refused", push.refusals.clone());
            registry.register("sessions_closed", "Streams ended, by reason", push.closed.clone());
            registry.register("decisions_received", "Decisions sent by agents", push.decisions.clone());
            registry.register(
                "decisions_foreign",
                "Decisions left out because they are not their sender's",
                push.foreign_decisions.clone(),
            );
            registry.register(
                "flows_foreign",
                "Counts of calls left out because they are not their sender's",
                push.foreign_flows.clone(),
            );
        });
        push
    }
}

/// What kind of message is pushed.
pub(super) fn kind(message: &Message) -> &'static str {
    match message {
        Message::View(_) => "view",
        Message::ServicesGone(_) => "services_gone",
        Message::Endpoints(_) => "endpoints",
        Message::Trust(_) => "trust",
        Message::Question(_) => "question",
        Message::Observe(_) => "observe",
        Message::CurrentAt(_) => "current_at",
        Message::NodeGone(_) => "node_gone",
        Message::Denylist(_) => "denylist",
        Message::Workloads(_) => "workloads",
        Message::JwtKeys(_) => "jwt_keys",
        Message::RevocationList(_) => "revocation_list",
    }
}
