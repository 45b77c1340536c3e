//! Streams that leave the mesh: a tunnel that an app asked for by CONNECT, or a port bound to an external service.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use hauberk_proto::convert::ExternalProtocol;
use hauberk_tls::{Greeting, MAX_GREETING};
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::super::Outbound;
use super::super::call::Call;
use super::super::http::Failure;
use super::super::tcp::NotOpened;
use super::dial::{DialError, dial};
use super::http::unreachable;
use super::{PATIENCE, counters, label};
use crate::connections::{ADDRESS_REFUSED, Destination, Leave, NOT_TLS, Subject};
use crate::wire::budget::SocketPlace;
use crate::wire::meter::{Direction, until_cut};
use crate::wire::pump::Pump;

/// A stream that was let out.
#[derive(Debug)]
pub(in super::super) struct Opened {
    outside: TcpStream,
    _place: SocketPlace,
    leave: Leave,
    /// The host that the app must begin TLS with, where it must.
    tls_host: Option<Box<str>>,
}

/// Where a port leads that is bound to an external service by its name, and perhaps one of its ports.
pub(in super::super) fn bound_to(
    outbound: &Outbound,
    name: &str,
    port: Option<u16>,
    app: SocketAddr,
) -> Result<Destination, Failure> {
    let refused = |name, text: String| Err(Failure::new(StatusCode::BAD_GATEWAY, name, text));
    let rules = outbound.connections.rules();
    let view = match rules.view() {
        Ok(view) => view,
        Err(reason) => return refused(reason, "nothing is let out".to_owned()),
    };
    let Some(external) = view.external(name) else {
        let text =
            format!("no external service {name:?}; `hauberk get externalservices` lists those there are");
        return refused("unknown_external", text);
    };
    let streams = || external.ports.iter().filter(|port| port.protocol != ExternalProtocol::Http);
    let port = match (port, streams().collect::<Vec<_>>().as_slice()) {
        (Some(port), _) => port,
        (None, [only]) => only.number,
        (None, _) => {
            let text =
                format!("external service {name:?} has not just one port for streams: name one, NAME:PORT");
            return refused("unknown_port", text);
        }
    };
    match external.hosts.as_slice() {
        [host] => Ok(Destination { host: host.as_str().into(), port, app }),
        _ => {
            let text = format!("external service {name:?} has several hosts: ask for one by CONNECT instead");
            refused("several_hosts", text)
        }
    }
}

/// Decides about a stream, and connects it.
pub(in super::super) async fn open(
    outbound: &Arc<Outbound>,
    to: Destination,
    call: &mut Call,
) -> Result<Opened, NotOpened> {
    let metrics = counters(outbound, &to);
    let mut leave =
        outbound.connections.leave(to.clone(), |_, _| Subject::Stream, None, &metrics, Instant::now());
    call.leads_out(&label(&leave, &to), to.port, metrics, leave.meter());
    let Some(external) = leave.take_external() else {
        return Err(denied(&leave, call));
    };
    let meter = Arc::clone(leave.meter());
    let (outside, place, address) = match until_cut(&meter, dial(outbound, &external, &to)).await {
        Some(Ok(dialled)) => dialled,
        Some(Err(DialError::Refused { .. })) => {
            leave.refuse(ADDRESS_REFUSED);
            return Err(denied(&leave, call));
        }
        Some(Err(error)) => return Err(NotOpened::Failed(unreachable(&error))),
        // The log has it from where it was cut (`egress_cut`).
        None => return Err(denied_by(meter.decision().unwrap_or_default(), call)),
    };
    leave.connected_to(address);
    call.is_outside(None, address);
    call.opened();
    let is_tls = external.port(to.port).is_some_and(|port| port.protocol == ExternalProtocol::Tls);
    Ok(Opened { outside, _place: place, leave, tls_host: is_tls.then_some(to.host) })
}

/// Carries an opened stream to its end. `early` is what has been read of the app's socket already.
pub(in super::super) async fn carry(mut app: TcpStream, early: Bytes, opened: Opened, mut call: Call) {
    let Opened { mut outside, _place, mut leave, tls_host } = opened;
    let meter = Arc::clone(leave.meter());
    let begun = async {
        let first = match &tls_host {
            Some(host) => greeting(&mut app, early, host).await?,
            None => early,
        };
        meter.count(Direction::In, first.len());
        outside.write_all(&first).await.map_err(|_| "external_broke_off")
    };
    match until_cut(&meter, begun).await {
        Some(Ok(())) => leave.let_out(),
        Some(Err(reason)) => {
            if matches!(reason, NOT_TLS | OTHER_HOST | HIDDEN_HOST) {
                leave.refuse(reason);
                let _ = denied(&leave, &mut call);
            }
            return;
        }
        None => return,
    }
    let mut pump = Pump::default();
    if let Err(error) = pump.run(&mut app, &mut outside, &meter).await {
        tracing::debug!(event = "stream_broken", %error);
        // Nobody shall take the part that came for the whole, unless either is gone anyhow; whoever has come to the end
        // shall have all of it.
        if !pump.caller_has_end() {
            let _ = app.set_zero_linger();
        }
        if !pump.app_has_end() {
            let _ = outside.set_zero_linger();
        }
    }
    drop((leave, call));
}

const OTHER_HOST: &str = "server_name_mismatch";
/// The host that the app really calls may be another one, which only the server can read.
const HIDDEN_HOST: &str = "encrypted_client_hello";

/// What an app says first: the beginning of TLS with the very host that it was let out to.
async fn greeting(app: &mut TcpStream, early: Bytes, host: &str) -> Result<Bytes, &'static str> {
    let mut first = BytesMut::from(&early[..]);
    let wanted = host.parse::<std::net::IpAddr>().is_err().then_some(host);
    loop {
        match Greeting::of(&first) {
            Greeting::Hello(named) if named.as_deref() == wanted => return Ok(first.freeze()),
            Greeting::Hello(_) => return Err(OTHER_HOST),
            Greeting::HidesAnother => return Err(HIDDEN_HOST),
            Greeting::NotTls => return Err(NOT_TLS),
            Greeting::Incomplete if first.len() >= MAX_GREETING => return Err(NOT_TLS),
            Greeting::Incomplete => {}
        }
        match tokio::time::timeout(PATIENCE, app.read_buf(&mut first)).await {
            Ok(Ok(read)) if read > 0 => {}
            // The app has gone, or says nothing.
            _ => return Err("abandoned"),
        }
    }
}

fn denied(leave: &Leave, call: &mut Call) -> NotOpened {
    let id = leave.decision().map(ToString::to_string).unwrap_or_default();
    tracing::info!(event = "egress_denied", reason = leave.reason(), decision = id);
    denied_by(&id, call)
}

fn denied_by(id: &str, call: &mut Call) -> NotOpened {
    call.denied(StatusCode::FORBIDDEN, id);
    NotOpened::Denied(id.to_owned())
}
