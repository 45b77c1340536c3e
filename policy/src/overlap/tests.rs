use hauberk_identity::SpiffeId;

use super::*;
use crate::testing::{documents, domain, name, node};

/// web is a clerk, clerks are staff; orders is port 8080 of its node.
fn groups() -> Groups {
    let mut groups = Groups::new(&domain(), &name("shop"));
    let partner = SpiffeId::parse("spiffe://partner.example/app").unwrap();
    groups.add_role(&name("clerks"), [&node("web"), &partner], []);
    groups.add_role(&name("staff"), [], [&name("clerks")]);
    groups.add_class(&name("pii"), [&name("cards")]);
    groups.add_service(&name("orders"), &node("orders"), [8080]);
    groups
}

fn told_of_new(texts: &[(Mode, &str)], is_new: impl Fn(&str) -> bool) -> Vec<String> {
    let is_new = |document: &PolicyDocument| is_new(document.name().as_str());
    let found = overlaps(&documents(texts), is_new, &groups(), 10);
    let tell = |overlap| match overlap {
        Overlap::Same { one, other } => format!("{one} = {other}"),
        Overlap::Covered { permit, forbid } => format!("{permit} < {forbid}"),
        Overlap::Contained { permit, wider } => format!("{permit} in {wider}"),
        Overlap::Needless { forbid, wider } => format!("{forbid} no more than {wider}"),
        Overlap::Never { policy } => format!("{policy} never"),
        Overlap::Always { policy } => format!("{policy} always"),
    };
    found.into_iter().map(tell).collect()
}

fn told(texts: &[(Mode, &str)]) -> Vec<String> {
    told_of_new(texts, |_| true)
}

#[test]
fn statements_that_say_the_same_are_told() {
    let one = "permit(principal == Node::\"web\", action, resource in Service::\"orders\");";
    let named = "@id(\"a\")\npermit(principal == Node::\"web\", action, resource in Service::\"shop/orders\");\n\
                 @id(\"b\") forbid(principal, action == Action::\"GET\", resource) when { context.path == \"/\" };";
    assert_eq!(told(&[(Mode::Enforce, one), (Mode::Enforce, named)]), ["p0 = p1/a"]);
    assert_eq!(told(&[(Mode::Enforce, one), (Mode::Audit, one)]), [""; 0]);
    let both = [(Mode::Enforce, one), (Mode::Enforce, one)];
    assert_eq!(told_of_new(&both, |_| false), [""; 0]);
    assert_eq!(told_of_new(&both, |document| document == "p0"), ["p0 = p1"]);
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
        "forbid(principal, action, resource is Port);",
    ] {
        assert_eq!(told(&[(Mode::Enforce, permit), (Mode::Enforce, forbid)]), [""; 0], "{forbid}");
    }
}

const PERMIT: Mode = Mode::Enforce;

/// Each pair: what is narrow, and what is around it.
const AROUND: &[[&str; 2]] = &[
    [
        "principal == Node::\"web\", action == Action::\"GET\", resource in Service::\"orders\"",
        "principal in Mesh::\"shop\", action in Action::\"read\", resource in Mesh::\"shop\"",
    ],
    [
        "principal == Node::\"web\", action == Action::\"GET\", resource in Service::\"orders\"",
        "principal in Role::\"staff\", action in [Action::\"write\", Action::\"read\"], resource in Node::\"orders\"",
    ],
    [
        "principal in Role::\"clerks\", action == Action::\"POST\", resource == Route::\"orders:8080 /orders/{id}\"",
        "principal in Role::\"staff\", action in Action::\"http\", resource in Service::\"orders\"",
    ],
    [
        "principal == Workload::\"spiffe://partner.example/app\", action == Action::\"call\", resource in Port::\"orders:8080\"",
        "principal is Workload in TrustDomain::\"partner.example\", action in Action::\"call\", resource is Route in Service::\"orders\"",
    ],
    [
        "principal is Anonymous, action in Action::\"read\", resource in DataClass::\"cards\"",
        "principal is Anonymous, action in Action::\"read\", resource is Route in DataClass::\"pii\"",
    ],
    [
        "principal in Mesh::\"shop\", action == Action::\"connect\", resource in Port::\"orders:8080\"",
        "principal is Node, action == Action::\"connect\", resource is Port",
    ],
    [
        "principal is Node, action in Action::\"http\", resource in External::\"stripe\"",
        "principal is Node, action in Action::\"http\", resource in Mesh::\"shop\"",
    ],
];

#[test]
fn what_is_within_by_groups_and_by_names_is_told() {
    for [narrow, around] in AROUND {
        let (permit, forbid) = (format!("permit({narrow});"), format!("forbid({around});"));
        assert_eq!(told(&[(PERMIT, &permit), (Mode::Boundary, &forbid)]), ["p0 < boundary:p1"], "{narrow}");
        let conditional = format!("permit({narrow}) when {{ context.peer.federated }};");
        let wider = format!("permit({around});");
        assert_eq!(told(&[(PERMIT, &wider), (PERMIT, &conditional)]), ["p1 in p0"], "{narrow}");
        let backwards = [format!("permit({around});"), format!("forbid({narrow});")];
        assert_eq!(told(&[(PERMIT, &backwards[0]), (PERMIT, &backwards[1])]), [""; 0], "{around}");
    }
}

