//! Where instances take traffic: registered by their agents, durable, and published to those who call them.
//!
//! A lost stream only marks an instance's endpoints as unconfirmed; they go 30 s later. What the store holds when the
//! control plane starts is published as unconfirmed and has 30 s from then on, so that a restart empties nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hauberk_identity::{InstanceId, SpiffeId};
use hauberk_proto::agent::v1 as agent;
use prost::Message;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::registration::Registration;
use crate::registry::{Commit, Pace, Store, StoreError, WriteBehind, keys};

/// How long an endpoint outlives the stream of its agent.
pub const UNCONFIRMED_FOR: Duration = Duration::from_secs(30);

/// Changes that come closer together than this are published together.
const PUBLISH_EVERY: Duration = Duration::from_millis(50);

/// How registrations are written.
const PACE: Pace = Pace {
    every: Duration::from_millis(100),
    again_after: Duration::from_secs(1),
    event: "endpoints_not_written",
    meaning: "registered endpoints are not durable",
};

/// One listener of one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetPort {
    /// The node's id, which its agents prove.
    pub spiffe_id: SpiffeId,
    /// The listener's port.
    pub port: u16,
}

/// All endpoints there are, each target's list shared and replaced only when it changes.
pub type EndpointSnapshot = HashMap<TargetPort, Arc<[agent::Endpoint]>>;

/// The registered endpoints of all nodes.
#[derive(Debug)]
pub struct Endpoints {
    state: Mutex<State>,
    published: watch::Sender<Arc<EndpointSnapshot>>,
    /// Something is to be published, or a deadline was set.
    changed: Notify,
    /// Registrations that the store does not hold as they are.
    unwritten: WriteBehind<(SpiffeId, InstanceId)>,
}

#[derive(Debug, Default)]
struct State {
    by_node: BTreeMap<SpiffeId, BTreeMap<InstanceId, Registered>>,
    /// Nodes whose lists are to be made anew.
    dirty: BTreeSet<SpiffeId>,
}

#[derive(Debug)]
struct Registered {
    registration: Registration,
    /// The stream that registered it, by its number; 0: one of a former control plane.
    session: u64,
    /// `None` while the agent is connected.
    unconfirmed_until: Option<Instant>,
}

