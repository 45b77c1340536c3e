//! What policies in mode audit would have denied, and what listeners in audit let through that no policy permits: counted
//! since each of them last changed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hauberk_identity::{Name, SpiffeId, TrustDomain, UnixMillis};
use hauberk_policy::{Authorization, Mode, PolicyDocument, Reference, Referent};
use hauberk_proto::agent::v1 as agent;
use prost::Message;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::recorded::decisions;
use crate::clock::Clock;
use crate::registry::{Commit, Pace, Store, StoreError, WriteBehind, keys};
use crate::resources::{Catalog, Entry, Kind, MeshCatalog, Model};

/// How counts are written.
const PACE: Pace = Pace {
    every: Duration::from_secs(5),
    again_after: Duration::from_secs(10),
    event: "would_denials_not_written",
    meaning: "what would have been denied is counted in memory only",
};

/// What would have denied.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Auditing {
    /// A policy in mode audit.
    Policy {
        /// Its mesh.
        mesh: Name,
        /// Its name.
        name: Name,
    },
    /// That no policy permits, on a listener with `authorization: AUDIT`.
    Listener {
        /// The node.
        node: SpiffeId,
        /// The listener's port.
        port: u16,
    },
}

/// How often it would have.
#[derive(Clone, PartialEq, Message)]
pub struct Tally {
    /// Which version of it is meant, as `version_of` tells. A listener's is empty.
    #[prost(string, tag = "1")]
    pub version: String,
    /// Since when it is counted.
    #[prost(uint64, tag = "2")]
    pub since_unix_ms: u64,
    /// How often.
    #[prost(uint64, tag = "3")]
    pub count: u64,
    /// When first.
    #[prost(uint64, tag = "4")]
    pub first_seen_unix_ms: u64,
    /// When last.
    #[prost(uint64, tag = "5")]
    pub last_seen_unix_ms: u64,
    /// By which views at the earliest it was counted: they have what is counted as it is now.
    #[prost(uint64, tag = "6")]
    pub epoch: u64,
    /// Their revision.
    #[prost(uint64, tag = "7")]
    pub revision: u64,
}

/// What is in audit as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Audited {
    /// Which version of it that is. A listener's is empty.
    pub(super) version: String,
    /// The revision at which it became so, in resources: no view of before has it.
    pub(super) revision: u64,
}

/// All counts.
#[derive(Debug)]
pub struct WouldDenials {
    tallies: Mutex<BTreeMap<Auditing, Tally>>,
    unwritten: WriteBehind<Auditing>,
}

