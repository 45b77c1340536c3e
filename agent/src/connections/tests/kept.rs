//! Rules that read more than those before them, and streams that are open already.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::*;

fn upgrade(fields: &[(&str, &str)]) -> Subject {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    let kept = Kept::of("orders", &headers, |name| name == "x-token");
    let (method, target, made_for) = (http::Method::GET, "/".parse().unwrap(), MadeFor::not_looked_for());
    Subject::Request { method, target, is_upgrade: true, gathered: None, made_for, kept }
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_cut_by_rules_that_read_more_where_these_forbid_it_and_nowhere_else() {
    let authorities = Authorities::new();
    let permit = "permit(principal is Node, action, resource);".to_owned();
    let forbid = |condition: &str| {
        format!("forbid(principal, action in Action::\"http\", resource) when {{ {condition} }};")
    };
    let by_field = "context.headers.hasTag(\"x-canary\")";
    let unless_gold =
        "!(context.headers.hasTag(\"x-plan\") && context.headers.getTag(\"x-plan\") == [\"gold\"])";
    let large = "a".repeat(10_000);
    let gold = ("x-plan", "gold");
    for (fields, condition, is_cut) in [
        (&[gold][..], by_field, false),
        (&[gold, ("x-canary", "1")], by_field, true),
        (&[gold, ("x_canary", "1")], by_field, true),
        (&[gold], unless_gold, false),
        (&[("x-plan", "lead")], unless_gold, true),
        (&[gold, gold], unless_gold, false),
        (&[gold, ("x-plan", "é")], unless_gold, true),
        (&[gold], "context.host != \"orders\"", false),
        (&[gold], "context.host == \"orders\"", true),
        (&[("x-token", "gold")], "context.headers.hasTag(\"x-token\")", true),
        (&[("cookie", &large)], by_field, false),
        // It is not known any longer.
        (&[("x-large", &large)], by_field, true),
    ] {
        let view = view_with(&authorities, 1, std::slice::from_ref(&permit));
        let (connections, _enforcing) = enforcing(&authorities, view).await;
        let address = "127.0.0.1:9".parse().unwrap();
        let peer = web(&authorities, HOUR);
        let registered = connections.register(INBOUND, peer, address, None, [1; 32]).unwrap();
        let open =
            |subject| registered.connection().admit(&connections, |_| subject, None, None, Instant::now());
        let (stream, short) = (open(upgrade(fields)), open(get("/")));
        assert!(stream.is_allowed() && short.is_allowed());
        let next = view_with(&authorities, 2, &[permit.clone(), forbid(condition)]);
        connections.apply(Arc::new(Inbound::Open(next))).await;
        assert_eq!(stream.meter().is_cut(), is_cut, "{fields:?} {condition}");
        assert!(short.meter().is_cut(), "of others nothing is kept");
        // What was cut is not taken back, and what was not goes on.
        connections
            .apply(Arc::new(Inbound::Open(view_with(&authorities, 3, std::slice::from_ref(&permit)))))
            .await;
        assert_eq!(stream.meter().is_cut(), is_cut, "{fields:?} {condition}");
    }
}
