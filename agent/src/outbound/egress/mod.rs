//! Calls of local apps to hosts outside of the mesh.
//!
//! Only hosts that an external service of the view has are called, and only where policies permit it: this agent
//! decides, since nobody of the mesh is at the other end. A call is registered and decided (`connections/leaving.rs`),
//! then the host is resolved and connected to (`dial.rs`): requests go on as plain HTTP (`http.rs`), streams as they
//! are (`stream.rs`).

mod dial;
pub(super) mod http;
pub(super) mod stream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Outbound;
use super::http::Failure;
use super::route::UNKNOWN_SERVICE;
use crate::connections::{Destination, Leave};
use crate::mesh::canonical_host;
use crate::metrics::ServiceMetrics;
use crate::wire::headers::split_host;

/// How long an app, or a host outside, may take with what comes first.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a call goes whose authority names a host of an external service.
pub(super) fn named(
    outbound: &Outbound,
    authority: &str,
    default_port: u16,
    app: SocketAddr,
) -> Option<Destination> {
    let rules = outbound.connections.rules();
    let view = rules.view().ok()?;
    // As in most meshes, where this is on the path of every request.
    if view.externals.is_empty() {
        return None;
    }
    let to = destination(authority, default_port, app)?;
    view.external_with(&to.host).is_some().then_some(to)
}

/// Where a call would go that found no service, if its authority names no service at all but a domain or an address. It
/// is denied, and that is recorded.
pub(super) fn unnamed(
    failure: &Failure,
    authority: &str,
    default_port: u16,
    app: SocketAddr,
) -> Option<Destination> {
    let to = destination(authority, default_port, app)?;
    (failure.name == UNKNOWN_SERVICE && to.host.contains(['.', ':'])).then_some(to)
}

fn destination(authority: &str, default_port: u16, app: SocketAddr) -> Option<Destination> {
    let (host, port) = split_host(authority)?;
    Some(Destination { host: canonical_host(host).into(), port: port.unwrap_or(default_port), app })
}

/// The authority of requests, in the one spelling by which they are decided: without a last dot, and without the port
/// that goes without saying.
fn authority(to: &Destination) -> String {
    let host = bare_host(to);
    if to.port == http::HTTP_PORT { host } else { format!("{host}:{}", to.port) }
}

/// The same without any port, as policies see it.
fn bare_host(to: &Destination) -> String {
    if to.host.contains(':') { format!("[{}]", to.host) } else { to.host.to_string() }
}

/// Where calls of a host are counted.
fn counters(outbound: &Outbound, to: &Destination) -> Arc<ServiceMetrics> {
    let (rules, metrics) = (outbound.connections.rules(), &outbound.connections.context().metrics);
    let external = rules.view().ok().and_then(|view| view.external_with(&to.host));
    external
        .map_or_else(|| Arc::clone(metrics.unknown_service()), |external| metrics.external(&external.name))
}

/// What a call is called in access lines.
fn label(leave: &Leave, to: &Destination) -> String {
    match leave.external_name() {
        Some(name) => format!("external/{name}"),
        None => to.host.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_its_host_in_one_spelling() {
        let app = "127.0.0.1:9".parse().unwrap();
        for (written, sent) in [
            ("API.Example.:80", "api.example"),
            ("api.example", "api.example"),
            ("Api.Example:8080", "api.example:8080"),
            ("[::1]:80", "[::1]"),
            ("[0:0::1]:81", "[::1]:81"),
            ("[::ffff:10.0.0.1]", "10.0.0.1"),
        ] {
            assert_eq!(authority(&destination(written, http::HTTP_PORT, app).unwrap()), sent);
        }
    }
}
