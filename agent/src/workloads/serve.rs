//! Who is let in at the Workload API's socket, and what each connection is served.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hauberk_proto::sds::envoy::service::secret::v3::secret_discovery_service_server::{
    SERVICE_NAME as SECRETS, SecretDiscoveryServiceServer,
};
use hauberk_proto::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use super::answers::carried;
use super::attest::Caller;
use super::authority::ReadableAuthority;
use super::entrance::Entrance;
use super::introspection::Introspection;
use super::places::{NoPlace, Places};
use super::sds::{self, Secrets};
use super::socket::ApiSocket;
use super::unjoined::Front;
use super::untaken::Untaken;
use crate::wire::accept::Refusals;
use crate::wire::http2;
use crate::wire::prompt::PromptFrames;
use crate::wire::tasks::Tasks;

/// Connections at once that are told that there is no place for them; others are cut.
pub(super) const REFUSED_AT_ONCE: usize = 16;

/// How long such a one has to ask something.
const REFUSED_WITHIN: Duration = Duration::from_secs(1);

/// The largest request, in bytes: there is next to nothing in one.
const LARGEST_REQUEST: usize = 64 * 1024;

/// What one connection may have under way: programs open a few streams, an Envoy one for each secret, and ask for next
/// to nothing.
const MAX_STREAMS: u32 = 100;
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
const SEND_BUFFER: usize = 16 * 1024;

