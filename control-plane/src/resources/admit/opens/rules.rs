//! What a port does with requests, and what comes of one that goes: what is taken away today may come back otherwise tomorrow.

use std::collections::BTreeSet;

use hauberk_policy::{Authorization, PortScope, Protocol, Undeclared};

use super::{Comparison, Opening, Port, Takes};
use crate::resources::key::Kind;

impl Comparison<'_> {
    /// What a port of a node of the batch does with requests.
    pub(super) fn compare_rules(
        &self,
        place: Port<'_>,
        former: Option<&PortScope>,
        port: &PortScope,
        openings: &mut Vec<Opening>,
    ) {
        let Port { node, id, number } = place;
        let mut open = |field: &str, message: String, takes: Takes| {
            let field = self.listener_field(node, number, field);
            openings.push(Opening { key: self.key(Kind::VirtualNode, node), field, message, takes });
        };
        let rules = Takes::POLICIES;
        if port.authorization == Authorization::Audit
            && former.is_none_or(|former| former.authorization != Authorization::Audit)
        {
            open("authorization", format!("port {number}: AUDIT lets through what no policy permits"), rules);
        }
        let Some(former) = former else { return };
        if former.protocol != port.protocol {
            let (was, is) = (former.protocol.as_str(), port.protocol.as_str());
            let are_requests = |protocol| matches!(protocol, Protocol::Http | Protocol::Http2);
            let speaks_requests_still = are_requests(former.protocol) && are_requests(port.protocol);
            let then = if speaks_requests_still {
                // They may look at the protocol itself, and http alone takes WebSockets in.
                "policies hold there as before unless they look at the protocol, and the app must speak it too"
                    .to_owned()
            } else {
                let about = |protocol: Protocol| match protocol {
                    Protocol::Tcp => "streams",
                    Protocol::Grpc => "gRPC calls",
                    Protocol::Http | Protocol::Http2 => "HTTP requests",
                };
                format!(
                    "what policies say of {} alone no longer holds there, and what they say of {} does",
                    about(former.protocol),
                    about(port.protocol)
                )
            };
            let message = format!("port {number} speaks {is} instead of {was}: {then}");
            // A boundary need not name the port to be about the requests of it.
            let speakers = self.mentions().of_port((id, number)).union(self.mentions().boundaries());
            open("portMapping.protocol", message, rules.and_of(&speakers));
        }
        // A request that another route takes, or none, is in the classes of neither before nor after.
        let classes: BTreeSet<_> =
            former.routes.iter().chain(&port.routes).flat_map(|route| &route.classes).collect();
        let named = classes.into_iter().fold(self.mentions().of_routes((id, number)), |named, class| {
            named.union(&self.mentions().of_class(class))
        });
        if former.undeclared == Undeclared::Deny {
            if port.undeclared == Undeclared::Decide {
                let message = format!("port {number} no longer denies requests that match no declared route");
                open("undeclared", message, rules.and_of(&named));
            } else {
                for route in port.routes.iter().map(|route| &route.template) {
                    if former.routes.iter().any(|known| known.template == *route) {
                        continue;
                    }
                    let message = format!(
                        "port {number} no longer denies {route}: policies decide about it from now on"
                    );
                    open("routes", message, rules.and_of(&named));
                }
            }
        }
        if routes(former) != routes(port) && !named.is_empty() {
            open(
                "routes",
                format!(
                    "this changes which requests belong to the routes of port {number}, which {named} may \
                     speak of"
                ),
                named.takes(),
            );
        }
    }

    /// What a port of a node of the batch denied of itself, or was forbidden for what it spoke: it may come back with neither.
    /// Policies and boundaries that name it, its services, routes or classes, are asked elsewhere.
    pub(super) fn compare_removal(&self, place: Port<'_>, former: &PortScope, openings: &mut Vec<Opening>) {
        let Port { node, id, number } = place;
        let mut open = |message: String, takes: Takes| {
            let field = self.listener_field(node, number, "portMapping.port");
            openings.push(Opening { key: self.key(Kind::VirtualNode, node), field, message, takes });
        };
        if former.undeclared == Undeclared::Deny {
            let message =
                format!("this removes port {number}, which denies requests that match no declared route");
            open(message, Takes::POLICIES.and_of(&self.mentions().of_routes((id, number))));
        }
        let speakers = self.mentions().of_protocols();
        if !speakers.is_empty() {
            let protocol = former.protocol.as_str();
            let message = format!(
                "this removes port {number} of {node}, which speaks {protocol}: with another protocol it would be \
                 other requests that {speakers} may speak of"
            );
            open(message, Takes::POLICIES.and_of(&speakers));
        }
    }
}

fn routes(port: &PortScope) -> BTreeSet<&str> {
    port.routes.iter().map(|route| route.template.as_str()).collect()
}
