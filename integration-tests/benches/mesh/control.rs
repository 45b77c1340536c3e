//! The control plane's part: certificates issued a second, and how soon a change is enforced.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hauberk_integration_tests::{Agent, AgentOptions, MeshBox, dial};
use hauberk_proto::{
    admin::v1::{
        ApplyRequest, RevokeRequest, WaitRequest, resources_client::ResourcesClient,
        revocations_client::RevocationsClient, revoke_request::Target, rollout_client::RolloutClient,
    },
    agent::v1::{
        AttestRequest, SignCertificateRequest, attest_request::Evidence, enrollment_client::EnrollmentClient,
    },
    mesh::v1::{PolicySpec, Resource, resource::Spec},
};
use hauberk_tls::{CertificateRequest, KeyPair, Svid};
use tokio::{runtime::Runtime, task::JoinSet};
use tonic::transport::Channel;

const IN_FLIGHT: usize = 64;
/// Each of an instance of its own.
const CONNECTIONS: usize = 64;
const INSTANCES: usize = 100;
const CHANGES: usize = 30;

/// Renewals over mutual TLS, each recorded durably before it is answered.
pub fn issuance(runtime: &Runtime, mesh: &MeshBox) {
    let token = fs::read_to_string(mesh.token_file("client", &["--uses", "unlimited"])).unwrap();
    let span = Duration::from_secs(4);
    let cpu_before = mesh.control_plane_cpu_seconds();
    let (issued, took) = runtime.block_on(async {
        let mut instances = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            let key = KeyPair::generate().unwrap();
            let csr = CertificateRequest::create(&key).unwrap();
            let request = AttestRequest {
                csr: csr.clone(),
                agent: None,
                evidence: Some(Evidence::JoinToken(token.trim().to_owned())),
            };
            let stranger = dial::channel(mesh.agent_address(), dial::stranger(mesh));
            let attested = EnrollmentClient::new(stranger).attest(request).await.unwrap().into_inner();
            instances.push((Svid::from_der(attested.certificate.unwrap().chain).unwrap(), key, csr));
        }
        let issued = Arc::new(AtomicU64::new(0));
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for (svid, key, csr) in instances {
            let channel = dial::channel(mesh.agent_address(), dial::bearer(mesh, svid, &key));
            for _ in 0..IN_FLIGHT / CONNECTIONS {
                let mut client = EnrollmentClient::new(channel.clone());
                let (issued, csr) = (Arc::clone(&issued), csr.clone());
                tasks.spawn(async move {
                    while begun.elapsed() < span {
                        client.sign_certificate(SignCertificateRequest { csr: csr.clone() }).await.unwrap();
                        issued.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        }
        while let Some(result) = tasks.join_next().await {
            result.unwrap();
        }
        (issued.load(Ordering::Relaxed), begun.elapsed())
    });
    let cpu = (mesh.control_plane_cpu_seconds() - cpu_before) / issued as f64 * 1e3;
    println!(
        "\nIssuance, over mutual TLS, {IN_FLIGHT} in flight on {CONNECTIONS} connections, recorded durably"
    );
    println!(
        "  {:.0} certificates/s, {cpu:.2} CPU ms each (control plane)",
        issued as f64 / took.as_secs_f64()
    );
}

/// From sending a change of policy to its being enforced by every instance.
pub fn enforcement(mesh: &MeshBox, agents: &[Agent]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut took: Vec<Duration> = runtime.block_on(async {
        let channel = dial::channel(mesh.admin_address(), dial::admin(mesh));
        let (mut resources, mut rollout) = (ResourcesClient::new(channel.clone()), RolloutClient::new(channel));
        let mut took = Vec::with_capacity(CHANGES);
        for number in 0..CHANGES {
            let policy = PolicySpec {
                cedar: format!(
                    "permit(principal == Node::\"client\", action == Action::\"GET\", resource in Service::\"server\")
                     when {{ context.path like \"/{number}/*\" }};"
                ),
                ..PolicySpec::default()
            };
            let resource = Resource {
                mesh: "bench".to_owned(),
                name: "moving".to_owned(),
                spec: Some(Spec::Policy(policy)),
                ..Resource::default()
            };
            let begun = Instant::now();
            let request = ApplyRequest { resources: vec![resource], validate_only: false };
            let revision = resources.apply(request).await.unwrap().into_inner().revision;
            until_enforced(&mut rollout, revision).await;
            took.push(begun.elapsed());
        }
        took
    });
    println!("\nFrom apply to enforced, {} instances, {CHANGES} changes", agents.len());
    print_spread(&mut took);
}

/// From asking for a certificate to be revoked to its being refused by every instance.
pub fn revocation(runtime: &Runtime, mesh: &MeshBox, agents: &[Agent]) {
    let mut took: Vec<Duration> = runtime.block_on(async {
        let channel = dial::channel(mesh.admin_address(), dial::admin(mesh));
        let (mut revocations, mut rollout) =
            (RevocationsClient::new(channel.clone()), RolloutClient::new(channel));
        let mut took = Vec::with_capacity(CHANGES);
        for _ in 0..CHANGES {
            let (svid, _) = dial::join(mesh, "client").await;
            let target = Some(Target::Serial(svid.serial().to_string()));
            let begun = Instant::now();
            let answer = revocations.revoke(RevokeRequest { target }).await.unwrap().into_inner();
            until_enforced(&mut rollout, answer.revision).await;
            took.push(begun.elapsed());
        }
        took
    });
    println!("\nFrom revoke to enforced, {} instances, {CHANGES} certificates", agents.len());
    print_spread(&mut took);
}

/// As many agents of one node as are waited for.
pub fn many_agents(mesh: &MeshBox, backend: SocketAddr) -> Vec<Agent> {
    let token = mesh.token_file("server", &["--uses", "unlimited"]);
    let mut agents: Vec<Agent> = Vec::with_capacity(INSTANCES);
    for _ in 0..INSTANCES {
        let mut options = AgentOptions::default().app(8080, backend).app(9000, backend).quiet();
        options.token_file = Some(token.clone());
        agents.push(Agent::spawn(mesh, "server", &mut options));
    }
    let agents = agents.into_iter().map(Agent::ready).collect();
    mesh.wait_enforced();
    agents
}

async fn until_enforced(rollout: &mut RolloutClient<Channel>, revision: u64) {
    let mut progress =
        rollout.wait(WaitRequest { revision, mesh: String::new() }).await.unwrap().into_inner();
    let last = loop {
        let message = progress.message().await.unwrap().expect("the last message says done");
        if message.done {
            break message;
        }
    };
    assert!(last.concerned as usize >= INSTANCES, "every instance is concerned: {last:?}");
}

fn print_spread(took: &mut [Duration]) {
    took.sort_unstable();
    let ms =
        |share: f64| took[((took.len() as f64 * share) as usize).min(took.len() - 1)].as_secs_f64() * 1e3;
    println!("  p50 {:.1} ms   p99 {:.1} ms   most {:.1} ms", ms(0.5), ms(0.99), ms(1.0));
}
