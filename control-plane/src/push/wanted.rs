//! What an agent should have, read from the compiled views.

use std::sync::Arc;

use hauberk_identity::{Name, SpiffeId};
use hauberk_proto::agent::v1 as agent;

use super::endpoints::TargetPort;
use crate::compile::{Compilation, CompiledView};
use crate::instances::ViewMark;

/// The epoch of all views.
pub(crate) fn epoch(compilation: &Compilation) -> u64 {
    compilation.epoch
}

/// The revision up to which changes are in the views.
pub(crate) fn revision(compilation: &Compilation) -> u64 {
    compilation.revision
}

/// Whether all views of a mesh are what the configuration says. Where one could not be made, the former ones stand, and
/// nobody is said to enforce the configuration.
pub(crate) fn is_complete(compilation: &Compilation, mesh: &Name) -> bool {
    compilation.findings.iter().all(|finding| finding.mesh != *mesh)
}

/// A node's own view.
pub(crate) fn node<'a>(compilation: &'a Compilation, spiffe_id: &SpiffeId) -> Option<&'a Arc<CompiledView>> {
    compilation.nodes.get(spiffe_id)
}

/// The view of a service of `mesh`.
pub(crate) fn service<'a>(
    compilation: &'a Compilation,
    mesh: &Name,
    name: &Name,
) -> Option<&'a Arc<CompiledView>> {
    compilation.services.get(&(mesh.clone(), name.clone()))
}

/// The view that a decision was made by, if it still stands.
pub(crate) fn view_of_decision<'a>(
    compilation: &'a Compilation,
    decision: &agent::Decision,
) -> Option<&'a Arc<CompiledView>> {
    let view = compilation.nodes.get(decision.node.as_str())?;
    let made_by = (decision.epoch, decision.revision);
    (made_by == (compilation.epoch, view.revision)).then_some(view)
}

/// A view by number and content.
pub(crate) fn mark(compilation: &Compilation, view: &CompiledView) -> ViewMark {
    ViewMark { epoch: compilation.epoch, revision: view.revision, digest: view.digest }
}

/// The services that a node's agents are sent unasked.
pub(crate) fn backends(view: &CompiledView) -> &[Name] {
    &view.backends
}

/// The targets of a service that are found by registration.
pub(crate) fn registered_targets(view: &CompiledView) -> impl Iterator<Item = TargetPort> {
    view.targets.iter().map(|(spiffe_id, port)| TargetPort { spiffe_id: spiffe_id.clone(), port: *port })
}

/// The view as it travels; its bytes are shared.
pub(crate) fn signed(view: &CompiledView) -> agent::SignedView {
    view.signed.clone()
}