impl WouldDenials {
    /// Reads what was counted before the control plane started.
    ///
    /// # Errors
    /// When the store cannot be read. A record that does not parse is left out, and said so.
    pub async fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let mut tallies = BTreeMap::new();
        let mut after = None;
        loop {
            let page = store.list(keys::WOULD_DENIALS, after.as_deref(), 1_000).await?;
            for (key, stored) in &page.entries {
                match (Auditing::parse(key), Tally::decode(stored.value.clone())) {
                    (Some(auditing), Ok(tally)) => drop(tallies.insert(auditing, tally)),
                    _ => error!(event = "would_denial_record_unreadable", key, "a count begins anew"),
                }
            }
            after = page.entries.last().map(|(key, _)| key.clone());
            if !page.more {
                break;
            }
        }
        Ok(Self { tallies: Mutex::new(tallies), unwritten: WriteBehind::new(PACE) })
    }

    /// Counts for what is in audit, and begins anew for what has changed, until `stop`.
    pub async fn follow(
        &self,
        mut catalogs: watch::Receiver<Arc<Catalog>>,
        (trust_domain, epoch): (&TrustDomain, u64),
        clock: &Clock,
        stop: &CancellationToken,
    ) {
        loop {
            let catalog = Arc::clone(&catalogs.borrow_and_update());
            self.keep(&in_audit(&catalog, trust_domain), epoch, clock.now());
            tokio::select! {
                () = stop.cancelled() => return,
                changed = catalogs.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Counts for these alone, each in the version that it has now.
    pub(super) fn keep(&self, in_audit: &BTreeMap<Auditing, Audited>, epoch: u64, now: UnixMillis) {
        let mut tallies = self.tallies();
        let gone = tallies.keys().filter(|auditing| !in_audit.contains_key(auditing)).cloned();
        let mut changed: Vec<Auditing> = gone.collect();
        changed.iter().for_each(|auditing| drop(tallies.remove(auditing)));
        for (auditing, audited) in in_audit {
            let former = tallies.get(auditing);
            if former.is_some_and(|tally| tally.version == audited.version) {
                continue;
            }
            // Where it says what it said, views stay as they are.
            let same = former.filter(|tally| meaning(&tally.version) == meaning(&audited.version));
            let (epoch, revision) =
                same.map_or((epoch, audited.revision), |tally| (tally.epoch, tally.revision));
            let (version, since_unix_ms) = (audited.version.clone(), now.0);
            let tally = Tally { version, since_unix_ms, epoch, revision, ..Tally::default() };
            tallies.insert(auditing.clone(), tally);
            changed.push(auditing.clone());
        }
        drop(tallies);
        changed.into_iter().for_each(|auditing| self.unwritten.add(auditing));
    }

    /// Adds what an agent of `node` has counted, and tells now. What was decided by views of before a policy changed does not count for
    /// it; by which one it was the agent says, while its clock may be off by any time.
    pub(super) fn add(&self, node: &SpiffeId, mesh: &Name, flow: &agent::FlowSummary, now: UnixMillis) {
        let count = decisions(flow);
        if count == 0 {
            return;
        }
        let by_policies =
            flow.audit_verdict() == agent::Verdict::Deny && flow.verdict() != agent::Verdict::Deny;
        let names = flow.audit_policies.iter().filter(|_| by_policies).filter_map(|statement| {
            let name = statement.split('/').next().unwrap_or_default();
            Some(Auditing::Policy { mesh: mesh.clone(), name: Name::parse(name).ok()? })
        });
        let mut meant: Vec<_> = names.collect();
        // Of one policy with several statements.
        meant.dedup();
        if flow.verdict() == agent::Verdict::AuditAllow
            && let Ok(port) = u16::try_from(flow.port)
        {
            meant.push(Auditing::Listener { node: node.clone(), port });
        }
        for auditing in meant {
            let mut tallies = self.tallies();
            // What is not in audit, or so no longer, is not counted: an agent names what it likes.
            let Some(tally) = tallies.get_mut(&auditing) else { continue };
            if (flow.epoch, flow.revision) < (tally.epoch, tally.revision) {
                continue;
            }
            if tally.count == 0 {
                tally.first_seen_unix_ms = now.0;
            }
            tally.count = tally.count.saturating_add(count);
            tally.last_seen_unix_ms = tally.last_seen_unix_ms.max(now.0);
            drop(tallies);
            self.unwritten.add(auditing);
        }
    }

    /// What was counted in a mesh.
    pub fn of(&self, mesh: &Name) -> Vec<(Auditing, Tally)> {
        let tallies = self.tallies();
        let own = tallies.iter().filter(|(auditing, _)| auditing.mesh().as_ref() == Some(mesh));
        own.map(|(auditing, tally)| (auditing.clone(), tally.clone())).collect()
    }

    /// Writes counts until `stop`; what is unwritten then is written before this returns.
    pub(super) async fn run(&self, store: &dyn Store, stop: &CancellationToken) {
        let record = |commit: Commit, auditing: &Auditing| {
            Ok(match self.tallies().get(auditing) {
                Some(tally) => commit.put(auditing.key(), tally.encode_to_vec()),
                None => commit.delete(auditing.key()),
            })
        };
        self.unwritten.run(store, record, stop).await;
    }

    fn tallies(&self) -> MutexGuard<'_, BTreeMap<Auditing, Tally>> {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Auditing {
    fn key(&self) -> String {
        match self {
            Self::Policy { mesh, name } => format!("{}policy/{mesh}/{name}", keys::WOULD_DENIALS),
            Self::Listener { node, port } => format!("{}port/{port}/{node}", keys::WOULD_DENIALS),
        }
    }

    fn parse(key: &str) -> Option<Self> {
        let (kind, rest) = key.strip_prefix(keys::WOULD_DENIALS)?.split_once('/')?;
        let (first, second) = rest.split_once('/')?;
        match kind {
            "policy" => {
                Some(Self::Policy { mesh: Name::parse(first).ok()?, name: Name::parse(second).ok()? })
            }
            "port" => Some(Self::Listener { node: SpiffeId::parse(second).ok()?, port: first.parse().ok()? }),
            _ => None,
        }
    }

    fn mesh(&self) -> Option<Name> {
        match self {
            Self::Policy { mesh, .. } => Some(mesh.clone()),
            Self::Listener { node, .. } => node.mesh_and_node().map(|(mesh, _)| mesh),
        }
    }
}

/// Whatever is in audit, each with its version.
pub(super) fn in_audit(catalog: &Catalog, trust_domain: &TrustDomain) -> BTreeMap<Auditing, Audited> {
    let mut found = BTreeMap::new();
    for (mesh, resources) in catalog.meshes() {
        for (name, entry) in resources.of_kind(Kind::Policy) {
            if let Some(document) = entry.document().filter(|document| document.mode() == Mode::Audit) {
                let version = version_of(entry, document, resources);
                found.insert(Auditing::Policy { mesh: mesh.clone(), name: name.clone() }, version);
            }
        }
        let default = resources.spec().map(|mesh| mesh.authorization()).unwrap_or_default();
        let of_mesh =
            resources.of_kind(Kind::Mesh).values().map(|entry| revision_of(entry)).max().unwrap_or_default();
        for (name, node) in resources.nodes() {
            let of_node =
                resources.of_kind(Kind::VirtualNode).get(name).map_or(0, |entry| revision_of(entry));
            for listener in node.listeners() {
                if listener.authorization().unwrap_or(default) == Authorization::Audit {
                    let inherits = listener.authorization().is_none();
                    let revision = if inherits { of_node.max(of_mesh) } else { of_node };
                    let node = SpiffeId::node(trust_domain, mesh, name);
                    let audited = Audited { version: String::new(), revision };
                    found.insert(Auditing::Listener { node, port: listener.port() }, audited);
                }
            }
        }
    }
    found
}

/// What a count of a policy is of: its resource, what it says, which follows from its template if it has one, and who and
/// what is in the roles and data classes that it names. Calls from before one of these changed say nothing about it.
fn version_of(entry: &Entry, document: &PolicyDocument, mesh: &MeshCatalog) -> Audited {
    let mut named = BTreeMap::new();
    let mut revision = revision_of(entry);
    let mut also = |kind: Kind, name: &Name| {
        revision = revision.max(mesh.of_kind(kind).get(name).map_or(0, |entry| revision_of(entry)));
    };
    if let Model::Linked(linked) = entry.model() {
        also(Kind::PolicyTemplate, linked.template());
    }
    for Reference { referent, text, .. } in document.references() {
        let within: Vec<_> = match referent {
            Referent::Role(role) => {
                also(Kind::Role, role);
                mesh.roles_within(role).into_iter().for_each(|name| also(Kind::Role, name));
                mesh.members_of(role).into_iter().map(SpiffeId::to_string).collect()
            }
            Referent::DataClass(class) => {
                also(Kind::DataClass, class);
                let within = mesh.classes_within(class);
                within.iter().for_each(|name| also(Kind::DataClass, name));
                within.into_iter().map(Name::to_string).collect()
            }
            _ => continue,
        };
        named.insert(text, within);
    }
    let meant = format!("{:?} {named:?}", document.text());
    let digest = URL_SAFE_NO_PAD.encode(digest(&SHA256, meant.as_bytes()));
    let version = format!("{}/{}/{digest}", entry.uid(), entry.resource_version());
    Audited { version, revision }
}

/// What a version says that agents are told: which policy it is, and its meaning.
fn meaning(version: &str) -> (Option<&str>, Option<&str>) {
    let mut parts = version.split('/');
    (parts.next(), parts.nth(1))
}

/// The revision at which a resource last changed.
fn revision_of(entry: &Entry) -> u64 {
    entry.resource().metadata.as_ref().map_or(0, |metadata| metadata.revision)
}
