use hauberk_proto::mesh::v1::{
    AttestEnrollment, AttestRule, EnrollmentSpec, ExternalPort, ExternalServiceSpec, JoinTokenEvidence,
    Metadata, WorkloadEnrollment, attest_enrollment::Evidence, resource::Spec,
};

use futures_util::FutureExt;
use hauberk_proto::convert::features;

use super::*;
use crate::audit::{Filter, Outcome as AuditOutcome, Record};
use crate::bulkhead::MOST_CHANGES_OF_ONE;
use crate::registry::keys;
use crate::resources::Kind;
use crate::resources::testing::*;

async fn records(scratch: &Scratch) -> Vec<Record> {
    let filter = Filter { action: "resources.".into(), ..Filter::default() };
    let audit = Audit::open(Arc::clone(&scratch.store), scratch.clock.clone()).await.unwrap();
    audit.list(&filter, None, 100).await.unwrap().records
}

fn metadata(change: &AppliedChange) -> &Metadata {
    change.resource.metadata.as_ref().unwrap()
}

fn target(kind: Kind, name: &str) -> Target {
    let parse = |text| hauberk_identity::Name::parse(text).unwrap();
    let key = ResourceKey { kind, mesh: parse("shop"), name: parse(name) };
    Target { key, resource_version: 0, ignore_missing: false }
}

#[tokio::test]
async fn a_change_is_stored_numbered_and_recorded() {
    let scratch = Scratch::new().await;
    let before = scratch.store.revision().await.unwrap();
    let applied = scratch.apply(&shop()).await;
    assert_eq!(applied.revision.0, before.0 + 1);
    assert_eq!(scratch.store.revision().await.unwrap(), applied.revision);
    for change in &applied.changes {
        let metadata = metadata(change);
        assert_eq!((metadata.resource_version, metadata.revision), (1, applied.revision.0));
        assert_eq!(metadata.uid.len(), 36);
        assert_eq!(metadata.created_at, Some(timestamp(scratch.clock.now())));
    }
    let stored = scratch.store.get(&keys::resource("VirtualNode", "shop", "web")).await.unwrap().unwrap();
    assert_eq!(Resource::decode(stored.value).unwrap(), applied.changes[1].resource);

    scratch.clock.advance(std::time::Duration::from_secs(5));
    let mut web = applied.changes[1].resource.clone();
    web.labels.insert("team".into(), "front".into());
    let again = scratch.apply(&[web.clone(), mesh("shop")]).await;
    assert_eq!(
        (again.changes[0].outcome, again.changes[1].outcome),
        (Outcome::Configured, Outcome::Unchanged)
    );
    assert_eq!(again.revision.0, applied.revision.0 + 1);
    let (first, second) = (metadata(&applied.changes[1]), metadata(&again.changes[0]));
    assert_eq!((second.resource_version, second.revision), (2, again.revision.0));
    assert_eq!((&second.uid, &second.created_at), (&first.uid, &first.created_at));
    assert_ne!(second.updated_at, first.updated_at);
    assert_eq!(metadata(&again.changes[1]).resource_version, 1, "an unchanged resource keeps its version");

    // The version that was read is an old one by now.
    let refused = scratch.resources.apply(&owner(), &[web], false).await.unwrap_err();
    assert!(matches!(&refused, ChangeError::Refused(problems) if problems.len() == 1), "{refused}");
    let records = records(&scratch).await;
    let outcomes: Vec<_> = records.iter().map(|record| (record.outcome, record.object.as_str())).collect();
    assert_eq!(outcomes[0], (AuditOutcome::Refused, "VirtualNode shop/web"));
    assert!(
        records[0].reason.contains("version 1 was read, but version 2 is stored"),
        "{}",
        records[0].reason
    );
    assert_eq!(outcomes[1], (AuditOutcome::Ok, "VirtualNode shop/web"));
    assert!(outcomes[2].1.starts_with("Mesh shop, VirtualNode shop/web, "), "{outcomes:?}");
}

