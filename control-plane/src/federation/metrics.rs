//! What is counted about federation.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::metrics::{Metrics, OutcomeLabel};
use crate::resources::ResourceKey;

/// A trust domain, or issuer, that a mesh follows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct FollowedLabel {
    mesh: String,
    kind: &'static str,
    name: String,
}

impl FollowedLabel {
    pub(super) fn of(key: &ResourceKey) -> Self {
        Self { mesh: key.mesh.to_string(), kind: key.kind.as_str(), name: key.name.to_string() }
    }
}

#[derive(Debug)]
pub(super) struct FederationMetrics {
    pub(super) fetches: Family<OutcomeLabel, Counter>,
    pub(super) failing: Family<FollowedLabel, Gauge>,
    pub(super) fetched_at: Family<FollowedLabel, Gauge>,
}

impl FederationMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let federation =
            Self { fetches: Family::default(), failing: Family::default(), fetched_at: Family::default() };
        metrics.register(|registry| {
            registry.register(
                "federation_fetches",
                "Questions to where bundles and keys are published, by outcome",
                federation.fetches.clone(),
            );
            registry.register(
                "federation_failing",
                "1 while the bundle of a trust domain, or the keys of an issuer, cannot be fetched",
                federation.failing.clone(),
            );
            registry.register(
                "federation_fetched_timestamp_seconds",
                "When the bundle of a trust domain, or the keys of an issuer, were last fetched, in Unix seconds",
                federation.fetched_at.clone(),
            );
        });
        federation
    }

    pub(super) fn forget(&self, key: &ResourceKey) {
        self.failing.remove(&FollowedLabel::of(key));
        self.fetched_at.remove(&FollowedLabel::of(key));
    }
}
