//! What is counted, for `/metrics`.
//!
//! Labels are listeners and services of the configuration, and names that stand in this program: no caller can make a
//! series by what it sends. Counters are looked up once, by a listener, a connection or a group of endpoints; what a
//! request costs then is a few atomic additions.

mod by_name;
mod histogram;
mod inbound;
mod outbound;
mod page;
mod workloads;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hauberk_identity::Name;

use histogram::Histogram;
pub(crate) use inbound::ListenerMetrics;
pub(crate) use outbound::ServiceMetrics;
pub(crate) use page::Page;
pub(crate) use workloads::{WorkloadMetrics, WorkloadService};

use crate::wire::meter::Direction;

/// The upper bounds of a decision's time, in nanoseconds.
const DECISION_BOUNDS: [u64; 10] =
    [1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 1_000_000, 10_000_000];
/// The upper bounds of the time that a view takes, in nanoseconds: a millisecond to ten seconds.
const VIEW_BOUNDS: [u64; 9] = [
    1_000_000,
    5_000_000,
    10_000_000,
    50_000_000,
    100_000_000,
    500_000_000,
    1_000_000_000,
    5_000_000_000,
    10_000_000_000,
];
/// The upper bounds of a request's time, in nanoseconds: half a millisecond to ten seconds.
const REQUEST_BOUNDS: [u64; 14] = [
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];
/// Stands for every name that is no service's. Parentheses are in no service's name.
const UNKNOWN: &str = "(unknown)";

/// Everything that is counted of traffic.
#[derive(Debug)]
pub struct Metrics {
    listeners: Mutex<BTreeMap<u16, Arc<ListenerMetrics>>>,
    services: Mutex<BTreeMap<Name, Arc<ServiceMetrics>>>,
    externals: Mutex<BTreeMap<Name, Arc<ServiceMetrics>>>,
    unknown: Arc<ServiceMetrics>,
    outbound_connections: AtomicU64,
    decisions: Histogram<{ DECISION_BOUNDS.len() }>,
    views: Histogram<{ VIEW_BOUNDS.len() }>,
    workloads: WorkloadMetrics,
}

/// Bytes of content that have passed, both ways.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    from_caller: AtomicU64,
    to_caller: AtomicU64,
}

impl Metrics {
    /// Nothing has been counted yet.
    pub fn new() -> Self {
        Self {
            listeners: Mutex::default(),
            services: Mutex::default(),
            externals: Mutex::default(),
            unknown: Arc::new(ServiceMetrics::new()),
            outbound_connections: AtomicU64::new(0),
            decisions: Histogram::new(DECISION_BOUNDS),
            views: Histogram::new(VIEW_BOUNDS),
            workloads: WorkloadMetrics::new(),
        }
    }

    /// What is counted, in the text format of Prometheus.
    pub fn text(&self) -> String {
        let mut page = Page::default();
        self.write(&mut page);
        page.into_text()
    }

    /// The counters of a listener.
    pub(crate) fn listener(&self, port: u16) -> Arc<ListenerMetrics> {
        let mut listeners = lock(&self.listeners);
        Arc::clone(listeners.entry(port).or_insert_with(|| Arc::new(ListenerMetrics::new())))
    }

    /// The counters of a service that there is.
    pub(crate) fn service(&self, name: &Name) -> Arc<ServiceMetrics> {
        let mut services = lock(&self.services);
        match services.get(name) {
            Some(found) => Arc::clone(found),
            None => {
                Arc::clone(services.entry(name.clone()).or_insert_with(|| Arc::new(ServiceMetrics::new())))
            }
        }
    }

    /// The counters of an external service.
    pub(crate) fn external(&self, name: &Name) -> Arc<ServiceMetrics> {
        let mut externals = lock(&self.externals);
        let of = externals.entry(name.clone()).or_insert_with(|| Arc::new(ServiceMetrics::new()));
        Arc::clone(of)
    }

    /// The counters of whatever is no service.
    pub(crate) fn unknown_service(&self) -> &Arc<ServiceMetrics> {
        &self.unknown
    }

    /// The counters of programs that ask for identities.
    pub(crate) fn workloads(&self) -> &WorkloadMetrics {
        &self.workloads
    }

    /// A connection to another agent was opened.
    pub(crate) fn outbound_opened(&self) {
        self.outbound_connections.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection to another agent has ended.
    pub(crate) fn outbound_closed(&self) {
        self.outbound_connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// How long the policies took to decide.
    pub(crate) fn decided(&self, time: Duration) {
        self.decisions.observe(time);
    }

    /// How long it took from a view of our node having come until live traffic obeyed it.
    pub(crate) fn view_applied(&self, time: Duration) {
        self.views.observe(time);
    }

    /// Adds what is counted to a page.
    pub(crate) fn write(&self, page: &mut Page) {
        let listeners: Vec<(String, Arc<ListenerMetrics>)> =
            lock(&self.listeners).iter().map(|(port, of)| (port.to_string(), Arc::clone(of))).collect();
        inbound::write(page, &listeners);
        page.histogram(
            "hauberk_decision_seconds",
            "How long the policies took to decide a request or stream.",
            [(None, &self.decisions)],
        );
        page.histogram(
            "hauberk_view_apply_seconds",
            "From a view of the node having come until live traffic obeyed it.",
            [(None, &self.views)],
        );
        let mut services: Vec<(String, Arc<ServiceMetrics>)> =
            lock(&self.services).iter().map(|(name, of)| (name.to_string(), Arc::clone(of))).collect();
        let externals = lock(&self.externals);
        services.extend(externals.iter().map(|(name, of)| (format!("external/{name}"), Arc::clone(of))));
        drop(externals);
        services.push((UNKNOWN.to_owned(), Arc::clone(&self.unknown)));
        outbound::write(page, &services);
        page.gauge(
            "hauberk_outbound_connections",
            "Live connections to other agents.",
            self.outbound_connections.load(Ordering::Relaxed),
        );
        self.workloads.write(page);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Traffic {
    /// Adds bytes that have passed.
    pub(crate) fn count(&self, direction: Direction, bytes: u64) {
        match direction {
            Direction::In => &self.from_caller,
            Direction::Out => &self.to_caller,
        }
        .fetch_add(bytes, Ordering::Relaxed);
    }

    /// Both sums, with the name of their direction.
    fn sums(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("in", self.from_caller.load(Ordering::Relaxed)),
            ("out", self.to_caller.load(Ordering::Relaxed)),
        ]
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The class of a status, as rates are asked for.
fn class_of(status: u16) -> &'static str {
    match status {
        100..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500..600 => "5xx",
        _ => "none",
    }
}

#[cfg(test)]
mod tests;
