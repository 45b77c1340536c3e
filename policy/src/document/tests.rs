use hauberk_identity::{NodeName, SpiffeId};

use super::reader::{MAX_DEPTH, MAX_OPERATORS};
use super::*;
use crate::testing::{ask, domain, name, node, orders, parse, peer};
use crate::{Engine, Known, PolicyIndex};

fn full_text(text: &str) -> String {
    parse(text).unwrap_or_else(|problems| panic!("{problems:?}")).statements()[0].text.clone()
}

/// The only problem, as `line:column+length: message (help)`.
fn problem(text: &str) -> String {
    let problems = parse(text).expect_err(text);
    assert_eq!(problems.len(), 1, "{text}: {problems:?}");
    let found = &problems[0];
    let help = found.help.as_deref().unwrap_or_default();
    format!("{}:{}+{}: {} ({help})", found.line, found.column, found.length, found.message)
}

#[test]
fn makes_names_full() {
    for (short, full) in [
        ("Node::\"web\"", "Node::\"spiffe://shop.example/mesh/shop/node/web\""),
        ("Node::\"gateway/edge\"", "Node::\"spiffe://shop.example/mesh/shop/gateway/edge\""),
        (
            "Node::\"spiffe://shop.example/mesh/bank/node/web\"",
            "Node::\"spiffe://shop.example/mesh/bank/node/web\"",
        ),
        ("Workload::\"batch/nightly\"", "Workload::\"spiffe://shop.example/workload/batch/nightly\""),
        ("Workload::\"spiffe://partner.example/app\"", "Workload::\"spiffe://partner.example/app\""),
    ] {
        let text =
            full_text(&format!("permit(principal == {short}, action, resource in Service::\"orders\");"));
        assert!(text.contains(full), "{text}");
        assert!(text.contains("Service::\"shop/orders\""), "{text}");
    }
    for (short, full) in [
        ("resource in Service::\"shop/orders\"", "Service::\"shop/orders\""),
        ("resource in Port::\"orders:8080\"", "Port::\"spiffe://shop.example/mesh/shop/node/orders:8080\""),
        (
            "resource == Route::\"orders:8080 /orders/{id}\"",
            "Route::\"spiffe://shop.example/mesh/shop/node/orders:8080 /orders/{id}\"",
        ),
        ("resource in Mesh::\"shop\"", "Mesh::\"shop\""),
    ] {
        let text = full_text(&format!("permit(principal is Node, action in Action::\"http\", {short});"));
        assert!(text.contains(full), "{text}");
    }
}

#[test]
fn makes_names_full_in_conditions_too_and_nothing_else() {
    let text = full_text(
        "forbid(principal, action in Action::\"http\", resource) when {\n  principal in [Role::\"clerks\"] \
         && !(principal in Mesh::\"bank\") && !(principal == Node::\"web\") && {x: Service::\"orders\"}.x != Service::\"cart\" && \
         context.path == \"/Node::web\" };",
    );
    for full in [
        "Role::\"shop/clerks\"",
        "Mesh::\"bank\"",
        "node/web\"",
        "\"shop/orders\"",
        "\"shop/cart\"",
        "\"/Node::web\"",
    ] {
        assert!(text.contains(full), "{full} in {text}");
    }
}

#[test]
fn full_texts_are_valid_and_read_back_the_same() {
    let document = parse(
        "@id(\"a\") @note(\"x\")\npermit(principal in Role::\"clerks\", action in [Action::\"GET\", Action::\"call\"], \
         resource) when { context.path like \"/a\\*b*\" } unless { resource in Port::\"gateway/edge:443\" };",
    )
    .unwrap();
    let statement = &document.statements()[0];
    let again = Policy::parse(Some(statement.policy.id().clone()), &statement.text).unwrap();
    assert_eq!(again, statement.policy);
}

