//! One request or stream of a local app, from its beginning to its end: counted, and told in the access log.

use std::net::SocketAddr;
use std::sync::Arc;

use hauberk_policy::Protocol;
use http::uri::PathAndQuery;
use http::{Method, Response, StatusCode};
use tokio::time::Instant;

use super::Outbound;
use super::peer::{Load, Peer};
use super::route::Route;
use crate::connections::Leave;
use crate::decisions::{OutboundFacts, Outcome, Request};
use crate::metrics::ServiceMetrics;
use crate::wire::headers::{self, DECISION};
use crate::wire::meter::{Broken, Meter};
use crate::wire::strict;

/// What an app wants.
#[derive(Debug)]
pub(super) enum Wish {
    /// An answer to an HTTP request.
    Request { method: Method, target: Option<PathAndQuery>, is_upgrade: bool },
    /// What cannot be read.
    Unread,
    /// A TCP stream.
    Stream,
}

/// A request or stream under way. Dropped when it has ended, it is counted and told.
#[derive(Debug)]
pub(super) struct Call {
    outbound: Arc<Outbound>,
    wish: Wish,
    /// What the app named, until it is known to be a service.
    host: Box<str>,
    route: Option<Route>,
    metrics: Arc<ServiceMetrics>,
    meter: Option<Arc<Meter>>,
    endpoint: Option<SocketAddr>,
    attempts: u32,
    /// What makes its endpoint busy.
    load: Option<Load>,
    /// What it was let out of the mesh by, and the port that it goes to there.
    leave: Option<Arc<Leave>>,
    port_outside: u16,
    status: u16,
    grpc_status: Option<u8>,
    /// Why there is no answer of the service.
    error: Option<&'static str>,
    decision: Option<Box<str>>,
    since: Instant,
}

impl Call {
    /// Begins one. Until something else is known, its app has gone away.
    pub(super) fn begin(outbound: &Arc<Outbound>, wish: Wish) -> Self {
        let metrics = outbound.connections.context().metrics.unknown_service();
        Self {
            outbound: Arc::clone(outbound),
            wish,
            host: Box::default(),
            route: None,
            metrics: Arc::clone(metrics),
            meter: None,
            endpoint: None,
            attempts: 0,
            load: None,
            leave: None,
            port_outside: 0,
            status: 0,
            grpc_status: None,
            error: Some("abandoned"),
            decision: None,
            since: Instant::now(),
        }
    }

    /// The app named this host, which is no service.
    pub(super) fn names(&mut self, host: &str) {
        self.host = host.into();
    }

    /// It is for this port of a service, which is counted here.
    pub(super) fn leads_to(&mut self, route: Route, metrics: Arc<ServiceMetrics>) {
        self.metrics = metrics;
        self.route = Some(route);
    }

    /// It leaves the mesh for this port of what is called `name`, which is counted here, by `meter`.
    pub(super) fn leads_out(
        &mut self,
        name: &str,
        port: u16,
        metrics: Arc<ServiceMetrics>,
        meter: &Arc<Meter>,
    ) {
        self.host = name.into();
        self.port_outside = port;
        self.metrics = metrics;
        self.meter = Some(Arc::clone(meter));
    }

    /// It is at this address outside of the mesh, for as long as `leave` lets it.
    pub(super) fn is_outside(&mut self, leave: Option<&Arc<Leave>>, address: SocketAddr) {
        self.leave = leave.cloned();
        self.attempts = 1;
        self.endpoint = Some(address);
    }

    /// What counts its bytes.
    pub(super) fn meter(&mut self) -> Arc<Meter> {
        let metrics = &self.metrics;
        Arc::clone(self.meter.get_or_insert_with(|| Arc::new(Meter::adding_to(metrics.traffic()))))
    }

    /// It is given to this endpoint.
    pub(super) fn try_at(&mut self, peer: &Arc<Peer>) {
        self.attempts += 1;
        self.endpoint = Some(peer.address());
        self.load = Some(Peer::begin(peer));
    }

