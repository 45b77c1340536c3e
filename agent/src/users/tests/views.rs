//! For whom a request is made by one view, and by the next.

use std::sync::OnceLock;

use hauberk_policy::OnBehalfOf;
use hauberk_proto::agent::v1 as pb;
use hauberk_tls::FederatedBundles;

use super::passed::{World, context};
use super::*;
use crate::context::Context;
use crate::mesh::NodeView;
use crate::testing::{node_view, now, prepared, recipient};

/// A view by which port 8080 takes tokens so.
pub(super) fn view(users: Option<Arc<Users>>, taken: Option<Taken>) -> Arc<NodeView> {
    let base = prepared(&node_view(1));
    let mut ports = base.ports.clone();
    ports[0].users = taken;
    let (engine, spiffe_id) = (base.engine.clone(), base.spiffe_id.clone());
    let (epoch, revision, digest, federated) = (1, 1, [0; 32], FederatedBundles::default());
    let externals = Vec::new();
    Arc::new(NodeView { epoch, revision, digest, spiffe_id, ports, engine, federated, users, externals })
}

pub(super) fn look(view: &Arc<NodeView>, context: &Context, headers: &mut HeaderMap) -> MadeFor {
    let peer = &recipient().spiffe_id;
    MadeFor::look(view, Arrival { port: 8080, peer, identity: None, context }, headers)
}

#[test]
fn what_a_rule_for_one_place_out_of_the_mesh_reads_alone_is_known_of_a_user() {
    let login = Provider::new("login");
    let external = |name: &str| pb::External {
        name: name.to_owned(),
        hosts: vec![format!("{name}.example")],
        ports: vec![pb::ExternalPort { number: 443, protocol: pb::ExternalProtocol::Http.into() }],
        allowed_addresses: Vec::new(),
    };
    let policy = |name: &str, cedar: &str| pb::Policy {
        name: name.to_owned(),
        cedar: cedar.to_owned(),
        ..pb::Policy::default()
    };
    let mut view = node_view(1);
    let Some(pb::view::Body::Node(node)) = &mut view.body else { panic!("no node") };
    node.issuers = vec![pb::JwtIssuer {
        name: "login".to_owned(),
        issuer: login.url.clone(),
        audiences: vec!["shop".to_owned()],
        jwks: login.issuer().jwks,
        user_claim: "sub".to_owned(),
        ..pb::JwtIssuer::default()
    }];
    node.ports[0].users = Some(pb::UserTokens::default());
    let team =
        "permit(principal, action, resource) when { context has user && context.claims.hasTag(\"team\") };";
    node.policies = vec![policy("team", team)];
    let suspended = "forbid(principal, action, resource in External::\"bank\") when \
                     { context has user && context.claims.hasTag(\"suspended\") };";
    node.egress = Some(pb::Egress {
        externals: vec![external("bank"), external("mail")],
        policies: vec![policy("suspended", suspended)],
        ..pb::Egress::default()
    });
    let view = prepared(&view);
    let mut claims = login.claims();
    (claims["suspended"], claims["other"]) = (json!("2026"), json!("x"));
    claims["exp"] = json!(now().as_secs() + 300);
    let users = view.users.as_ref().unwrap();
    let identity = users.verify(&login.token(&claims), &Denied::new(), now()).unwrap();
    let known: Vec<_> = identity.origin.user.claims.keys().map(|name| &**name).collect();
    assert_eq!(known, ["suspended", "team"]);
}

#[tokio::test]
async fn a_token_that_nobody_issues_is_refused_where_tokens_are_taken() {
    let world = World::new();
    let context = context(&world, "orders");
    let unissued = view(None, Some(all()));
    let by_bearer = bearer(&world.token("alice"));
    let refusal = |fields: &[(&str, &str)]| {
        let mut fields = headers(fields);
        look(&unissued, &context, &mut fields).refusal(now())
    };
    assert_eq!(refusal(&[("authorization", &by_bearer)]), Some("user_token_unknown_issuer"));
    assert_eq!(refusal(&[("authorization", "bearer")]), Some("user_token_malformed"));
    let twice = [("authorization", by_bearer.as_str()), ("authorization", "Basic x")];
    assert_eq!(refusal(&twice), Some("user_token_ambiguous"));
    assert_eq!(
        refusal(&[("authorization", "Basic YTpi"), ("x-edge-token", "x")]),
        None,
        "that is the app's own"
    );
    assert_eq!(refusal(&[]), None);
    // A port that takes none does not look at them.
    let mut fields = headers(&[("authorization", &by_bearer)]);
    let made_for = look(&view(None, None), &context, &mut fields);
    assert_eq!((made_for.refusal(now()), fields.len()), (None, 1));
}

