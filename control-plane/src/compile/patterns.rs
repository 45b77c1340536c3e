//! How much work the patterns of policies make for the agents of a node: each statement's are bounded where it is read, those of all that an
//! agent holds here.

use std::collections::BTreeSet;

use hauberk_identity::{Name, NodeName, TrustDomain};
use hauberk_policy::PolicyDocument;

use super::view::MeshViews;
use crate::resources::{Catalog, Kind, MeshCatalog, ResourceKey};

/// How many characters may follow the wildcards of the patterns that may have to be matched for one question. Each of them may be held
/// against each character of a path, or of a header field, of 16 KiB, and an agent answers nobody else meanwhile.
const MOST_FOLLOWING: usize = 8 * 1024;

/// A node whose patterns make too much work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{following} characters follow the wildcards of patterns in policies about calls {direction} {} in mesh {mesh}, and at most \
     {MOST_FOLLOWING} may: shorten what follows wildcards, compare whole texts by ==, ask of path and method alone in a statement, \
     or say in scopes of which services or routes they are",
    .node.in_words()
)]
pub struct HeavyPatterns {
    mesh: Name,
    node: NodeName,
    direction: &'static str,
    following: usize,
}

/// How much is in the view of a node, by the calls with which it has to do.
fn by_direction(following: [usize; 2]) -> impl Iterator<Item = (&'static str, usize)> {
    ["to", "out of the mesh from"].into_iter().zip(following)
}

/// Whether no node of a mesh can have too much.
fn is_little(resources: &MeshCatalog) -> bool {
    resources.policies().flat_map(PolicyDocument::following).map(|(_, following)| following).sum::<usize>()
        <= MOST_FOLLOWING
}

/// Of which nodes a change can make more patterns to match.
enum Concerned {
    All,
    Only(BTreeSet<NodeName>),
}

impl Concerned {
    fn by(changed: &[&ResourceKey], resources: &MeshCatalog) -> Self {
        let mut only = BTreeSet::new();
        for key in changed {
            let concerns_all = match key.kind {
                Kind::Boundary | Kind::Policy => {
                    let document =
                        resources.of_kind(key.kind).get(&key.name).and_then(|entry| entry.document());
                    document.is_some_and(|document| document.following().next().is_some())
                }
                Kind::DataClass
                | Kind::ExternalService
                | Kind::Mesh
                | Kind::PolicyTemplate
                | Kind::Role
                | Kind::VirtualService => true,
                Kind::VirtualGateway => {
                    only.insert(NodeName::Gateway(key.name.clone()));
                    false
                }
                Kind::VirtualNode => {
                    only.insert(NodeName::Node(key.name.clone()));
                    false
                }
                Kind::Enrollment | Kind::FederatedTrustDomain | Kind::JwtIssuer => false,
            };
            if concerns_all {
                return Self::All;
            }
        }
        Self::Only(only)
    }

    fn is_met(&self, node: &NodeName) -> bool {
        match self {
            Self::All => true,
            Self::Only(nodes) => nodes.contains(node),
        }
    }
}

/// The first node of a mesh that would have too much by this change, and had less before. Of a new node it is asked what the
/// former policies would have made of it, so that it can come where nothing but it is added.
pub(super) fn grown(
    mesh: &Name,
    (resources, views): (&MeshCatalog, &MeshViews<'_>),
    former: Option<&(&MeshCatalog, MeshViews<'_>)>,
    changed: &[&ResourceKey],
) -> Option<HeavyPatterns> {
    if is_little(resources) {
        return None;
    }
    let concerned = Concerned::by(changed, resources);
    let mut nodes = resources.nodes_and_gateways().filter(|(name, _)| concerned.is_met(name));
    nodes.find_map(|(name, node)| {
        let scope = views.scope(&name, node);
        let own = views.following(&scope, views.known());
        if own.iter().all(|following| *following <= MOST_FOLLOWING) {
            return None;
        }
        let stood = former.map_or([0, 0], |(resources, former)| match resources.node_or_gateway(&name) {
            Some(node) => former.following(&former.scope(&name, node), former.known()),
            None => former.following(&scope, views.known()),
        });
        by_direction(own).zip(stood).find_map(|((direction, following), stood)| {
            let heavy = HeavyPatterns { mesh: mesh.clone(), node: name.clone(), direction, following };
            (following > MOST_FOLLOWING && following > stood).then_some(heavy)
        })
    })
}

/// All nodes that have too much: what was stored before there was a bound is enforced all the same. Where policies have many
/// patterns it looks at each of them for each node.
pub(crate) fn heavy_patterns(trust_domain: &TrustDomain, catalog: &Catalog) -> Vec<HeavyPatterns> {
    let mut heavy = Vec::new();
    for (mesh, resources) in catalog.meshes().iter().filter(|(_, resources)| !is_little(resources)) {
        let views = MeshViews::new(trust_domain, mesh, resources);
        for (name, node) in resources.nodes_and_gateways() {
            let own = by_direction(views.following(&views.scope(&name, node), views.known()));
            heavy.extend(own.filter(|(_, following)| *following > MOST_FOLLOWING).map(
                |(direction, following)| HeavyPatterns {
                    mesh: mesh.clone(),
                    node: name.clone(),
                    direction,
                    following,
                },
            ));
        }
    }
    heavy
}
