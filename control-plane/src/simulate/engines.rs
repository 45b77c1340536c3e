//! Engines that enforce, without policies in mode audit: these change nothing that is let through, and would make what
//! they read seem to matter.

use hauberk_identity::Name;
use hauberk_policy::{CompileError, Engine, Issuers, Mode, NodeScope, Vouching};
use hauberk_proto::convert::NodeView;

use crate::compile::view::MeshViews;
use crate::resources::VirtualNode;

/// What is enforced now, and by a draft.
pub(super) struct Sides {
    pub(super) now: Engine,
    pub(super) draft: Engine,
    /// What differs before policies are asked.
    pub(super) vouching: Vouching,
}

/// What is enforced now, and by a draft, in which the node may be no longer; none where that is the same.
pub(super) fn sides(
    now: (&MeshViews<'_>, &VirtualNode),
    draft: (&MeshViews<'_>, Option<&VirtualNode>),
    name: &Name,
) -> Result<Option<Sides>, CompileError> {
    let now = enforced(now.0, now.1, name);
    let draft = match draft {
        (views, Some(node)) => enforced(views, node, name),
        // Agents of a node that is gone have no port left.
        (_, None) => NodeView { scope: NodeScope { ports: Vec::new(), ..now.scope.clone() }, ..now.clone() },
    };
    let vouching = vouching(&now, &draft);
    if now.scope == draft.scope && now.policies == draft.policies && vouching == Vouching::default() {
        return Ok(None);
    }
    let now = Engine::compile(now.scope, &now.policies, None)?;
    let draft = Engine::compile(draft.scope, &draft.policies, Some(&now))?;
    Ok(Some(Sides { now, draft, vouching }))
}

/// What a node enforces, but for which routes are for users alone: that is the listener's to say, and no policy lifts it.
pub(super) fn whoever_it_is_for(
    views: &MeshViews<'_>,
    node: &VirtualNode,
    name: &Name,
) -> Result<Engine, CompileError> {
    let NodeView { mut scope, policies, .. } = enforced(views, node, name);
    for port in &mut scope.ports {
        port.users.iter_mut().for_each(|users| users.required = false);
        port.routes.iter_mut().for_each(|route| route.requires_user = None);
    }
    Engine::compile(scope, &policies, None)
}

fn enforced(views: &MeshViews<'_>, node: &VirtualNode, name: &Name) -> NodeView {
    let mut view = views.node(name, node);
    view.policies.policies.retain(|policy| policy.mode != Mode::Audit);
    view
}

fn vouching(now: &NodeView, draft: &NodeView) -> Vouching {
    let issuers = if now.issuers == draft.issuers {
        Issuers::Same
    } else if now.issuers.iter().all(|issuer| draft.issuers.contains(issuer)) {
        Issuers::More
    } else {
        Issuers::Other
    };
    let (now, draft) = (&now.federated, &draft.federated);
    let others = now.iter().filter(|own| !draft.contains(own));
    let others = others.chain(draft.iter().filter(|own| !now.contains(own)));
    Vouching { issuers, other_bundles: others.map(|bundle| bundle.trust_domain.clone()).collect() }
}
