//! The names of what an agent must understand to enforce a view.
//!
//! Protobuf skips fields it does not know, and a field that is skipped may be the one that narrows a rule. A view
//! therefore lists what it needs, an agent announces what it has, and refuses a view that needs more.

use std::collections::BTreeSet;

use hauberk_policy::{
    Authorization, EscapedSlashes, MethodAccess, Mode, NodeScope, PolicySlice, SlicedPolicy, Undeclared,
};

use super::view::{Body, Discovery, FederatedBundle};

/// Policies in Cedar, in the first version of this product's schema.
pub const CEDAR: &str = "cedar-1";
/// Policies of the mesh's boundary, which decide before all others.
pub const BOUNDARIES: &str = "boundaries-1";
/// Policies that read more of the context than the path and the method.
pub const CONTEXT: &str = "context-1";
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
/// Data classes of routes, and policies that name them.
pub const DATA_CLASSES: &str = "data-classes-1";
/// Roles, with the members that the view says.
pub const ROLES: &str = "roles-1";
/// Users: issuers of their tokens, routes that are for them alone, and policies that read them.
pub const USERS: &str = "users-1";

/// Listeners that let escaped slashes in paths stand.
pub const ESCAPED_SLASHES: &str = "escaped-slashes-1";
/// External services, and policies that name them.
pub const EGRESS: &str = "egress-1";

/// gRPC methods that read, and policies about `call` that read the query or parameters.
pub const METHOD_ACCESS: &str = "method-access-1";

/// Issuers whose tokens are held against the client that they were issued to. Whoever does not know of it takes tokens that name an
/// audience, which are others.
pub const CLIENTS_AS_AUDIENCES: &str = "clients-as-audiences-1";

/// Labels of nodes, with the values that the view says.
pub const NODE_LABELS: &str = "node-labels-1";

/// Services, ports and routes that conditions of policies ask about wherever they are, with what the view says of them.
pub const NAMED_PORTS: &str = "named-ports-1";

/// Routes with fixed text around parameters, such as `{id}.json`.
pub const ROUTE_TEXT: &str = "route-text-1";

/// Another trust domain with more roots than [`FEW_ROOTS`]. Whoever does not know of it refuses such a bundle, and lets in nobody of that
/// domain.
pub const MANY_ROOTS: &str = "many-roots-1";
/// The most roots of another trust domain that any agent takes.
pub const FEW_ROOTS: usize = 32;

/// Everything that this release can enforce, in order: what its agents announce.
pub const ALL: [&str; 22] = [
    AUDIT_AUTHORIZATION,
    AUDIT_POLICIES,
    BOUNDARIES,
    CEDAR,
    CLIENTS_AS_AUDIENCES,
    CONTEXT,
    DATA_CLASSES,
    DENIED_INSTANCES,
    DENY_UNDECLARED,
    DNS,
    EGRESS,
    ESCAPED_SLASHES,
    FIXED,
    MANY_ROOTS,
    MAX_VIEW_AGE,
    METHOD_ACCESS,
    NAMED_PORTS,
    NODE_LABELS,
    ROLES,
    ROUTE_TEXT,
    ROUTES,
    USERS,
];

/// What a view with this body needs, in order.
pub fn needed(body: &Body) -> Vec<&'static str> {
    let mut needed = BTreeSet::new();
    match body {
        Body::Node(node) => {
            needed.extend(needed_by_scope(&node.scope));
            needed.extend(needed_by_policies(&node.policies));
            needed.extend(node.egress.externals.first().map(|_| EGRESS));
            needed.extend(needed_by_policies(&node.egress.policies));
            needed.extend(node.max_view_age.map(|_| MAX_VIEW_AGE));
            needed.extend(node.issuers.first().map(|_| USERS));
            let by_client = node.issuers.iter().find(|issuer| issuer.audience_is_client);
            needed.extend(by_client.map(|_| CLIENTS_AS_AUDIENCES));
            let many = node.federated.iter().find(|bundle| has_many_roots(bundle));
            needed.extend(many.map(|_| MANY_ROOTS));
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

/// By the document as the control plane spells it: within a string each quotation mark would have a backslash before it.
fn has_many_roots(bundle: &FederatedBundle) -> bool {
    const ROOT: &[u8] = br#""use":"x509-svid""#;
    bundle.document.windows(ROOT.len()).filter(|part| *part == ROOT).nth(FEW_ROOTS).is_some()
}

/// What the listeners of a node need.
pub fn needed_by_scope(scope: &NodeScope) -> impl Iterator<Item = &'static str> {
    scope.ports.iter().flat_map(|port| {
        [
            (!port.routes.is_empty()).then_some(ROUTES),
            port.routes.iter().any(|route| route.template.has_text_around_parameters()).then_some(ROUTE_TEXT),
            port.routes.iter().any(|route| !route.classes.is_empty()).then_some(DATA_CLASSES),
            (port.undeclared == Undeclared::Deny).then_some(DENY_UNDECLARED),
            (port.authorization == Authorization::Audit).then_some(AUDIT_AUTHORIZATION),
            (port.escaped_slashes == EscapedSlashes::Keep).then_some(ESCAPED_SLASHES),
            port.routes.iter().any(|route| route.access == MethodAccess::Read).then_some(METHOD_ACCESS),
            port.users.as_ref().map(|_| USERS),
            port.routes.iter().any(|route| route.requires_user.is_some()).then_some(USERS),
        ]
        .into_iter()
        .flatten()
    })
}

fn needed_by_policies(slice: &PolicySlice) -> impl Iterator<Item = &'static str> {
    let of_policies = slice.policies.iter().flat_map(|policy| match policy.mode {
        Mode::Enforce => [Some(CEDAR), None].into_iter().flatten(),
        Mode::Audit => [Some(CEDAR), Some(AUDIT_POLICIES)].into_iter().flatten(),
        Mode::Boundary => [Some(CEDAR), Some(BOUNDARIES)].into_iter().flatten(),
    });
    // Whoever does not know the type refuses the policy: better before it is pushed than after.
    let names_classes = slice.policies.iter().any(|policy| policy.text.contains("DataClass::"));
    let names_externals = slice.policies.iter().any(|policy| policy.text.contains("External::"));
    let context = slice.policies.iter().any(|policy| policy.reads().are_beyond_path_and_method());
    let users = slice.policies.iter().any(|policy| {
        policy.text.contains("User::") || policy.text.contains("UserGroup::") || policy.reads().are_of_users()
    });
    let others = [
        users.then_some(USERS),
        slice.policies.iter().any(SlicedPolicy::reads_calls_as_requests).then_some(METHOD_ACCESS),
        context.then_some(CONTEXT),
        (!slice.roles.is_empty()).then_some(ROLES),
        slice.policies.iter().any(SlicedPolicy::reads_labels).then_some(NODE_LABELS),
        slice.policies.iter().any(SlicedPolicy::asks_of_named_resources).then_some(NAMED_PORTS),
        names_classes.then_some(DATA_CLASSES),
        names_externals.then_some(EGRESS),
    ];
    of_policies.chain(others.into_iter().flatten())
}
