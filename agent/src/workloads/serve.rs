//! Who is let in at the Workload API's socket, and what each connection is served.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hauberk_proto::sds::envoy::service::secret::v3::secret_discovery_service_server::{
    SERVICE_NAME as SECRETS, SecretDiscoveryServiceServer,
};
use hauberk_proto::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tower_service::Service;

use super::api::{Api, Shared};
use super::attest::Caller;
use super::authority::ReadableAuthority;
use super::sds::{self, Secrets};
use super::socket::ApiSocket;
use crate::wire::accept::Refusals;
use crate::wire::http2;
use crate::wire::tasks::Tasks;

/// Connections at once, of all programs and of those of one user. Each takes two files: the socket and its process.
pub(super) const MAX_CONNECTIONS: usize = 256;
const MAX_OF_ONE_USER: usize = 128;

/// The largest request, in bytes: there is next to nothing in one.
const LARGEST_REQUEST: usize = 64 * 1024;

/// How long the streams of a connection may take to end when the agent stops.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Serves until the agent stops.
pub(super) async fn serve(socket: ApiSocket, shared: Arc<Shared>) {
    let stop = shared.stop().clone();
    let mut connections = JoinSet::new();
    let mut of_user: HashMap<u32, usize> = HashMap::new();
    let mut refusals = Refusals::at("workload API");
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => {
                if let Ok(uid) = ended
                    && let Some(count) = of_user.get_mut(&uid)
                {
                    *count -= 1;
                }
                of_user.retain(|_, count| *count > 0);
            }
            accepted = socket.listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let caller = match Caller::of(&stream) {
                        Ok(caller) => caller,
                        Err(error) => {
                            refusals.tell(&error);
                            continue;
                        }
                    };
                    let uid = caller.uid;
                    let count = of_user.entry(uid).or_default();
                    if *count >= MAX_OF_ONE_USER || connections.len() >= MAX_CONNECTIONS {
                        tracing::warn!(event = "workload_connection_refused", uid, of_user = *count, all = connections.len());
                        of_user.retain(|_, count| *count > 0);
                        continue;
                    }
                    *count += 1;
                    let shared = Arc::clone(&shared);
                    connections.spawn(async move {
                        serve_one(stream, caller, shared).await;
                        uid
                    });
                }
                Err(error) => refusals.wait(&error).await,
            },
        }
    }
    let all_ended = async { while connections.join_next().await.is_some() {} };
    // Whoever reads nothing is not waited for.
    let _ = timeout(LAST_WORDS, all_ended).await;
}

async fn serve_one(stream: UnixStream, caller: Caller, shared: Arc<Shared>) {
    let stop = shared.stop().clone();
    let api = Api::new(shared, caller);
    let secrets = SecretDiscoveryServiceServer::new(Secrets::new(api.clone()))
        .max_decoding_message_size(sds::LARGEST_REQUEST);
    let workload = SpiffeWorkloadApiServer::new(api).max_decoding_message_size(LARGEST_REQUEST);
    let service = service_fn(move |request: Request<Incoming>| {
        let (mut secrets, mut workload) = (secrets.clone(), workload.clone());
        async move {
            let answer = if request.uri().path().split('/').nth(1) == Some(SECRETS) {
                secrets.call(request.map(Body::new)).await
            } else {
                workload.call(request.map(Body::new)).await
            };
            Ok::<_, Infallible>(answer.unwrap_or_else(|never| match never {}))
        }
    });
    let tasks = TaskTracker::new();
    let serving = http2::server(Tasks::new(tasks.clone()))
        .serve_connection(TokioIo::new(ReadableAuthority::new(stream)), service);
    tokio::pin!(serving);
    // Whoever goes away early is no concern of ours.
    tokio::select! {
        _ = &mut serving => {}
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            let _ = timeout(LAST_WORDS, serving).await;
        }
    }
    tasks.close();
    let _ = timeout(LAST_WORDS, tasks.wait()).await;
}
