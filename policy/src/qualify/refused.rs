//! What conditions are refused for, though the schema takes them: questions that nobody can answer, and patterns that
//! make too much work.

use serde_json::{Map, Value};

use super::{Flaw, Walk};
use crate::pattern_work::{PatternWork, following_problem};
use crate::reads::Reads;
use crate::vocabulary::Kind;

impl Walk<'_> {
    /// Refuses to ask what nobody can tell of what is named: to whom such a thing is unknown it is in nothing, and a
    /// forbid would not stop what it is meant for.
    pub(super) fn check_consulted(&mut self, reads: &Reads) {
        for (kind, id) in &reads.consulted {
            let uid = kind.uid(id);
            let text = format!("{kind:?}::\"{}\"", self.names.shorten(&uid).escape_debug());
            let (message, help) = match kind {
                Kind::User => (
                    "of a user only that is known which the request's own token tells".to_owned(),
                    format!(
                        "write `context has user && context.user == {text} &&` and ask context.user, as in `context.user in UserGroup::\"…\"`"
                    ),
                ),
                Kind::Role => (
                    "what a role is within is told of its members alone, so this is no question".to_owned(),
                    "ask of who is in it, as in `principal in Role::\"…\"`".to_owned(),
                ),
                Kind::DataClass => (
                    "what a data class is within is told of its routes alone, so this is no question"
                        .to_owned(),
                    "ask of what is in it, as in `resource in DataClass::\"…\"`".to_owned(),
                ),
                Kind::TrustDomain | Kind::Mesh | Kind::UserGroup | Kind::Anonymous => (
                    "this is in nothing but itself, so this is no question".to_owned(),
                    "ask of the caller, the user or the resource, or compare by ==".to_owned(),
                ),
                Kind::Node | Kind::Workload | Kind::Service | Kind::External | Kind::Port | Kind::Route => {
                    continue;
                }
            };
            self.flaws.push(Flaw::untidy(text, message, help));
        }
    }

    /// Looks at a pattern by itself, and counts what it adds to those of the statement.
    pub(super) fn check_pattern(&mut self, expression: &Map<String, Value>) {
        let pattern = expression.get("like").and_then(|like| like.get("pattern")?.as_array());
        let Some(pattern) = pattern else { return };
        let work = PatternWork::of(pattern.iter().map(|part| part.get("Literal").and_then(Value::as_str)));
        self.following = self.following.saturating_add(work.following);
        if let Some(message) = work.problem() {
            let help = "say what the text begins with or ends with, or write several texts out: \
                        [\"/a\", \"/b\"].contains(context.path)";
            self.flaws.push(Flaw::untidy("like".to_owned(), message, help.to_owned()));
        }
    }

    /// Looks at the patterns of a statement together.
    pub(super) fn check_following(&mut self) {
        if let Some(message) = following_problem(self.following) {
            let help =
                "shorten what follows the wildcards, compare whole texts by ==, or split the statement";
            self.flaws.push(Flaw::untidy("like".to_owned(), message, help.to_owned()));
        }
    }
}
