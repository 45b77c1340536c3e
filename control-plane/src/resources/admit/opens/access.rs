//! Which gRPC methods read, and which write.

use std::collections::BTreeMap;

use hauberk_policy::{MethodAccess, PortScope};

use super::{Comparison, Opening, Port};
use crate::resources::key::Kind;

impl Comparison<'_> {
    /// Whether policies tell methods that read from those that write, where other ones do so than before.
    pub(super) fn compare_access(
        &self,
        Port { node, number, .. }: Port<'_>,
        former: Option<&PortScope>,
        now: Option<&PortScope>,
        openings: &mut Vec<Opening>,
    ) {
        if access(former) == access(now) {
            return;
        }
        let named = self.mentions().of_calls();
        if !named.is_empty() {
            let message = format!(
                "this changes which methods of port {number} of {node} read and which write, which {named} may \
                 tell apart"
            );
            let (key, field) =
                (self.key(Kind::VirtualNode, node), self.listener_field(node, number, "routes"));
            openings.push(Opening { key, field, message, takes: named.takes() });
        }
    }
}

/// What each declared method does; nothing where all write, as undeclared ones do. Where one reads, any route may take a method
/// from it.
fn access(port: Option<&PortScope>) -> BTreeMap<&str, MethodAccess> {
    let routes = || port.into_iter().flat_map(|port| &port.routes);
    if routes().all(|route| route.access == MethodAccess::Write) {
        return BTreeMap::new();
    }
    routes().map(|route| (route.template.as_str(), route.access)).collect()
}
