//! Which statements came near to applying, and what the nearest permits ask for beyond their scope.

use std::sync::Arc;

use serde_json::Value;

use super::PolicyNote;
use crate::compiled::Compiled;
use crate::decision::{Attempt, Effect};
use crate::document::Mode;
use crate::reads::Reads;
use crate::user::OnBehalfOf;

/// The permits whose scope admits what was asked, and that did not apply for what they ask beyond method and path. One for
/// other paths lacks more than that.
#[derive(Default)]
pub(super) struct Near {
    /// Those that lack nothing but a user, where there is none.
    pub(super) for_users: Vec<Arc<str>>,
    /// The others.
    pub(super) conditional: Vec<Arc<str>>,
    /// A permit lets the caller do something there for some users, be it by another method or at another path: what is
    /// open by a user's grace should not be to everybody.
    pub(super) is_for_users: bool,
}

impl Near {
    /// Finds them among all statements and how they met the question.
    pub(super) fn of<'p>(
        met: impl Iterator<Item = (&'p Arc<Compiled>, &'p PolicyNote)>,
        attempt: Attempt<'_>,
    ) -> Self {
        let mut near = Self::default();
        let has_user = match attempt {
            Attempt::Request { gathered, .. } => matches!(gathered.on_behalf_of(), OnBehalfOf::User(_)),
            Attempt::Stream => false,
        };
        for (compiled, note) in met {
            // A stream is made for no user.
            near.is_for_users |= !matches!(attempt, Attempt::Stream)
                && note.permits_something_there()
                && compiled.reads.facts.are_of_users();
            if !note.is_near() {
                continue;
            }
            let lacks_user = note.lacks_user && !has_user;
            let named = if lacks_user { &mut near.for_users } else { &mut near.conditional };
            named.push(Arc::clone(&note.name));
        }
        near
    }
}

impl PolicyNote {
    /// Whether it is of the boundary and stopped this, and so stands before all others.
    pub(super) fn is_bound(&self) -> bool {
        self.mode == Mode::Boundary && (self.mismatches.is_empty() || self.error.is_some())
    }

    /// How far the statement was from applying: an error is nearest; a scope that does not admit it is further away
    /// than any condition, and another resource than another caller.
    pub(super) fn distance(&self) -> (bool, usize, usize) {
        let scope = [self.principal, self.action, self.resource, self.resource];
        let outside = scope.into_iter().filter(|is_admitted| !is_admitted).count();
        (self.error.is_none(), outside, self.mismatches.len())
    }

    /// Whether it lets the caller do anything at all with what was called.
    fn permits_something_there(&self) -> bool {
        self.effect == Effect::Allow && self.mode == Mode::Enforce && self.principal && self.resource
    }

    /// Whether it would have permitted it but for conditions on more than method and path.
    fn is_near(&self) -> bool {
        let is_admitted = self.permits_something_there() && self.action;
        is_admitted && self.error.is_none() && !self.mismatches.is_empty() && !self.is_for_others
    }
}

/// Whether a condition reads more than method and path, of the request or of labels.
pub(super) fn asks_beyond_path_and_method(condition: &Value) -> bool {
    let reads = Reads::of(condition);
    reads.facts.are_beyond_path_and_method() || !reads.labels.is_empty()
}

/// Whether a condition reads the user that it is made for, and nothing else that may be otherwise.
pub(super) fn is_of_users_alone(condition: &Value) -> bool {
    let reads = Reads::of(condition);
    reads.facts.are_only_of_users() && reads.labels.is_empty()
}
