//! HTTP requests from the mesh: each one canonicalised, decided, and passed on to the app.

use std::pin::pin;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use hauberk_identity::Name;
use hauberk_policy::{CanonicalPath, ObsText, Protocol};
use hauberk_tls::TlsStream;
use http::header::{self, HeaderValue};
use http::uri::Uri;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::admit::Guest;
use super::app;
use super::app_failure::AppFailure;
use super::listener::Port;
use super::unanswered::{Unanswered, until_cut_as_http};
use crate::connections::{Head, Passage, Role, Rules, Subject};
use crate::decisions::{self, Outcome};
use crate::mesh;
use crate::users::{Arrival, MadeFor};
use crate::wire::answer::{self, Form};
use crate::wire::body::{BodyError, RequestBody, ResponseBody, Via};
use crate::wire::budget::InUse;
use crate::wire::exchange::Link;
use crate::wire::headers::{
    self, CLIENT_CERTIFICATE, IDENTITY, OBS_TEXT, RequestHead, UnknownCoding, WHY_NO_OBS_TEXT,
};
use crate::wire::http1::{self, SendError};
use crate::wire::http2::{self, Multiplexed, MultiplexedPool};
use crate::wire::meter::Meter;
use crate::wire::origin::Origin;
use crate::wire::prompt::PromptFrames;
use crate::wire::serve::serve_until;
use crate::wire::strict::{Broken, MAX_HEAD_FROM_MESH, Opaque, StrictRequests};
use crate::wire::transport::Transport;
use crate::wire::{forward, upgrade};

pub(super) type Answer = Response<ResponseBody<(Arc<Passage>, Option<InUse>)>>;

/// What the requests of one connection share.
struct Caller {
    port: Arc<Port>,
    guest: Arc<Guest>,
    opaque: Opaque,
    /// Where its requests go to an app that speaks HTTP/2.
    multiplexed: OnceLock<Arc<MultiplexedPool>>,
    /// What the app is told of who called.
    certificate: Option<HeaderValue>,
}

pub(super) async fn serve_http1(port: Arc<Port>, guest: Arc<Guest>, stream: TlsStream<TcpStream>) {
    let (retired, stop) = (guest.connection().retired().clone(), port.stop.clone());
    let caller = Caller::new(port, guest);
    let (since, telling) = (Instant::now(), Arc::clone(&caller));
    let tell = move |broken| telling.tell_broken(broken, since);
    let strict = StrictRequests::new(stream, Bytes::new(), caller.opaque.clone(), MAX_HEAD_FROM_MESH, tell);
    let service = service_fn(move |request| handle(Arc::clone(&caller), request));
    let connection = http1::server().serve_connection(TokioIo::new(strict), service).with_upgrades();
    serve_until(connection, &retired, &stop, || ()).await;
}

pub(super) async fn serve_http2(port: Arc<Port>, guest: Arc<Guest>, stream: TlsStream<TcpStream>) {
    let (retired, stop, tasks) =
        (guest.connection().retired().clone(), port.stop.clone(), port.tasks.clone());
    let caller = Caller::new(port, guest);
    let service = service_fn(move |request| handle(Arc::clone(&caller), request));
    let stream = PromptFrames::new(stream);
    let connection = http2::server(tasks)
        .max_header_list_size(MAX_HEAD_FROM_MESH as u32)
        .serve_connection(TokioIo::new(stream), service);
    serve_until(connection, &retired, &stop, || ()).await;
}

impl Caller {
    fn new(port: Arc<Port>, guest: Arc<Guest>) -> Arc<Self> {
        let rules = port.connections.rules();
        let own = rules.view().map(|view| view.spiffe_id.to_string()).unwrap_or_default();
        let peer = guest.connection().peer();
        // Ids hold neither `;` nor `,` nor quotes.
        let certificate = HeaderValue::from_str(&format!("By={own};URI={}", peer.id())).ok();
        let (opaque, multiplexed) = (Opaque::default(), OnceLock::new());
        Arc::new(Self { port, guest, opaque, multiplexed, certificate })
    }

