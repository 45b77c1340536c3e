//! A service in an attacker's hands: with its key, its agent and its way to the control plane he reaches what it was granted,
//! and nothing else.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use hauberk_identity::SpiffeId;
use hauberk_integration_tests::{Agent, AgentOptions, App, MeshBox, Response, dial, request};
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
use prost::Message;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming, transport::Channel};

use crate::{
    paths::TRICKS,
    peer::{Peer, id},
    shop::{self, get_until},
};

/// All that web is granted, beside a permit of others for others.
const GRANTS: &str = "permit(principal == Node::\"web\", action == Action::\"GET\", resource in Service::\"orders\")\n\
     when { context.path like \"/orders/*\" };\n\
     permit(principal == Node::\"orders\", action, resource);";

/// An enrollment under another node, which web must not vouch for.
const OF_ORDERS: &str = "kind: Enrollment\nmesh: shop\nname: worker\nspec:\n  parent: {virtualNode: orders}\n  \
     workload: {path: worker, selectors: ['unix:uid:0']}\n";

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE"];

/// Who the attacker says he is, wherever somebody may listen.
const CLAIMS: &str = "x-forwarded-client-cert: By=spiffe://box.test/mesh/shop/node/payments;URI=spiffe://box.test/mesh/shop/node/orders\r\n\
     hauberk-service: orders\r\nx-spiffe-id: spiffe://box.test/mesh/shop/node/orders\r\n\
     x-forwarded-for: 127.0.0.1\r\nx-original-url: /orders/1\r\nx-rewrite-url: /orders/1\r\nx-http-method-override: GET\r\n";

/// A user whom nobody sent, for an agent that gives handles and for one that reads chains.
const USER: &str = "hauberk-identity: forged\r\n";

/// How long nothing must come before it is taken for nothing.
const SILENCE: Duration = Duration::from_secs(2);

struct Attacker {
    svid: Svid,
    key: KeyPair,
    peer: Peer,
    /// The agent API, with the stolen certificate.
    agent_api: Channel,
}