impl Endpoints {
    /// Reads what was registered before the control plane started.
    ///
    /// # Errors
    /// When the store cannot be read. A record that does not parse is left out, and said so.
    pub async fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let until = Instant::now() + UNCONFIRMED_FOR;
        let mut state = State::default();
        let mut after = None;
        loop {
            let page = store.list(keys::ENDPOINTS, after.as_deref(), 1_000).await?;
            for (key, stored) in &page.entries {
                let Some((spiffe_id, instance, registration)) = parse_record(key, &stored.value) else {
                    error!(event = "endpoint_record_unreadable", key, "a registered endpoint is left out");
                    continue;
                };
                let registered = Registered { registration, session: 0, unconfirmed_until: Some(until) };
                state.by_node.entry(spiffe_id).or_default().insert(instance, registered);
            }
            after = page.entries.last().map(|(key, _)| key.clone());
            if !page.more {
                break;
            }
        }
        state.dirty = state.by_node.keys().cloned().collect();
        let mut snapshot = EndpointSnapshot::new();
        state.refresh(&mut snapshot);
        Ok(Self {
            state: Mutex::new(state),
            published: watch::Sender::new(Arc::new(snapshot)),
            changed: Notify::new(),
            unwritten: WriteBehind::new(PACE),
        })
    }

    /// Follows what is published.
    pub fn subscribe(&self) -> watch::Receiver<Arc<EndpointSnapshot>> {
        self.published.subscribe()
    }

    /// Takes the whole registration of an instance, sent on the stream `session`, in place of its former one; nothing
    /// where a later stream has registered. Whoever drains is no longer published.
    pub fn register(
        &self,
        spiffe_id: &SpiffeId,
        instance: InstanceId,
        session: u64,
        registration: Registration,
    ) {
        let mut state = self.lock();
        let instances = state.by_node.entry(spiffe_id.clone()).or_default();
        let former = instances.get(&instance);
        if former.is_some_and(|former| former.session > session) {
            return;
        }
        let written = former.is_none_or(|former| former.registration != registration);
        instances.insert(instance, Registered { registration, session, unconfirmed_until: None });
        state.dirty.insert(spiffe_id.clone());
        drop(state);
        self.changed.notify_one();
        if written {
            self.unwritten.add((spiffe_id.clone(), instance));
        }
    }

    /// Marks an instance as unconfirmed, because its stream is lost, unless a later stream has registered. One that
    /// was draining is gone.
    pub fn disconnected(&self, spiffe_id: &SpiffeId, instance: InstanceId, session: u64) {
        let mut state = self.lock();
        let registered = state.by_node.get_mut(spiffe_id).and_then(|node| node.get_mut(&instance));
        let Some(registered) = registered.filter(|registered| registered.session <= session) else { return };
        let is_gone = registered.registration.draining;
        if is_gone {
            state.remove(spiffe_id, instance);
        } else {
            registered.unconfirmed_until = Some(Instant::now() + UNCONFIRMED_FOR);
        }
        state.dirty.insert(spiffe_id.clone());
        drop(state);
        self.changed.notify_one();
        if is_gone {
            self.unwritten.add((spiffe_id.clone(), instance));
        }
    }

    /// Removes what an instance has registered, at once: nobody is to be sent to it any longer.
    pub fn forget(&self, spiffe_id: &SpiffeId, instance: InstanceId) {
        let mut state = self.lock();
        if !state.by_node.get(spiffe_id).is_some_and(|node| node.contains_key(&instance)) {
            return;
        }
        state.remove(spiffe_id, instance);
        drop(state);
        self.changed.notify_one();
        self.unwritten.add((spiffe_id.clone(), instance));
    }

    /// What an instance has registered.
    pub fn registration(&self, spiffe_id: &SpiffeId, instance: InstanceId) -> Option<Registration> {
        Some(self.lock().by_node.get(spiffe_id)?.get(&instance)?.registration.clone())
    }

    /// Publishes changes, removes what stays unconfirmed and writes registrations, until `stop`; what is unwritten
    /// then is written before this returns.
    pub async fn run(&self, store: &dyn Store, stop: &CancellationToken) {
        let record = |commit, key: &(SpiffeId, InstanceId)| Ok(self.record(commit, key));
        tokio::join!(self.publish(stop), self.unwritten.run(store, record, stop));
    }

    async fn publish(&self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let next_removal = self.publish_once();
            // The first change goes out at once, those that follow it closely go together.
            sleep(PUBLISH_EVERY).await;
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.changed.notified() => {}
                () = sleep_until_some(next_removal) => {}
            }
        }
    }

    /// Gives the instant at which the next endpoint is to be removed.
    fn publish_once(&self) -> Option<Instant> {
        let mut state = self.lock();
        let (removed, next_removal) = state.remove_overdue(Instant::now());
        removed.into_iter().for_each(|key| self.unwritten.add(key));
        if !state.dirty.is_empty() {
            let mut snapshot = EndpointSnapshot::clone(&self.published.borrow());
            if state.refresh(&mut snapshot) {
                self.published.send_replace(Arc::new(snapshot));
            }
        }
        next_removal
    }

    /// Adds to a commit what an instance has registered; nothing is remembered of one that drains.
    fn record(&self, commit: Commit, (spiffe_id, instance): &(SpiffeId, InstanceId)) -> Commit {
        let key = format!("{}{spiffe_id}/{instance}", keys::ENDPOINTS);
        let registration = self.registration(spiffe_id, *instance).filter(|registered| !registered.draining);
        match registration {
            Some(registration) => commit.put(key, registration.to_message().encode_to_vec()),
            None => commit.delete(key),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remove(&mut self, spiffe_id: &SpiffeId, instance: InstanceId) {
        if let Some(node) = self.by_node.get_mut(spiffe_id) {
            node.remove(&instance);
            if node.is_empty() {
                self.by_node.remove(spiffe_id);
            }
        }
        self.dirty.insert(spiffe_id.clone());
    }

    /// Removes what has been unconfirmed for long enough: says what, and when there is more to remove.
    fn remove_overdue(&mut self, now: Instant) -> (Vec<(SpiffeId, InstanceId)>, Option<Instant>) {
        let mut next: Option<Instant> = None;
        let mut overdue = Vec::new();
        for (spiffe_id, node) in &self.by_node {
            for (instance, registered) in node {
                match registered.unconfirmed_until {
                    Some(until) if until <= now => overdue.push((spiffe_id.clone(), *instance)),
                    Some(until) => next = Some(next.map_or(until, |next| next.min(until))),
                    None => {}
                }
            }
        }
        for (spiffe_id, instance) in &overdue {
            info!(event = "endpoint_removed", %spiffe_id, %instance, "its agent has not come back");
            self.remove(spiffe_id, *instance);
        }
        (overdue, next)
    }

    /// Makes the lists of the dirty nodes anew and puts those that changed into the snapshot.
    fn refresh(&mut self, snapshot: &mut EndpointSnapshot) -> bool {
        let dirty = std::mem::take(&mut self.dirty);
        let mut lists: HashMap<TargetPort, Vec<agent::Endpoint>> = HashMap::new();
        for spiffe_id in &dirty {
            for (instance, registered) in self.by_node.get(spiffe_id).into_iter().flatten() {
                for (port, address) in registered.registration.open_ports() {
                    let target = TargetPort { spiffe_id: spiffe_id.clone(), port };
                    lists.entry(target).or_default().push(agent::Endpoint {
                        address: address.to_string(),
                        instance_id: instance.to_string(),
                        confirmed: registered.unconfirmed_until.is_none(),
                    });
                }
            }
        }
        let before = snapshot.len();
        snapshot.retain(|target, _| !dirty.contains(&target.spiffe_id) || lists.contains_key(target));
        let mut changed = snapshot.len() != before;
        for (target, list) in lists {
            if snapshot.get(&target).is_none_or(|former| former[..] != list[..]) {
                snapshot.insert(target, list.into());
                changed = true;
            }
        }
        changed
    }
}

fn parse_record(key: &str, value: &Bytes) -> Option<(SpiffeId, InstanceId, Registration)> {
    let (spiffe_id, instance) = key.strip_prefix(keys::ENDPOINTS)?.rsplit_once('/')?;
    let message = agent::Register::decode(value.clone()).ok()?;
    let registration = Registration::parse(&message).ok()?;
    Some((SpiffeId::parse(spiffe_id).ok()?, InstanceId::parse(instance).ok()?, registration))
}

async fn sleep_until_some(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
