//! Which policies and boundaries, as they stand, speak of what; in whatever way.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use hauberk_identity::{Name, NodeName, SpiffeId};
use hauberk_policy::{BOUNDARY, Mode, PolicyDocument, Referent};

use crate::resources::catalog::Catalog;
use crate::resources::key::Kind;
use crate::resources::mesh_catalog::MeshCatalog;

/// The rights that a change takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Takes {
    pub(super) policies: bool,
    pub(super) boundaries: bool,
}

impl Takes {
    pub(super) const POLICIES: Self = Self { policies: true, boundaries: false };

    /// Those and what touching the named takes.
    pub(super) fn and_of(self, named: &Speakers<'_>) -> Self {
        let other = named.takes();
        Self { policies: self.policies || other.policies, boundaries: self.boundaries || other.boundaries }
    }
}

/// Who speaks of one thing: policies, then boundaries, each by name.
#[derive(Debug, Clone, Default)]
pub(in crate::resources::admit) struct Speakers<'a>(BTreeSet<(bool, &'a Name)>);

impl<'a> Speakers<'a> {
    pub(in crate::resources::admit) fn insert(&mut self, document: &'a PolicyDocument) {
        self.0.insert((document.mode() == Mode::Boundary, document.name()));
    }

    pub(in crate::resources::admit) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a boundary is among them.
    pub(in crate::resources::admit) fn has_boundary(&self) -> bool {
        self.0.iter().any(|(is_boundary, _)| *is_boundary)
    }

    pub(super) fn takes(&self) -> Takes {
        let policies = self.0.iter().any(|(is_boundary, _)| !is_boundary);
        Takes { policies, boundaries: self.has_boundary() }
    }

    pub(super) fn union(mut self, others: &Self) -> Self {
        self.0.extend(&others.0);
        self
    }
}

impl fmt::Display for Speakers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (is_boundary, name)) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            let prefix = if *is_boundary { BOUNDARY } else { "" };
            write!(f, "{comma}{prefix}{name}")?;
        }
        Ok(())
    }
}

