//! Evaluations that ask for nothing but a request's path and method, which are most: they are evaluated here, since to
//! ask Cedar takes a hundred times as long.

use cedar_policy::Policy;
use serde_json::Value;

use crate::decision::Attempt;
use crate::reads::path_of;

/// How it is found out whether a statement's conditions hold.
#[derive(Debug)]
pub(crate) enum Evaluation {
    /// Path and method alone tell. Of what passed validation none of it can fail.
    Plain(Term),
    /// Cedar is asked about the statement. Others need not be kept as it takes them, which is some KiB each.
    Cedar(Box<Policy>),
}

/// A boolean expression.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Term {
    Value(bool),
    Path(Text),
    Method(Text),
    Not(Box<Term>),
    Both(Box<(Term, Term)>),
    Either(Box<(Term, Term)>),
}

/// What a text may be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Text {
    Is(Box<str>),
    OneOf(Box<[Box<str>]>),
    /// It begins so, has these in their order, and ends so.
    Like {
        begin: Box<str>,
        within: Box<[Box<str>]>,
        end: Box<str>,
    },
}

impl Evaluation {
    /// There are none.
    pub(crate) fn always() -> Self {
        Self::Plain(Term::Value(true))
    }

    /// Reads the conditions in the syntax tree of a statement.
    pub(crate) fn of(tree: &Value, policy: &Policy) -> Self {
        Term::of_all(tree).map_or_else(|| Self::Cedar(Box::new(policy.clone())), Self::Plain)
    }

    /// Whether Cedar must be asked about the statement of a syntax tree.
    pub(crate) fn needs_cedar(tree: &Value) -> bool {
        Term::of_all(tree).is_none()
    }

    /// The statement, where Cedar must be asked.
    pub(crate) fn for_cedar(&self) -> Option<&Policy> {
        match self {
            Self::Plain(_) => None,
            Self::Cedar(policy) => Some(policy),
        }
    }
}

impl Term {
    /// What all conditions of a statement say together.
    fn of_all(tree: &Value) -> Option<Self> {
        tree.get("conditions")?.as_array()?.iter().try_fold(Self::Value(true), |all, condition| {
            let term = Self::of(condition.get("body")?)?;
            match condition.get("kind")?.as_str()? {
                "when" => Some(all.and(term)),
                "unless" => Some(all.and(Self::Not(Box::new(term)))),
                _ => None,
            }
        })
    }

    /// Whether it holds for an attempt; nothing where that has neither path nor method and it asks for them.
    pub(crate) fn holds(&self, attempt: Attempt<'_>) -> Option<bool> {
        match self {
            Self::Value(value) => Some(*value),
            Self::Path(text) => match attempt {
                Attempt::Request { path, .. } => Some(text.matches(path.path())),
                Attempt::Stream => None,
            },
            Self::Method(text) => match attempt {
                Attempt::Request { method, .. } => Some(text.matches(method)),
                Attempt::Stream => None,
            },
            Self::Not(term) => term.holds(attempt).map(|holds| !holds),
            Self::Both(terms) => match terms.0.holds(attempt)? {
                true => terms.1.holds(attempt),
                false => Some(false),
            },
            Self::Either(terms) => match terms.0.holds(attempt)? {
                true => Some(true),
                false => terms.1.holds(attempt),
            },
        }
    }

    fn and(self, other: Self) -> Self {
        match self {
            Self::Value(true) => other,
            own => Self::Both(Box::new((own, other))),
        }
    }

    fn of(tree: &Value) -> Option<Self> {
        let fields = tree.as_object()?;
        // One operator with what it is applied to.
        let (operator, of) = fields.iter().next().filter(|_| fields.len() == 1)?;
        let side = |name| of.get(name);
        match operator.as_str() {
            "Value" => of.as_bool().map(Self::Value),
            "!" => Some(Self::Not(Box::new(Self::of(side("arg")?)?))),
            "&&" => Some(Self::Both(Box::new((Self::of(side("left")?)?, Self::of(side("right")?)?)))),
            "||" => Some(Self::Either(Box::new((Self::of(side("left")?)?, Self::of(side("right")?)?)))),
            "==" | "!=" => {
                let (left, right) = (side("left")?, side("right")?);
                let is = match (literal(left), literal(right)) {
                    (Some(text), None) => Self::of_text(right, Text::Is(text)),
                    (None, Some(text)) => Self::of_text(left, Text::Is(text)),
                    _ => None,
                }?;
                Some(if operator == "==" { is } else { Self::Not(Box::new(is)) })
            }
            "like" => Self::of_text(side("left")?, Text::like(side("pattern")?.as_array()?)?),
            "contains" => {
                let texts = side("left")?.get("Set")?.as_array()?.iter().map(literal);
                Self::of_text(side("right")?, Text::OneOf(texts.collect::<Option<_>>()?))
            }
            _ => None,
        }
    }

    fn of_text(compared: &Value, text: Text) -> Option<Self> {
        match *path_of(compared.get(".")?)? {
            ["path"] => Some(Self::Path(text)),
            ["method"] => Some(Self::Method(text)),
            _ => None,
        }
    }
}

impl Text {
    /// A pattern, of which the tree may hold each character by itself.
    fn like(pattern: &[Value]) -> Option<Self> {
        let mut pieces = vec![String::new()];
        for part in pattern {
            match part.get("Literal") {
                Some(literal) => pieces.last_mut()?.push_str(literal.as_str()?),
                None if part == "Wildcard" => pieces.push(String::new()),
                None => return None,
            }
        }
        let end = pieces.pop()?;
        let mut pieces = pieces.into_iter();
        let Some(begin) = pieces.next() else { return Some(Self::Is(end.into())) };
        let within = pieces.filter(|piece| !piece.is_empty()).map(Into::into).collect();
        Some(Self::Like { begin: begin.into(), within, end: end.into() })
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Is(own) => **own == *text,
            Self::OneOf(own) => own.iter().any(|own| **own == *text),
            Self::Like { begin, within, end } => {
                let Some(mut rest) = text.strip_prefix(&**begin) else { return false };
                for piece in within {
                    // The first place leaves most for those that follow.
                    match rest.split_once(&**piece) {
                        Some((_, after)) => rest = after,
                        None => return false,
                    }
                }
                rest.ends_with(&**end)
            }
        }
    }
}

