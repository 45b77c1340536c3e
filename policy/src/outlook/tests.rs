use super::*;
use crate::document::Mode;
use crate::scope::{NodeScope, Protocol, UserTokens};
use crate::testing::{domain, engine, engine_for, foreign, name, node, orders, peer};
use crate::user::{ClaimsMapping, Origin};
use hauberk_identity::Name;

/// What is told, one line for each prospect that is not `never`.
fn told(engine: &Engine, asker: &Asker, port: u16, asked: Asked<'_>, given: &Given) -> Vec<String> {
    let prospects = engine.survey(port, asked, given).unwrap().of(asker);
    prospects.iter().filter(|prospect| prospect.outlook != Outlook::Never).map(line).collect()
}

fn line(prospect: &Prospect) -> String {
    let clauses = |sort: &str, clauses: &[Clause]| -> String {
        let one = |clause: &Clause| format!(" {sort} {}: {}", clause.policy, clause.conditions.join(" && "));
        clauses.iter().map(one).collect()
    };
    format!(
        "{} {} {:?}{}{}{}",
        prospect.action.as_str(),
        prospect.resource,
        prospect.outlook,
        clauses("permit", &prospect.permits),
        clauses("forbid", &prospect.forbids),
        prospect.denied_where.iter().map(|text| format!(" denied where {text}")).collect::<String>(),
    )
}

fn web() -> Asker {
    Asker { caller: peer("web"), is_representative: false }
}

fn get<'a>(path: &'a CanonicalPath<'a>) -> Asked<'a> {
    Asked { method: Some("GET"), paths: Paths::Exactly(path) }
}

#[test]
fn labels_are_always_known() {
    let engine = engine(&[
        "permit(principal is Node, action == Action::\"GET\", resource in Service::\"orders\") when { principal.hasTag(\"team\") && \
         principal.getTag(\"team\") == \"checkout\" };",
    ]);
    let path = CanonicalPath::parse("GET", "/orders/1").unwrap();
    let told = |caller: Caller, is_representative| {
        told(&engine, &Asker { caller, is_representative }, 8080, get(&path), &Given::default())
    };
    assert_eq!(told(peer("web"), false), ["GET orders:8080 /orders/{id} Always"]);
    for (other, is_representative) in [
        (peer("cart"), false),
        (peer("intruder"), false),
        // Nodes of another mesh have no labels here, and whoever stands for them has none.
        (foreign("spiffe://shop.example/mesh/bank/node/others"), true),
        (foreign("spiffe://partner.example/others"), true),
        (Caller::Anonymous, false),
    ] {
        assert_eq!(told(other.clone(), is_representative), [""; 0], "{other:?}");
    }
}

#[test]
fn of_hundreds_of_routes_only_those_that_are_asked_about_count() {
    let mut scope = orders();
    let routes = (0..200)
        .map(|number| crate::route::RouteTemplate::parse(&format!("/r{number}/{{id}}")).unwrap().into());
    scope.ports[0].routes = routes.collect();
    let number = scope.ports[0].number;
    let text = "permit(principal is Node, action == Action::\"GET\", resource in Service::\"orders\");";
    let engine = engine_for(scope, &[(Mode::Enforce, text)]);
    let path = CanonicalPath::parse("GET", "/r190/1").unwrap();
    assert_eq!(
        told(&engine, &web(), number, get(&path), &Given::default()),
        ["GET orders:8080 /r190/{id} Always"]
    );
    let none = CanonicalPath::parse("GET", "/r200/1").unwrap();
    let prospects = engine.survey(number, get(&none), &Given::default()).unwrap().of(&web());
    assert_eq!(prospects.iter().map(|one| &*one.resource).collect::<Vec<_>>(), ["orders:8080 *undeclared"]);
}