    fn protocol(&self) -> Protocol {
        match self.guest.connection().role() {
            Role::Inbound { protocol, .. } => protocol,
            Role::Outbound => Protocol::Http,
        }
    }

    fn arrival<'a>(&'a self, identity: Option<&'a HeaderValue>) -> Arrival<'a> {
        let (port, context) = (self.port.number, self.port.connections.context());
        Arrival { port, peer: self.guest.connection().peer_id(), identity, context }
    }

    /// Answers a request that is refused for what it is, and tells of it.
    fn refuse(&self, request: &Request<Incoming>, form: Form, refusal: &Refusal, since: Instant) -> Answer {
        let answer = answer::error(form, refusal.status, refusal.name, &refusal.text);
        let path = request.uri().path();
        let asked = match self.protocol() {
            Protocol::Grpc => decisions::Request::Grpc { path },
            _ => decisions::Request::Http { method: request.method().as_str(), path, is_upgrade: false },
        };
        let outcome = Outcome {
            status: answer.status().as_u16(),
            grpc_status: headers::grpc_status(answer.headers()),
            duration: since.elapsed(),
            ..Outcome::default()
        };
        self.guest.connection().tell_refusal(&self.port.connections, asked, refusal.name, &outcome);
        answer
    }

    /// Tells of bytes that are no requests, on a connection that came at `since`.
    fn tell_broken(&self, broken: Broken, since: Instant) {
        let outcome =
            Outcome { status: broken.status().as_u16(), duration: since.elapsed(), ..Outcome::default() };
        self.guest.connection().tell_broken(&self.port.connections, broken, &outcome);
    }
}

/// Why a request never came to be decided.
struct Refusal {
    status: StatusCode,
    name: &'static str,
    text: String,
}

impl Refusal {
    fn new(status: StatusCode, name: &'static str, text: impl ToString) -> Self {
        Self { status, name, text: text.to_string() }
    }
}

async fn handle(caller: Arc<Caller>, mut request: Request<Incoming>) -> Result<Answer, BodyError> {
    let since = Instant::now();
    let form = match caller.protocol() {
        Protocol::Grpc => Form::Grpc,
        _ => Form::of(&request),
    };
    let unanswered = Unanswered::of(&request, caller.protocol());
    let (passage, head) = match decide(&caller, &mut request, since) {
        Ok(decided) => decided,
        Err(refusal) => {
            let answer = caller.refuse(&request, form, &refusal, since);
            return Ok(unanswered.refused(&mut request, answer).await);
        }
    };
    if !passage.is_allowed() {
        let id = passage.decision().map(ToString::to_string).unwrap_or_default();
        let denial = answer::denial(form, &id);
        passage.answered(&denial);
        return Ok(unanswered.refused(&mut request, denial).await);
    }
    if let Some(certificate) = &caller.certificate {
        request.headers_mut().insert(CLIENT_CERTIFICATE, certificate.clone());
    }
    if let Some(handle) = &head.identity {
        request.headers_mut().insert(IDENTITY, handle.clone());
    }
    let meter = Arc::clone(passage.meter());
    let passage = Arc::new(passage);
    let mut exchange = pin!(pass_on(&caller, (form, unanswered), request, head, Arc::clone(&passage)));
    if let Some(mut answer) = until_cut_as_http(&meter, &caller.opaque, exchange.as_mut()).await? {
        unanswered.answered(&mut answer, &meter);
        return Ok(answer);
    }
    let denial = unanswered.deny(form, &meter).await?;
    passage.answered(&denial);
    Ok(denial)
}