fn literal(tree: &Value) -> Option<Box<str>> {
    tree.get("Value")?.as_str().map(Box::from)
}

#[cfg(test)]
mod tests {
    use cedar_policy::{Authorizer, Context, Entities, PolicySet, Request, RestrictedExpression};

    use super::*;
    use crate::circumstances::Gathered;
    use crate::path::CanonicalPath;

    fn policy(conditions: &str) -> Policy {
        Policy::parse(None, format!("permit(principal, action, resource) {conditions};")).unwrap()
    }

    fn evaluation(conditions: &str) -> Evaluation {
        let policy = policy(conditions);
        Evaluation::of(&policy.to_json().unwrap(), &policy)
    }

    /// Cedar's own answer.
    fn cedar(conditions: &str, method: &str, path: &str) -> bool {
        let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let context =
            Context::from_pairs([("method".to_owned(), text(method)), ("path".to_owned(), text(path))]);
        let uid = |text: &str| text.parse().unwrap();
        let (principal, action, resource) = (uid("Node::\"a\""), uid("Action::\"GET\""), uid("Route::\"r\""));
        let request = Request::new(principal, action, resource, context.unwrap(), None).unwrap();
        let policies = PolicySet::from_policies([policy(conditions)]).unwrap();
        let response = Authorizer::new().is_authorized(&request, &policies, &Entities::empty());
        assert_eq!(response.diagnostics().errors().count(), 0, "{conditions}");
        response.decision() == cedar_policy::Decision::Allow
    }

    #[test]
    fn says_what_cedar_says() {
        let paths = [
            "/",
            "/a",
            "/a/",
            "/a/b",
            "/aa",
            "/ab/ab",
            "/a/b/a",
            "/abab",
            "/b",
            "/*",
            "/%C3%A4",
            "/a*b",
            "/aXb",
            "/orders/1/items",
            "/orders/items",
        ];
        for conditions in [
            "",
            "when { true }",
            "when { false }",
            "unless { false } when { true }",
            "when { context.path == \"/a\" }",
            "when { \"/a\" == context.path }",
            "when { context.path != \"/a\" }",
            "when { context[\"path\"] == \"/a\" }",
            "when { context.path like \"/a\" }",
            "when { context.path like \"*\" }",
            "when { context.path like \"/a*\" }",
            "when { context.path like \"*b\" }",
            "when { context.path like \"/a*b\" }",
            "when { context.path like \"/*ab*ab\" }",
            "when { context.path like \"/*a*b*a\" }",
            "when { context.path like \"**/b**\" }",
            "when { context.path like \"/a\\*b\" }",
            "when { context.path like \"/ab*bab\" }",
            "when { context.path like \"/orders/*/items\" }",
            "when { context.path like \"/%C3*\" }",
            "when { [\"/a\", \"/b\"].contains(context.path) }",
            "when { [\"GET\"].contains(context.method) && context.path like \"/a*\" }",
            "when { context.method == \"PUT\" || context.path == \"/b\" }",
            "when { !(context.method == \"GET\") } unless { context.path like \"/a*\" }",
            "unless { context.path like \"/a*\" } unless { context.method == \"LOCK\" }",
            "when { if context.method == \"GET\" then true else false }",
        ] {
            let evaluation = evaluation(conditions);
            let Evaluation::Plain(term) = evaluation else {
                assert!(conditions.contains("if "), "{conditions} needs no Cedar");
                continue;
            };
            for (text, method) in
                paths.iter().flat_map(|path| ["GET", "PUT", "LOCK"].map(|method| (path, method)))
            {
                let Ok(path) = CanonicalPath::parse(method, text) else { continue };
                assert_eq!(path.path(), *text);
                let attempt =
                    Attempt::Request { method, path: &path, upgrade: false, gathered: Gathered::nothing() };
                assert_eq!(
                    term.holds(attempt),
                    Some(cedar(conditions, method, text)),
                    "{conditions} {method} {text}"
                );
            }
        }
    }

    #[test]
    fn what_reads_anything_else_is_for_cedar() {
        for conditions in [
            "when { context.host == \"a\" }",
            "when { context.path == context.method }",
            "when { context has path }",
            "when { context.path == \"/a\" && context.time == context.time }",
            "when { principal == Node::\"a\" }",
            "when { context.peer.path == \"/a\" }",
            "when { resource.path == \"/a\" }",
            "when { [context.method].contains(context.path) }",
            "when { (if true then context else context).path == \"/a\" }",
            "when { context.path == 1 }",
            "when { context.path < 1 }",
            "when { true } unless { context.headers.hasTag(\"a\") }",
        ] {
            assert!(evaluation(conditions).for_cedar().is_some(), "{conditions}");
        }
    }

    #[test]
    fn a_stream_has_no_path() {
        let Evaluation::Plain(term) = evaluation("when { context.path == \"/a\" || true }") else {
            panic!("it reads the path alone")
        };
        assert_eq!(term.holds(Attempt::Stream), None);
        let Evaluation::Plain(term) = evaluation("") else { panic!("it reads nothing") };
        assert_eq!(term.holds(Attempt::Stream), Some(true));
    }
}