#[test]
fn names_statements_by_id_or_place() {
    let names = |text: &str| -> Vec<String> {
        parse(text).unwrap().statements().iter().map(|statement| statement.name.clone()).collect()
    };
    let one = "forbid(principal, action, resource);";
    assert_eq!(names(one), ["p"]);
    assert_eq!(names(&format!("@id(\"x\") {one} {one}")), ["p/x", "p/2"]);
    let many = names(&one.repeat(12));
    assert_eq!((many[1].as_str(), many[10].as_str()), ("p/2", "p/11"));
    let twice = problem(&format!("@id(\"x\") {one}\n@id(\"x\") {one}"));
    assert!(twice.starts_with("2:1+3: the id \"x\" is already that of line 1"), "{twice}");
    assert!(parse(&format!("@id(\"2\") {one} {one}")).is_err());
    let told = |text: &str| format!("@id(\"{text}\") {one}");
    let text =
        [told("Admins may do everything"), told("x"), told("a/b"), told("Admins may do everything")].concat();
    assert_eq!(names(&text), ["p/1", "p/x", "p/3", "p/4"]);
    assert!(parse(&text).unwrap().statements()[0].text.contains("Admins may do everything"));
}

#[test]
fn tells_what_it_mentions_and_where() {
    let document = parse(
        "permit(\n  principal == Node::\"web\",\n  action,\n  resource in Service::\"orders\"\n)\nunless { principal in \
         Role::\"clerks\" || resource in Port::\"orders:8080\" };",
    )
    .unwrap();
    let found: Vec<_> = document
        .references()
        .iter()
        .map(|found| (found.referent.clone(), found.line, found.column))
        .collect();
    let web = Referent::Node { mesh: name("shop"), node: NodeName::Node(name("web")) };
    assert!(found.contains(&(web, 2, 16)), "{found:?}");
    assert!(found.contains(&(Referent::Service(name("orders")), 4, 15)), "{found:?}");
    assert!(found.contains(&(Referent::Role(name("clerks")), 6, 23)), "{found:?}");
    assert!(found.contains(&(Referent::Port { node: node("orders"), number: 8080 }, 6, 53)), "{found:?}");
}

#[test]
fn refuses_permits_that_reach_further_than_they_say() {
    let text = "permit(principal, action, resource);";
    let found = problem(text);
    assert!(found.starts_with("1:8+9: this permit also reaches anonymous callers and workloads"), "{found}");
    assert!(found.contains("principal is Node"), "{found}");
    assert!(parse("permit(principal in TrustDomain::\"shop.example\", action, resource);").is_err());
    // A condition is no substitute.
    assert!(parse("permit(principal, action, resource) when { principal is Node };").is_err());
    for fine in [
        "forbid(principal, action, resource);",
        "permit(principal is Node, action, resource);",
        "permit(principal is Workload, action, resource);",
        "permit(principal is Anonymous, action, resource);",
        "permit(principal in Mesh::\"shop\", action, resource);",
        "permit(principal in Role::\"clerks\", action, resource);",
        "permit(principal is Workload in TrustDomain::\"shop.example\", action, resource);",
    ] {
        assert!(parse(fine).is_ok(), "{fine}");
    }
}

#[test]
fn refuses_what_cedar_and_the_schema_do_not_know() {
    for (text, needle) in [
        ("permit(principal is Node, action, resource)", ""),
        ("permit(principal is Nod, action, resource);", "Node"),
        ("permit(principal is Node, action == Action::\"GETT\", resource);", "GET"),
        (
            "permit(principal is Node, action == Action::\"GET\", resource) when { context.pth == \"/\" };",
            "path",
        ),
        ("permit(principal is Node, action, resource) when { context.path == \"/\" };", "path"),
        (
            "permit(principal is Node, action == Action::\"GET\", resource) when { principal.team == \"x\" };",
            "team",
        ),
        ("permit(principal is Node, action == Action::\"GET\", resource) when { context.path > 1 };", ""),
        ("permit(principal is User, action, resource);", ""),
        ("permit(principal is Node, action == Action::\"GET\", resource is Port);", ""),
        ("permit(principal == Action::\"GET\", action, resource);", ""),
        ("forbid(principal, action == Action::\"GET\", resource) when { context.path == \"/а-a\" };", ""),
        ("", "at least one"),
        ("// nothing\n", "at least one"),
    ] {
        let problems = parse(text).expect_err(text);
        let all = format!("{problems:?}");
        assert!(all.contains(needle), "{text}: {all}");
    }
}

