//! What a program may ask of the socket itself: which services there are (gRPC Server Reflection), and whether they
//! serve (gRPC Health Checking), as SPIFFE Workload Endpoint §7 would have it. Neither is SPIFFE's own: neither takes
//! its metadata, and both answer before the agent is somebody.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use hauberk_proto::WORKLOAD_API_FILE_DESCRIPTOR_SET;
use hauberk_proto::sds::envoy::service::secret::v3::secret_discovery_service_server::SERVICE_NAME as SECRETS;
use hauberk_proto::workload::spiffe_workload_api_server::SERVICE_NAME as WORKLOAD;
use http::{Request, Response};
use http_body::Frame;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic::{Response as Answer, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer, SERVICE_NAME as HEALTH};
use tonic_health::pb::{self, HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::server::{Builder, Error};

use super::unjoined::Front;

/// The largest question about health, in bytes: it names a service.
const LARGEST_HEALTH_REQUEST: usize = 1024;

/// The largest one about services: it names a file or a symbol.
const LARGEST_REFLECTION_REQUEST: usize = 4 * 1024;

type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// The services that tell of the others. One for all connections.
pub(super) struct Introspection(Vec<Mounted>);

/// One of them.
pub(super) struct Mounted {
    name: &'static str,
    call: Box<dyn Fn(Request<Body>) -> Answering + Send + Sync>,
}

impl Introspection {
    /// Those of an agent.
    ///
    /// # Errors
    /// Our own descriptors cannot be read.
    pub(super) fn new(front: Arc<Front>) -> Result<Self, Error> {
        let stop = front.stop().clone();
        let health = HealthServer::new(Serving(front)).max_decoding_message_size(LARGEST_HEALTH_REQUEST);
        let v1 = reflection().build_v1()?.max_decoding_message_size(LARGEST_REFLECTION_REQUEST);
        let v1alpha = reflection().build_v1alpha()?.max_decoding_message_size(LARGEST_REFLECTION_REQUEST);
        Ok(Self(vec![mounted(health, &stop), mounted(v1, &stop), mounted(v1alpha, &stop)]))
    }

    /// Which of them a path is of, if it is of one.
    pub(super) fn at(&self, path: &str) -> Option<&Mounted> {
        let named = path.split('/').nth(1)?;
        self.0.iter().find(|mounted| mounted.name == named)
    }
}

impl Mounted {
    pub(super) async fn answer(&self, request: Request<Body>) -> Response<Body> {
        (self.call)(request).await
    }
}

fn reflection() -> Builder<'static> {
    Builder::configure()
        .register_encoded_file_descriptor_set(WORKLOAD_API_FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
}

fn mounted<S>(service: S, stop: &CancellationToken) -> Mounted
where
    S: Service<Request<Body>, Response = Response<Body>, Error = std::convert::Infallible>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    let stop = stop.clone();
    let call = move |request: Request<Body>| -> Answering {
        let stopped = Box::pin(stop.clone().cancelled_owned());
        let answering = service.clone().call(request.map(|body| Body::new(Asked { body, stopped })));
        Box::pin(async move { answering.await.unwrap_or_else(|never| match never {}) })
    };
    Mounted { name: S::NAME, call: Box::new(call) }
}

