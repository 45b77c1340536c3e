//! Labels of nodes: who has the one that a policy asks for may do what it permits, for as long as the admin says so.

use std::{
    io::{Read, Write},
    time::Duration,
};

use hauberk_integration_tests::{AgentOptions, eventually, get};
use http::Request;
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::{
    client::http2,
    shop::{self, PATIENCE, get_until},
    streaming_app::{StreamingApp, empty},
    tcp::open_echo,
    tcp_app::TcpApp,
};

const BY_TEAM: &str = "permit(principal is Node, action, resource) when { principal.hasTag(\"team\") && \
                       principal.getTag(\"team\") == \"checkout\" };";

/// A caller with these labels.
fn node(name: &str, labels: &str) -> String {
    format!("kind: VirtualNode\nmesh: shop\nname: {name}\nlabels: {{{labels}}}\nspec: {{}}\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_loses_a_label_is_cut_off_and_the_others_go_on() {
    let mesh = shop::open();
    let callers = [node("web", "team: checkout"), node("intruder", "team: checkout, room: '1'")];
    mesh.apply(&callers.join("---\n"));
    shop::set_policy(&mesh, "by-team", BY_TEAM);
    let (app, echo) = (StreamingApp::start(), TcpApp::echo());
    let _orders = shop::orders(&mesh, app.address());
    let _redis = shop::redis(&mesh, echo.address());
    let calls = || AgentOptions::default().tcp("cache:6379");
    let (web, intruder) = (mesh.agent("web", calls()), mesh.agent("intruder", calls()));
    get_until(&web, "orders", "/", 200);
    get_until(&intruder, "orders", "/", 200);
    let drip = || Request::get("http://orders-h2/drip").body(empty()).unwrap();
    let mut clients = (http2(web.outbound()).await, http2(intruder.outbound()).await);
    let mut cut = clients.0.send_request(drip()).await.unwrap();
    let mut kept = clients.1.send_request(drip()).await.unwrap();
    cut.frame().await.unwrap().unwrap();
    let mut streams = [&web, &intruder].map(|agent| open_echo(agent.tcp("cache:6379")));

    let moved =
        mesh.hauberk_with_input(&["apply", "-f", "-", "--wait=20s"], &node("web", "team: stock")).ok();
    let told = "this changes the label \"team\" of virtual node web from \"checkout\" to \"stock\"; the label is read by by-team";
    assert!(moved.stderr.contains(told), "{moved:?}");
    // It has returned: nothing that is sent from here on passes.
    let [of_web, of_intruder] = &mut streams;
    let passes = of_web.write_all(b"!").is_ok() && of_web.read(&mut [0]).is_ok_and(|read| read > 0);
    assert!(!passes, "web's stream is cut");
    of_intruder.write_all(b"!").unwrap();
    of_intruder.read_exact(&mut [0]).unwrap();
    let end = async {
        while let Some(frame) = cut.frame().await {
            if frame.is_err() {
                return;
            }
        }
    };
    timeout(PATIENCE, end).await.expect("what web had open is cut");
    for _ in 0..20 {
        let frame = timeout(Duration::from_secs(15), kept.frame()).await.unwrap();
        frame.expect("who keeps the label goes on").unwrap();
    }
    let denied = get(web.outbound(), "orders", "/").unwrap();
    assert_eq!(denied.status, 403);
    assert_eq!(get(intruder.outbound(), "orders", "/").unwrap().status, 200);
    let told = mesh.hauberk(&["explain", denied.header("hauberk-decision").unwrap()]).ok().stdout;
    assert!(told.contains("principal.getTag(\"team\")") && told.contains("\"stock\""), "{told}");
    assert_eq!(mesh.hauberk(&["can", "web", "orders", "GET", "/"]).code, 1);
    mesh.hauberk(&["can", "intruder", "orders", "GET", "/"]).ok();

    // What a draft would open is told by what is recorded, once agents have told it.
    let back = node("web", "team: checkout");
    eventually("the draft lets web in again", PATIENCE, || {
        let told = mesh.hauberk_with_input(&["simulate", "-f", "-"], &back);
        told.stdout.contains("web").then_some(())
    });
    mesh.hauberk_with_input(&["apply", "-f", "-", "--wait=20s"], &back).ok();
    assert_eq!(get(web.outbound(), "orders", "/").unwrap().status, 200);
}

#[test]
fn what_asks_for_labels_wrongly_is_refused_or_warned_of() {
    let mesh = shop::open();
    mesh.apply(&node("web", "team: checkout"));
    let policy = |condition: &str| {
        format!(
            "kind: Policy\nmesh: shop\nname: p\nspec:\n  cedar: 'permit(principal is Node, action, resource) when {{ {condition} }};'\n"
        )
    };
    let apply = |condition: &str| mesh.hauberk_with_input(&["apply", "-f", "-"], &policy(condition));
    let refused = apply("principal.getTag(\"team\") == \"checkout\"");
    assert!(refused.code != 0 && refused.stderr.contains("<stdin>:5:"), "{refused:?}");
    let refused = apply("principal.hasTag(context.peer.trustDomain)");
    assert!(refused.code != 0, "{refused:?}");
    let warned = apply("principal.hasTag(\"taem\") && principal.getTag(\"taem\") == \"checkout\"").ok();
    let told = "no virtual node or gateway has the label \"taem\"; did you mean \"team\"?";
    assert!(warned.stderr.contains(told), "{warned:?}");
}
