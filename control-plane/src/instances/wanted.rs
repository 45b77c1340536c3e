//! What an agent should have, looked up in the compiled views.

use std::sync::Arc;

use hauberk_identity::Name;

use super::ViewMark;
use crate::compile::{Compilation, CompiledView};

/// Whether all views of a mesh are what the configuration says. Where one could not be made, the former ones stand, and
/// nobody is said to enforce the configuration.
pub(crate) fn is_complete(compilation: &Compilation, mesh: &Name) -> bool {
    compilation.findings.iter().all(|finding| finding.mesh != *mesh)
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
