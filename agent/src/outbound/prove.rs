//! Where renewed certificates are proved for connections that stay open (see `inbound/prove.rs` for the other side).
//!
//! The fresh handshake is mutual: we prove ours, and the far agent its own, for all the connections between us.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use hauberk_identity::SpiffeId;
use hauberk_tls::{ServerExpectation, Svid};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::http::chain;
use super::peer::HANDSHAKE_PATIENCE;
use crate::connections::{Connection, Connections, shown_by};
use crate::wire::{alpn, socket};

/// How often connections are looked through.
const EVERY: Duration = Duration::from_secs(5);
/// How often, while one authority follows another and there are peers that have not proved a certificate by the new one.
const EVERY_IN_SUCCESSION: Duration = Duration::from_secs(1);
/// How long before the far agent's certificate ends it is asked for a newer one: it renews at half life, so that there is
/// one unless its life is shorter than a few minutes.
const ASK_BEFORE: Duration = Duration::from_secs(5 * 60);
/// How long one proof may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most proofs at once.
const MAX_PROOFS: usize = 8;
/// The most connections that one proof names.
const MAX_NAMES: usize = 1_024;

/// Proves, again and again, whatever needs it.
pub(super) async fn keep_proved(connections: &Arc<Connections>) {
    let mut identity = connections.context().identity.subscribe();
    loop {
        let pause = if connections.is_succession_under_way() { EVERY_IN_SUCCESSION } else { EVERY };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Ok(()) = identity.changed() => {}
        }
        let proofs = stream::iter(stale(connections));
        proofs
            .for_each_concurrent(MAX_PROOFS, |((address, id), stale)| async move {
                for some in stale.chunks(MAX_NAMES) {
                    let proof = prove(connections, address, &id, some);
                    let error = match tokio::time::timeout(PATIENCE, proof).await {
                        Ok(Ok(())) => continue,
                        Ok(Err(error)) => chain(&error),
                        Err(_) => "too slow".to_owned(),
                    };
                    tracing::warn!(event = "certificate_not_proved", %address, error);
                }
            })
            .await;
    }
}

type ByPeer = HashMap<(SocketAddr, SpiffeId), Vec<Arc<Connection>>>;

/// The connections on which our certificate, or the far agent's, is no longer the newest, by whom they lead to.
fn stale(connections: &Connections) -> ByPeer {
    let context = connections.context();
    let now = context.clock.now();
    let own = shown_by(&context.identity.current());
    let mut by_peer = ByPeer::new();
    for connection in connections.outgoing() {
        let ends_soon = now.plus(ASK_BEFORE) > connection.proven_until();
        // What has been retired is about to end by itself, unless something is still going on.
        if own != connection.shown() || ends_soon || connections.is_proof_due(&connection) {
            let key = (connection.address(), connection.peer().id().clone());
            by_peer.entry(key).or_default().push(connection);
        }
    }
    by_peer
}

async fn prove(
    connections: &Connections,
    address: SocketAddr,
    id: &SpiffeId,
    stale: &[Arc<Connection>],
) -> io::Result<()> {
    let identity = &connections.context().identity;
    let current = identity.current();
    let own_until = current.svid().map(Svid::validity);
    let expected = ServerExpectation::AnyOf([id.clone()].into());
    let connector =
        identity.connector(expected, &[alpn::PROVE], true, HANDSHAKE_PATIENCE).map_err(io::Error::other)?;
    let stream =
        connector.connect(socket::connect(address, PATIENCE).await?).await.map_err(io::Error::other)?;
    if stream.alpn() != Some(alpn::PROVE) {
        return Err(io::Error::other("the far agent does not take proofs"));
    }
    let (mut stream, peer) = stream.into_parts();
    let mut names = Vec::with_capacity(2 + 32 * stale.len());
    names.extend(u16::try_from(stale.len()).map_err(io::Error::other)?.to_be_bytes());
    for connection in stale {
        names.extend(connection.exporter());
    }
    stream.write_all(&names).await?;
    stream.flush().await?;
    let mut answers = vec![0; stale.len()];
    stream.read_exact(&mut answers).await?;
    for (connection, answer) in stale.iter().zip(answers) {
        if let (1, Some(own), Some(peer)) = (answer, own_until, &peer) {
            connection.set_own_until(own.not_after());
            connection.set_shown(shown_by(&current));
            connection.extend(peer, connections);
        }
    }
    Ok(())
}
