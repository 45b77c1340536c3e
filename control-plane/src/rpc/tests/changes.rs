//! Resources over the admin API, and questions about them.

use hauberk_proto::admin::v1::policies_client::PoliciesClient;
use hauberk_proto::admin::v1::resources_client::ResourcesClient;
use hauberk_proto::admin::v1::{
    ApplyRequest, CheckRequest, DeleteRequest, DeleteTarget, DiffRequest, GetRequest, ListRequest, Outcome,
    Outlook, Role, WatchEvent, WatchRequest, WatchResponse, WhatCanRequest, WhoCanRequest,
};
use hauberk_proto::agent::v1::{HeaderLines, Verdict};
use hauberk_proto::mesh::v1::{Kind, ResourceRef};
use tonic::{Status, Streaming};
use tonic_types::StatusExt;

use super::*;
use crate::resources::MAX_BATCH;

async fn admin(running: &Running, name: &str, roles: &[Role]) -> Channel {
    let (key, csr) = request();
    let roles = roles.iter().map(|role| i32::from(*role)).collect();
    let asked = IssueCredentialRequest { name: name.into(), roles, csr };
    let credential = issue_through_socket(&running.data_dir().join("admin.sock"), asked).await.unwrap();
    let connector = somebody(&key, &credential.chain, &credential.roots);
    channel(running.addresses.admin, connector).await.unwrap()
}

fn apply(resources: Vec<Resource>) -> ApplyRequest {
    ApplyRequest { resources, validate_only: false }
}

fn named(kind: Kind, name: &str) -> ResourceRef {
    ResourceRef { kind: kind.into(), mesh: "shop".into(), name: name.into() }
}

