//! HTTP requests of local apps: each one routed, and sent to an endpoint of its service.

use std::sync::Arc;
use std::time::Duration;

use hauberk_policy::Protocol;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;

use super::Outbound;
use super::balance::Group;
use super::call::{Call, Wish};
use super::egress::{self, http::HTTP_PORT};
use super::listener::AppConnection;
use super::peer::{DialError, Peer};
use super::route::{Kind, Route};
use crate::mesh::ClosedReason;
use crate::wire::answer::{self, Form};
use crate::wire::body::{RequestBody, ResponseBody, Via};
use crate::wire::causes::chain;
use crate::wire::exchange::Link;
use crate::wire::headers::{self, CLOSE, DECISION, ERROR, IDENTITY, RequestHead, SERVICE, UNKNOWN_CODING};
use crate::wire::http1::SendError;
use crate::wire::http2::Multiplexed;
use crate::wire::meter::Meter;
use crate::wire::origin::Origin;
use crate::wire::strict::{MAX_FIELDS, TOO_MANY_FIELDS};
use crate::wire::unread::Content;
use crate::wire::{forward, http1, http2, upgrade};

/// The most endpoints that one request is tried at.
pub(super) const MAX_TRIES: usize = 3;
/// How long the first request for a service waits for its endpoints.
const ENDPOINTS_PATIENCE: Duration = Duration::from_secs(2);

pub(super) type Answer = Response<ResponseBody<Call>>;

/// Why we answer instead of the service.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) name: &'static str,
    pub(super) text: String,
}

impl Failure {
    pub(super) fn new(status: StatusCode, name: &'static str, text: impl Into<String>) -> Self {
        Self { status, name, text: text.into() }
    }

    /// Tells the app, and ends the call.
    pub(super) fn answer(self, form: Form, mut call: Call) -> Answer {
        tracing::info!(event = "request_not_sent", reason = self.name, detail = self.text);
        let answer = answer::error(form, self.status, self.name, &self.text);
        call.failed(self.name, Some(&answer));
        answer
    }
}

/// Answers one request of a local app that came on this connection.
pub(super) async fn handle(
    outbound: Arc<Outbound>,
    connection: Arc<AppConnection>,
    request: Request<Incoming>,
) -> Answer {
    let (content, mut meter) = (Content::of(&request), None);
    let mut answer = respond(outbound, connection, (request, content), &mut meter).await;
    content.answered(&mut answer, meter.is_some_and(|meter| meter.is_whole()));
    answer
}

/// `known` becomes what knows whether all of the content was read.
async fn respond(
    outbound: Arc<Outbound>,
    connection: Arc<AppConnection>,
    (mut request, content): (Request<Incoming>, Content),
    known: &mut Option<Arc<Meter>>,
) -> Answer {
    if request.method() == Method::CONNECT {
        return super::connect::begin(&outbound, connection, request).await;
    }
    let (form, version) = (Form::of(&request), request.version());
    let has_content = !request.body().is_end_stream();
    let scrubbed = headers::scrub_request(&mut request);
    let wish = Wish::Request {
        method: request.method().clone(),
        target: request.uri().path_and_query().cloned(),
        is_upgrade: scrubbed.as_ref().is_ok_and(|head| head.upgrade.is_some()),
    };
    let mut call = Call::begin(&outbound, wish);
    let head = match scrubbed {
        Ok(head) => head,
        Err(problem) => {
            throw_away(content, &mut request, known.insert(call.meter())).await;
            return Failure::new(StatusCode::BAD_REQUEST, "bad_request", problem.to_string())
                .answer(form, call);
        }
    };
    let found = match egress::named(&outbound, &head.host, HTTP_PORT, connection.app) {
        Some(to) => Err(to),
        None => match outbound.find(&head.host, Kind::Http, &mut call).await {
            Ok(found) => Ok(found),
            Err(failure) => match egress::unnamed(&failure, &head.host, HTTP_PORT, connection.app) {
                Some(to) => Err(to),
                None => {
                    throw_away(content, &mut request, known.insert(call.meter())).await;
                    return failure.answer(form, call);
                }
            },
        },
    };
    let found = match found {
        Ok(found) => found,
        Err(to) => {
            return egress::http::answer(&outbound, connection, request, (&head, form), to, call, known)
                .await;
        }
    };
    let from_app = head.upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    known.replace(call.meter());
    match pass_on(&outbound, (request, content), &head, found, &mut call).await {
        Ok((response, via)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            switch(&outbound, connection, response, via.into_link().zip(from_app), call)
        }
        Ok((mut response, via)) => {
            if let Err(problem) = headers::scrub_response(&mut response, &[DECISION, ERROR]) {
                return bad_gateway(UNKNOWN_CODING, problem.to_string()).answer(form, call);
            }
            call.answered(&response);
            let (meter, origin) = (call.meter(), Origin::agent(version, response.headers()));
            let is_unread = has_content && !meter.is_whole();
            let is_agents = [DECISION, ERROR].iter().any(|own| response.headers().contains_key(own));
            if version < Version::HTTP_2 && is_unread && is_agents {
                // Of what comes after an answer of the far agent nobody reads.
                response.headers_mut().insert(header::CONNECTION, CLOSE);
            }
            response.map(|body| ResponseBody::relay(body, meter, via, call, origin))
        }
        Err(failure) => failure.answer(form, call),
    }
}

