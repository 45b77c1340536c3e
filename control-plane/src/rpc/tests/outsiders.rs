//! Whoever holds a certificate of the mesh that is not for this API, at every RPC that the access table names.

use hauberk_identity::SpiffeId;
use hauberk_proto::admin::v1::audit_client::AuditClient;
use hauberk_proto::admin::v1::{AuditOutcome, ListAuditRequest};
use hauberk_tls::CertificateRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::access::{Access, TABLE};
use crate::issuance::{Holder, Order};

/// What a scraper reads of refusals for this reason.
async fn refused(running: &Running, reason: &str) -> usize {
    let mut stream = TcpStream::connect(running.addresses.health).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let name = format!("hauberk_access_refused_total{{reason=\"{reason}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&*name));
    line.map_or(0, |count| count.parse().unwrap())
}

/// What an RPC answers, whatever it takes.
async fn call(channel: &Channel, path: &'static str) -> tonic::Status {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckRequest>::default();
    let request = Request::new(HealthCheckRequest::default());
    let answered = client.server_streaming(request, path.parse().unwrap(), codec).await;
    answered.err().unwrap_or_else(|| panic!("{path} was answered"))
}

fn paths(wanted: impl Fn(Access) -> bool) -> Vec<&'static str> {
    TABLE.iter().filter(|(_, access)| wanted(*access)).map(|(path, _)| *path).collect()
}

/// A certificate of the mesh.
async fn certificate(
    control: &ControlPlane,
    path: &str,
    holder: Holder,
    ttl: Duration,
) -> (KeyPair, Vec<Vec<u8>>) {
    let (key, csr) = request();
    let order = Order {
        id: SpiffeId::parse(&format!("spiffe://shop.local/{path}")).unwrap(),
        holder,
        public_key: CertificateRequest::read(&csr).unwrap(),
        ttl,
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
        actor: actor(),
        action: "certificate.renew",
    };
    let issued = control.issuer.issue(order, |_, _| Ok(Commit::new())).await.unwrap();
    (key, issued.svid.chain().iter().map(|der| der.to_vec()).collect())
}

async fn owner(running: &Running) -> (Channel, Vec<Vec<u8>>) {
    let (key, csr) = request();
    let asked = IssueCredentialRequest { name: "ada".into(), roles: vec![1], csr };
    let ada = issue_through_socket(&running.data_dir().join("admin.sock"), asked).await.unwrap();
    let channel = channel(running.addresses.admin, somebody(&key, &ada.chain, &ada.roots)).await.unwrap();
    (channel, ada.roots)
}

