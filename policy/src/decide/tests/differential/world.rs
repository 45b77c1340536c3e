//! Policies about few facts, and questions that differ in little, so that what is remembered of one meets another for
//! which it would be wrong.

use proptest::prelude::*;
use proptest::sample::select;

use super::conditions::{
    ANYWHERE, Condition, Groups, OF_CALLS, OF_HTTP, OF_REQUESTS, OF_STREAMS, THEME, some_condition,
};
use super::questions::{Asked, Choices, PARTS, neighbour};
use crate::document::{Mode, PolicyDocument};
use crate::scope::{NodeLabel, RoleMembers};
use crate::template::{PolicyTemplate, Slot};
use crate::testing::{domain, name};
use hauberk_identity::SpiffeId;

#[derive(Clone)]
pub(super) struct World {
    pub(super) theme: [usize; THEME],
    pub(super) policies: Vec<Draft>,
    pub(super) is_open: bool,
    /// Which of [`ROLES`].
    pub(super) roles: usize,
    /// Which of [`LABELS`].
    pub(super) labels: usize,
    /// Questions, and what others have instead of one of their parts.
    pub(super) questions: Vec<(Choices, Vec<(usize, u8)>)>,
}

/// Who is in which roles.
pub(super) const ROLES: [[(&str, &[&str]); 2]; 4] = [
    [
        (
            "clerks",
            &["spiffe://shop.example/mesh/shop/node/web", "spiffe://shop.example/mesh/shop/node/cart"],
        ),
        ("nobody", &[]),
    ],
    [
        (
            "clerks",
            &[
                "spiffe://shop.example/mesh/shop/node/orders",
                "spiffe://shop.example/workload/ci",
                "spiffe://partner.example/app",
                "spiffe://shop.example/mesh/shop/gateway/edge",
            ],
        ),
        ("nobody", &["spiffe://shop.example/mesh/shop/node/web"]),
    ],
    [
        (
            "clerks",
            &[
                "spiffe://shop.example/mesh/shop/node/cart",
                "spiffe://shop.example/mesh/bank/node/web",
                "spiffe://partner.example/mesh/shop/node/web",
            ],
        ),
        (
            "nobody",
            &["spiffe://shop.example/mesh/shop/node/orders", "spiffe://shop.example/mesh/shop/gateway/edge"],
        ),
    ],
    [("clerks", &[]), ("nobody", &[])],
];

/// A label's name, and who has which value of it.
type Labelled = (&'static str, &'static [(&'static str, &'static str)]);

/// Which nodes have which labels.
pub(super) const LABELS: [[Labelled; 2]; 3] = [
    [("team", &[]), ("tier", &[])],
    [
        (
            "team",
            &[
                ("spiffe://shop.example/mesh/shop/node/web", "checkout"),
                ("spiffe://shop.example/mesh/shop/node/cart", "stock"),
            ],
        ),
        (
            "tier",
            &[
                ("spiffe://shop.example/mesh/shop/node/orders", "1"),
                ("spiffe://shop.example/mesh/shop/gateway/edge", "1"),
            ],
        ),
    ],
    [
        (
            "team",
            &[
                ("spiffe://shop.example/mesh/shop/node/web", "stock"),
                ("spiffe://shop.example/mesh/shop/node/intruder", "checkout"),
                ("spiffe://shop.example/mesh/shop/gateway/edge", "checkout"),
                ("spiffe://shop.example/mesh/shop/node/orders", "checkout"),
            ],
        ),
        (
            "tier",
            &[
                ("spiffe://shop.example/mesh/shop/node/web", "12"),
                ("spiffe://shop.example/mesh/shop/node/cart", "1"),
            ],
        ),
    ],
];