#[tokio::test]
async fn a_token_of_an_issuer_that_a_port_does_not_take_is_found_there_and_comes_to_no_app() {
    let world = World::new();
    let context = context(&world, "orders");
    let edge = Provider::new("edge");
    let at_edge = JwtIssuer { token_header: Some("x-edge-token".to_owned()), ..edge.issuer() };
    let both = users(vec![world.login.issuer(), at_edge]);
    let login_alone = Taken { issuers: vec![Name::parse("login").unwrap()], ..all() };
    let view = view(Some(both), Some(login_alone));
    let token = edge.token(&edge.claims());
    let mut fields = headers(&[("x-edge-token", &token), ("x-other", "kept")]);
    let OnBehalfOf::User(origin) = look(&view, &context, &mut fields).on_behalf_of() else { panic!() };
    assert_eq!(origin.user.issuer.as_str(), "edge", "policies are told, and the port denies it");
    assert_eq!(fields.keys().collect::<Vec<_>>(), ["x-other"]);
    let mut forged = headers(&[("x-edge-token", "x")]);
    let refusal = look(&view, &context, &mut forged).refusal(now());
    assert_eq!(refusal, Some("user_token_malformed"), "it is verified as everywhere");
}

#[tokio::test]
async fn whom_nobody_looked_for_is_not_nobody() {
    let world = World::new();
    let context = context(&world, "orders");
    let edge = Provider::new("edge");
    let at_edge = JwtIssuer { token_header: Some("x-edge-token".to_owned()), ..edge.issuer() };
    let both = users(vec![world.login.issuer(), at_edge]);
    let by_login = |required| {
        let taken = Taken { required, ..all() };
        view(Some(Arc::clone(&world.users)), Some(taken))
    };
    let login_alone = Taken { issuers: vec![Name::parse("login").unwrap()], ..all() };
    let mut fields = headers(&[("x-edge-token", &edge.token(&edge.claims()))]);
    let mut made_for = look(&by_login(false), &context, &mut fields);
    assert_eq!(made_for.on_behalf_of(), OnBehalfOf::Nobody);
    let mut again = |view: &Arc<NodeView>| made_for.look_again(view, 8080, &context);
    assert_eq!(again(&by_login(true)), None, "its tokens would stand where there was none");
    assert_eq!(again(&view(None, Some(all()))), None);
    assert_eq!(again(&view(None, None)), None);
    let again = |view: &Arc<NodeView>| {
        let mut made_for = look(&by_login(false), &context, &mut fields.clone());
        let first = made_for.look_again(view, 8080, &context);
        (first, made_for.look_again(view, 8080, &context))
    };
    let unknown = Some(OnBehalfOf::NotLookedAt);
    for taken in [all(), login_alone] {
        let view = view(Some(Arc::clone(&both)), Some(taken));
        assert_eq!(again(&view), (unknown.clone(), unknown.clone()));
    }
    assert_eq!(again(&by_login(true)), (None, None));
}

