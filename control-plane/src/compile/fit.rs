//! Whether the views of nodes fit into messages: asked before a change is committed, since a view that does not would stay
//! as it was.

use std::collections::BTreeSet;

use hauberk_identity::{Name, NodeName, TrustDomain};
use hauberk_policy::PolicySlice;
use hauberk_proto::convert::{NodeView, encode_node_view};
use prost::Message;

use super::view::MeshViews;
use crate::resources::{Catalog, MeshCatalog, ResourceKey, VirtualNode};

/// The largest view, in bytes: what fits into one message with room for the rest of it.
pub(super) const LARGEST: usize = 3 * 1024 * 1024 + 512 * 1024;

/// What one statement or role needs beside its text, at most, and all that is in a view beside what a node says.
const ENVELOPE: usize = 16;
const FRAME: usize = 4 * 1024;

/// A node whose view would not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the view of {} in mesh {mesh} would have {bytes} bytes, and at most {LARGEST} can be sent: {statements} \
     statements of policies, and roles with {members} members in all; narrow policies that concern every node, or split the node or mesh",
    .node.in_words()
)]
pub struct Oversized {
    mesh: Name,
    node: NodeName,
    bytes: usize,
    statements: usize,
    members: usize,
}

/// The first node whose view does not fit, and did better before.
pub(crate) fn oversized<'a>(
    trust_domain: &TrustDomain,
    before: &Catalog,
    after: &Catalog,
    changed: impl Iterator<Item = &'a ResourceKey>,
) -> Option<Oversized> {
    let meshes: BTreeSet<&Name> = changed.map(|key| &key.mesh).collect();
    meshes.into_iter().find_map(|mesh| {
        let views = MeshViews::new(trust_domain, mesh, after.mesh(mesh.as_str())?);
        let resources = after.mesh(mesh.as_str())?;
        // Where even a node that all of it concerns has room, nothing is made.
        let of_all = of_policies(resources) + of_roles(&views);
        let former = before.mesh(mesh.as_str());
        let former = former.map(|former| (former, MeshViews::new(trust_domain, mesh, former)));
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
            let statements = view.policies.policies.len();
            Some(Oversized { mesh: mesh.clone(), node: name, bytes, statements, members })
        })
    })
}

fn size(view: &NodeView) -> usize {
    encode_node_view(view).encoded_len()
}

fn of_policies(resources: &MeshCatalog) -> usize {
    resources.policies().flat_map(|policy| policy.sizes()).map(|statement| statement + ENVELOPE).sum()
}

fn of_roles(views: &MeshViews<'_>) -> usize {
    let role = |members: &[hauberk_identity::SpiffeId]| -> usize {
        members.iter().map(|member| member.as_str().len() + ENVELOPE).sum()
    };
    views.roles().iter().map(|known| known.role.as_str().len() + ENVELOPE + role(&known.members)).sum()
}
