//! Labels of nodes, as they travel and in the domain.

use std::collections::BTreeMap;

use hauberk_identity::{IdentityKind, SpiffeId};
use hauberk_policy::{NodeLabel, NodeScope};

use super::ConvertError;
use super::decode::{distinct, each, spiffe_id};
use crate::agent::v1 as wire;

pub(super) fn encode(label: &NodeLabel) -> wire::NodeLabel {
    let NodeLabel { name, values } = label;
    let mut by_value: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (node, value) in values {
        by_value.entry(value).or_default().push(node.to_string());
    }
    let values =
        by_value.into_iter().map(|(value, nodes)| wire::LabelValue { value: value.to_owned(), nodes });
    wire::NodeLabel { name: name.clone(), values: values.collect() }
}

/// Those of nodes of the scope's own mesh: nobody else's count.
pub(super) fn decode(
    field: &str,
    labels: Vec<wire::NodeLabel>,
    scope: &NodeScope,
) -> Result<Vec<NodeLabel>, ConvertError> {
    let labels = each(field, labels, |field, label| self::label(field, label, scope))?;
    distinct(field, labels.iter().map(|label| label.name.as_str()))?;
    Ok(labels)
}

fn label(field: &str, label: wire::NodeLabel, scope: &NodeScope) -> Result<NodeLabel, ConvertError> {
    let wire::NodeLabel { name, values } = label;
    let mut by_node = BTreeMap::new();
    for (index, wire::LabelValue { value, nodes }) in values.into_iter().enumerate() {
        let field = format!("{field}.values[{index}].nodes");
        for id in each(&field, nodes, |field, id| spiffe_id(field, &id))? {
            if !is_own(&id, scope) {
                let problem = format!("{id} is no node or gateway of mesh {}", scope.mesh);
                return Err(ConvertError::new(field, problem));
            }
            // It would be labelled as the last one says.
            if by_node.insert(id.clone(), value.clone()).is_some() {
                return Err(ConvertError::new(field, format!("{id} stands here twice")));
            }
        }
    }
    Ok(NodeLabel { name, values: by_node })
}

pub(super) fn is_own(id: &SpiffeId, scope: &NodeScope) -> bool {
    let is_of_mesh = match id.kind() {
        IdentityKind::Node { mesh, .. } | IdentityKind::Gateway { mesh, .. } => scope.mesh == *mesh,
        _ => false,
    };
    is_of_mesh && id.is_member_of(&scope.trust_domain)
}
