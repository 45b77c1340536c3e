//! Templates of policies: Cedar with slots for a principal and a resource, from which policies are made.

use std::collections::BTreeSet;
use std::str::FromStr;

use cedar_policy::{EntityUid, Policy, PolicyId};
use hauberk_identity::{Name, TrustDomain};
use serde_json::{Map, Value, json};

use crate::document::{Mode, PolicyDocument, PolicyProblem, Text, read_template};
use crate::vocabulary::Kind;

/// A slot of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// `?principal`
    Principal,
    /// `?resource`
    Resource,
}

/// One or more Cedar statements with slots, valid by the schema.
#[derive(Debug, Clone)]
pub struct PolicyTemplate {
    mesh: Name,
    trust_domain: TrustDomain,
    /// As Cedar's own syntax trees, in the order of the text.
    statements: Vec<Value>,
    slots: BTreeSet<Slot>,
    outdated: Vec<PolicyProblem>,
}

/// Why a policy cannot be made from a template. The fault is whoever fills its slots, or the template's author.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkProblem {
    /// A slot is not filled, or with what does not fit.
    Slot {
        /// Which.
        slot: Slot,
        /// What is wrong.
        message: String,
        /// What to do about it.
        help: String,
    },
    /// What comes of it is no good policy; the place is in that.
    Policy(PolicyProblem),
}

impl Slot {
    const ALL: [Self; 2] = [Self::Principal, Self::Resource];

    /// As policies write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Principal => "?principal",
            Self::Resource => "?resource",
        }
    }

    fn takes(self, kind: Kind) -> bool {
        match self {
            Self::Principal => matches!(
                kind,
                Kind::Node | Kind::Workload | Kind::Anonymous | Kind::Role | Kind::Mesh | Kind::TrustDomain
            ),
            Self::Resource => matches!(
                kind,
                Kind::Service
                    | Kind::Node
                    | Kind::Port
                    | Kind::Route
                    | Kind::DataClass
                    | Kind::External
                    | Kind::Role
                    | Kind::Mesh
                    | Kind::TrustDomain
            ),
        }
    }

    fn example(self) -> &'static str {
        match self {
            Self::Principal => "write a caller, such as Node::\"web\" or Role::\"clerks\"",
            Self::Resource => "write what is called, such as Service::\"orders\" or DataClass::\"pii\"",
        }
    }
}

impl PolicyTemplate {
    /// Parses and validates a template's text.
    ///
    /// # Errors
    /// All mistakes that were found, in the order of the text.
    pub fn parse(mesh: Name, trust_domain: &TrustDomain, text: &str) -> Result<Self, Vec<PolicyProblem>> {
        Self::read(mesh, trust_domain, text, Text::New)
    }

    /// Reads the text of a template that was admitted before, as [`PolicyDocument::parse_stored`] does.
    ///
    /// # Errors
    /// All mistakes for which nothing that follows it could be enforced, in the order of the text.
    pub fn parse_stored(
        mesh: Name,
        trust_domain: &TrustDomain,
        text: &str,
    ) -> Result<Self, Vec<PolicyProblem>> {
        Self::read(mesh, trust_domain, text, Text::Stored)
    }

    fn read(
        mesh: Name,
        trust_domain: &TrustDomain,
        text: &str,
        from: Text,
    ) -> Result<Self, Vec<PolicyProblem>> {
        let (statements, outdated) = read_template(&mesh, trust_domain, text, from)?;
        let slots = Slot::ALL.into_iter().filter(|slot| statements.iter().any(|tree| has_slot(tree, *slot)));
        let slots = slots.collect();
        Ok(Self { mesh, trust_domain: trust_domain.clone(), statements, slots, outdated })
    }

    /// What a new text would be refused for, in the order of the text: nothing, unless it was stored before.
    pub fn outdated(&self) -> &[PolicyProblem] {
        &self.outdated
    }

    /// The slots that its statements have.
    pub fn slots(&self) -> &BTreeSet<Slot> {
        &self.slots
    }