#[test]
fn what_is_not_told_stays_a_condition() {
    let engine = engine(&[
        "permit(principal == Node::\"web\", action == Action::\"GET\", resource in Service::\"orders\") when \
         { context.path like \"/orders/*\" && context.headers.hasTag(\"x-tenant\") && \
         context.headers.getTag(\"x-tenant\") == [\"blue\"] && context.time.toTime() < duration(\"18h\") };",
        "forbid(principal, action, resource in Service::\"orders\") when \
         { context.peer.address.isInRange(ip(\"192.0.2.0/24\")) };",
    ]);
    let path = CanonicalPath::parse("GET", "/orders/1").unwrap();
    assert_eq!(
        told(&engine, &web(), 8080, get(&path), &Given::default()),
        ["GET orders:8080 /orders/{id} Conditional \
          permit p0: context.headers.hasTag(\"x-tenant\") && context.headers.getTag(\"x-tenant\") == [\"blue\"] \
          && context.time.toTime() < duration(\"18h\") \
          forbid p1: context.peer.address.isInRange(ip(\"192.0.2.0/24\")) \
          denied where header field x-tenant is no text, or is spelled in two ways"]
    );
    let given = Given {
        address: Some("10.0.0.1".parse().unwrap()),
        time: Some(UnixMillis::from_secs(0)),
        headers: vec![HeaderLines { name: "x-tenant".into(), values: Some(vec!["blue".into()]) }],
        ..Given::default()
    };
    assert_eq!(told(&engine, &web(), 8080, get(&path), &given), ["GET orders:8080 /orders/{id} Always"]);
    let elsewhere = Given { address: Some("192.0.2.1".parse().unwrap()), ..given };
    let survey = engine.survey(8080, get(&path), &elsewhere).unwrap();
    let [denied] = &survey.of(&web())[..] else { panic!() };
    assert_eq!((denied.outlook, denied.reason), (Outlook::Never, Reason::Forbidden));
    assert_eq!(denied.policies, ["p1".into()]);
}

#[test]
fn of_a_pattern_a_policy_covers_all_or_a_part() {
    let engine = engine(&[
        "permit(principal == Node::\"web\", action == Action::\"POST\", resource in Service::\"orders\") when \
         { context.path like \"/orders/*/items\" };",
        "permit(principal == Node::\"cart\", action == Action::\"POST\", resource in Service::\"orders\") when \
         { context.path like \"/orders/*\" };",
        "permit(principal == Node::\"batch\", action == Action::\"POST\", resource in Service::\"orders\") when \
         { context.path == \"/orders/1\" };",
    ]);
    let pattern = PathPattern::parse("/orders/*").unwrap();
    let asked = Asked { method: Some("POST"), paths: Paths::Matching(&pattern) };
    let of = |name: &str| {
        let asker = Asker { caller: peer(name), is_representative: false };
        told(&engine, &asker, 8080, asked, &Given::default())
    };
    assert_eq!(
        of("web"),
        ["POST orders:8080 /orders/* Part permit p0: context.path like \"/orders/*/items\""],
        "/orders/{{id}} has no slash"
    );
    assert_eq!(of("cart"), ["POST orders:8080 /orders/{id} Always", "POST orders:8080 /orders/* Always"]);
    assert_eq!(of("batch"), ["POST orders:8080 /orders/{id} Part permit p2: context.path == \"/orders/1\""]);
    assert_eq!(of("other"), [""; 0]);
}

#[test]
fn a_pattern_without_wildcards_is_answered_as_the_path_that_it_is() {
    let engine = engine(&[
        "permit(principal == Node::\"web\", action == Action::\"GET\", resource in Service::\"orders\") when \
         { context.params.hasTag(\"id\") && context.params.getTag(\"id\") != \"7\" };",
    ]);
    for (path, expected) in
        [("/orders/7", &[][..]), ("/orders/8", &["GET orders:8080 /orders/{id} Always"][..])]
    {
        let pattern = PathPattern::parse(path).unwrap();
        let asked = Asked { method: Some("GET"), paths: Paths::Matching(&pattern) };
        assert_eq!(told(&engine, &web(), 8080, asked, &Given::default()), expected, "{path}");
        let path = CanonicalPath::parse("GET", path).unwrap();
        assert_eq!(told(&engine, &web(), 8080, get(&path), &Given::default()), expected, "{path}");
    }
    let pattern = PathPattern::parse("/orders/*").unwrap();
    let asked = Asked { method: Some("GET"), paths: Paths::Matching(&pattern) };
    let all = told(&engine, &web(), 8080, asked, &Given::default());
    assert!(all.len() == 2 && all.iter().all(|one| one.contains(" Part ")), "{all:?}");
}

