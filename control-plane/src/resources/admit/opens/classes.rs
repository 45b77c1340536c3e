//! Which data classes routes come into and go out of.

use std::collections::BTreeSet;

use hauberk_identity::Name;
use hauberk_policy::PortScope;

use super::{Comparison, Opening, Port};
use crate::resources::key::Kind;

impl Comparison<'_> {
    /// Whether by the route's own declaration or by classes that are put within one another.
    pub(super) fn compare_classes(
        &self,
        port: Port<'_>,
        former: Option<&PortScope>,
        now: Option<&PortScope>,
        openings: &mut Vec<Opening>,
    ) {
        let (were, are) = (classified(former), classified(now));
        let come = are.difference(&were).map(|change| (change, "puts", "into"));
        let gone = were.difference(&are).map(|change| (change, "takes", "out of"));
        for ((route, class), what, whither) in come.chain(gone) {
            let named = self.mentions().of_class(class);
            if named.is_empty() {
                continue;
            }
            let Port { node, number, .. } = port;
            let message = format!(
                "this {what} {route} of port {number} of {node} {whither} data class {class}, which is named by {named}"
            );
            let takes = named.takes();
            let own = self.key(Kind::VirtualNode, node);
            let opening = if self.step.places.contains_key(&own) {
                Opening { key: own, field: self.listener_field(node, number, "routes"), message, takes }
            } else {
                let mut keys = self.step.places.keys();
                let changed = keys.find(|key| key.mesh == *self.name && key.kind == Kind::DataClass);
                let Some(key) = changed.cloned() else { continue };
                Opening { key, field: "spec.dataClasses".to_owned(), message, takes }
            };
            openings.push(opening);
        }
    }
}

/// Each route with each class that it is in.
fn classified(port: Option<&PortScope>) -> BTreeSet<(&str, &Name)> {
    let routes = port.into_iter().flat_map(|port| &port.routes);
    routes.flat_map(|route| route.classes.iter().map(|class| (route.template.as_str(), class))).collect()
}
