//! Engines that enforce, without policies in mode audit: these change nothing that is let through, and would make what
//! they read seem to matter.

use hauberk_identity::Name;
use hauberk_policy::{CompileError, Engine, Mode, NodeScope, PolicySlice};

use crate::compile::view::MeshViews;
use crate::resources::VirtualNode;

/// What a node, or whoever calls an external service, enforces.
pub(super) type Parts = (NodeScope, PolicySlice);

/// What is enforced now, and by a draft; none where that is the same.
pub(super) fn pair(
    (scope, slice): Parts,
    (draft_scope, draft_slice): Parts,
) -> Result<Option<(Engine, Engine)>, CompileError> {
    if scope == draft_scope && slice == draft_slice {
        return Ok(None);
    }
    let now = Engine::compile(scope, &slice, None)?;
    let draft = Engine::compile(draft_scope, &draft_slice, Some(&now))?;
    Ok(Some((now, draft)))
}

/// What a node enforces.
pub(super) fn enforcing(
    views: &MeshViews<'_>,
    node: &VirtualNode,
    name: &Name,
) -> Result<Engine, CompileError> {
    let (scope, slice) = parts(views, node, name);
    Engine::compile(scope, &slice, None)
}

/// What a node enforces.
pub(super) fn parts(views: &MeshViews<'_>, node: &VirtualNode, name: &Name) -> Parts {
    let view = views.node(name, node);
    deciding((view.scope, view.policies))
}

/// What is enforced where an external service is called.
pub(super) fn parts_of_external(views: &MeshViews<'_>, external: &Name) -> Option<Parts> {
    views.external(external).map(deciding)
}

fn deciding((scope, mut slice): Parts) -> Parts {
    slice.policies.retain(|policy| policy.mode != Mode::Audit);
    (scope, slice)
}