#[test]
fn what_some_actions_lack_is_told_with_what_to_write() {
    let of = |condition: &str| {
        problem(&format!("permit(principal is Node, action, resource) when {{ {condition} }};"))
    };
    for name in ["path == \"/a\"", "claims.hasTag(\"x\")", "user == User::\"login/a\"", "actors.isEmpty()"] {
        let told = of(&format!("context.{name}"));
        let first = name.split(['.', ' ']).next().unwrap();
        let lacks = format!(
            "the statement speaks of TCP streams too, which have no `{first}`: write `action in Action::\"http\"` for HTTP requests"
        );
        assert!(
            told.contains(&lacks) && !told.contains("policy0") && !told.contains("did you mean"),
            "{told}"
        );
        assert!(told.contains(&format!("`context has {first} &&`")), "{told}");
    }
    // What is advised is accepted.
    parse("permit(principal is Node, action, resource) when { context has path && context.path == \"/a\" };")
        .unwrap();
    for actions in ["action in Action::\"http\"", "action in [Action::\"http\", Action::\"call\"]"] {
        parse(&format!("permit(principal is Node, {actions}, resource) when {{ context.path == \"/a\" }};"))
            .unwrap();
    }
    let told = of("context.rpc == \"Get\"");
    assert!(
        told.contains(
            "HTTP requests too, which have no `rpc`: write `action == Action::\"call\"` for gRPC calls"
        ),
        "{told}"
    );
    // A slip of the hand is another matter.
    assert!(of("context.pth == \"/a\"").contains("did you mean"));
    let told = problem(
        "permit(principal is Node, action in Action::\"http\", resource) when { context.actors == [] };",
    );
    assert!(told.contains("`context.actors.isEmpty()`"), "{told}");
}

#[test]
fn names_are_told_of_a_text_that_is_wrong_otherwise() {
    let text = "permit(principal in Role::\"clrks\", action == Action::\"GTE\", resource) when { context.nothing == 1 };";
    parse(text).unwrap_err();
    let told = PolicyDocument::mentioned(&name("shop"), &domain(), text);
    let told: Vec<_> = told.iter().map(|one| (one.text.as_str(), one.line, one.column)).collect();
    assert_eq!(told, [("Role::\"clrks\"", 1, 21)]);
    assert!(PolicyDocument::mentioned(&name("shop"), &domain(), "permit(").is_empty());
}

#[test]
fn an_unknown_name_is_told_without_what_follows_from_it() {
    for (text, places) in [
        ("permit(principal is Nod, action, resource);", &["1:21"][..]),
        ("permit(principal == Nod::\"web\", action, resource in Service::\"orders\");", &["1:21"]),
        ("permit(principal is Node, action, resource in Rout::\"orders:8080 /x\");", &["1:47"]),
        ("permit(principal is Node, action == Action::\"GETT\", resource);", &["1:37"]),
        (
            "permit(principal is Node, action in [Action::\"GETT\", Action::\"GET\"], resource) when { context.path == \"/\" };",
            &["1:38"],
        ),
        (
            "permit(principal is Nod, action == Action::\"GETT\", resource in Rout::\"x\");",
            &["1:21", "1:36", "1:64"],
        ),
        // What is wrong besides is told as well.
        (
            "permit(principal is Node, action == Action::\"GET\", resource in Servic::\"x\") when { context.pth == \"/\" };",
            &["1:64", "1:84"],
        ),
        (
            "permit(principal is Nod, action, resource);\npermit(principal is Node, action == Action::\"GET\", resource is Port);",
            &["1:21", "2:1"],
        ),
        // In the context of no action at all: one mistake.
        ("forbid(principal, action, resource) when { context.pth == \"/\" };", &["1:44"]),
        ("permit(principal is Node, action == Action::\"GET\", resource is Port);", &["1:1"]),
    ] {
        let problems = parse(text).expect_err(text);
        let found: Vec<_> =
            problems.iter().map(|problem| format!("{}:{}", problem.line, problem.column)).collect();
        assert_eq!(found, places, "{text}: {problems:?}");
    }
    let found = problem("permit(principal is Node, action == Action::\"GET\", resource == Service::\"x\");");
    assert!(found.contains("replacing `==` with `in`"), "the one that helps is told: {found}");
}

