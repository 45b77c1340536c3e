use std::collections::BTreeSet;
use std::time::Duration;

use hauberk_identity::{Name, SpiffeId};
use hauberk_policy::{Authorization, PolicySlice};
use hauberk_proto::convert::{Body, NodeView, ServiceView, decode_view};
use hauberk_proto::mesh::v1::{
    self as wire, ExternalPort, ExternalServiceSpec, MeshSpec, Metadata, Resource, resource::Spec,
};
use hauberk_tls::signing::ViewVerifier;

use super::*;
use crate::compile::CompiledView;
use crate::instances::wanted::{self, Standing};
use crate::registry::{Commit, Revision, keys};
use crate::resources::testing::*;
use crate::resources::{Kind, ResourceKey};

const DEADLINE: Duration = Duration::from_secs(30);

async fn at(compilations: &mut watch::Receiver<Arc<Compilation>>, revision: Revision) -> Arc<Compilation> {
    let wanted = compilations.wait_for(|compilation| compilation.revision >= revision.0);
    Arc::clone(&tokio::time::timeout(DEADLINE, wanted).await.unwrap().unwrap())
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn node_view<'a>(compilation: &'a Compilation, node: &str) -> &'a Arc<CompiledView> {
    &compilation.nodes[&SpiffeId::node(&trust_domain(), &name("shop"), &name(node))]
}

fn service_view<'a>(compilation: &'a Compilation, service: &str) -> &'a Arc<CompiledView> {
    &compilation.services[&(name("shop"), name(service))]
}

fn node_body(view: &CompiledView) -> NodeView {
    match decode_view(&view.signed.view).unwrap().body {
        Body::Node(node) => node,
        Body::Service(_) => panic!("not a node's view"),
    }
}

fn service_body(view: &CompiledView) -> ServiceView {
    match decode_view(&view.signed.view).unwrap().body {
        Body::Service(service) => service,
        Body::Node(_) => panic!("not a service's view"),
    }
}

fn services_of(view: &CompiledView, port: u16) -> Vec<String> {
    let body = node_body(view);
    let port = body.scope.ports.iter().find(|scope| scope.number == port).unwrap();
    port.services.iter().map(ToString::to_string).collect()
}

fn policies_of(view: &CompiledView) -> Vec<String> {
    node_body(view).policies.policies.into_iter().map(|policy| policy.name).collect()
}

/// The views that differ between two compilations: `node web`, `service orders`.
fn changed(before: &Compilation, after: &Compilation) -> BTreeSet<String> {
    let last = |id: &SpiffeId| id.path().rsplit('/').next().unwrap().to_owned();
    let nodes = after.nodes.iter().filter(|(id, view)| before.nodes.get(*id) != Some(view));
    let services = after.services.iter().filter(|(key, view)| before.services.get(*key) != Some(view));
    let nodes = nodes.map(|(id, _)| format!("node {}", last(id)));
    nodes.chain(services.map(|((_, service), _)| format!("service {service}"))).collect()
}

#[tokio::test]
async fn resources_become_signed_views() {
    let scratch = Scratch::new().await;
    let mut compilations = scratch.compilations().await;
    let revision = scratch.apply(&shop()).await.revision;
    let compilation = at(&mut compilations, revision).await;
    assert_eq!(compilation.epoch, scratch.authority.epoch());
    assert!(compilation.findings.is_empty());

    let web = node_view(&compilation, "web");
    let keys = scratch.authority.view_keys();
    let verifier = ViewVerifier::from_public_keys(keys.iter().map(|key| &key.public_key[..])).unwrap();
    verifier
        .verify(
            hauberk_tls::signing::Purpose::View,
            &web.signed.key_id,
            &web.signed.view,
            &web.signed.signature,
        )
        .unwrap();
    let read = decode_view(&web.signed.view).unwrap();
    assert_eq!((read.epoch, read.revision), (compilation.epoch, revision.0));
    assert_eq!(web.backends, [name("orders")]);
    assert!(policies_of(web).is_empty(), "nobody may call web");

    let orders = node_view(&compilation, "orders");
    assert_eq!(services_of(orders, 8080), ["orders"]);
    assert!(services_of(orders, 9090).is_empty());
    assert_eq!(policies_of(orders), ["allow-web-to-orders"]);
    assert_eq!(orders.features, ["cedar-1"]);

    let service = service_view(&compilation, "orders");
    let body = service_body(service);
    assert_eq!(body.ports.iter().map(|port| port.number).collect::<Vec<_>>(), [8080]);
    let id = SpiffeId::node(&trust_domain(), &name("shop"), &name("orders"));
    assert_eq!(service.targets, [(id, 8080)]);
}

