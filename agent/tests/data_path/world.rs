//! A mesh of agents in this process.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hauberk_agent::clock::Clock;
use hauberk_agent::connections::Connections;
use hauberk_agent::context::Context;
use hauberk_agent::decisions::{AccessLog, Decisions};
use hauberk_agent::inbound::{self, Limits, Listener};
use hauberk_agent::mesh::{Endpoint, EndpointSet, Mesh, NodeView, Port, Service, ServicePort, Target};
use hauberk_agent::outbound::{Outbound, TcpService};
use hauberk_agent::state::StoredTrust;
use hauberk_identity::{InstanceId, Name, Serial, SpiffeId, TrustDomain, UnixMillis, Validity};
use hauberk_policy::{
    Authorization, Engine, EscapedSlashes, Known, Mode, NodeScope, ObsText, Place, PolicyDocument,
    PolicyIndex, PortScope, Protocol, Undeclared,
};
use hauberk_proto::agent::v1::Trust;
use hauberk_proto::convert::Discovery;
use hauberk_tls::{
    FederatedBundles, IssuingAuthority, KeyPair, LiveIdentity, RootAuthority, SvidTemplate, TrustBundle,
};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// How long any one wait may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct World {
    pub domain: TrustDomain,
    pub mesh: Name,
    issuing: IssuingAuthority,
    serial: AtomicU64,
    revision: AtomicU64,
}

/// One agent. Dropping it ends its tasks.
pub struct Agent {
    pub id: SpiffeId,
    pub context: Context,
    pub connections: Arc<Connections>,
    pub outbound: Arc<Outbound>,
    pub stop: CancellationToken,
    pub tasks: JoinSet<()>,
    pub listeners: Vec<AbortHandle>,
}

