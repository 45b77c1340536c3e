//! Where the instances of a target are.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use hauberk_identity::SpiffeId;
use hauberk_proto::convert::Discovery;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::dns::{self, DnsName};

/// One place that takes traffic for a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where to connect.
    pub address: SocketAddr,
    /// The instance that registered it; empty where it was found otherwise.
    pub instance: String,
    /// Its agent is connected to the control plane. Prefer these.
    pub confirmed: bool,
}

/// The endpoints of one port of one target, behind a handle that stays while they change.
#[derive(Debug)]
pub struct EndpointSet {
    list: ArcSwap<Vec<Endpoint>>,
    is_known: AtomicBool,
    is_used: AtomicBool,
    changed: Notify,
    /// Set where the endpoints have to be resolved.
    name: Option<DnsName>,
}

/// All endpoint sets in use.
#[derive(Debug, Default)]
pub struct Endpoints {
    registered: Mutex<HashMap<(SpiffeId, u16), Arc<EndpointSet>>>,
    resolved: Mutex<HashMap<DnsName, Arc<EndpointSet>>>,
    wake_resolver: Notify,
}

impl EndpointSet {
    fn new(name: Option<DnsName>) -> Arc<Self> {
        Arc::new(Self {
            list: ArcSwap::default(),
            is_known: AtomicBool::new(false),
            is_used: AtomicBool::new(true),
            changed: Notify::new(),
            name,
        })
    }

    /// A set that never changes.
    pub fn fixed(addresses: &[SocketAddr]) -> Arc<Self> {
        let set = Self::new(None);
        set.replace(addresses.iter().map(|address| Endpoint::found_at(*address)).collect());
        set
    }

    /// The endpoints of this moment. The pointer changes only when the list does, so that a balancer may compare it.
    pub fn snapshot(&self) -> Guard<Arc<Vec<Endpoint>>> {
        // Load before store: the flag is nearly always set, and a needless write would move its cache line about.
        if self.name.is_some() && !self.is_used.load(Ordering::Relaxed) {
            self.is_used.store(true, Ordering::Relaxed);
        }
        self.list.load()
    }

    /// Waits until the endpoints have been told or resolved for the first time, but not longer than `patience`, and
    /// gives those of that moment. For the first use of a service, whose endpoints come just after it.
    pub async fn first_snapshot(&self, patience: Duration) -> Arc<Vec<Endpoint>> {
        let known = async {
            loop {
                let changed = self.changed.notified();
                if self.is_known.load(Ordering::Acquire) {
                    return;
                }
                changed.await;
            }
        };
        // A timeout is no error here: the list is then whatever it is.
        let _ = tokio::time::timeout(patience, known).await;
        Guard::into_inner(self.snapshot())
    }

    pub(super) fn replace(&self, endpoints: Vec<Endpoint>) {
        if **self.list.load() != endpoints {
            self.list.store(Arc::new(endpoints));
        }
        self.is_known.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub(super) fn needs_resolving(&self) -> bool {
        self.is_used.swap(false, Ordering::Relaxed) || !self.is_known.load(Ordering::Acquire)
    }
}

impl Endpoint {
    /// An endpoint that nobody registered.
    pub fn found_at(address: SocketAddr) -> Self {
        Self { address, instance: String::new(), confirmed: true }
    }
}

impl Endpoints {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether an instance that this agent knows takes traffic there.
    pub fn holds(&self, address: SocketAddr) -> bool {
        let registered = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
        registered.values().any(|set| set.list.load().iter().any(|endpoint| endpoint.address == address))
    }

    /// The set for a port of a target, the same one for everybody who asks alike.
    pub fn of(&self, target: &SpiffeId, port: u16, discovery: &Discovery) -> Arc<EndpointSet> {
        match discovery {
            Discovery::Registered => self.registered(target, port),
            Discovery::Fixed(addresses) => EndpointSet::fixed(addresses),
            Discovery::Dns(dns) => self.resolved(DnsName { dns: dns.clone(), port }),
        }
    }