/// Reads what the request is for, and decides it. Leaves it addressed by its canonical path, its headers stripped.
fn decide(
    caller: &Caller,
    request: &mut Request<Incoming>,
    since: Instant,
) -> Result<(Passage, RequestHead), Refusal> {
    let bad_request =
        |name, text: &dyn ToString| Refusal::new(StatusCode::BAD_REQUEST, name, text.to_string());
    if request.method() == Method::CONNECT {
        return Err(Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "connect_refused",
            "this port takes requests, not tunnels",
        ));
    }
    let rules = caller.port.connections.rules();
    let described = rules.view().ok().and_then(|view| view.port(caller.port.number));
    // Before what is said to us alone is taken out.
    let takes_obs_text = described.is_some_and(|port| port.obs_text == ObsText::Forward);
    if !takes_obs_text && headers::holds_obs_text(request) {
        return Err(bad_request(OBS_TEXT, &WHY_NO_OBS_TEXT));
    }
    let mut head = headers::scrub_request(request).map_err(|problem| bad_request("bad_request", &problem))?;
    let method = request.method().clone();
    let escaped =
        rules.view().map(|view| view.engine.escaped_slashes(caller.port.number)).unwrap_or_default();
    let ambiguous = |problem: &dyn ToString| bad_request("ambiguous_path", problem);
    let target = headers::canonical_target(request, escaped).map_err(|problem| ambiguous(&problem))?;
    // What is canonical reads as it stands.
    let path = CanonicalPath::parse_with(method.as_str(), target.as_str(), escaped)
        .map_err(|problem| ambiguous(&problem))?;
    let service = match described {
        Some(described) => service_of(described, &head)?,
        // The decision says why there is none.
        None => None,
    };
    let mut made_for = match rules.view() {
        Ok(view) => MadeFor::look(view, caller.arrival(head.identity.as_ref()), request.headers_mut()),
        Err(_) => MadeFor::not_looked_for(),
    };
    // From here on it is what the app is given.
    head.identity = made_for.handle(caller.port.connections.handles());
    let is_upgrade = head.upgrade.is_some();
    let subject = |rules: &Rules| {
        let on_behalf_of = match rules.view() {
            // Looked at by the rules before these, if they have just changed.
            Ok(view) => made_for.look_again(view, caller.port.number, caller.port.connections.context()),
            Err(_) => None,
        };
        let wanted = rules.view().ok().and_then(|view| view.engine.wanted(caller.port.number));
        let is_secret = |name: &str| rules.view().is_ok_and(|view| view.is_token_field(name));
        let gathered = wanted.map(|wanted| {
            let fields = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
            let gathered = wanted.gather(&head.host, fields.filter(|(name, _)| !is_secret(name)));
            let on_behalf_of = || on_behalf_of.unwrap_or_else(|| made_for.on_behalf_of());
            Arc::new(if wanted.user() { gathered.made_for(on_behalf_of()) } else { gathered })
        });
        Subject::Request { method, target: target.clone(), is_upgrade, gathered, made_for }
    };
    let connections = &caller.port.connections;
    let as_sent = Head { path: Some(&path), host: &head.host, fields: request.headers() };
    let passage = caller.guest.connection().admit(connections, subject, Some(as_sent), service, since);
    *request.uri_mut() = Uri::from(target);
    // An app may tell apart what policies do not, such as hosts with ports: it is given what was matched.
    if let Some(matched) = passage.host() {
        head.host = matched.to_owned();
    }
    Ok((passage, head))
}

/// The service that a request is for: the one that the caller's agent names, or that its host names, or the only one.
fn service_of(described: &mesh::Port, head: &RequestHead) -> Result<Option<Name>, Refusal> {
    let services = &described.services;
    let wrong = || {
        Refusal::new(
            StatusCode::MISDIRECTED_REQUEST,
            "wrong_service",
            "this port does not provide the service that the request names",
        )
    };
    if let Some(named) = &head.service {
        let found = services.iter().find(|service| service.as_str().as_bytes() == named.as_bytes());
        return found.cloned().map(Some).ok_or_else(wrong);
    }
    let by_host = headers::split_host(&head.host)
        .and_then(|(host, _)| services.iter().find(|service| service.as_str().eq_ignore_ascii_case(host)));
    match (by_host, services.as_slice()) {
        (Some(service), _) | (None, [service]) => Ok(Some(service.clone())),
        (None, []) => Ok(None),
        (None, _) => Err(wrong()),
    }
}

