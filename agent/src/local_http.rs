//! The small HTTP/1.1 server behind `admin.rs` and `health.rs`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::wire::accept::Refusals;

/// More at once than any probe or person needs. When one more comes, another gives way, and the next one waits until it
/// has: an honest one has sent its request when it is looked at, and is done in milliseconds, so that neither silence
/// nor haste keeps a probe out.
const MAX_CONNECTIONS: usize = 32;
/// So many whose request has not come yet there may be before others give way for them.
const MIN_UNHEARD: usize = MAX_CONNECTIONS / 2;
/// How long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a whole connection may last.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// An answer.
pub(crate) type Answer = Response<Full<Bytes>>;

/// What answers requests.
pub(crate) trait Answers: Send + Sync + 'static {
    /// Answers one request.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Answer> + Send;
}

/// Serves until `stop`.
pub(crate) async fn serve(listener: TcpListener, answers: Arc<impl Answers>, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    let mut callers = Callers::default();
    let mut refusals = Refusals::at("admin or health");
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = connections.join_next() => callers.forget_those_gone(),
            accepted = listener.accept(), if connections.len() <= MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    if connections.len() == MAX_CONNECTIONS {
                        callers.make_room();
                    }
                    let caller = callers.add();
                    connections.spawn(serve_one(stream, Arc::clone(&answers), caller));
                }
                Err(error) => refusals.wait(&error).await,
            },
        }
    }
}

async fn serve_one(stream: TcpStream, answers: Arc<impl Answers>, caller: Arc<Caller>) {
    let service = service_fn(|request| {
        caller.is_heard.store(true, Ordering::Relaxed);
        let answers = Arc::clone(&answers);
        async move { Ok::<_, Infallible>(answers.answer(request).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(16 * 1024)
        // Nobody asks so often that a connection were worth keeping.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // What has come meanwhile is answered still.
        biased;
        // Whoever goes away early is no concern of ours.
        _ = tokio::time::timeout(CONNECTION_TIMEOUT, serving) => {}
        () = caller.must_give_way.cancelled() => {}
    }
}

/// One connection.
#[derive(Debug, Default)]
struct Caller {
    /// Its request's head has come.
    is_heard: AtomicBool,
    must_give_way: CancellationToken,
}

/// Those who have not been told to give way, the oldest first. Each is held by its connection, too.
#[derive(Debug, Default)]
struct Callers(VecDeque<Arc<Caller>>);

impl Callers {
    fn add(&mut self) -> Arc<Caller> {
        let caller = Arc::new(Caller::default());
        self.0.push_back(Arc::clone(&caller));
        caller
    }

    /// Tells the oldest of those whose requests have not come to give way, or, where these are few, of the others, who
    /// do not read their answers, or do not send the rest of their requests.
    fn make_room(&mut self) {
        let is_heard = |caller: &Arc<Caller>| caller.is_heard.load(Ordering::Relaxed);
        let unheard = self.0.iter().filter(|caller| !is_heard(caller)).count();
        let wanted = unheard < MIN_UNHEARD;
        let found = self.0.iter().position(|caller| is_heard(caller) == wanted);
        if let Some(caller) = found.and_then(|at| self.0.remove(at)) {
            caller.must_give_way.cancel();
        }
    }

    fn forget_those_gone(&mut self) {
        self.0.retain(|caller| Arc::strong_count(caller) > 1);
    }
}

/// An answer in plain text.
pub(crate) fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    typed(status, "text/plain; charset=utf-8", text)
}

/// An answer of another type.
pub(crate) fn typed(status: StatusCode, content_type: &'static str, content: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(content.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    struct Ready;

    impl Answers for Ready {
        async fn answer(&self, _: Request<Incoming>) -> Answer {
            text(StatusCode::OK, "ready")
        }
    }

    const REQUEST: &[u8] = b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n";

    async fn serving() -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, Arc::new(Ready), CancellationToken::new()));
        (address, tasks)
    }

    async fn probe(address: SocketAddr) -> String {
        let mut answer = String::new();
        let asking = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(REQUEST).await.unwrap();
            // A reset ends it, and the answer is then too short.
            let _ = stream.read_to_string(&mut answer).await;
        };
        tokio::time::timeout(HEAD_TIMEOUT / 2, asking).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn those_who_say_nothing_keep_nobody_out() {
        let (address, _tasks) = serving().await;
        let mut silent = Vec::new();
        for _ in 0..2 * MAX_CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /readyz HT").await.unwrap();
            silent.push(stream);
        }
        let answer = probe(address).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        // The oldest has been let go for it, and no more than need be.
        let mut oldest = silent.remove(0);
        assert!(!matches!(oldest.read(&mut [0]).await, Ok(1..)));
    }

    #[tokio::test]
    async fn a_probe_is_answered_amid_those_who_come_again_and_again() {
        let (address, mut tasks) = serving().await;
        for number in 0..4 * MAX_CONNECTIONS {
            tasks.spawn(async move {
                // Says nothing, begins to speak, or asks and goes; and comes again as soon as it is let go.
                let says = [b"".as_slice(), b"GET", REQUEST][number % 3];
                loop {
                    let mut stream = TcpStream::connect(address).await.unwrap();
                    let _ = stream.write_all(says).await;
                    let _ = stream.read_u8().await;
                }
            });
        }
        for number in 0..100 {
            let answer = probe(address).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "probe {number}: {answer:?}");
        }
    }

    #[test]
    fn whoever_is_not_heard_gives_way_first_but_not_all_of_them() {
        let mut callers = Callers::default();
        let all: Vec<_> = (0..MAX_CONNECTIONS).map(|_| callers.add()).collect();
        let (heard, unheard) = all.split_at(MIN_UNHEARD);
        for caller in heard {
            caller.is_heard.store(true, Ordering::Relaxed);
        }
        let told =
            || [heard, unheard].map(|some| some.iter().filter(|it| it.must_give_way.is_cancelled()).count());
        callers.make_room();
        assert_eq!((told(), unheard[0].must_give_way.is_cancelled()), ([0, 1], true));
        callers.make_room();
        assert_eq!((told(), heard[0].must_give_way.is_cancelled()), ([1, 1], true));
        drop(all);
        callers.forget_those_gone();
        assert!(callers.0.is_empty());
    }
}