impl Attacker {
    async fn with_certificate_of_web(mesh: &MeshBox) -> Self {
        let (svid, key) = dial::join(mesh, "web").await;
        let peer = Peer::with(mesh, &svid, &key);
        let agent_api = dial::channel(mesh.agent_address(), dial::bearer(mesh, svid.clone(), &key));
        Self { svid, key, peer, agent_api }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compromised_service_reaches_nothing_that_it_was_not_granted() {
    let mesh = shop::open();
    mesh.apply(OF_ORDERS);
    shop::set_policy(&mesh, "grants", GRANTS);
    let (app, vault, cache) = (App::start("orders"), App::start("payments"), App::start("cache"));
    let orders = shop::orders(&mesh, app.address());
    let payments = mesh.agent("payments", AgentOptions::default().app(8080, vault.address()));
    let redis = shop::redis(&mesh, cache.address());
    let web = mesh.agent("web", AgentOptions::default().tcp("cache:6379"));
    get_until(&web, "orders", "/orders/1", 200);
    let attacker = Attacker::with_certificate_of_web(&mesh).await;
    let granted = attacker
        .peer
        .exchange(
            "orders",
            orders.inbound(8080),
            b"GET /orders/1 HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n",
        )
        .await;
    assert!(granted.starts_with("HTTP/1.1 200 "), "his certificate is good: {granted}");

    asks_every_rpc(&mesh, &attacker).await;
    asks_for_views(&mesh, &attacker).await;
    asks_every_path(&attacker, &web, &[("orders", &orders, 8080), ("payments", &payments, 8080)]).await;
    opens_every_port(&attacker, &web, &orders, &redis).await;

    for head in app.heads() {
        let mut words = head[0].split(' ');
        assert_eq!(words.next(), Some("GET"), "{head:?}");
        let path = words.next().unwrap_or_default();
        assert!(path.starts_with("/orders/") && CanonicalPath::parse("GET", path).is_ok(), "{head:?}");
        assert!(!head.iter().any(|line| line.contains("node/payments")), "{head:?}");
    }
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
        if let Ok(signed) =
            EnrollmentClient::new(api.clone()).sign_certificate(SignCertificateRequest { csr }).await
        {
            let svid = Svid::from_der(signed.into_inner().certificate.unwrap().chain).unwrap();
            assert_eq!(*svid.id(), id("web"), "only the key is taken from a request");
        }
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
    while let Ok(Ok(Some(message))) = timeout(SILENCE, down.message()).await {
        let Some(Down::View(signed)) = message.message else { continue };
        let view = View::decode(&*signed.view).unwrap();
        let Some(Body::Node(node)) = view.body else { continue };
        seen += 1;
        assert_eq!(node.spiffe_id, id("web").as_str());
        assert!(
            node.policies.is_empty(),
            "nobody calls web, so no policy is its concern: {:?}",
            node.policies
        );
    }
    assert!(seen > 0, "the stream is a good one");
    let instances = mesh.hauberk_json(&["get", "instances", "-o", "json"]);
    let others = instances["items"].as_array().unwrap().iter().filter(|instance| instance["node"] != "web");
    for instance in others {
        assert!(!instance.to_string().contains("127.0.0.1:1\""), "{instance}");
    }
}

/// Every method and path, on each port for requests, by way of web's agent and past it.
async fn asks_every_path(attacker: &Attacker, web: &Agent, targets: &[(&str, &Agent, u16)]) {
    let plain = ["/", "/orders/1", "/orders", "/orders/../admin", "/admin", "/payments/1", "*"];
    for (service, agent, port) in targets {
        for method in METHODS {
            for path in plain.into_iter().chain(TRICKS.into_iter().step_by(5)) {
                let is_granted = *service == "orders" && method == "GET" && path == "/orders/1";
                let text = format!(
                    "{method} {path} HTTP/1.1\r\nhost: {service}\r\n{CLAIMS}{USER}content-length: 0\r\nconnection: close\r\n\r\n"
                )
                .replace("hauberk-service: orders", &format!("hauberk-service: {service}"));
                let without_user = text.replace(USER, "");
                let address = agent.inbound(*port);
                let made_up = attacker.peer.exchange(service, address, text.as_bytes()).await;
                assert!(!made_up.starts_with("HTTP/1.1 2"), "{method} {service} {path}: {made_up}");
                let past = attacker.peer.exchange(service, address, without_user.as_bytes()).await;
                let with_user = request(web.outbound(), &text).unwrap();
                let by_agent: Response = request(web.outbound(), &without_user).unwrap();
                let past_is_open = past.starts_with("HTTP/1.1 2");
                assert_eq!(past_is_open, is_granted, "{method} {service} {path}: {past}");
                assert_eq!(by_agent.status == 200, is_granted, "{method} {service} {path}: {by_agent:?}");
                assert_ne!(with_user.status, 200, "{method} {service} {path}: {with_user:?}");
                if is_granted {
                    assert_eq!(
                        with_user.header("hauberk-error"),
                        Some("identity_handle_forged"),
                        "{with_user:?}"
                    );
                }
            }
        }
    }
}

/// TCP, tunnels, other protocols and services that a port is not.
async fn opens_every_port(attacker: &Attacker, web: &Agent, orders: &Agent, redis: &Agent) {
    let tcp = web.tcp("cache:6379");
    assert_eq!(raw(tcp, b"PING\r\n").await, "");
    for alpn in [&[][..], &[&b"hauberk-tcp/1"[..]], &[b"h2"], &[b"http/1.1"]] {
        for (node, address) in [
            ("redis", redis.inbound(6379)),
            ("orders", orders.inbound(9090)),
            ("orders", orders.inbound(50051)),
            ("orders", orders.inbound(8080)),
        ] {
            let Ok(mut stream) = attacker.peer.connect(node, address, alpn).await else { continue };
            let text = b"GET /admin HTTP/1.1\r\nhost: orders\r\n\r\n";
            let answer = timeout(SILENCE * 10, crate::peer::converse(&mut stream, text)).await;
            let answer = answer.unwrap_or_default();
            assert!(!answer.starts_with("HTTP/1.1 2"), "{node} {alpn:?}: {answer}");
        }
    }
    for (lines, target) in [
        ("upgrade: websocket\r\nconnection: upgrade\r\n", "GET /orders/1"),
        ("", "CONNECT payments:8080"),
        ("", "CONNECT 127.0.0.1:22"),
        ("", "GET http://payments/"),
    ] {
        let text = format!("{target} HTTP/1.1\r\nhost: orders\r\n{lines}\r\n");
        let answer = attacker.peer.exchange("orders", orders.inbound(8080), text.as_bytes()).await;
        let is_refused = ["HTTP/1.1 4", "HTTP/1.1 5"].iter().any(|begin| answer.starts_with(begin));
        assert!(is_refused, "{target}: {answer}");
    }
}

async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    crate::peer::converse(&mut stream, bytes).await
}