#[test]
fn points_at_the_mistake() {
    let found = problem(
        "permit(\n  principal is Node,\n  action == Action::\"GET\",\n  resource\n) when { context.pth == \"/\" };",
    );
    assert!(found.starts_with("5:10+11: "), "{found}");
    let found = problem("forbid(principal == Node::\"wéb\", action, resource);");
    assert!(found.starts_with("1:21+11: Node::\"wéb\": "), "{found}");
    let found = problem("forbid(principal, action, resource)\nwhen { ! };");
    assert!(found.starts_with("2:"), "{found}");
}

#[test]
fn refuses_names_that_stand_for_nothing() {
    for id in [
        "Node::\"\"",
        "Node::\"a/b\"",
        "Node::\"node/web\"",
        "Node::\"wéb\"",
        "Node::\"spiffe://other.example/mesh/shop/node/web\"",
        "Node::\"spiffe://shop.example/admin/alice\"",
        "Node::\"spiffe://shop.example\"",
        "Workload::\"spiffe://shop.example/mesh/shop/node/web\"",
        "Workload::\"spiffe://shop.example/admin/alice\"",
        "Workload::\"spiffe://shop.example/control-plane/0\"",
        "Workload::\"\"",
        "Anonymous::\"bob\"",
        "TrustDomain::\"Shop\"",
        "Mesh::\"\"",
        "Role::\"bank/clerks\"",
    ] {
        let text = format!("forbid(principal in {id}, action, resource);").replace(
            if id.starts_with("Workload") || id.starts_with("Anonymous") { "principal in" } else { "\u{0}" },
            "principal ==",
        );
        assert!(parse(&text).is_err(), "{text}");
    }
    for id in [
        "Port::\"orders\"",
        "Port::\"orders:0\"",
        "Port::\"orders:73616\"",
        "Port::\"orders:080\"",
        "Port::\"orders:+80\"",
        "Route::\"orders:8080\"",
        "Route::\"orders:8080 orders\"",
        "Service::\"a b\"",
    ] {
        assert!(parse(&format!("forbid(principal, action, resource in {id});")).is_err(), "{id}");
    }
}

#[test]
fn governs_its_own_mesh_only() {
    for resource in [
        "resource in Service::\"bank/ledger\"",
        "resource in Mesh::\"bank\"",
        "resource in Node::\"spiffe://shop.example/mesh/bank/node/ledger\"",
        "resource in Port::\"spiffe://shop.example/mesh/bank/node/ledger:80\"",
        "resource is Route in Mesh::\"bank\"",
    ] {
        let found = problem(&format!("forbid(principal, action, {resource});"));
        assert!(found.contains("this policy belongs to mesh \"shop\""), "{found}");
    }
    let inside = "forbid(principal, action, resource) when { resource in Service::\"bank/ledger\" };";
    assert!(problem(inside).contains("mesh \"bank\""));
}

#[test]
fn refuses_paths_that_no_request_has() {
    for condition in [
        "context.path == \"orders\"",
        "context.path == \"/a b\"",
        "context.path == \"/%61dmin\"",
        "context.path == \"/a?b=c\"",
        "\"/a//b\" == context.path",
        "context.path != \"/a/../b\"",
        "[\"/b\", \"/a?b\"].containsAny([context.path])",
        "[context.path].containsAny([\"/a//b\"])",
        "context.path like \"orders/*\"",
        "context.path like \"/a%2fb*\"",
        "context.path like \"*/é\"",
        "context.path like \"/a//*\"",
        "context.path like \"/a?*\"",
        "context.path like \"/..;*\"",
    ] {
        let text = format!("forbid(principal, action in Action::\"http\", resource) when {{ {condition} }};");
        let found = problem(&text);
        assert!(found.contains("never matches"), "{found}");
    }
    for condition in [
        "context.path == \"/\"",
        "[context.path, context.method].containsAny([\"/a\", \"GET\"])",
        "context.path == \"*\"",
        "context.path like \"*\"",
        "context.path like \"/orders/*/items\"",
        "context.path like \"*.json\"",
        "context.path like \"/a\\*b\"",
        "context.path like \"/caf%C3%A9/*\"",
    ] {
        let text = format!("forbid(principal, action in Action::\"http\", resource) when {{ {condition} }};");
        assert!(parse(&text).is_ok(), "{condition}: {:?}", parse(&text));
    }
}