#[tokio::test]
async fn a_gateway_has_a_view_of_its_own_beside_that_of_a_node_of_its_name() {
    let scratch = Scratch::new().await;
    let mut compilations = scratch.compilations().await;
    let mut batch = shop();
    batch.extend([
        gateway("edge"),
        node("edge", [listener(8080, "http")]),
        permit("edge-calls", "gateway/edge", "orders"),
        policy("all", "permit(principal is Node, action, resource in Node::\"edge\");"),
    ]);
    let revision = scratch.apply(&batch).await.revision;
    let compilation = at(&mut compilations, revision).await;
    let id = SpiffeId::gateway(&trust_domain(), &name("shop"), &name("edge"));
    let view = &compilation.nodes[&id];
    let body = node_body(view);
    assert_eq!((body.scope.node(), body.scope.ports.len(), body.policies.policies.len()), (Some(&id), 0, 0));
    assert_eq!(policies_of(node_view(&compilation, "edge")), ["all"]);
    let orders = node_body(node_view(&compilation, "orders"));
    assert!(orders.policies.policies.iter().any(|policy| policy.name == "edge-calls"), "{orders:?}");

    // Each is numbered by its own content, and goes alone.
    let uid = |compilation: &Compilation| compilation.node_uids[&id].clone().unwrap();
    let (before, former) = (Arc::clone(&compilation), uid(&compilation));
    let revision = scratch.apply(&[node("edge", [])]).await.revision;
    let compilation = at(&mut compilations, revision).await;
    assert_eq!(compilation.nodes[&id], before.nodes[&id]);
    assert_eq!(node_view(&compilation, "edge").revision, revision.0);
    let gone = |compilation: &Compilation| {
        matches!(wanted::standing(compilation, &id, Some(&former)), Standing::Deleted)
    };
    for (kind, is_gone) in [(Kind::VirtualNode, false), (Kind::VirtualGateway, true)] {
        let key = ResourceKey { kind, mesh: name("shop"), name: name("edge") };
        let target = crate::resources::admit::Target { key, resource_version: 0, ignore_missing: false };
        let removed = scratch.resources.delete(&owner(), &[target], false).await.unwrap();
        assert_eq!(gone(&*at(&mut compilations, removed.revision).await), is_gone, "{kind:?}");
    }
}

#[tokio::test]
async fn what_does_not_change_keeps_its_bytes() {
    let scratch = Scratch::new().await;
    let mut compilations = scratch.compilations().await;
    let first = at(&mut compilations, scratch.apply(&shop()).await.revision).await;
    let mut labelled = node("web", [listener(8000, "http")]);
    node_spec(&mut labelled).backends.push(backend("orders"));
    labelled.labels.insert("team".into(), "front".into());
    let second = at(&mut compilations, scratch.apply(&[labelled]).await.revision).await;
    assert_eq!(second.revision, first.revision + 1);
    assert_eq!(changed(&first, &second), BTreeSet::new());

    let third = scratch.apply(&[permit("p", "orders", "orders")]).await.revision;
    let third = at(&mut compilations, third).await;
    assert_eq!(changed(&second, &third), BTreeSet::from(["node orders".to_owned()]));
    assert_eq!(node_view(&third, "orders").revision, third.revision);
    assert_eq!(policies_of(node_view(&third, "orders")), ["allow-web-to-orders", "p"]);
    // A change of something else than resources raises the revision, and that alone.
    let trust = scratch.store.commit(Commit::new().put("other", "x").raising_revision()).await.unwrap();
    let fourth = at(&mut compilations, trust.revision).await;
    assert_eq!(changed(&third, &fourth), BTreeSet::new());
}

#[tokio::test]
async fn a_restart_pushes_nothing() {
    let scratch = Scratch::new().await;
    let mut compilations = scratch.compilations().await;
    at(&mut compilations, scratch.apply(&shop()).await.revision).await;
    // Compiled one by one before the restart, and all at once after it.
    let both = "forbid(principal == Node::\"orders\", action, resource);\npermit(principal == Node::\"web\", action, resource);";
    for batch in [
        vec![permit("a", "web", "orders"), policy("both", both), permit("z", "orders", "orders")],
        vec![forbid("a", "web", "orders"), policy("both", &format!("{both}\n{both}"))],
        vec![policy("both", both), node("more", [listener(1, "tcp")])],
    ] {
        at(&mut compilations, scratch.apply(&batch).await.revision).await;
    }
    let key = ResourceKey { kind: Kind::Policy, mesh: name("shop"), name: name("z") };
    let target = crate::resources::admit::Target { key, resource_version: 0, ignore_missing: false };
    scratch.resources.delete(&owner(), &[target], false).await.unwrap();
    let last = scratch.apply(&[node("alone", [])]).await.revision;
    let before = at(&mut compilations, last).await;
    assert_eq!(policies_of(node_view(&before, "orders")), ["a", "allow-web-to-orders", "both/1", "both/2"]);
    let scratch = scratch.restarted().await;
    let after = Arc::clone(&scratch.compilations().await.borrow());
    assert_eq!(after.revision, before.revision);
    let digests = |compilation: &Compilation| {
        let views = compilation.nodes.values().chain(compilation.services.values());
        views.map(|view| (view.digest, view.revision)).collect::<BTreeSet<_>>()
    };
    assert_eq!(digests(&after), digests(&before));
    assert_eq!(node_view(&after, "alone").revision, last.0);
    assert!(node_view(&after, "web").revision < last.0);
}

#[tokio::test]
async fn a_port_moves_from_one_service_to_another() {
    let scratch = Scratch::new().await;
    let mut compilations = scratch.compilations().await;
    let mut batch = shop();
    batch.extend([service("admin", "orders", Some(9090)), permit("ops", "web", "admin")]);
    let first = at(&mut compilations, scratch.apply(&batch).await.revision).await;
    assert_eq!(services_of(node_view(&first, "orders"), 9090), ["admin"]);
    let moved = scratch.apply(&[service("admin", "web", None), service("orders", "orders", None)]).await;
    let second = at(&mut compilations, moved.revision).await;
    let expected = ["node orders", "node web", "service admin", "service orders"];
    assert_eq!(changed(&first, &second), expected.into_iter().map(str::to_owned).collect());
    assert_eq!(services_of(node_view(&second, "orders"), 9090), ["orders"]);
    assert_eq!(services_of(node_view(&second, "web"), 8000), ["admin"]);
    assert_eq!(policies_of(node_view(&second, "orders")), ["allow-web-to-orders"]);
    assert_eq!(policies_of(node_view(&second, "web")), ["ops"]);
}