#[test]
fn all_that_a_caller_can_do_is_listed_by_action_and_route() {
    let engine = engine(&[
        "permit(principal == Node::\"web\", action in Action::\"read\", resource == Route::\"orders:8080 /health\");",
        "permit(principal == Node::\"web\", action == Action::\"call\", resource in Service::\"orders\") when \
         { context.service == \"shop.Orders\" };",
        "permit(principal == Node::\"web\", action == Action::\"connect\", resource in Service::\"cache\");",
    ]);
    let all = Asked { method: None, paths: Paths::All };
    let of = |port| told(&engine, &web(), port, all, &Given::default());
    assert_eq!(
        of(8080),
        ["GET", "HEAD", "OPTIONS"].map(|method| format!("{method} orders:8080 /health Always"))
    );
    assert_eq!(
        of(50051),
        [
            "call orders:50051 shop.Orders/Get Always",
            "call orders:50051 *undeclared Part permit p1: context.service == \"shop.Orders\""
        ]
    );
    assert_eq!(of(6379), ["connect orders:6379 Always"]);
}

#[test]
fn of_others_nothing_is_known_but_where_they_belong() {
    let engine = engine(&[
        "permit(principal is Workload, action == Action::\"GET\", resource in Service::\"orders\") when \
         { context.peer.federated && context.peer has trustDomain && context.peer.trustDomain == \"partner.example\" && \
         context.peer has spiffeId && context.peer.spiffeId like \"spiffe://partner.example/billing/*\" };",
    ]);
    let path = CanonicalPath::parse("GET", "/health").unwrap();
    let of = |id: &str| {
        let asker = Asker { caller: foreign(id), is_representative: true };
        told(&engine, &asker, 8080, get(&path), &Given::default())
    };
    assert_eq!(
        of("spiffe://partner.example/other"),
        ["GET orders:8080 /health Conditional permit p0: context.peer has spiffeId && \
          context.peer.spiffeId like \"spiffe://partner.example/billing/*\""]
    );
    assert_eq!(of("spiffe://other.example/other"), [""; 0]);
}

#[test]
fn a_port_in_audit_and_one_that_denies_what_is_undeclared() {
    let mut scope = orders();
    scope.ports[0].authorization = Authorization::Audit;
    scope.ports[0].undeclared = crate::scope::Undeclared::Deny;
    let text =
        "forbid(principal, action in Action::\"http\", resource) when { context.host == \"admin.shop\" };";
    let engine = engine_for(scope, &[(Mode::Enforce, text)]);
    let asked = Asked { method: Some("GET"), paths: Paths::All };
    let prospects = engine.survey(8080, asked, &Given::default()).unwrap().of(&web());
    assert_eq!(
        prospects.iter().map(line).collect::<Vec<_>>(),
        [
            "GET orders:8080 /health Conditional forbid p0: context.host == \"admin.shop\"",
            "GET orders:8080 /orders/{id} Conditional forbid p0: context.host == \"admin.shop\"",
            "GET orders:8080 /orders/* Conditional forbid p0: context.host == \"admin.shop\"",
            "GET orders:8080 *undeclared Never"
        ]
    );
    assert_eq!(prospects[0].reason, Reason::AuditDefaultAllow);
    assert_eq!(prospects[3].reason, Reason::UndeclaredRoute);
}

