//! Identities: certificates issued a second, a thousand agents that arrive at once, and what programs beside an agent
//! are told. The agents are simulated, in this process; their calls are real.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use hauberk_integration_tests::{Agent, AgentOptions, MeshBox, dial};
use hauberk_proto::{
    admin::v1::{ApplyRequest, DeleteRequest, DeleteTarget, resources_client::ResourcesClient},
    agent::v1::{
        Acknowledge, AcknowledgeDenylist, AttestRequest, AttestResponse, Denylist, FromAgent, HeldDenylist,
        Hello, SignCertificateRequest, TrustInForce, View, attest_request::Evidence,
        enrollment_client::EnrollmentClient, from_agent::Message as Up, mesh_client::MeshClient,
        to_agent::Message as Down, view::Body,
    },
    mesh::v1::{
        EnrollmentParent, EnrollmentSpec, Kind, Resource, ResourceRef, WorkloadEnrollment, enrollment_parent,
        resource::Spec,
    },
    workload::{X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient},
};
use hauberk_tls::{CertificateRequest, Connector, KeyPair, Svid};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tokio::{net::UnixStream, runtime::Runtime, sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Streaming,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use crate::control::{self, print_spread};

/// How many requests are on their way at a time.
const IN_FLIGHT: usize = 128;
/// Instances, each with a connection of its own, and how often each of them renews once it is connected: as often as
/// one may.
const INSTANCES: usize = 768;
const RENEWALS: usize = 9;
const AGENTS: usize = 1_000;
/// Changes, and fetches, that are measured.
const CHANGES: usize = 100;
const FETCHES: usize = 2_000;

/// An instance, and a request that was made beforehand.
struct Prepared {
    client: EnrollmentClient<Channel>,
    csr: Vec<u8>,
}

/// Renewals over mutual TLS, each recorded durably before it is answered: as fast as they can be, then half as fast.
pub fn issuance(runtime: &Runtime, mesh: &MeshBox) {
    let token = token(mesh);
    let prepared: Vec<Arc<Prepared>> = runtime.block_on(async {
        let mut prepared = Vec::with_capacity(INSTANCES);
        for _ in 0..INSTANCES {
            let key = KeyPair::generate().unwrap();
            let csr = CertificateRequest::create(&key).unwrap();
            let attested = Door::of(mesh).attest(&token, &csr).await.unwrap();
            let channel = dial::channel(mesh.agent_address(), dial::bearer(mesh, svid(&attested), &key));
            let prepared_one = Prepared { client: EnrollmentClient::new(channel), csr };
            // Connects, and is warm.
            prepared_one.renew().await;
            prepared.push(Arc::new(prepared_one));
        }
        prepared
    });
    println!("\nIssuance, over mutual TLS, {IN_FLIGHT} in flight, {INSTANCES} instances, recorded durably");
    let (fast, slow) = prepared.split_at(INSTANCES / 3 * 2);
    let cpu_before = mesh.control_plane_cpu_seconds();
    let (took, each) = runtime.block_on(renewals(fast, None));
    let cpu = (mesh.control_plane_cpu_seconds() - cpu_before) / each.len() as f64 * 1e3;
    let rate = each.len() as f64 / took.as_secs_f64();
    println!("  {rate:.0} certificates/s, {cpu:.2} CPU ms each (control plane)");
    let (took, mut each) = runtime.block_on(renewals(slow, Some(rate / 2.0)));
    println!("  at {:.0}/s, from when each was due:", each.len() as f64 / took.as_secs_f64());
    print_spread(&mut each);
}

/// Renews for all of them: one after the other, or at so many a second in all. How long each took; where a rate is
/// given, from when it was due.
async fn renewals(prepared: &[Arc<Prepared>], rate: Option<f64>) -> (Duration, Vec<Duration>) {
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for (number, prepared) in prepared.chunks(prepared.len() / IN_FLIGHT).enumerate() {
        let prepared = prepared.to_vec();
        let every = rate.map(|rate| Duration::from_secs_f64(IN_FLIGHT as f64 / rate));
        tasks.spawn(async move {
            let mut took = Vec::new();
            // Not all at the same instant.
            let mut due = begun + every.unwrap_or_default().mul_f64(number as f64 / IN_FLIGHT as f64);
            for prepared in prepared.iter().flat_map(|prepared| std::iter::repeat_n(prepared, RENEWALS)) {
                match every {
                    Some(every) => {
                        tokio::time::sleep_until(due.into()).await;
                        prepared.renew().await;
                        took.push(due.elapsed());
                        due += every;
                    }
                    None => {
                        let asked = Instant::now();
                        prepared.renew().await;
                        took.push(asked.elapsed());
                    }
                }
            }
            took
        });
    }
    let took = tasks.join_all().await.concat();
    (begun.elapsed(), took)
}

impl Prepared {
    async fn renew(&self) {
        let request = SignCertificateRequest { csr: self.csr.clone() };
        self.client.clone().sign_certificate(request).await.unwrap();
    }
}

/// A thousand agents arrive at once; then certificates are revoked, and all of them say that they obey.
pub fn thousand(runtime: &Runtime, mesh: &MeshBox) {
    let token = token(mesh);
    let keys: Vec<(KeyPair, Vec<u8>)> = (0..AGENTS)
        .map(|_| {
            let key = KeyPair::generate().unwrap();
            let csr = CertificateRequest::create(&key).unwrap();
            (key, csr)
        })
        .collect();
    let (took, joined) = runtime.block_on(async {
        let begun = Instant::now();
        let mut joining = JoinSet::new();
        for (key, csr) in keys {
            let (door, token) = (Door::of(mesh), token.clone());
            joining.spawn(async move { (svid(&until_let_in(&door, &token, &csr).await), key) });
        }
        let joined = joining.join_all().await;
        (begun.elapsed(), joined)
    });
    println!("\n{AGENTS} agents that arrive at once, by one join token");
    println!("  all have certificates after {:.2} s", took.as_secs_f64());
    let mut tasks = JoinSet::new();
    let begun = Instant::now();
    runtime.block_on(async {
        let (tell, mut told) = mpsc::channel(AGENTS);
        for (svid, key) in joined {
            let channel = dial::channel(mesh.agent_address(), dial::bearer(mesh, svid, &key));
            tasks.spawn(obey(channel, tell.clone()));
        }
        for _ in 0..AGENTS {
            told.recv().await.expect("agents obey for as long as they are asked to");
        }
    });
    println!("  all are told everything after {:.2} s more", begun.elapsed().as_secs_f64());
    control::revocation(runtime, mesh, AGENTS);
    runtime.block_on(tasks.shutdown());
}

/// As an agent does it: whoever finds no place comes again, later and later.
async fn until_let_in(door: &Door, token: &str, csr: &[u8]) -> AttestResponse {
    let mut wait = Duration::from_millis(200);
    loop {
        match door.attest(token, csr).await {
            Ok(attested) => return attested,
            Err(status) => assert_ne!(status.code(), tonic::Code::PermissionDenied, "{status}"),
        }
        // Spread as random waits would be.
        let share = f64::from(csr.last().copied().unwrap_or_default()) / 256.0;
        tokio::time::sleep(wait.mul_f64(0.5 + share / 2.0)).await;
        wait = (wait * 2).min(Duration::from_secs(10));
    }
}

/// Takes whatever it is told, and says that it is in force. Tells once when it has been told everything.
async fn obey(channel: Channel, tell: mpsc::Sender<()>) {
    let mut tell = Some(tell);
    let (up, waiting) = mpsc::channel(16);
    let say = async |message| up.send(FromAgent { message: Some(message) }).await.unwrap();
    say(Up::Hello(Hello { denylist: Some(HeldDenylist::default()), ..Hello::default() })).await;
    let mut down = MeshClient::new(channel).sync(ReceiverStream::new(waiting)).await.unwrap().into_inner();
    while let Ok(Some(message)) = down.message().await {
        match message.message {
            Some(Down::View(signed)) => {
                let View { epoch, revision, body, .. } = View::decode(&*signed.view).unwrap();
                let service = match body {
                    Some(Body::Service(service)) => service.name,
                    _ => String::new(),
                };
                say(Up::Acknowledge(Acknowledge { epoch, revision, service })).await;
            }
            Some(Down::Denylist(signed)) => {
                let Denylist { epoch, revision, .. } = Denylist::decode(&*signed.denylist).unwrap();
                say(Up::AcknowledgeDenylist(AcknowledgeDenylist { epoch, revision })).await;
            }
            Some(Down::Trust(trust)) => {
                say(Up::TrustInForce(TrustInForce { version: trust.version })).await;
            }
            Some(Down::CurrentAt(_)) => {
                if let Some(tell) = tell.take() {
                    tell.send(()).await.unwrap();
                }
            }
            _ => {}
        }
    }
}

/// How soon a program that waits has an identity of a new enrollment, and how fast one that asks is answered. Gives the
/// agent.
pub fn workloads(runtime: &Runtime, mesh: &MeshBox) -> Agent {
    let socket = mesh.folder().join("workload-api.sock");
    let options =
        AgentOptions::default().argument("--workload-api-socket").argument(socket.to_str().unwrap());
    let agent = mesh.agent("client", options.quiet());
    let (mut fresh, mut fetched) = runtime.block_on(async {
        let admin = dial::channel(mesh.admin_address(), dial::admin(mesh));
        let mut resources = ResourcesClient::new(admin);
        apply(&mut resources, "standing").await;
        let mut client = client(&socket).await;
        let mut stream = loop {
            let mut stream = fetch(&mut client).await;
            match stream.message().await {
                Ok(Some(_)) => break stream,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let mut fresh = Vec::with_capacity(CHANGES);
        for number in 0..CHANGES {
            // Each is another identity: certificates of one and the same are issued at a limited rate.
            let moving = format!("moving-{number}");
            let begun = Instant::now();
            apply(&mut resources, &moving).await;
            until(&mut stream, 2).await;
            fresh.push(begun.elapsed());
            delete(&mut resources, &moving).await;
            until(&mut stream, 1).await;
        }
        let mut fetched = Vec::with_capacity(FETCHES);
        for _ in 0..FETCHES {
            let begun = Instant::now();
            fetch(&mut client).await.message().await.unwrap();
            fetched.push(begun.elapsed());
        }
        (fresh, fetched)
    });
    println!("\nFrom apply of an enrollment to its certificate at a program that waits, {CHANGES} of them");
    print_spread(&mut fresh);
    println!("\nFetchX509SVID on a warm connection, {FETCHES} times");
    print_spread(&mut fetched);
    agent
}

fn token(mesh: &MeshBox) -> String {
    fs::read_to_string(mesh.token_file("client", &["--uses", "unlimited"])).unwrap().trim().to_owned()
}

/// Where those come who have no certificate yet.
struct Door {
    address: String,
    connector: Connector,
}

impl Door {
    fn of(mesh: &MeshBox) -> Self {
        Self { address: mesh.agent_address().to_owned(), connector: dial::stranger(mesh) }
    }

    /// Over a connection of its own.
    async fn attest(&self, token: &str, csr: &[u8]) -> Result<AttestResponse, tonic::Status> {
        let evidence = Some(Evidence::JoinToken(token.to_owned()));
        let request =
            AttestRequest { csr: csr.to_vec(), agent: None, evidence, enrollment: None, former: None };
        let channel = dial::channel(&self.address, self.connector.clone());
        EnrollmentClient::new(channel).attest(request).await.map(tonic::Response::into_inner)
    }
}

fn svid(attested: &AttestResponse) -> Svid {
    Svid::from_der(attested.certificate.clone().unwrap().chain).unwrap()
}

async fn client(socket: &Path) -> SpiffeWorkloadApiClient<Channel> {
    let socket: PathBuf = socket.to_owned();
    let dial = service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(dial).await.unwrap();
    SpiffeWorkloadApiClient::new(channel)
}

async fn fetch(client: &mut SpiffeWorkloadApiClient<Channel>) -> Streaming<X509svidResponse> {
    let mut request = Request::new(X509svidRequest {});
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    client.fetch_x509svid(request).await.unwrap().into_inner()
}

/// Until the program has so many identities.
async fn until(stream: &mut Streaming<X509svidResponse>, count: usize) {
    while stream.message().await.unwrap().expect("it goes on").svids.len() != count {}
}

async fn apply(resources: &mut ResourcesClient<Channel>, name: &str) {
    let selectors = vec![format!("unix:uid:{}", rustix::process::geteuid().as_raw())];
    let path = format!("bench/{name}");
    let spec = EnrollmentSpec {
        parent: Some(EnrollmentParent {
            node: Some(enrollment_parent::Node::VirtualNode("client".to_owned())),
        }),
        workload: Some(WorkloadEnrollment { path, selectors, ..WorkloadEnrollment::default() }),
        attest: None,
    };
    let resource = Resource {
        mesh: "bench".to_owned(),
        name: name.to_owned(),
        spec: Some(Spec::Enrollment(spec)),
        ..Resource::default()
    };
    resources.apply(ApplyRequest { resources: vec![resource], validate_only: false }).await.unwrap();
}

async fn delete(resources: &mut ResourcesClient<Channel>, name: &str) {
    let reference =
        ResourceRef { kind: Kind::Enrollment.into(), mesh: "bench".to_owned(), name: name.to_owned() };
    let targets = vec![DeleteTarget { r#ref: Some(reference), ..DeleteTarget::default() }];
    resources.delete(DeleteRequest { targets, validate_only: false }).await.unwrap();
}