#[tokio::test]
async fn authorization_is_the_listener_s_the_node_s_or_the_mesh_s() {
    let scratch = Scratch::new().await;
    let mut compilations = scratch.compilations().await;
    let audits = |word: &str| Some(word.to_owned());
    let spec = MeshSpec {
        authorization: audits("AUDIT"),
        max_view_age: Some(hauberk_proto::mesh::v1::Duration { value: Some(1_500), unit: "ms".into() }),
        ..MeshSpec::default()
    };
    let mut strict = node("strict", [listener(1, "http"), listener(2, "http")]);
    let body = node_spec(&mut strict);
    body.authorization = audits("ENFORCE");
    body.listeners[1].authorization = audits("AUDIT");
    let batch = [resource("", "shop", Spec::MeshSpec(spec)), node("lax", [listener(1, "http")]), strict];
    let compilation = at(&mut compilations, scratch.apply(&batch).await.revision).await;
    assert_eq!(node_view(&compilation, "lax").audit_ports, [1]);
    assert_eq!(node_view(&compilation, "strict").audit_ports, [2]);
    let body = node_body(node_view(&compilation, "strict"));
    assert_eq!(body.scope.ports[0].authorization, Authorization::Enforce);
    assert_eq!(body.max_view_age, Some(Duration::from_millis(1_500)));
    assert_eq!(node_view(&compilation, "strict").features, ["audit-authorization", "max-view-age"]);
}

#[tokio::test]
async fn a_view_says_which_node_of_its_name_it_is_for() {
    let scratch = Scratch::new().await;
    let mut compilations = scratch.compilations().await;
    let first = at(&mut compilations, scratch.apply(&shop()).await.revision).await;
    let uid = |compilation: &Compilation| node_view(compilation, "web").uid.clone();
    let key = ResourceKey { kind: Kind::VirtualNode, mesh: name("shop"), name: name("web") };
    let target = crate::resources::admit::Target { key, resource_version: 0, ignore_missing: false };
    scratch.resources.delete(&owner(), &[target], false).await.unwrap();
    // Whether or not there was a compilation without it.
    let second = at(&mut compilations, scratch.apply(&shop()).await.revision).await;
    assert_ne!(uid(&second), uid(&first));
    let third = at(&mut compilations, scratch.apply(&[permit("p", "orders", "web")]).await.revision).await;
    assert_eq!(uid(&third), uid(&second));
    assert!(!uid(&third).is_empty());
}

#[tokio::test]
async fn what_is_deleted_has_no_view() {
    let scratch = Scratch::new().await;
    let mut compilations = scratch.compilations().await;
    at(&mut compilations, scratch.apply(&shop()).await.revision).await;
    let key = |kind, text| ResourceKey { kind, mesh: name("shop"), name: name(text) };
    use crate::resources::Kind::{Mesh, Policy, VirtualNode, VirtualService};
    let all = [
        key(VirtualService, "orders"),
        key(VirtualNode, "orders"),
        key(VirtualNode, "web"),
        key(Policy, "allow-web-to-orders"),
        key(Mesh, "shop"),
    ];
    let targets: Vec<_> = all
        .into_iter()
        .map(|key| crate::resources::admit::Target { key, resource_version: 0, ignore_missing: false })
        .collect();
    let removed = scratch.resources.delete(&owner(), &targets, false).await.unwrap();
    let compilation = at(&mut compilations, removed.revision).await;
    assert!(compilation.nodes.is_empty() && compilation.services.is_empty());
    assert!(scratch.store.list(keys::VIEWS, None, 10).await.unwrap().entries.is_empty());
}

#[tokio::test]
async fn a_resource_that_cannot_be_read_leaves_everything_as_it_was() {
    let scratch = Scratch::new().await;
    let mut compilations = scratch.compilations().await;
    let first = at(&mut compilations, scratch.apply(&shop()).await.revision).await;
    let broken = policy("broken", "forbid(");
    let value = prost::Message::encode_to_vec(&broken);
    let commit = Commit::new().put(keys::resource("Policy", "shop", "broken"), value).raising_revision();
    let second = at(&mut compilations, scratch.store.commit(commit).await.unwrap().revision).await;
    assert_eq!(changed(&first, &second), BTreeSet::new());
    assert!(second.findings[0].summary.starts_with("the stored policy broken is not accepted"), "{second:?}");
    // It stays reported, and nothing of its mesh changes, until it is replaced.
    let other = at(&mut compilations, scratch.apply(&[permit("p", "orders", "orders")]).await.revision).await;
    assert_eq!((changed(&first, &other), other.findings.len()), (BTreeSet::new(), 1));
    let healed = scratch.apply(&[forbid("broken", "orders", "orders")]).await.revision;
    let healed = at(&mut compilations, healed).await;
    assert!(healed.findings.is_empty());
    assert_eq!(policies_of(node_view(&healed, "orders")), ["allow-web-to-orders", "broken", "p"]);
}

/// Puts resources into the store as no `apply` would.
async fn store(scratch: &Scratch, resources: &[Resource]) -> Revision {
    let commit = resources.iter().fold(Commit::new().raising_revision(), |commit, resource| {
        let kind = Kind::of(resource.spec.as_ref().unwrap());
        let key = ResourceKey { kind, mesh: name("shop"), name: name(&resource.name) };
        commit.put(key.store_key(), prost::Message::encode_to_vec(resource))
    });
    scratch.store.commit(commit).await.unwrap().revision
}

fn uid_of<'a>(compilation: &'a Compilation, node: &str) -> Option<&'a Option<String>> {
    compilation.node_uids.get(&SpiffeId::node(&trust_domain(), &name("shop"), &name(node)))
}

