//! Whether the views of nodes fit into messages, and into agents: asked before a change is committed, since a view that does not
//! would stay as it was.

use std::collections::BTreeMap;

use hauberk_identity::{Name, NodeName, SpiffeId, TrustDomain};
use hauberk_policy::{NamedListener, NamedPort, NodeLabel, PolicyDocument, PolicySlice};
use hauberk_proto::convert::{NodeView, encode_node_view};
use prost::Message;

use super::patterns::{self, HeavyPatterns};
use super::view::MeshViews;
use crate::resources::{Catalog, MeshCatalog, ResourceKey, VirtualNode};

/// The largest view, in bytes: what fits into one message with room for the rest of it.
pub(super) const LARGEST: usize = 3 * 1024 * 1024 + 512 * 1024;

/// How many statements of a mesh may name no service, node, port or route of which they are, so that they are in the view of every
/// node. An agent that starts compiles about seven thousand a second, and holds some seven KiB of each.
const MOST_OF_ALL: usize = 4_000;

/// What one statement, role or label needs beside its text, at most, and all that is in a view beside what a node says.
const ENVELOPE: usize = 16;
const FRAME: usize = 4 * 1024;

/// What would not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Oversized {
    /// The view of a node.
    #[error(transparent)]
    View(OversizedView),
    /// What agents of a node may have to match.
    #[error(transparent)]
    Patterns(HeavyPatterns),
    /// What is in every view.
    #[error(
        "{statements} statements of policies would concern every node of mesh {mesh}, and at most {MOST_OF_ALL} may: say in their scopes \
         of which services, nodes or routes they are, or put callers into roles"
    )]
    OfAll {
        /// The mesh.
        mesh: Name,
        /// How many.
        statements: usize,
    },
}

/// A node whose view would not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the view of {} in mesh {mesh} would have {bytes} bytes, and at most {LARGEST} can be sent: {statements} \
     statements of policies, roles with {members} members in all, and labels of {labelled} nodes; narrow policies that concern every node, \
     or split the node or mesh",
    .node.in_words()
)]
pub struct OversizedView {
    mesh: Name,
    node: NodeName,
    bytes: usize,
    statements: usize,
    members: usize,
    labelled: usize,
}

/// The first that does not fit, and did better before.
pub(crate) fn oversized<'a>(
    trust_domain: &TrustDomain,
    before: &Catalog,
    after: &Catalog,
    changed: impl Iterator<Item = &'a ResourceKey>,
) -> Option<Oversized> {
    let mut meshes: BTreeMap<&Name, Vec<&ResourceKey>> = BTreeMap::new();
    for key in changed {
        meshes.entry(&key.mesh).or_default().push(key);
    }
    meshes.into_iter().find_map(|(mesh, changed)| {
        let views = MeshViews::new(trust_domain, mesh, after.mesh(mesh.as_str())?);
        let resources = after.mesh(mesh.as_str())?;
        // Where even a node that all of it concerns has room, nothing is made.
        let of_all = of_policies(resources) + of_roles(&views) + of_labels(&views) + of_ports(&views);
        let former = before.mesh(mesh.as_str());
        let statements = of_every_node(resources);
        if statements > MOST_OF_ALL && former.is_none_or(|former| statements > of_every_node(former)) {
            return Some(Oversized::OfAll { mesh: mesh.clone(), statements });
        }
        let former = former.map(|former| (&**former, MeshViews::new(trust_domain, mesh, former)));
        if let Some(heavy) = patterns::grown(mesh, (resources, &views), former.as_ref(), &changed) {
            return Some(Oversized::Patterns(heavy));
        }
        resources.nodes_and_gateways().find_map(|(name, node)| {
            let own = size(&views.node_with(views.scope(&name, node), PolicySlice::default(), node));
            if own + of_all + FRAME <= LARGEST {
                return None;
            }
            let view = views.node(&name, node);
            let bytes = size(&view);
            let stood = former.as_ref().and_then(|(resources, views)| {
                let node: &VirtualNode = resources.node_or_gateway(&name)?;
                Some(size(&views.node(&name, node)))
            });
            if bytes + FRAME <= LARGEST || stood.is_some_and(|stood| bytes <= stood) {
                return None;
            }
            let members = view.policies.roles.iter().map(|role| role.members.len()).sum();
            let labelled = view.policies.labels.iter().map(|label| label.values.len()).sum();
            let statements = view.policies.policies.len();
            let (mesh, node) = (mesh.clone(), name);
            Some(Oversized::View(OversizedView { mesh, node, bytes, statements, members, labelled }))
        })
    })
}

fn size(view: &NodeView) -> usize {
    encode_node_view(view).encoded_len()
}

/// How many statements are in every node's view; an upper bound where that is few enough.
fn of_every_node(resources: &MeshCatalog) -> usize {
    let all: usize = resources.policies().map(|policy| policy.sizes().count()).sum();
    if all <= MOST_OF_ALL {
        return all;
    }
    resources.policies().map(PolicyDocument::of_every_node).sum()
}

fn of_policies(resources: &MeshCatalog) -> usize {
    resources.policies().flat_map(|policy| policy.sizes()).map(|statement| statement + ENVELOPE).sum()
}

fn of_roles(views: &MeshViews<'_>) -> usize {
    let role = |members: &[SpiffeId]| -> usize {
        members.iter().map(|member| member.as_str().len() + ENVELOPE).sum()
    };
    views.roles().iter().map(|known| known.role.as_str().len() + ENVELOPE + role(&known.members)).sum()
}

fn of_ports(views: &MeshViews<'_>) -> usize {
    let names = |names: &[Name]| -> usize { names.iter().map(|name| name.as_str().len() + ENVELOPE).sum() };
    let listener = |listener: &NamedListener| -> usize {
        let route = |(template, classes): (&String, &Vec<Name>)| template.len() + ENVELOPE + names(classes);
        2 * ENVELOPE + names(&listener.services) + listener.routes.iter().map(route).sum::<usize>()
    };
    let port = |port: &NamedPort| {
        port.node.as_str().len() + 2 * ENVELOPE + port.listener.as_ref().map(listener).unwrap_or_default()
    };
    views.ports().iter().map(port).sum()
}

fn of_labels(views: &MeshViews<'_>) -> usize {
    let label = |label: &NodeLabel| -> usize {
        let value = |(node, value): (&SpiffeId, &String)| node.as_str().len() + value.len() + 2 * ENVELOPE;
        label.name.len() + ENVELOPE + label.values.iter().map(value).sum::<usize>()
    };
    views.labels().iter().map(label).sum()
}
