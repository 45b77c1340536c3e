//! Rules that read more than those before them, and what is under way already.

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::*;
use crate::users::ByHandle;

const PERMIT: &str = "permit(principal is Node, action, resource);";
const PEER: &str = "127.0.0.1:9";

fn fields(of: &[(&str, &str)]) -> HeaderMap {
    let fields = of.iter().map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        (name, HeaderValue::from_bytes(value.as_bytes()).unwrap())
    });
    fields.collect()
}

fn forbid(condition: &str) -> String {
    format!("forbid(principal, action in Action::\"http\", resource) when {{ {condition} }};")
}

/// Begins a request to `orders` with these fields.
fn begin(connections: &Arc<Connections>, on: &Registered, fields: &HeaderMap) -> Passage {
    let head = Head { path: None, host: "orders", fields };
    let passage = on.connection().admit(connections, |_| get("/"), Some(head), None, Instant::now());
    assert!(passage.is_allowed());
    passage
}

fn register(connections: &Arc<Connections>, peer: &PeerIdentity, number: u8) -> Registered {
    connections.register(INBOUND, peer.clone(), PEER.parse().unwrap(), None, [number; 32]).unwrap()
}

async fn put_in_force(connections: &Connections, view: Arc<NodeView>) {
    connections.apply(Arc::new(Inbound::Open(view))).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_is_cut_by_rules_that_read_more_where_these_forbid_it_and_nowhere_else() {
    let authorities = Authorities::new();
    let permit = PERMIT.to_owned();
    let by_field = "context.headers.hasTag(\"x-canary\")";
    let unless_gold =
        "!(context.headers.hasTag(\"x-plan\") && context.headers.getTag(\"x-plan\") == [\"gold\"])";
    let large = "a".repeat(10_000);
    let gold = ("x-plan", "gold");
    for (sent, condition, is_cut) in [
        (&[gold][..], by_field, false),
        (&[], by_field, false),
        (&[gold, ("x-canary", "1")], by_field, true),
        (&[gold, ("x_canary", "1")], by_field, true),
        (&[gold], unless_gold, false),
        (&[("x-plan", "lead")], unless_gold, true),
        (&[gold, gold], unless_gold, false),
        (&[gold, ("x-plan", "é")], unless_gold, true),
        (&[gold], "context.host != \"orders\"", false),
        (&[gold], "context.host == \"orders\"", true),
        (&[gold], "context.query.hasTag(\"a\")", false),
        (&[("authorization", "Bearer x"), ("cookie", &large)], by_field, false),
        // It is not known any longer.
        (&[("x-large", &large)], by_field, true),
    ] {
        let view = view_with(&authorities, 1, std::slice::from_ref(&permit));
        let (connections, _enforcing) = enforcing(&authorities, view).await;
        let registered = register(&connections, &web(&authorities, HOUR), 1);
        let passage = begin(&connections, &registered, &fields(sent));
        let next = view_with(&authorities, 2, &[permit.clone(), forbid(condition)]);
        put_in_force(&connections, next).await;
        assert_eq!(passage.meter().is_cut(), is_cut, "{sent:?} {condition}");
        // Another field, that nobody read before, beside the same rules.
        let more = forbid("context.headers.hasTag(\"x-later\")");
        put_in_force(&connections, view_with(&authorities, 3, &[permit.clone(), forbid(condition), more]))
            .await;
        // What was cut is not taken back, and what was not goes on.
        put_in_force(&connections, view_with(&authorities, 4, std::slice::from_ref(&permit))).await;
        assert_eq!(passage.meter().is_cut(), is_cut, "{sent:?} {condition}");
        drop(passage);
        assert_eq!(connections.room.taken(), 0, "it is kept no longer than it takes");
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_is_the_same_in_every_spelling_and_with_every_port() {
    let authorities = Authorities::new();
    let (permit, none) = (PERMIT.to_owned(), HeaderMap::new());
    let admins = forbid("context.host == \"admin\"");
    let elsewhere = forbid("context.host != \"orders\"");
    for (sent, is_cut) in [
        ("orders", [false, false]),
        ("Orders:8080", [false, false]),
        ("ADMIN:8080", [true, true]),
        ("cart", [false, true]),
    ] {
        for (rule, is_cut) in [&admins, &elsewhere].into_iter().zip(is_cut) {
            let (connections, _enforcing) =
                enforcing(&authorities, view_with(&authorities, 1, std::slice::from_ref(&permit))).await;
            let registered = register(&connections, &web(&authorities, HOUR), 1);
            let head = Some(Head { path: None, host: sent, fields: &none });
            let passage =
                registered.connection().admit(&connections, |_| get("/"), head, None, Instant::now());
            put_in_force(&connections, view_with(&authorities, 2, &[permit.clone(), rule.clone()])).await;
            assert_eq!(passage.meter().is_cut(), is_cut, "{sent} {rule}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn trailers_say_nothing_that_is_decided_by_since() {
    let authorities = Authorities::new();
    let permit = PERMIT.to_owned();
    let (connections, _enforcing) =
        enforcing(&authorities, view_with(&authorities, 1, std::slice::from_ref(&permit))).await;
    let registered = register(&connections, &web(&authorities, HOUR), 1);
    let passage = begin(&connections, &registered, &HeaderMap::new());
    assert!(!passage.decided_fields().hold("x-canary"));
    let by_field = forbid("context.headers.hasTag(\"x-canary\")");
    put_in_force(&connections, view_with(&authorities, 2, &[permit, by_field])).await;
    assert!(!passage.meter().is_cut() && passage.decided_fields().hold("x_canary"));
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_reads_more_takes_nothing_away() {
    let authorities = Authorities::new();
    let permit = PERMIT.to_owned();
    let (connections, _enforcing) =
        enforcing(&authorities, view_with(&authorities, 1, std::slice::from_ref(&permit))).await;
    let registered = register(&connections, &web(&authorities, HOUR), 1);
    // Nothing is kept of it.
    let passage = registered.connection().admit(&connections, |_| get("/"), None, None, Instant::now());
    let more =
        "permit(principal, action == Action::\"GET\", resource) when { context.headers.hasTag(\"x-a\") };";
    put_in_force(&connections, view_with(&authorities, 2, &[permit, more.to_owned()])).await;
    assert!(!passage.meter().is_cut());
    put_in_force(&connections, view_with(&authorities, 3, &[more.to_owned()])).await;
    assert!(passage.meter().is_cut(), "nobody knows whether it holds");
}

#[tokio::test(start_paused = true)]
async fn heads_are_not_read_again_each_second_by_the_same_rules() {
    let authorities = Authorities::new();
    let timed = permit("/", &format!("context.time < datetime(\"{:.3}\")", now().plus(HOUR)));
    let by_field = forbid("context.headers.hasTag(\"x-canary\")");
    let (connections, _enforcing) =
        enforcing(&authorities, view_with(&authorities, 1, std::slice::from_ref(&timed))).await;
    let registered = register(&connections, &web(&authorities, HOUR), 1);
    let passage = begin(&connections, &registered, &HeaderMap::new());
    let gathered = || registered.connection().gathered(passage.key).unwrap();
    let both = [timed, by_field];
    put_in_force(&connections, view_with(&authorities, 2, &both)).await;
    let before = gathered();
    connections.review_changing().await;
    assert_eq!(registered.connection().changing.load(Ordering::Relaxed), 1);
    assert!(Arc::ptr_eq(&before, &gathered()));
    put_in_force(&connections, view_with(&authorities, 3, &both)).await;
    assert!(!Arc::ptr_eq(&before, &gathered()), "another view may want something else");
    assert!(!passage.meter().is_cut());
}

#[tokio::test(start_paused = true)]
async fn nor_are_those_of_what_leaves_the_mesh() {
    let authorities = Authorities::new();
    let connections = connections(&authorities);
    let ports = [(80, pb::ExternalProtocol::Http)];
    let until = now().plus(HOUR);
    let timed =
        format!("permit(principal, action, resource) when {{ context.time < datetime(\"{until:.3}\") }};");
    let both = format!("{timed}\n{}", forbid("context.headers.hasTag(\"x-canary\")"));
    put_in_force(&connections, leaving::view(1, &ports, &timed)).await;
    let to = Destination { host: "api.example".into(), port: 80, app: PEER.parse().unwrap() };
    let none = HeaderMap::new();
    let head = Some((Head { path: None, host: "api.example", fields: &none }, ByHandle::nobody()));
    let metrics = connections.context().metrics.unknown_service();
    let leave = connections.leave(to, |_, _| get("/"), head, metrics, Instant::now());
    let gathered = || leave.subject().and_then(|subject| subject.gathered().cloned()).unwrap();
    put_in_force(&connections, leaving::view(2, &ports, &both)).await;
    let before = gathered();
    connections.review_changing_leaving().await;
    assert!(Arc::ptr_eq(&before, &gathered()));
    put_in_force(&connections, leaving::view(3, &ports, &both)).await;
    assert!(!Arc::ptr_eq(&before, &gathered()));
    assert!(!leave.meter().is_cut());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_fills_the_room_takes_it_from_nobody_else() {
    let authorities = Authorities::new();
    let (permit, by_field) = (PERMIT.to_owned(), forbid("context.headers.hasTag(\"x-canary\")"));
    let (connections, _enforcing) =
        enforcing(&authorities, view_with(&authorities, 1, std::slice::from_ref(&permit))).await;
    let large = fields(&[("x-large", &"a".repeat(8_000))]);
    let peer = web(&authorities, HOUR);
    let cart = authorities.identity("mesh/shop/node/cart", around(HOUR)).svid;
    let cart = verify_svid(cart.chain(), authorities.issuing.root_bundle(), now(), Usage::Client).unwrap();
    let all = |passages: &[Passage]| passages.iter().filter(|passage| !passage.meter().is_cut()).count();
    // One connection, and then as many as one identity likes.
    let first = register(&connections, &peer, 0);
    let on_one: Vec<_> = (0..40).map(|_| begin(&connections, &first, &large)).collect();
    let of_one = 256 * 1024 / 8_100;
    assert_eq!(connections.room.taken() / 8_000, of_one);
    let others: Vec<_> = (1..80).map(|number| register(&connections, &peer, number)).collect();
    let flood: Vec<_> =
        others.iter().flat_map(|on| (0..of_one).map(|_| begin(&connections, on, &large))).collect();
    let taken = connections.room.taken();
    assert!((8_000_000..=8 * 1024 * 1024).contains(&taken), "{taken} is half");
    let calm = register(&connections, &cart, 200);
    let honest: Vec<_> = (0..of_one).map(|_| begin(&connections, &calm, &large)).collect();
    put_in_force(&connections, view_with(&authorities, 2, &[permit, by_field])).await;
    assert_eq!((all(&on_one), all(&honest)), (of_one, of_one));
    let alive = all(&flood);
    assert!(alive > 900 && alive < flood.len(), "of {} {alive} are known", flood.len());
    drop((on_one, flood, honest));
    assert_eq!(connections.room.taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_leaves_the_mesh_is_decided_by_what_is_kept_of_it() {
    let authorities = Authorities::new();
    let connections = connections(&authorities);
    let permit = "permit(principal, action, resource);";
    let by_field = "forbid(principal, action in Action::\"http\", resource) when { context.headers.hasTag(\"x-canary\") };";
    let by_host =
        "forbid(principal, action in Action::\"http\", resource) when { context.host != \"api.example\" };";
    let by_user = "forbid(principal, action in Action::\"http\", resource) when { context has user };";
    let canary = [("x-canary", "1")];
    for (sent, rule, is_cut) in [
        (&[][..], by_field, false),
        (&canary, by_field, true),
        (&canary, by_host, false),
        (&[], by_user, false),
    ] {
        let ports = [(80, pb::ExternalProtocol::Http)];
        put_in_force(&connections, leaving::view(1, &ports, permit)).await;
        let to = Destination { host: "api.example".into(), port: 80, app: PEER.parse().unwrap() };
        let mut headers = fields(sent);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        let head = Head { path: None, host: "api.example", fields: &headers };
        let (method, target, made) = (http::Method::GET, "/".parse().unwrap(), MadeFor::not_looked_for());
        let subject = Subject::Request { method, target, is_upgrade: true, gathered: None, made_for: made };
        let metrics = connections.context().metrics.unknown_service();
        let head = Some((head, ByHandle::nobody()));
        let leave = connections.leave(to, |_, _| subject, head, metrics, Instant::now());
        assert!(leave.is_allowed(), "{}", leave.reason());
        assert!(connections.room.taken() > 0);
        put_in_force(&connections, leaving::view(2, &ports, &format!("{permit}\n{rule}"))).await;
        assert_eq!(leave.meter().is_cut(), is_cut, "{sent:?} {rule}");
        assert_eq!(leave.decided_fields().hold("x-canary"), rule == by_field);
        drop(leave);
        assert_eq!(connections.room.taken(), 0);
    }
}

#[test]
fn what_is_kept_is_not_printed() {
    let authorities = Authorities::new();
    let connections = connections(&authorities);
    let secret = fields(&[("x-api-key", "hunter2")]);
    let kept = crate::connections::kept::Kept::of(
        &Head { path: None, host: "orders", fields: &secret },
        &connections.rules(),
    );
    let told = format!("{kept:?}");
    assert!(told.contains("size: 28") && !told.contains("104, 117"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
}

/// A view in which `login` keeps its tokens in this field, or as a bearer's.
fn with_tokens_in(
    authorities: &Authorities,
    revision: u64,
    field: Option<&str>,
    policies: &[String],
) -> Arc<NodeView> {
    view_changed(authorities, revision, |node| {
        node.policies = named(policies);
        node.issuers = vec![pb::JwtIssuer {
            name: "login".to_owned(),
            issuer: "https://login.example".to_owned(),
            audiences: vec!["shop".to_owned()],
            jwks: b"{\"keys\":[]}".to_vec(),
            user_claim: "sub".to_owned(),
            token_header: field.unwrap_or_default().to_owned(),
            ..pb::JwtIssuer::default()
        }];
    })
}

#[tokio::test(start_paused = true)]
async fn of_a_head_that_is_not_kept_no_token_is_read_and_nothing_else_is_lost() {
    let authorities = Authorities::new();
    let by_plan = "permit(principal is Node, action == Action::\"GET\", resource) when { context.headers.hasTag(\"x-plan\") };";
    let policies = [by_plan.to_owned()];
    for (then, now, is_cut) in [
        (None, None, false),
        (None, Some("x-other"), false),
        (Some("x-other"), Some("x-plan"), true),
        // What stood in it then was no header field for policies, and nobody knows it now.
        (Some("x-plan"), None, true),
    ] {
        let view = with_tokens_in(&authorities, 1, then, &policies);
        let (connections, _enforcing) = enforcing(&authorities, Arc::clone(&view)).await;
        let registered = register(&connections, &web(&authorities, HOUR), 1);
        let gathered = view.engine.wanted(8080).unwrap().gather("", [("x-plan", &b"gold"[..])]);
        let subject = request(http::Method::GET, "/", Some(gathered));
        let passage = registered.connection().admit(&connections, |_| subject, None, None, Instant::now());
        assert!(passage.is_allowed());
        put_in_force(&connections, with_tokens_in(&authorities, 2, now, &policies)).await;
        assert_eq!(passage.meter().is_cut(), is_cut, "{then:?} {now:?}");
        let fields = passage.decided_fields();
        assert!(fields.hold("x-plan"));
        assert_eq!(fields.hold("x_other"), then == Some("x-other") || now == Some("x-other"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_lasts_holds_on_to_no_rules() {
    let authorities = Authorities::new();
    let first = view_with(&authorities, 1, &[PERMIT.to_owned()]);
    let former = Arc::downgrade(&first);
    let (connections, _enforcing) = enforcing(&authorities, first).await;
    let registered = register(&connections, &web(&authorities, HOUR), 1);
    let passage = begin(&connections, &registered, &HeaderMap::new());
    let open = |view| {
        connections.context.mesh.gate.open(view);
        let mut applied = connections.context.mesh.applied.subscribe();
        async move {
            let is_there = |inbound: &Option<Arc<Inbound>>| matches!(inbound.as_deref(), Some(Inbound::Open(view)) if view.revision > 1);
            applied.wait_for(is_there).await.unwrap();
        }
    };
    open(view_with(&authorities, 2, &[PERMIT.to_owned()])).await;
    assert!(!passage.meter().is_cut());
    assert!(former.upgrade().is_none(), "the request that it let in is still under way");
}

#[tokio::test(start_paused = true)]
async fn bytes_beyond_ascii_in_trailers_are_for_the_rules_of_now() {
    let authorities = Authorities::new();
    let taking = |revision, forwards| {
        view_changed(&authorities, revision, |node| {
            node.policies = named(&[PERMIT.to_owned()]);
            node.ports[0].forward_obs_text = forwards;
        })
    };
    let (connections, _enforcing) = enforcing(&authorities, taking(1, true)).await;
    let registered = register(&connections, &web(&authorities, HOUR), 1);
    let passage = begin(&connections, &registered, &HeaderMap::new());
    assert!(passage.takes_obs_text());
    put_in_force(&connections, taking(2, false)).await;
    assert!(!passage.takes_obs_text());
}
