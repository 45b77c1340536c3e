//! A control plane for tests: authorities, signatures, and a server that does what a test tells it.

mod stalled_file;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use hauberk_identity::{Name, Serial, SpiffeId, TrustDomain, UnixMillis, Validity};
use hauberk_proto::agent::v1 as pb;
use hauberk_proto::agent::v1::enrollment_server::{Enrollment, EnrollmentServer};
use hauberk_proto::agent::v1::mesh_server::MeshServer;
use hauberk_tls::signing::{Purpose, ViewSigner, ViewVerifier};
use hauberk_tls::{
    Acceptor, CertificateRequest, ClientAuth, IssuingAuthority, KeyPair, LiveIdentity, PublicKey,
    RootAuthority, Svid, SvidTemplate,
};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tower_service::Service;

use crate::clock::Clock;
use crate::config::{Config, Flags, Subcommand};
use crate::control_plane::ALPN;
use crate::mesh::NodeView;
use crate::state::{StoredIdentity, StoredTrust};
use crate::sync::Recipient;
use crate::sync::{Content, Floors, authenticate};
pub(crate) use stalled_file::{SilentFile, StalledFile};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// Authorities and the key that signs views.
pub(crate) struct Authorities {
    pub(crate) root: RootAuthority,
    pub(crate) issuing: IssuingAuthority,
    pub(crate) signer: ViewSigner,
}

impl Authorities {
    pub(crate) fn new() -> Arc<Self> {
        let domain = TrustDomain::parse("shop.local").unwrap();
        let root = RootAuthority::create(&domain, around(HOUR * 90), serial()).unwrap();
        let issuing = IssuingAuthority::create(&root, around(HOUR * 80), serial()).unwrap();
        Arc::new(Self { root, issuing, signer: ViewSigner::generate().unwrap() })
    }

    pub(crate) fn sign(&self, path: &str, public_key: PublicKey, validity: Validity) -> Svid {
        self.sign_numbered(path, public_key, validity, serial())
    }

    /// The same with this serial number.
    pub(crate) fn sign_numbered(
        &self,
        path: &str,
        public_key: PublicKey,
        validity: Validity,
        serial: Serial,
    ) -> Svid {
        let id = SpiffeId::parse(&format!("spiffe://shop.local/{path}")).unwrap();
        let template =
            SvidTemplate { id, public_key, serial, validity, dns_names: vec![], ip_addresses: vec![] };
        self.issuing.sign(&template).unwrap()
    }

    pub(crate) fn identity(&self, path: &str, validity: Validity) -> StoredIdentity {
        let key = KeyPair::generate().unwrap();
        StoredIdentity {
            instance: "0123456789".parse().unwrap(),
            issued_at: now(),
            used_token: None,
            svid: self.sign(path, key.public_key(), validity),
            key,
        }
    }

    pub(crate) fn live(&self, path: &str) -> LiveIdentity {
        let identity = self.identity(path, around(HOUR));
        let live = LiveIdentity::new(self.issuing.root_bundle().clone());
        // Newcomers know the root by its fingerprint, so that a control plane sends it along.
        let svid = identity.svid.with_root(self.root.certificate()).unwrap();
        live.publish(svid, &identity.key).unwrap();
        live
    }

    pub(crate) fn trust(&self) -> pb::Trust {
        pb::Trust {
            trust_domain: "shop.local".to_owned(),
            roots: vec![self.root.certificate().to_vec()],
            view_keys: vec![pb::ViewKey {
                key_id: self.signer.key_id().to_owned(),
                public_key: self.signer.public_key_der().to_vec(),
            }],
            ..pb::Trust::default()
        }
    }

    pub(crate) fn stored_trust(&self) -> StoredTrust {
        StoredTrust::new(self.trust()).unwrap()
    }

    pub(crate) fn view_keys(&self) -> ViewVerifier {
        ViewVerifier::from_public_keys([self.signer.public_key_der()]).unwrap()
    }

    pub(crate) fn view_key_id(&self) -> String {
        self.signer.key_id().to_owned()
    }

    pub(crate) fn signed_denylist(&self, list: &pb::Denylist) -> pb::SignedDenylist {
        let encoded = list.encode_to_vec();
        pb::SignedDenylist {
            signature: self.signer.sign(Purpose::Denylist, &encoded).unwrap().into(),
            key_id: self.signer.key_id().to_owned(),
            denylist: encoded.into(),
        }
    }

    pub(crate) fn signed(&self, view: &pb::View) -> pb::SignedView {
        let encoded = view.encode_to_vec();
        pb::SignedView {
            signature: self.signer.sign(Purpose::View, &encoded).unwrap().into(),
            key_id: self.signer.key_id().to_owned(),
            view: encoded.into(),
        }
    }
}

/// The node that tests are.
pub(crate) fn recipient() -> Recipient {
    let domain = TrustDomain::parse("shop.local").unwrap();
    let (mesh, node) = (Name::parse("shop").unwrap(), Name::parse("orders").unwrap());
    Recipient { spiffe_id: SpiffeId::node(&domain, &mesh, &node), trust_domain: domain, mesh }
}

