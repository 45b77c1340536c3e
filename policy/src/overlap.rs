//! Statements that make others pointless: told to authors, since they rarely mean it.

mod groups;
mod scope;
mod vacuous;

use std::collections::{HashMap, HashSet};

use cedar_policy::EntityUid;

use crate::compiled::permits;
use crate::document::{Mode, PolicyDocument};
pub use groups::Groups;
use scope::Scope;
use vacuous::{Vacuous, vacuous};

/// The most pairs that are looked at; more would hold up a change for the sake of a hint.
const MOST_PAIRS: usize = 1_000_000;

/// A statement that is pointless, or whose conditions are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Overlap {
    /// Both say the same.
    Same {
        /// One of them.
        one: String,
        /// The other.
        other: String,
    },
    /// A permit that permits nothing, for a forbid is at least as wide, without conditions or with the same ones.
    Covered {
        /// The permit.
        permit: String,
        /// The forbid.
        forbid: String,
    },
    /// A permit that permits nothing new, for another one is at least as wide, without conditions or with the same
    /// ones.
    Contained {
        /// The permit.
        permit: String,
        /// The other one.
        wider: String,
    },
    /// A forbid that forbids nothing new, for another one is at least as wide by the names in it, without conditions or
    /// with the same ones.
    Needless {
        /// The forbid.
        forbid: String,
        /// The other one.
        wider: String,
    },
    /// Its conditions never hold.
    Never {
        /// The statement.
        policy: String,
    },
    /// Its conditions always hold.
    Always {
        /// The statement.
        policy: String,
    },
}

/// A statement that decides.
struct One<'a> {
    permits: bool,
    mode: Mode,
    is_new: bool,
    /// Its place among all statements.
    place: usize,
    /// The text of its conditions.
    conditions: &'a str,
    scope: Scope<'a>,
}

/// Statements by what their resource must be, or be in, and by their conditions.
#[derive(Default)]
struct Wide<'o, 'a>(HashMap<(Option<&'o EntityUid>, &'a str), Vec<&'o One<'a>>>);

