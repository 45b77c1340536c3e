//! gRPC channels to the control plane: as an admin, as an agent, or as nobody.

use std::{fs, io, time::Duration};

use hauberk_proto::agent::v1::{
    AgentInfo, AttestRequest, AttestResponse, attest_request::Evidence, enrollment_client::EnrollmentClient,
};
use hauberk_tls::{
    BootstrapTrust, CertificateRequest, Connector, KeyPair, LiveIdentity, ServerExpectation, Svid,
    TrustBundle, bootstrap_connector, device::ChannelBinding, install_provider,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use crate::MeshBox;

const PATIENCE: Duration = Duration::from_secs(10);

/// A channel to `address` through `connector`; it connects at its first use.
pub fn channel(address: &str, connector: Connector) -> Channel {
    let target = address.to_owned();
    let dial = service_fn(move |_| {
        let (target, connector) = (target.clone(), connector.clone());
        async move {
            let stream = TcpStream::connect(target).await?;
            stream.set_nodelay(true)?;
            let connection = connector.connect(stream).await.map_err(io::Error::other)?;
            Ok::<_, io::Error>(TokioIo::new(connection.into_parts().0))
        }
    });
    Endpoint::from_static("http://control-plane.test").connect_with_connector_lazy(dial)
}

/// What connects to the control plane without a certificate.
pub fn stranger(mesh: &MeshBox) -> Connector {
    install_provider();
    let bundle = BootstrapTrust::Bundle(bundle(mesh).into());
    bootstrap_connector(bundle, &[b"h2"], PATIENCE).unwrap()
}

/// What connects to the control plane with this certificate.
pub fn bearer(mesh: &MeshBox, svid: Svid, key: &KeyPair) -> Connector {
    install_provider();
    let live = LiveIdentity::new(bundle(mesh));
    live.publish(svid, key).unwrap();
    live.connector(ServerExpectation::ControlPlane, &[b"h2"], true, PATIENCE).unwrap()
}

/// What connects to the admin API with the command line's own credential.
pub fn admin(mesh: &MeshBox) -> Connector {
    let key = KeyPair::from_pkcs8_pem(&mesh.context("key_pem")).unwrap();
    bearer(mesh, Svid::from_pem(&mesh.context("certificate_pem")).unwrap(), &key)
}

/// Exchanges a join token for a certificate of `key`.
pub async fn attest(mesh: &MeshBox, token: &str, key: &KeyPair) -> Result<AttestResponse, Status> {
    attest_with(mesh, token, CertificateRequest::create(key).unwrap()).await
}

/// The same over a channel that is there.
pub async fn attest_over(channel: Channel, token: String, key: KeyPair) -> Result<AttestResponse, Status> {
    let csr = CertificateRequest::create(&key).map_err(|error| Status::internal(error.to_string()))?;
    let evidence = Some(Evidence::JoinToken(token));
    let request = AttestRequest { csr, agent: None, evidence, enrollment: None, former: None };
    EnrollmentClient::new(channel).attest(request).await.map(tonic::Response::into_inner)
}

/// The same with a certificate request of the caller's.
pub async fn attest_with(mesh: &MeshBox, token: &str, csr: Vec<u8>) -> Result<AttestResponse, Status> {
    let agent = AgentInfo { version: "test".to_owned(), hostname: "box".to_owned() };
    let evidence = Some(Evidence::JoinToken(token.to_owned()));
    let request = AttestRequest { csr, agent: Some(agent), evidence, enrollment: None, former: None };
    let channel = channel(mesh.agent_address(), stranger(mesh));
    EnrollmentClient::new(channel).attest(request).await.map(tonic::Response::into_inner)
}

/// A connection to the agent API without a certificate: its channel, and its name.
pub async fn named_stranger(mesh: &MeshBox) -> (Channel, ChannelBinding) {
    let stream = TcpStream::connect(mesh.agent_address()).await.unwrap();
    let connection = stranger(mesh).connect(stream).await.unwrap();
    let name = ChannelBinding::of(&connection).unwrap();
    let mut stream = Some(TokioIo::new(connection.into_parts().0));
    let dial = service_fn(move |_| {
        let stream = stream.take().ok_or_else(|| io::Error::other("there is one connection only"));
        async move { stream }
    });
    let endpoint = Endpoint::from_static("http://control-plane.test");
    (endpoint.connect_with_connector(dial).await.unwrap(), name)
}

/// The text of a new join token.
pub fn token(mesh: &MeshBox, node: &str, more: &[&str]) -> String {
    fs::read_to_string(mesh.token_file(node, more)).unwrap().trim().to_owned()
}

/// A key and a certificate of a node, as its agent would get them.
pub async fn join(mesh: &MeshBox, node: &str) -> (Svid, KeyPair) {
    install_provider();
    let token = token(mesh, node, &[]);
    let key = KeyPair::generate().unwrap();
    let attested = attest(mesh, &token, &key).await.unwrap();
    (Svid::from_der(attested.certificate.unwrap().chain).unwrap(), key)
}

/// The roots of the mesh in the box.
pub fn bundle(mesh: &MeshBox) -> TrustBundle {
    TrustBundle::from_self_describing_pem(&mesh.bundle_pem(), None).unwrap()
}
