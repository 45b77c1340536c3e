//! What an agent should have, looked up in the compiled views.

use std::sync::Arc;

use hauberk_identity::{Name, SpiffeId};

use super::ViewMark;
use crate::compile::{Compilation, CompileFinding, CompiledView, Unmade};

/// Whether all views of a mesh are what the configuration says. Where one could not be made, the former ones stand, and
/// nobody is said to enforce the configuration.
pub(crate) fn is_complete(compilation: &Compilation, mesh: &Name) -> bool {
    compilation.findings.iter().all(|finding| finding.mesh != *mesh)
}

/// What keeps the view of a node or gateway from being what the configuration says, if anything does.
pub(crate) fn obstacle<'a>(
    compilation: &'a Compilation,
    mesh: &Name,
    spiffe_id: &SpiffeId,
) -> Option<&'a CompileFinding> {
    compilation.findings.iter().filter(|finding| finding.mesh == *mesh).find(|finding| {
        match &finding.unmade {
            Unmade::All => true,
            Unmade::OfNode(node) => node == spiffe_id,
            Unmade::OfService(_) => false,
        }
    })
}

/// What has become of an instance's virtual node.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Standing<'a> {
    /// It is the one that the instance joined, and this is its view.
    Here(&'a Arc<CompiledView>),
    /// It exists, and has no view: none could be made.
    NotMade,
    /// It was deleted.
    Deleted,
    /// It was deleted, and another was made under its name.
    MadeAnew,
    /// It does not exist, and whether it ever did cannot be told: this registry may be older than it.
    Unknown,
}

/// What has become of the node that an instance joined. `uid` is unknown of instances that joined before it was recorded,
/// or whose record a restore has taken: they belong to whatever node has the name, and nothing proves that it was deleted.
///
/// Who is told of a deletion does not come back from it. So the resources alone tell, not the views: a view may be missing
/// because it could not be made, and one that is kept may be a former node's.
pub(crate) fn standing<'a>(
    compilation: &'a Compilation,
    spiffe_id: &SpiffeId,
    uid: Option<&str>,
) -> Standing<'a> {
    let joined = uid.filter(|uid| !uid.is_empty());
    let Some(existing) = compilation.node_uids.get(spiffe_id) else {
        return if joined.is_some() { Standing::Deleted } else { Standing::Unknown };
    };
    let existing = existing.as_deref();
    if let (Some(joined), Some(existing)) = (joined, existing)
        && joined != existing
    {
        return Standing::MadeAnew;
    }
    match compilation.nodes.get(spiffe_id) {
        Some(view) if existing.or(joined).is_none_or(|uid| uid == view.uid) => Standing::Here(view),
        Some(_) | None => Standing::NotMade,
    }
}

/// The view of a service of `mesh`.
pub(crate) fn service<'a>(
    compilation: &'a Compilation,
    mesh: &Name,
    name: &Name,
) -> Option<&'a Arc<CompiledView>> {
    compilation.services.get(&(mesh.clone(), name.clone()))
}

/// A view by number and content.
pub(crate) fn mark(compilation: &Compilation, view: &CompiledView) -> ViewMark {
    ViewMark { epoch: compilation.epoch, revision: view.revision, digest: view.digest }
}
