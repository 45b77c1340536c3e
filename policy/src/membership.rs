//! What conditions ask of labels, roles and data classes: of what the mesh says of callers and routes, and not a
//! request.

use std::collections::BTreeSet;
use std::sync::Arc;

use cedar_policy::{Entities, EntityUid, EvalResult};

use crate::compile::Engine;
use crate::names::Namespace;
use crate::reads::Reads;
use crate::vocabulary::Kind;

impl Engine {
    /// The labels, roles and data classes that conditions of these statements ask for: `label team`, `role clerks`,
    /// `data class cards`.
    pub fn memberships_asked_by(&self, statements: &[Arc<str>]) -> BTreeSet<String> {
        let names = self.0.scope.names();
        let own = self.0.policies.iter().filter(|compiled| statements.contains(&compiled.name));
        own.flat_map(|compiled| {
            let labels = compiled.reads.labels.iter().map(|label| format!("label {label}"));
            let groups = compiled.reads.groups.iter().map(|group| word(group, &names));
            labels.chain(groups).collect::<Vec<_>>()
        })
        .collect()
    }
}

/// What holds of a caller and of what it calls, of all that these conditions ask of labels, roles and data classes.
pub(crate) fn held(
    reads: &Reads,
    names: &Namespace,
    entities: &Entities,
    (caller, called): (&EntityUid, &EntityUid),
) -> Vec<String> {
    let named = reads.principals.iter().map(|(kind, id)| {
        let uid = kind.uid(id);
        (names.shorten(&uid), uid)
    });
    let whose: Vec<_> = [("the caller".to_owned(), caller.clone())].into_iter().chain(named).collect();
    let mut held = Vec::new();
    for label in &reads.labels {
        for (who, uid) in &whose {
            let value = entities.get(uid).and_then(|entity| entity.tag(label)).and_then(Result::ok);
            held.push(match value {
                Some(EvalResult::String(value)) => format!("{label} of {who} is {value:?}"),
                _ => format!("{who} has no label {label}"),
            });
        }
    }
    for group in &reads.groups {
        let uid = group.0.uid(&group.1);
        let what = ("what is called".to_owned(), called.clone());
        let within = whose.iter().chain([&what]).filter(|(_, own)| entities.is_ancestor_of(&uid, own));
        let within: Vec<_> = within.map(|(who, _)| who.as_str()).collect();
        held.push(match within.is_empty() {
            true => format!("nobody is in {}", word(group, names)),
            false => format!("{} is in {}", within.join(" and "), word(group, names)),
        });
    }
    held
}

fn word((kind, id): &(Kind, Box<str>), names: &Namespace) -> String {
    let sort = if *kind == Kind::Role { "role" } else { "data class" };
    format!("{sort} {}", names.shorten(&kind.uid(id)))
}
