//! TCP streams of local apps: each one a stream in a warm tunnel to an endpoint of its service.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use tokio::net::TcpStream;

use super::Outbound;
use super::call::{Call, Wish};
use super::egress::{self, stream::Opened};
use super::http::{Answer, Failure, MAX_TRIES, no_endpoints, unreachable};
use super::listener::{TcpService, address_of};
use super::peer::Peer;
use super::route::Kind;
use super::tunnel::{self, OpenError, TunnelStream};
use crate::wire::causes::chain;
use crate::wire::meter::Direction;
use crate::wire::tunnel::pump;

/// Why a stream was not opened.
#[derive(Debug)]
pub(super) enum NotOpened {
    /// It may be tried again, or something must be put right first.
    Failed(Failure),
    /// The far agent denies it, by this decision.
    Denied(String),
}

/// Where a stream goes.
#[derive(Debug)]
pub(super) enum Way {
    /// To an endpoint of a service.
    Mesh(TunnelStream),
    /// Out of the mesh.
    Outside(Box<Opened>),
}

/// Serves one connection of an app on a port that is bound to a service. It is closed cleanly if that cannot be called.
pub(super) async fn serve(outbound: &Arc<Outbound>, socket: TcpStream, service: &TcpService) {
    let mut call = Call::begin(outbound, Wish::Stream);
    let TcpService { is_external, name, port } = service;
    let authority = &match port {
        Some(port) => format!("{name}:{port}"),
        None => name.to_string(),
    };
    let opened = if *is_external {
        match egress::stream::bound_to(outbound, name.as_str(), *port, address_of(&socket)) {
            Ok(to) => egress::stream::open(outbound, to, &mut call)
                .await
                .map(|opened| Way::Outside(Box::new(opened))),
            Err(failure) => Err(NotOpened::Failed(failure)),
        }
    } else {
        open_in_mesh(outbound, authority, &mut call).await.map(Way::Mesh)
    };
    match opened {
        Ok(stream) => carry(socket, Bytes::new(), stream, call).await,
        Err(NotOpened::Denied(decision)) => {
            tracing::info!(event = "stream_denied", service = authority, decision);
        }
        Err(NotOpened::Failed(failure)) => {
            call.failed(failure.name, None::<&Answer>);
            tracing::warn!(
                event = "stream_not_opened",
                service = authority,
                reason = failure.name,
                detail = failure.text
            );
        }
    }
}

/// Opens a stream to what an app named: a host of an external service, or a service.
pub(super) async fn open(
    outbound: &Arc<Outbound>,
    authority: &str,
    app: SocketAddr,
    call: &mut Call,
) -> Result<Way, NotOpened> {
    // The target of a CONNECT has a port always, or is none.
    let named = egress::named(outbound, authority, 0, app);
    let to = match named {
        Some(to) => to,
        None => match open_in_mesh(outbound, authority, call).await {
            Ok(stream) => return Ok(Way::Mesh(stream)),
            Err(NotOpened::Failed(failure)) => match egress::unnamed(&failure, authority, 0, app) {
                Some(to) => to,
                None => return Err(NotOpened::Failed(failure)),
            },
            Err(denied) => return Err(denied),
        },
    };
    egress::stream::open(outbound, to, call).await.map(|opened| Way::Outside(Box::new(opened)))
}

/// Opens a stream, at one endpoint after another: nothing of the app's is sent before one has accepted.
async fn open_in_mesh(
    outbound: &Arc<Outbound>,
    authority: &str,
    call: &mut Call,
) -> Result<TunnelStream, NotOpened> {
    let (route, group) = outbound.find(authority, Kind::Tcp, call).await.map_err(NotOpened::Failed)?;
    let name = &route.service().name;
    let port = route.port().map_or(0, |port| port.number);
    let mut tried: Vec<Arc<Peer>> = Vec::new();
    let mut last = None;
    let mut tries = 0;
    while tries < MAX_TRIES
        && let Some(peer) = group.pick(outbound.elapsed(), &tried)
    {
        tries += 1;
        call.try_at(&peer);
        match tunnel::open(&peer, name, port, &outbound.connections, &outbound.tasks).await {
            Ok(stream) => {
                peer.succeeded();
                call.opened();
                return Ok(stream);
            }
            Err(OpenError::Refused { status: StatusCode::FORBIDDEN, decision }) => {
                let decision = decision.unwrap_or_default();
                call.denied(StatusCode::FORBIDDEN, &decision);
                return Err(NotOpened::Denied(decision));
            }
            Err(OpenError::Refused { status, .. }) => {
                peer.failed(outbound.elapsed());
                let text = format!("{} answered {status}", peer.address());
                last = Some(Failure::new(StatusCode::SERVICE_UNAVAILABLE, "endpoint_refused", text));
                tried.push(peer);
            }
            Err(OpenError::Dial(error)) => {
                peer.not_dialled(&error, outbound.elapsed());
                last = Some(unreachable(&error));
                tried.push(peer);
            }
            // The tunnel was closed just now; another to the same endpoint may do.
            Err(OpenError::Broken(error)) => {
                let text = format!("{} broke off: {}", peer.address(), chain(&error));
                last = Some(Failure::new(StatusCode::BAD_GATEWAY, "endpoint_broke_off", text));
            }
        }
    }
    Err(NotOpened::Failed(last.unwrap_or_else(no_endpoints)))
}

/// Carries an opened stream to its end. `early` is what has been read of the socket already.
pub(super) async fn carry(mut socket: TcpStream, early: Bytes, way: Way, mut call: Call) {
    let stream = match way {
        Way::Mesh(stream) => stream,
        Way::Outside(opened) => return egress::stream::carry(socket, early, *opened, call).await,
    };
    let meter = call.meter();
    let (send, receive, lease) = stream.into_parts();
    if let Err(error) = pump(&mut socket, early, send, receive, &meter, Direction::In).await {
        tracing::debug!(event = "stream_broken", %error);
    }
    drop((lease, call));
}