/// What a program asks, which comes to its end when the agent stops: an answer to questions without end does so too.
struct Asked {
    body: Body,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl http_body::Body for Asked {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.stopped.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// Whether the services serve: once the agent is somebody, and while its own certificate is good.
struct Serving(Arc<Front>);

#[tonic::async_trait]
impl Health for Serving {
    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<Answer<HealthCheckResponse>, Status> {
        if !is_here(&request) {
            return Err(Status::not_found("there is no such service here"));
        }
        Ok(Answer::new(told(self.0.serves_other_than(None).await)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<Answer<Self::WatchStream>, Status> {
        let stopped = self.0.stop().clone().cancelled_owned();
        if !is_here(&request) {
            // It may come to be there, says the standard, so that this is no error. Here it never does.
            let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
            let for_ever = stream::iter([Ok(unknown)]).chain(stream::pending());
            return Ok(Answer::new(Box::pin(for_ever.take_until(stopped))));
        }
        let follow = |(front, before): (Arc<Front>, Option<bool>)| async move {
            let serves = front.serves_other_than(before).await;
            Some((Ok(told(serves)), (front, Some(serves))))
        };
        let changes = stream::unfold((Arc::clone(&self.0), None), follow);
        Ok(Answer::new(Box::pin(changes.take_until(stopped))))
    }
}

/// All of them, or one by name.
fn is_here(request: &tonic::Request<HealthCheckRequest>) -> bool {
    ["", WORKLOAD, SECRETS, HEALTH].contains(&request.get_ref().service.as_str())
}

fn told(serves: bool) -> HealthCheckResponse {
    let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
    HealthCheckResponse { status: status.into() }
}

#[cfg(test)]
mod tests {
    use hauberk_identity::Validity;
    use tokio::net::UnixStream;
    use tokio::task::JoinSet;
    use tonic::Code;
    use tonic::transport::{Channel, Endpoint};
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::{v1, v1alpha};

    use super::super::places::Places;
    use super::super::serve::serve;
    use super::super::socket::ApiSocket;
    use super::super::testing::Served;
    use super::*;
    use crate::control_plane::OneConnection;
    use crate::state::StoredIdentity;
    use crate::testing::{Authorities, HOUR, around, now};

    /// An agent that is somebody, a connection to its socket, and what goes when dropped.
    async fn asked() -> (Served, Channel, (JoinSet<()>, tempfile::TempDir)) {
        let (served, folder) = (Served::new(), tempfile::tempdir().unwrap());
        let path = folder.path().join("api.sock");
        let mut tasks = JoinSet::new();
        let socket = ApiSocket::bind(&path).unwrap();
        tasks.spawn(serve(socket, Places::new(64), Arc::clone(&served.front)));
        let one = OneConnection::new(UnixStream::connect(&path).await.unwrap());
        let channel = Endpoint::from_static("http://localhost").connect_with_connector(one).await.unwrap();
        (served, channel, (tasks, folder))
    }

    #[tokio::test]
    async fn health_is_told_to_everybody_and_says_whether_the_agent_is_somebody() {
        let (served, channel, _held) = asked().await;
        let mut client = HealthClient::new(channel);
        let of = |service: &str| HealthCheckRequest { service: service.to_owned() };
        for service in ["", "SpiffeWorkloadAPI", SECRETS, "grpc.health.v1.Health"] {
            let told = client.check(of(service)).await.unwrap().into_inner();
            assert_eq!(told.status(), ServingStatus::Serving, "{service}");
        }
        let unknown = client.check(of("hauberk.admin.v1.System")).await.unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound);
        let mut unknown = client.watch(of("other")).await.unwrap().into_inner();
        assert_eq!(unknown.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);

        let mut watched = client.watch(of("SpiffeWorkloadAPI")).await.unwrap().into_inner();
        assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
        served.front.close();
        assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
        // It is told at once, where others wait for the agent.
        let told = client.check(of("")).await.unwrap().into_inner();
        assert_eq!(told.status(), ServingStatus::NotServing);
        served.front.open(Arc::clone(&served.shared));
        assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
        // Without a certificate that is good it vouches for nobody.
        let ended = Validity::new(now().minus(2 * HOUR), now().minus(HOUR)).unwrap();
        for (validity, status) in [(ended, ServingStatus::NotServing), (around(HOUR), ServingStatus::Serving)]
        {
            let StoredIdentity { svid, key, .. } =
                Authorities::new().identity("mesh/shop/node/web", validity);
            served.live.publish(svid, &key).unwrap();
            assert_eq!(watched.message().await.unwrap().unwrap().status(), status);
            assert_eq!(client.check(of("")).await.unwrap().into_inner().status(), status);
        }
    }

    /// Whoever watches would hold up each stop for as long as last words may take.
    #[tokio::test]
    async fn what_is_asked_without_end_ends_when_the_agent_stops() {
        let (served, channel, _held) = asked().await;
        let mut client = HealthClient::new(channel.clone());
        let of = |service: &str| HealthCheckRequest { service: service.to_owned() };
        let mut watched = client.watch(of("")).await.unwrap().into_inner();
        assert!(watched.message().await.unwrap().is_some());
        let mut unknown = client.watch(of("other")).await.unwrap().into_inner();
        assert!(unknown.message().await.unwrap().is_some());
        let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel);
        let list = v1::server_reflection_request::MessageRequest::ListServices(String::new());
        let list = v1::ServerReflectionRequest { host: String::new(), message_request: Some(list) };
        let asked = stream::iter([list]).chain(stream::pending());
        let mut answers = client.server_reflection_info(asked).await.unwrap().into_inner();
        assert!(answers.message().await.unwrap().is_some());
        served.front.stop().cancel();
        // Each comes to its end, where an answer that is broken off would be an error.
        assert!(watched.message().await.unwrap().is_none());
        assert!(unknown.message().await.unwrap().is_none());
        assert!(answers.message().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn reflection_tells_what_is_served_in_both_versions_before_the_agent_is_somebody() {
        use v1::server_reflection_request::MessageRequest as Ask;
        use v1::server_reflection_response::MessageResponse as Told;
        let (served, channel, _held) = asked().await;
        served.front.close();
        let wanted = ["SpiffeWorkloadAPI", SECRETS, "grpc.health.v1.Health"];
        let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
        let ask = |ask| v1::ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
        let symbol = Ask::FileContainingSymbol("SpiffeWorkloadAPI.FetchX509SVID".to_owned());
        let asked = stream::iter([ask(Ask::ListServices(String::new())), ask(symbol)]);
        let mut answers = client.server_reflection_info(asked).await.unwrap().into_inner();
        let Some(Told::ListServicesResponse(listed)) =
            answers.message().await.unwrap().unwrap().message_response
        else {
            panic!("no list")
        };
        let names: Vec<_> = listed.service.iter().map(|service| service.name.as_str()).collect();
        assert!(wanted.iter().all(|name| names.contains(name)), "{names:?}");
        assert!(names.iter().all(|name| !name.starts_with("hauberk.")), "{names:?}");
        let found = answers.message().await.unwrap().unwrap().message_response;
        assert!(matches!(found, Some(Told::FileDescriptorResponse(_))), "{found:?}");

        let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
        let list = v1alpha::server_reflection_request::MessageRequest::ListServices(String::new());
        let list = v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(list) };
        let mut answers = client.server_reflection_info(stream::iter([list])).await.unwrap().into_inner();
        assert!(answers.message().await.unwrap().unwrap().message_response.is_some());
    }
}