#[test]
fn refuses_facts_that_agents_do_not_supply() {
    let on_get = |condition: &str| {
        format!("forbid(principal, action == Action::\"GET\", resource) when {{ {condition} }};")
    };
    for (condition, told) in [
        ("context.headers.hasTag(\"X-Tenant\")", "lower case"),
        ("context.headers.hasTag(\"cookie\")", "secrets"),
        ("context.headers.hasTag(\"te\")", "one connection"),
        ("context.headers.hasTag(\"x-forwarded-client-cert\")", "set it themselves"),
        ("context.headers.hasTag(\"host\")", "context.host"),
        ("context.headers.hasTag(context.method)", "written out"),
        ("context.headers == context.headers", "by name"),
        ("principal.hasTag(context.method)", "written out"),
        ("principal is Node && principal.getTag(\"team\") == \"a\"", "team"),
        ("principal.hasTag(\"tier\") && principal.getTag(\"team\") == \"a\"", "team"),
        ("resource.hasTag(\"team\")", "false"),
        (
            "Node::\"spiffe://shop.example/mesh/bank/node/web\".hasTag(\"team\")",
            "mesh \"bank\" have no labels",
        ),
        ("Headers::\"request\".hasTag(\"cookie\")", "context.headers"),
        ("Query::\"request\" == context.query", "context.query"),
        ("context.host == \"Orders.shop\"", "never matches"),
        ("[context.host].containsAll([\"Orders.shop\"])", "never matches"),
        ("context.host == \"orders.shop:80\"", "never matches"),
        ("context.host like \"*.shop:80\"", "write \".shop\""),
        ("context.host like \"orders.*.\"", "never matches"),
        ("[\"orders.shop\", \"Cart.shop\"].contains(context.host)", "write \"cart.shop\""),
        ("[\"/a\", \"/b//c\"].contains(context.path)", "never matches"),
        ("context.host like \"*.Shop\"", "never matches"),
        // Cedar's strict validation: what may be absent is asked for first.
        ("context.peer.tlsGroup == \"X25519\"", "tlsGroup"),
        ("context.headers.getTag(\"x-tenant\").contains(\"blue\")", "x-tenant"),
        ("context.peer.adress == ip(\"::1\")", "address"),
        ("context.time < datetime(\"tomorrow\")", "datetime"),
        ("context.peer.address.isInRange(ip(\"10.0.0.0/99\"))", "IP address"),
    ] {
        let found = problem(&on_get(condition));
        assert!(found.contains(told), "{condition}: {found}");
    }
    for condition in [
        "context.headers.hasTag(\"x-tenant\") && context.headers.getTag(\"x-tenant\").contains(\"blue\")",
        "context.peer has tlsGroup && context.peer.tlsGroup == \"X25519\"",
        "context.host like \"*.shop\" || context.host == \"[::1]\"",
        "context.time.toTime() < duration(\"8h\")",
        "principal.hasTag(\"team\") && principal.getTag(\"team\") == \"a\"",
        "Node::\"web\".hasTag(\"team\") && Node::\"web\".getTag(\"team\") like \"a*\"",
    ] {
        assert!(parse(&on_get(condition)).is_ok(), "{condition}: {:?}", parse(&on_get(condition)));
    }
    assert!(problem("forbid(principal, action, resource) when { context.host == \"a\" };").contains("host"));
    assert!(parse("forbid(principal, action, resource) when { context.peer.federated };").is_ok());
}

#[test]
fn refuses_templates_and_too_much() {
    assert!(
        problem("permit(principal == ?principal, action, resource);")
            .contains("this is a template, not a policy")
    );
    let long = format!("forbid(principal, action, resource); //{}", "x".repeat(MAX_TEXT_LEN));
    assert!(problem(&long).contains("at most 65536 bytes"));
    let deep = format!("forbid(principal, action, resource) when {{ {}true }};", "true && ".repeat(2_000));
    assert!(problem(&deep).contains("at most 200 operators"));
    let deep =
        format!("forbid(principal, action, resource) when {{ {}true{} }};", "(".repeat(99), ")".repeat(99));
    assert!(problem(&deep).contains("at most 32 deep"));
}

