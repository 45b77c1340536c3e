//! A service in an attacker's hands: with its key, its agent and its way to the control plane he reaches what it was
//! granted, and nothing else.

use std::{collections::BTreeSet, net::SocketAddr, sync::Mutex, time::Duration};

use hauberk_identity::SpiffeId;
use hauberk_integration_tests::{Agent, AgentOptions, App, MeshBox, dial};
use hauberk_policy::CanonicalPath;
use hauberk_proto::{
    FILE_DESCRIPTOR_SET,
    agent::v1::{
        FromAgent, Hello, MintTokenRequest, MintWorkloadTokenRequest, Register, Registration,
        SignCertificateRequest, SignWorkloadCertificateRequest, Subscribe, ToAgent, View,
        enrollment_client::EnrollmentClient, from_agent::Message as Up, mesh_client::MeshClient,
        svid_tokens_client::SvidTokensClient, to_agent::Message as Down, view::Body,
        workloads_client::WorkloadsClient,
    },
};
use hauberk_tls::{CertificateRequest, KeyPair, Svid};
use http::HeaderValue;
use prost::Message;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming, transport::Channel};

use crate::{
    compromised_ports::{Users, shows_every_token, speaks_http2_and_grpc, speaks_what_ports_do_not},
    compromised_ways_out::{Outside, asks_where_probes_ask},
    identity_tokens::stolen,
    login::Login,
    partner::Partner,
    paths::TRICKS,
    peer::{Peer, id},
    shop::{self, get_until},
    streaming_app::StreamingApp,
};

/// All that web is granted, beside permits of others and for users in support.
const GRANTS: &str = "permit(principal == Node::\"web\", action == Action::\"GET\", resource in Service::\"orders\")\n\
     when { context.path like \"/orders/*\" };\n\
     permit(principal == Node::\"web\", action == Action::\"GET\", resource in Service::\"orders-h2\")\n\
     when { context.path like \"/orders/*\" };\n\
     permit(principal == Node::\"web\", action == Action::\"call\", resource in Service::\"orders-rpc\")\n\
     when { context.path == \"/shop.Orders/Get\" };\n\
     permit(principal == Node::\"web\", action in [Action::\"POST\", Action::\"call\"], resource in Node::\"orders\")\n\
     when { context has user && context.user in UserGroup::\"login/support\" };\n\
     permit(principal == Node::\"edge\", action in Action::\"http\", resource in Service::\"web\");\n\
     permit(principal == Node::\"orders\", action, resource);";

/// Users come by way of edge.
const ENTRANCE: &str = "kind: VirtualNode\nmesh: shop\nname: edge\nspec: {}\n---\nkind: VirtualNode\nmesh: shop\nname: web\nspec:\n  \
     listeners: [{portMapping: {port: 8080, protocol: http}, users: {}}]\n---\nkind: VirtualService\nmesh: shop\nname: web\nspec: \
     {provider: {virtualNode: {virtualNodeName: web}}}\n";

/// An enrollment under another node, which web must not vouch for.
const OF_ORDERS: &str = "kind: Enrollment\nmesh: shop\nname: worker\nspec:\n  parent: {virtualNode: orders}\n  \
     workload: {path: worker, selectors: ['unix:uid:0']}\n";

pub(crate) const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE"];

/// Paths that stand for themselves; every trick is tried besides.
pub(crate) const PLAIN: [&str; 7] =
    ["/", "/orders/1", "/orders", "/orders/../admin", "/admin", "/payments/1", "/refunds/1"];

/// Who the attacker says he is, wherever somebody may listen.
pub(crate) const CLAIMS: &str = "x-forwarded-client-cert: By=spiffe://box.test/mesh/shop/node/payments;URI=spiffe://box.test/mesh/shop/node/orders\r\n\
     hauberk-service: orders\r\nx-spiffe-id: spiffe://box.test/mesh/shop/node/orders\r\n\
     x-forwarded-for: 127.0.0.1\r\nx-original-url: /orders/1\r\nx-rewrite-url: /orders/1\r\nx-http-method-override: GET\r\n";

/// A user whom nobody sent, for an agent that gives handles and for one that reads chains.
pub(crate) const USER: &str = "hauberk-identity: forged\r\n";

/// How long nothing must come before it is taken for nothing.
pub(crate) const SILENCE: Duration = Duration::from_secs(2);

