//! Envoy's Secret Discovery Service as a client sees it that speaks its protocol by hand.

use std::path::Path;

use hauberk_integration_tests::{eventually, eventually_async};
use hauberk_proto::sds::{
    envoy::{
        config::core::v3::{DataSource, Node, data_source::Specifier},
        extensions::transport_sockets::tls::v3::{Secret, secret::Type},
        service::{
            discovery::v3::{DiscoveryRequest, DiscoveryResponse},
            secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient,
        },
    },
    google::rpc,
};
use hauberk_tls::Svid;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::{net::UnixStream, sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use crate::{
    shop::PATIENCE,
    workload_api::{enrollment, shop, uid},
};

async fn client(socket: &Path) -> SecretDiscoveryServiceClient<Channel> {
    let socket = socket.to_owned();
    let dial = service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(dial).await.unwrap();
    SecretDiscoveryServiceClient::new(channel)
}

fn request(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        node: Some(Node { id: "by-hand".to_owned() }),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DiscoveryRequest::default()
    }
}

/// One stream, and the requests that went into it.
pub(crate) struct Exchange {
    requests: mpsc::Sender<DiscoveryRequest>,
    answers: Streaming<DiscoveryResponse>,
}

impl Exchange {
    pub(crate) async fn begin(socket: &Path, names: &[&str]) -> Self {
        let (requests, sent) = mpsc::channel(8);
        requests.send(request(names)).await.unwrap();
        let answers =
            client(socket).await.stream_secrets(ReceiverStream::new(sent)).await.unwrap().into_inner();
        Self { requests, answers }
    }

    pub(crate) async fn next(&mut self) -> Result<DiscoveryResponse, Status> {
        let answer = timeout(PATIENCE, self.answers.message()).await.expect("in time")?;
        Ok(answer.expect("a stream ends with its status"))
    }

    /// The next answer whose certificate is as it should be. One may come before it for another reason.
    async fn until(&mut self, is_it: impl Fn(&Svid) -> bool) -> DiscoveryResponse {
        loop {
            let answer = self.next().await.unwrap();
            if svids(&answer).first().is_some_and(|(_, svid)| is_it(svid)) {
                return answer;
            }
            self.reply(&["default"], &answer, None).await;
        }
    }

    /// Answers an answer.
    async fn reply(&self, names: &[&str], answer: &DiscoveryResponse, problem: Option<&str>) {
        let error_detail =
            problem.map(|text| rpc::Status { code: 13, message: text.to_owned(), details: vec![] });
        let version_info = if problem.is_none() { answer.version_info.clone() } else { String::new() };
        let response_nonce = answer.nonce.clone();
        let reply =
            DiscoveryRequest { version_info, response_nonce, error_detail, node: None, ..request(names) };
        self.requests.send(reply).await.unwrap();
    }
}

/// The certificates in an answer, each under the name of its secret.
fn svids(answer: &DiscoveryResponse) -> Vec<(String, Svid)> {
    let secrets = answer.resources.iter().map(|resource| Secret::decode(resource.value.as_slice()).unwrap());
    secrets
        .filter_map(|secret| {
            let Type::TlsCertificate(certificate) = secret.r#type? else { return None };
            let Some(DataSource { specifier: Some(Specifier::InlineBytes(pem)) }) =
                certificate.certificate_chain
            else {
                return None;
            };
            Some((secret.name, Svid::from_pem(std::str::from_utf8(&pem).unwrap()).unwrap()))
        })
        .collect()
}

/// What a program is given to verify others by, under this name.
pub(crate) async fn roots(socket: &Path, name: &str) -> String {
    let answer = Exchange::begin(socket, &[name]).await.next().await.unwrap();
    let secret = Secret::decode(answer.resources[0].value.as_slice()).unwrap();
    let Some(Type::ValidationContext(context)) = secret.r#type else { panic!("{name} is no bundle") };
    let Some(Specifier::InlineBytes(pem)) = context.trusted_ca.unwrap().specifier else { panic!("{name}") };
    String::from_utf8(pem).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_pushed_at_each_change_until_nothing_is_given() {
    let (mesh, agent, socket) = shop();
    let refused = Exchange::begin(&socket, &["default"]).await.next().await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "nobody's program");
    assert_eq!(
        client(&socket).await.fetch_secrets(request(&[])).await.unwrap_err().code(),
        Code::PermissionDenied
    );

    mesh.apply(&enrollment("worker", "web", &uid(), ""));
    let once = eventually_async("an identity is given", PATIENCE, async || {
        Some(client(&socket).await.fetch_secrets(request(&[])).await.ok()?.into_inner())
    })
    .await;
    assert_eq!(once.resources.len(), 2, "an identity, and the roots");
    assert_eq!(svids(&once)[0].0, "spiffe://box.test/workload/test/worker");

    let mut stream = Exchange::begin(&socket, &["default", "unheard-of"]).await;
    let first = stream.next().await.unwrap();
    let [(name, svid)] = &svids(&first)[..] else { panic!("{first:?}") };
    assert_eq!((name.as_str(), svid.id().as_str()), ("default", "spiffe://box.test/workload/test/worker"));
    eventually("what is not there is told", PATIENCE, || {
        let log = agent.process.log();
        let line = log.lines().find(|line| line.contains("sds_secret_absent"))?;
        (line.contains("unheard-of") && line.contains("by-hand")).then_some(())
    });

    // Refused, and not repeated: what comes next is the next change. An authority that signs no longer is one.
    stream.reply(&["default"], &first, Some("no such curve")).await;
    mesh.hauberk(&["authority", "rotate", "issuing", "--wait=60s"]).ok();
    // The names have changed with the refusal, so that the same may come first.
    let second = stream.until(|now| now.serial() != svid.serial()).await;
    assert_ne!(svids(&second)[0].1.issuer_serial(), svid.issuer_serial());
    let log = agent.process.log();
    let line = log.lines().find(|line| line.contains("sds_rejected")).expect("the reason is logged");
    assert!(line.contains("no such curve") && line.contains("by-hand"), "{line}");

    // Another identity becomes the first.
    stream.reply(&["default"], &second, None).await;
    mesh.apply(&enrollment("another", "web", &uid(), ""));
    stream.until(|now| now.id().as_str() == "spiffe://box.test/workload/test/another").await;

    mesh.hauberk(&["delete", "enrollment", "another"]).ok();
    let fourth = stream.until(|now| now.id() == svid.id()).await;
    assert_eq!(
        svids(&fourth)[0].1.serial(),
        svids(&second)[0].1.serial(),
        "what is still good is not issued again"
    );
    mesh.hauberk(&["delete", "enrollment", "worker"]).ok();
    let ended = loop {
        if let Err(status) = stream.next().await {
            break status;
        }
    };
    assert_eq!(ended.code(), Code::PermissionDenied);
    assert!(!agent.process.log().contains("PRIVATE KEY"));
}