    /// The service, or its agent, answered.
    pub(super) fn answered<B>(&mut self, response: &Response<B>) {
        self.note(response);
        self.error = None;
        if let Some(id) = response.headers().get(DECISION).and_then(|id| id.to_str().ok()) {
            self.denied(response.status(), id);
        }
    }

    /// A host outside answered. What it calls a decision of ours is none.
    pub(super) fn answered_outside<B>(&mut self, response: &Response<B>) {
        self.note(response);
        self.error = None;
    }

    /// The endpoint accepted a stream.
    pub(super) fn opened(&mut self) {
        self.status = StatusCode::OK.as_u16();
        self.error = None;
    }

    /// The app sent what is no request, and is told so.
    pub(super) fn unread(mut self, broken: strict::Broken) {
        self.error = Some(broken.fault);
        self.status = broken.status().as_u16();
    }

    /// There is no answer of the service, and the app is told this instead; or nothing, where it speaks no HTTP.
    pub(super) fn failed<B>(&mut self, reason: &'static str, told: Option<&Response<B>>) {
        self.error = Some(reason);
        if let Some(response) = told {
            self.note(response);
        }
    }

    /// The far agent denied it by this decision.
    pub(super) fn denied(&mut self, status: StatusCode, decision: &str) {
        self.status = status.as_u16();
        self.error = Some("denied");
        self.decision = Some(decision.into());
    }

    fn note<B>(&mut self, response: &Response<B>) {
        self.status = response.status().as_u16();
        self.grpc_status = headers::grpc_status(response.headers());
    }

    fn is_request(&self) -> bool {
        matches!(self.wish, Wish::Request { is_upgrade: false, .. })
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let duration = self.since.elapsed();
        if let Some(id) = self.meter.as_ref().and_then(|meter| meter.decision())
            && self.decision.is_none()
        {
            // It ended by that while the answer was under way.
            self.decision = Some(id.into());
            self.error = self.error.or(Some("denied"));
        }
        let broken = self.meter.as_ref().and_then(|meter| meter.broken());
        self.error = self.error.or(broken.map(|broken| match broken {
            Broken::Denied => "denied",
            Broken::Off if self.route.is_none() => "external_broke_off",
            Broken::Off => "endpoint_broke_off",
        }));
        match self.error {
            Some(reason) => self.metrics.failed(reason),
            None => self.metrics.answered(self.status),
        }
        self.metrics.retried(self.attempts.saturating_sub(1));
        // How long other protocols last says nothing of how fast requests are.
        if self.error.is_none() && self.is_request() {
            self.metrics.took(duration);
        }
        let decisions = self.outbound.connections.decisions();
        if !decisions.writes_lines() {
            return;
        }
        let port = self.route.as_ref().and_then(Route::port);
        let facts = OutboundFacts {
            service: self.route.as_ref().map_or(&self.host, |route| route.service().name.as_str()),
            port: port.map_or(self.port_outside, |port| port.number),
            request: match &self.wish {
                Wish::Request { target, .. } if port.is_some_and(|port| port.protocol == Protocol::Grpc) => {
                    Request::Grpc { path: path_of(target) }
                }
                Wish::Request { method, target, is_upgrade } => {
                    Request::Http { method: method.as_str(), path: path_of(target), is_upgrade: *is_upgrade }
                }
                Wish::Unread => Request::Http { method: "", path: "", is_upgrade: false },
                Wish::Stream => Request::Connect,
            },
            endpoint: self.endpoint,
            attempts: self.attempts,
            error: self.error,
            decision: self.decision.as_deref(),
        };
        let (bytes_in, bytes_out) = self.meter.as_ref().map(|meter| meter.counted()).unwrap_or_default();
        let in_trailers = self.meter.as_ref().and_then(|meter| meter.grpc_status());
        let grpc_status = in_trailers.or(self.grpc_status);
        let outcome = Outcome { status: self.status, grpc_status, duration, bytes_in, bytes_out };
        decisions.finish_outbound(&facts, &outcome);
    }
}

fn path_of(target: &Option<PathAndQuery>) -> &str {
    target.as_ref().map_or("/", PathAndQuery::path)
}