impl World {
    /// The policies that the parser takes, each with the name of its statement; what could never apply it refuses.
    pub(super) fn documents(&self) -> Vec<(PolicyDocument, (String, Mode, &Draft))> {
        let drafts = self.policies.iter().enumerate();
        let made = drafts.filter_map(|(index, draft)| {
            let document = draft.document(index, &self.theme)?;
            let name = match draft.mode {
                Mode::Boundary => format!("boundary:p{index}"),
                Mode::Enforce | Mode::Audit => format!("p{index}"),
            };
            Some((document, (name, draft.mode, draft)))
        });
        made.collect()
    }

    /// All questions by their choices.
    pub(super) fn choices(&self) -> Vec<Choices> {
        let all = self.questions.iter().flat_map(|(base, others)| {
            let others = others.iter().map(|(part, choice)| neighbour(base, *part, *choice));
            [*base].into_iter().chain(others)
        });
        all.collect()
    }

    pub(super) fn questions(&self) -> Vec<Asked> {
        self.choices().iter().map(Asked::new).collect()
    }

    pub(super) fn roles(&self) -> Vec<RoleMembers> {
        let role = |(role, members): &(&str, &[&str])| RoleMembers {
            role: name(role),
            members: members.iter().map(|member| SpiffeId::parse(member).unwrap()).collect(),
        };
        ROLES[self.roles].iter().map(role).collect()
    }

    pub(super) fn labels(&self) -> Vec<NodeLabel> {
        let label = |(name, values): &(&str, &[(&str, &str)])| NodeLabel {
            name: (*name).to_owned(),
            values: values
                .iter()
                .map(|(node, value)| (SpiffeId::parse(node).unwrap(), (*value).to_owned()))
                .collect(),
        };
        LABELS[self.labels].iter().map(label).collect()
    }
}

impl std::fmt::Debug for World {
    /// The policies as text: what a person needs of a failure.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let documents = self.documents();
        let policies: Vec<_> = documents
            .iter()
            .map(|(document, (name, mode, draft))| (name, mode, draft.is_linked(), document.text()))
            .collect();
        f.debug_struct("World")
            .field("policies", &policies)
            .field("is_open", &self.is_open)
            .field("roles", &ROLES[self.roles])
            .field("labels", &LABELS[self.labels])
            .field("questions", &self.questions())
            .finish()
    }
}

/// A clause of a scope: with `{}` for a name, and that name.
type Clause = (&'static str, &'static str);

/// A policy before its world has a theme.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) mode: Mode,
    effect: &'static str,
    principal: Clause,
    action: &'static str,
    atoms: &'static [Groups],
    resource: Clause,
    /// `when`, `unless`, or nothing.
    when: &'static str,
    condition: Condition,
    /// Made from a template, where there is a name to fill in.
    from_template: bool,
}

impl Draft {
    /// The policy's text.
    pub(super) fn text(&self, theme: &[usize]) -> String {
        let [(principal, caller), (resource, called)] = [self.principal, self.resource];
        self.written(theme, &principal.replace("{}", caller), &resource.replace("{}", called))
    }

    /// The same with slots for names.
    pub(super) fn template(&self, theme: &[usize]) -> String {
        let [(principal, _), (resource, _)] = [self.principal, self.resource];
        self.written(theme, &principal.replace("{}", "?principal"), &resource.replace("{}", "?resource"))
    }

    /// Whether it is made from a template.
    pub(super) fn is_linked(&self) -> bool {
        self.from_template && !self.fillings().is_empty()
    }

    /// What its slots are filled with.
    pub(super) fn fillings(&self) -> Vec<(Slot, &'static str)> {
        let all = [(Slot::Principal, self.principal.1), (Slot::Resource, self.resource.1)];
        all.into_iter().filter(|(_, name)| !name.is_empty()).collect()
    }

    /// A permit of the same scope without conditions.
    pub(super) fn scope(&self) -> String {
        let [(principal, caller), (resource, called)] = [self.principal, self.resource];
        let (principal, resource) = (principal.replace("{}", caller), resource.replace("{}", called));
        format!("permit({principal}, {}, {resource});", self.action)
    }