/// How many refusals of a caller are on record, by the RPCs that were refused.
async fn recorded(owner: &Channel, actor: &str) -> Vec<String> {
    let asked = ListAuditRequest {
        action: "access.check".to_owned(),
        actor: actor.to_owned(),
        page_size: 1_000,
        ..ListAuditRequest::default()
    };
    let listed = AuditClient::new(owner.clone()).list(asked).await.unwrap().into_inner().records;
    assert!(listed.iter().all(|record| record.outcome() == AuditOutcome::Refused));
    let mut objects: Vec<String> = listed.into_iter().map(|record| record.object).collect();
    objects.sort();
    objects
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_no_agent_is_refused_at_every_rpc_of_agents_recorded_and_counted() {
    let kinds = [
        (
            "workload/worker",
            Holder::Workload {
                instance: "0123456789".to_owned(),
                enrollment: "worker".to_owned(),
                node: "spiffe://shop.local/mesh/shop/node/orders".to_owned(),
            },
        ),
        ("admin/eve", Holder::Admin("1".to_owned())),
        ("control-plane/1", Holder::ControlPlane),
    ];
    let (running, _, held) = start_with(async |control| {
        let mut held = Vec::new();
        for (path, holder) in kinds {
            held.push((path, certificate(control, path, holder, Duration::from_secs(3_600)).await));
        }
        held
    })
    .await;
    let mut of_agents = paths(|access| matches!(access, Access::Agent | Access::AgentStream));
    of_agents.sort_unstable();
    assert!(of_agents.len() >= 5 && of_agents.contains(&"/hauberk.agent.v1.Mesh/Sync"), "{of_agents:?}");
    let (owner, roots) = owner(&running).await;

    for (path, (key, chain)) in &held {
        let before = refused(&running, "NO_AGENT").await;
        let channel = channel(running.addresses.agent, somebody(key, chain, &roots)).await.unwrap();
        for rpc in &of_agents {
            let status = call(&channel, rpc).await;
            assert_eq!(status.code(), Code::PermissionDenied, "{path} {rpc}: {status}");
            assert!(status.message().contains(&format!("/{path} is no agent")), "{rpc}: {status}");
        }
        assert_eq!(refused(&running, "NO_AGENT").await - before, of_agents.len());
        assert_eq!(recorded(&owner, &format!("spiffe://shop.local/{path}")).await, of_agents);
    }
    let channel = channel(running.addresses.agent, stranger(&running)).await.unwrap();
    for rpc in &of_agents {
        assert_eq!(call(&channel, rpc).await.code(), Code::Unauthenticated, "{rpc}");
    }
    assert_eq!(refused(&running, "NO_CERTIFICATE").await, of_agents.len());
    assert_eq!(recorded(&owner, "unauthenticated").await, of_agents);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_refused_at_every_rpc_of_admins_recorded_and_counted() {
    let (running, token) = start().await;
    let (key, joined) = attest(&running, &token).await;
    let (chain, roots) = (joined.certificate.unwrap().chain, joined.trust.unwrap().roots);
    let (owner, _) = owner(&running).await;
    let of_admins = paths(|access| matches!(access, Access::AnyAdmin | Access::Roles(_)));
    assert!(of_admins.len() > 40, "{of_admins:?}");
    let agent = channel(running.addresses.admin, somebody(&key, &chain, &roots)).await.unwrap();
    for rpc in &of_admins {
        let status = call(&agent, rpc).await;
        assert_eq!(status.code(), Code::Unauthenticated, "{rpc}: {status}");
    }
    assert_eq!(refused(&running, "CREDENTIAL_REFUSED").await, of_admins.len());
    // So many of one caller at once; the next one says how many were left out.
    let recorded = recorded(&owner, "spiffe://shop.local/mesh/shop/node/orders").await;
    assert!((20..=of_admins.len()).contains(&recorded.len()), "{recorded:?}");
    // Nor is what is local served over the network, to anybody.
    for channel in [&agent, &owner] {
        for rpc in paths(|access| access == Access::Local) {
            assert_eq!(call(channel, rpc).await.code(), Code::Unimplemented, "{rpc}");
        }
    }
    assert_eq!(refused(&running, "LOCAL_ONLY").await, 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_ends_with_the_certificate_that_its_peer_has_proved() {
    // Long enough for a slow machine to open what must be cut.
    let life = Duration::from_secs(8);
    let kinds = [
        ("mesh/shop/node/orders", Holder::Instance("0123456789".to_owned())),
        ("control-plane/1", Holder::ControlPlane),
    ];
    let (running, _, held) = start_with(async |control| {
        let mut held = Vec::new();
        for (path, holder) in kinds {
            held.push(certificate(control, path, holder, life).await);
        }
        held
    })
    .await;
    let (owner, roots) = owner(&running).await;
    let mut watching = tokio::task::JoinSet::new();
    let mut kept = HealthClient::new(owner).watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(kept.message().await.unwrap().unwrap().status, 1);
    for (key, chain) in &held {
        for address in [running.addresses.agent, running.addresses.admin] {
            let opened = channel(address, somebody(key, chain, &roots)).await.unwrap();
            let asked = HealthClient::new(opened).watch(HealthCheckRequest::default()).await;
            let mut watched = asked.unwrap().into_inner();
            assert_eq!(watched.message().await.unwrap().unwrap().status, 1);
            watching.spawn(async move { watched.message().await.is_err() });
        }
    }
    let ended = tokio::time::timeout(life + DEADLINE, watching.join_all()).await.unwrap();
    assert!(ended.len() == 4 && ended.iter().all(|is_cut| *is_cut), "{ended:?}");
    // The one whose certificate lives on is let alone.
    let still = tokio::time::timeout(Duration::ZERO, kept.message()).await;
    assert!(still.is_err(), "{still:?}");
    drop(kept);
    running.stop().await;
}