fn standing(compilation: &Compilation, node: &str, uid: Option<&str>) -> String {
    let id = SpiffeId::node(&trust_domain(), &name("shop"), &name(node));
    match wanted::standing(compilation, &id, uid) {
        Standing::Here(_) => "here".to_owned(),
        other => format!("{other:?}"),
    }
}

#[tokio::test]
async fn after_a_restart_with_a_resource_that_cannot_be_read_nobody_is_gone() {
    let scratch = Scratch::new().await;
    let mut compilations = scratch.compilations().await;
    let first = at(&mut compilations, scratch.apply(&shop()).await.revision).await;
    let uid = uid_of(&first, "web").unwrap().clone();
    assert_eq!(standing(&first, "web", uid.as_deref()), "here");
    store(&scratch, &[policy("broken", "forbid(")]).await;
    let scratch = scratch.restarted().await;
    let mut compilations = scratch.compilations().await;
    let second = Arc::clone(&compilations.borrow());
    assert!(second.nodes.is_empty(), "nothing is enforced by what cannot be read");
    let [served, before] = [&second, &first].map(|compilation| service_view(compilation, "orders"));
    let content = |view: &CompiledView| (view.digest, view.revision);
    assert_eq!(content(served), content(before), "who serves what does not depend on it");
    assert_eq!(standing(&second, "web", uid.as_deref()), "NotMade");
    assert_eq!(standing(&second, "web", None), "NotMade");
    // The resources tell it all the same.
    assert_eq!(standing(&second, "web", Some("former")), "MadeAnew");
    assert_eq!(standing(&second, "none", Some("former")), "Deleted");
    assert_eq!(standing(&second, "none", None), "Unknown");
    // A node's record that cannot be read itself tells nothing, its uid included.
    let mut web = node("web", [listener(0, "http")]);
    web.metadata = Some(Metadata { uid: "damaged".into(), ..Metadata::default() });
    let third = at(&mut compilations, store(&scratch, &[web]).await).await;
    assert_eq!(uid_of(&third, "web"), Some(&None));
    assert_eq!(standing(&third, "web", uid.as_deref()), "NotMade");
}

#[tokio::test]
async fn what_only_new_texts_are_refused_for_goes_on_being_enforced() {
    let scratch = Scratch::new().await;
    let mut compilations = scratch.compilations().await;
    at(&mut compilations, scratch.apply(&shop()).await.revision).await;
    let on = |condition: &str| {
        format!("forbid(principal, action in Action::\"http\", resource) when {{ {condition} }};")
    };
    let heavy = format!("context.host like \"*{}\"", "a".repeat(2_000));
    let with_slot = on(&heavy).replace("principal,", "principal == ?principal,");
    let asks = "User::\"login/alice\" in UserGroup::\"login/support\"";
    let old = [
        policy("asks", &on(asks)),
        policy("heavy", &on(&heavy)),
        boundary("never", &on(&heavy)),
        template("t", &with_slot),
        linked("follows", "t", Some("Node::\"web\""), None),
    ];
    store(&scratch, &old).await;
    let scratch = scratch.restarted().await;
    let compilations = scratch.compilations().await;
    let compilation = Arc::clone(&compilations.borrow());
    assert!(compilation.findings.is_empty(), "{:?}", compilation.findings);
    assert_eq!(
        policies_of(node_view(&compilation, "orders")),
        ["allow-web-to-orders", "asks", "boundary:never", "follows", "heavy"]
    );
    let catalog = scratch.resources.catalogs().current().await.unwrap();
    let outdated = catalog.mesh("shop").unwrap().outdated();
    let outdated: Vec<_> = outdated.map(|(kind, name, _)| format!("{} {name}", kind.noun())).collect();
    assert_eq!(
        outdated,
        ["policy asks", "policy follows", "policy heavy", "boundary never", "policy template t"]
    );
    let changed = old.iter().map(|stored| labelled(stored.clone(), &[("team", "checkout")]));
    for new in changed.chain([linked("another", "t", Some("Node::\"web\""), None)]) {
        let refused = scratch.resources.apply(&owner(), std::slice::from_ref(&new), true).await;
        assert!(refused.is_err(), "{} is admitted", new.name);
    }
    // Whoever applies all that they have, with something new, is not refused for what stays as it is.
    let [_, unchanged @ ..] = &old;
    let batch: Vec<_> = unchanged.iter().cloned().chain([forbid("new", "orders", "orders")]).collect();
    scratch.resources.apply(&owner(), &batch, false).await.unwrap();
    scratch.resources.apply(&owner(), &old[3..4], false).await.unwrap();
}

