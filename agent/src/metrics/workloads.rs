//! What is counted of programs that ask for identities: the Workload API, and Envoy's SDS.

use std::sync::atomic::{AtomicU64, Ordering};

use tonic::{Code, Status};

use super::by_name::ByName;
use super::page::Page;

/// Over which of the two services of one socket something went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WorkloadService {
    /// The SPIFFE Workload API.
    WorkloadApi,
    /// Envoy's SDS.
    Sds,
}

/// The counters of both.
#[derive(Debug)]
pub(crate) struct WorkloadMetrics {
    open: AtomicU64,
    refused: ByName<4>,
    answers: ByName<2>,
    denials: ByName<8>,
}

impl WorkloadService {
    fn as_str(self) -> &'static str {
        match self {
            Self::WorkloadApi => "workload-api",
            Self::Sds => "sds",
        }
    }
}

impl WorkloadMetrics {
    pub(super) fn new() -> Self {
        let services = [WorkloadService::WorkloadApi, WorkloadService::Sds].map(WorkloadService::as_str);
        Self {
            open: AtomicU64::new(0),
            refused: ByName::beginning_with(&["too_many", "unknown"]),
            answers: ByName::beginning_with(&services),
            denials: ByName::beginning_with(&["no_identity"]),
        }
    }

    /// A program has connected.
    pub(crate) fn opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// Its connection has ended.
    pub(crate) fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// A connection was turned away, for this reason.
    pub(crate) fn turned_away(&self, reason: &'static str) {
        self.refused.add(reason);
    }

    /// What became of a question, or of the next answer on a stream.
    pub(crate) fn told<T>(&self, service: WorkloadService, outcome: &Result<T, Status>) {
        match outcome {
            Ok(_) => self.answers.add(service.as_str()),
            Err(status) => self.denied(status),
        }
    }

    /// A question was refused, or a stream ended, with this status.
    fn denied(&self, status: &Status) {
        self.denials.add(match status.code() {
            Code::PermissionDenied => "no_identity",
            Code::InvalidArgument => "bad_request",
            Code::ResourceExhausted => "too_many",
            Code::Unavailable => "unavailable",
            Code::Cancelled => "cancelled",
            _ => "other",
        });
    }

    /// Counts a refusal on its way.
    pub(crate) fn refusing(&self, status: Status) -> Status {
        self.denied(&status);
        status
    }

    pub(super) fn write(&self, page: &mut Page) {
        let open = self.open.load(Ordering::Relaxed);
        page.gauge("hauberk_workload_connections", "Live connections to the Workload API's socket.", open);
        let mut counters = |name, help, label, counted: Vec<(&'static str, u64)>| {
            page.begin(name, "counter", help);
            for (value, count) in counted {
                page.sample(name, &[(label, value)], count);
            }
        };
        counters(
            "hauberk_workload_connections_refused_total",
            "Connections to the Workload API's socket turned away before they asked for anything.",
            "reason",
            self.refused.counted(),
        );
        counters(
            "hauberk_workload_answers_total",
            "Identities, bundles and tokens told to programs, also anew after a change.",
            "service",
            self.answers.counted(),
        );
        counters(
            "hauberk_workload_denials_total",
            "Questions of programs that were refused, and streams that were ended.",
            "reason",
            self.denials.counted(),
        );
    }
}
