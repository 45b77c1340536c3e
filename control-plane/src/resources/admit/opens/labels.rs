//! Labels of nodes that policies read: whoever writes one decides whom these let in.

use std::collections::BTreeSet;

use hauberk_identity::Name;

use super::{Comparison, Opening};
use crate::resources::key::Kind;
use crate::resources::mesh_catalog::MeshCatalog;

impl Comparison<'_> {
    /// Which labels a node gets, loses, or has with another value; of one that comes or goes all of them.
    pub(super) fn compare_labels(&self, node: &Name, openings: &mut Vec<Opening>) {
        let names = |mesh: &'_ MeshCatalog| -> BTreeSet<String> {
            mesh.labels_of(node.as_str()).map(|(name, _)| name.to_owned()).collect()
        };
        let mut labels = names(self.after);
        labels.extend(self.before.into_iter().flat_map(names));
        for label in labels {
            let value = |mesh: &'_ MeshCatalog| mesh.label_of(node.as_str(), &label).map(str::to_owned);
            let change = match (self.before.and_then(value), value(self.after)) {
                (None, Some(now)) => format!("gives virtual node {node} the label {label:?} with {now:?}"),
                (Some(was), None) => {
                    format!("takes the label {label:?}, which is {was:?}, from virtual node {node}")
                }
                (Some(was), Some(now)) if was != now => {
                    format!("changes the label {label:?} of virtual node {node} from {was:?} to {now:?}")
                }
                (None, None) | (Some(_), Some(_)) => continue,
            };
            let named = self.mentions().of_label(&label);
            if !named.is_empty() {
                let is_there = self.after.node(node.as_str()).is_some();
                openings.push(Opening {
                    key: self.key(Kind::VirtualNode, node),
                    field: if is_there { format!("labels.{label}") } else { String::new() },
                    message: format!("this {change}; the label is read by {named}"),
                    takes: named.takes(),
                });
            }
        }
    }
}