#[test]
fn what_is_only_beside_is_not_told() {
    let permit =
        "permit(principal in Role::\"clerks\", action in Action::\"read\", resource in Service::\"orders\");";
    for other in [
        "(principal in Mesh::\"shop\", action, resource);",
        "(principal == Node::\"web\", action, resource);",
        "(principal in Role::\"others\", action, resource);",
        "(principal, action == Action::\"GET\", resource);",
        "(principal, action, resource in Port::\"orders:8080\");",
        "(principal, action, resource in Node::\"payments\");",
        "(principal, action, resource is Port);",
        "(principal, action, resource in DataClass::\"pii\");",
    ] {
        assert_eq!(told(&[(PERMIT, permit), (PERMIT, &format!("forbid{other}"))]), [""; 0], "{other}");
    }
}

#[test]
fn a_permit_that_says_nothing_new_is_told_once() {
    let wide = "permit(principal is Node, action in Action::\"read\", resource);";
    let same = "permit(principal is Node, action in [Action::\"read\", Action::\"GET\"], resource);";
    let narrow = "permit(principal == Node::\"web\", action == Action::\"GET\", resource) when { context.path == \"/\" };";
    assert_eq!(told(&[(PERMIT, wide), (PERMIT, same)]), ["p1 in p0"]);
    assert_eq!(told(&[(PERMIT, narrow), (PERMIT, wide), (PERMIT, same)]), ["p0 in p1", "p2 in p1"]);
    assert_eq!(told(&[(PERMIT, wide), (PERMIT, wide)]), ["p0 = p1"]);
    assert_eq!(told(&[(Mode::Audit, wide), (PERMIT, narrow)]), [""; 0]);
    assert_eq!(told(&[(PERMIT, wide), (Mode::Audit, narrow)]), [""; 0]);
    // What nobody is permitted in the end is told as that.
    let forbid = "forbid(principal, action, resource);";
    let all = [(PERMIT, wide), (PERMIT, narrow), (PERMIT, forbid)];
    assert_eq!(told(&all), ["p0 < p2", "p1 < p2"]);
}

#[test]
fn only_pairs_with_something_new_are_looked_at() {
    let permits = (0..600).map(|index| format!("permit(principal == Node::\"n{index}\", action, resource);"));
    let forbids = (0..600).map(|index| format!("forbid(principal == Node::\"m{index}\", action, resource);"));
    let mut texts: Vec<_> = permits.chain(forbids).collect();
    texts.extend((0..1_200).map(|index| {
        format!("forbid(principal == Node::\"o{index}\", action, resource in Service::\"orders\");")
    }));
    texts.push("permit(principal == Node::\"m7\", action == Action::\"GET\", resource);".to_owned());
    texts.push("forbid(principal == Node::\"n9\", action, resource);".to_owned());
    let texts: Vec<_> = texts.iter().map(|text| (PERMIT, &**text)).collect();
    let last = [texts.len() - 2, texts.len() - 1].map(|index| format!("p{index}"));
    let found = told_of_new(&texts, |name| last.iter().any(|last| last == name));
    assert_eq!(found, [format!("p9 < {}", last[1]), format!("{} < p607", last[0])]);
}

#[test]
fn forbids_that_forbid_nothing_new_are_told() {
    for (index, [narrow, around]) in AROUND.iter().enumerate() {
        let (forbid, wider) = (format!("forbid({narrow});"), format!("forbid({around});"));
        // Roles, data classes and services come to hold others.
        if ![0, 5, 6].contains(&index) {
            assert_eq!(told(&[(PERMIT, &forbid), (PERMIT, &wider)]), [""; 0], "{narrow}");
            continue;
        }
        assert_eq!(told(&[(PERMIT, &forbid), (PERMIT, &wider)]), ["p0 no more than p1"], "{narrow}");
        assert_eq!(told(&[(PERMIT, &wider), (PERMIT, &forbid)]), ["p1 no more than p0"], "{narrow}");
        let conditional = format!("forbid({narrow}) unless {{ context.peer.federated }};");
        assert_eq!(told(&[(PERMIT, &conditional), (PERMIT, &wider)]), ["p0 no more than p1"], "{narrow}");
        let backwards = format!("forbid({around}) unless {{ context.peer.federated }};");
        assert_eq!(told(&[(PERMIT, &forbid), (PERMIT, &backwards)]), [""; 0], "{narrow}");
        // What a permit lets through besides makes no difference.
        let permit = format!("permit({around});");
        assert_eq!(told(&[(PERMIT, &forbid), (PERMIT, &permit)]), [""; 0], "{narrow}");
    }
    let forbid = "forbid(principal == Node::\"web\", action, resource in Service::\"orders\");";
    let wider = "forbid(principal, action, resource in Service::\"orders\");";
    for (narrow, around, expected) in [
        (PERMIT, Mode::Boundary, &["p0 no more than boundary:p1"][..]),
        (Mode::Boundary, Mode::Boundary, &["boundary:p0 no more than boundary:p1"]),
        // Policies may be changed by those who may not change a boundary, and one in audit decides nothing.
        (Mode::Boundary, PERMIT, &[]),
        (PERMIT, Mode::Audit, &[]),
        (Mode::Audit, PERMIT, &[]),
    ] {
        assert_eq!(told(&[(narrow, forbid), (around, wider)]), expected, "{narrow:?} {around:?}");
        assert_eq!(told_of_new(&[(narrow, forbid), (around, wider)], |_| false), [""; 0]);
    }
    assert_eq!(told(&[(PERMIT, forbid), (Mode::Boundary, forbid)]), ["p0 no more than boundary:p1"]);
    assert_eq!(told(&[(PERMIT, forbid), (PERMIT, forbid)]), ["p0 = p1"]);
}

