//! Where renewed certificates are proved for connections that stay open (see `inbound/prove.rs` for the other side).
//!
//! The fresh handshake is mutual: we prove ours, and the far agent its own, for all the connections between us.
//!
//! Whoever is gone does not answer, and must not keep the living waiting: a peer is first given little time, and more
//! only at other places; where that was not enough either, it waits among its like from then on.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use hauberk_identity::{SpiffeId, UnixMillis};
use hauberk_tls::{ServerExpectation, Svid};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout};

use super::peer::HANDSHAKE_PATIENCE;
use crate::connections::{Connection, Connections, shown_by};
use crate::skew::TOLERATED;
use crate::wire::causes::chain;
use crate::wire::{alpn, socket};

/// How often connections are looked through.
const EVERY: Duration = Duration::from_secs(5);
/// How often, while one authority follows another and there are peers that have not proved a certificate by the new
/// one.
const EVERY_IN_SUCCESSION: Duration = Duration::from_secs(1);
/// How long before the far agent's certificate ends it is asked for a newer one, at the most and at the least. It
/// renews at half life, so that there is one when a third is left; and a connection is given nothing new ten seconds
/// before its end.
const ASK_BEFORE: Duration = Duration::from_secs(5 * 60);
const ASK_BEFORE_AT_LEAST: Duration = Duration::from_secs(20);
/// How long one proof may take at first, and how long where that was not enough.
const PROMPT: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(10);
/// The most proofs at once with peers of which nothing bad is known, with those that were too slow, and with those that
/// have failed even so: they are mostly dead, and the slow do not wait for them.
const MAX_PROMPT: usize = 32;
const MAX_PATIENT: usize = 16;
const MAX_FAILED: usize = 16;
/// The most connections that one proof names.
const MAX_NAMES: usize = 1_024;

/// Proves, again and again, whatever needs it.
pub(super) async fn keep_proved(connections: &Arc<Connections>) {
    let mut identity = connections.context().identity.subscribe();
    let places = Places::new();
    let mut proofs = FuturesUnordered::new();
    let (mut under_way, mut failed) = (HashSet::new(), HashSet::new());
    let mut next_look = Instant::now() + pause(connections);
    loop {
        tokio::select! {
            () = sleep_until(next_look) => {}
            Ok(()) = identity.changed() => {}
            Some((peer, has_failed)) = proofs.next() => {
                under_way.remove(&peer);
                if has_failed { failed.insert(peer) } else { failed.remove(&peer) };
                continue;
            }
        }
        let by_peer = stale(connections);
        failed.retain(|peer| by_peer.contains_key(peer));
        for (peer, stale) in by_peer {
            if under_way.insert(peer.clone()) {
                let has_failed = failed.contains(&peer);
                proofs.push(places.prove_all(connections, peer, stale, has_failed));
            }
        }
        next_look = Instant::now() + pause(connections);
    }
}

fn pause(connections: &Connections) -> Duration {
    if connections.is_succession_under_way() { EVERY_IN_SUCCESSION } else { EVERY }
}

/// Whom connections lead to.
type Peer = (SocketAddr, SpiffeId);
type ByPeer = HashMap<Peer, Vec<Arc<Connection>>>;

/// How many proofs there are at once.
struct Places {
    prompt: Semaphore,
    patient: Semaphore,
    failed: Semaphore,
}

impl Places {
    fn new() -> Self {
        Self {
            prompt: Semaphore::new(MAX_PROMPT),
            patient: Semaphore::new(MAX_PATIENT),
            failed: Semaphore::new(MAX_FAILED),
        }
    }

    /// Gives the peer back, and whether it has failed with patience too.
    async fn prove_all(
        &self,
        connections: &Connections,
        peer: Peer,
        stale: Vec<Arc<Connection>>,
        mut has_failed: bool,
    ) -> (Peer, bool) {
        for some in stale.chunks(MAX_NAMES) {
            has_failed = self.prove(connections, &peer, some, has_failed).await;
        }
        (peer, has_failed)
    }

    async fn prove(
        &self,
        connections: &Connections,
        (address, id): &Peer,
        stale: &[Arc<Connection>],
        has_failed: bool,
    ) -> bool {
        if !has_failed {
            let _place = self.prompt.acquire().await;
            if let Ok(outcome) = timeout(PROMPT, prove(connections, *address, id, stale)).await {
                tell(*address, outcome);
                return false;
            }
        }
        let places = if has_failed { &self.failed } else { &self.patient };
        let _place = places.acquire().await;
        let outcome = timeout(PATIENCE, prove(connections, *address, id, stale)).await;
        let outcome = outcome.unwrap_or_else(|_| Err(io::Error::other("too slow")));
        let has_failed = outcome.is_err();
        tell(*address, outcome);
        has_failed
    }
}

fn tell(address: SocketAddr, outcome: io::Result<()>) {
    if let Err(error) = outcome {
        tracing::warn!(event = "certificate_not_proved", %address, error = chain(&error));
    }
}

/// The connections on which our certificate, or the far agent's, is no longer the newest, by whom they lead to.
fn stale(connections: &Connections) -> ByPeer {
    let context = connections.context();
    let now = context.clock.now();
    let own = shown_by(&context.identity.current());
    let mut by_peer = ByPeer::new();
    for connection in connections.outgoing() {
        let (since, until) = (connection.proven_since(), connection.proven_until());
        let ends_soon = now.plus(ask_before(since, until)) > until;
        // What has been retired is about to end by itself, unless something is still going on.
        if own != connection.shown() || ends_soon || connections.is_proof_due(&connection) {
            let key = (connection.address(), connection.peer().id().clone());
            by_peer.entry(key).or_default().push(connection);
        }
    }
    by_peer
}

/// How long before its end a certificate that is valid for this long should have a successor.
fn ask_before(since: UnixMillis, until: UnixMillis) -> Duration {
    let validity = until.since(since);
    // It was valid before it was issued, so that clocks may differ.
    let life = validity.checked_sub(TOLERATED).unwrap_or(validity);
    (life / 3).clamp(ASK_BEFORE_AT_LEAST, ASK_BEFORE)
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

#[cfg(test)]
mod tests;