/// What overlaps among `documents`, of which at least one `is_new`; at most `most`, in the order of the documents. What
/// is in what is asked of `groups`, of the documents' mesh.
pub fn overlaps<'a>(
    documents: impl IntoIterator<Item = &'a PolicyDocument>,
    is_new: impl Fn(&PolicyDocument) -> bool,
    groups: &Groups,
    most: usize,
) -> Vec<Overlap> {
    let mut found = Vec::new();
    let mut texts: HashMap<(Mode, &str), (&str, bool)> = HashMap::new();
    let (mut all, mut place) = (Vec::new(), 0);
    for document in documents {
        let (is_new, mode) = (is_new(document), document.mode());
        for statement in document.statements() {
            place += 1;
            let name = statement.name.as_str();
            let text = without_annotations(&statement.text);
            match texts.get(&(mode, text)) {
                Some((other, other_new)) if is_new || *other_new => {
                    found.push(Overlap::Same { one: (*other).to_owned(), other: name.to_owned() });
                }
                Some(_) => {}
                None => drop(texts.insert((mode, text), (name, is_new))),
            }
            let conditions =
                if statement.policy.has_non_scope_constraint() { behind_scope(text) } else { "" };
            if is_new {
                let policy = name.to_owned();
                found.extend(vacuous(&statement.policy, conditions).map(|vacuous| match vacuous {
                    Vacuous::Never => Overlap::Never { policy },
                    Vacuous::Always => Overlap::Always { policy },
                }));
            }
            if mode != Mode::Audit {
                let (permits, scope) = (permits(&statement.policy), Scope::of(statement, text));
                all.push(One { permits, mode, is_new, place, conditions, scope });
            }
        }
    }
    let (new_ones, old_ones): (Vec<&One<'_>>, Vec<_>) = all.iter().partition(|one| one.is_new);
    let (new_ones, old_ones) = (Wide::of(new_ones), Wide::of(old_ones));
    let by_names = groups.by_names_alone();
    let mut left = MOST_PAIRS;
    for narrow in &all {
        // Whoever takes a forbid out must not let somebody through once he has left a role.
        let groups = if narrow.permits { groups } else { &by_names };
        // Of two that were there before, all has been told.
        if !narrow.is_new && !new_ones.all().any(|wider| wider.may_cover(narrow)) {
            continue;
        }
        let around = narrow.scope.around(groups);
        let old = narrow.is_new.then(|| old_ones.at(narrow, &around.resource)).into_iter().flatten();
        let others: Vec<_> = new_ones.at(narrow, &around.resource).chain(old).take(left).collect();
        left = left.saturating_sub(others.len());
        let covering = |permits| {
            let covering = others.iter().filter(|wider| {
                wider.permits == permits
                    && wider.scope.covers(&narrow.scope, &around)
                    && !(narrow.permits == permits && narrow.is_told_otherwise(wider, groups))
            });
            covering.min_by_key(|wider| wider.place).map(|wider| wider.scope.name.to_owned())
        };
        let name = narrow.scope.name.to_owned();
        found.extend(match (narrow.permits, covering(false)) {
            (true, Some(forbid)) => Some(Overlap::Covered { permit: name, forbid }),
            (true, None) => covering(true).map(|wider| Overlap::Contained { permit: name, wider }),
            (false, wider) => wider.map(|wider| Overlap::Needless { forbid: name, wider }),
        });
    }
    found.truncate(most);
    found
}

impl One<'_> {
    /// Whether it might hold wherever the other does, by what costs nothing to look at.
    fn may_cover(&self, narrow: &Self) -> bool {
        (self.conditions.is_empty() || self.conditions == narrow.conditions)
            && (!self.permits || narrow.permits)
            && self.scope.may_cover(&narrow.scope)
    }

    /// Whether that another statement of the same effect covers this one is nothing to tell, or is told already, or
    /// will be: it is this very one, has the same text, or is covered by this one in turn and comes later. What a
    /// boundary forbids, nobody lifts who may change a policy.
    fn is_told_otherwise(&self, wider: &Self, groups: &Groups) -> bool {
        if self.mode != wider.mode {
            return self.mode == Mode::Boundary;
        }
        self.scope.text == wider.scope.text
            || (self.place < wider.place
                && self.conditions == wider.conditions
                && self.scope.covers(&wider.scope, &wider.scope.around(groups)))
    }
}

impl<'o, 'a> Wide<'o, 'a> {
    fn of(all: impl IntoIterator<Item = &'o One<'a>>) -> Self {
        let mut wide = Self::default();
        for one in all {
            wide.0.entry((one.scope.resource.within.as_ref(), one.conditions)).or_default().push(one);
        }
        wide
    }

    fn all(&self) -> impl Iterator<Item = &'o One<'a>> {
        self.0.values().flatten().copied()
    }

    /// Those that may cover one that is in all of these: without conditions, or with its own.
    fn at<'s>(
        &'s self,
        narrow: &One<'a>,
        around: &'s HashSet<EntityUid>,
    ) -> impl Iterator<Item = &'o One<'a>> + use<'s, 'o, 'a> {
        let own = Some(narrow.conditions).filter(|own| !own.is_empty());
        let within = around.iter().map(Some).chain([None]);
        let keys =
            within.flat_map(move |uid| [Some(""), own].into_iter().flatten().map(move |own| (uid, own)));
        keys.filter_map(|key| self.0.get(&key)).flatten().copied()
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

/// What stands behind the scope of a statement, whose first parenthesis opens that.
fn behind_scope(text: &str) -> &str {
    let (mut open, mut bytes) = (0_usize, text.bytes().enumerate());
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => {
                while let Some((_, byte)) = bytes.next() {
                    match byte {
                        b'\\' => drop(bytes.next()),
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            b'(' => open += 1,
            b')' => {
                open = open.saturating_sub(1);
                if open == 0 {
                    return text.get(at + 1..).unwrap_or_default();
                }
            }
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests;