#[tokio::test]
async fn what_can_only_permit_or_decides_nothing_is_left_out_where_it_cannot_be_read() {
    use hauberk_proto::mesh::v1 as wire;
    let scratch = Scratch::new().await;
    let mut compilations = scratch.compilations().await;
    at(&mut compilations, scratch.apply(&shop()).await.revision).await;
    let audited = |resource: Resource| match resource.spec {
        Some(Spec::Policy(spec)) => {
            let spec = wire::PolicySpec { mode: Some("AUDIT".into()), ..spec };
            Resource { spec: Some(Spec::Policy(spec)), ..resource }
        }
        _ => panic!("no policy"),
    };
    let permits = "permit(principal == ?principal, action, resource is Nothing);";
    let left_out = [
        policy("wrong", "permit(principal is Nobody, action, resource);"),
        audited(policy("tried", "forbid(principal is Nobody, action, resource);")),
        audited(linked("tried-too", "none", None, None)),
        template("unused", "forbid("),
        template("permits", permits),
        linked("follows", "permits", Some("Node::\"web\""), None),
        resource("shop", "bank", Spec::ExternalService(ExternalServiceSpec::default())),
        resource("shop", "fleet", Spec::Enrollment(wire::EnrollmentSpec::default())),
        resource("shop", "partner", Spec::FederatedTrustDomain(wire::FederatedTrustDomainSpec::default())),
    ];
    store(&scratch, &left_out).await;
    let scratch = scratch.restarted().await;
    let mut compilations = scratch.compilations().await;
    let compilation = Arc::clone(&compilations.borrow());
    assert!(compilation.findings.is_empty(), "{:?}", compilation.findings);
    assert_eq!(policies_of(node_view(&compilation, "orders")), ["allow-web-to-orders"]);
    let catalog = scratch.resources.catalogs().current().await.unwrap();
    assert_eq!(catalog.mesh("shop").unwrap().left_out().count(), left_out.len());

    let forbids = permits.replace("permit", "forbid");
    let mut holding_back = vec![
        vec![policy("p", "forbid(principal is Nobody, action, resource);")],
        vec![policy("p", "permit(principal is Node, action, resource); forbid(")],
        vec![boundary("b", "permit(principal is Nobody, action, resource);")],
        vec![template("t", &forbids), linked("p", "t", Some("Node::\"web\""), None)],
        vec![linked("p", "none", None, None)],
        vec![issuer("login", |spec| spec.audiences.clear())],
        vec![service("web", "", None)],
        vec![node("web", [listener(0, "http")])],
    ];
    holding_back.push(vec![data_class("c", &["not a name"])]);
    holding_back.push(vec![role("r", &["not a name"], &[], &[])]);
    for resources in holding_back {
        let what = format!("{:?}", resources[0].spec);
        let compilation = at(&mut compilations, store(&scratch, &resources).await).await;
        assert_eq!(compilation.findings.len(), 1, "{what}: {:?}", compilation.findings);
        let gone = resources.iter().fold(Commit::new().raising_revision(), |commit, resource| {
            let kind = Kind::of(resource.spec.as_ref().unwrap());
            commit.delete(ResourceKey { kind, mesh: name("shop"), name: name(&resource.name) }.store_key())
        });
        let healed = scratch.store.commit(gone).await.unwrap().revision;
        let healed = at(&mut compilations, healed).await;
        assert!(healed.findings.is_empty(), "{what}: {:?}", healed.findings);
    }
}

#[tokio::test]
async fn a_node_whose_view_cannot_be_made_is_there() {
    let scratch = Scratch::new().await;
    let mut compilations = scratch.compilations().await;
    let first = at(&mut compilations, scratch.apply(&shop()).await.revision).await;
    let former = uid_of(&first, "web").unwrap().clone();
    // No view fits into a message any longer.
    let long = "x".repeat(63_000);
    let text = format!(
        "forbid(principal, action == Action::\"GET\", resource) when {{ context.path == \"/{long}\" }};"
    );
    let mut batch: Vec<_> = (0..62).map(|number| policy(&format!("long-{number}"), &text)).collect();
    batch.extend(["new", "web"].map(|name| {
        let metadata = Some(Metadata { uid: "second".into(), ..Metadata::default() });
        Resource { metadata, ..node(name, [listener(8000, "http")]) }
    }));
    let last = at(&mut compilations, store(&scratch, &batch).await).await;
    assert!(last.findings[0].summary.contains("cannot be made"), "{:?}", last.findings);
    for node in ["new", "web"] {
        assert_eq!(standing(&last, node, Some("second")), "NotMade");
        assert_eq!(standing(&last, node, None), "NotMade");
        assert_eq!(standing(&last, node, Some("first")), "MadeAnew");
    }
    assert_eq!(Some(&node_view(&last, "web").uid), former.as_ref(), "the former node's view is kept");
}

#[tokio::test]
async fn two_replicas_give_one_content_one_number() {
    let scratch = Scratch::new().await;
    let mut ours = scratch.compilations().await;
    let mut theirs = scratch.compilations().await;
    let revision = scratch.apply(&shop()).await.revision;
    let (ours, theirs) = (at(&mut ours, revision).await, at(&mut theirs, revision).await);
    for (id, view) in &ours.nodes {
        assert_eq!((view.digest, view.revision), (theirs.nodes[id].digest, theirs.nodes[id].revision));
    }
}

/// The members of each role of a view, by their last names.
fn roles_of(view: &CompiledView) -> Vec<String> {
    let last = |id: &SpiffeId| id.path().rsplit('/').next().unwrap().to_owned();
    let roles = node_body(view).policies.roles.into_iter();
    roles
        .map(|role| format!("{}: {}", role.role, role.members.iter().map(last).collect::<Vec<_>>().join(" ")))
        .collect()
}