#[test]
fn a_port_for_users_lets_nobody_else_through_and_says_so_where_no_user_is_told() {
    let mut scope = orders();
    let login = name("login");
    scope.ports[0].users = Some(UserTokens { required: true, issuers: vec![login.clone()], kept: false });
    let health = scope.ports[0].routes.iter_mut().find(|route| route.template.as_str() == "/health");
    health.unwrap().requires_user = Some(false);
    let web_gets =
        "permit(principal == Node::\"web\", action == Action::\"GET\", resource in Service::\"orders\");";
    let engine = engine_for(scope, &[(Mode::Enforce, web_gets)]);
    let user = |issuer: &Name| {
        let claims = serde_json::json!({"sub": "alice"});
        let claims = claims.as_object().unwrap();
        let user = ClaimsMapping::default().user(claims, [], issuer, &"https://x.example".into()).unwrap();
        Some(OnBehalfOf::User(Arc::new(Origin { user, actors: Vec::new() })))
    };
    let of = |asker: &str, path: &str, made_for: Option<OnBehalfOf>| {
        let (path, given) =
            (CanonicalPath::parse("GET", path).unwrap(), Given { made_for, ..Given::default() });
        let asker = Asker { caller: peer(asker), is_representative: false };
        let found = engine.survey(8080, get(&path), &given).unwrap().of(&asker);
        let [one] = &found[..] else { panic!("{found:?}") };
        (one.outlook, one.reason, one.denied_where.join("; "))
    };
    let never = |reason| (Outlook::Never, reason, String::new());
    let always = (Outlook::Always, Reason::Permitted, String::new());
    let nobody = Some(OnBehalfOf::Nobody);
    assert_eq!(of("web", "/orders/1", nobody.clone()), never(Reason::UserMissing));
    assert_eq!(of("web", "/orders/1", user(&login)), always);
    assert_eq!(of("web", "/orders/1", user(&name("edge"))), never(Reason::UserIssuerNotTaken));
    let (none, other) =
        ("it is made for no user", "it is made for a user of an issuer that the port does not take");
    let conditional = |text: String| (Outlook::Conditional, Reason::Permitted, text);
    assert_eq!(of("web", "/orders/1", None), conditional(format!("{none}; {other}")));
    assert_eq!(of("web", "/health", nobody), always);
    assert_eq!(of("web", "/health", None), conditional(other.to_owned()));
    assert_eq!(of("cart", "/orders/1", None), never(Reason::NoPolicyMatched), "whoever it is made for");
}

#[test]
fn where_escaped_slashes_stand_not_all_of_a_route_is_let_through() {
    let route =
        "permit(principal == Node::\"web\", action, resource == Route::\"orders:8080 /orders/{id}\");";
    let engine = |escaped| {
        let mut scope = orders();
        scope.ports[0].escaped_slashes = escaped;
        engine_for(scope, &[(Mode::Enforce, route)])
    };
    let all = Asked { method: Some("GET"), paths: Paths::All };
    let of = |escaped| told(&engine(escaped), &web(), 8080, all, &Given::default());
    assert_eq!(of(EscapedSlashes::Reject), ["GET orders:8080 /orders/{id} Always"]);
    assert_eq!(
        of(EscapedSlashes::Keep),
        [
            "GET orders:8080 /orders/{id} Conditional permit p0:  denied where its path holds an escaped slash, and is not let \
          through with slashes in their place"
        ]
    );
    let path = CanonicalPath::parse("GET", "/orders/1").unwrap();
    let exactly = told(&engine(EscapedSlashes::Keep), &web(), 8080, get(&path), &Given::default());
    assert_eq!(exactly, ["GET orders:8080 /orders/{id} Always"]);
}