/// Reads content that nobody is going to read, as far as it is worth a connection.
async fn throw_away(content: Content, request: &mut Request<Incoming>, meter: &Meter) {
    if content.throw_away(request).await {
        meter.note_whole();
    }
}

/// Lets the connection be what both sides have agreed on. `between` is what it takes, where the app has asked for it.
pub(super) fn switch(
    outbound: &Outbound,
    connection: Arc<AppConnection>,
    mut response: Response<Incoming>,
    between: Option<(Link, OnUpgrade)>,
    mut call: Call,
) -> Answer {
    let Some((link, from_app)) = between else {
        return bad_gateway("unasked_upgrade", String::new()).answer(Form::Http, call);
    };
    let upgraded = response.headers().get(header::UPGRADE).cloned();
    if let Err(problem) = headers::scrub_response(&mut response, &[DECISION, ERROR]) {
        return bad_gateway(UNKNOWN_CODING, problem.to_string()).answer(Form::Http, call);
    }
    call.answered(&response);
    connection.opaque.begin();
    let from_service = hyper::upgrade::on(&mut response);
    outbound.tasks.spawn(async move {
        let meter = call.meter();
        upgrade::carry(from_app, from_service, link, &meter, || connection.end.amid()).await;
        drop((call, connection));
    });
    upgrade::answer(response.headers_mut(), upgraded);
    response.map(|_| ResponseBody::empty())
}

async fn pass_on(
    outbound: &Arc<Outbound>,
    (mut request, content): (Request<Incoming>, Content),
    head: &RequestHead,
    (route, group): (Route, Arc<Group>),
    call: &mut Call,
) -> Result<(Response<Incoming>, Via), Failure> {
    if let Ok(service) = HeaderValue::from_str(route.service().name.as_str()) {
        request.headers_mut().insert(SERVICE, service);
    }
    let mut request = request.map(|body| RequestBody::relay(body, call.meter()));
    let protocol = route.port().map_or(Protocol::Http, |port| port.protocol);
    if protocol == Protocol::Http {
        forward::address_http1(&mut request, head);
        // By the far agent they would be refused as well: those that are added to them here count there.
        let identity = usize::from(head.identity.is_some());
        if request.headers().len() + identity > MAX_FIELDS {
            content.throw_away(&mut request).await;
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            let text =
                format!("with those of the agent the request has more than {MAX_FIELDS} header fields");
            return Err(Failure::new(status, TOO_MANY_FIELDS, text));
        }
    } else {
        forward::address_http2(&mut request, head);
    }
    send(outbound, &group, protocol, (request, content), head.identity.as_ref(), call).await
}

/// Sends a request to one endpoint after another, for as long as nothing of it was sent; for the user of the app's
/// handle, if it gave one.
async fn send(
    outbound: &Arc<Outbound>,
    group: &Group,
    protocol: Protocol,
    (mut request, content): (Request<RequestBody>, Content),
    handle: Option<&HeaderValue>,
    call: &mut Call,
) -> Result<(Response<Incoming>, Via), Failure> {
    let mut tried: Vec<Arc<Peer>> = Vec::new();
    let mut last = None;
    while tried.len() < MAX_TRIES
        && let Some(peer) = group.pick(outbound.elapsed(), &tried)
    {
        if let Some(handle) = handle {
            let connections = &outbound.connections;
            let passed_on = connections.handles().pass_on(handle, peer.id(), connections.context());
            match passed_on {
                Ok(passed_on) => {
                    request.headers_mut().insert(IDENTITY, passed_on);
                }
                Err(reason) => {
                    last = Some(not_passed_on(reason));
                    break;
                }
            }
        }
        call.try_at(&peer);
        let sent = match protocol {
            Protocol::Http | Protocol::Tcp => send_http1(outbound, &peer, request).await,
            Protocol::Http2 | Protocol::Grpc => send_http2(outbound, &peer, request).await,
        };
        match sent {
            Ok((response, via)) => {
                peer.succeeded();
                return Ok((response, via));
            }
            Err(SendError::Connect(error, unsent)) => {
                peer.not_dialled(&error, outbound.elapsed());
                last = Some(unreachable(&error));
                request = unsent;
            }
            Err(SendError::Unsent(error, unsent)) => {
                peer.failed(outbound.elapsed());
                last = Some(broken(&peer, &error));
                request = unsent;
            }
            Err(SendError::Broken(error)) => {
                if let Some(reason) = call.meter().left() {
                    let text = "the request broke off before its end";
                    return Err(Failure::new(StatusCode::BAD_REQUEST, reason, text));
                }
                peer.failed(outbound.elapsed());
                return Err(broken(&peer, &error));
            }
        }
        tried.push(peer);
    }
    // The meter has it where that is all of it.
    content.throw_away(&mut request).await;
    Err(last.unwrap_or_else(no_endpoints))
}

