//! HTTP requests that leave the mesh: each one decided by its method, path and what else policies read, and sent over a
//! connection of its own as plain HTTP/1.1.

use std::sync::Arc;

use hauberk_policy::{EscapedSlashes, OnBehalfOf};
use http::uri::{Scheme, Uri};
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::super::Outbound;
use super::super::call::Call;
use super::super::http::{Answer, Failure, bad_gateway, switch};
use super::super::listener::AppConnection;
use super::dial::{DialError, dial};
use super::{authority, bare_host, counters, label};
use crate::connections::{ADDRESS_REFUSED, Destination, Head, Leave, Subject};
use crate::mesh::{External, NodeView};
use crate::users::{ByHandle, MadeFor};
use crate::wire::answer::{self, Form};
use crate::wire::body::{RequestBody, ResponseBody, Via};
use crate::wire::causes::chain;
use crate::wire::exchange::Link;
use crate::wire::forward;
use crate::wire::headers::{self, DECISION, ERROR, OBS_TEXT, RequestHead, UNKNOWN_CODING, WHY_NO_OBS_TEXT};
use crate::wire::meter::{Meter, until_cut};
use crate::wire::origin::Origin;
use crate::wire::transport::Transport;

/// The port that `http://` means.
pub(in super::super) const HTTP_PORT: u16 = 80;

/// What reasons begin with that are the handle's.
const HANDLE: &str = "identity_handle_";

/// Answers one request of a local app. `known` becomes what knows whether all of its content was read.
pub(in super::super) async fn answer(
    outbound: &Arc<Outbound>,
    connection: Arc<AppConnection>,
    mut request: Request<Incoming>,
    (head, form): (&RequestHead, Form),
    to: Destination,
    mut call: Call,
    known: &mut Option<Arc<Meter>>,
) -> Answer {
    let bad_request = |name, text: String| Failure::new(StatusCode::BAD_REQUEST, name, text);
    if request.uri().scheme().is_some_and(|scheme| *scheme == Scheme::HTTPS) {
        let text = "the agent begins no TLS for apps: ask for a tunnel by CONNECT, and begin it yourself";
        return bad_request("https_in_plain", text.to_owned()).answer(form, call);
    }
    // No other agent looks at what leaves the mesh.
    if headers::holds_obs_text(&request) {
        return bad_request(OBS_TEXT, WHY_NO_OBS_TEXT.to_owned()).answer(form, call);
    }
    let target = match headers::canonical_target(&request, EscapedSlashes::Reject) {
        Ok(target) => target,
        Err(problem) => return bad_request("ambiguous_path", problem.to_string()).answer(form, call),
    };
    let metrics = counters(outbound, &to);
    // Policies see the host that is called, and whoever is called sees that which they saw.
    let host = authority(&to);
    let Ok(sent_host) = HeaderValue::try_from(&host) else {
        return bad_request("bad_host", format!("{host:?} is no host of a request")).answer(form, call);
    };
    let user = head.identity.as_ref().map_or_else(ByHandle::nobody, |handle| {
        let connections = &outbound.connections;
        let rules = connections.rules();
        ByHandle::look(handle, rules.view().ok(), connections.handles(), connections.context())
    });
    let subject = |decided_by: Option<(&NodeView, &External)>, user: OnBehalfOf| Subject::Request {
        method: request.method().clone(),
        target: target.clone(),
        is_upgrade: head.upgrade.is_some(),
        gathered: decided_by.and_then(|(view, external)| {
            let wanted = external.engine.wanted(to.port)?;
            let fields = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
            let gathered = wanted.gather(&host, fields.filter(|(name, _)| !view.is_token_field(name)));
            Some(Arc::new(gathered.made_for(user)))
        }),
        // By its handle alone.
        made_for: MadeFor::not_looked_for(),
    };
    let as_sent = Head { path: None, host: &bare_host(&to), fields: request.headers() };
    let mut leave =
        outbound.connections.leave(to.clone(), subject, Some((as_sent, user)), &metrics, Instant::now());
    call.leads_out(&label(&leave, &to), to.port, metrics, leave.meter());
    let Some(external) = leave.take_external() else {
        return denied(&leave, form, call);
    };
    *request.uri_mut() = Uri::from(target);
    let meter = Arc::clone(leave.meter());
    known.replace(Arc::clone(&meter));
    let dialled = until_cut(&meter, dial(outbound, &external, &to)).await;
    // The exchange may take days, in which other rules come.
    drop(external);
    let (stream, place, address) = match dialled {
        Some(Ok(dialled)) => dialled,
        Some(Err(DialError::Refused { .. })) => {
            leave.refuse(ADDRESS_REFUSED);
            return denied(&leave, form, call);
        }
        Some(Err(error)) => return unreachable(&error).answer(form, call),
        None => return cut(&meter, form, call),
    };
    leave.connected_to(address);
    leave.let_out();
    let leave = Arc::new(leave);
    call.is_outside(Some(&leave), address);
    let from_app = head.upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let mut request = request.map(|body| RequestBody::relay(body, Arc::clone(&meter)).leaving(&leave));
    forward::address_http1(&mut request, head);
    request.headers_mut().insert(header::HOST, sent_host);
    // Nothing else comes on the connection: what stands in the content is no request, whoever leaves it unread.
    if head.upgrade.is_none() {
        forward::end_with(&mut request);
    }
    let exchange = async {
        let mut link = Link::open(Transport::plain(stream, place), None).await?;
        let response = link.send(request).await.map_err(|failure| failure.error)?;
        Ok::<_, hyper::Error>((response, link))
    };
    let (mut response, link) = match until_cut(&meter, exchange).await {
        Some(Ok(exchanged)) => exchanged,
        Some(Err(error)) => {
            if let Some(reason) = meter.left() {
                let text = "the request broke off before its end".to_owned();
                return bad_request(reason, text).answer(form, call);
            }
            let text = format!("{address} broke off: {}", chain(&error));
            return bad_gateway("external_broke_off", text).answer(form, call);
        }
        None => return cut(&meter, form, call),
    };
    leave.answered(&response);
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return switch(outbound, connection, response, Some(link).zip(from_app), call);
    }
    if let Err(problem) = headers::scrub_response(&mut response, &[]) {
        return bad_gateway(UNKNOWN_CODING, problem.to_string()).answer(form, call);
    }
    call.answered_outside(&response);
    response.map(|body| ResponseBody::relay(body, meter, Via::Once(Some(link)), call, Origin::Server))
}

/// The app learns the decision's id, and whether its handle is none: that is its own to mend.
fn denied(leave: &Leave, form: Form, mut call: Call) -> Answer {
    let id = leave.decision().map(ToString::to_string).unwrap_or_default();
    let mut denial: Response<_> = answer::denial(form, &id);
    if leave.reason().starts_with(HANDLE) {
        denial.headers_mut().insert(ERROR, HeaderValue::from_static(leave.reason()));
    }
    leave.answered(&denial);
    call.denied(denial.status(), &id);
    tracing::info!(event = "egress_denied", reason = leave.reason(), decision = id);
    denial
}

fn cut(meter: &Meter, form: Form, call: Call) -> Answer {
    let text = "the rules have changed while the request was under way, and no longer let it out";
    let mut answer = Failure::new(StatusCode::FORBIDDEN, "cut", text).answer(form, call);
    if let Some(id) = meter.decision().and_then(|id| HeaderValue::from_str(id).ok()) {
        answer.headers_mut().insert(DECISION, id);
    }
    answer
}

pub(super) fn unreachable(error: &DialError) -> Failure {
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, "external_unreachable", chain(error))
}