fn delete(kind: Kind, name: &str) -> DeleteRequest {
    let target = DeleteTarget { r#ref: Some(named(kind, name)), resource_version: 0, ignore_missing: false };
    DeleteRequest { targets: vec![target], validate_only: false }
}

/// `field: description` of each violation.
fn violations(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    violations.iter().map(|violation| format!("{}: {}", violation.field, violation.description)).collect()
}

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resources_are_applied_read_listed_and_deleted() {
    let (running, _) = start().await;
    let mut client = ResourcesClient::new(admin(&running, "olga", &[Role::Owner]).await);
    let applied = client.apply(apply(resources::shop())).await.unwrap().into_inner();
    let outcomes: Vec<_> = applied.resources.iter().map(|applied| applied.outcome()).collect();
    use Outcome::{Configured, Created, Unchanged};
    // The mesh stood there without naming itself.
    assert_eq!(outcomes, [Configured, Created, Configured, Created, Created]);
    let again = client.apply(apply(resources::shop())).await.unwrap().into_inner();
    assert!(again.resources.iter().all(|applied| applied.outcome() == Unchanged));
    assert_eq!(again.revision, applied.revision);
    assert!(applied.resources[2].previous.is_some());

    let get = |name: &str| GetRequest { r#ref: Some(named(Kind::VirtualNode, name)) };
    let web = client.get(get("web")).await.unwrap().into_inner().resource.unwrap();
    assert_eq!(Some(&web), applied.resources[1].resource.as_ref());
    let missing = client.get(get("wbe")).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    assert_eq!(missing.message(), "VirtualNode shop/wbe does not exist; did you mean \"web\"?");
    assert_eq!(client.get(GetRequest { r#ref: None }).await.unwrap_err().code(), Code::InvalidArgument);

    let mut listed = Vec::new();
    let mut asked = ListRequest { page_size: 2, ..ListRequest::default() };
    loop {
        let page = client.list(asked.clone()).await.unwrap().into_inner();
        assert_eq!(page.revision, applied.revision);
        assert!(page.resources.len() <= 2);
        listed.extend(page.resources.into_iter().map(|resource| resource.name));
        asked.page_token = page.next_page_token;
        if asked.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, ["shop", "allow-web-to-orders", "orders", "web", "orders"]);
    for wrong in [
        ListRequest { page_size: -1, ..ListRequest::default() },
        ListRequest { page_token: "nonsense".into(), ..ListRequest::default() },
        ListRequest { kind: 99, ..ListRequest::default() },
    ] {
        assert_eq!(client.list(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let one =
        ListRequest { kind: Kind::VirtualService.into(), mesh: "shop".into(), ..ListRequest::default() };
    assert_eq!(client.list(one).await.unwrap().into_inner().resources.len(), 1);
    let none = ListRequest { labels: [("a".to_owned(), "b".to_owned())].into(), ..ListRequest::default() };
    assert!(client.list(none).await.unwrap().into_inner().resources.is_empty());

    let used = client.delete(delete(Kind::VirtualNode, "orders")).await.unwrap_err();
    assert_eq!((used.code(), reason(&used).as_str()), (Code::FailedPrecondition, "IN_USE"));
    assert!(violations(&used)[0].starts_with("targets[0]: VirtualNode shop/orders is still used by"));
    assert_eq!(client.delete(delete(Kind::Policy, "none")).await.unwrap_err().code(), Code::NotFound);
    let gone = client.delete(delete(Kind::Policy, "allow-web-to-orders")).await.unwrap().into_inner();
    assert_eq!((gone.resources.len(), gone.revision), (1, applied.revision + 1));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_told_by_field() {
    let (running, _) = start().await;
    let mut client = ResourcesClient::new(admin(&running, "olga", &[Role::Owner]).await);
    let batch = vec![
        resources::node("ok", []),
        resources::node("web", [resources::listener(0, "htp")]),
        resources::policy("p", "permit(principal is Node, action, resource)"),
    ];
    let refused = client.apply(apply(batch)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID"));
    let told = violations(&refused);
    assert_eq!(
        told[..2],
        [
            "resources[1].spec.listeners[0].portMapping.port: 0 is not a port number from 1 to 65535",
            "resources[1].spec.listeners[0].portMapping.protocol: \"htp\" is not known; did you mean \"http\"?",
        ]
    );
    assert!(told[2].starts_with("resources[2].spec.cedar: 1:"), "{told:?}");

    let many: Vec<_> =
        (0..1_000).map(|n| resources::node(&format!("n{n}"), [resources::listener(0, "x")])).collect();
    let refused = client.apply(apply(many)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "the answer still reaches the client");
    let told = violations(&refused);
    assert!(told.len() > 20, "{}", told.len());
    assert!(told.last().unwrap().ends_with("more problems, not listed here"), "{told:?}");

    let stale = resources::at_version(resources::mesh("shop"), 77);
    assert_eq!(client.apply(apply(vec![stale])).await.unwrap_err().code(), Code::Aborted);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_role_changes_its_own() {
    let (running, _) = start().await;
    let mut viewer = ResourcesClient::new(admin(&running, "vera", &[Role::Viewer]).await);
    let mut editor = ResourcesClient::new(admin(&running, "edith", &[Role::Editor]).await);
    let mut policies = ResourcesClient::new(admin(&running, "paul", &[Role::PolicyAdmin]).await);
    let denied = viewer.apply(apply(vec![resources::node("new", [])])).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    viewer.list(ListRequest::default()).await.unwrap();

    let mut shop = resources::shop();
    let permit = shop.pop().unwrap();
    editor.apply(apply(shop)).await.unwrap();
    let denied = editor.apply(apply(vec![permit.clone()])).await.unwrap_err();
    assert_eq!((denied.code(), reason(&denied).as_str()), (Code::PermissionDenied, "ROLE_NEEDED"));
    policies.apply(apply(vec![permit])).await.unwrap();
    let wider = vec![resources::service("orders", "orders", None)];
    let denied = editor.apply(apply(wider.clone())).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    assert!(
        violations(&denied)[0]
            .starts_with("resources[0].spec.provider: this places port 9090 of orders under")
    );
    let warnings = policies.apply(apply(wider)).await.unwrap().into_inner().warnings;
    assert!(warnings[0].contains("named by allow-web-to-orders"), "{warnings:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_tells_what_is_and_what_changes() {
    let (running, _) = start().await;
    let channel = admin(&running, "olga", &[Role::Owner]).await;
    let mut client = ResourcesClient::new(channel);
    let asked = WatchRequest { kind: Kind::VirtualNode.into(), mesh: "shop".into() };
    let mut events = client.watch(asked).await.unwrap().into_inner();
    assert_eq!(next(&mut events).await, (WatchEvent::Applied, "orders".to_owned()));
    assert_eq!(next(&mut events).await, (WatchEvent::Synced, String::new()));
    client.apply(apply(resources::shop())).await.unwrap();
    assert_eq!(next(&mut events).await, (WatchEvent::Applied, "orders".to_owned()));
    assert_eq!(next(&mut events).await, (WatchEvent::Applied, "web".to_owned()));
    client.delete(delete(Kind::VirtualNode, "web")).await.unwrap();
    assert_eq!(next(&mut events).await, (WatchEvent::Deleted, "web".to_owned()));
    running.stop().await;
    assert_eq!(events.message().await.unwrap_err().code(), Code::Unavailable);
}

async fn next(events: &mut Streaming<WatchResponse>) -> (WatchEvent, String) {
    let event = tokio::time::timeout(DEADLINE, events.message()).await.unwrap().unwrap().unwrap();
    (event.event(), event.resource.map(|resource| resource.name).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_is_answered_by_what_is_stored() {
    let (running, _) = start().await;
    let channel = admin(&running, "olga", &[Role::Owner]).await;
    let mut shop = resources::shop();
    shop.push(resources::node("queue", [resources::listener(5672, "tcp"), resources::listener(1, "grpc")]));
    ResourcesClient::new(channel.clone()).apply(apply(shop)).await.unwrap();
    let mut client = PoliciesClient::new(channel);
    let ask = |caller: &str, target: &str, port, method: &str, path: &str| CheckRequest {
        mesh: "shop".into(),
        caller: caller.into(),
        target: target.into(),
        port,
        method: method.into(),
        path: path.into(),
        ..CheckRequest::default()
    };
    let mut check = async |asked| {
        let answered = client.check(asked).await?.into_inner();
        Ok::<_, Status>(answered.decisions.into_iter().next().unwrap())
    };
    let allowed = check(ask("web", "orders", 0, "GET", "/orders/1")).await.unwrap();
    let decision = allowed.decision.unwrap();
    assert_eq!((decision.verdict(), decision.reason.as_str()), (Verdict::Allow, "permitted"));
    assert_eq!(decision.policies, ["allow-web-to-orders"]);
    assert_eq!(
        (decision.port, decision.service.as_str(), decision.path.as_str()),
        (8080, "orders", "/orders/1")
    );
    assert_eq!(decision.route, "*undeclared");

    let denied = check(ask("orders", "orders", 8080, "", "")).await.unwrap();
    let decision = denied.decision.clone().unwrap();
    assert_eq!((decision.verdict(), decision.reason.as_str()), (Verdict::Deny, "no_policy_matched"));
    assert!(denied.policies[0].difference.starts_with("principal: "), "{denied:?}");
    assert!(denied.suggestion.starts_with("hauberk allow orders orders"), "{}", denied.suggestion);
    let id = "spiffe://shop.local/admin/olga";
    let nobody = check(ask(id, "web", 0, "GET", "/")).await.unwrap().decision.unwrap();
    assert_eq!(nobody.reason, "not_a_principal");
    let rpc = check(ask("web", "queue", 1, "", "shop.Queue/Put")).await.unwrap().decision.unwrap();
    assert_eq!((rpc.action.as_str(), rpc.path.as_str()), ("call", "shop.Queue/Put"));
    let lines = |name: &str| HeaderLines { name: name.into(), values: vec!["c".into()], unreadable: false };
    let mut odd = ask("web", "orders", 0, "GET", "/orders/1");
    odd.headers = vec![lines("x-b"), lines("a b")];
    assert!(violations(&check(odd).await.unwrap_err())[0].contains("\"a b\" is no name of a header field"));
    let rpc = check(ask("web", "queue", 0, "", "shop.Queue/Put")).await.unwrap().decision.unwrap();
    assert_eq!((rpc.action.as_str(), rpc.port), ("call", 1), "no other port takes it");
    let stream = check(ask("web", "queue", 5672, "", "")).await.unwrap().decision.unwrap();
    assert_eq!((stream.action.as_str(), stream.verdict()), ("connect", Verdict::Deny));

    for (asked, code, told) in [
        (ask("wbe", "orders", 0, "", ""), Code::NotFound, "did you mean \"web\"?"),
        (ask("web", "oders", 0, "", ""), Code::NotFound, "did you mean \"orders\"?"),
        (
            ask("web", "queue", 0, "", ""),
            Code::InvalidArgument,
            "port: queue has several ports, 1, 5672: name one",
        ),
        (
            ask("web", "orders", 9090, "", ""),
            Code::InvalidArgument,
            "port: orders has no port 9090; it has 8080",
        ),
        (ask("web", "queue", 5672, "GET", ""), Code::InvalidArgument, "method: a tcp port has no methods"),
        (ask("web", "orders", 0, "GET", "/a/%2e%2e%2fb"), Code::InvalidArgument, "path: "),
        (ask("", "orders", 0, "", ""), Code::InvalidArgument, "caller: a name must not be empty"),
    ] {
        let refused = check(asked).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(told), "{refused}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_large_comes_in_pages_of_one_revision() {
    let (running, _) = start().await;
    let channel = admin(&running, "olga", &[Role::Owner]).await;
    let mut client = ResourcesClient::new(channel.clone());
    let mut shop = resources::shop();
    let nodes =
        (0..120).map(|number| resources::node(&format!("n{number}"), [resources::listener(80, "http")]));
    shop.extend(nodes);
    client.apply(apply(shop)).await.unwrap();
    let mut policies = PoliciesClient::new(channel);
    let mut asked = WhatCanRequest {
        mesh: "shop".into(),
        caller: "web".into(),
        include_never: true,
        page_token: String::new(),
    };
    let (mut found, mut pages, mut tokens) = (Vec::new(), 0, Vec::new());
    loop {
        let page = policies.what_can(asked.clone()).await.unwrap().into_inner();
        found.extend(page.prospects);
        pages += 1;
        if page.next_page_token.is_empty() {
            break;
        }
        tokens.push(page.next_page_token.clone());
        asked.page_token = page.next_page_token;
    }
    assert!(pages > 2, "{pages}");
    // Each method and `upgrade` and `other`, on the route of all that is undeclared; `orders` and `web` too.
    let of_numbered = found.iter().filter(|prospect| prospect.node.contains("/node/n")).count();
    assert_eq!(of_numbered, 120 * 9);
    let permitted: Vec<_> = found.iter().filter(|prospect| prospect.outlook() == Outlook::Always).collect();
    assert!(!permitted.is_empty() && permitted.iter().all(|prospect| prospect.node.ends_with("/orders")));
    let distinct: std::collections::BTreeSet<_> =
        found.iter().map(|one| (&one.node, one.port, &one.action, &one.route)).collect();
    assert_eq!(distinct.len(), found.len(), "no cell is told twice");

    let everybody = WhoCanRequest {
        mesh: "shop".into(),
        target: "orders".into(),
        include_never: true,
        ..WhoCanRequest::default()
    };
    // What no request has for a path is refused, as `allow` refuses it; of gRPC it is a method's name.
    for (method, path, is_good) in [
        ("GET", "orders/1", false),
        ("GET", "/orders/1", true),
        ("", "shop.Orders/Get", true),
        ("call", "shop.Orders/Get", true),
    ] {
        let asked = WhoCanRequest { method: method.into(), path: path.into(), ..everybody.clone() };
        let told = policies.who_can(asked).await;
        assert_eq!(told.is_ok(), is_good, "{method} {path}: {told:?}");
    }
    let of_web = WhoCanRequest { caller: "web".into(), ..everybody.clone() };
    let told = policies.who_can(of_web).await.unwrap().into_inner();
    assert!(
        !told.prospects.is_empty() && told.prospects.iter().all(|one| one.caller.ends_with("/node/web")),
        "{told:?}"
    );
    let told = policies.who_can(everybody).await.unwrap().into_inner();
    let others: Vec<_> = told.prospects.iter().filter(|prospect| prospect.stands_for_others).collect();
    assert!(
        !others.is_empty()
            && others.iter().all(|prospect| prospect.caller == "spiffe://shop.local/workload/")
    );

    client.apply(apply(vec![resources::node("late", [])])).await.unwrap();
    let stale = WhatCanRequest { page_token: tokens[0].clone(), ..asked.clone() };
    assert_eq!(policies.what_can(stale).await.unwrap_err().code(), Code::Aborted);
    let malformed = WhatCanRequest { page_token: "1.x".into(), ..asked };
    assert_eq!(policies.what_can(malformed).await.unwrap_err().code(), Code::InvalidArgument);

    // A draft that would be refused is refused here too, with its fields.
    let broken = resources::policy("broken", "permit(principal, action, resource);");
    let draft = |resources| DiffRequest { resources, mesh: "shop".into(), ..DiffRequest::default() };
    let refused = policies.diff(draft(vec![broken])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let widened = resources::policy(
        "wide",
        "permit(principal is Node, action in Action::\"http\", resource in Node::\"n0\");",
    );
    let diff = policies.diff(draft(vec![widened])).await.unwrap().into_inner();
    assert!(diff.differences.iter().all(|one| one.after.as_ref().unwrap().node.ends_with("/n0")));
    assert_eq!(diff.differences.len() % 9, 0);
    assert!(diff.differences.len() > 120 * 9, "{}", diff.differences.len());

    // A whole folder is compared.
    let text = "permit(principal == Node::\"n1\", action == Action::\"GET\", resource in Node::\"n0\");";
    let many =
        |count: usize| (0..count).map(|number| resources::policy(&format!("q{number}"), text)).collect();
    // What is taken away is named apart, and counted.
    let without = |name: &str| DiffRequest { removed: vec![named(Kind::Policy, name)], ..draft(Vec::new()) };
    assert_eq!(policies.diff(draft(Vec::new())).await.unwrap().into_inner().removed, 0);
    let refused = policies.diff(without("none")).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert_eq!(violations(&refused), ["removed[0]: Policy shop/none does not exist"]);
    let diff = policies.diff(draft(many(1_001))).await.unwrap().into_inner();
    assert!(!diff.differences.is_empty() && diff.next_page_token.is_empty());
    let refused = policies.diff(draft(many(MAX_BATCH + 1))).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "BATCH_TOO_LARGE"));
    assert!(refused.message().contains("at most 10000 resources") && refused.message().contains("has 10001"));
    running.stop().await;
}