/// How long the streams of a connection may take to end when the agent stops.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Serves until the agent stops; whoever asks before the agent is somebody is told to wait.
pub(super) async fn serve(socket: ApiSocket, places: Places, front: Arc<Front>) {
    let stop = front.stop().clone();
    let mut connections = JoinSet::new();
    let mut refused = JoinSet::new();
    let mut refusals = Refusals::at("workload API");
    let introspection = match Introspection::new(Arc::clone(&front)) {
        Ok(introspection) => Arc::new(introspection),
        Err(error) => {
            tracing::error!(event = "workload_api_not_served", %error, "its own descriptors cannot be read: report this");
            return;
        }
    };
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_ended) = connections.join_next() => {}
            Some(_ended) = refused.join_next() => {}
            accepted = socket.listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let caller = match Caller::of(&stream, front.looks()) {
                        Ok(caller) => caller,
                        Err(error) => {
                            front.metrics().turned_away("unknown");
                            refusals.tell(&error);
                            continue;
                        }
                    };
                    let uid = caller.uid;
                    let place = match places.take(uid) {
                        Ok(place) => place,
                        Err(NoPlace { of_user, all }) => {
                            front.metrics().turned_away("too_many");
                            tracing::warn!(event = "workload_connection_refused", uid, of_user, all);
                            if refused.len() < REFUSED_AT_ONCE {
                                refused.spawn(refuse(stream, of_user));
                            }
                            continue;
                        }
                    };
                    let (front, introspection) = (Arc::clone(&front), Arc::clone(&introspection));
                    connections.spawn(async move {
                        let open = Open::count(&front);
                        serve_one(stream, caller, front, introspection).await;
                        drop((place, open));
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

/// Tells a program for whose connection there is no place, so that it knows what to wait for.
async fn refuse(stream: UnixStream, of_user: usize) {
    let service = service_fn(move |_: Request<Incoming>| async move {
        let status = Status::resource_exhausted(format!(
            "this user has {of_user} connections to the Workload API, and there is no place for another: try again later"
        ));
        Ok::<_, Infallible>(status.into_http::<Body>())
    });
    let tasks = TaskTracker::new();
    let serving = http2::server(Tasks::new(tasks.clone()))
        .max_concurrent_streams(1)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW)
        .serve_connection(TokioIo::new(ReadableAuthority::new(stream)), service);
    let _ = timeout(REFUSED_WITHIN, serving).await;
    tasks.close();
    let _ = timeout(REFUSED_WITHIN, tasks.wait()).await;
}

/// Counts a connection while it lives.
struct Open(Arc<Front>);

impl Open {
    fn count(front: &Arc<Front>) -> Self {
        front.metrics().opened();
        Self(Arc::clone(front))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.metrics().closed();
    }
}

/// Answers one request.
async fn answer(request: Request<Body>, introspection: &Introspection, entrance: Entrance) -> Response<Body> {
    if let Some(mounted) = introspection.at(request.uri().path()) {
        return mounted.answer(request).await;
    }
    let answer = if request.uri().path().split('/').nth(1) == Some(SECRETS) {
        let api = match entrance.api().await {
            Ok(api) => api,
            Err(status) => return status.into_http(),
        };
        let secrets = SecretDiscoveryServiceServer::new(Secrets::new(api));
        secrets.max_decoding_message_size(sds::LARGEST_REQUEST).call(request).await
    } else {
        let workload = SpiffeWorkloadApiServer::new(entrance);
        workload.max_decoding_message_size(LARGEST_REQUEST).call(request).await
    };
    answer.unwrap_or_else(|never| match never {})
}

async fn serve_one(stream: UnixStream, caller: Caller, front: Arc<Front>, introspection: Arc<Introspection>) {
    let (stop, uid) = (front.stop().clone(), caller.uid);
    let lists = front.board().revocation_lists();
    let entrance = Entrance::new(front, caller);
    let untaken = Untaken::none();
    let counted = Arc::clone(&untaken);
    let service = service_fn(move |request: Request<Incoming>| {
        let (entrance, introspection) = (entrance.clone(), Arc::clone(&introspection));
        let untaken = Arc::clone(&counted);
        async move {
            let mut answer = answer(request.map(Body::new), &introspection, entrance).await;
            let streaming = carried(&mut answer);
            Ok::<_, Infallible>(answer.map(|body| untaken.of(body, streaming)))
        }
    });
    let tasks = TaskTracker::new();
    let stream = PromptFrames::awaiting_a_request(ReadableAuthority::new(stream));
    let mut serving = Box::pin(
        http2::server(Tasks::new(tasks.clone()))
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .serve_connection(TokioIo::new(stream), service),
    );
    // Whoever goes away early is no concern of ours.
    tokio::select! {
        _ = &mut serving => {}
        () = untaken.until_left(lists) => {
            tracing::warn!(event = "workload_connection_cut", uid, "a program left an answer unread for too long");
        }
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            let _ = timeout(LAST_WORDS, &mut serving).await;
        }
    }
    drop(serving);
    tasks.close();
    let _ = timeout(LAST_WORDS, tasks.wait()).await;
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use h2::client;
    use hauberk_proto::agent::v1 as pb;
    use tokio::time::Instant;
    use tonic::Code;

    use super::super::looks::Depth;
    use super::super::looks::tests::{Stalled, programs};
    use super::super::testing::{Served, worker};
    use super::*;
    use crate::workloads::untaken;

    const PLACES: usize = 64;

    /// A connection on which nothing can be read before more is asked for than this.
    async fn connect(
        path: &std::path::Path,
        window: u32,
        tasks: &mut JoinSet<()>,
    ) -> client::SendRequest<Bytes> {
        let stream = UnixStream::connect(path).await.unwrap();
        let (sender, connection) =
            client::Builder::new().initial_window_size(window).handshake(stream).await.unwrap();
        tasks.spawn(async move { drop(connection.await) });
        sender.ready().await.unwrap()
    }

    async fn follow(sender: &mut client::SendRequest<Bytes>) -> h2::RecvStream {
        ask(sender).await.into_body()
    }

    async fn ask(sender: &mut client::SendRequest<Bytes>) -> Response<h2::RecvStream> {
        send(sender, call("FetchX509Bundles").header("workload.spiffe.io", "true")).await
    }

    fn call(method: &str) -> http::request::Builder {
        Request::post(format!("http://localhost/SpiffeWorkloadAPI/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
    }

    async fn send(
        sender: &mut client::SendRequest<Bytes>,
        request: http::request::Builder,
    ) -> Response<h2::RecvStream> {
        let (answer, mut body) = sender.send_request(request.body(()).unwrap(), false).unwrap();
        body.send_data(Bytes::from_static(&[0; 5]), true).unwrap();
        answer.await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_for_what_there_never_is_does_not_wait_until_the_agent_is_somebody() {
        let served = Served::new();
        served.front.close();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(ApiSocket::bind(&path).unwrap(), Places::new(PLACES), Arc::clone(&served.front)));
        let mut sender = connect(&path, 1 << 20, &mut tasks).await;
        for (request, code) in [
            (call("FetchX509Bundles"), Code::InvalidArgument),
            (call("FetchX509Bundles").header("workload.spiffe.io", "yes"), Code::InvalidArgument),
            (call("FetchWITSVID").header("workload.spiffe.io", "true"), Code::Unimplemented),
            (call("FetchX509Bundles").header("workload.spiffe.io", "true"), Code::Unavailable),
        ] {
            let answer = send(&mut sender, request).await;
            assert_eq!(Status::from_header_map(answer.headers()).unwrap().code(), code);
        }
    }

    #[tokio::test]
    async fn a_user_has_half_of_the_places_and_gets_them_back() {
        let served = Served::new();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let socket = ApiSocket::bind(&path).unwrap();
        served.board.take_entries(pb::WorkloadEntries { entries: vec![worker()] });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(socket, Places::new(PLACES), Arc::clone(&served.front)));
        let mut held = Vec::new();
        for _ in 0..PLACES / 2 {
            let mut sender = connect(&path, 1 << 20, &mut tasks).await;
            let answers = follow(&mut sender).await;
            held.push((sender, answers));
        }
        // Whoever gets none is told so.
        let mut other = connect(&path, 1 << 20, &mut tasks).await;
        let mut answer = ask(&mut other).await;
        assert_eq!(Status::from_header_map(answer.headers()).unwrap().code(), Code::ResourceExhausted);
        assert!(answer.body_mut().is_end_stream());
        held.pop();
        let is_served = async |tasks: &mut JoinSet<()>| {
            let mut sender = connect(&path, 1 << 20, tasks).await;
            Status::from_header_map(ask(&mut sender).await.headers()).is_none()
        };
        while !is_served(&mut tasks).await {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn programs_on_a_disk_that_has_gone_keep_nobody_waiting() {
        crate::runtime::build().unwrap().block_on(async {
            let served = Served::new();
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("api.sock");
            let socket = ApiSocket::bind(&path).unwrap();
            served.board.take_entries(pb::WorkloadEntries { entries: vec![worker()] });
            let mut tasks = JoinSet::new();
            tasks.spawn(serve(socket, Places::new(PLACES), Arc::clone(&served.front)));
            let (mut stalled, own) = (Stalled::new(), rustix::process::geteuid().as_raw());
            for uid in own + 1..=own + 4 {
                for disk in [1, 1, 2, 2] {
                    stalled.look(served.front.looks(), programs(uid, disk), Depth::Surface);
                }
            }
            stalled.begun(4 * 4).await;
            // Others are served,
            let mut sender = connect(&path, 1 << 20, &mut tasks).await;
            assert!(!follow(&mut sender).await.data().await.unwrap().unwrap().is_empty());
            for disk in [1, 1, 2, 2] {
                stalled.look(served.front.looks(), programs(own, disk), Depth::Surface);
            }
            stalled.begun(4).await;
            // and let in, where even their own user's other programs stall.
            let mut sender = connect(&path, 1 << 20, &mut tasks).await;
            let _waiting = follow(&mut sender).await;
            // What has threads of its own beside, such as views that are prepared, has all of them.
            let all = Arc::new(std::sync::Barrier::new(crate::runtime::OF_OUR_OWN));
            let mut views = JoinSet::new();
            for _ in 0..crate::runtime::OF_OUR_OWN {
                let all = Arc::clone(&all);
                views.spawn_blocking(move || {
                    all.wait();
                });
            }
            views.join_all().await;
            stalled.end().await;
        });
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_reads_nothing_holds_nobody_up_and_is_cut() {
        let served = Served::new();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let socket = ApiSocket::bind(&path).unwrap();
        served.board.take_entries(pb::WorkloadEntries { entries: vec![worker()] });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(socket, Places::new(PLACES), Arc::clone(&served.front)));

        let mut silent = connect(&path, 0, &mut tasks).await;
        let since = Instant::now();
        let mut unread = Vec::new();
        for _ in 0..MAX_STREAMS {
            unread.push(follow(&mut silent).await);
        }
        let mut reader = connect(&path, 1 << 20, &mut tasks).await;
        let mut reading = follow(&mut reader).await;
        let mut next = async || {
            let answer = reading.data().await.unwrap().unwrap();
            reading.flow_control().release_capacity(answer.len()).unwrap();
            answer
        };
        next().await;
        for number in 0..100 {
            let mark = format!("list number {number}");
            let list = [&[0; 32 * 1024], mark.as_bytes()].concat();
            served.board.take_revocation_lists(pb::RevocationList {
                der: list.into(),
                ..pb::RevocationList::default()
            });
            let mut told = Vec::new();
            while !told.windows(mark.len()).any(|part| part == mark.as_bytes()) {
                told.extend(next().await);
            }
        }
        assert!(since.elapsed() < untaken::PATIENCE, "nobody waits for them");

        for mut stream in unread {
            let end = timeout(2 * untaken::PATIENCE, stream.data()).await.expect("it is cut");
            assert!(end.is_none_or(|data| data.is_err()));
        }
        assert!(since.elapsed() <= 2 * untaken::PATIENCE, "{:?}", since.elapsed());
        served.board.take_revocation_lists(pb::RevocationList {
            der: Bytes::from_static(b"still"),
            ..pb::RevocationList::default()
        });
        assert!(!next().await.is_empty());
    }
}