    /// Takes over what the control plane tells of a target's port.
    pub fn update(&self, target: &SpiffeId, port: u16, endpoints: Vec<Endpoint>) {
        self.registered(target, port).replace(endpoints);
    }

    /// Everything the control plane has told, for the state directory and `/config`.
    pub fn registered_snapshot(&self) -> Vec<(SpiffeId, u16, Arc<Vec<Endpoint>>)> {
        let registered = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> =
            registered.iter().map(|((id, port), set)| (id.clone(), *port, set.list.load_full())).collect();
        drop(registered);
        all.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        all
    }

    /// Forgets the sets that no service refers to any longer.
    pub fn drop_unused(&self) {
        self.registered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, set| Arc::strong_count(set) > 1);
        self.resolved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, set| Arc::strong_count(set) > 1);
    }

    /// Resolves names, at first use and every five seconds while they are used, until `stop`.
    pub async fn keep_resolved(&self, stop: CancellationToken) {
        dns::keep_resolved(self, stop).await;
    }

    pub(super) fn sets_to_resolve(&self) -> Vec<(DnsName, Arc<EndpointSet>)> {
        let resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        resolved
            .iter()
            .filter(|(_, set)| set.needs_resolving())
            .map(|(name, set)| (name.clone(), Arc::clone(set)))
            .collect()
    }

    pub(super) async fn name_added(&self) {
        self.wake_resolver.notified().await;
    }

    fn registered(&self, target: &SpiffeId, port: u16) -> Arc<EndpointSet> {
        let mut registered = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(registered.entry((target.clone(), port)).or_insert_with(|| EndpointSet::new(None)))
    }

    fn resolved(&self, name: DnsName) -> Arc<EndpointSet> {
        let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        let set = resolved.entry(name).or_insert_with_key(|name| {
            self.wake_resolver.notify_one();
            EndpointSet::new(Some(name.clone()))
        });
        Arc::clone(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://shop.local/mesh/shop/node/{name}")).unwrap()
    }

    #[tokio::test]
    async fn an_update_reaches_every_holder_of_the_handle() {
        let endpoints = Endpoints::new();
        let set = endpoints.of(&id("orders"), 8080, &Discovery::Registered);
        assert!(set.snapshot().is_empty());
        let told = Endpoint::found_at("127.0.0.1:1".parse().unwrap());
        endpoints.update(&id("orders"), 8080, vec![told.clone()]);
        assert_eq!(**set.snapshot(), vec![told.clone()]);
        let before = Arc::as_ptr(&set.snapshot());
        endpoints.update(&id("orders"), 8080, vec![told]);
        assert_eq!(Arc::as_ptr(&set.snapshot()), before, "an equal list keeps its pointer");
        assert!(endpoints.of(&id("orders"), 8081, &Discovery::Registered).snapshot().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_snapshot_waits_for_the_first_update_only_so_long() {
        let endpoints = Arc::new(Endpoints::new());
        let set = endpoints.of(&id("orders"), 80, &Discovery::Registered);
        assert!(set.first_snapshot(Duration::from_secs(1)).await.is_empty());
        let (got, ()) = tokio::join!(set.first_snapshot(Duration::from_secs(60)), async {
            endpoints.update(&id("orders"), 80, vec![Endpoint::found_at("127.0.0.1:1".parse().unwrap())]);
        });
        assert_eq!(got.len(), 1);
    }

    #[test]
    fn forgets_what_nobody_holds() {
        let endpoints = Endpoints::new();
        let held = endpoints.of(&id("a"), 1, &Discovery::Registered);
        endpoints.update(&id("b"), 1, vec![]);
        endpoints.drop_unused();
        assert_eq!(endpoints.registered_snapshot().len(), 1);
        drop(held);
    }
}