#[tokio::test]
async fn roles_travel_where_a_policy_mentions_them_with_all_their_members() {
    let scratch = Scratch::new().await;
    let mut compilations = scratch.compilations().await;
    let mut batch = shop();
    batch.extend([
        role("clerks", &["web"], &[], &["readers"]),
        role("readers", &["orders"], &[], &[]),
        role("unmentioned", &["web"], &[], &[]),
        policy("clerks", "permit(principal in Role::\"clerks\", action, resource in Service::\"orders\");"),
        policy("of-role", "forbid(principal == Node::\"web\", action, resource in Role::\"readers\");"),
    ]);
    let first = at(&mut compilations, scratch.apply(&batch).await.revision).await;
    assert_eq!(roles_of(node_view(&first, "orders")), ["clerks: orders web", "readers: orders"]);
    assert_eq!(node_view(&first, "orders").features, ["cedar-1", "roles-1"]);
    assert_eq!(roles_of(node_view(&first, "web")), [""; 0]);
    assert!(first.findings.is_empty());

    // What changes in a role within a role reaches those who are told of the outer one.
    let second = scratch.apply(&[role("readers", &["web"], &[], &[])]).await.revision;
    let second = at(&mut compilations, second).await;
    assert_eq!(changed(&first, &second), BTreeSet::from(["node orders".to_owned(), "node web".to_owned()]));
    assert_eq!(roles_of(node_view(&second, "orders")), ["clerks: web"]);
    assert_eq!(policies_of(node_view(&second, "orders")), ["allow-web-to-orders", "clerks"]);
    assert_eq!(policies_of(node_view(&second, "web")), ["of-role"]);
    // Policies that come and go one by one bring their roles and take them along.
    for batch in [
        vec![policy(
            "more",
            "forbid(principal in Role::\"unmentioned\", action, resource in Service::\"orders\");",
        )],
        vec![permit("clerks", "web", "orders")],
    ] {
        at(&mut compilations, scratch.apply(&batch).await.revision).await;
    }
    let before = Arc::clone(&compilations.borrow());
    assert_eq!(roles_of(node_view(&before, "orders")), ["unmentioned: web"]);
    let scratch = scratch.restarted().await;
    let after = Arc::clone(&scratch.compilations().await.borrow());
    let digests = |compilation: &Compilation| {
        compilation.nodes.values().map(|view| (view.digest, view.revision)).collect::<BTreeSet<_>>()
    };
    assert_eq!(digests(&after), digests(&before));
}

/// The labels of a view, such as `team: cart=stock web=checkout`.
fn labels_of(slice: &PolicySlice) -> Vec<String> {
    let last = |id: &SpiffeId| id.path().rsplit('/').next().unwrap().to_owned();
    let told = slice.labels.iter().map(|label| {
        let values = label.values.iter().map(|(node, value)| format!(" {}={value}", last(node)));
        format!("{}:{}", label.name, values.collect::<String>())
    });
    told.collect()
}

#[tokio::test]
async fn labels_travel_where_a_policy_reads_them_and_nowhere_else() {
    let scratch = Scratch::new().await;
    let mut compilations = scratch.compilations().await;
    let web = |labels: &[(&str, &str)]| {
        let mut web = node("web", [listener(8000, "http")]);
        node_spec(&mut web).backends.push(backend("orders"));
        labelled(web, labels)
    };
    let mut batch = shop();
    let by_team = |whose: &str| {
        let text = format!(
            "permit({whose}, action, resource in Service::\"orders\") when {{ principal.hasTag(\"team\") && \
             principal.getTag(\"team\") == \"checkout\" }};"
        );
        policy("by-team", &text)
    };
    batch[1] = web(&[("team", "checkout"), ("room", "1")]);
    batch.extend([
        labelled(node("cart", []), &[("team", "stock")]),
        labelled(gateway("edge"), &[("team", "shop")]),
        node("bare", []),
        by_team("principal is Node"),
    ]);
    let first = at(&mut compilations, scratch.apply(&batch).await.revision).await;
    let labels =
        |compilation: &Compilation, node: &str| labels_of(&node_body(node_view(compilation, node)).policies);
    assert_eq!(labels(&first, "orders"), ["team: edge=shop cart=stock web=checkout"]);
    assert_eq!(node_view(&first, "orders").features, ["cedar-1", "node-labels-1"]);
    for other in ["web", "cart", "bare"] {
        assert_eq!(labels(&first, other), [""; 0]);
        assert_eq!(node_view(&first, other).features, [""; 0]);
    }
    // What is not read changes no view, and what is read changes those of whom it is read.
    let second = scratch.apply(&[web(&[("team", "checkout"), ("room", "2")])]).await.revision;
    let second = at(&mut compilations, second).await;
    assert_eq!(changed(&first, &second), BTreeSet::new());
    let third = scratch.apply(&[web(&[("team", "stock"), ("room", "2")])]).await.revision;
    let third = at(&mut compilations, third).await;
    assert_eq!(changed(&second, &third), BTreeSet::from(["node orders".to_owned()]));
    assert_eq!(labels(&third, "orders"), ["team: edge=shop cart=stock web=stock"]);
    // Policies that come and go one by one bring their labels and take them along.
    let narrower = scratch.apply(&[by_team("principal == Node::\"web\"")]).await.revision;
    let narrower = at(&mut compilations, narrower).await;
    assert_eq!(labels(&narrower, "orders"), ["team: web=stock"]);
    let fifth = scratch.apply(&[labelled(node("cart", []), &[("team", "checkout")])]).await.revision;
    let fifth = at(&mut compilations, fifth).await;
    assert_eq!(changed(&narrower, &fifth), BTreeSet::new(), "cart is not who is asked about");
    let last =
        scratch.apply(&[by_team("principal in Role::\"r\""), role("r", &["cart"], &[], &[])]).await.revision;
    let last = at(&mut compilations, last).await;
    assert_eq!(labels(&last, "orders"), ["team: cart=checkout"]);
    let digest = node_view(&last, "orders").digest;
    let scratch = scratch.restarted().await;
    let after = Arc::clone(&scratch.compilations().await.borrow());
    assert_eq!(node_view(&after, "orders").digest, digest);
    let mut compilations = scratch.compilations().await;
    let none =
        at(&mut compilations, scratch.apply(&[permit("by-team", "web", "orders")]).await.revision).await;
    assert_eq!(labels(&none, "orders"), [""; 0]);
    assert_eq!(node_view(&none, "orders").features, ["cedar-1"]);
}

