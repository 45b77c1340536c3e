//! What an agent should have, looked up in the compiled views.

use std::sync::Arc;

use hauberk_identity::{Name, SpiffeId};

use super::ViewMark;
use crate::compile::{Compilation, CompiledView};

/// Whether all views of a mesh are what the configuration says. Where one could not be made, the former ones stand, and
/// nobody is said to enforce the configuration.
pub(crate) fn is_complete(compilation: &Compilation, mesh: &Name) -> bool {
    compilation.findings.iter().all(|finding| finding.mesh != *mesh)
}

/// What has become of an instance's virtual node.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Standing<'a> {
    /// It is the one that the instance joined, and this is its view.
    Here(&'a Arc<CompiledView>),
    /// It was deleted.
    Deleted,
    /// It was deleted, and another was made under its name.
    MadeAnew,
}

/// What has become of the node that an instance joined. `uid` is unknown of instances that joined before it was recorded,
/// or whose record a restore has taken: they belong to whatever node has the name.
pub(crate) fn standing<'a>(
    compilation: &'a Compilation,
    spiffe_id: &SpiffeId,
    uid: Option<&str>,
) -> Standing<'a> {
    match compilation.nodes.get(spiffe_id) {
        None => Standing::Deleted,
        Some(view) if uid.is_some_and(|uid| uid != view.uid) => Standing::MadeAnew,
        Some(view) => Standing::Here(view),
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
