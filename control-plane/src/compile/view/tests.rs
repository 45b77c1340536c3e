use std::time::Duration;

use hauberk_identity::{Serial, UnixMillis, Validity};
use hauberk_proto::convert::Body;
use hauberk_proto::mesh::v1 as wire;
use hauberk_proto::mesh::v1::{Resource, resource::Spec};
use hauberk_tls::jwt::JwtBundle;
use hauberk_tls::{RootAuthority, TrustBundle, bundle_document};

use super::*;
use crate::resources::testing::*;

/// What no view of a node needs: it is of denylists, or of services.
const NOT_OF_NODES: [&str; 3] = [features::DENIED_INSTANCES, features::DNS, features::FIXED];

/// Another trust domain with one root more than every agent takes.
fn many_roots() -> Resource {
    let other = TrustDomain::parse("partner.example").unwrap();
    let begins = UnixMillis(1_790_000_000_000);
    let validity = Validity::new(begins, begins.plus(Duration::from_secs(86_400))).unwrap();
    let key = |serial: usize| {
        let serial = Serial::from_random([u8::try_from(100 + serial).unwrap(); 16]);
        let root = RootAuthority::create(&other, validity, serial).unwrap();
        let root = TrustBundle::new(other.clone(), [root.certificate().clone()]).unwrap();
        let none = JwtBundle::new(other.clone(), []).unwrap();
        let one: serde_json::Value =
            serde_json::from_str(&bundle_document(&root, &none, None, None)).unwrap();
        one["keys"][0].clone()
    };
    let keys: Vec<_> = (0..=features::FEW_ROOTS).map(key).collect();
    let trust_domain_bundle = serde_json::json!({ "keys": keys }).to_string();
    let spec = wire::FederatedTrustDomainSpec { trust_domain_bundle, ..Default::default() };
    resource("shop", "partner.example", Spec::FederatedTrustDomain(spec))
}

/// Everything that some node's view needs more for than a mesh without policies does, each by itself.
fn changes() -> Vec<Vec<Resource>> {
    let asking = |condition: &str| {
        policy(
            "asks",
            &format!("forbid(principal, action in Action::\"http\", resource) when {{ {condition} }};"),
        )
    };
    let serving = |change: &dyn Fn(&mut wire::Listener)| {
        let mut listener = listener(80, "http");
        change(&mut listener);
        node("store", [listener])
    };
    let ports = vec![wire::ExternalPort { port: Some(443), protocol: "tls".into() }];
    let hosts = vec!["api.bank.example".into()];
    let external = wire::ExternalServiceSpec { hosts, ports, ..Default::default() };
    let external = || resource("shop", "bank", Spec::ExternalService(external.clone()));
    let max_view_age = Some(wire::Duration { value: Some(60), unit: "s".into() });
    let ageing = Spec::MeshSpec(wire::MeshSpec { max_view_age, ..Default::default() });
    let audited = wire::PolicySpec {
        cedar: "forbid(principal, action, resource in Service::\"orders\");".into(),
        mode: Some("AUDIT".into()),
        ..Default::default()
    };
    let login = || issuer("login", |_| {});
    let mut calls = listener(50_051, "grpc");
    let read = wire::RouteDeclaration {
        path: "shop.Stock/Count".into(),
        access: Some("READ".into()),
        ..Default::default()
    };
    calls.routes.push(read);
    vec![
        vec![asking("context.path like \"/a*\"")],
        vec![asking("context.host == \"a.example\"")],
        vec![asking("principal in Role::\"clerks\""), role("clerks", &["web"], &[], &[])],
        vec![asking("principal.hasTag(\"team\")"), labelled(node("cart", []), &[("team", "stock")])],
        vec![asking("Port::\"orders:8080\" in Service::\"orders\"")],
        vec![asking("resource in DataClass::\"pii\""), data_class("pii", &[])],
        vec![asking("context has user"), login()],
        vec![login()],
        vec![issuer("login", |spec| spec.audience_claim = Some("client_id".into()))],
        vec![external()],
        vec![policy("leaves", "forbid(principal, action, resource in External::\"bank\");"), external()],
        vec![many_roots()],
        vec![resource("", "shop", ageing)],
        vec![resource("shop", "audited", Spec::Policy(audited))],
        vec![boundary("never", "forbid(principal, action, resource in Service::\"orders\");")],
        vec![node("store", [calls])],
        vec![policy(
            "calls",
            "forbid(principal, action, resource) when { context has params && context.params.hasTag(\"id\") };",
        )],
        vec![serving(&|listener| listener.authorization = Some("AUDIT".into()))],
        vec![serving(&|listener| listener.undeclared = Some("DENY".into()))],
        vec![serving(&|listener| {
            listener.path_with_escaped_slashes_action = Some("KEEP_UNCHANGED".into());
        })],
        vec![node("store", [routes(listener(80, "http"), &["/files/{name}"])])],
        vec![node("store", [routes(listener(80, "http"), &["/files/{name}.json"])])],
        vec![node("store", [classified(listener(80, "http"), "/a", &["pii"])]), data_class("pii", &[])],
        vec![node("store", [for_users(listener(80, "http"), "REQUIRED", &[])]), login()],
    ]
}

#[test]
fn apply_asks_of_agents_whatever_the_views_of_their_nodes_need() {
    let mesh = Name::parse("shop").unwrap();
    let mut met = BTreeSet::new();
    for change in changes() {
        let names: Vec<_> = change.iter().map(|resource| resource.name.clone()).collect();
        let mut batch = shop();
        batch.retain(|resource| {
            !matches!(resource.spec, Some(Spec::Policy(_)))
                && !change.iter().any(|new| new.mesh == resource.mesh && new.name == resource.name)
        });
        batch.extend(change);
        let after = catalog_of(&batch);
        let resources = after.mesh("shop").unwrap();
        let keys: Vec<_> = Kind::ALL
            .into_iter()
            .flat_map(|kind| resources.of_kind(kind).keys().map(move |name| (kind, name.clone())))
            .map(|(kind, name)| ResourceKey { kind, mesh: mesh.clone(), name })
            .collect();
        let before = Catalog::default();
        let asked: BTreeMap<_, _> =
            needed_features(&trust_domain(), &before, &after, keys.iter()).into_iter().collect();
        let domain = trust_domain();
        let views = MeshViews::new(&domain, &mesh, resources);
        for (name, node) in resources.nodes_and_gateways() {
            let asked = asked.get(&name.spiffe_id(&domain, &mesh)).map(Vec::as_slice).unwrap_or_default();
            for feature in features::needed(&Body::Node(views.node(&name, node))) {
                assert!(asked.contains(&feature), "{names:?}: the view of {name:?} needs {feature}");
                met.insert(feature);
            }
        }
    }
    let others = features::ALL.into_iter().filter(|feature| !NOT_OF_NODES.contains(feature));
    let unmet: Vec<_> = others.filter(|feature| !met.contains(feature)).collect();
    assert_eq!(unmet, [""; 0], "a feature of nodes' views is looked at by none of the changes");
}
