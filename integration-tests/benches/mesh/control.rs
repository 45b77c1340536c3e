//! How soon a change is enforced, by agents that are processes of their own.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use hauberk_integration_tests::{Agent, AgentOptions, MeshBox, dial};
use hauberk_proto::{
    admin::v1::{
        ApplyRequest, RevokeRequest, WaitRequest, resources_client::ResourcesClient,
        revocations_client::RevocationsClient, revoke_request::Target, rollout_client::RolloutClient,
    },
    mesh::v1::{
        Listener, PolicySpec, PortMapping, Resource, VirtualNodeProvider, VirtualNodeSpec,
        VirtualServiceProvider, VirtualServiceSpec, resource::Spec, virtual_service_provider::Provider,
    },
};
use tokio::runtime::Runtime;
use tonic::transport::Channel;

const INSTANCES: usize = 100;
const CHANGES: usize = 100;

/// A large mesh: so many nodes more, each a service, and policies about them.
const NODES: usize = 500;
const POLICIES: usize = 10_000;
/// How many resources one change has.
const BATCH: usize = 1_000;

/// Makes the mesh a large one; so many of its policies concern every node.
pub fn grow(runtime: &Runtime, mesh: &MeshBox, of_all: usize) {
    let begun = Instant::now();
    let node = |number: usize| {
        let port_mapping = Some(PortMapping { port: Some(8080), protocol: "http".to_owned() });
        let listeners = vec![Listener { port_mapping, ..Listener::default() }];
        Spec::VirtualNode(VirtualNodeSpec { listeners, ..VirtualNodeSpec::default() })
            .named(format!("n{number}"))
    };
    let service = |number: usize| {
        let node = VirtualNodeProvider { virtual_node_name: format!("n{number}"), port: None };
        let provider = Some(VirtualServiceProvider { provider: Some(Provider::VirtualNode(node)) });
        Spec::VirtualService(VirtualServiceSpec { provider }).named(format!("n{number}"))
    };
    let policy = |number: usize| {
        let (caller, service) = ((number + 1) % NODES, number % NODES);
        let resource = if number < of_all { String::new() } else { format!(" in Service::\"n{service}\"") };
        Spec::Policy(PolicySpec {
            cedar: format!(
                "permit(principal == Node::\"n{caller}\", action == Action::\"GET\", resource{resource})
                 when {{ context.path like \"/{number}/*\" }};"
            ),
            ..PolicySpec::default()
        })
        .named(format!("p{number}"))
    };
    let all: Vec<Resource> =
        (0..NODES).map(node).chain((0..NODES).map(service)).chain((0..POLICIES).map(policy)).collect();
    let revision = runtime.block_on(async {
        let mut resources = ResourcesClient::new(dial::channel(mesh.admin_address(), dial::admin(mesh)));
        let mut revision = 0;
        for batch in all.chunks(BATCH) {
            let request = ApplyRequest { resources: batch.to_vec(), validate_only: false };
            revision = resources.apply(request).await.unwrap().into_inner().revision;
        }
        revision
    });
    let took = begun.elapsed().as_secs_f64();
    println!("\n{NODES} nodes and {POLICIES} policies more, in changes of {BATCH}, after {took:.1} s");
    // The next change is to wait for itself alone.
    runtime.block_on(async {
        let mut rollout = RolloutClient::new(dial::channel(mesh.admin_address(), dial::admin(mesh)));
        until_enforced(&mut rollout, revision, 0).await;
    });
    println!("enforced after {:.1} s", begun.elapsed().as_secs_f64());
}

trait Named {
    fn named(self, name: String) -> Resource;
}

impl Named for Spec {
    fn named(self, name: String) -> Resource {
        Resource { mesh: "bench".to_owned(), name, spec: Some(self), ..Resource::default() }
    }
}

/// From sending a change of policy to its being enforced by every instance.
pub fn enforcement(mesh: &MeshBox, agents: &[Agent]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut took: Vec<Duration> = runtime.block_on(async {
        let mut took = Vec::with_capacity(CHANGES);
        for number in 0..CHANGES {
            took.push(change(mesh, number, INSTANCES).await);
        }
        took
    });
    println!("\nFrom apply to enforced, {} instances, {CHANGES} changes", agents.len());
    print_spread(&mut took);
}

/// Changes one policy of the server's; how long until so many instances at least enforce it.
pub async fn change(mesh: &MeshBox, number: usize, instances: usize) -> Duration {
    let channel = dial::channel(mesh.admin_address(), dial::admin(mesh));
    let (mut resources, mut rollout) = (ResourcesClient::new(channel.clone()), RolloutClient::new(channel));
    // Connected before the time counts.
    until_enforced(&mut rollout, 0, 0).await;
    let policy = PolicySpec {
        cedar: format!(
            "permit(principal == Node::\"client\", action == Action::\"GET\", resource in Service::\"server\")
             when {{ context.path like \"/{number}/*\" }};"
        ),
        ..PolicySpec::default()
    };
    let resource = Spec::Policy(policy).named("moving".to_owned());
    let begun = Instant::now();
    let request = ApplyRequest { resources: vec![resource], validate_only: false };
    let revision = resources.apply(request).await.unwrap().into_inner().revision;
    until_enforced(&mut rollout, revision, instances).await;
    begun.elapsed()
}

/// From asking for a certificate to be revoked to its being refused by every instance, of which there are so many.
pub fn revocation(runtime: &Runtime, mesh: &MeshBox, instances: usize) {
    let mut took: Vec<Duration> = runtime.block_on(async {
        let channel = dial::channel(mesh.admin_address(), dial::admin(mesh));
        let (mut revocations, mut rollout) =
            (RevocationsClient::new(channel.clone()), RolloutClient::new(channel));
        let mut took = Vec::with_capacity(CHANGES);
        for _ in 0..CHANGES {
            let (svid, _) = dial::join(mesh, "client").await;
            let target = Some(Target::Serial(svid.serial().to_string()));
            let begun = Instant::now();
            let answer =
                revocations.revoke(RevokeRequest { target, unrecorded: false }).await.unwrap().into_inner();
            until_enforced(&mut rollout, answer.revision, instances).await;
            took.push(begun.elapsed());
        }
        took
    });
    println!("\nFrom revoke to enforced, {instances} instances, {CHANGES} certificates");
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

async fn until_enforced(rollout: &mut RolloutClient<Channel>, revision: u64, instances: usize) {
    let mut progress =
        rollout.wait(WaitRequest { revision, mesh: String::new() }).await.unwrap().into_inner();
    let last = loop {
        let message = progress.message().await.unwrap().expect("the last message says done");
        if message.done {
            break message;
        }
    };
    assert!(last.concerned as usize >= instances, "every instance is concerned: {last:?}");
}

/// Prints the median of what was measured, what one in a hundred exceeds, and the most.
pub fn print_spread(took: &mut [Duration]) {
    took.sort_unstable();
    // The smallest that is no less than so many hundredths of them.
    let ms = |hundredths: usize| {
        took[(took.len() * hundredths).div_ceil(100).saturating_sub(1)].as_secs_f64() * 1e3
    };
    println!("  p50 {:.1} ms   p99 {:.1} ms   most {:.1} ms", ms(50), ms(99), ms(100));
}
