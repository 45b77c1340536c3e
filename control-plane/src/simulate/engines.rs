//! Engines that enforce, without policies in mode audit: these change nothing that is let through, and would make what
//! they read seem to matter.

use hauberk_identity::Name;
use hauberk_policy::{CompileError, Engine, Mode, NodeScope, PolicySlice};

use crate::compile::view::MeshViews;
use crate::resources::VirtualNode;

/// What is enforced now, and by a draft; none where that is the same.
pub(super) fn pair(
    now: (&MeshViews<'_>, &VirtualNode),
    draft: (&MeshViews<'_>, &VirtualNode),
    name: &Name,
) -> Result<Option<(Engine, Engine)>, CompileError> {
    let (scope, slice) = parts(now, name);
    let (draft_scope, draft_slice) = parts(draft, name);
    if scope == draft_scope && slice == draft_slice {
        return Ok(None);
    }
    let now = Engine::compile(scope, &slice, None)?;
    let draft = Engine::compile(draft_scope, &draft_slice, Some(&now))?;
    Ok(Some((now, draft)))
}

/// What a node enforces, but for which routes are for users alone: that is the listener's to say, and no policy lifts it.
pub(super) fn whoever_it_is_for(
    views: &MeshViews<'_>,
    node: &VirtualNode,
    name: &Name,
) -> Result<Engine, CompileError> {
    let (mut scope, slice) = parts((views, node), name);
    for port in &mut scope.ports {
        port.users.iter_mut().for_each(|users| users.required = false);
        port.routes.iter_mut().for_each(|route| route.requires_user = None);
    }
    Engine::compile(scope, &slice, None)
}

fn parts((views, node): (&MeshViews<'_>, &VirtualNode), name: &Name) -> (NodeScope, PolicySlice) {
    let view = views.node(name, node);
    let mut slice = view.policies;
    slice.policies.retain(|policy| policy.mode != Mode::Audit);
    (view.scope, slice)
}
