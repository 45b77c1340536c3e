//! The views of everybody at one revision.

use std::collections::HashMap;
use std::sync::Arc;

use hauberk_identity::{Name, SpiffeId};
use hauberk_proto::agent::v1::{SignedView, WorkloadEntries};

use super::former::FormerViews;

/// All views, as they follow from the configuration at one revision. Immutable and shared.
#[derive(Debug, Clone, Default)]
pub struct Compilation {
    /// The epoch of all views: Unix ms at `init`, higher after a restore.
    pub epoch: u64,
    /// The configuration revision that they reflect.
    pub revision: u64,
    /// The views of nodes and gateways.
    pub nodes: HashMap<SpiffeId, Arc<CompiledView>>,
    /// All nodes and gateways that the configuration has, with a view or without, each with its uid; `None` where it cannot be told. A node
    /// that is not among them does not exist; one without a view may.
    pub node_uids: HashMap<SpiffeId, Option<String>>,
    /// The views of services, by mesh and name.
    pub services: HashMap<(Name, Name), Arc<CompiledView>>,
    /// The workloads that each node's agents vouch for; nodes that vouch for none are left out.
    pub workloads: HashMap<SpiffeId, Arc<WorkloadEntries>>,
    /// The views that nodes had before, of the same epoch.
    pub former: Arc<FormerViews>,
    /// What could not be compiled, each with the view that stays in force.
    pub findings: Arc<[CompileFinding]>,
}

/// One view, encoded and signed once for all who get it.
#[derive(Debug, Clone, PartialEq)]
pub struct CompiledView {
    /// The revision at which its content last changed.
    pub revision: u64,
    /// SHA-256 of the encoded `View`.
    pub digest: [u8; 32],
    /// The view as it travels; its bytes are shared.
    pub signed: SignedView,
    /// What an agent must understand to enforce it.
    pub features: Vec<&'static str>,
    /// The mesh.
    pub mesh: Name,
    /// Which node of its name it is for: one that is made anew is another. Empty for a service.
    pub uid: String,
    /// The services that a node's agents are sent unasked. None for a service.
    pub backends: Vec<Name>,
    /// A service's targets that are found by registration, each with the listener's port. None for a node.
    pub targets: Vec<(SpiffeId, u16)>,
    /// A node's listeners with `authorization: AUDIT`. None for a service.
    pub audit_ports: Vec<u16>,
}

/// Which views could not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unmade {
    /// None of the mesh.
    All,
    /// That of a node or gateway.
    OfNode(SpiffeId),
    /// That of a service.
    OfService(Name),
}

/// A view that could not be made from the configuration. The former one stays in force, if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileFinding {
    /// The mesh.
    pub mesh: Name,
    /// Which of its views.
    pub unmade: Unmade,
    /// What could not be made, and why.
    pub summary: String,
    /// What to do about it.
    pub fix: String,
}