pub(crate) struct Attacker {
    pub(crate) svid: Svid,
    pub(crate) key: KeyPair,
    pub(crate) peer: Peer,
    /// The agent API, with the stolen certificate.
    pub(crate) agent_api: Channel,
}

impl Attacker {
    /// With a certificate that a stolen token is good for.
    async fn with_another_of_web(mesh: &MeshBox) -> Self {
        let (svid, key) = dial::join(mesh, "web").await;
        Self::with(mesh, svid, key)
    }

    /// With the very key and certificate that web's agent has.
    fn with_its_own(mesh: &MeshBox, web: &Agent) -> Self {
        let (svid, key) = stolen(web);
        Self::with(mesh, svid, key)
    }

    fn with(mesh: &MeshBox, svid: Svid, key: KeyPair) -> Self {
        let peer = Peer::with(mesh, &svid, &key);
        let agent_api = dial::channel(mesh.agent_address(), dial::bearer(mesh, svid.clone(), &key));
        Self { svid, key, peer, agent_api }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compromised_service_reaches_nothing_that_it_was_not_granted() {
    let mesh = shop::open();
    let (login, partner) = (Login::new("login"), Partner::new(1));
    mesh.apply(&format!("{OF_ORDERS}---\n{ENTRANCE}---\n{}---\n{}", login.resource(""), partner.resource()));
    shop::set_policy(&mesh, "grants", GRANTS);
    let (app, vault, cache) = (StreamingApp::start(), App::start("payments"), App::start("cache"));
    let web_app = App::start("web");
    let orders = shop::orders(&mesh, app.address());
    let payments = mesh.agent("payments", AgentOptions::default().app(8080, vault.address()));
    let redis = shop::redis(&mesh, cache.address());
    let calls = AgentOptions::default().app(8080, web_app.address()).tcp("cache:6379");
    let web = mesh.agent("web", calls);
    let edge = shop::caller(&mesh, "edge");
    let outside = Outside::of_orders(&mesh, &orders);
    get_until(&web, "orders", "/orders/1", 200);
    let users = Users { login, partner, edge, web_app };
    let own = Attacker::with_its_own(&mesh, &web);
    let another = Attacker::with_another_of_web(&mesh).await;
    for attacker in [&own, &another] {
        let granted = b"GET /orders/1 HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n";
        let granted = attacker.peer.exchange("orders", orders.inbound(8080), granted).await;
        assert!(granted.starts_with("HTTP/1.1 200 "), "his certificate is good: {granted}");
        speaks_http2_and_grpc(&attacker.peer, &orders).await;
        speaks_what_ports_do_not(&attacker.peer, &web, &orders, &redis).await;
        shows_every_token((&mesh, attacker), &users, (&web, &orders, &payments)).await;
    }
    outside.is_closed_to(&web);
    asks_where_probes_ask(&mesh, &[&web, &orders, &payments, &redis]);
    Box::pin(asks_every_path(&own, &web, &[("orders", &orders, 8080), ("payments", &payments, 8080)])).await;
    // Last: of an instance the control plane hears one stream, and his would be in its agent's place.
    for attacker in [&another, &own] {
        asks_every_rpc(&mesh, attacker).await;
        asks_for_views(&mesh, attacker).await;
    }

    for seen in app.requests() {
        let path = CanonicalPath::parse(seen.method.as_str(), &seen.target);
        assert!(path.is_ok_and(|path| path.target() == seen.target), "{seen:?}");
        let is_granted = match (seen.method.as_str(), seen.target.as_str()) {
            ("GET", path) => path.starts_with("/orders/"),
            ("POST", path) => ["/refunds/alice", "/shop.Orders/Get", "/shop.Orders/Refund"].contains(&path),
            _ => false,
        };
        assert!(is_granted, "{seen:?}");
        let lies = |value: &HeaderValue| value.to_str().is_ok_and(|value| value.contains("node/payments"));
        assert!(!seen.headers.values().any(lies), "{seen:?}");
    }
    let refunds = app.requests().iter().filter(|seen| seen.target.contains("efund")).count();
    assert_eq!(refunds, 2 * 4, "those that alice came for, on three ports, once through web's agent");
    assert_eq!((vault.requests(), cache.requests()), (0, 0), "{:?} {:?}", vault.heads(), cache.heads());
}

/// The agent API answers for web alone, and the admin API not at all.
async fn asks_every_rpc(mesh: &MeshBox, attacker: &Attacker) {
    let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut known: BTreeSet<String> = BTreeSet::new();
    let admin_api =
        dial::channel(mesh.admin_address(), dial::bearer(mesh, attacker.svid.clone(), &attacker.key));
    for file in &set.file {
        for (service, method) in
            file.service.iter().flat_map(|service| service.method.iter().map(move |method| (service, method)))
        {
            let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
            match file.package() {
                "hauberk.agent.v1" => drop(known.insert(path)),
                "hauberk.admin.v1" => {
                    for api in [&admin_api, &attacker.agent_api] {
                        let code = call(api, &path).await;
                        let is_refused = matches!(
                            code,
                            Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented
                        );
                        assert!(is_refused, "{path}: {code:?}");
                    }
                }
                _ => {}
            }
        }
    }
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        for api in [&admin_api, &attacker.agent_api] {
            let code = call(api, &path).await;
            let is_refused =
                matches!(code, Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented);
            assert!(is_refused, "{path}: {code:?}");
        }
    }
    // Each of these is tried below or in `asks_for_views`; one that is new must be as well.
    let tried = [
        "/hauberk.agent.v1.Enrollment/Attest",
        "/hauberk.agent.v1.Enrollment/SignCertificate",
        "/hauberk.agent.v1.Mesh/Sync",
        "/hauberk.agent.v1.SvidTokens/MintToken",
        "/hauberk.agent.v1.Workloads/MintToken",
        "/hauberk.agent.v1.Workloads/SignCertificate",
    ];
    assert_eq!(known.iter().map(String::as_str).collect::<Vec<_>>(), tried);

    let api = attacker.agent_api.clone();
    let names = [id("payments"), SpiffeId::parse("spiffe://box.test/control-plane/1").unwrap()];
    for name in &names {
        let mut wanted = rcgen::CertificateParams::new(vec!["control-plane.test".to_owned()]).unwrap();
        wanted.subject_alt_names.push(rcgen::SanType::URI(name.as_str().try_into().unwrap()));
        wanted.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let csr = wanted.serialize_request(&key).unwrap().der().to_vec();
        let signed =
            EnrollmentClient::new(api.clone()).sign_certificate(SignCertificateRequest { csr }).await;
        assert_eq!(signed.unwrap_err().code(), Code::InvalidArgument, "{name}");
    }
    let token = SvidTokensClient::new(api.clone())
        .mint_token(MintTokenRequest { audience: vec!["payments".to_owned()] })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(token.spiffe_id, id("web").as_str());
    let mut workloads = WorkloadsClient::new(api);
    for enrollment in ["worker", "nothing", "../orders", ""] {
        let enrollment = enrollment.to_owned();
        let csr = CertificateRequest::create(&KeyPair::generate().unwrap()).unwrap();
        let request = SignWorkloadCertificateRequest { enrollment: enrollment.clone(), csr };
        let refused = workloads.sign_certificate(request).await.unwrap_err();
        assert!(
            matches!(refused.code(), Code::PermissionDenied | Code::NotFound | Code::InvalidArgument),
            "{refused}"
        );
        let request = MintWorkloadTokenRequest { enrollment, audience: vec!["a".to_owned()] };
        let refused = workloads.mint_token(request).await.unwrap_err();
        assert!(
            matches!(refused.code(), Code::PermissionDenied | Code::NotFound | Code::InvalidArgument),
            "{refused}"
        );
    }
}

async fn call(channel: &Channel, path: &str) -> Code {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let request = tonic::Request::new(prost_types::Value::default());
    let codec = tonic_prost::ProstCodec::<prost_types::Value, prost_types::Value>::default();
    match client.server_streaming(request, path.parse().unwrap(), codec).await {
        Err(status) => status.code(),
        Ok(mut streaming) => match timeout(SILENCE, streaming.get_mut().message()).await {
            Ok(Err(status)) => status.code(),
            Ok(Ok(_)) | Err(_) => Code::Ok,
        },
    }
}

/// A stream shows web's own view and how services are reached; ports of others are not his to answer for.
async fn asks_for_views(mesh: &MeshBox, attacker: &Attacker) {
    let (up, waiting) = mpsc::channel(16);
    let say = async |message| up.send(FromAgent { message: Some(message) }).await.unwrap();
    say(Up::Hello(Hello::default())).await;
    let add = ["orders", "payments", "cache", "web"].map(str::to_owned).to_vec();
    say(Up::Subscribe(Subscribe { add, remove: Vec::new() })).await;
    let listener_port = 8080;
    let ports = vec![Registration { listener_port, address: "127.0.0.1:1".to_owned(), healthy: true }];
    say(Up::Register(Register { ports, draining: false })).await;
    let down: Streaming<ToAgent> = MeshClient::new(attacker.agent_api.clone())
        .sync(ReceiverStream::new(waiting))
        .await
        .unwrap()
        .into_inner();
    let mut down = down;
    let mut seen = 0;
    let patience = |seen| if seen == 0 { shop::PATIENCE } else { SILENCE };
    while let Ok(Ok(Some(message))) = timeout(patience(seen), down.message()).await {
        let Some(Down::View(signed)) = message.message else { continue };
        let view = View::decode(&*signed.view).unwrap();
        let Some(Body::Node(node)) = view.body else { continue };
        seen += 1;
        assert_eq!(node.spiffe_id, id("web").as_str());
        // Who may call web itself: edge, and orders, which may call everybody.
        let names: Vec<&str> = node.policies.iter().map(|policy| policy.name.as_str()).collect();
        assert!(names.is_empty() || names == ["grants/5", "grants/6"], "{:?}", node.policies);
    }
    assert!(seen > 0, "the stream is a good one");
    let instances = mesh.hauberk_json(&["get", "instances", "-o", "json"]);
    let others = instances["items"].as_array().unwrap().iter().filter(|instance| instance["node"] != "web");
    for instance in others {
        assert!(!instance.to_string().contains("127.0.0.1:1\""), "{instance}");
    }
}

/// Every method and path, on each port for requests, by way of web's agent and past it. Tricks of paths by one method
/// that reads and one that writes.
async fn asks_every_path(attacker: &Attacker, web: &Agent, targets: &[(&str, &Agent, u16)]) {
    let paths = |method: &str| {
        let tricks = if matches!(method, "GET" | "POST") { &TRICKS[..] } else { &[] };
        PLAIN.into_iter().chain(["*"]).chain(tricks.iter().copied())
    };
    let asked = targets.iter().flat_map(|target| {
        METHODS.into_iter().flat_map(move |method| paths(method).map(move |path| (target, method, path)))
    });
    let waiting = Mutex::new(asked);
    let next = || waiting.lock().unwrap().next();
    // A few at once: it is handshakes that take long.
    let asking = async || {
        while let Some(((service, agent, port), method, path)) = next() {
            asks(attacker, web, service, agent.inbound(*port), method, path).await;
        }
    };
    tokio::join!(asking(), asking(), asking(), asking());
}

async fn asks(
    attacker: &Attacker,
    web: &Agent,
    service: &str,
    address: SocketAddr,
    method: &str,
    path: &str,
) {
    let is_granted = service == "orders" && method == "GET" && path == "/orders/1";
    let text = format!(
        "{method} {path} HTTP/1.1\r\nhost: {service}\r\n{CLAIMS}{USER}content-length: 0\r\nconnection: close\r\n\r\n"
    )
    .replace("hauberk-service: orders", &format!("hauberk-service: {service}"));
    let without_user = text.replace(USER, "");
    let by_agent = async |text: &str| {
        let mut stream = tokio::net::TcpStream::connect(web.outbound()).await.unwrap();
        crate::peer::converse(&mut stream, text.as_bytes()).await
    };
    let (made_up, past, with_user, by_agent) = tokio::join!(
        attacker.peer.exchange(service, address, text.as_bytes()),
        attacker.peer.exchange(service, address, without_user.as_bytes()),
        by_agent(&text),
        by_agent(&without_user),
    );
    let is_good = |answer: &str| answer.starts_with("HTTP/1.1 2");
    assert!(!is_good(&made_up), "{method} {service} {path}: {made_up}");
    assert_eq!(is_good(&past), is_granted, "{method} {service} {path}: {past}");
    assert_eq!(is_good(&by_agent), is_granted, "{method} {service} {path}: {by_agent}");
    assert!(!is_good(&with_user), "{method} {service} {path}: {with_user}");
    if is_granted {
        assert!(with_user.contains("hauberk-error: identity_handle_forged"), "{with_user}");
    }
}
