//! TCP streams inside a warm tunnel: each one is a CONNECT of HTTP/2, decided by itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use hauberk_identity::Name;
use hauberk_tls::TlsStream;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::admit::Guest;
use super::app;
use super::listener::Port;
use crate::connections::Subject;
use crate::decisions::{self, Outcome};
use crate::wire::headers::{DECISION, ERROR, SERVICE};
use crate::wire::meter::Direction;
use crate::wire::prompt::PromptFrames;
use crate::wire::serve::asked_to_end;
use crate::wire::tunnel;

/// How long a tunnel may take to begin.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn serve(port: Arc<Port>, guest: Arc<Guest>, stream: TlsStream<TcpStream>) {
    let handshake = tunnel::server().handshake::<_, Bytes>(PromptFrames::new(stream));
    let mut tunnel = match tokio::time::timeout(HANDSHAKE_PATIENCE, handshake).await {
        Ok(Ok(tunnel)) => tunnel,
        Ok(Err(error)) => return tracing::debug!(event = "tunnel_broken", %error),
        Err(_) => return tracing::debug!(event = "tunnel_broken", error = "too slow"),
    };
    let retired = guest.connection().retired().clone();
    let mut is_closing = false;
    loop {
        tokio::select! {
            accepted = tunnel.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    port.tasks.spawn(carry(Arc::clone(&port), Arc::clone(&guest), request, respond));
                }
                Some(Err(error)) => return tracing::debug!(event = "tunnel_broken", %error),
                None => return,
            },
            () = asked_to_end(&retired, &port.stop), if !is_closing => {
                is_closing = true;
                tunnel.graceful_shutdown();
            }
        }
    }
}

async fn carry(
    port: Arc<Port>,
    guest: Arc<Guest>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    if let Err(error) = try_carry(&port, &guest, request, &mut respond).await {
        tracing::debug!(event = "stream_broken", port = port.number, %error);
    }
}

async fn try_carry(
    port: &Port,
    guest: &Guest,
    request: Request<RecvStream>,
    respond: &mut SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let since = Instant::now();
    if request.method() != Method::CONNECT {
        respond.send_reset(Reason::PROTOCOL_ERROR);
        return Ok(());
    }
    let Ok(service) = service_of(port, &request) else {
        let refusal = refusal(StatusCode::MISDIRECTED_REQUEST, "wrong_service");
        let outcome =
            Outcome { status: refusal.status().as_u16(), duration: since.elapsed(), ..Outcome::default() };
        guest.connection().tell_refusal(
            &port.connections,
            decisions::Request::Connect,
            "wrong_service",
            &outcome,
        );
        return respond.send_response(refusal, true).map(drop);
    };
    let passage = guest.connection().admit(&port.connections, |_| Subject::Stream, None, service, since);
    if !passage.is_allowed() {
        let mut denial = response(StatusCode::FORBIDDEN);
        let id = passage.decision().map(ToString::to_string).unwrap_or_default();
        if let Ok(id) = HeaderValue::from_str(&id) {
            denial.headers_mut().insert(DECISION, id);
        }
        passage.answered(&denial);
        return respond.send_response(denial, true).map(drop);
    }
    let (mut app, _places) = match app::dial_for(guest, port).await {
        Ok(dialled) => dialled,
        Err(failure) => {
            failure.log(port);
            let refusal = refusal(StatusCode::SERVICE_UNAVAILABLE, failure.as_str());
            passage.answered(&refusal);
            return respond.send_response(refusal, true).map(drop);
        }
    };
    let accepted = response(StatusCode::OK);
    passage.answered(&accepted);
    let send = respond.send_response(accepted, false)?;
    let pumped =
        tunnel::pump(&mut app, Bytes::new(), send, request.into_body(), passage.meter(), Direction::Out);
    if let Err(error) = pumped.await {
        tracing::debug!(event = "stream_broken", port = port.number, %error);
    }
    Ok(())
}

/// The service that the stream is for, if it names one.
fn service_of(port: &Port, request: &Request<RecvStream>) -> Result<Option<Name>, ()> {
    let mut named = request.headers().get_all(SERVICE).iter();
    let Some(name) = named.next() else { return Ok(None) };
    let rules = port.connections.rules();
    let described = rules.view().ok().and_then(|view| view.port(port.number)).ok_or(())?;
    let service = described.services.iter().find(|service| service.as_str().as_bytes() == name.as_bytes());
    match (service, named.next()) {
        (Some(service), None) => Ok(Some(service.clone())),
        _ => Err(()),
    }
}

fn refusal(status: StatusCode, name: &'static str) -> Response<()> {
    let mut refusal = response(status);
    refusal.headers_mut().insert(ERROR, HeaderValue::from_static(name));
    refusal
}

fn response(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}