#[tokio::test]
async fn nothing_changes_where_nothing_is_to_change() {
    let scratch = Scratch::new().await;
    let applied = scratch.apply(&shop()).await;
    let again = scratch.apply(&shop()).await;
    assert_eq!(again.revision, applied.revision);
    assert!(again.changes.iter().all(|change| change.outcome == Outcome::Unchanged));
    assert_eq!(records(&scratch).await[0].reason, "nothing changed");

    let dry = scratch.resources.apply(&owner(), &[node("new", [])], true).await.unwrap();
    assert_eq!((dry.changes[0].outcome, dry.revision), (Outcome::Created, applied.revision));
    assert_eq!(metadata(&dry.changes[0]).resource_version, 1);
    let dry = scratch.resources.delete(&owner(), &[target(Kind::Policy, "allow-web-to-orders")], true).await;
    assert_eq!(dry.unwrap().resources.len(), 1);
    assert_eq!(scratch.store.revision().await.unwrap(), applied.revision);
    assert_eq!(records(&scratch).await.len(), 2, "what was only tried is not recorded");
}

#[tokio::test]
async fn a_batch_happens_whole_or_not_at_all() {
    let scratch = Scratch::new().await;
    let revision = scratch.store.revision().await.unwrap();
    let mut batch = shop();
    batch.push(service("broken", "nobody", None));
    scratch.resources.apply(&owner(), &batch, false).await.unwrap_err();
    assert_eq!(scratch.store.revision().await.unwrap(), revision);
    assert!(scratch.store.list(keys::RESOURCES, None, 10).await.unwrap().entries.is_empty());
    scratch.apply(&shop()).await;
    let targets = [target(Kind::Policy, "allow-web-to-orders"), target(Kind::VirtualNode, "orders")];
    scratch.resources.delete(&owner(), &targets, false).await.unwrap_err();
    assert_eq!(scratch.store.list(keys::RESOURCES, None, 10).await.unwrap().entries.len(), 5);
    let removed = scratch.resources.delete(&owner(), &targets[..1], false).await.unwrap();
    assert_eq!(removed.revision, scratch.store.revision().await.unwrap());
    assert_eq!(scratch.store.list(keys::RESOURCES, None, 10).await.unwrap().entries.len(), 4);
    assert_eq!(records(&scratch).await[0].object, "Policy shop/allow-web-to-orders");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_change_the_same_version_one_wins() {
    let scratch = Arc::new(Scratch::new().await);
    scratch.apply(&[mesh("shop"), node("web", [])]).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..16 {
        let scratch = Arc::clone(&scratch);
        tasks.spawn(async move {
            let mut web = at_version(node("web", []), 1);
            web.labels.insert("by".into(), number.to_string());
            let others = [web, node(&format!("n{number}"), [])];
            scratch.resources.apply(&owner(), &others, false).await.is_ok()
        });
    }
    let won = tasks.join_all().await.into_iter().filter(|won| *won).count();
    assert_eq!(won, 1);
    let nodes = scratch.store.list(&format!("{}VirtualNode/", keys::RESOURCES), None, 100).await.unwrap();
    assert_eq!(nodes.entries.len(), 2, "the losers' other nodes were not written");
}

#[tokio::test]
async fn nobodys_changes_keep_out_those_of_others() {
    let scratch = Scratch::new().await;
    let resources = &scratch.resources;
    let by = |who: &str| {
        let actor = Actor { name: format!("spiffe://shop.local/admin/{who}"), ..owner().actor };
        Author { actor, ..owner() }
    };
    let ([flood, other], batch) = ([by("ada"), by("bob")], shop());
    let turn = resources.changing.turn("eve").await.unwrap();
    let mut waiting = Vec::new();
    let refused = loop {
        let mut change = Box::pin(resources.apply(&flood, &batch, true));
        match change.as_mut().now_or_never() {
            Some(answer) => break answer.unwrap_err(),
            None => waiting.push(change),
        }
        assert!(waiting.len() <= MOST_CHANGES_OF_ONE, "another change is under way");
    };
    assert!(matches!(refused, ChangeError::Busy(_)), "{refused}");
    assert_eq!(waiting.len(), MOST_CHANGES_OF_ONE);
    // One of theirs comes before, and no more.
    let mut applied = Box::pin(resources.apply(&other, &batch, false));
    assert!(applied.as_mut().now_or_never().is_none());
    drop(turn);
    let (first, rest) = waiting.split_first_mut().unwrap();
    first.await.unwrap();
    for change in rest.iter_mut() {
        assert!(change.as_mut().now_or_never().is_none());
    }
    assert_eq!(applied.await.unwrap().changes.len(), batch.len());
}

#[tokio::test]
async fn whoever_waits_for_resources_that_are_not_followed_is_counted_and_holds_up_nobody() {
    let scratch = Scratch::new().await;
    scratch.apply(&shop()).await;
    let (catalogs, _nobody_follows) = Catalogs::followed_by_hand(Arc::clone(&scratch.store));
    let resources = Resources::new(ResourcesParts {
        catalogs,
        audit: Arc::new(Audit::open(Arc::clone(&scratch.store), scratch.clock.clone()).await.unwrap()),
        clock: scratch.clock.clone(),
        trust_domain: trust_domain(),
        server_names: Arc::default(),
        missing_feature: Box::new(|_, _| None),
    });
    let (author, batch, targets) = (owner(), shop(), [target(Kind::VirtualNode, "web")]);
    let mut applied = Box::pin(resources.apply(&author, &batch, true));
    let mut deleted = Box::pin(resources.delete(&author, &targets, true));
    for _ in 0..100 {
        assert!(applied.as_mut().now_or_never().is_none());
        assert!(deleted.as_mut().now_or_never().is_none());
        assert!(resources.changing.turn("bob").now_or_never().is_some(), "its turn is taken");
        tokio::task::yield_now().await;
    }
    // Each has its batch with it.
    let mut more: Vec<_> =
        (2..MOST_CHANGES_OF_ONE).map(|_| Box::pin(resources.apply(&author, &batch, true))).collect();
    for applied in &mut more {
        assert!(applied.as_mut().now_or_never().is_none());
    }
    let refused = resources.apply(&author, &batch, true).now_or_never().expect("nobody knows how many wait");
    assert!(matches!(refused, Err(ChangeError::Busy(_))), "{refused:?}");
}

#[tokio::test]
async fn batches_have_limits() {
    let scratch = Scratch::new().await;
    let many: Vec<_> = (0..=MAX_BATCH).map(|number| node(&format!("n{number}"), [])).collect();
    let refused = scratch.resources.apply(&owner(), &many, false).await;
    assert!(matches!(refused, Err(ChangeError::TooMany(10_001))));
    let text = format!("// {}\npermit(principal is Node, action, resource);", "x".repeat(60_000));
    let large: Vec<_> = (0..150).map(|number| policy(&format!("p{number}"), &text)).collect();
    assert!(matches!(scratch.resources.apply(&owner(), &large, false).await, Err(ChangeError::TooLarge(_))));
}

#[tokio::test]
async fn what_a_running_agent_cannot_enforce_is_refused() {
    let scratch = Scratch::new().await;
    scratch.apply(&shop()).await;
    let instance = random::instance_id().unwrap();
    let resources = Resources::new(ResourcesParts {
        catalogs: scratch.resources.catalogs().clone(),
        audit: Arc::new(Audit::open(Arc::clone(&scratch.store), scratch.clock.clone()).await.unwrap()),
        clock: scratch.clock.clone(),
        trust_domain: trust_domain(),
        server_names: Arc::default(),
        missing_feature: Box::new(move |node, needed| {
            let lacking = [features::ROUTES, features::ROLES, features::NODE_LABELS, features::ROUTE_TEXT];
            let lacks =
                lacking.iter().any(|lacking| needed.contains(lacking)) && node.as_str().ends_with("/orders");
            lacks.then_some(instance)
        }),
    });
    let with_routes = node("orders", [routes(listener(8080, "http"), &["/a"]), listener(9090, "http")]);
    let refused = resources.apply(&owner(), &[with_routes], false).await.unwrap_err();
    assert!(
        matches!(&refused, ChangeError::Incapable { features, .. } if *features == ["routes-1"]),
        "{refused}"
    );
    assert!(refused.to_string().contains(&instance.to_string()), "{refused}");
    let of_role = policy("p", "permit(principal in Role::\"r\", action, resource in Service::\"orders\");");
    let refused = resources.apply(&owner(), &[role("r", &[], &[], &[]), of_role], false).await.unwrap_err();
    assert!(
        matches!(&refused, ChangeError::Incapable { features, .. } if *features == ["roles-1"]),
        "{refused}"
    );
    let of_label = policy(
        "p",
        "forbid(principal, action, resource in Service::\"orders\") when { principal.hasTag(\"suspect\") };",
    );
    let refused = resources.apply(&owner(), &[of_label], false).await.unwrap_err();
    assert!(
        matches!(&refused, ChangeError::Incapable { features, .. } if *features == ["node-labels-1"]),
        "{refused}"
    );
    // It has routes already, and knows those; another node's are not its concern.
    let with = |name: &str, path: &str| {
        [node(name, [routes(listener(8080, "http"), &[path]), listener(9090, "http")])]
    };
    scratch.apply(&with("orders", "/a")).await;
    resources.apply(&owner(), &with("orders", "/{id}"), false).await.unwrap();
    resources.apply(&owner(), &with("web3", "/{id}.json"), false).await.unwrap();
    let refused = resources.apply(&owner(), &with("orders", "/{id}.json"), false).await.unwrap_err();
    assert!(
        matches!(&refused, ChangeError::Incapable { features, .. } if *features == ["route-text-1"]),
        "{refused}"
    );
    resources.apply(&owner(), &[node("web2", [routes(listener(1, "http"), &["/a"])])], false).await.unwrap();
}

#[tokio::test]
async fn others_are_served_while_a_change_is_judged_and_one_is_judged_at_a_time() {
    let scratch = Scratch::new().await;
    scratch.apply(&shop()).await;
    let (begins, mut begun) = tokio::sync::mpsc::unbounded_channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (released, serving) = (std::sync::Mutex::new(released), std::thread::current().id());
    let resources = Resources::new(ResourcesParts {
        catalogs: scratch.resources.catalogs().clone(),
        audit: Arc::new(Audit::open(Arc::clone(&scratch.store), scratch.clock.clone()).await.unwrap()),
        clock: scratch.clock.clone(),
        trust_domain: trust_domain(),
        server_names: Arc::default(),
        missing_feature: Box::new(move |_, _| {
            assert_ne!(std::thread::current().id(), serving, "it is judged where others are served");
            begins.send(()).unwrap();
            let _released = released.lock().unwrap().recv_timeout(std::time::Duration::from_secs(30));
            None
        }),
    });
    let with_routes = [node("orders", [routes(listener(8080, "http"), &["/a"]), listener(9090, "http")])];
    let author = owner();
    let mut asked = Box::pin(resources.apply(&author, &with_routes, false));
    tokio::select! {
        changed = &mut asked => panic!("nothing holds the judgement up: {changed:?}"),
        begun = begun.recv() => begun.unwrap(),
    }
    // Whoever hangs up does not make room for another judgement beside the one that goes on.
    drop(asked);
    assert!(resources.changing.turn("bob").now_or_never().is_none(), "the turn ended before the judgement");
    let new = [node("new", [])];
    let mut next = Box::pin(resources.apply(&author, &new, false));
    assert!(next.as_mut().now_or_never().is_none());
    let before = scratch.store.revision().await.unwrap();
    drop(release);
    assert_eq!(next.await.unwrap().revision.0, before.0 + 1);
}

#[tokio::test]
async fn a_view_that_would_not_fit_into_a_message_is_refused_with_the_figures() {
    let scratch = Scratch::new().await;
    scratch.apply(&shop()).await;
    // Comments are no part of a view: a long path is.
    let text = |number: u32, service: &str| {
        let path = format!("/{number}/{}", "x".repeat(50_000));
        format!(
            "permit(principal is Node, action == Action::\"GET\", resource{service}) when {{ context.path == \"{path}\" }};"
        )
    };
    let batch = |numbers: std::ops::Range<u32>, service: &str| -> Vec<Resource> {
        numbers.map(|number| policy(&format!("p{number}"), &text(number, service))).collect()
    };
    let apply = |batch: Vec<Resource>| {
        let resources = Arc::clone(&scratch.resources);
        async move { resources.apply(&owner(), &batch, false).await }
    };
    apply(batch(0..60, "")).await.unwrap();
    let refused = apply(batch(60..80, "")).await.unwrap_err();
    let told = refused.to_string();
    assert!(matches!(refused, ChangeError::Oversized(_)), "{told}");
    assert!(told.starts_with("the view of virtual node orders in mesh shop would have 4"), "{told}");
    assert!(
        told.contains(
            ": 81 statements of policies, roles with 0 members in all, and labels of 0 nodes; narrow"
        ),
        "{told}"
    );
    assert_eq!(scratch.store.list(keys::RESOURCES, None, 100).await.unwrap().entries.len(), 65);
    // Each node gets what concerns it.
    let more = [node("payments", [listener(1, "http")]), service("payments", "payments", None)];
    apply(more.to_vec()).await.unwrap();
    apply(batch(60..64, " in Service::\"orders\"")).await.unwrap();
    apply(batch(64..68, " in Service::\"payments\"")).await.unwrap();
    let refused = apply(batch(68..80, " in Service::\"payments\"")).await.unwrap_err();
    assert!(refused.to_string().starts_with("the view of virtual node payments"), "{refused}");
}

#[tokio::test]
async fn more_statements_than_every_agent_can_hold_are_refused_with_the_figures() {
    let scratch = Scratch::new().await;
    scratch.apply(&shop()).await;
    let batch = |number: usize, resource: &str| {
        let text = format!("permit(principal == Node::\"web\", action, resource{resource});\n");
        vec![policy(&format!("p{number}"), &text.repeat(880))]
    };
    let apply = |batch: Vec<Resource>| {
        let resources = Arc::clone(&scratch.resources);
        async move { resources.apply(&owner(), &batch, false).await }
    };
    for number in 0..4 {
        apply(batch(number, "")).await.unwrap();
    }
    let refused = apply(batch(4, " in Mesh::\"shop\"")).await.unwrap_err();
    let told = refused.to_string();
    assert!(matches!(refused, ChangeError::Oversized(_)), "{told}");
    assert!(told.starts_with("4400 statements of policies would concern every node of mesh shop"), "{told}");
    // What one node alone has to know is bounded by its own view.
    apply(batch(4, " in Service::\"orders\"")).await.unwrap();
}

#[tokio::test]
async fn more_than_an_agent_can_match_is_refused_with_the_figures() {
    let scratch = Scratch::new().await;
    scratch.apply(&shop()).await;
    let heavy = |number: usize, resource: &str| {
        let text = format!(
            "forbid(principal, action in Action::\"http\", resource{resource}) when {{ context.host like \"*{}\" }};",
            "a".repeat(1_023)
        );
        vec![policy(&format!("heavy-{number}"), &text)]
    };
    let apply = |batch: Vec<Resource>| {
        let resources = Arc::clone(&scratch.resources);
        async move { resources.apply(&owner(), &batch, false).await }
    };
    for number in 0..8 {
        apply(heavy(number, "")).await.unwrap();
    }
    let refused = apply(heavy(8, "")).await.unwrap_err();
    let told = refused.to_string();
    assert!(matches!(refused, ChangeError::Oversized(_)), "{told}");
    assert!(
        told.starts_with(
            "9216 characters follow the wildcards of patterns in policies about calls to virtual node orders in mesh shop, and at \
             most 8192 may"
        ),
        "{told}"
    );
    // Of whom it is not, it is no matter; and what path and method alone tell is matched without Cedar.
    apply([node("store", [listener(1, "http")]), service("store", "store", None)].to_vec()).await.unwrap();
    assert!(apply(heavy(8, " in Service::\"store\"")).await.is_err(), "the store has all the others too");
    let plain = format!(
        "forbid(principal, action in Action::\"http\", resource) when {{ context.path like \"*{}\" }};",
        "a".repeat(1_023)
    );
    apply(vec![policy("plain", &plain)]).await.unwrap();
    // What leaves the mesh is counted by itself.
    let ports = vec![ExternalPort { port: Some(80), protocol: "http".into() }];
    let hosts = vec!["api.bank.example".into()];
    let external = ExternalServiceSpec { hosts, ports, ..ExternalServiceSpec::default() };
    apply(vec![resource("shop", "bank", Spec::ExternalService(external))]).await.unwrap();
    // What stands already is no obstacle to what adds nothing.
    let stored = heavy(8, "").pop().unwrap();
    let commit = Commit::new().put(keys::resource("Policy", "shop", "heavy-8"), stored.encode_to_vec());
    scratch.store.commit(commit.raising_revision()).await.unwrap();
    apply(vec![permit("another", "web", "orders")]).await.unwrap();
    let catalog = scratch.resources.catalogs().current().await.unwrap();
    let heavy_nodes = crate::compile::heavy_patterns(&trust_domain(), &catalog);
    let told: Vec<_> = heavy_nodes.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 6, "of three nodes, each in both directions: {told:?}");
    assert!(apply(heavy(9, "")).await.is_err());
    // Nor to a node that is new; but with it nobody gets more to match.
    let new = || node("new", [listener(1, "http")]);
    let with_more: Vec<_> = heavy(9, " in Node::\"new\"").into_iter().chain([new()]).collect();
    assert!(matches!(apply(with_more).await, Err(ChangeError::Oversized(_))));
    apply(vec![new()]).await.unwrap();
}

