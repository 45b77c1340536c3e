//! The agents there are: who holds a certificate, who is connected, what each has put in force.
//!
//! What an issued certificate tells is read from the store, so that an instance which is not connected is known after
//! a restart too; the rest is what its stream has said since this control plane started.

mod certificates;
mod connected;
mod denied;
mod dismissal;
mod enforcement;
mod rollout;
mod trust;
pub(crate) mod wanted;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hauberk_identity::{InstanceId, Name, NodeName, Serial, SpiffeId, UnixMillis};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::revocation::{Denial, Denylist, Mark};

use hauberk_proto::agent::v1 as agent;
use hauberk_tls::PeerIdentity;

pub use certificates::Recorded;
pub use connected::Connected;
use denied::DenylistProgress;
use dismissal::Dismissal;
pub use enforcement::{Enforcement, Lag, Refusal, ViewMark};
pub use rollout::{Laggard, Rollout, fix_of_absence};
pub use trust::Trusting;

/// How long an instance is listed after its last certificate has expired.
const LISTED_AFTER_EXPIRY: Duration = Duration::from_secs(3_600);

/// A certificate that was issued to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IssuedTo {
    /// Its serial number.
    pub serial: Serial,
    /// When, where that is known.
    pub issued_at: Option<UnixMillis>,
    /// Its end.
    pub not_after: UnixMillis,
}

/// Who is at the other end of a stream, as its certificate proved.
#[derive(Debug, Clone)]
pub struct Peer {
    /// A node's or gateway's id.
    pub spiffe_id: SpiffeId,
    /// Its mesh.
    pub mesh: Name,
    /// The virtual node or gateway.
    pub node: NodeName,
    /// Which node of that name it joined, where that is recorded.
    pub node_uid: Option<String>,
    /// Which instance of it.
    pub instance: InstanceId,
    /// The certificate that it proved.
    pub certificate: IssuedTo,
    /// Where it called from.
    pub address: Option<SocketAddr>,
    /// The proof, to be held against what is trusted later.
    pub proof: Option<PeerIdentity>,
}

impl Peer {
    /// Puts a peer together; `None` where the id is not a node's or gateway's.
    pub fn new(
        spiffe_id: SpiffeId,
        instance: InstanceId,
        node_uid: Option<String>,
        certificate: IssuedTo,
        address: Option<SocketAddr>,
    ) -> Option<Self> {
        let (mesh, node) = spiffe_id.mesh_and_node()?;
        Some(Self { spiffe_id, mesh, node, node_uid, instance, certificate, address, proof: None })
    }
}

/// What an agent says of itself when it begins; shown, trusted for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HelloFacts {
    /// Of the agent.
    pub version: String,
    /// Of its host.
    pub hostname: String,
    /// What it can enforce.
    pub features: BTreeSet<String>,
    /// Its clock less ours, in milliseconds.
    pub clock_skew_ms: i64,
    /// The highest (epoch, revision) it has accepted, where that is above ours.
    pub ahead: Option<(u64, u64)>,
    /// Whether it counts what it decides; agents of former releases do not.
    pub reports_flows: bool,
}

/// A question to a connected agent about a decision of its own.
#[derive(Debug)]
pub struct Ask {
    /// Which decision.
    pub decision_id: String,
    /// Where the answer goes; `None` in it: the agent does not know.
    pub answer: oneshot::Sender<Option<agent::DecisionDetail>>,
}

/// All instances. Every change is told to whoever follows [`Instances::changes`].
#[derive(Debug, Default)]
pub struct Instances {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    unwritten_trust: trust::Unwritten,
}

#[derive(Debug, Default)]
struct State {
    by_id: HashMap<InstanceId, Instance>,
    by_node: BTreeMap<SpiffeId, BTreeSet<InstanceId>>,
    last_session: u64,
    connected: usize,
    /// Who is refused by everybody, and so counts as nobody.
    denylist: Arc<Denylist>,
    /// The number that it should have.
    recorded_denylist: u64,
}