#[tokio::test]
async fn a_token_that_would_stand_elsewhere_by_another_view_is_none_that_it_takes() {
    let world = World::new();
    let context = context(&world, "orders");
    let of =
        |issuers: &[&JwtIssuer]| view(Some(users(issuers.iter().copied().cloned().collect())), Some(all()));
    let (edge, login) = (Provider::new("edge").issuer(), world.login.issuer());
    let at = |field: &str, issuer: &JwtIssuer| JwtIssuer {
        token_header: Some(field.to_owned()),
        ..issuer.clone()
    };
    let token = world.token("alice");
    let by_bearer = bearer(&token);
    // By the first view, and then by others, one after the other: whether it is for alice, and why it is denied.
    let seen = |line: (&str, &str), first: &[&JwtIssuer], then: &[&[&JwtIssuer]]| {
        let mut made_for = look(&of(first), &context, &mut headers(&[line]));
        assert!(made_for.is_for_user());
        let mut told = made_for.on_behalf_of();
        for view in then {
            told = made_for.look_again(&of(view), 8080, &context).unwrap_or(told);
        }
        assert!(
            matches!(told, OnBehalfOf::User(_)) == matches!(made_for.on_behalf_of(), OnBehalfOf::User(_))
        );
        let word = match told {
            OnBehalfOf::User(_) => "alice",
            OnBehalfOf::Nobody => "nobody",
            OnBehalfOf::NotLookedAt => "anybody",
        };
        (word, made_for.refusal(now()))
    };
    let (in_bearer, in_field) = (("authorization", by_bearer.as_str()), ("x-token", token.as_str()));
    let (in_x, edge_in_x, edge_in_y) = (&at("x-token", &login), &at("x-token", &edge), &at("y-token", &edge));
    let misplaced = ("nobody", Some("user_token_misplaced"));
    assert_eq!(seen(in_bearer, &[&login], &[&[&login]]), ("alice", None));
    // From one place to another, where somebody else's tokens stand, or nobody's.
    assert_eq!(seen(in_bearer, &[&login], &[&[in_x]]), misplaced);
    assert_eq!(seen(in_field, &[in_x], &[&[&login]]), misplaced);
    assert_eq!(seen(in_bearer, &[&login, edge_in_x], &[&[in_x, edge_in_x]]), misplaced);
    assert_eq!(seen(in_bearer, &[&login, &edge], &[&[in_x, &edge]]), misplaced);
    assert_eq!(seen(in_bearer, &[&login], &[&[in_x], &[&login]]), misplaced, "what was cut stays so");
    // Another issuer's tokens where nobody has looked: there may be a second one.
    assert_eq!(seen(in_bearer, &[&login], &[&[&login, edge_in_y]]), ("anybody", None));
    assert_eq!(seen(in_bearer, &[&login], &[&[&login, edge_in_y], &[&login]]), ("anybody", None));
    assert_eq!(seen(in_bearer, &[&login, &edge], &[&[&login, edge_in_x]]), ("anybody", None));
    // Its own goes on to be verified.
    let unknown = ("nobody", Some("user_token_unknown_issuer"));
    assert_eq!(seen(in_bearer, &[&login], &[&[&login, edge_in_y], &[edge_in_y]]), unknown);
    // One place less, or another issuer's tokens where this one's are, change nothing.
    assert_eq!(seen(in_bearer, &[&login, edge_in_x], &[&[&login]]), ("alice", None));
    assert_eq!(seen(in_bearer, &[&login, edge_in_x], &[&[&login, &edge]]), ("alice", None));
}

#[tokio::test]
async fn a_user_of_whom_the_app_cannot_be_told_is_refused_and_that_is_not_remembered() {
    let world = World::new();
    let context = context(&world, "orders");
    let by_login = view(Some(Arc::clone(&world.users)), Some(all()));
    let by_bearer = bearer(&world.token("alice"));
    let look = || look(&by_login, &context, &mut headers(&[("authorization", &by_bearer)]));
    let mut made_for = look();
    assert_eq!(made_for.refusal(now()), None);
    assert_eq!(made_for.handle_by(|_| None), None);
    assert_eq!(made_for.refusal(now()), Some("identity_unavailable"));
    let handles = Handles::default();
    let mut made_for = look();
    let handle = made_for.handle(&handles).unwrap();
    assert_eq!(made_for.refusal(now()), None);
    assert_eq!(look().handle_by(|_| None), Some(handle), "what was made is");
    let cell = OnceLock::new();
    assert_eq!(get_or_make(&cell, || None), None);
    assert_eq!(get_or_make(&cell, || Some(1)), Some(&1));
    assert_eq!(get_or_make(&cell, || Some(2)), Some(&1));
}
