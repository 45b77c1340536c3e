//! gRPC through two agents, with tonic's own client and server.

use std::{net::SocketAddr, time::Duration};

use hauberk_integration_tests::eventually;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint, Server},
};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_client::HealthClient},
};
use tonic_prost::ProstCodec;

use crate::{
    shop::{self, PATIENCE, WEB_MAY_ALL},
    streaming_app::StreamingApp,
};

/// tonic's channel to a service, by way of the caller's agent.
pub(crate) fn channel(outbound: SocketAddr, service: &str) -> Channel {
    Endpoint::from_shared(format!("http://{outbound}"))
        .unwrap()
        .origin(format!("http://{service}").parse().unwrap())
        .timeout(Duration::from_secs(30))
        .connect_lazy()
}

/// Calls a method that takes and gives texts, many of each.
pub(crate) async fn call_streaming(
    channel: &Channel,
    method: &'static str,
    messages: impl tokio_stream::Stream<Item = String> + Send + 'static,
) -> Result<tonic::Response<tonic::Streaming<String>>, Status> {
    call_with(channel, method, Request::new(messages)).await
}

/// The same with what the request has besides.
pub(crate) async fn call_with(
    channel: &Channel,
    method: &'static str,
    request: Request<impl tokio_stream::Stream<Item = String> + Send + 'static>,
) -> Result<tonic::Response<tonic::Streaming<String>>, Status> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = ProstCodec::<String, String>::default();
    client.streaming(request, PathAndQuery::from_static(method), codec).await
}

/// Calls until the service can be reached: endpoints may still be on their way.
pub(crate) async fn until_reachable(channel: &Channel) {
    let reaching = async {
        loop {
            match call_streaming(channel, "/test.Echo/Both", tokio_stream::empty()).await {
                Err(status) if status.code() == Code::Unavailable => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                _ => return,
            }
        }
    };
    timeout(PATIENCE, reaching).await.expect("the service is reachable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_metadata_and_statuses_are_intact() {
    let (_mesh, _app, _orders, web) = shop::streaming_by("all", WEB_MAY_ALL);
    let channel = channel(web.outbound(), "orders-rpc");
    until_reachable(&channel).await;

    let (questions, receiver) = mpsc::channel(1);
    let response = call_streaming(&channel, "/test.Echo/Both", ReceiverStream::new(receiver)).await.unwrap();
    let mut answers = response.into_inner();
    for number in 0..100 {
        questions.send(format!("question {number}")).await.unwrap();
        let answer = timeout(PATIENCE, answers.message()).await.unwrap().unwrap();
        assert_eq!(answer.unwrap(), format!("question {number}"));
    }
    drop(questions);
    assert_eq!(answers.message().await.unwrap(), None);
    assert_eq!(answers.trailers().await.unwrap().unwrap().get("x-last").unwrap(), "words");

    let large = "x".repeat(3 << 20);
    let echoed =
        call_streaming(&channel, "/test.Echo/Both", tokio_stream::iter([large.clone()])).await.unwrap();
    assert!(echoed.into_inner().message().await.unwrap().unwrap() == large);

    let status = call_streaming(&channel, "/test.Echo/Fail", tokio_stream::empty()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "not today"));
    assert_eq!(status.metadata().get("x-reason").unwrap(), "closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_was_denied_for_its_query_is_explained_with_it() {
    let mesh = shop::open();
    shop::set_policy(&mesh, "all", WEB_MAY_ALL);
    let forbid =
        "forbid (principal, action == Action::\"call\", resource) when { context.query.hasTag(\"token\") };";
    shop::set_policy(&mesh, "no-tokens", forbid);
    let app = StreamingApp::start();
    let mut orders = shop::orders(&mesh, app.address());
    let web = shop::caller(&mesh, "web");
    let channel = channel(web.outbound(), "orders-rpc");
    until_reachable(&channel).await;

    let denied = call_streaming(&channel, "/test.Echo/Both?token=a", tokio_stream::empty()).await;
    let denied = denied.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    let id = denied.metadata().get("hauberk-decision").unwrap().to_str().unwrap();
    let explain = || mesh.hauberk(&["explain", id]).ok().stdout;
    let told = explain();
    assert!(told.contains("no-tokens (forbid)") && !told.contains("decide otherwise"), "{told}");
    orders.process.kill();
    let told = eventually("what was kept of it is told", PATIENCE, || {
        let told = explain();
        told.contains("as the control plane kept it").then_some(told)
    });
    assert!(told.contains("no-tokens (forbid)") && !told.contains("decide otherwise"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_grpc_server_serves_unary_calls_and_watches() {
    let mesh = shop::open();
    shop::set_policy(
        &mesh,
        "health",
        "permit (principal == Node::\"web\", action == Action::\"call\", resource in Service::\"orders-rpc\")\n\
         when { context.service == \"grpc.health.v1.Health\" };",
    );
    let (reporter, service) = tonic_health::server::health_reporter();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
    let _orders = shop::orders(&mesh, address);
    let web = shop::caller(&mesh, "web");
    let channel = channel(web.outbound(), "orders-rpc");
    until_reachable(&channel).await;

    let mut client = HealthClient::new(channel.clone());
    reporter.set_service_status("till", ServingStatus::Serving).await;
    let question = HealthCheckRequest { service: "till".to_owned() };
    let answer = client.check(question.clone()).await.unwrap().into_inner();
    assert_eq!(answer.status, ServingStatus::Serving as i32);
    let unknown = client.check(HealthCheckRequest { service: "no".to_owned() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);

    let mut watch = client.watch(question).await.unwrap().into_inner();
    assert_eq!(watch.next().await.unwrap().unwrap().status, ServingStatus::Serving as i32);
    reporter.set_service_status("till", ServingStatus::NotServing).await;
    let next = timeout(PATIENCE, watch.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(next.status, ServingStatus::NotServing as i32);

    // Another service of the same server is not permitted.
    let denied = call_streaming(&channel, "/test.Echo/Both", tokio_stream::empty()).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    let id = denied.metadata().get("hauberk-decision").expect("a denial has an id").to_str().unwrap();
    let explained = mesh.hauberk(&["explain", id]).ok().stdout;
    assert!(explained.contains("PERMISSION_DENIED (7)"), "{explained}");
    server.abort();
}
