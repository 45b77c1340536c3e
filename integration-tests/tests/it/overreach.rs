//! Agents that ask for what is another's, by every RPC that they may call.

use hauberk_integration_tests::{AgentOptions, App, MeshBox, dial, eventually};
use hauberk_proto::agent::v1::{
    FromAgent, Hello, MintTokenRequest, Register, Registration, SignCertificateRequest,
    SignWorkloadCertificateRequest, enrollment_client::EnrollmentClient, from_agent::Message,
    mesh_client::MeshClient, svid_tokens_client::SvidTokensClient, workloads_client::WorkloadsClient,
};
use hauberk_tls::{CertificateRequest, KeyPair, Svid};
use rcgen::{BasicConstraints, CertificateParams, IsCa, SanType};
use serde_json::Value;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, transport::Channel};

use crate::shop::{self, PATIENCE, SMALL_SHOP, get_until};

const INTRUDER: &str = "spiffe://box.test/mesh/shop/node/intruder";

/// An enrollment that is not the intruder's.
const WORKER: &str = "
kind: Enrollment
mesh: shop
name: worker
spec: {parent: {virtualNode: web}, workload: {path: worker, selectors: [\"unix:uid:0\"]}}
";

/// Whom the intruder would like to be.
const OTHERS: [&str; 7] = [
    "spiffe://box.test/mesh/shop/node/orders",
    "spiffe://box.test/mesh/other/node/intruder",
    "spiffe://box.test/mesh/shop/gateway/intruder",
    "spiffe://box.test/workload/worker",
    "spiffe://box.test/control-plane/one",
    "spiffe://box.test/admin/admin",
    "spiffe://other.test/mesh/shop/node/intruder",
];

async fn intruder() -> (MeshBox, Channel) {
    let mesh = MeshBox::start();
    mesh.apply(SMALL_SHOP);
    mesh.apply(WORKER);
    let (svid, key) = dial::join(&mesh, "intruder").await;
    let channel = dial::channel(mesh.agent_address(), dial::bearer(&mesh, svid, &key));
    (mesh, channel)
}

/// All whom certificates name.
fn named(mesh: &MeshBox) -> Vec<String> {
    let listed = mesh.hauberk_json(&["get", "certificates", "-o", "json"]);
    let ids =
        listed["items"].as_array().unwrap().iter().map(|one| one["spiffeId"].as_str().unwrap().to_owned());
    ids.collect()
}

fn csr_for(key: &KeyPair, names: &[&str], as_authority: bool) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names.iter().map(|name| SanType::URI((*name).try_into().unwrap())).collect();
    if as_authority {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    params.serialize_request(key).unwrap().der().to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_whose_request_names_others_is_refused() {
    let (mesh, channel) = intruder().await;
    let before = named(&mesh);
    let key = KeyPair::generate().unwrap();
    for (number, other) in OTHERS.into_iter().enumerate() {
        // In turn.
        let names = match number % 3 {
            0 => vec![other],
            1 => vec![other, INTRUDER],
            _ => vec![INTRUDER, other],
        };
        let request = SignCertificateRequest { csr: csr_for(&key, &names, number % 2 == 0) };
        let refused = EnrollmentClient::new(channel.clone()).sign_certificate(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{names:?}: {refused}");
        let reason = hauberk_proto::refusal::reason(&refused);
        assert_eq!(reason.as_deref(), Some("REQUEST_NOT_GRANTED"), "{names:?}");
    }
    assert_eq!(named(&mesh).len(), before.len(), "nobody was certified");
    // Whoever asks for its own name is given that, and reading it takes exactly one URI among its names.
    let request = SignCertificateRequest { csr: csr_for(&key, &[INTRUDER], false) };
    let renewed = EnrollmentClient::new(channel.clone()).sign_certificate(request).await.unwrap();
    let certificate = renewed.into_inner().certificate.unwrap();
    assert_eq!(Svid::from_der(certificate.chain).unwrap().id().as_str(), INTRUDER);
    assert_eq!(certificate.spiffe_id, INTRUDER);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_thousand_asks_for_others_workloads_none_is_heard() {
    let (mesh, channel) = intruder().await;
    let before = named(&mesh).len();
    let csr = CertificateRequest::create(&KeyPair::generate().unwrap()).unwrap();
    let spellings = ["worker", "WORKER", "shop/worker", "../worker", "worker\u{0}", "worker ", "", "none"];
    let mut asking = JoinSet::new();
    for worker in 0..8 {
        let (mut client, csr) = (WorkloadsClient::new(channel.clone()), csr.clone());
        asking.spawn(async move {
            for number in 0..125 {
                let enrollment = spellings[(worker + number) % spellings.len()].to_owned();
                let request = SignWorkloadCertificateRequest { enrollment, csr: csr.clone() };
                let refused = client.sign_certificate(request).await.unwrap_err();
                assert!(
                    matches!(
                        refused.code(),
                        Code::PermissionDenied | Code::InvalidArgument | Code::ResourceExhausted
                    ),
                    "{refused}"
                );
            }
        });
    }
    asking.join_all().await;
    assert_eq!(named(&mesh).len(), before, "0 issued");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_names_its_caller_whomever_it_is_for() {
    let (_mesh, channel) = intruder().await;
    for other in OTHERS {
        let request = MintTokenRequest { audience: vec![other.to_owned()] };
        let minted = SvidTokensClient::new(channel.clone()).mint_token(request).await.unwrap().into_inner();
        assert_eq!(minted.spiffe_id, INTRUDER);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_registers_for_another() {
    let (mesh, channel) = intruder().await;
    let app = App::start("orders");
    let _orders = mesh.agent("orders", AgentOptions::default().app(8080, app.address()));
    let web = shop::caller(&mesh, "web");
    let traps = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    traps.set_nonblocking(true).unwrap();
    let (up, waiting) = mpsc::channel(4);
    let say = async |message| up.send(FromAgent { message: Some(message) }).await.unwrap();
    say(Message::Hello(Hello::default())).await;
    // The port of orders, where the intruder waits.
    let address = traps.local_addr().unwrap().to_string();
    let port = Registration { listener_port: 8080, address, healthy: true };
    say(Message::Register(Register { ports: vec![port], draining: false })).await;
    let mut down = MeshClient::new(channel).sync(ReceiverStream::new(waiting)).await.unwrap().into_inner();
    // What comes first is answered before what was said afterwards is.
    assert!(down.message().await.unwrap().is_some());
    eventually("the intruder is connected", PATIENCE, || {
        let listed = mesh.hauberk_json(&["get", "instances", "-o", "json"]);
        let of = |one: &&Value| one["node"] == "intruder" && one["connected"] == true;
        listed["items"].as_array().unwrap().iter().find(of).map(drop)
    });
    for _ in 0..50 {
        get_until(&web, "orders", "/", 200);
    }
    assert_eq!(app.requests(), 50);
    assert!(traps.accept().is_err(), "nobody was sent there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_too_long_are_refused_and_harm_nobody() {
    let (_mesh, channel) = intruder().await;
    let good = CertificateRequest::create(&KeyPair::generate().unwrap()).unwrap();
    for length in [65_537, 1 << 20, 5 << 20] {
        let mut client = EnrollmentClient::new(channel.clone());
        let request = SignCertificateRequest { csr: vec![0x30; length] };
        let refused = client.sign_certificate(request).await.unwrap_err();
        let codes = [Code::InvalidArgument, Code::OutOfRange, Code::ResourceExhausted];
        assert!(codes.contains(&refused.code()), "{length}: {refused}");
        client.sign_certificate(SignCertificateRequest { csr: good.clone() }).await.unwrap();
    }
}
