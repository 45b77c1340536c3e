//! Which endpoint a request or stream is given to.
//!
//! Of two endpoints picked at random the less loaded one is taken, which costs the same however many there are.
//! Endpoints whose agent is connected to the control plane come first; those that lately could not be reached rest for
//! a while, unless there is no other.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use hauberk_identity::{Name, SpiffeId};
use hauberk_policy::Protocol;
use hauberk_tls::SetupError;

use super::peer::Peer;
use super::route::Route;
use crate::context::Context;
use crate::mesh::{Endpoint, EndpointSet, ServicePort};
use crate::metrics::ServiceMetrics;
use crate::wire::budget::Budget;

/// After how many rounds of pruning an unused group is forgotten.
const MAX_IDLE_ROUNDS: u8 = 60;

/// The endpoints in use, grouped by what they serve.
#[derive(Debug)]
pub(super) struct Balancer {
    groups: ArcSwap<HashMap<Name, Vec<Arc<Group>>>>,
    /// Kept while their groups change, with their connections.
    peers: Mutex<HashMap<PeerKey, Arc<Peer>>>,
    /// The places of connections to all of them.
    budget: Budget,
}

type PeerKey = (SpiffeId, SocketAddr, Protocol);

/// The endpoints of one port of a service.
#[derive(Debug)]
pub(super) struct Group {
    port: u16,
    protocol: Protocol,
    /// Of each target: who it must be, and where it was. Two targets may share one set of endpoints, found by one DNS
    /// name, so that the set alone does not tell who is expected there.
    made_of: Vec<(SpiffeId, Arc<EndpointSet>, Arc<Vec<Endpoint>>)>,
    /// Where the service is counted.
    metrics: Arc<ServiceMetrics>,
    confirmed: Vec<Arc<Peer>>,
    others: Vec<Arc<Peer>>,
    /// Rounds of pruning since it was used.
    idle_rounds: AtomicU8,
}

impl Balancer {
    /// No endpoints yet. Connections to all of them have their places in `budget`.
    pub(super) fn new(budget: Budget) -> Self {
        Self { groups: ArcSwap::default(), peers: Mutex::default(), budget }
    }

    /// The endpoints that a route leads to at the moment.
    ///
    /// # Errors
    /// No TLS configuration can be made.
    pub(super) fn group(&self, route: &Route, context: &Context) -> Result<Option<Arc<Group>>, SetupError> {
        let Some(port) = route.port() else { return Ok(None) };
        let groups = self.groups.load();
        let kept = groups
            .get(&route.service().name)
            .and_then(|of| of.iter().find(|group| group.port == port.number));
        match kept {
            Some(group) if group.is_made_of(port) => {
                // Load before store: this is the path of every request.
                if group.idle_rounds.load(Ordering::Relaxed) > 0 {
                    group.idle_rounds.store(0, Ordering::Relaxed);
                }
                Ok(Some(Arc::clone(group)))
            }
            _ => self.regroup(&route.service().name, port, context).map(Some),
        }
    }

    /// Forgets endpoints that no service in use has any longer, and closes connections that nobody has used for long.
    pub(super) fn prune(&self) {
        let is_used = |group: &Arc<Group>| group.idle_rounds.load(Ordering::Relaxed) < MAX_IDLE_ROUNDS;
        let groups = self.groups.load();
        groups.values().flatten().for_each(|group| {
            group.idle_rounds.fetch_add(1, Ordering::Relaxed);
        });
        if !groups.values().flatten().all(is_used) {
            self.groups.rcu(|groups| {
                let mut groups = HashMap::clone(groups);
                groups.values_mut().for_each(|of_service| of_service.retain(is_used));
                groups.retain(|_, of_service| !of_service.is_empty());
                groups
            });
        }
        let mut peers = self.peers();
        peers.retain(|_, peer| Arc::strong_count(peer) > 1);
        let left: Vec<_> = peers.values().cloned().collect();
        drop(peers);
        for peer in left {
            peer.prune();
        }
    }

    /// Forgets all endpoints. Connections to them end when what is under way on them has.
    pub(super) fn clear(&self) {
        self.groups.store(Arc::default());
        self.peers().clear();
    }

