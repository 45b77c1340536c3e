//! What is counted, for `/metrics` in the OpenMetrics text format.

use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The label of what came of something: `ok`, `refused` or `failed`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// The label's value.
    pub outcome: &'static str,
}

/// The label of a listener: `agent` or `admin`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ListenerLabel {
    /// The label's value.
    pub listener: &'static str,
}

/// The label of an authority: `root` or `issuing`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AuthorityLabel {
    /// The label's value.
    pub kind: &'static str,
}

/// The label of why something was refused, by a stable name in this program.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// All figures of the control plane. Parts that come with figures of their own add them by [`Metrics::register`].
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    /// Certificates issued.
    pub certificates_issued: Counter,
    /// Enrollments, by outcome.
    pub enrollments: Family<OutcomeLabel, Counter>,
    /// Calls of the admin API, by outcome of authentication and authorization.
    pub admin_calls: Family<OutcomeLabel, Counter>,
    /// Calls refused, by reason.
    access_refused: Family<ReasonLabel, Counter>,
    /// Open connections, by listener.
    pub connections: Family<ListenerLabel, Gauge>,
    /// Connections closed before a call, by listener.
    pub connections_refused: Family<ListenerLabel, Counter>,
    /// When the active authorities end, Unix seconds.
    pub authority_not_after: Family<AuthorityLabel, Gauge>,
    /// 1 while the next authority is missing because somebody else has not signed it.
    pub authority_needed: Gauge,
    /// 1 while the registry takes writes.
    pub registry_writable: Gauge,
    /// By how many seconds the time of day is ahead of what it should be, while it is not believed for that.
    pub clock_ahead: Gauge,
    /// The configuration revision.
    pub revision: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("hauberk")),
            certificates_issued: Counter::default(),
            enrollments: Family::default(),
            admin_calls: Family::default(),
            access_refused: Family::default(),
            connections: Family::default(),
            connections_refused: Family::default(),
            authority_not_after: Family::default(),
            authority_needed: Gauge::default(),
            registry_writable: Gauge::default(),
            clock_ahead: Gauge::default(),
            revision: Gauge::default(),
        };
        metrics.register(|registry| {
            registry.register(
                "certificates_issued",
                "Certificates issued",
                metrics.certificates_issued.clone(),
            );
            registry.register("enrollments", "Enrollments of agents", metrics.enrollments.clone());
            registry.register("admin_calls", "Calls of the admin API", metrics.admin_calls.clone());
            registry.register(
                "access_refused",
                "Calls refused, and certificates and tokens that were not issued, by reason",
                metrics.access_refused.clone(),
            );
            registry.register("connections", "Open connections", metrics.connections.clone());
            registry.register(
                "connections_refused",
                "Connections that were closed before their first call",
                metrics.connections_refused.clone(),
            );
            registry.register(
                "authority_not_after_timestamp_seconds",
                "When the active authorities end",
                metrics.authority_not_after.clone(),
            );
            registry.register(
                "authority_needed",
                "1 while the next authority is missing because somebody else has not signed it",
                metrics.authority_needed.clone(),
            );
            registry.register(
                "registry_writable",
                "1 while the registry takes writes",
                metrics.registry_writable.clone(),
            );
            registry.register(
                "clock_ahead_seconds",
                "By how much the clock was set ahead while the control plane runs, until it is believed; else 0",
                metrics.clock_ahead.clone(),
            );
            registry.register("revision", "The configuration revision", metrics.revision.clone());
        });
        metrics
    }
}

impl Metrics {
    /// Adds figures to what is shown. Names get the prefix `hauberk_`.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Counts a call that was refused.
    pub fn refused(&self, reason: &'static str) {
        self.access_refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// All figures, as scrapers read them.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        match encode(&mut text, &registry) {
            Ok(()) => text,
            // Writing into a String does not fail; half a page would be worse than none.
            Err(_) => String::new(),
        }
    }
}