/// Access lines as they are written.
#[derive(Clone, Default)]
pub struct Lines {
    written: Arc<Mutex<Vec<u8>>>,
    more: Arc<Notify>,
}

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.written.lock().unwrap().write(bytes);
        self.more.notify_one();
        count
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// The next line, which is taken away.
    pub async fn next(&self) -> serde_json::Value {
        let reading = async {
            loop {
                if let Some(line) = self.take() {
                    return line;
                }
                self.more.notified().await;
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.unwrap()
    }

    fn take(&self) -> Option<serde_json::Value> {
        let mut written = self.written.lock().unwrap();
        let end = written.iter().position(|byte| *byte == b'\n')?;
        let line = serde_json::from_slice(&written[..end]).unwrap();
        written.drain(..=end);
        Some(line)
    }
}

pub fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

pub fn now() -> UnixMillis {
    Clock::system().now()
}

impl World {
    pub fn new() -> Self {
        hauberk_tls::install_provider();
        let domain = TrustDomain::parse("shop.local").unwrap();
        let validity =
            Validity::new(now().minus(Duration::from_secs(300)), now().plus(Duration::from_secs(86_400)));
        let root = RootAuthority::create(&domain, validity.unwrap(), Serial::from_random([1; 16])).unwrap();
        let issuing =
            IssuingAuthority::create(&root, validity.unwrap(), Serial::from_random([2; 16])).unwrap();
        Self { domain, mesh: name("shop"), issuing, serial: AtomicU64::new(10), revision: AtomicU64::new(1) }
    }

    pub fn node(&self, node: &str) -> SpiffeId {
        SpiffeId::node(&self.domain, &self.mesh, &name(node))
    }

    pub fn bundle(&self) -> TrustBundle {
        self.issuing.root_bundle().clone()
    }

    /// Issues a certificate and publishes it.
    pub fn certify(&self, identity: &LiveIdentity, id: &SpiffeId, life: Duration) {
        let validity = Validity::new(now().minus(Duration::from_secs(300)), now().plus(life)).unwrap();
        self.certify_for(identity, id, validity);
    }

    fn certify_for(&self, identity: &LiveIdentity, id: &SpiffeId, validity: Validity) {
        let key = KeyPair::generate().unwrap();
        let mut serial = [7; 16];
        serial[8..].copy_from_slice(&self.serial.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let template = SvidTemplate {
            id: id.clone(),
            public_key: key.public_key(),
            serial: Serial::from_random(serial),
            validity,
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
        };
        identity.publish(self.issuing.sign(&template).unwrap(), &key).unwrap();
    }

    pub fn identity(&self, id: &SpiffeId, life: Duration) -> LiveIdentity {
        let identity = LiveIdentity::new(self.bundle());
        self.certify(&identity, id, life);
        identity
    }

    /// One whose certificate has expired a minute ago.
    pub fn expired(&self, id: &SpiffeId) -> LiveIdentity {
        let identity = LiveIdentity::new(self.bundle());
        let (since, until) = (now().minus(Duration::from_secs(250)), now().minus(Duration::from_secs(60)));
        self.certify_for(&identity, id, Validity::new(since, until).unwrap());
        identity
    }

    /// What a control plane would say is to be trusted.
    fn trust(&self) -> watch::Receiver<Arc<StoredTrust>> {
        let roots = self.bundle().roots().iter().map(|root| root.der().to_vec()).collect();
        let trust = Trust { trust_domain: self.domain.to_string(), roots, ..Trust::default() };
        watch::Sender::new(Arc::new(StoredTrust::new(trust).unwrap())).subscribe()
    }

    pub fn agent(&self, node: &str) -> Agent {
        self.agent_with_life(node, Duration::from_secs(3_600))
    }

    pub fn agent_with_life(&self, node: &str, life: Duration) -> Agent {
        self.agent_with(node, life, None, 1_000)
    }

    /// An agent with so few places for connections from apps, and for those to other agents.
    pub fn cramped_agent(&self, node: &str, places: usize) -> Agent {
        self.agent_with(node, Duration::from_secs(3_600), None, places)
    }

    /// An agent that writes access lines.
    pub fn logging_agent(&self, node: &str) -> (Agent, Lines) {
        let lines = Lines::default();
        // Its thread ends with the process; what it writes is read as it comes.
        let (log, _writer) = AccessLog::start(lines.clone()).unwrap();
        (self.agent_with(node, Duration::from_secs(3_600), Some(log), 1_000), lines)
    }

    fn agent_with(&self, node: &str, life: Duration, log: Option<AccessLog>, places: usize) -> Agent {
        let id = self.node(node);
        // Goes on with tokio's time, which tests may let pass at once.
        let clock = Clock::starting_at(now());
        let context = Context {
            clock,
            identity: self.identity(&id, life),
            trust: self.trust(),
            mesh: Mesh::new(),
            decisions: Arc::new(Decisions::new(clock, InstanceId::from_random([3; 8]), [1, 2, 3, 4], log)),
            metrics: Arc::default(),
        };
        context.mesh.gate.set_certificate_valid(true);
        let connections = Connections::new(context.clone());
        let outbound = Outbound::new(Arc::clone(&connections), places, places);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let (enforcing, stopping) = (Arc::clone(&connections), stop.clone());
        tasks.spawn(async move { enforcing.enforce(stopping).await });
        let (maintaining, stopping) = (Arc::clone(&outbound), stop.clone());
        tasks.spawn(async move { maintaining.maintain(stopping).await });
        Agent { id, context, connections, outbound, stop, tasks, listeners: Vec::new() }
    }

    /// A view for a node with these ports, each a service of the node's own name, decided by these policies.
    pub fn view(
        &self,
        id: &SpiffeId,
        service: &str,
        ports: &[(u16, Protocol)],
        policies: &[&str],
    ) -> Arc<NodeView> {
        let scope = NodeScope {
            trust_domain: self.domain.clone(),
            mesh: self.mesh.clone(),
            place: Place::Node(id.clone()),
            ports: ports
                .iter()
                .map(|(number, protocol)| PortScope {
                    number: *number,
                    protocol: *protocol,
                    services: vec![name(service)],
                    routes: Vec::new(),
                    undeclared: Undeclared::Decide,
                    authorization: Authorization::Enforce,
                    users: None,
                    escaped_slashes: EscapedSlashes::Reject,
                    obs_text: ObsText::Reject,
                })
                .collect(),
        };
        let documents: Vec<_> = policies
            .iter()
            .enumerate()
            .map(|(index, text)| {
                let policy = name(&format!("policy-{index}"));
                PolicyDocument::parse(self.mesh.clone(), &self.domain, policy, Mode::Enforce, text).unwrap()
            })
            .collect();
        let slice = PolicyIndex::new(&self.mesh, &documents).slice(&scope, Known::default());
        let ports = scope.ports.iter().map(|port| Port {
            number: port.number,
            protocol: port.protocol,
            services: port.services.clone(),
            users: None,
            obs_text: port.obs_text,
        });
        Arc::new(NodeView {
            epoch: 1,
            revision: self.revision.fetch_add(1, Ordering::Relaxed),
            spiffe_id: id.clone(),
            ports: ports.collect(),
            engine: Engine::compile(scope.clone(), &slice, None).unwrap(),
            digest: [0; 32],
            federated: FederatedBundles::default(),
            users: None,
            externals: Vec::new(),
        })
    }
}

impl Agent {
    /// A figure of `/metrics`, 0 where there is none.
    pub fn figure(&self, sample: &str) -> f64 {
        let text = self.context.metrics.text();
        let found = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        found.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Applies a view and waits until live traffic obeys it.
    pub async fn apply(&self, view: Arc<NodeView>) {
        let mut applied = self.context.mesh.applied.subscribe();
        self.context.mesh.gate.open(Arc::clone(&view));
        let obeyed = async {
            while !self.context.mesh.applied.view().is_some_and(|applied| Arc::ptr_eq(&applied, &view)) {
                applied.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, obeyed).await.unwrap();
    }

    /// Listens for the mesh.
    pub async fn listen(&mut self, port: u16, app: SocketAddr) -> SocketAddr {
        self.listen_within(Limits::new(1_000, 1_000), port, app).await
    }

    /// The same, within these limits.
    pub async fn listen_within(&mut self, limits: Arc<Limits>, port: u16, app: SocketAddr) -> SocketAddr {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let listener = Listener { port, socket, app };
        let served = inbound::serve(listener, Arc::clone(&self.connections), limits, self.stop.clone());
        let serving = self.tasks.spawn(served);
        self.listeners.push(serving);
        address
    }

    /// Knows a service at these addresses.
    pub fn knows(
        &self,
        service: &str,
        of: &SpiffeId,
        port: u16,
        protocol: Protocol,
        addresses: &[SocketAddr],
    ) {
        let endpoints = addresses.iter().map(|address| Endpoint::found_at(*address)).collect();
        self.context.mesh.endpoints.update(of, port, endpoints);
        let endpoints: Arc<EndpointSet> = self.context.mesh.endpoints.of(of, port, &Discovery::Registered);
        let target = Target { spiffe_id: of.clone(), discovery: Discovery::Registered, endpoints };
        let port = ServicePort { number: port, protocol, targets: vec![target] };
        let service =
            Service { name: name(service), epoch: 1, revision: 1, digest: [0; 32], ports: vec![port] };
        self.context.mesh.services.install(vec![Arc::new(service)]);
    }

    /// Takes HTTP of local apps.
    pub async fn open_http(&mut self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (outbound, stop) = (Arc::clone(&self.outbound), self.stop.clone());
        let serving = self.tasks.spawn(async move { outbound.serve_http(listener, stop).await });
        self.listeners.push(serving);
        address
    }

    /// Takes TCP of local apps for a service.
    pub async fn open_tcp(&mut self, service: &str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (outbound, stop) = (Arc::clone(&self.outbound), self.stop.clone());
        let service = TcpService { is_external: false, name: name(service), port: None };
        let serving = self.tasks.spawn(async move { outbound.serve_tcp(listener, service, stop).await });
        self.listeners.push(serving);
        address
    }
}

/// Waits until something is so. It is looked at whenever all tasks of the test have had a turn.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "waited in vain until {what}");
}