async fn send_http1(
    outbound: &Arc<Outbound>,
    peer: &Peer,
    request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Via), SendError<DialError>> {
    let connect = || async {
        let (transport, lease) = peer.dial(&outbound.connections).await?;
        Link::open(transport, Some(lease)).await.map_err(|error| DialError::Http(peer.address(), error))
    };
    let (response, link) = http1::send(&peer.links, request, connect).await?;
    Ok((response, Via::Link(Some(link), Arc::clone(&peer.links))))
}

async fn send_http2(
    outbound: &Arc<Outbound>,
    peer: &Peer,
    request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Via), SendError<DialError>> {
    let connect = || async {
        let (transport, lease) = peer.dial(&outbound.connections).await?;
        Multiplexed::open(transport, &outbound.tasks, Some(lease))
            .await
            .map_err(|error| DialError::Http(peer.address(), error))
    };
    let (response, lease) = http2::send(&peer.multiplexed, request, || Ok(None), connect).await?;
    Ok((response, Via::Stream { _lease: lease }))
}

impl Outbound {
    /// Finds where a request or stream may go.
    pub(super) async fn find(
        &self,
        authority: &str,
        kind: Kind,
        call: &mut Call,
    ) -> Result<(Route, Arc<Group>), Failure> {
        let context = self.connections.context();
        let route = match Route::find(&context.mesh.services, authority, kind).await {
            Ok(route) => route,
            Err(error) => {
                call.names(authority);
                let (status, name) = error.answer();
                return Err(Failure::new(status, name, error.to_string()));
            }
        };
        let group = self.group(&route).await;
        // The group knows its counters, so that they are looked up only where there is none.
        let metrics = match &group {
            Ok(group) => Arc::clone(group.metrics()),
            Err(_) => context.metrics.service(&route.service().name),
        };
        call.leads_to(route.clone(), metrics);
        group.map(|group| (route, group))
    }

    async fn group(&self, route: &Route) -> Result<Arc<Group>, Failure> {
        let context = self.connections.context();
        if let Some(reason) = context.mesh.ends_outbound() {
            return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, reason.as_str(), ended(reason)));
        }
        let group = || {
            self.balancer.group(route, context).map_err(|error| {
                Failure::new(StatusCode::SERVICE_UNAVAILABLE, "tls_setup_failed", error.to_string())
            })
        };
        let mut found = group()?;
        if found.as_ref().is_none_or(|found| found.is_empty()) {
            // A service's endpoints come just after the service.
            for target in route.port().map(|port| port.targets.as_slice()).unwrap_or_default() {
                target.endpoints.first_snapshot(ENDPOINTS_PATIENCE).await;
            }
            found = group()?;
        }
        match found {
            Some(found) if !found.is_empty() => Ok(found),
            _ => Err(no_endpoints()),
        }
    }
}

/// Whose fault it is that nothing is sent out, and what to do.
fn ended(reason: ClosedReason) -> &'static str {
    match reason {
        ClosedReason::Revoked => {
            "this agent's certificate was revoked; enroll it anew, if it is to call anybody"
        }
        ClosedReason::Quarantined => {
            "this node is in quarantine; `hauberk quarantine node NAME --undo` ends that"
        }
        ClosedReason::NodeDeleted => "this node was deleted; apply it again and enroll its agent",
        ClosedReason::NoDenylist => {
            "what this agent has kept of who is refused cannot be read; it calls nobody until the control plane has told it"
        }
        ClosedReason::CertificateExpired
        | ClosedReason::NoView
        | ClosedReason::MissingFeature
        | ClosedReason::InvalidView
        | ClosedReason::ViewTooOld => {
            "this agent has no valid certificate; see its log for why it was not renewed"
        }
    }
}

fn not_passed_on(reason: &'static str) -> Failure {
    let text = "the value of hauberk-identity is not one that this agent gave to its app, or no longer good";
    Failure::new(StatusCode::FORBIDDEN, reason, text)
}

pub(super) fn no_endpoints() -> Failure {
    let text =
        "the service has no instance that could be reached; `hauberk get instances` shows those there are";
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, "no_endpoints", text)
}

pub(super) fn unreachable(error: &DialError) -> Failure {
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, "endpoint_unreachable", chain(error))
}

pub(super) fn bad_gateway(name: &'static str, text: String) -> Failure {
    Failure::new(StatusCode::BAD_GATEWAY, name, text)
}

fn broken(peer: &Peer, error: &hyper::Error) -> Failure {
    let text = format!("{} broke off: {}", peer.address(), chain(error));
    bad_gateway("endpoint_broke_off", text)
}
