//! What is counted of one service that local apps call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::by_name::ByName;
use super::histogram::Histogram;
use super::page::Page;
use super::{REQUEST_BOUNDS, Traffic, class_of};

/// The counters of one service.
#[derive(Debug)]
pub(crate) struct ServiceMetrics {
    results: ByName<32>,
    retries: AtomicU64,
    seconds: Histogram<{ REQUEST_BOUNDS.len() }>,
    traffic: Arc<Traffic>,
}

impl ServiceMetrics {
    pub(super) fn new() -> Self {
        Self {
            results: ByName::beginning_with(&["2xx", "3xx", "4xx", "5xx", "denied"]),
            retries: AtomicU64::new(0),
            seconds: Histogram::new(REQUEST_BOUNDS),
            traffic: Arc::default(),
        }
    }

    /// The service answered a request with this status, or opened a stream with 200.
    pub(crate) fn answered(&self, status: u16) {
        self.results.add(class_of(status));
    }

    /// A request or stream got no answer of the service, for this reason.
    pub(crate) fn failed(&self, reason: &'static str) {
        self.results.add(reason);
    }

    /// A request or stream was given to so many endpoints beyond the first.
    pub(crate) fn retried(&self, times: u32) {
        if times > 0 {
            self.retries.fetch_add(times.into(), Ordering::Relaxed);
        }
    }

    /// A request that the service answered took so long.
    pub(crate) fn took(&self, time: Duration) {
        self.seconds.observe(time);
    }

    /// What counts bytes.
    pub(crate) fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }
}

/// Adds all services' figures to a page.
pub(super) fn write(page: &mut Page, services: &[(String, Arc<ServiceMetrics>)]) {
    page.counters(
        "hauberk_outbound_requests_total",
        "Requests and TCP streams of local apps, by the class of the answer or why there was none.",
        ("service", "result"),
        services,
        |of| of.results.counted(),
    );
    page.begin("hauberk_outbound_retries_total", "counter", "Endpoints tried beyond the first.");
    for (service, of) in services {
        let retries = of.retries.load(Ordering::Relaxed);
        page.sample("hauberk_outbound_retries_total", &[("service", service)], retries);
    }
    page.counters(
        "hauberk_outbound_bytes_total",
        "Bytes of content from local apps (in) and to them (out).",
        ("service", "direction"),
        services,
        |of| of.traffic.sums(),
    );
    page.histogram(
        "hauberk_outbound_request_seconds",
        "How long requests took that were answered, to the last byte of the answer.",
        services.iter().map(|(service, of)| (Some(("service", service.as_str())), &of.seconds)),
    );
}