#[derive(Debug)]
struct Instance {
    spiffe_id: SpiffeId,
    mesh: Name,
    node: NodeName,
    node_uid: Option<String>,
    token: Option<String>,
    /// The one that ends last of those that are known.
    certificate: IssuedTo,
    /// The others that are known; they may be good where that one was revoked.
    others: Vec<IssuedTo>,
    session: Option<Session>,
    last_seen: Option<UnixMillis>,
    address: Option<SocketAddr>,
    hello: Option<HelloFacts>,
    enforcement: Enforcement,
    denylist: DenylistProgress,
    dismissal: Dismissal,
    /// Why its last registration was not taken.
    registration_refused: Option<String>,
    /// The version of trust that it has in force.
    trust_version: u64,
    /// The ids of the keys that it believes, as far as it has said so since this control plane started.
    view_keys: Vec<String>,
}

#[derive(Debug)]
struct Session {
    number: u64,
    /// Of the certificate that it was begun with.
    serial: Serial,
    since: UnixMillis,
    superseded: CancellationToken,
    questions: mpsc::Sender<Ask>,
}

/// One instance as it is shown.
#[derive(Debug, Clone)]
pub struct Report {
    /// Which.
    pub id: InstanceId,
    /// What it proves to be.
    pub spiffe_id: SpiffeId,
    /// Its mesh.
    pub mesh: Name,
    /// Its node or gateway.
    pub node: NodeName,
    /// Which node of that name it joined, where that is recorded.
    pub node_uid: Option<String>,
    /// The id of the join token that it came by, where that is recorded.
    pub token: Option<String>,
    /// Of its certificates that nobody refuses the last, or else the last of all.
    pub certificate: IssuedTo,
    /// Since when its stream is up.
    pub connected_since: Option<UnixMillis>,
    /// When it last said something.
    pub last_seen: Option<UnixMillis>,
    /// Where it called from.
    pub address: Option<SocketAddr>,
    /// What it said of itself; `None` when it has not been connected since this control plane started.
    pub hello: Option<HelloFacts>,
    /// The node view in force.
    pub in_force: Option<ViewMark>,
    /// The refusal that stands.
    pub refusal: Option<Refusal>,
    /// Why its last registration was not taken.
    pub registration_refused: Option<String>,
    /// Why everybody refuses it, if so.
    pub denial: Option<Denial>,
}

impl Instances {
    /// Follows the fact that something has changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// A stream of `peer` begins with its Hello. An older stream of the same instance is told to end.
    pub fn connect(
        self: &Arc<Self>,
        peer: &Peer,
        hello: HelloFacts,
        enforcement: Enforcement,
        denylist: Option<Mark>,
        questions: mpsc::Sender<Ask>,
        now: UnixMillis,
    ) -> Connected {
        let superseded = CancellationToken::new();
        let number = self.change(|state| {
            state.last_session += 1;
            let number = state.last_session;
            let instance = state.know(peer);
            instance.hold(peer.certificate);
            instance.last_seen = Some(now);
            instance.address = peer.address;
            instance.hello = Some(hello);
            instance.enforcement = enforcement;
            instance.denylist = DenylistProgress { in_force: denylist, pushed: None };
            instance.dismissal = Dismissal::default();
            instance.registration_refused = None;
            let serial = peer.certificate.serial;
            let session = Session { number, serial, since: now, superseded: superseded.clone(), questions };
            match instance.session.replace(session) {
                Some(older) => older.superseded.cancel(),
                None => state.connected += 1,
            }
            number
        });
        Connected::new(Arc::clone(self), peer.instance, number, superseded)
    }

    /// Whether a node has this many live instances, or more.
    pub fn has_live(&self, node: &SpiffeId, uid: &str, count: usize, now: UnixMillis) -> bool {
        let state = self.lock();
        let Some(ids) = state.by_node.get(node).filter(|ids| ids.len() >= count) else { return false };
        let is_live = |id: &&InstanceId| {
            state.by_id.get(id).is_some_and(|instance| {
                state.is_live(instance, now) && instance.node_uid.as_deref().is_none_or(|of| of == uid)
            })
        };
        ids.iter().filter(is_live).count() >= count
    }

    /// How many streams are up.
    pub fn connected(&self) -> usize {
        self.lock().connected
    }

    /// Whether anything is known of this instance.
    pub fn node_of(&self, instance: InstanceId) -> Option<SpiffeId> {
        self.lock().by_id.get(&instance).map(|instance| instance.spiffe_id.clone())
    }