/// A view of ours with one HTTP port and no policies.
pub(crate) fn node_view(revision: u64) -> pb::View {
    pb::View {
        epoch: 1,
        revision,
        features: vec![],
        trust_domain: "shop.local".to_owned(),
        mesh: "shop".to_owned(),
        body: Some(pb::view::Body::Node(pb::NodeView {
            spiffe_id: recipient().spiffe_id.to_string(),
            ports: vec![pb::InboundPort {
                number: 8080,
                protocol: pb::Protocol::Http.into(),
                services: vec!["orders.shop".to_owned()],
                ..pb::InboundPort::default()
            }],
            ..pb::NodeView::default()
        })),
    }
}

/// The view of a node, ready to decide by.
pub(crate) fn prepared(view: &pb::View) -> Arc<NodeView> {
    let authorities = Authorities::new();
    let signed = authorities.signed(view);
    let authentic =
        authenticate(&signed, &authorities.view_keys(), &recipient(), &Floors::default()).unwrap();
    match authentic.prepare(None).unwrap().content {
        Content::Node { view, .. } => view,
        Content::Service(_) => unreachable!(),
    }
}

/// The view of a service with one port and one registered target.
pub(crate) fn service_view(name: &str, revision: u64) -> pb::View {
    let target = pb::Target {
        spiffe_id: "spiffe://shop.local/mesh/shop/node/payments".to_owned(),
        discovery: Some(pb::target::Discovery::Registered(pb::Registered {})),
    };
    let port = pb::ServicePort { number: 9090, protocol: pb::Protocol::Http.into(), targets: vec![target] };
    let body = pb::ServiceView { name: name.to_owned(), ports: vec![port] };
    pb::View { body: Some(pb::view::Body::Service(body)), ..node_view(revision) }
}

pub(crate) fn now() -> UnixMillis {
    Clock::system().now()
}

pub(crate) fn around(span: Duration) -> Validity {
    Validity::new(now().minus(span), now().plus(span)).unwrap()
}

pub(crate) fn serial() -> Serial {
    static LAST: AtomicU8 = AtomicU8::new(0);
    Serial::from_random([LAST.fetch_add(1, Ordering::Relaxed); 16])
}

/// A configuration with this control plane, everything else at port 0.
pub(crate) fn config(control_plane: SocketAddr, state_dir: &Path, more: &[&str]) -> Config {
    let control_plane = format!("--control-plane={control_plane}");
    let state_dir = format!("--state-dir={}", state_dir.display());
    let args = ["hauberk-agent", "run", &control_plane, &state_dir].into_iter().chain(more.iter().copied());
    let Subcommand::Run(flags) = Flags::try_parse_from(args).unwrap().subcommand else { unreachable!() };
    Config::load(*flags, |_| None).unwrap()
}

/// A control plane that listens; dropping it ends it.
pub(crate) struct ControlPlane {
    pub(crate) address: SocketAddr,
    pub(crate) enrollment: Arc<Desk>,
    /// The streams that agents have opened.
    pub(crate) streams: mpsc::Receiver<Stream>,
    _serving: JoinSet<()>,
}

/// One Sync stream, from the control plane's side.
pub(crate) struct Stream {
    pub(crate) up: Streaming<pb::FromAgent>,
    pub(crate) down: mpsc::Sender<Result<pb::ToAgent, Status>>,
}

/// What answers those who join and renew.
pub(crate) struct Desk {
    authorities: Arc<Authorities>,
    /// What is answered instead, in this order, before certificates are.
    pub(crate) refusals: Mutex<Vec<Status>>,
    /// The token and the key of everyone who asked.
    pub(crate) asked: Mutex<Vec<(String, String)>>,
    /// Whom those who joined say that they were.
    pub(crate) formers: Mutex<Vec<Option<pb::FormerInstance>>>,
    pub(crate) lifetime: Mutex<Duration>,
    /// Whoever holds it keeps renewals that were asked for from being answered.
    pub(crate) may_answer: tokio::sync::Mutex<()>,
    /// How far its clock is ahead of this host's.
    pub(crate) ahead: Mutex<Duration>,
}

struct Gatherer(mpsc::Sender<Stream>);

impl ControlPlane {
    pub(crate) async fn start(authorities: &Arc<Authorities>) -> Self {
        Self::start_as(authorities, "control-plane/one").await
    }

