//! Texts that policies hold a request against, and that no request of the mesh has as far as is told. It is only warned of them: who
//! sends a request may write into it what nobody declared, and routes may be declared later.

use hauberk_identity::Name;
use hauberk_policy::{Compared, DeclaredRoute, Protocol, UNDECLARED, Undeclared};

use super::Step;
use crate::resources::mesh_catalog::MeshCatalog;
use crate::resources::virtual_node::Listener;

/// Methods that everybody knows, and writes in upper case (RFC 9110 §9.1, RFC 5789).
const METHODS: [&str; 9] = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT"];

impl Step<'_> {
    /// Whether a request of the mesh may have, as that part, what nobody declared: policies decide about such gRPC
    /// methods where they are not denied.
    pub(super) fn may_be_undeclared(&self, mesh: &Name, asked: Compared) -> bool {
        let decides = |mesh: &MeshCatalog| {
            let mut calls = listeners(mesh).filter(|listener| listener.protocol() == Protocol::Grpc);
            calls.any(|listener| listener.undeclared() == Undeclared::Decide)
        };
        matches!(asked, Compared::Service | Compared::Rpc)
            && self.after.mesh(mesh.as_str()).is_some_and(|mesh| decides(mesh))
    }

    /// Why a part of a request is never this text, if that is so.
    pub(super) fn never_met(&self, mesh: &Name, asked: Compared, text: &str) -> Option<String> {
        if asked == Compared::Method {
            let upper = text.to_ascii_uppercase();
            let is_misspelt = upper != *text && METHODS.contains(&&*upper);
            return is_misspelt.then(|| format!("methods are compared as they are sent; write {upper:?}"));
        }
        let mesh = self.after.mesh(mesh.as_str())?;
        if known(mesh, asked)?.any(|known| known == text || known == "*") {
            return None;
        }
        let why = match asked {
            Compared::Template => "no port of the mesh declares such a route",
            Compared::Parameter => "no route of the mesh has such a parameter",
            Compared::Service => "no port of the mesh declares such a gRPC service",
            Compared::Rpc => "no port of the mesh declares such a gRPC method",
            Compared::Path | Compared::Host | Compared::Method => return None,
        };
        let hint = self.nearest(text, known(mesh, asked)?);
        Some(hint.map_or(why.to_owned(), |hint| format!("{why}; {hint}")))
    }
}

/// What a part of a request can be, where that is known.
fn known(mesh: &MeshCatalog, asked: Compared) -> Option<Box<dyn Iterator<Item = &str> + '_>> {
    Some(match asked {
        // These are looked at by themselves, or where the policy is read.
        Compared::Method | Compared::Path | Compared::Host => return None,
        Compared::Template => Box::new(routes(mesh).map(|route| route.template.as_str()).chain([UNDECLARED])),
        Compared::Parameter => Box::new(routes(mesh).flat_map(|route| parameters(route.template.as_str()))),
        Compared::Service => Box::new(methods(mesh)?.into_iter().map(|(service, _)| service)),
        Compared::Rpc => Box::new(methods(mesh)?.into_iter().map(|(_, method)| method)),
    })
}

fn listeners(mesh: &MeshCatalog) -> impl Iterator<Item = &Listener> {
    mesh.nodes().flat_map(|(_, node)| node.listeners())
}

fn routes(mesh: &MeshCatalog) -> impl Iterator<Item = &DeclaredRoute> {
    listeners(mesh).flat_map(Listener::routes)
}

/// What is in braces: `id` and `rest` of `/orders/{id}/{rest...}`.
fn parameters(template: &str) -> impl Iterator<Item = &str> {
    let names = template.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    names.map(|name| name.trim_end_matches('.'))
}

/// Each gRPC service with a method of its, where every port that speaks gRPC declares what it serves.
fn methods(mesh: &MeshCatalog) -> Option<Vec<(&str, &str)>> {
    let mut methods = Vec::new();
    for listener in listeners(mesh).filter(|listener| listener.protocol() == Protocol::Grpc) {
        if listener.routes().is_empty() {
            return None;
        }
        methods.extend(listener.routes().iter().filter_map(|route| route.template.as_str().split_once('/')));
    }
    (!methods.is_empty()).then_some(methods)
}
