//! A whole control plane on real sockets.

mod changes;
mod outsiders;
mod parent;
mod strangers;
mod sync;

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use hauberk_identity::{Name, NodeName, TrustDomain};
use hauberk_proto::admin::v1::IssueCredentialRequest;
use hauberk_proto::agent::v1::attest_request::Evidence;
use hauberk_proto::agent::v1::enrollment_client::EnrollmentClient;
use hauberk_proto::agent::v1::{AttestRequest, AttestResponse, SignCertificateRequest};
use hauberk_proto::mesh::v1::Resource;
use hauberk_tls::{
    BootstrapTrust, Connector, KeyPair, LiveIdentity, ServerExpectation, Svid, TrustBundle,
    bootstrap_connector,
};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::app::{Addresses, AppError, ControlPlane, run};
use crate::clock::Clock;
use crate::enrollment::{TokenFor, TokenRequest, Uses};
use crate::init::{InitError, init};
use crate::registry::{Commit, keys};
use crate::resources::testing as resources;
use crate::telemetry::LogControl;
use crate::testing::{actor, request, settings};

const DEADLINE: Duration = Duration::from_secs(30);

struct Running {
    directory: tempfile::TempDir,
    fingerprint: String,
    addresses: Addresses,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), AppError>>,
}

impl Running {
    fn data_dir(&self) -> std::path::PathBuf {
        self.directory.path().join("data")
    }

    async fn stop(self) -> tempfile::TempDir {
        self.stop.cancel();
        tokio::time::timeout(DEADLINE, self.task).await.unwrap().unwrap().unwrap();
        self.directory
    }
}

/// Founds an installation, gives it a node and a token, and runs it.
async fn start() -> (Running, String) {
    let (running, token, ()) = start_with(async |_| ()).await;
    (running, token)
}