#[test]
fn what_leaves_the_mesh_is_for_a_user_as_any_call_is() {
    let ports = [(80, Protocol::Http)];
    let scope = NodeScope::external(&domain(), &name("shop"), &name("stripe"), ports);
    let support = "permit(principal is Node, action == Action::\"GET\", resource in External::\"stripe\") when { context has user && \
                   context.user in UserGroup::\"login/support\" && context.actors == [Node::\"web\"] };";
    let engine = engine_for(scope, &[(Mode::Enforce, support)]);
    let path = CanonicalPath::parse("GET", "/v1").unwrap();
    let of = |made_for: Option<OnBehalfOf>| {
        let given = Given { made_for, ..Given::default() };
        let asker = Asker { caller: peer("orders"), is_representative: false };
        let found = engine.survey(80, get(&path), &given).unwrap().of(&asker);
        let [one] = &found[..] else { panic!("{found:?}") };
        one.outlook
    };
    let made_for = |group: &str, actors: &[&str]| {
        let claims = serde_json::json!({"sub": "alice", "groups": [group]});
        let (claims, url) = (claims.as_object().unwrap(), "https://login.example".into());
        let user = ClaimsMapping::default().user(claims, [], &name("login"), &url).unwrap();
        let actors = actors.iter().map(|actor| node(actor)).collect();
        Some(OnBehalfOf::User(Arc::new(Origin { user, actors })))
    };
    assert_eq!(of(None), Outlook::Conditional, "it depends on the user");
    assert_eq!(of(Some(OnBehalfOf::Nobody)), Outlook::Never);
    assert_eq!(of(made_for("support", &["web"])), Outlook::Always);
    assert_eq!(of(made_for("support", &[])), Outlook::Never);
    assert_eq!(of(made_for("staff", &["web"])), Outlook::Never);
}

#[test]
fn a_stream_out_of_the_mesh_is_for_nobody_whoever_is_told() {
    let scope = NodeScope::external(
        &domain(),
        &name("shop"),
        &name("stripe"),
        [(80, Protocol::Http), (443, Protocol::Tcp)],
    );
    let rule = |condition: &str| {
        let rule =
            format!("permit(principal is Node, action, resource in External::\"stripe\") {condition};");
        engine_for(scope.clone(), &[(Mode::Enforce, &rule)])
    };
    let claims = serde_json::json!({"sub": "alice"});
    let (claims, url) = (claims.as_object().unwrap(), "https://login.example".into());
    let user = ClaimsMapping::default().user(claims, [], &name("login"), &url).unwrap();
    let alice = OnBehalfOf::User(Arc::new(Origin { user, actors: Vec::new() }));
    for (condition, outlook) in
        [("when { context has user }", Outlook::Never), ("unless { context has user }", Outlook::Always)]
    {
        for made_for in [None, Some(OnBehalfOf::Nobody), Some(alice.clone())] {
            let (asker, given) = (
                Asker { caller: peer("orders"), is_representative: false },
                Given { made_for, ..Given::default() },
            );
            let asked = Asked { method: None, paths: Paths::All };
            let found = rule(condition).survey(443, asked, &given).unwrap().of(&asker);
            assert_eq!(found.iter().map(|one| one.outlook).collect::<Vec<_>>(), [outlook], "{given:?}");
        }
    }
}

#[test]
fn what_holds_of_labels_and_roles_stands_beside_conditions_that_ask_for_them() {
    let engine = engine(&[
        "permit(principal is Node, action == Action::\"GET\", resource in Service::\"orders\") when { context.headers.hasTag(\"x-team\") && \
         principal.hasTag(\"team\") && context.headers.getTag(\"x-team\").contains(principal.getTag(\"team\")) };",
        "forbid(principal, action == Action::\"GET\", resource in Service::\"orders\") when { (principal in Role::\"clerks\") != \
         context.headers.hasTag(\"x-clerk\") };",
    ]);
    let path = CanonicalPath::parse("GET", "/orders/1").unwrap();
    let held = |caller: &str| {
        let asker = Asker { caller: peer(caller), is_representative: false };
        let prospects = engine.survey(8080, get(&path), &Given::default()).unwrap().of(&asker);
        let [one] = &prospects[..] else { panic!("{prospects:?}") };
        let held = |clauses: &[Clause]| clauses.iter().flat_map(|one| one.held.clone()).collect::<Vec<_>>();
        (held(&one.permits), held(&one.forbids))
    };
    let of = |text: &str| vec![text.to_owned()];
    let clerk = of("the caller is in role clerks");
    assert_eq!(held("web"), (of("team of the caller is \"checkout\""), clerk.clone()));
    assert_eq!(held("cart"), (of("team of the caller is \"stock\""), clerk));
    assert_eq!(held("orders").1, of("nobody is in role clerks"));
}