    fn regroup(&self, name: &Name, port: &ServicePort, context: &Context) -> Result<Arc<Group>, SetupError> {
        let mut group = Group {
            port: port.number,
            protocol: port.protocol,
            made_of: Vec::with_capacity(port.targets.len()),
            metrics: context.metrics.service(name),
            confirmed: Vec::new(),
            others: Vec::new(),
            idle_rounds: AtomicU8::new(0),
        };
        let mut peers = self.peers();
        for target in &port.targets {
            let endpoints = Arc::clone(&target.endpoints.snapshot());
            for endpoint in &*endpoints {
                let key = (target.spiffe_id.clone(), endpoint.address, port.protocol);
                let peer = match peers.get(&key) {
                    Some(peer) => Arc::clone(peer),
                    None => {
                        let peer = Arc::new(Peer::new(
                            &context.identity,
                            &target.spiffe_id,
                            endpoint.address,
                            port.protocol,
                            &self.budget,
                        )?);
                        peers.insert(key, Arc::clone(&peer));
                        peer
                    }
                };
                if endpoint.confirmed { group.confirmed.push(peer) } else { group.others.push(peer) }
            }
            group.made_of.push((target.spiffe_id.clone(), Arc::clone(&target.endpoints), endpoints));
        }
        drop(peers);
        let group = Arc::new(group);
        self.groups.rcu(|groups| {
            let mut groups = HashMap::clone(groups);
            let of_service = groups.entry(name.clone()).or_default();
            of_service.retain(|other| other.port != group.port);
            of_service.push(Arc::clone(&group));
            groups
        });
        Ok(group)
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<PeerKey, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Group {
    /// An endpoint that is not among `tried`. `now` is on the clock by which endpoints rest.
    pub(super) fn pick(&self, now: u64, tried: &[Arc<Peer>]) -> Option<Arc<Peer>> {
        let is_new = |peer: &Arc<Peer>| !tried.iter().any(|other| Arc::ptr_eq(other, peer));
        let is_good = |peer: &Arc<Peer>| is_new(peer) && !peer.rests(now);
        pick_from(&self.confirmed, is_good)
            .or_else(|| pick_from(&self.others, is_good))
            .or_else(|| pick_from(&self.confirmed, is_new))
            .or_else(|| pick_from(&self.others, is_new))
            .cloned()
    }

    /// Where the service is counted.
    pub(super) fn metrics(&self) -> &Arc<ServiceMetrics> {
        &self.metrics
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.confirmed.is_empty() && self.others.is_empty()
    }

    fn is_made_of(&self, port: &ServicePort) -> bool {
        self.protocol == port.protocol
            && self.made_of.len() == port.targets.len()
            && self.made_of.iter().zip(&port.targets).all(|((id, set, endpoints), target)| {
                *id == target.spiffe_id
                    && Arc::ptr_eq(set, &target.endpoints)
                    && Arc::ptr_eq(endpoints, &target.endpoints.snapshot())
            })
    }
}

fn pick_from(peers: &[Arc<Peer>], is_good: impl Fn(&Arc<Peer>) -> bool) -> Option<&Arc<Peer>> {
    let first = random_below(peers.len())?;
    // Any but the first, each as likely as the others.
    let second = random_below(peers.len() - 1).map(|step| (first + 1 + step) % peers.len());
    let good = |index: usize| peers.get(index).filter(|peer| is_good(peer));
    match (good(first), second.and_then(good)) {
        (Some(a), Some(b)) => Some(if b.load() < a.load() { b } else { a }),
        (Some(one), None) | (None, Some(one)) => Some(one),
        // Seldom: most are resting or tried.
        (None, None) => {
            let (before, from) = peers.split_at_checked(first)?;
            from.iter().chain(before).find(|peer| is_good(peer))
        }
    }
}

/// A number below `bound`, good enough to spread load by.
fn random_below(bound: usize) -> Option<usize> {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(0) | 1);
    }
    let next = STATE.with(|state| {
        let mut x = state.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        state.set(x);
        x
    });
    (next >> 32).checked_rem(bound as u64).and_then(|index| usize::try_from(index).ok())
}

#[cfg(test)]
mod tests;