/// In a thread with the stack of a worker, and at both limits at once.
#[test]
fn the_deepest_statement_that_is_accepted_does_not_overflow_the_stack() {
    for (open, close, innermost, accepted) in [
        ("(", ")", "true", true),
        ("[", "].isEmpty()", "1", false),
        ("if true then true else ", "", "true", true),
        ("{a: ", "}.a", "true", false),
        ("true && (", ")", "true", true),
    ] {
        let chain = "true && ".repeat((MAX_OPERATORS - 2 * MAX_DEPTH) / 2);
        let deep = |count: usize| {
            let (open, close) = (open.repeat(count), close.repeat(count));
            let text =
                format!("forbid(principal, action, resource) when {{ {chain} ({open}{innermost}{close}) }};");
            let parse = move || {
                let document = parse(&text)?;
                let slice = PolicyIndex::new(document.mesh(), [&document]).slice(&orders(), Known::default());
                let engine = Engine::compile(orders(), &slice, None).unwrap();
                assert!(!ask(&engine, &peer("web"), 8080, "GET", "/").is_allowed());
                Ok::<_, Vec<PolicyProblem>>(())
            };
            std::thread::Builder::new().stack_size(2 << 20).spawn(parse).unwrap().join().unwrap()
        };
        // The braces of the condition and the brackets around all are two levels.
        assert_eq!(deep(MAX_DEPTH - 2).is_ok(), accepted, "{open}: {:?}", deep(MAX_DEPTH - 2));
        assert!(deep(MAX_DEPTH).is_err());
    }
}

#[test]
fn keeps_the_text_as_written() {
    let text = "// why\nforbid(principal, action, resource);";
    let document = PolicyDocument::parse(name("shop"), &domain(), name("p"), Mode::Audit, text).unwrap();
    assert_eq!((document.text(), document.mode()), (text, Mode::Audit));
    assert_eq!((document.mesh().as_str(), document.name().as_str()), ("shop", "p"));
    let _: &SpiffeId = &node("web");
}

proptest::proptest! {
    #[test]
    fn never_panics(text in "(permit|forbid|\\(|\\)|principal|action|resource|==|in|Node::\"web\"|\"|;|,| |\\{|\\}|é|\n){0,20}") {
        let _ = parse(&text);
    }
}

#[test]
fn a_boundary_only_forbids() {
    let parse = |text: &str| PolicyDocument::parse(name("shop"), &domain(), name("b"), Mode::Boundary, text);
    let text = "forbid(principal, action, resource);\n  permit(principal is Node, action, resource);";
    let problems = parse(text).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert_eq!(
        problems[0].to_string(),
        "2:3: a boundary only forbids (write what is permitted into a Policy; a boundary says what no policy \
         permits)"
    );
    let document = parse("forbid(principal, action, resource);").unwrap();
    assert_eq!(document.label(), "boundary:b");
    assert_eq!(document.statements()[0].name, "boundary:b");
}

fn stored(text: &str) -> Result<PolicyDocument, Vec<PolicyProblem>> {
    PolicyDocument::parse_stored(name("shop"), &domain(), name("p"), Mode::Enforce, text)
}

