//! Where a peer proves a renewed certificate for connections that it opened with an older one.
//!
//! Over a fresh handshake the peer names its older connections by their TLS exporter values, which nobody else can
//! know. Those of the same SPIFFE id and instance then live as long as the new certificate. Instances of one node share
//! its id; the serial numbers of their certificates say which of them each is of, so that a connection of one that is
//! revoked does not live on by the proof of another. Certificates of earlier releases do not say; of those the exporter
//! values alone speak, which never leave the two ends of a connection. The peer sends the number of names as two bytes,
//! most significant first, and the names; we answer one byte for each: 1 if the connection lives on, 0 if not.

use std::io;
use std::time::Duration;

use hauberk_tls::TlsStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::listener::Port;
use crate::connections::{Connection, Exporter, Role};

/// The most connections that are named at once.
const MAX_NAMES: usize = 1_024;
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers one list of names.
pub(super) async fn answer(port: &Port, prover: &Connection, mut stream: TlsStream<TcpStream>) {
    match tokio::time::timeout(PATIENCE, exchange(port, prover, &mut stream)).await {
        Ok(Ok(extended)) => tracing::debug!(event = "certificate_proved", extended),
        Ok(Err(error)) => tracing::debug!(event = "certificate_proof_failed", %error),
        Err(_) => tracing::debug!(event = "certificate_proof_failed", error = "too slow"),
    }
}

async fn exchange(port: &Port, prover: &Connection, stream: &mut TlsStream<TcpStream>) -> io::Result<usize> {
    let count = usize::from(stream.read_u16().await?);
    if count > MAX_NAMES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let (peer, shown) = (prover.peer(), prover.shown());
    let mut answers = Vec::with_capacity(count);
    for _ in 0..count {
        let mut name = Exporter::default();
        stream.read_exact(&mut name).await?;
        let named = port.connections.find(&name).filter(|connection| {
            matches!(connection.role(), Role::Inbound { port: of, .. } if of == port.number)
                && connection.extend(&peer, &port.connections)
        });
        // The prover has seen ours afresh too.
        if let Some(connection) = &named {
            connection.set_shown(shown);
        }
        answers.push(u8::from(named.is_some()));
    }
    stream.write_all(&answers).await?;
    stream.shutdown().await?;
    Ok(answers.into_iter().filter(|answer| *answer == 1).count())
}