    /// The same with one thing plainer.
    pub(super) fn plainer(&self) -> Vec<Self> {
        let mut plainer: Vec<Self> =
            self.condition.parts().into_iter().map(|condition| Self { condition, ..self.clone() }).collect();
        if self.from_template {
            plainer.push(Self { from_template: false, ..self.clone() });
        }
        if !self.when.is_empty() {
            plainer.push(Self { when: "", ..self.clone() });
        }
        if self.resource.0 != "resource" {
            plainer.push(Self { resource: ("resource", ""), ..self.clone() });
        }
        if self.principal.0 != "principal is Node" {
            plainer.push(Self { principal: ("principal is Node", ""), ..self.clone() });
        }
        plainer
    }

    fn written(&self, theme: &[usize], principal: &str, resource: &str) -> String {
        let Self { effect, action, atoms, when, condition, .. } = self;
        let condition = match *when {
            "" => String::new(),
            when => format!("{when} {{ {} }}", condition.text(theme, atoms)),
        };
        format!("{effect}({principal}, {action}, {resource}) {condition};")
    }

    /// The policy, unless it could never apply, which the parser refuses.
    fn document(&self, index: usize, theme: &[usize]) -> Option<PolicyDocument> {
        let own = name(&format!("p{index}"));
        if self.is_linked() {
            let template = PolicyTemplate::parse(name("shop"), &domain(), &self.template(theme)).ok()?;
            return template.link(own, self.mode, &self.fillings()).ok();
        }
        PolicyDocument::parse(name("shop"), &domain(), own, self.mode, &self.text(theme)).ok()
    }
}