async fn pass_on(
    caller: &Arc<Caller>,
    (form, unanswered): (Form, Unanswered),
    mut request: Request<Incoming>,
    head: RequestHead,
    passage: Arc<Passage>,
) -> Answer {
    let from_caller = head.upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let (meter, version) = (Arc::clone(passage.meter()), request.version());
    let request = request.map(|body| RequestBody::relay(body, Arc::clone(&meter)).under(&passage));
    let sent = match caller.protocol() {
        Protocol::Http2 | Protocol::Grpc => {
            send_http2(caller, request, &head).await.map(|(response, via)| (response, via, None))
        }
        Protocol::Http | Protocol::Tcp => send_http1(caller, request, &head, &meter).await,
    };
    let (mut response, via, in_use) = match sent {
        Ok(sent) => sent,
        Err(error) => {
            let failure = AppFailure::of(unanswered.unsent(error).await);
            let failure = meter.left().map_or(failure, AppFailure::CallerLeft);
            let answer = failure.answer(form, &caller.port);
            passage.answered(&answer);
            return answer;
        }
    };
    let upgraded = response.headers().get(header::UPGRADE).cloned();
    if let Err(UnknownCoding) = headers::scrub_response(&mut response, &[]) {
        let answer = AppFailure::UnknownCoding.answer(form, &caller.port);
        passage.answered(&answer);
        return answer;
    }
    passage.answered(&response);
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let origin = Origin::app(version, response.headers());
        return response.map(|body| ResponseBody::relay(body, meter, via, (passage, in_use), origin));
    }
    let (Some(from_caller), Some(link)) = (from_caller, via.into_link()) else {
        let answer = AppFailure::BadUpgrade.answer(form, &caller.port);
        passage.answered(&answer);
        return answer;
    };
    caller.opaque.begin();
    let from_app = hyper::upgrade::on(&mut response);
    let guest = Arc::clone(&caller.guest);
    caller.port.tasks.spawn(async move {
        // The caller sees it by the missing close_notify.
        upgrade::carry(from_caller, from_app, link, passage.meter(), || ()).await;
        drop((passage, guest, in_use));
    });
    upgrade::answer(response.headers_mut(), upgraded);
    response.map(|_| ResponseBody::empty())
}

async fn send_http1(
    caller: &Caller,
    mut request: Request<RequestBody>,
    head: &RequestHead,
    meter: &Meter,
) -> Result<(Response<Incoming>, Via, Option<InUse>), SendError<AppFailure>> {
    let in_use = match caller.guest.use_one() {
        Ok(in_use) => in_use,
        Err(failure) => return Err(SendError::Connect(AppFailure::NoConnection(failure), request)),
    };
    let port = &caller.port;
    forward::address_http1(&mut request, head);
    let (has_content, hides_content) = (!request.body().is_empty(), forward::hides_content(&request));
    if hides_content {
        forward::end_with(&mut request);
    }
    let connect = || async {
        let (stream, place) = app::dial(port).await.map_err(AppFailure::NoConnection)?;
        Link::open(Transport::plain(stream, place), None).await.map_err(|_| AppFailure::Unspoken)
    };
    let (response, link) = http1::send(&port.links, request, connect).await?;
    // An app that answers before it can have read all may never read the rest, and take it for the next request.
    let is_early = has_content && !meter.is_sent();
    let via = match hides_content || is_early {
        true => Via::Once(Some(link)),
        false => Via::Link(Some(link), Arc::clone(&port.links)),
    };
    Ok((response, via, Some(in_use)))
}

async fn send_http2(
    caller: &Caller,
    mut request: Request<RequestBody>,
    head: &RequestHead,
) -> Result<(Response<Incoming>, Via), SendError<AppFailure>> {
    let port = &caller.port;
    forward::address_http2(&mut request, head);
    let connect = || async {
        let (stream, place) = app::dial(port).await.map_err(AppFailure::NoConnection)?;
        let opened = Multiplexed::open(Transport::plain(stream, place), &port.tasks, None).await;
        opened.map_err(|_| AppFailure::Unspoken)
    };
    let claim = || caller.guest.use_one().map(Some).map_err(AppFailure::NoConnection);
    let pool = caller.multiplexed.get_or_init(|| port.multiplexed.of(caller.guest.connection().peer().id()));
    let (response, lease) = http2::send(pool, request, claim, connect).await?;
    Ok((response, Via::Stream { _lease: lease }))
}