/// The same, and what is prepared before it runs.
#[allow(clippy::disallowed_methods, reason = "the test owns the task by its handle")]
async fn start_with<T>(prepare: impl AsyncFnOnce(&ControlPlane) -> T) -> (Running, String, T) {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(&directory.path().join("data"));
    let trust_domain = TrustDomain::parse("shop.local").unwrap();
    let contexts = directory.path().join("contexts.toml");
    let founded = init(settings.clone(), &trust_domain, "demo", &contexts, Clock::system()).await.unwrap();
    std::fs::set_permissions(&settings.data_dir, std::fs::Permissions::from_mode(0o755)).unwrap();

    let control =
        ControlPlane::open(settings.clone(), Clock::system(), LogControl::detached()).await.unwrap();
    let stored = |kind, name, resource: Resource| {
        Commit::new().put(keys::resource(kind, "shop", name), resource.encode_to_vec()).raising_revision()
    };
    control.store.commit(stored("Mesh", "shop", resources::mesh("shop"))).await.unwrap();
    let node = resources::node("orders", [resources::listener(8080, "http")]);
    control.store.commit(stored("VirtualNode", "orders", node)).await.unwrap();
    let asked = TokenRequest {
        mesh: Name::parse("shop").unwrap(),
        of: TokenFor::Node(NodeName::parse("orders").unwrap()),
        ttl: None,
        uses: Uses::Unlimited,
    };
    let token = control.tokens.create(asked, &actor()).await.unwrap().secret.reveal().to_owned();
    let prepared = prepare(&control).await;
    control.store.close().await;
    drop(control);

    let stop = CancellationToken::new();
    let task = tokio::spawn(run(settings.clone(), Clock::system(), LogControl::detached(), stop.clone()));
    let addresses = tokio::time::timeout(DEADLINE, async {
        loop {
            if let Ok(text) = std::fs::read(settings.addresses_file()) {
                return serde_json::from_slice(&text).unwrap();
            }
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    (Running { directory, fingerprint: founded.root_fingerprint, addresses, stop, task }, token, prepared)
}

async fn channel(
    address: std::net::SocketAddr,
    connector: Connector,
) -> Result<Channel, tonic::transport::Error> {
    let connect = tower::service_fn(move |_| {
        let connector = connector.clone();
        async move {
            let connection =
                connector.connect(TcpStream::connect(address).await?).await.map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(TokioIo::new(connection.into_parts().0))
        }
    });
    Endpoint::from_static("http://control-plane").connect_with_connector(connect).await
}

fn stranger(running: &Running) -> Connector {
    let pin = BootstrapTrust::Root { pin: running.fingerprint.parse().unwrap(), trust_domain: None };
    bootstrap_connector(pin, &[b"h2"], DEADLINE).unwrap()
}

fn somebody(key: &KeyPair, chain: &[Vec<u8>], roots: &[Vec<u8>]) -> Connector {
    let trust_domain = TrustDomain::parse("shop.local").unwrap();
    let bundle = TrustBundle::new(trust_domain, roots.iter().cloned()).unwrap();
    let live = LiveIdentity::new(bundle);
    live.publish(Svid::from_der(chain.iter().cloned()).unwrap(), key).unwrap();
    live.connector(ServerExpectation::ControlPlane, &[b"h2"], true, DEADLINE).unwrap()
}

async fn attest(running: &Running, token: &str) -> (KeyPair, AttestResponse) {
    let (key, csr) = request();
    let channel = channel(running.addresses.agent, stranger(running)).await.unwrap();
    let asked = AttestRequest {
        csr,
        evidence: Some(Evidence::JoinToken(token.to_owned())),
        agent: None,
        enrollment: None,
        former: None,
    };
    (key, EnrollmentClient::new(channel).attest(asked).await.unwrap().into_inner())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_joins_by_the_fingerprint_and_renews() {
    let (running, token) = start().await;
    let (key, joined) = attest(&running, &token).await;
    let certificate = joined.certificate.unwrap();
    assert_eq!(certificate.spiffe_id, "spiffe://shop.local/mesh/shop/node/orders");
    assert_eq!(joined.instance_id.len(), 10);
    let trust = joined.trust.unwrap();
    assert_eq!(trust.view_keys.len(), 1);

    let known =
        channel(running.addresses.agent, somebody(&key, &certificate.chain, &trust.roots)).await.unwrap();
    let (_, csr) = request();
    let renewed = EnrollmentClient::new(known.clone())
        .sign_certificate(SignCertificateRequest { csr: csr.clone() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(renewed.certificate.unwrap().spiffe_id, certificate.spiffe_id);

    let unknown = channel(running.addresses.agent, stranger(&running)).await.unwrap();
    let refused =
        EnrollmentClient::new(unknown).sign_certificate(SignCertificateRequest { csr }).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let mut wrong = Request::new(AttestRequest::default());
    wrong.set_timeout(DEADLINE);
    let unknown = channel(running.addresses.agent, stranger(&running)).await.unwrap();
    assert_eq!(EnrollmentClient::new(unknown).attest(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_connection_does_not_hold_up_a_stop_and_a_second_process_is_told() {
    let (running, token) = start().await;
    let (key, joined) = attest(&running, &token).await;
    let connector = somebody(&key, &joined.certificate.unwrap().chain, &joined.trust.unwrap().roots);
    let idle = channel(running.addresses.agent, connector).await.unwrap();
    let mut health = HealthClient::new(idle);
    assert_eq!(health.check(HealthCheckRequest::default()).await.unwrap().into_inner().status, 1);
    // Others could enter the directory until it was started.
    let mode = std::fs::metadata(running.data_dir()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o700);
    let second =
        run(settings(&running.data_dir()), Clock::system(), LogControl::detached(), CancellationToken::new());
    let refused = tokio::time::timeout(DEADLINE, second).await.unwrap().unwrap_err();
    assert!(refused.to_string().contains("is in use by another control plane"), "{refused}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn admins_are_let_in_by_credential_and_role() {
    let (running, token) = start().await;
    let (key, csr) = request();
    let asked = IssueCredentialRequest { name: "ada".into(), roles: vec![1], csr };
    let socket = running.data_dir().join("admin.sock");
    let ada = issue_through_socket(&socket, asked).await.unwrap();
    assert_eq!((ada.name.as_str(), ada.server.clone()), ("ada", running.addresses.admin.to_string()));

    let reflect = async |channel: Channel, version: &'static str| {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckRequest>::default();
        client
            .server_streaming(Request::new(HealthCheckRequest::default()), path.parse().unwrap(), codec)
            .await
    };
    let known = channel(running.addresses.admin, somebody(&key, &ada.chain, &ada.roots)).await.unwrap();
    for version in ["v1", "v1alpha"] {
        reflect(known.clone(), version).await.unwrap();
    }
    let unknown = channel(running.addresses.admin, stranger(&running)).await.unwrap();
    assert_eq!(reflect(unknown, "v1").await.unwrap_err().code(), Code::Unauthenticated);
    let (agent_key, agent) = attest(&running, &token).await;
    let agent = somebody(&agent_key, &agent.certificate.unwrap().chain, &agent.trust.unwrap().roots);
    let agent = channel(running.addresses.admin, agent).await.unwrap();
    assert_eq!(reflect(agent, "v1").await.unwrap_err().code(), Code::Unauthenticated);
    running.stop().await;
}

#[tokio::test]
async fn taken_ports_and_taken_or_unfinished_places_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = settings(&directory.path().join("data"));
    let trust_domain = TrustDomain::parse("shop.local").unwrap();
    let contexts = directory.path().join("contexts.toml");
    let found = |settings: &crate::config::Settings| {
        let (settings, contexts, trust_domain) = (settings.clone(), contexts.clone(), trust_domain.clone());
        async move { init(settings, &trust_domain, "demo", &contexts, Clock::system()).await }
    };
    found(&settings).await.unwrap();
    assert!(matches!(found(&settings).await, Err(InitError::NotEmpty(_))));

    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    settings.admin_listen = taken.local_addr().unwrap();
    let refused =
        run(settings.clone(), Clock::system(), LogControl::detached(), CancellationToken::new()).await;
    let told = refused.unwrap_err().to_string();
    assert!(told.contains("admin-listen") && told.contains(&settings.admin_listen.to_string()), "{told}");

    // What could not be made is no hindrance for the next attempt.
    let mut again = crate::testing::settings(&directory.path().join("again"));
    again.kek_file = directory.path().join("missing").join("kek");
    assert!(matches!(found(&again).await, Err(InitError::Seal(_))));
    again.kek_file = again.data_dir.join("key-encryption-key");
    found(&again).await.unwrap();

    // A key that stands elsewhere is left alone, and so is the directory.
    let mut elsewhere = crate::testing::settings(&directory.path().join("other"));
    elsewhere.kek_file = settings.kek_file.clone();
    assert!(matches!(found(&elsewhere).await, Err(InitError::KeyExists(_))));
    elsewhere.kek_file = directory.path().join("kek");
    found(&elsewhere).await.unwrap();

    std::fs::write(settings.data_dir.join(crate::init::UNFINISHED_MARKER), "").unwrap();
    assert!(matches!(found(&settings).await, Err(InitError::Unfinished(_))));
    let refused = run(settings, Clock::system(), LogControl::detached(), CancellationToken::new()).await;
    assert!(matches!(refused, Err(AppError::Unfinished(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_admins_open_stream_is_cut() {
    let (running, _) = start().await;
    let (key, csr) = request();
    let asked = IssueCredentialRequest { name: "ada".into(), roles: vec![1], csr };
    let ada = issue_through_socket(&running.data_dir().join("admin.sock"), asked).await.unwrap();
    let channel_of_ada =
        channel(running.addresses.admin, somebody(&key, &ada.chain, &ada.roots)).await.unwrap();
    let mut watch =
        HealthClient::new(channel_of_ada).watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());

    let contexts = std::fs::read_to_string(running.directory.path().join("contexts.toml")).unwrap();
    let contexts: toml::Table = contexts.parse().unwrap();
    let text = |name: &str| contexts["contexts"]["demo"][name].as_str().unwrap().to_owned();
    let owner = Svid::from_pem(&text("certificate_pem")).unwrap();
    let owner_key = KeyPair::from_pkcs8_pem(&text("key_pem")).unwrap();
    let chain: Vec<_> = owner.chain().iter().map(|der| der.to_vec()).collect();
    let owner = channel(running.addresses.admin, somebody(&owner_key, &chain, &ada.roots)).await.unwrap();
    let deletion = hauberk_proto::admin::v1::DeleteAdminRequest { name: "ada".into() };
    hauberk_proto::admin::v1::admins_client::AdminsClient::new(owner).delete_admin(deletion).await.unwrap();
    let end = tokio::time::timeout(DEADLINE, watch.message()).await.unwrap();
    assert!(end.is_err() || end.unwrap().is_none());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admins_open_stream_is_cut_when_the_authority_of_its_credential_is_revoked() {
    use hauberk_proto::admin::v1::authorities_client::AuthoritiesClient;
    use hauberk_proto::admin::v1::{
        AuthorityKind, ListAuthoritiesRequest, RevokeAuthorityRequest, TaintAuthorityRequest,
    };
    let (running, _) = start().await;
    let admin = async |name: &str| {
        let (key, csr) = request();
        let roles = vec![hauberk_proto::admin::v1::Role::Owner.into()];
        let asked = IssueCredentialRequest { name: name.into(), roles, csr };
        let issued = issue_through_socket(&running.data_dir().join("admin.sock"), asked).await.unwrap();
        channel(running.addresses.admin, somebody(&key, &issued.chain, &issued.roots)).await.unwrap()
    };
    let watch = async |channel: Channel| {
        let watch = HealthClient::new(channel).watch(HealthCheckRequest::default()).await;
        let mut watch = watch.unwrap().into_inner();
        assert!(watch.message().await.unwrap().is_some());
        watch
    };
    let before = admin("ada").await;
    let mut cut = watch(before.clone()).await;
    let mut authorities = AuthoritiesClient::new(before);
    let listed = authorities.list_authorities(ListAuthoritiesRequest {}).await.unwrap().into_inner();
    let active = |it: &&hauberk_proto::admin::v1::Authority| {
        it.kind() == AuthorityKind::Issuing && it.state == "active"
    };
    let serial = listed.authorities.iter().find(active).unwrap().serial.clone();
    authorities.taint_authority(TaintAuthorityRequest { serial: serial.clone() }).await.unwrap();

    let after = admin("bob").await;
    let mut kept = watch(after.clone()).await;
    let revocation = RevokeAuthorityRequest { serial, now: true };
    AuthoritiesClient::new(after).revoke_authority(revocation).await.unwrap();
    let end = tokio::time::timeout(DEADLINE, cut.message()).await.unwrap();
    assert!(end.is_err() || end.unwrap().is_none());
    let still = tokio::time::timeout(Duration::ZERO, kept.message()).await;
    assert!(still.is_err(), "{still:?}");
    drop(kept);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_names_a_key_of_another_kind_is_told_which_steps_it_has() {
    use hauberk_proto::admin::v1::authorities_client::AuthoritiesClient;
    use hauberk_proto::admin::v1::{
        ActivateAuthorityRequest, AuthorityKind, ListAuthoritiesRequest, Role, TaintAuthorityRequest,
    };
    let (running, _) = start().await;
    let (key, csr) = request();
    let asked = IssueCredentialRequest { name: "ada".into(), roles: vec![Role::Owner.into()], csr };
    let ada = issue_through_socket(&running.data_dir().join("admin.sock"), asked).await.unwrap();
    let channel = channel(running.addresses.admin, somebody(&key, &ada.chain, &ada.roots)).await.unwrap();
    let mut authorities = AuthoritiesClient::new(channel);
    let listed = authorities.list_authorities(ListAuthoritiesRequest {}).await.unwrap().into_inner();
    let of = |kind| listed.authorities.iter().find(|it| it.kind() == kind).unwrap().serial.clone();
    let serial = of(AuthorityKind::ViewKey);
    let activated = authorities.activate_authority(ActivateAuthorityRequest { serial: serial.clone() }).await;
    let tainted = authorities.taint_authority(TaintAuthorityRequest { serial: serial.clone() }).await;
    for (refused, step) in [(activated, "activated"), (tainted, "tainted")] {
        let status = refused.unwrap_err();
        assert_eq!(hauberk_proto::refusal::reason(&status).as_deref(), Some("NO_SUCH_STEP"), "{status}");
        let told = status.message();
        let names_the_kind =
            told.contains(&format!("{serial} is a key that signs views, and such keys are not {step}"));
        assert!(names_the_kind && told.contains("`hauberk authority rotate view-key`"), "{told}");
    }
    // The other kinds have them.
    for kind in [AuthorityKind::JwtKey, AuthorityKind::Issuing] {
        authorities.taint_authority(TaintAuthorityRequest { serial: of(kind) }).await.unwrap();
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_connection_is_closed() {
    use tokio::io::AsyncReadExt;
    let (running, _) = start().await;
    let stream = TcpStream::connect(running.addresses.agent).await.unwrap();
    let (mut silent, _) = stranger(&running).connect(stream).await.unwrap().into_parts();
    let mut buffer = Vec::new();
    // It may end with an alert or without: it ends.
    let _ended = tokio::time::timeout(2 * DEADLINE, silent.read_to_end(&mut buffer)).await.unwrap();
    running.stop().await;
}