    /// Where questions to a connected instance go.
    pub fn questions(&self, instance: InstanceId) -> Option<mpsc::Sender<Ask>> {
        let state = self.lock();
        Some(state.by_id.get(&instance)?.session.as_ref()?.questions.clone())
    }

    /// A live instance of `node` that has said what it can enforce, and lacks one of `features`.
    pub fn missing_features(
        &self,
        node: &SpiffeId,
        features: &[&str],
        now: UnixMillis,
    ) -> Option<InstanceId> {
        let state = self.lock();
        state.by_node.get(node)?.iter().copied().find(|id| {
            state.by_id.get(id).is_some_and(|instance| {
                state.is_live(instance, now)
                    && !instance.dismissal.is_obeyed
                    && instance.hello.as_ref().is_some_and(|hello| {
                        features.iter().any(|feature| !hello.features.contains(*feature))
                    })
            })
        })
    }

    /// What is known of every instance that `wanted` picks, in the order of their nodes.
    pub fn reports(&self, wanted: impl Fn(&SpiffeId) -> bool) -> Vec<Report> {
        let state = self.lock();
        let nodes = state.by_node.iter().filter(|(spiffe_id, _)| wanted(spiffe_id));
        nodes
            .flat_map(|(_, ids)| ids)
            .filter_map(|id| {
                let instance = state.by_id.get(id)?;
                let (certificate, denial) = state.standing(instance);
                Some(Report { certificate, denial, ..instance.report(*id) })
            })
            .collect()
    }

    /// Forgets whoever is not connected and has held no valid certificate for an hour.
    pub fn prune(&self, now: UnixMillis) {
        let mut state = self.lock();
        let before = state.by_id.len();
        let state = &mut *state;
        state.by_id.retain(|id, instance| {
            instance.others.retain(|other| other.not_after >= now);
            let listed = instance.certificate.not_after.plus(LISTED_AFTER_EXPIRY) >= now;
            let keep = listed || instance.session.is_some();
            if !keep && let Some(ids) = state.by_node.get_mut(&instance.spiffe_id) {
                ids.remove(id);
            }
            keep
        });
        if state.by_id.len() != before {
            state.by_node.retain(|_, ids| !ids.is_empty());
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let outcome = change(&mut self.lock());
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn know(&mut self, peer: &Peer) -> &mut Instance {
        let Peer { spiffe_id, mesh, node, node_uid, instance: id, certificate, address: _, proof: _ } = peer;
        self.by_node.entry(spiffe_id.clone()).or_default().insert(*id);
        let instance = self.by_id.entry(*id).or_insert_with(|| Instance {
            spiffe_id: spiffe_id.clone(),
            mesh: mesh.clone(),
            node: node.clone(),
            node_uid: None,
            token: None,
            certificate: *certificate,
            others: Vec::new(),
            session: None,
            last_seen: None,
            address: None,
            hello: None,
            enforcement: Enforcement::default(),
            denylist: DenylistProgress::default(),
            dismissal: Dismissal::default(),
            registration_refused: None,
            trust_version: 0,
            view_keys: Vec::new(),
        });
        if node_uid.is_some() {
            instance.node_uid.clone_from(node_uid);
        }
        instance
    }

    /// The instance of a stream, unless a newer one has taken its place.
    fn of_session(&mut self, id: InstanceId, number: u64) -> Option<&mut Instance> {
        let instance = self.by_id.get_mut(&id)?;
        let current = instance.session.as_ref().is_some_and(|session| session.number == number);
        current.then_some(instance)
    }
}

impl Instance {
    fn report(&self, id: InstanceId) -> Report {
        Report {
            id,
            spiffe_id: self.spiffe_id.clone(),
            mesh: self.mesh.clone(),
            node: self.node.clone(),
            node_uid: self.node_uid.clone(),
            token: self.token.clone(),
            certificate: self.certificate,
            connected_since: self.session.as_ref().map(|session| session.since),
            last_seen: self.last_seen,
            address: self.address,
            hello: self.hello.clone(),
            in_force: self.enforcement.in_force(),
            refusal: self.enforcement.refusal().cloned(),
            registration_refused: self.registration_refused.clone(),
            denial: None,
        }
    }
}
