//! What is counted of one listener.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::by_name::ByName;
use super::histogram::Histogram;
use super::page::Page;
use super::{REQUEST_BOUNDS, Traffic, class_of};
use crate::decisions::Verdict;

/// The counters of one listener.
#[derive(Debug)]
pub(crate) struct ListenerMetrics {
    connections: ByName<8>,
    refused: ByName<40>,
    open: AtomicU64,
    requests: ByName<3>,
    denials: ByName<32>,
    responses: ByName<6>,
    seconds: Histogram<{ REQUEST_BOUNDS.len() }>,
    traffic: Arc<Traffic>,
}

impl ListenerMetrics {
    pub(super) fn new() -> Self {
        let verdicts = [Verdict::Allow, Verdict::Deny, Verdict::AuditAllow].map(Verdict::as_str);
        Self {
            connections: ByName::beginning_with(&[]),
            refused: ByName::beginning_with(&[]),
            open: AtomicU64::new(0),
            requests: ByName::beginning_with(&verdicts),
            denials: ByName::beginning_with(&[]),
            responses: ByName::beginning_with(&["2xx", "3xx", "4xx", "5xx"]),
            seconds: Histogram::new(REQUEST_BOUNDS),
            traffic: Arc::default(),
        }
    }

    /// A connection was turned away before its peer was known, for this reason.
    pub(crate) fn turned_away(&self, reason: &'static str) {
        self.refused.add(reason);
    }

    /// A peer has proved who it is.
    pub(crate) fn opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// Its connection has ended.
    pub(crate) fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// This is spoken on a connection that may be.
    pub(crate) fn speaks(&self, protocol: &'static str) {
        self.connections.add(protocol);
    }

    /// A request or stream was decided.
    pub(crate) fn decided(&self, verdict: Verdict, reason: &'static str) {
        self.requests.add(verdict.as_str());
        if verdict == Verdict::Deny {
            self.denials.add(reason);
        }
    }

    /// A connection, or what was under way on one, was denied.
    pub(crate) fn denied(&self, reason: &'static str) {
        self.denials.add(reason);
    }

    /// A request has ended; its status is 0 where it got no answer.
    pub(crate) fn answered(&self, status: u16) {
        self.responses.add(class_of(status));
    }

    /// A request that was let in took so long.
    pub(crate) fn took(&self, time: Duration) {
        self.seconds.observe(time);
    }

    /// What counts bytes.
    pub(crate) fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }
}

/// Adds all listeners' figures to a page.
pub(super) fn write(page: &mut Page, listeners: &[(String, Arc<ListenerMetrics>)]) {
    page.counters(
        "hauberk_inbound_connections_total",
        "Connections from the mesh, by what is spoken.",
        ("listener", "protocol"),
        listeners,
        |of| of.connections.counted(),
    );
    page.counters(
        "hauberk_inbound_connections_refused_total",
        "Connections turned away before their peer was known.",
        ("listener", "reason"),
        listeners,
        |of| of.refused.counted(),
    );
    page.begin("hauberk_inbound_connections", "gauge", "Live connections from the mesh.");
    for (listener, of) in listeners {
        let open = of.open.load(Ordering::Relaxed);
        page.sample("hauberk_inbound_connections", &[("listener", listener)], open);
    }
    page.counters(
        "hauberk_inbound_requests_total",
        "Requests and TCP streams, by what was decided.",
        ("listener", "verdict"),
        listeners,
        |of| of.requests.counted(),
    );
    page.counters(
        "hauberk_inbound_denials_total",
        "Requests, streams and connections denied, with those that were already under way.",
        ("listener", "reason"),
        listeners,
        |of| of.denials.counted(),
    );
    page.counters(
        "hauberk_inbound_responses_total",
        "Requests that have ended, by the status sent; none where the caller left or was cut off before.",
        ("listener", "class"),
        listeners,
        |of| of.responses.counted(),
    );
    page.counters(
        "hauberk_inbound_bytes_total",
        "Bytes of content from callers (in) and to them (out).",
        ("listener", "direction"),
        listeners,
        |of| of.traffic.sums(),
    );
    page.histogram(
        "hauberk_inbound_request_seconds",
        "How long requests took that were let in, to the last byte of the answer.",
        listeners.iter().map(|(listener, of)| (Some(("listener", listener.as_str())), &of.seconds)),
    );
}