    pub(crate) async fn start_as(authorities: &Arc<Authorities>, path: &str) -> Self {
        let acceptor =
            authorities.live(path).acceptor(ALPN, ClientAuth::Optional, Duration::from_secs(5)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let desk = Arc::new(Desk {
            authorities: Arc::clone(authorities),
            refusals: Mutex::default(),
            asked: Mutex::default(),
            formers: Mutex::default(),
            lifetime: Mutex::new(HOUR),
            may_answer: tokio::sync::Mutex::default(),
            ahead: Mutex::default(),
        });
        let (opened, streams) = mpsc::channel(8);
        let mut serving = JoinSet::new();
        let (desk_too, gatherer) = (Arc::clone(&desk), Arc::new(Gatherer(opened)));
        serving.spawn(accept(listener, acceptor, desk_too, gatherer));
        Self { address, enrollment: desk, streams, _serving: serving }
    }
}

async fn accept(listener: TcpListener, acceptor: Acceptor, desk: Arc<Desk>, gatherer: Arc<Gatherer>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let Ok(connection) = acceptor.accept(stream).await else { continue };
        let (desk, gatherer) = (Arc::clone(&desk), Arc::clone(&gatherer));
        connections.spawn(async move {
            let service = service_fn(|request: http::Request<Incoming>| {
                let mut enrollment = EnrollmentServer::from_arc(Arc::clone(&desk));
                let mut mesh = MeshServer::from_arc(Arc::clone(&gatherer));
                let date = desk.date();
                async move {
                    let answer = match request.uri().path().starts_with("/hauberk.agent.v1.Mesh/") {
                        true => mesh.call(request).await,
                        false => enrollment.call(request).await,
                    };
                    answer.map(|mut answer| {
                        answer.headers_mut().insert(http::header::DATE, date);
                        answer
                    })
                }
            });
            let io = TokioIo::new(connection.into_parts().0);
            // However it ends: the agent under test says what it makes of it.
            let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
        });
    }
}

#[tonic::async_trait]
impl Enrollment for Desk {
    async fn attest(
        &self,
        request: Request<pb::AttestRequest>,
    ) -> Result<Response<pb::AttestResponse>, Status> {
        let pb::AttestRequest { csr, evidence, agent: _, enrollment: _, former } = request.into_inner();
        self.formers.lock().unwrap().push(former);
        let Some(pb::attest_request::Evidence::JoinToken(token)) = evidence else {
            return Err(Status::invalid_argument("no token"));
        };
        let certificate = self.certify(&csr, token)?;
        Ok(Response::new(pb::AttestResponse {
            certificate: Some(certificate),
            trust: Some(self.authorities.trust()),
            instance_id: "0123456789".to_owned(),
        }))
    }

    async fn sign_certificate(
        &self,
        request: Request<pb::SignCertificateRequest>,
    ) -> Result<Response<pb::SignCertificateResponse>, Status> {
        let certificate = self.certify(&request.into_inner().csr, String::new())?;
        let _answers = self.may_answer.lock().await;
        Ok(Response::new(pb::SignCertificateResponse {
            certificate: Some(certificate),
            trust: Some(self.authorities.trust()),
        }))
    }
}

impl Desk {
    fn date(&self) -> http::HeaderValue {
        let now = now().plus(*self.ahead.lock().unwrap());
        let date = std::time::UNIX_EPOCH + now.since(UnixMillis(0));
        httpdate::fmt_http_date(date).parse().unwrap()
    }

    fn certify(&self, csr: &[u8], token: String) -> Result<pb::Certificate, Status> {
        let key =
            CertificateRequest::parse(csr).map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.asked.lock().unwrap().push((token, key.fingerprint().to_string()));
        let refusal = self.refusals.lock().unwrap().pop();
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        let lifetime = *self.lifetime.lock().unwrap();
        let validity = Validity::new(now().minus(HOUR), now().plus(lifetime)).unwrap();
        let svid = self.authorities.sign("mesh/shop/node/orders", key, validity);
        Ok(pb::Certificate {
            chain: svid.chain().iter().map(|der| der.to_vec()).collect(),
            spiffe_id: svid.id().to_string(),
            issued_at_unix_ms: now().0,
            not_after_unix_ms: svid.validity().not_after().0,
        })
    }
}

#[tonic::async_trait]
impl pb::mesh_server::Mesh for Gatherer {
    type SyncStream = ReceiverStream<Result<pb::ToAgent, Status>>;

    async fn sync(
        &self,
        request: Request<Streaming<pb::FromAgent>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let (down, sent) = mpsc::channel(32);
        self.0
            .send(Stream { up: request.into_inner(), down })
            .await
            .map_err(|_| Status::unavailable("over"))?;
        Ok(Response::new(ReceiverStream::new(sent)))
    }
}

impl Stream {
    pub(crate) async fn send(&self, message: pb::to_agent::Message) {
        self.down.send(Ok(pb::ToAgent { message: Some(message) })).await.unwrap();
    }

    /// The next message that `wanted` takes; others are passed over.
    pub(crate) async fn next<T>(&mut self, wanted: impl Fn(pb::from_agent::Message) -> Option<T>) -> T {
        let next = async {
            loop {
                let message = self.up.message().await.unwrap().unwrap().message.unwrap();
                if let Some(found) = wanted(message) {
                    return found;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), next).await.unwrap()
    }
}
