//! Which labels of nodes statements read, and of whom: nothing else of them travels.

use std::collections::BTreeSet;

use cedar_policy::{EntityUid, Policy, PrincipalConstraint};
use hauberk_identity::{Name, SpiffeId};

use crate::document::PolicyDocument;
use crate::reads::Reads;
use crate::scope::{NodeLabel, RoleMembers};
use crate::vocabulary::Kind;

/// The labels that one statement reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelsRead {
    names: BTreeSet<Box<str>>,
    callers: Whose,
    /// Nodes that its conditions name: theirs are read whoever calls.
    named: Vec<SpiffeId>,
}

/// Whose labels a statement may ask for, of those who call.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Whose {
    /// It is about no node.
    Nobodys,
    Node(SpiffeId),
    /// Those of a role's members.
    Role(Name),
    Everybodys,
}

impl LabelsRead {
    /// Reads it from a statement with full names.
    pub(crate) fn of(policy: &Policy, reads: &Reads) -> Self {
        let named = reads.principals.iter().filter(|(kind, _)| *kind == Kind::Node);
        let named = named.filter_map(|(_, id)| SpiffeId::parse(id).ok()).collect();
        let callers = match policy.principal_constraint() {
            PrincipalConstraint::Any => Whose::Everybodys,
            PrincipalConstraint::Is(kind) if Kind::parse(kind.basename()) == Some(Kind::Node) => {
                Whose::Everybodys
            }
            PrincipalConstraint::Is(_) => Whose::Nobodys,
            PrincipalConstraint::Eq(uid)
            | PrincipalConstraint::In(uid)
            | PrincipalConstraint::IsIn(_, uid) => Whose::within(&uid),
        };
        Self { names: reads.labels.clone(), callers, named }
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }

    /// Whose it reads at most, where not everybody's.
    fn read_of<'a>(
        &'a self,
        caller: Option<&'a SpiffeId>,
        roles: &'a [RoleMembers],
    ) -> Option<impl Iterator<Item = &'a SpiffeId>> {
        let (one, role) = match (caller, &self.callers) {
            (None, Whose::Everybodys) => return None,
            (_, Whose::Nobodys) => (None, None),
            (Some(caller), _) => (Some(caller), None),
            (None, Whose::Node(id)) => (Some(id), None),
            (None, Whose::Role(role)) => (None, roles.iter().find(|known| known.role == *role)),
        };
        Some(self.named.iter().chain(one).chain(role.into_iter().flat_map(|role| &role.members)))
    }
}

impl PolicyDocument {
    /// The labels of nodes that it reads; one may come several times.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.statements().iter().filter_map(|statement| statement.labels.as_ref()).flat_map(LabelsRead::names)
    }

    /// The labels that one statement reads, by the statement's name in a slice.
    pub fn labels_of(&self, statement: &str) -> Option<&LabelsRead> {
        self.statements().iter().find(|own| own.name == statement)?.labels.as_ref()
    }
}

impl Whose {
    fn within(uid: &EntityUid) -> Self {
        let id = uid.id().unescaped();
        match Kind::of(uid) {
            Some(Kind::Node) => SpiffeId::parse(id).map_or(Self::Everybodys, Self::Node),
            Some(Kind::Role) => {
                let role = id.split_once('/').and_then(|(_mesh, role)| Name::parse(role).ok());
                role.map_or(Self::Everybodys, Self::Role)
            }
            Some(Kind::Workload | Kind::Anonymous) => Self::Nobodys,
            _ => Self::Everybodys,
        }
    }
}

/// Of `labels` what statements that read these need, where `caller` alone calls, or anybody. A label that is read but
/// not among them is left out, and what reads it then does not compile.
pub fn labels_needed(
    reads: &[&LabelsRead],
    caller: Option<&SpiffeId>,
    roles: &[RoleMembers],
    labels: &[NodeLabel],
) -> Vec<NodeLabel> {
    let needed = labels.iter().filter_map(|label| {
        let mut readers = reads.iter().filter(|reads| reads.names.contains(&*label.name)).peekable();
        readers.peek()?;
        let of_some: Option<Vec<_>> = readers.map(|reads| reads.read_of(caller, roles)).collect();
        let Some(of_some) = of_some else { return Some(label.clone()) };
        let known = of_some.into_iter().flatten().filter_map(|id| label.values.get_key_value(id));
        let values = known.map(|(id, value)| (id.clone(), value.clone())).collect();
        Some(NodeLabel { name: label.name.clone(), values })
    });
    let mut needed: Vec<_> = needed.collect();
    needed.sort_by(|one, other| one.name.cmp(&other.name));
    needed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{documents, labels, name, orders, roles};
    use crate::{Engine, Known, Mode, PolicyIndex};

    /// What travels to `orders` with this policy, such as `team: cart web`.
    fn travels(text: &str) -> Vec<String> {
        let documents = documents(&[(Mode::Enforce, text)]);
        let slice = PolicyIndex::new(&name("shop"), &documents)
            .slice(&orders(), Known { roles: &roles(), labels: &labels(), ..Known::default() });
        assert!(Engine::compile(orders(), &slice, None).is_ok(), "{text}");
        let short = |id: &SpiffeId| id.as_str().rsplit('/').next().unwrap().to_owned();
        let told = slice.labels.iter().map(|label| {
            format!("{}: {}", label.name, label.values.keys().map(short).collect::<Vec<_>>().join(" "))
        });
        told.collect()
    }

    #[test]
    fn what_no_statement_reads_does_not_travel() {
        let when = "when { principal.hasTag(\"team\") && principal.getTag(\"team\") == \"checkout\" }";
        for (text, told) in [
            ("permit(principal is Node, action, resource);".to_owned(), &[][..]),
            (format!("permit(principal is Node, action, resource) {when};"), &["team: cart orders web"]),
            (format!("forbid(principal, action, resource) {when};"), &["team: cart orders web"]),
            (format!("permit(principal == Node::\"web\", action, resource) {when};"), &["team: web"]),
            (format!("permit(principal in Role::\"clerks\", action, resource) {when};"), &["team: cart web"]),
            (format!("permit(principal in Role::\"nobody\", action, resource) {when};"), &["team: "]),
            (format!("permit(principal in Mesh::\"shop\", action, resource) {when};"), &["team: cart orders web"]),
            // What is elsewhere is not for this node.
            (format!("permit(principal is Node, action, resource in Service::\"payments\") {when};"), &[]),
            (
                "forbid(principal is Workload, action, resource) unless { Node::\"cart\".hasTag(\"tier\") || \
                 Node::\"web\".hasTag(\"tier\") };"
                    .to_owned(),
                &["tier: web"],
            ),
            (
                format!("permit(principal == Node::\"web\", action, resource) {when};\npermit(principal == Node::\"cart\", \
                 action, resource) when {{ principal.hasTag(\"team\") && principal.hasTag(\"tier\") }};"),
                &["team: cart web", "tier: "],
            ),
        ] {
            assert_eq!(travels(&text), told, "{text}");
        }
    }

    #[test]
    fn a_label_that_is_read_and_not_there_does_not_compile() {
        let text = "permit(principal is Node, action, resource) unless { principal.hasTag(\"suspect\") };";
        let documents = documents(&[(Mode::Enforce, text)]);
        let slice = PolicyIndex::new(&name("shop"), &documents).slice(&orders(), Known::default());
        let error = Engine::compile(orders(), &slice, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "policy \"p0\" reads label \"suspect\" of nodes, whose values are not known"
        );
    }
}