#[tokio::test]
async fn nobody_is_given_a_name_of_the_control_plane() {
    let scratch = Scratch::new().await;
    scratch.apply(&shop()).await;
    let workload = |names: &[&str]| {
        let workload = WorkloadEnrollment {
            path: "worker".into(),
            selectors: vec!["unix:uid:1000".into()],
            dns_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..WorkloadEnrollment::default()
        };
        let parent = Some(parent("orders"));
        let spec = EnrollmentSpec { parent, workload: Some(workload), attest: None };
        resource("shop", "worker", Spec::Enrollment(spec))
    };
    let agents = |names: &[&str]| {
        let rule = AttestRule {
            dns_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..attest_rule("orders", &["join_token:label:env:prod"])
        };
        let evidence = Some(Evidence::JoinToken(JoinTokenEvidence {}));
        let attest = Some(AttestEnrollment { rules: vec![rule], evidence });
        let spec = EnrollmentSpec { attest, ..EnrollmentSpec::default() };
        resource("shop", "fleet", Spec::Enrollment(spec))
    };
    let own = "control-plane.shop.example";
    let batch =
        [agents(&["a.control-plane.shop.example"]), workload(&["a.example", own]), agents(&["10.0.0.2"])];
    for validate_only in [true, false] {
        let refused = scratch.resources.apply(&owner(), &batch[1..], validate_only).await.unwrap_err();
        let ChangeError::Refused(problems) = refused else { panic!("{refused}") };
        let found: Vec<_> =
            problems.iter().map(|problem| (problem.resource, problem.field.as_str())).collect();
        let number = (1, "spec.attest.rules[0].dnsNames[0]");
        assert_eq!(found, [(0, "spec.workload.dnsNames[1]"), number, number], "for what it is, and whose");
        assert!(problems[0].message.contains("a name of the control plane's own"), "{problems:?}");
    }
    scratch.apply(&batch[..1]).await;
}