fn some_policy() -> impl Strategy<Value = Draft> {
    let effect = select(vec!["permit", "permit", "forbid"]);
    // Most are in play for most questions: what happens between several is what is hard.
    let principal = prop_oneof![
        4 => Just(("principal is Node", "")),
        2 => Just(("principal == {}", "Node::\"web\"")),
        2 => Just(("principal in {}", "Role::\"clerks\"")),
        4 => select(vec![
            ("principal", ""),
            ("principal == {}", "Node::\"orders\""),
            ("principal in {}", "Role::\"nobody\""),
            ("principal in {}", "Mesh::\"shop\""),
            ("principal is Node in {}", "TrustDomain::\"shop.example\""),
            ("principal is Workload", ""),
            ("principal == {}", "Workload::\"ci\""),
            ("principal is Workload in {}", "TrustDomain::\"partner.example\""),
            ("principal is Workload in {}", "Role::\"clerks\""),
            ("principal is Anonymous", ""),
            ("principal == {}", "Node::\"gateway/edge\""),
            ("principal in {}", "Mesh::\"bank\""),
            ("principal == {}", "Workload::\"spiffe://partner.example/mesh/shop/node/web\""),
        ]),
    ];
    let http = prop_oneof![
        4 => Just("action in Action::\"http\""),
        3 => select(vec![
            "action in Action::\"read\"",
            "action in [Action::\"POST\", Action::\"GET\"]",
            "action == Action::\"GET\"",
            "action == Action::\"POST\"",
            "action == Action::\"other\"",
            "action == Action::\"upgrade\"",
        ]),
    ];
    let requests =
        select(vec!["action in [Action::\"read\", Action::\"write\"]", "action in Action::\"write\""]);
    const OF_HTTP_ACTIONS: &[Groups] = &[ANYWHERE, OF_REQUESTS, OF_HTTP];
    const OF_ALL_REQUESTS: &[Groups] = &[ANYWHERE, OF_REQUESTS];
    const OF_RPCS: &[Groups] = &[ANYWHERE, OF_REQUESTS, OF_CALLS];
    const OF_CONNECTIONS: &[Groups] = &[ANYWHERE, OF_STREAMS];
    const OF_ANYTHING: &[Groups] = &[ANYWHERE];
    let acts = prop_oneof![
        6 => (http, Just(OF_HTTP_ACTIONS)),
        2 => (requests, Just(OF_ALL_REQUESTS)),
        2 => (select(vec!["action == Action::\"call\"", "action in Action::\"call\""]), Just(OF_RPCS)),
        2 => (Just("action == Action::\"connect\""), Just(OF_CONNECTIONS)),
        2 => (Just("action"), Just(OF_ANYTHING)),
    ];
    let resource = prop_oneof![
        4 => Just(("resource", "")),
        3 => Just(("resource in {}", "Service::\"orders\"")),
        4 => select(vec![
            ("resource in {}", "Service::\"orders-admin\""),
            ("resource in {}", "Service::\"cache\""),
            ("resource in {}", "Service::\"payments\""),
            ("resource in {}", "Node::\"orders\""),
            ("resource in {}", "Mesh::\"shop\""),
            ("resource in {}", "Port::\"orders:8080\""),
            ("resource in {}", "DataClass::\"pii\""),
            ("resource in {}", "DataClass::\"cards\""),
            ("resource == {}", "Route::\"orders:8080 /orders/{id}\""),
            ("resource == {}", "Route::\"orders:8080 POST /orders/{id}\""),
            ("resource == {}", "Route::\"orders:8080 *undeclared\""),
            ("resource == {}", "Port::\"orders:6379\""),
            ("resource in {}", "Service::\"cart\""),
            ("resource in {}", "External::\"stripe\""),
            ("resource in {}", "Node::\"cart\""),
            ("resource in {}", "Node::\"gateway/edge\""),
            ("resource in {}", "Port::\"cart:8080\""),
            ("resource in {}", "Port::\"gateway/edge:8080\""),
            ("resource in {}", "Role::\"clerks\""),
            ("resource in {}", "Role::\"nobody\""),
            ("resource in {}", "TrustDomain::\"shop.example\""),
            ("resource is Route in {}", "Node::\"cart\""),
            ("resource is Port", ""),
            ("resource == {}", "Route::\"cart:8080 /orders/{id}\""),
            ("resource == {}", "Route::\"gateway/edge:8080 *undeclared\""),
            ("resource == {}", "Port::\"cart:6379\""),
        ]),
    ];
    let when = select(vec!["", "when", "when", "when", "when", "unless"]);
    let mode = prop_oneof![6 => Just(Mode::Enforce), 3 => Just(Mode::Audit), 2 => Just(Mode::Boundary)];
    (mode, effect, principal, acts, resource, when, some_condition(), any::<u8>()).prop_map(
        |(mode, effect, principal, (action, atoms), resource, when, condition, made)| Draft {
            mode,
            effect: if mode == Mode::Boundary { "forbid" } else { effect },
            principal,
            action,
            atoms,
            resource,
            when,
            condition,
            from_template: made % 8 == 7,
        },
    )
}

pub(super) fn some_world() -> impl Strategy<Value = World> {
    let atom = || any::<u16>().prop_map(usize::from);
    let theme = prop_oneof![
        1 => atom().prop_map(|atom| [atom; THEME]),
        1 => (atom(), atom()).prop_map(|(one, other)| [one, other, other]),
        1 => prop::array::uniform3(atom()),
    ];
    let policies = prop::collection::vec(some_policy(), 0..8);
    let others = prop::collection::vec((0..PARTS, any::<u8>()), 0..160);
    let questions = prop::collection::vec((prop::array::uniform15(any::<u8>()), others), 1..12);
    let said = (0..ROLES.len(), 0..LABELS.len());
    (theme, policies, any::<bool>(), said, questions).prop_map(
        |(theme, policies, is_open, (roles, labels), questions)| World {
            theme,
            policies,
            is_open,
            roles,
            labels,
            questions,
        },
    )
}