    /// The Cedar text of the policy that comes of it, where each slot is filled with a name such as `Node::"web"`.
    ///
    /// # Errors
    /// Says of each slot that is not filled, or wrongly, what is wrong with it.
    pub fn fill(&self, fillings: &[(Slot, &str)]) -> Result<String, Vec<LinkProblem>> {
        let mut problems = Vec::new();
        let mut filled: Vec<(Slot, Value)> = Vec::new();
        for slot in Slot::ALL {
            let filling = fillings.iter().find(|(filled, _)| *filled == slot).map(|(_, name)| *name);
            let mut wrong = |message: String, help: &str| {
                problems.push(LinkProblem::Slot { slot, message, help: help.to_owned() });
            };
            let name = slot.as_str();
            match (filling, self.slots.contains(&slot)) {
                (None, false) => {}
                (None, true) => wrong(format!("the template's {name} is not filled"), slot.example()),
                (Some(_), false) => wrong(format!("the template has no {name}"), "leave it out"),
                (Some(filling), true) => match EntityUid::from_str(filling) {
                    Ok(uid) => match Kind::of(&uid).filter(|kind| slot.takes(*kind)) {
                        Some(_) => {
                            let (kind, id) = (uid.type_name().to_string(), uid.id().unescaped());
                            filled.push((slot, json!({"type": kind, "id": id})));
                        }
                        None => {
                            wrong(format!("{} does not fit {name}", uid.type_name()), slot.example());
                        }
                    },
                    Err(_) => wrong(format!("{filling:?} is no name of Cedar's"), slot.example()),
                },
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let texts = self.statements.iter().map(|tree| {
            let mut tree = tree.clone();
            fill(&mut tree, &filled);
            Policy::from_json(Some(PolicyId::new("policy0")), tree).ok()?.to_cedar()
        });
        texts.collect::<Option<Vec<_>>>().map(|texts| texts.join("\n")).ok_or_else(|| {
            let message = "it cannot be written with its slots filled".to_owned();
            let problem = PolicyProblem { line: 1, column: 1, length: 1, message, help: None };
            vec![LinkProblem::Policy(problem)]
        })
    }

    /// The policy that comes of it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn link(
        &self,
        name: Name,
        mode: Mode,
        fillings: &[(Slot, &str)],
    ) -> Result<PolicyDocument, Vec<LinkProblem>> {
        self.link_by(PolicyDocument::parse, name, mode, fillings)
    }

    /// The policy that comes of it where both were admitted before, as [`PolicyDocument::parse_stored`] reads it.
    ///
    /// # Errors
    /// Everything for which it cannot be enforced.
    pub fn link_stored(
        &self,
        name: Name,
        mode: Mode,
        fillings: &[(Slot, &str)],
    ) -> Result<PolicyDocument, Vec<LinkProblem>> {
        self.link_by(PolicyDocument::parse_stored, name, mode, fillings)
    }

    fn link_by(
        &self,
        read: ReadDocument,
        name: Name,
        mode: Mode,
        fillings: &[(Slot, &str)],
    ) -> Result<PolicyDocument, Vec<LinkProblem>> {
        let text = self.fill(fillings)?;
        read(self.mesh.clone(), &self.trust_domain, name, mode, &text)
            .map_err(|problems| problems.into_iter().map(LinkProblem::Policy).collect())
    }
}

/// How a text becomes a policy.
type ReadDocument = fn(Name, &TrustDomain, Name, Mode, &str) -> Result<PolicyDocument, Vec<PolicyProblem>>;

fn slot_of(fields: &Map<String, Value>) -> Option<Slot> {
    let named = fields.get("slot")?.as_str()?;
    Slot::ALL.into_iter().find(|slot| slot.as_str() == named)
}

fn has_slot(tree: &Value, wanted: Slot) -> bool {
    match tree {
        Value::Array(items) => items.iter().any(|item| has_slot(item, wanted)),
        Value::Object(fields) => {
            slot_of(fields) == Some(wanted) || fields.values().any(|value| has_slot(value, wanted))
        }
        _ => false,
    }
}

/// Puts names in the place of slots: `{"op": "==", "slot": "?principal"}`, `{"in": {"slot": "?resource"}}`.
fn fill(tree: &mut Value, filled: &[(Slot, Value)]) {
    match tree {
        Value::Array(items) => items.iter_mut().for_each(|item| fill(item, filled)),
        Value::Object(fields) => {
            let filling = slot_of(fields).and_then(|slot| filled.iter().find(|(own, _)| *own == slot));
            if let Some((_, name)) = filling {
                fields.remove("slot");
                fields.insert("entity".to_owned(), name.clone());
            }
            fields.values_mut().for_each(|value| fill(value, filled));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{domain, name};

    const READERS: &str = "@id(\"read\")\npermit(principal == ?principal, action in Action::\"read\", resource in \
                           ?resource);\nforbid(principal is Node in ?principal, action, resource in Service::\"cache\");";

    fn template(text: &str) -> Result<PolicyTemplate, Vec<PolicyProblem>> {
        PolicyTemplate::parse(name("shop"), &domain(), text)
    }

    fn told(problems: Vec<LinkProblem>) -> Vec<String> {
        let tell = |problem| match problem {
            LinkProblem::Slot { slot, message, help } => format!("{}: {message}; {help}", slot.as_str()),
            LinkProblem::Policy(problem) => problem.to_string(),
        };
        problems.into_iter().map(tell).collect()
    }

    #[test]
    fn slots_are_filled_in_every_statement() {
        let template = template(READERS).unwrap();
        assert_eq!(template.slots().len(), 2);
        let fillings = [(Slot::Principal, "Node::\"web\""), (Slot::Resource, "Service::\"orders\"")];
        let document = template.link(name("p"), Mode::Audit, &fillings).unwrap();
        let texts: Vec<_> =
            document.statements().iter().map(|own| (own.name.as_str(), own.text.as_str())).collect();
        assert_eq!(texts[0].0, "p/read");
        assert!(
            texts[0].1.contains("principal == Node::\"spiffe://shop.example/mesh/shop/node/web\""),
            "{texts:?}"
        );
        assert!(texts[0].1.contains("resource in Service::\"shop/orders\""), "{texts:?}");
        assert_eq!(texts[1].0, "p/2");
        assert!(texts[1].1.contains("principal is Node in Node::\"spiffe://"), "{texts:?}");
        assert_eq!(document.mode(), Mode::Audit);
    }

    #[test]
    fn a_resource_is_whatever_policies_are_about() {
        let template =
            template("permit(principal == Node::\"web\", action == Action::\"GET\", resource in ?resource);")
                .unwrap();
        for resource in [
            "Service::\"orders\"",
            "Node::\"orders\"",
            "Port::\"orders:8080\"",
            "DataClass::\"pii\"",
            "External::\"bank\"",
            "Role::\"stores\"",
            "Mesh::\"shop\"",
        ] {
            let linked = template.link(name("p"), Mode::Enforce, &[(Slot::Resource, resource)]);
            assert!(linked.is_ok(), "{resource}: {:?}", linked.map(|_| ()).map_err(told));
        }
    }

    #[test]
    fn slots_that_are_not_filled_or_wrongly_are_told() {
        let template = template(READERS).unwrap();
        let caller = "write a caller, such as Node::\"web\" or Role::\"clerks\"";
        let called = "write what is called, such as Service::\"orders\" or DataClass::\"pii\"";
        assert_eq!(
            told(template.link(name("p"), Mode::Enforce, &[]).unwrap_err()),
            [
                format!("?principal: the template's ?principal is not filled; {caller}"),
                format!("?resource: the template's ?resource is not filled; {called}"),
            ]
        );
        let wrong = [(Slot::Principal, "Service::\"orders\""), (Slot::Resource, "orders")];
        assert_eq!(
            told(template.link(name("p"), Mode::Enforce, &wrong).unwrap_err()),
            [
                format!("?principal: Service does not fit ?principal; {caller}"),
                format!("?resource: \"orders\" is no name of Cedar's; {called}"),
            ]
        );
        let one = self::template("permit(principal == ?principal, action, resource);").unwrap();
        let many = [(Slot::Principal, "Node::\"web\""), (Slot::Resource, "Service::\"orders\"")];
        assert_eq!(
            told(one.link(name("p"), Mode::Enforce, &many).unwrap_err()),
            ["?resource: the template has no ?resource; leave it out"]
        );
        // What comes of it is judged as any policy is.
        let reach = self::template("permit(principal in ?principal, action, resource);").unwrap();
        let all = [(Slot::Principal, "TrustDomain::\"shop.example\"")];
        let problems = told(reach.link(name("p"), Mode::Enforce, &all).unwrap_err());
        assert!(problems[0].contains("also reaches workloads"), "{problems:?}");
        let bad = [(Slot::Principal, "Node::\"a/b\"")];
        let problems = told(one.link(name("p"), Mode::Enforce, &bad).unwrap_err());
        assert!(problems[0].contains("a name consists of"), "{problems:?}");
    }

    #[test]
    fn a_stored_template_stands_and_new_policies_do_not_follow_it() {
        let text = format!(
            "forbid(principal == ?principal, action in Action::\"http\", resource) when {{ context.host like \"*{}\" }};",
            "a".repeat(1_024)
        );
        let stored = PolicyTemplate::parse_stored(name("shop"), &domain(), &text).unwrap();
        assert_eq!(stored.outdated(), template(&text).unwrap_err());
        let fillings = [(Slot::Principal, "Node::\"web\"")];
        let made = stored.link_stored(name("p"), Mode::Enforce, &fillings).unwrap();
        let refused = stored.link(name("p"), Mode::Enforce, &fillings).unwrap_err();
        let outdated: Vec<_> = made.outdated().iter().cloned().map(LinkProblem::Policy).collect();
        assert_eq!(outdated, refused);
    }

    #[test]
    fn a_template_has_slots_and_reads_well() {
        let problem = |text: &str| template(text).unwrap_err()[0].to_string();
        assert!(problem("permit(principal is Node, action, resource);").contains("no slot"));
        assert!(problem("permit(principal == ?principal, action, resource").starts_with("1:"));
        assert!(
            problem("permit(principal == ?principal, action == Action::\"GETS\", resource);")
                .contains("GETS")
        );
        assert!(problem("permit(principal == ?who, action, resource);").starts_with("1:"));
        let bad = "permit(principal == ?principal, action, resource in Service::\"a/b\");";
        assert!(problem(bad).contains("belongs to mesh"), "{}", problem(bad));
    }
}
