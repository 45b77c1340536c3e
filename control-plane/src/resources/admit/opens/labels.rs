//! Labels of nodes and gateways that policies read: whoever writes one decides whom these let in.

use std::collections::BTreeSet;

use hauberk_identity::NodeName;

use super::{Comparison, Opening};
use crate::resources::key::ResourceKey;
use crate::resources::mesh_catalog::MeshCatalog;

impl Comparison<'_> {
    /// Which labels nodes and gateways get, lose, or have with another value; of those that come or go all of them.
    pub(super) fn compare_labels(&self, openings: &mut Vec<Opening>) {
        for key in self.step.places.keys().filter(|key| key.mesh == *self.name) {
            if let Some(node) = key.as_node() {
                self.compare_labels_of(key, &node, openings);
            }
        }
    }

    fn compare_labels_of(&self, key: &ResourceKey, node: &NodeName, openings: &mut Vec<Opening>) {
        let names = |mesh: &'_ MeshCatalog| -> BTreeSet<String> {
            mesh.labels_of(node).map(|(name, _)| name.to_owned()).collect()
        };
        let mut labels = names(self.after);
        labels.extend(self.before.into_iter().flat_map(names));
        for label in labels {
            let value = |mesh: &'_ MeshCatalog| mesh.label_of(node, &label).map(str::to_owned);
            let who = node.in_words();
            let change = match (self.before.and_then(value), value(self.after)) {
                (None, Some(now)) => format!("gives {who} the label {label:?} with {now:?}"),
                (Some(was), None) => format!("takes the label {label:?}, which is {was:?}, from {who}"),
                (Some(was), Some(now)) if was != now => {
                    format!("changes the label {label:?} of {who} from {was:?} to {now:?}")
                }
                (None, None) | (Some(_), Some(_)) => continue,
            };
            let named = self.mentions().of_label(&label);
            if !named.is_empty() {
                let is_there = self.after.node_or_gateway(node).is_some();
                openings.push(Opening {
                    key: key.clone(),
                    field: if is_there { format!("labels.{label}") } else { String::new() },
                    message: format!("this {change}; the label is read by {named}"),
                    takes: named.takes(),
                });
            }
        }
    }
}
