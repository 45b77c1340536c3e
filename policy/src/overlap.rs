//! Statements that make others pointless: told to authors, since they rarely mean it.

mod groups;
mod scope;

use std::collections::{HashMap, HashSet};

use cedar_policy::EntityUid;

use crate::compiled::permits;
use crate::document::{Mode, PolicyDocument};
pub use groups::Groups;
use scope::Scope;

/// The most pairs that are looked at; more would hold up a change for the sake of a hint.
const MOST_PAIRS: usize = 1_000_000;

/// Two statements of which one is pointless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Overlap {
    /// Both say the same.
    Same {
        /// One of them.
        one: String,
        /// The other.
        other: String,
    },
    /// A permit that permits nothing, for a forbid without conditions is at least as wide.
    Covered {
        /// The permit.
        permit: String,
        /// The forbid.
        forbid: String,
    },
    /// A permit that permits nothing new, for another one without conditions is at least as wide.
    Contained {
        /// The permit.
        permit: String,
        /// The other one.
        wider: String,
    },
}

/// Statements without conditions, by what their resource must be, or be in.
#[derive(Default)]
struct Wide<'a>(HashMap<Option<EntityUid>, Vec<Wider<'a>>>);

struct Wider<'a> {
    permits: bool,
    /// Its place among all statements.
    place: usize,
    scope: Scope<'a>,
}

struct Permit<'a> {
    is_new: bool,
    place: usize,
    is_conditional: bool,
    scope: Scope<'a>,
}

/// What overlaps among `documents`, of which at least one `is_new`; at most `most`, in the order of the documents. What is in what
/// is asked of `groups`, of the documents' mesh.
pub fn overlaps<'a>(
    documents: impl IntoIterator<Item = &'a PolicyDocument>,
    is_new: impl Fn(&PolicyDocument) -> bool,
    groups: &Groups,
    most: usize,
) -> Vec<Overlap> {
    let mut found = Vec::new();
    let mut texts: HashMap<(Mode, &str), (&str, bool)> = HashMap::new();
    let (mut new_ones, mut old_ones) = (Wide::default(), Wide::default());
    let (mut narrow, mut place) = (Vec::new(), 0);
    for document in documents {
        let new = is_new(document);
        for statement in document.statements() {
            place += 1;
            let name = statement.name.as_str();
            let text = without_annotations(&statement.text);
            match texts.get(&(document.mode(), text)) {
                Some((other, other_new)) if new || *other_new => {
                    found.push(Overlap::Same { one: (*other).to_owned(), other: name.to_owned() });
                }
                Some(_) => {}
                None => drop(texts.insert((document.mode(), text), (name, new))),
            }
            if document.mode() == Mode::Audit {
                continue;
            }
            let (permits, is_new) = (permits(&statement.policy), new);
            let is_conditional = statement.policy.has_non_scope_constraint();
            if !is_conditional {
                let side = if is_new { &mut new_ones } else { &mut old_ones };
                side.put(Wider { permits, place, scope: Scope::of(statement, text) });
            }
            if permits {
                narrow.push(Permit { is_new, place, is_conditional, scope: Scope::of(statement, text) });
            }
        }
    }
    let mut left = MOST_PAIRS;
    for permit in &narrow {
        // Of two that were there before, all has been told.
        if !permit.is_new && !new_ones.all().any(|wider| wider.scope.may_cover(&permit.scope)) {
            continue;
        }
        let around = permit.scope.around(groups);
        let old = permit.is_new.then(|| old_ones.at(&around.resource)).into_iter().flatten();
        let others: Vec<_> = new_ones.at(&around.resource).chain(old).take(left).collect();
        left = left.saturating_sub(others.len());
        let covering = |permits| {
            let covering = others.iter().filter(|wider| {
                wider.permits == permits
                    && wider.scope.covers(&permit.scope, &around)
                    && !(permits && permit.is_told_otherwise(wider, groups))
            });
            covering.min_by_key(|wider| wider.place).map(|wider| wider.scope.name.to_owned())
        };
        let name = permit.scope.name.to_owned();
        if let Some(forbid) = covering(false) {
            found.push(Overlap::Covered { permit: name, forbid });
        } else if let Some(wider) = covering(true) {
            found.push(Overlap::Contained { permit: name, wider });
        }
    }
    found.truncate(most);
    found
}

impl Permit<'_> {
    /// Whether that a permit covers this one is told already, or will be: it is this very one, has the same text, or is covered by
    /// this one in turn and comes later.
    fn is_told_otherwise(&self, wider: &Wider<'_>, groups: &Groups) -> bool {
        self.scope.text == wider.scope.text
            || (!self.is_conditional
                && self.place < wider.place
                && self.scope.covers(&wider.scope, &wider.scope.around(groups)))
    }
}

impl<'a> Wide<'a> {
    fn put(&mut self, wider: Wider<'a>) {
        self.0.entry(wider.scope.resource.within.clone()).or_default().push(wider);
    }

    fn all(&self) -> impl Iterator<Item = &Wider<'a>> {
        self.0.values().flatten()
    }

    /// Those that may cover what is in all of these.
    fn at(&self, around: &HashSet<EntityUid>) -> impl Iterator<Item = &Wider<'a>> {
        let within = around.iter().filter_map(|uid| self.0.get(&Some(uid.clone())));
        within.chain(self.0.get(&None)).flatten()
    }
}

/// The text from its effect on: names of statements make no difference.
fn without_annotations(text: &str) -> &str {
    let begins = ["permit", "forbid"].into_iter().filter_map(|effect| {
        let at_line = |(at, _): &(usize, &str)| {
            *at == 0 || text.get(..*at).is_some_and(|before| before.ends_with('\n'))
        };
        text.match_indices(effect).find(at_line).map(|(at, _)| at)
    });
    begins.min().and_then(|at| text.get(at..)).unwrap_or(text)
}

#[cfg(test)]
mod tests;
