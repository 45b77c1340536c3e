//! The names of what an agent must understand to enforce a view.
//!
//! Protobuf skips fields it does not know, and a field that is skipped may be the one that narrows a rule. A view
//! therefore lists what it needs, an agent announces what it has, and refuses a view that needs more.

use std::collections::BTreeSet;

use hauberk_policy::{Authorization, Mode, NodeScope, PolicySlice, Undeclared};

use super::view::{Body, Discovery};

/// Policies in Cedar, in the first version of this product's schema.
pub const CEDAR: &str = "cedar-1";
/// Policies that are recorded and do not decide.
pub const AUDIT_POLICIES: &str = "audit-policies";
/// `authorization: AUDIT`.
pub const AUDIT_AUTHORIZATION: &str = "audit-authorization";
/// Declared routes.
pub const ROUTES: &str = "routes-1";
/// `undeclared: DENY`.
pub const DENY_UNDECLARED: &str = "deny-undeclared";
/// Views that are good for a limited time.
pub const MAX_VIEW_AGE: &str = "max-view-age";
/// Targets that are found by DNS.
pub const DNS: &str = "dns-discovery";
/// Targets that are found in a list.
pub const FIXED: &str = "fixed-discovery";

/// Denylists that name instances, of whose certificates no more is said. No view needs it.
pub const DENIED_INSTANCES: &str = "denied-instances";

/// Everything that this release can enforce, in order: what its agents announce.
pub const ALL: [&str; 9] = [
    AUDIT_AUTHORIZATION,
    AUDIT_POLICIES,
    CEDAR,
    DENIED_INSTANCES,
    DENY_UNDECLARED,
    DNS,
    FIXED,
    MAX_VIEW_AGE,
    ROUTES,
];

/// What a view with this body needs, in order.
pub fn needed(body: &Body) -> Vec<&'static str> {
    let mut needed = BTreeSet::new();
    match body {
        Body::Node(node) => {
            needed.extend(needed_by_scope(&node.scope));
            needed.extend(needed_by_policies(&node.policies));
            needed.extend(node.max_view_age.map(|_| MAX_VIEW_AGE));
        }
        Body::Service(service) => {
            let targets = service.ports.iter().flat_map(|port| &port.targets);
            needed.extend(targets.filter_map(|target| match target.discovery {
                Discovery::Registered => None,
                Discovery::Dns(_) => Some(DNS),
                Discovery::Fixed(_) => Some(FIXED),
            }));
        }
    }
    needed.into_iter().collect()
}

/// What the listeners of a node need.
pub fn needed_by_scope(scope: &NodeScope) -> impl Iterator<Item = &'static str> {
    scope.ports.iter().flat_map(|port| {
        [
            (!port.routes.is_empty()).then_some(ROUTES),
            (port.undeclared == Undeclared::Deny).then_some(DENY_UNDECLARED),
            (port.authorization == Authorization::Audit).then_some(AUDIT_AUTHORIZATION),
        ]
        .into_iter()
        .flatten()
    })
}

fn needed_by_policies(slice: &PolicySlice) -> impl Iterator<Item = &'static str> {
    slice.policies.iter().flat_map(|policy| match policy.mode {
        Mode::Enforce => [Some(CEDAR), None].into_iter().flatten(),
        Mode::Audit => [Some(CEDAR), Some(AUDIT_POLICIES)].into_iter().flatten(),
    })
}