#[tokio::test]
async fn of_what_leaves_the_mesh_a_node_is_told_its_own_labels_alone() {
    let scratch = Scratch::new().await;
    let mut compilations = scratch.compilations().await;
    let mut batch = shop();
    let ports = vec![ExternalPort { port: Some(443), protocol: "tls".into() }];
    let hosts = vec!["api.stripe.example".into()];
    let spec = ExternalServiceSpec { hosts, ports, ..ExternalServiceSpec::default() };
    let leaves = "permit(principal is Node, action, resource in External::\"stripe\") when { principal.hasTag(\"team\") };";
    batch.extend([
        labelled(node("cart", []), &[("team", "stock")]),
        labelled(node("web2", []), &[("team", "checkout")]),
        resource("shop", "stripe", Spec::ExternalService(spec)),
        policy("leaves", leaves),
    ]);
    let first = at(&mut compilations, scratch.apply(&batch).await.revision).await;
    let labels = |compilation: &Compilation, node: &str| {
        labels_of(&node_body(node_view(compilation, node)).egress.policies)
    };
    assert_eq!(labels(&first, "cart"), ["team: cart=stock"]);
    assert_eq!(labels(&first, "web2"), ["team: web2=checkout"]);
    assert_eq!(labels(&first, "orders"), ["team:"]);
    let second = scratch.apply(&[labelled(node("cart", []), &[("team", "checkout")])]).await.revision;
    let second = at(&mut compilations, second).await;
    assert_eq!(changed(&first, &second), BTreeSet::from(["node cart".to_owned()]));
}