#[test]
fn a_stored_text_stands_whatever_only_new_ones_are_refused_for() {
    let asking = |condition: &str| {
        format!("forbid(principal, action in Action::\"http\", resource) when {{ {condition} }};")
    };
    let long = "a".repeat(1_024);
    let mut texts = vec![
        asking(&format!("context.path like \"*{long}\"")),
        asking(&format!("context.host like \"{}\"", "*a".repeat(33))),
        asking("User::\"login/alice\" in UserGroup::\"login/support\""),
        asking("Role::\"clerks\" in Role::\"staff\""),
        asking("context.path == \"/a/../b\""),
        asking("context.host == \"A.example\""),
        asking("Node::\"spiffe://shop.example/mesh/bank/node/web\".hasTag(\"team\")"),
        asking("false"),
    ];
    texts.push(format!("{} //{}", asking("true"), "x".repeat(MAX_TEXT_LEN)));
    texts.push(format!(
        "@id(\"2\") {}\n@id(\"no name\") {}",
        asking("true"),
        asking("context.path == \"/\"")
    ));
    for text in texts {
        let what = text.chars().take(120).collect::<String>();
        let refused = parse(&text).expect_err(&what);
        let document = stored(&text).unwrap_or_else(|problems| panic!("{what}: {problems:?}"));
        assert_eq!(document.outdated(), refused, "{what}");
        let labels = crate::testing::labels();
        let known = Known { labels: &labels, ..Known::default() };
        let mut slice = PolicyIndex::new(document.mesh(), [&document]).slice(&orders(), known);
        let mentioned: std::collections::BTreeSet<_> = document.roles().cloned().collect();
        slice.roles =
            mentioned.into_iter().map(|role| crate::RoleMembers { role, members: Vec::new() }).collect();
        let compiled = Engine::compile(orders(), &slice, None);
        assert!(compiled.is_ok(), "{what}: {compiled:?}");
    }
    let good = asking("context.path == \"/a\"");
    assert_eq!(stored(&good).unwrap().outdated(), []);
}

#[test]
fn statements_of_a_stored_text_have_names_of_their_own() {
    let names = |text: &str| {
        let document = stored(text).unwrap();
        document.statements().iter().map(|statement| statement.name.clone()).collect::<Vec<_>>()
    };
    let forbid = "forbid(principal, action, resource);";
    let of = |ids: [&str; 3]| names(&ids.map(|id| format!("@id(\"{id}\") {forbid}")).join("\n"));
    assert_eq!(of(["a", "no name", "c"]), ["p/a", "p/2", "p/c"]);
    assert_eq!(
        of(["2", "no name", "4"]),
        ["p/2", "p/5", "p/4"],
        "neither what is written nor what was given"
    );
    assert_eq!(of(["no name", "1", "no other"]), ["p/4", "p/1", "p/3"], "what is written keeps its name");
}

#[test]
fn a_stored_text_that_cannot_be_enforced_is_refused_as_a_new_one_is() {
    for text in [
        "forbid(principal",
        "",
        "forbid(principal == ?principal, action, resource);",
        "permit(principal, action, resource);",
        "permit(principal is Nobody, action, resource);",
        "forbid(principal, action, resource) when { context.pathh == \"/\" };",
        "forbid(principal, action, resource in Mesh::\"bank\");",
        "forbid(principal, action, resource in Service::\"a/b\");",
        "forbid(principal, action in Action::\"http\", resource) when { context.headers.hasTag(context.path) };",
        "@id(\"a\") forbid(principal, action, resource); @id(\"a\") forbid(principal is Node, action, resource);",
        &format!("forbid(principal, action, resource) when {{ {}true{} }};", "(".repeat(99), ")".repeat(99)),
        &format!("forbid(principal, action, resource) when {{ {}true }};", "true && ".repeat(2_000)),
    ] {
        assert_eq!(stored(text).expect_err(text), parse(text).expect_err(text), "{text}");
    }
    let of_boundary = "permit(principal is Node, action, resource);";
    let read = PolicyDocument::parse_stored(name("shop"), &domain(), name("b"), Mode::Boundary, of_boundary);
    assert!(read.unwrap_err()[0].message.contains("a boundary only forbids"));
}

#[test]
fn what_holds_permits_alone_is_told_however_wrong_it_is() {
    let permit = "permit(principal is Nobody, action, resource);";
    assert!(only_permits(permit) && only_permits("permit(principal == ?principal, action, resource);"));
    let deep =
        format!("permit(principal, action, resource) when {{ {}true{} }};", "(".repeat(99), ")".repeat(99));
    for text in [
        "",
        "permit(",
        "forbid(principal, action, resource);",
        &format!("{permit}forbid(principal, action, resource);"),
        &deep,
    ] {
        assert!(!only_permits(text), "{text}");
    }
}