#[test]
fn the_same_conditions_are_as_good_as_none() {
    let of = |effect: &str, scope: &str, conditions: &str| format!("{effect}({scope}) {conditions};");
    let narrow = "principal == Node::\"web\", action in [Action::\"GET\", Action::\"PUT\"], resource in Service::\"orders\"";
    let around = "principal is Node, action in Action::\"http\", resource";
    let header = "context.headers.hasTag(\"x\") && context.headers.getTag(\"x\") == [\"a)(\\\"b\"]";
    let conditions = &*format!("when {{ {header} }} unless {{ context.peer.federated }}");
    let spelled = &*format!("when {{\n {header} }}\n// here\nunless {{ (context.peer.federated) }}");
    for (one, other, expected) in [
        ("permit", "forbid", "p0 < p1"),
        ("permit", "permit", "p0 in p1"),
        ("forbid", "forbid", "p0 no more than p1"),
    ] {
        let found = told(&[(PERMIT, &of(one, narrow, conditions)), (PERMIT, &of(other, around, spelled))]);
        assert_eq!(found, [expected]);
        for different in [&*format!("when {{ {header} }}"), "unless { context.peer.federated }"] {
            let found =
                told(&[(PERMIT, &of(one, narrow, conditions)), (PERMIT, &of(other, around, different))]);
            assert_eq!(found, [""; 0], "{different}");
        }
        let backwards =
            told(&[(PERMIT, &of(one, around, conditions)), (PERMIT, &of(other, narrow, conditions))]);
        let expected: &[&str] = match (one, other) {
            ("permit", "permit") => &["p1 in p0"],
            ("forbid", "forbid") => &["p1 no more than p0"],
            _ => &[],
        };
        assert_eq!(backwards, expected);
    }
    let twice = of("forbid", narrow, conditions);
    assert_eq!(told(&[(PERMIT, &twice), (PERMIT, &of("forbid", narrow, spelled))]), ["p0 = p1"]);
    // Each is around the other one: said once.
    let same =
        narrow.replace("in [Action::\"GET\", Action::\"PUT\"]", "in [Action::\"PUT\", Action::\"GET\"]");
    assert_eq!(told(&[(PERMIT, &twice), (PERMIT, &of("forbid", &same, conditions))]), ["p1 no more than p0"]);
}

#[test]
fn conditions_that_say_nothing_are_told() {
    let path = |text: &str| format!("context.path == \"{text}\"");
    let (a, b) = (path("/a"), path("/b"));
    for (conditions, expected) in [
        ("when { true }".to_owned(), "p0 always"),
        ("unless { false } when { !false }".to_owned(), "p0 always"),
        (format!("when {{ true || {a} }}"), "p0 always"),
        (format!("when {{ if true then true else {a} }}"), ""),
        (format!("when {{ true }} when {{ {a} }}"), ""),
        (format!("when {{ {a} || true }}"), ""),
        (format!("when {{ {a} && {b} }}"), "p0 never"),
        (format!("when {{ {a} }} when {{ context.peer.federated && \"/b\" == context.path }}"), "p0 never"),
        (format!("when {{ context.peer.federated || ({a} && {b}) }}"), ""),
        (format!("when {{ ({a} && {b}) || ({b} && {a}) }}"), "p0 never"),
        (format!("when {{ {a} || {b} }}"), ""),
        (format!("when {{ {a} }} unless {{ {b} }}"), ""),
        (format!("unless {{ {a} && {b} }}"), ""),
        (format!("when {{ {a} && context.host == \"b\" }}"), ""),
        (format!("when {{ {a} && {a} }}"), ""),
        (
            "when { context.peer.address == ip(\"10.0.0.1\") && context.peer.address == ip(\"10.0.0.2\") }"
                .to_owned(),
            "",
        ),
    ] {
        for effect in ["permit", "forbid"] {
            let text =
                format!("{effect}(principal is Node, action == Action::\"GET\", resource) {conditions};");
            let expected: &[&str] = if expected.is_empty() { &[] } else { &[expected] };
            for mode in [PERMIT, Mode::Audit] {
                assert_eq!(told(&[(mode, &text)]), expected, "{text}");
            }
            assert_eq!(told_of_new(&[(PERMIT, &text)], |_| false), [""; 0]);
        }
    }
}
