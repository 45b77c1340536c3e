//! Joining by evidence: what a machine proves of itself, to a real control plane, by a real agent.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use hauberk_integration_tests::{Agent, AgentOptions, MeshBox, dial, skip};
use hauberk_proto::agent::v1::{
    AttestRequest, AttestResponse, EnrollmentName, SignCertificateRequest, X509PopProof,
    attest_request::Evidence, enrollment_client::EnrollmentClient,
};
use hauberk_tls::{
    CertificateRequest, KeyPair,
    device::{ChannelBinding, DeviceKey, statement},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyUsagePurpose};
use serde_json::json;
use tonic::{Code, Status, transport::Channel};

use crate::enrollment::{ORDERS, shop, svid};
use crate::shop::SMALL_SHOP;

/// An authority of machines.
pub(crate) struct Machines {
    issuer: Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Machines {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "machines");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Certificate and key of a machine, in PEM.
    pub(crate) fn machine(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = rcgen::KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// `node` is one, or `gateway/edge`.
    pub(crate) fn enrollment(&self, node: &str, selector: &str) -> String {
        let becomes = match node.strip_prefix("gateway/") {
            Some(gateway) => format!("virtualGateway: {gateway}"),
            None => format!("virtualNode: {node}"),
        };
        let ca = self.pem.replace('\n', "\n        ");
        format!(
            "kind: Enrollment\nmesh: shop\nname: machines\nspec:\n  attest:\n    x509pop:\n      ca: |\n        {ca}\n    \
             rules:\n    - {{{becomes}, selectors: ['{selector}']}}\n"
        )
    }
}

fn device((certificate, key): &(String, String)) -> DeviceKey {
    DeviceKey::from_pem(certificate, key.as_bytes()).unwrap()
}

fn proof(device: &DeviceKey, name: &ChannelBinding, key: &KeyPair) -> X509PopProof {
    let signature = device.prove(&statement(name, &key.public_key(), "shop", "machines")).unwrap();
    X509PopProof { chain: device.chain().iter().map(|der| der.to_vec()).collect(), signature }
}

async fn show(channel: Channel, proof: X509PopProof, key: &KeyPair) -> Result<AttestResponse, Status> {
    let request = AttestRequest {
        csr: CertificateRequest::create(key).unwrap(),
        evidence: Some(Evidence::X509pop(proof)),
        agent: None,
        enrollment: Some(EnrollmentName { mesh: "shop".to_owned(), name: "machines".to_owned() }),
        former: None,
    };
    EnrollmentClient::new(channel).attest(request).await.map(tonic::Response::into_inner)
}

pub(crate) fn written(mesh: &MeshBox, name: &str, (certificate, key): &(String, String)) -> [PathBuf; 2] {
    let files = [mesh.folder().join(format!("{name}.pem")), mesh.folder().join(format!("{name}.key"))];
    fs::write(&files[0], certificate).unwrap();
    fs::write(&files[1], key).unwrap();
    files
}

#[test]
fn an_agent_joins_by_its_machines_certificate_and_the_admin_sees_what_it_was_let_in_by() {
    let (mesh, ca) = (shop(), Machines::new());
    mesh.apply(&ca.enrollment("web", "x509pop:subject:cn:vm-1"));
    let [certificate, key] = written(&mesh, "vm-1", &ca.machine("vm-1"));
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let options = showing("shop/machines", &["--x509pop-certificate", certificate, "--x509pop-key", key]);
    let _agent = mesh.agent("web", options);

    let described = shown_by(&mesh);
    for fact in
        ["x509pop evidence, enrollment/machines", "x509pop:subject:cn:vm-1", "x509pop:ca:fingerprint:"]
    {
        assert!(described.contains(fact), "{fact}: {described}");
    }
    let described = mesh.hauberk(&["describe", "enrollment", "machines"]).ok().stdout;
    assert!(described.contains("virtualnode/web, for evidence of which"), "{described}");
    let listed = mesh.hauberk(&["get", "enrollments"]).ok().stdout;
    assert!(listed.contains("x509pop") && listed.contains("virtualnode/web"), "{listed}");
    let refused = mesh.hauberk(&["delete", "virtualnode", "web"]);
    assert!(refused.stderr.contains("still used by enrollment \"machines\""), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_that_was_overheard_is_worth_nothing_on_another_connection() {
    let (mesh, ca) = (shop(), Machines::new());
    mesh.apply(&ca.enrollment("orders", "x509pop:subject:cn:vm-1"));
    let (machine, key) = (device(&ca.machine("vm-1")), KeyPair::generate().unwrap());
    let (channel, name) = dial::named_stranger(&mesh).await;
    let good = proof(&machine, &name, &key);
    let (other, _) = dial::named_stranger(&mesh).await;
    let refused = show(other, good.clone(), &key).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(!refused.message().contains("proof"), "the caller is told no more than that: {refused}");
    let stolen = show(channel.clone(), good.clone(), &KeyPair::generate().unwrap()).await.unwrap_err();
    assert_eq!(stolen.code(), Code::PermissionDenied, "{stolen}");
    let answer = show(channel.clone(), good.clone(), &key).await.unwrap();
    assert_eq!(svid(&answer).id().as_str(), ORDERS);
    let again = show(channel, good, &key).await.unwrap();
    assert_eq!(again.instance_id, answer.instance_id);
    let log = mesh.hauberk(&["audit", "list", "--action", "enrollment.attest", "-o", "json"]).ok().stdout;
    assert!(log.contains("proof of possession"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_the_enrollment_no_longer_lets_in_does_not_renew() {
    let (mesh, ca) = (shop(), Machines::new());
    mesh.apply(&ca.enrollment("orders", "x509pop:subject:cn:vm-1"));
    let (machine, key) = (device(&ca.machine("vm-1")), KeyPair::generate().unwrap());
    let (channel, name) = dial::named_stranger(&mesh).await;
    let answer = show(channel, proof(&machine, &name, &key), &key).await.unwrap();
    let mut renewal =
        EnrollmentClient::new(dial::channel(mesh.agent_address(), dial::bearer(&mesh, svid(&answer), &key)));
    let request = || SignCertificateRequest { csr: CertificateRequest::create(&key).unwrap() };
    renewal.sign_certificate(request()).await.unwrap();
    mesh.apply(&ca.enrollment("orders", "x509pop:subject:cn:vm-2"));
    let refused = renewal.sign_certificate(request()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    mesh.apply(&ca.enrollment("orders", "x509pop:subject:cn:vm-1"));
    renewal.sign_certificate(request()).await.unwrap();
}

/// An agent that shows something of its own.
pub(crate) fn showing(enrollment: &str, more: &[&str]) -> AgentOptions {
    let options = AgentOptions::default().argument("--enrollment").argument(enrollment);
    more.iter().fold(options, |options, argument| options.argument(argument))
}

fn shown_by(mesh: &MeshBox) -> String {
    let listed = mesh.hauberk_json(&["get", "instances", "-o", "json"]);
    let id = listed["items"][0]["id"].as_str().unwrap_or_else(|| panic!("{listed}")).to_owned();
    mesh.hauberk(&["describe", "instance", &id]).ok().stdout
}

#[test]
fn an_agent_joins_by_its_pods_token() {
    let mesh = shop();
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let point = pair.public_key().as_ref();
    let (x, y) = (part(&point[1..33]), part(&point[33..]));
    mesh.apply(&format!(
        "kind: Enrollment\nmesh: shop\nname: pods\nspec:\n  attest:\n    kubernetes:\n      issuer: https://cluster.test\n      \
         jwks: '{{\"keys\":[{{\"kty\":\"EC\",\"crv\":\"P-256\",\"kid\":\"k\",\"x\":\"{x}\",\"y\":\"{y}\"}}]}}'\n    rules:\n    - \
         {{virtualNode: web, selectors: ['k8s:ns:shop', 'k8s:sa:orders']}}\n"
    ));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({
        "iss": "https://cluster.test", "aud": ["hauberk"], "iat": now, "nbf": now, "exp": now + 3600,
        "sub": "system:serviceaccount:shop:orders",
        "kubernetes.io": {
            "namespace": "shop", "serviceaccount": {"name": "orders", "uid": "1"}, "pod": {"name": "orders-0", "uid": "2"},
        },
    });
    let header = json!({"alg": "ES256", "kid": "k"});
    let signed = format!("{}.{}", part(header.to_string().as_bytes()), part(claims.to_string().as_bytes()));
    let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    let file = mesh.folder().join("pod-token");
    fs::write(&file, format!("{signed}.{}", part(signature.as_ref()))).unwrap();
    let _agent =
        mesh.agent("web", showing("shop/pods", &["--kubernetes-token-file", file.to_str().unwrap()]));
    let described = shown_by(&mesh);
    assert!(described.contains("kubernetes evidence, enrollment/pods"), "{described}");
    assert!(described.contains("k8s:pod-name:orders-0"), "{described}");
    // The token is nobody's to read.
    assert!(!mesh.hauberk(&["audit", "list", "-o", "json"]).ok().stdout.contains(&signed));
}

/// A metadata service that answers in sessions of version 2.
fn metadata_service(document: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = String::new();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            while !head.ends_with("\r\n\r\n") && lines.read_line(&mut head).unwrap_or(0) > 0 {}
            let head = head.to_lowercase();
            let body = match () {
                () if head.starts_with("put /latest/api/token ") => "session",
                () if head.contains("x-aws-ec2-metadata-token: session") => document.as_str(),
                () => "",
            };
            let status = if body.is_empty() { "401 Unauthorized" } else { "200 OK" };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _gone = stream.write_all(answer.as_bytes());
        }
    });
    address
}

#[test]
fn an_agent_joins_by_its_instances_identity_document() {
    let mesh = shop();
    let folder = mesh.folder().to_owned();
    let openssl =
        |arguments: &str| Command::new("openssl").args(arguments.split(' ')).current_dir(&folder).output();
    let content = r#"{"accountId":"123456789012","region":"eu-west-1","instanceId":"i-1","imageId":"ami-1"}"#;
    fs::write(folder.join("content"), content).unwrap();
    let made = openssl(
        "req -x509 -newkey rsa:2048 -nodes -keyout region.key -out region.pem -days 9 -subj /O=Cloud",
    );
    if made.is_err() {
        return skip("there is no openssl");
    }
    let sign = "cms -sign -nodetach -binary -stream -nocerts -md sha256 -signer region.pem -inkey region.key -in content \
                -outform DER -out document";
    assert!(openssl(sign).unwrap().status.success());
    let document = STANDARD.encode(fs::read(folder.join("document")).unwrap());
    let imds = metadata_service(document).to_string();
    let certificate = fs::read_to_string(folder.join("region.pem")).unwrap().replace('\n', "\n        ");
    mesh.apply(&format!(
        "kind: Enrollment\nmesh: shop\nname: instances\nspec:\n  attest:\n    aws:\n      certificates: |\n        \
         {certificate}\n    rules:\n    - {{virtualNode: web, selectors: ['aws:account:123456789012']}}\n"
    ));
    let more = ["--aws-identity-document", "on", "--aws-metadata-endpoint", &imds];
    let mut agent = mesh.agent("web", showing("shop/instances", &more));
    let described = shown_by(&mesh);
    assert!(described.contains("aws evidence, enrollment/instances"), "{described}");
    assert!(
        described.contains("aws:instance-id:i-1") && described.contains("aws:image-id:ami-1"),
        "{described}"
    );
    agent.restart(mesh.folder());
    // Another on the same instance, who has the document and not the key.
    let state_dir = mesh.folder().join("thief");
    let mut options = AgentOptions { state_dir: Some(state_dir), ..showing("shop/instances", &more) };
    let mut thief = Agent::spawn(&mesh, "web", &mut options);
    let status = thief.process.wait(Duration::from_secs(30));
    assert!(!status.success(), "{}", thief.process.log());
    assert!(thief.process.log().contains("audit log says why"), "{}", thief.process.log());
    let log = mesh.hauberk(&["audit", "list", "--action", "enrollment.attest", "-o", "json"]).ok().stdout;
    assert!(log.contains("counts for the first key that shows it"), "{log}");
}

#[test]
fn the_examples_are_accepted_as_they_stand() {
    let mesh = MeshBox::start();
    let examples = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/enrollments.yaml");
    mesh.apply(&fs::read_to_string(examples).unwrap());
    assert!(mesh.hauberk(&["get", "enrollments"]).ok().stdout.contains("machines"));
}

#[test]
fn the_enrollments_of_the_reference_are_accepted() {
    let mesh = MeshBox::start();
    mesh.apply(SMALL_SHOP);
    mesh.apply("kind: VirtualGateway\nmesh: shop\nname: edge\nspec: {}");
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let (reference, examples) = ["../docs/identity.md", "../deploy/examples/enrollments.yaml"]
        .map(|file| fs::read_to_string(folder.join(file)).unwrap())
        .into();
    // Where the reference leaves a certificate out.
    let (begin, end) = ("        -----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
    let start = examples.find(begin).unwrap();
    let certificate = &examples[start..start + examples[start..].find(end).unwrap() + end.len()];
    let blocks = reference.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let enrollments: Vec<_> = blocks.filter(|block| block.starts_with("kind: Enrollment")).collect();
    assert_eq!(enrollments.len(), 3, "{enrollments:#?}");
    for enrollment in enrollments {
        mesh.apply(&enrollment.replace(&format!("{begin} …"), certificate));
    }
    let listed = mesh.hauberk(&["get", "enrollments"]).ok().stdout;
    for name in ["billing-worker", "fleet", "machines"] {
        assert!(listed.contains(name), "{listed}");
    }
}