#[tokio::test]
async fn routes_are_in_their_classes_and_in_those_around_them() {
    let scratch = Scratch::new().await;
    let mut compilations = scratch.compilations().await;
    let mut batch = shop();
    batch.extend([
        data_class("pii", &["card"]),
        data_class("card", &[]),
        data_class("log", &[]),
        node(
            "orders",
            [classified(listener(8080, "http"), "/orders/{id}", &["card"]), listener(9090, "http")],
        ),
        policy("no-pii", "forbid(principal, action, resource in DataClass::\"pii\");"),
    ]);
    batch.remove(2);
    let classes = |compilation: &Compilation| {
        let body = node_body(node_view(compilation, "orders"));
        body.scope.ports[0].routes[0].classes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let first = at(&mut compilations, scratch.apply(&batch).await.revision).await;
    assert_eq!(classes(&first), ["card", "pii"]);
    assert_eq!(policies_of(node_view(&first, "orders")), ["allow-web-to-orders", "no-pii"]);
    assert_eq!(policies_of(node_view(&first, "web")), [""; 0]);
    assert_eq!(node_view(&first, "orders").features, ["cedar-1", "data-classes-1", "routes-1"]);
    let moved = scratch.apply(&[data_class("pii", &[]), data_class("log", &["card"])]).await.revision;
    let second = at(&mut compilations, moved).await;
    assert_eq!(classes(&second), ["card", "log"]);
    assert_eq!(policies_of(node_view(&second, "orders")), ["allow-web-to-orders"]);
}

#[tokio::test]
async fn boundaries_come_and_go_beside_policies_of_the_same_name() {
    let scratch = Scratch::new().await;
    let mut compilations = scratch.compilations().await;
    let mut batch = shop();
    let text = "forbid(principal == Node::\"web\", action, resource in Service::\"orders\");";
    batch.extend([boundary("p", text), permit("p", "web", "orders"), role("r", &["web"], &[], &[])]);
    let first = at(&mut compilations, scratch.apply(&batch).await.revision).await;
    let orders = node_view(&first, "orders");
    assert_eq!(policies_of(orders), ["allow-web-to-orders", "boundary:p", "p"]);
    assert_eq!(orders.features, ["boundaries-1", "cedar-1"]);
    let text = "forbid(principal in Role::\"r\", action, resource in Service::\"orders\");";
    at(&mut compilations, scratch.apply(&[boundary("p", &format!("{text}\n{text}"))]).await.revision).await;
    let key = ResourceKey { kind: Kind::Policy, mesh: name("shop"), name: name("p") };
    let target = crate::resources::admit::Target { key, resource_version: 0, ignore_missing: false };
    let gone = scratch.resources.delete(&owner(), &[target], false).await.unwrap().revision;
    let before = at(&mut compilations, gone).await;
    let orders = node_view(&before, "orders");
    assert_eq!(policies_of(orders), ["allow-web-to-orders", "boundary:p/1", "boundary:p/2"]);
    assert_eq!(roles_of(orders), ["r: web"]);
    let scratch = scratch.restarted().await;
    let after = Arc::clone(&scratch.compilations().await.borrow());
    assert_eq!(node_view(&after, "orders").digest, orders.digest);
}

#[tokio::test]
async fn policies_follow_their_template_at_once_and_after_a_restart() {
    let scratch = Scratch::new().await;
    let mut compilations = scratch.compilations().await;
    let mut batch = shop();
    batch.extend([
        template("t", "permit(principal == ?principal, action in Action::\"read\", resource in ?resource);"),
        linked("web-reads", "t", Some("Node::\"web\""), Some("Service::\"orders\"")),
        linked("self-reads", "t", Some("Node::\"orders\""), Some("Service::\"orders\"")),
    ]);
    at(&mut compilations, scratch.apply(&batch).await.revision).await;
    let changed = "forbid(principal == ?principal, action, resource in ?resource);";
    let changed = scratch.apply(&[template("t", changed)]).await.revision;
    let before = at(&mut compilations, changed).await;
    let texts = |compilation: &Compilation| {
        let policies = node_body(node_view(compilation, "orders")).policies.policies;
        policies.into_iter().map(|policy| format!("{} {}", policy.name, policy.text)).collect::<Vec<_>>()
    };
    let found = texts(&before);
    assert_eq!(found.len(), 3);
    assert!(
        found[1].starts_with("self-reads forbid") && found[2].starts_with("web-reads forbid"),
        "{found:?}"
    );
    let scratch = scratch.restarted().await;
    let after = Arc::clone(&scratch.compilations().await.borrow());
    assert_eq!(texts(&after), found);
    assert_eq!(node_view(&after, "orders").digest, node_view(&before, "orders").digest);
}

#[tokio::test]
async fn what_policies_ask_of_a_port_elsewhere_follows_it() {
    let scratch = Scratch::new().await;
    let mut compilations = scratch.compilations().await;
    let orders = |classes: &[&str]| {
        let listeners = [classified(listener(8080, "http"), "/orders", classes), listener(9090, "http")];
        node("orders", listeners)
    };
    let asks = |name: &str, condition: &str| {
        policy(name, &format!("forbid(principal, action, resource) when {{ {condition} }};"))
    };
    let mut batch = shop();
    batch[2] = orders(&["pii"]);
    batch.extend([
        data_class("pii", &[]),
        data_class("secret", &["pii"]),
        node("bare", []),
        asks(
            "of-port",
            "Port::\"orders:9090\" in Service::\"admin\" || Port::\"web:8000\" in Node::\"orders\"",
        ),
        asks("of-route", "Route::\"orders:8080 /orders\" in DataClass::\"secret\""),
        service("admin", "orders", Some(8080)),
    ]);
    let told = |compilation: &Compilation, node: &str| -> Vec<String> {
        let ports = node_body(node_view(compilation, node)).policies.ports;
        let told = ports.iter().map(|port| {
            let listener = port.listener.as_ref().map(|listener| {
                let services: Vec<_> = listener.services.iter().map(ToString::to_string).collect();
                let routes = listener.routes.iter().map(|(template, classes)| {
                    let classes: Vec<_> = classes.iter().map(ToString::to_string).collect();
                    format!(" {template}={}", classes.join(","))
                });
                format!(" [{}]{}", services.join(","), routes.collect::<String>())
            });
            let id = port.node.path().rsplit('/').next().unwrap();
            format!("{id}:{}{}", port.number, listener.unwrap_or(" none".to_owned()))
        });
        told.collect()
    };
    let first = at(&mut compilations, scratch.apply(&batch).await.revision).await;
    assert!(first.findings.is_empty(), "{:?}", first.findings);
    let of_orders = ["orders:8080 [admin,orders] /orders=pii,secret", "orders:9090 []"];
    assert_eq!(told(&first, "web"), of_orders);
    assert_eq!(told(&first, "orders"), ["web:8000 []"], "its own it knows");
    assert_eq!(told(&first, "bare"), [""; 0], "nothing is asked of a node without listeners");
    assert_eq!(node_view(&first, "web").features, ["cedar-1", "data-classes-1", "named-ports-1"]);
    // A service moves, and policies stay: whoever decides by it is told.
    let second = scratch.apply(&[service("admin", "orders", Some(9090))]).await.revision;
    let second = at(&mut compilations, second).await;
    assert!(changed(&first, &second).contains("node web"));
    assert_eq!(told(&second, "web"), ["orders:8080 [orders] /orders=pii,secret", "orders:9090 [admin]"]);
    // One policy alone comes or goes.
    let gone = scratch.apply(&[asks("of-port", "context.peer.federated")]).await.revision;
    let gone = at(&mut compilations, gone).await;
    assert_eq!(told(&gone, "web"), ["orders:8080 [orders] /orders=pii,secret"]);
    let third = scratch.apply(&[data_class("secret", &[])]).await.revision;
    let third = at(&mut compilations, third).await;
    assert_eq!(told(&third, "web"), ["orders:8080 [orders] /orders=pii"]);
    let anew = scratch.restarted().await;
    let after = Arc::clone(&anew.compilations().await.borrow());
    assert_eq!(node_view(&after, "web").digest, node_view(&third, "web").digest);
}

#[tokio::test]
async fn agents_are_told_for_how_long_tokens_may_live_and_when_that_changes() {
    let scratch = Scratch::new().await;
    let mut compilations = scratch.compilations().await;
    let worker = |seconds: Option<u32>| {
        let mut resource = enrolled("worker", "orders", "worker");
        if let Some(Spec::Enrollment(spec)) = &mut resource.spec {
            let life = seconds.map(|value| wire::Duration { value: Some(value), unit: "s".to_owned() });
            spec.workload.as_mut().unwrap().jwt_ttl = life;
        }
        resource
    };
    let mut batch = shop();
    batch.push(worker(Some(3_600)));
    let orders = SpiffeId::parse("spiffe://shop.example/mesh/shop/node/orders").unwrap();
    let life = |compilation: &Compilation| compilation.workloads[&orders].entries[0].jwt_ttl_ms;
    let long = at(&mut compilations, scratch.apply(&batch).await.revision).await;
    assert_eq!(life(&long), 3_600_000);
    let short = scratch.apply(&[worker(Some(60))]).await.revision;
    assert_eq!(life(&*at(&mut compilations, short).await), 60_000);
    let unsaid = scratch.apply(&[worker(None)]).await.revision;
    assert_eq!(life(&*at(&mut compilations, unsaid).await), 300_000, "as the control plane's own flag says");
}