/// Who speaks of what.
#[derive(Default)]
pub(super) struct Mentions<'a> {
    services: BTreeMap<&'a Name, Speakers<'a>>,
    /// By a port's own name or one of its routes'.
    ports: BTreeMap<(&'a SpiffeId, u16), Speakers<'a>>,
    routes: BTreeMap<(&'a SpiffeId, u16), Speakers<'a>>,
    classes: BTreeMap<&'a Name, Speakers<'a>>,
    /// By the label's name.
    labels: BTreeMap<&'a str, Speakers<'a>>,
    /// Of any port and route, by what these are.
    all: Speakers<'a>,
    /// Of reads, or of writes, that a gRPC method may be.
    calls: Speakers<'a>,
    /// Of every port, by what is spoken there.
    protocols: Speakers<'a>,
    boundaries: Speakers<'a>,
    /// Boundaries that cannot be read: they may speak of anything.
    unreadable: Speakers<'a>,
}

impl<'a> Mentions<'a> {
    pub(super) fn of(mesh: &'a MeshCatalog) -> Self {
        let mut mentions = Self::default();
        for (_, name, _) in mesh.unreadable().filter(|(kind, ..)| *kind == Kind::Boundary) {
            mentions.unreadable.0.insert((true, name));
        }
        for policy in mesh.policies() {
            if policy.mode() == Mode::Boundary {
                mentions.boundaries.insert(policy);
            }
            if policy.tells_calls_apart() {
                mentions.calls.insert(policy);
            }
            if policy.tells_protocols_apart_everywhere() {
                mentions.protocols.insert(policy);
            }
            if policy.reads_resource() {
                mentions.all.insert(policy);
            }
            for reference in policy.references() {
                match &reference.referent {
                    Referent::Service(service) => {
                        mentions.services.entry(service).or_default().insert(policy)
                    }
                    Referent::Port { node, number } => {
                        mentions.ports.entry((node, *number)).or_default().insert(policy);
                    }
                    Referent::Route { node, port, .. } => {
                        mentions.ports.entry((node, *port)).or_default().insert(policy);
                        mentions.routes.entry((node, *port)).or_default().insert(policy);
                    }
                    Referent::DataClass(class) => mentions.classes.entry(class).or_default().insert(policy),
                    Referent::Label(label) => mentions.labels.entry(label).or_default().insert(policy),
                    // What they reach does not depend on the listeners of any node.
                    Referent::TrustDomain(_)
                    | Referent::Mesh(_)
                    | Referent::Role(_)
                    | Referent::Node { .. }
                    | Referent::External(_)
                    | Referent::Workload(_)
                    | Referent::User { .. }
                    | Referent::UserGroup { .. }
                    | Referent::Claim(_)
                    | Referent::Text { .. }
                    | Referent::Anonymous => {}
                }
            }
        }
        mentions
    }

    /// Those that speak of a port, or of its routes.
    pub(super) fn of_port(&self, port: (&SpiffeId, u16)) -> Speakers<'a> {
        self.ports.get(&port).cloned().unwrap_or_default().union(&self.all).union(&self.unreadable)
    }

    pub(super) fn of_routes(&self, port: (&SpiffeId, u16)) -> Speakers<'a> {
        self.routes.get(&port).cloned().unwrap_or_default().union(&self.all).union(&self.unreadable)
    }

    /// Those that tell gRPC methods that read from those that write.
    pub(super) fn of_calls(&self) -> Speakers<'a> {
        self.calls.clone().union(&self.unreadable)
    }

    /// Those that, of any port whatever, are about what is spoken there.
    pub(super) fn of_protocols(&self) -> Speakers<'a> {
        self.protocols.clone().union(&self.unreadable)
    }

    /// Every boundary.
    pub(super) fn boundaries(&self) -> &Speakers<'a> {
        &self.boundaries
    }

    pub(super) fn of_class(&self, class: &Name) -> Speakers<'a> {
        self.classes.get(class).cloned().unwrap_or_default().union(&self.unreadable)
    }

    /// Those that read a label of nodes.
    pub(super) fn of_label(&self, label: &str) -> Speakers<'a> {
        self.labels.get(label).cloned().unwrap_or_default().union(&self.unreadable)
    }

    pub(super) fn of_service(&self, service: &Name) -> Speakers<'a> {
        self.services.get(service).cloned().unwrap_or_default().union(&self.unreadable)
    }
}

/// The boundaries of any mesh that name virtual nodes or gateways of one, or may, since they cannot be read: whoever makes
/// such a node anew is whom they mean. Looked up once for all that come or go together.
pub(super) struct BoundariesOfNodes<'a> {
    by_node: BTreeMap<&'a NodeName, Speakers<'a>>,
    unreadable: Speakers<'a>,
}

impl<'a> BoundariesOfNodes<'a> {
    /// Of the nodes of this mesh.
    pub(super) fn of(catalog: &'a Catalog, mesh: &Name) -> Self {
        let mut by_node: BTreeMap<_, Speakers<'a>> = BTreeMap::new();
        let policies = catalog.meshes().values().flat_map(|resources| resources.policies());
        for document in policies.filter(|document| document.mode() == Mode::Boundary) {
            for reference in document.references() {
                if let Referent::Node { mesh: of, node } = &reference.referent
                    && of == mesh
                {
                    by_node.entry(node).or_default().insert(document);
                }
            }
        }
        let unreadable = catalog.mesh(mesh.as_str()).into_iter().flat_map(|resources| resources.unreadable());
        let unreadable = unreadable.filter(|(kind, ..)| *kind == Kind::Boundary);
        Self { by_node, unreadable: Speakers(unreadable.map(|(_, name, _)| (true, name)).collect()) }
    }

    pub(super) fn of_node(&self, node: &NodeName) -> Speakers<'a> {
        self.by_node.get(node).cloned().unwrap_or_default().union(&self.unreadable)
    }
}
