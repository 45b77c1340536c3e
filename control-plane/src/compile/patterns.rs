//! How much work the patterns of policies make for the agents of a node: each statement's are bounded where it is read, those of all that an
//! agent holds here.

use std::collections::HashMap;

use hauberk_identity::{Name, NodeName, TrustDomain};
use hauberk_policy::{PolicyDocument, PolicySlice};

use super::view::MeshViews;
use crate::resources::{Catalog, MeshCatalog};

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

/// How much follows the wildcards of each statement of a mesh where Cedar is asked about it.
struct Following<'a>(HashMap<&'a str, usize>);

impl<'a> Following<'a> {
    fn of(resources: &'a MeshCatalog) -> Self {
        Self(resources.policies().flat_map(PolicyDocument::following).collect())
    }

    /// Whether no node can have too much.
    fn is_little(&self) -> bool {
        self.0.values().sum::<usize>() <= MOST_FOLLOWING
    }

    fn within(&self, slice: &PolicySlice) -> usize {
        slice.policies.iter().filter_map(|policy| self.0.get(&*policy.name)).sum()
    }

    /// What is in the view of a node, and with which calls it has to do.
    fn of_node(&self, views: &MeshViews<'_>, resources: &MeshCatalog, name: &NodeName) -> [Direction; 2] {
        let view = resources.node_or_gateway(name).map(|node| views.node(name, node));
        let [to, from] = view
            .map_or([0, 0], |view| [&view.policies, &view.egress.policies].map(|slice| self.within(slice)));
        [("to", to), ("out of the mesh from", from)]
    }
}

/// How much follows in what is about calls in one direction.
type Direction = (&'static str, usize);

/// The first node of a mesh that would have too much, and had less before.
pub(super) fn grown(
    mesh: &Name,
    (resources, views): (&MeshCatalog, &MeshViews<'_>),
    former: Option<&(&MeshCatalog, MeshViews<'_>)>,
) -> Option<HeavyPatterns> {
    let following = Following::of(resources);
    if following.is_little() {
        return None;
    }
    let before = former.map(|(resources, views)| (Following::of(resources), views, resources));
    resources.nodes_and_gateways().find_map(|(node, _)| {
        let own = following.of_node(views, resources, &node);
        own.into_iter().find_map(|(direction, following)| {
            if following <= MOST_FOLLOWING {
                return None;
            }
            let stood = before.as_ref().map_or(0, |(before, views, resources)| {
                let of_node = before.of_node(views, resources, &node);
                of_node.into_iter().filter(|(other, _)| *other == direction).map(|(_, stood)| stood).sum()
            });
            let heavy = HeavyPatterns { mesh: mesh.clone(), node: node.clone(), direction, following };
            (following > stood).then_some(heavy)
        })
    })
}

/// All nodes that have too much: what was stored before there was a bound is enforced all the same.
pub(crate) fn heavy_patterns(trust_domain: &TrustDomain, catalog: &Catalog) -> Vec<HeavyPatterns> {
    let mut heavy = Vec::new();
    for (mesh, resources) in catalog.meshes() {
        let following = Following::of(resources);
        if following.is_little() {
            continue;
        }
        let views = MeshViews::new(trust_domain, mesh, resources);
        for (node, _) in resources.nodes_and_gateways() {
            let own = following.of_node(&views, resources, &node).into_iter();
            heavy.extend(own.filter(|(_, following)| *following > MOST_FOLLOWING).map(
                |(direction, following)| HeavyPatterns {
                    mesh: mesh.clone(),
                    node: node.clone(),
                    direction,
                    following,
                },
            ));
        }
    }
    heavy
}
