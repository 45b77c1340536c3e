//! Statements that make others pointless: told to authors, since they rarely mean it.

use std::collections::HashMap;

use cedar_policy::{EntityTypeName, EntityUid, PrincipalConstraint, ResourceConstraint};

use crate::compiled::permits;
use crate::document::{Mode, PolicyDocument, Statement};
use crate::vocabulary::{ActionSet, VOCABULARY};

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
}

/// What overlaps among `documents`, of which at least one `is_new`; at most `most`, in the order of the documents.
pub fn overlaps<'a>(
    documents: impl IntoIterator<Item = &'a PolicyDocument>,
    is_new: impl Fn(&PolicyDocument) -> bool,
    most: usize,
) -> Vec<Overlap> {
    let mut found = Vec::new();
    let mut texts: HashMap<(Mode, &str), (&str, bool)> = HashMap::new();
    let (mut wide, mut narrow) = (Vec::new(), Vec::new());
    for document in documents {
        let new = is_new(document);
        for statement in document.statements() {
            let name = statement.name.as_str();
            match texts.get(&(document.mode(), without_annotations(&statement.text))) {
                Some((other, other_new)) if new || *other_new => {
                    found.push(Overlap::Same { one: (*other).to_owned(), other: name.to_owned() });
                }
                Some(_) => {}
                None => {
                    let key = (document.mode(), without_annotations(&statement.text));
                    texts.insert(key, (name, new));
                }
            }
            let side = if permits(&statement.policy) {
                (document.mode() == Mode::Enforce).then_some(&mut narrow)
            } else {
                let is_wide = document.mode() != Mode::Audit && !statement.policy.has_non_scope_constraint();
                is_wide.then_some(&mut wide)
            };
            if let Some(side) = side {
                side.push((new, Scope::of(statement)));
            }
        }
    }
    let pairs = narrow.iter().flat_map(|permit| wide.iter().map(move |forbid| (permit, forbid)));
    for ((permit_new, permit), (forbid_new, forbid)) in pairs.take(MOST_PAIRS) {
        if (*permit_new || *forbid_new) && forbid.covers(permit) {
            let (permit, forbid) = (permit.name.to_owned(), forbid.name.to_owned());
            found.push(Overlap::Covered { permit, forbid });
        }
    }
    found.truncate(most);
    found
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

struct Scope<'a> {
    name: &'a str,
    principal: Side,
    resource: Side,
    actions: ActionSet,
}

/// One side of a scope.
struct Side {
    /// What it must be.
    is: Option<EntityTypeName>,
    /// What it must be, or be in.
    within: Option<EntityUid>,
    exactly: bool,
}

impl<'a> Scope<'a> {
    fn of(statement: &'a Statement) -> Self {
        let side = |is, within, exactly| Side { is, within, exactly };
        let principal = match statement.policy.principal_constraint() {
            PrincipalConstraint::Any => side(None, None, false),
            PrincipalConstraint::Is(kind) => side(Some(kind), None, false),
            PrincipalConstraint::In(uid) => side(None, Some(uid), false),
            PrincipalConstraint::IsIn(kind, uid) => side(Some(kind), Some(uid), false),
            PrincipalConstraint::Eq(uid) => side(None, Some(uid), true),
        };
        let resource = match statement.policy.resource_constraint() {
            ResourceConstraint::Any => side(None, None, false),
            ResourceConstraint::Is(kind) => side(Some(kind), None, false),
            ResourceConstraint::In(uid) => side(None, Some(uid), false),
            ResourceConstraint::IsIn(kind, uid) => side(Some(kind), Some(uid), false),
            ResourceConstraint::Eq(uid) => side(None, Some(uid), true),
        };
        let actions = VOCABULARY.admitted(&statement.policy.action_constraint());
        Self { name: &statement.name, principal, resource, actions }
    }

    /// Whether it surely holds wherever the other does.
    fn covers(&self, other: &Self) -> bool {
        self.actions.includes(other.actions)
            && self.principal.covers(&other.principal)
            && self.resource.covers(&other.resource)
    }
}

impl Side {
    fn covers(&self, other: &Self) -> bool {
        let kind = || match (&other.is, &other.within) {
            (Some(kind), _) => Some(kind),
            (None, Some(uid)) if other.exactly => Some(uid.type_name()),
            _ => None,
        };
        let fits_kind = self.is.as_ref().is_none_or(|own| kind() == Some(own));
        let fits_entity = match (&self.within, &other.within) {
            (None, _) => true,
            (Some(own), Some(others)) => own == others && (!self.exactly || other.exactly),
            (Some(_), None) => false,
        };
        fits_kind && fits_entity
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::documents;

    fn told(texts: &[(Mode, &str)]) -> Vec<String> {
        let found = overlaps(&documents(texts), |_| true, 10);
        let tell = |overlap| match overlap {
            Overlap::Same { one, other } => format!("{one} = {other}"),
            Overlap::Covered { permit, forbid } => format!("{permit} < {forbid}"),
        };
        found.into_iter().map(tell).collect()
    }

    #[test]
    fn statements_that_say_the_same_are_told() {
        let one = "permit(principal == Node::\"web\", action, resource in Service::\"orders\");";
        let named = "@id(\"a\")\npermit(principal == Node::\"web\", action, resource in Service::\"shop/orders\");\n\
                     @id(\"b\") forbid(principal, action == Action::\"GET\", resource) when { context.path == \"/\" };";
        assert_eq!(told(&[(Mode::Enforce, one), (Mode::Enforce, named)]), ["p0 = p1/a"]);
        assert_eq!(told(&[(Mode::Enforce, one), (Mode::Audit, one)]), [""; 0]);
        let documents = documents(&[(Mode::Enforce, one), (Mode::Enforce, one)]);
        assert_eq!(overlaps(&documents, |_| false, 10), []);
        assert_eq!(overlaps(&documents, |document| document.name().as_str() == "p0", 10).len(), 1);
    }

    #[test]
    fn permits_below_a_forbid_are_told() {
        let permit =
            "permit(principal == Node::\"web\", action == Action::\"GET\", resource in Service::\"orders\");";
        for forbid in [
            "forbid(principal, action, resource);",
            "forbid(principal is Node, action in Action::\"read\", resource in Service::\"orders\");",
            "forbid(principal == Node::\"web\", action in [Action::\"GET\", Action::\"PUT\"], resource);",
            "forbid(principal in Node::\"web\", action in Action::\"http\", resource in Service::\"orders\");",
        ] {
            for mode in [Mode::Enforce, Mode::Boundary] {
                let found = told(&[(Mode::Enforce, permit), (mode, forbid)]);
                let forbid_name = if mode == Mode::Boundary { "boundary:p1" } else { "p1" };
                assert_eq!(found, [format!("p0 < {forbid_name}")], "{forbid}");
            }
            assert_eq!(told(&[(Mode::Enforce, permit), (Mode::Audit, forbid)]), [""; 0]);
            assert_eq!(told(&[(Mode::Audit, permit), (Mode::Enforce, forbid)]), [""; 0]);
        }
        for forbid in [
            "forbid(principal, action, resource) when { principal in Mesh::\"shop\" };",
            "forbid(principal == Node::\"cart\", action, resource);",
            "forbid(principal, action == Action::\"PUT\", resource);",
            "forbid(principal is Workload, action, resource);",
            "forbid(principal, action, resource in Service::\"cache\");",
            "forbid(principal, action in Action::\"http\", resource is Route);",
        ] {
            assert_eq!(told(&[(Mode::Enforce, permit), (Mode::Enforce, forbid)]), [""; 0], "{forbid}");
        }
    }
}
