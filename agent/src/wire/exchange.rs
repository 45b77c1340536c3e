//! One HTTP/1.1 exchange at a time over a connection that is kept.
//!
//! A [`Link`] is driven by whoever uses it: the task of the request polls the connection itself, so that a request
//! costs no message to another task and no second wake-up. Nobody polls an idle link; whether it still lives is seen
//! when it is taken up.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::body::RequestBody;
use super::strict::MAX_HEAD;
use super::transport::Transport;
use crate::connections::Registered;

/// A kept HTTP/1.1 connection to a server.
pub(crate) struct Link {
    sender: http1::SendRequest<RequestBody>,
    driver: Option<Driver>,
    /// Its place in the registry, if it goes to another agent.
    lease: Option<Registered>,
    user: Arc<User>,
    /// Wakes `user`.
    waker: Waker,
}

type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// The task that uses a link. hyper keeps the waker by which a connection was polled, and wakes it whenever something
/// is read from the body of a response, or the body is dropped: so the task would wake itself in every exchange, and
/// with it a second thread for nothing.
#[derive(Debug, Default)]
struct User {
    /// None while the link rests.
    task: AtomicWaker,
    /// There is something to do, and no task was told.
    is_missed: AtomicBool,
}

impl User {
    /// Nobody is woken from here on.
    fn rest(&self) {
        self.is_missed.store(false, Ordering::Release);
        self.task.take();
    }

    /// Wakes `waker` from here on. Whether anything was missed.
    fn wait(&self, waker: &Waker) -> bool {
        self.task.register(waker);
        self.is_missed.load(Ordering::Acquire)
    }
}

impl Wake for User {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_missed.store(true, Ordering::Release);
        self.task.wake();
    }
}

/// Why there is no response.
#[derive(Debug)]
pub(crate) struct SendFailure {
    pub(crate) error: hyper::Error,
    /// The request, if nothing of it was sent.
    pub(crate) unsent: Option<Request<RequestBody>>,
}

impl Link {
    /// Speaks HTTP/1.1 over a stream.
    ///
    /// # Errors
    /// hyper refuses.
    pub(crate) async fn open(transport: Transport, lease: Option<Registered>) -> hyper::Result<Self> {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(4 * MAX_HEAD);
        let (sender, connection) = builder.handshake(TokioIo::new(transport)).await?;
        let user = Arc::<User>::default();
        let waker = Waker::from(Arc::clone(&user));
        let driver: Driver = Box::pin(connection.with_upgrades());
        let mut link = Self { sender, driver: Some(driver), lease, user, waker };
        // hyper takes a request only once the connection has been polled.
        link.drive(&mut Context::from_waker(Waker::noop()));
        Ok(link)
    }

    /// Whether the server has not closed meanwhile, as far as has been seen, and the next request may be sent.
    pub(crate) fn is_usable(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        let is_retired = self.lease.as_ref().is_some_and(|lease| lease.connection().retired().is_cancelled());
        self.driver.is_some() && self.sender.is_ready() && !is_retired
    }

    /// Sends a request and waits for the head of the response. The caller drives on while it reads the body.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Box<SendFailure>> {
        // Unconstrained, since a future out of tokio's budget asks to be polled again by the waker that it is not
        // given.
        let response = tokio::task::unconstrained(self.sender.try_send_request(request));
        let mut response = std::pin::pin!(response);
        let Self { driver, lease, user, waker, .. } = self;
        let outcome = std::future::poll_fn(|cx| {
            drive(driver, lease.as_ref(), (user, waker), cx);
            // Only the driver completes the response, and it has just been polled: no waker is needed here, and one
            // would wake this very task.
            response.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        });
        outcome.await.map_err(|mut failure| {
            let unsent = failure.take_message();
            Box::new(SendFailure { error: failure.into_error(), unsent })
        })
    }

    /// Lets the connection go on as far as it can.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        drive(&mut self.driver, self.lease.as_ref(), (&self.user, &self.waker), cx);
    }

    /// Lets the connection go on as far as it can, and reads from the body that it feeds. `read` waits for nothing but
    /// the connection.
    pub(crate) fn drive_and_read<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut read: impl FnMut(&Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        loop {
            self.drive(cx);
            self.rest();
            let outcome = read(cx);
            if outcome.is_ready() || !self.user.wait(cx.waker()) {
                return outcome;
            }
        }
    }

    /// Nobody waits for it any more, until it is driven again.
    pub(crate) fn rest(&self) {
        self.user.rest();
    }

    /// Moves the bytes of the connection after a 101, until it has handed over the stream. Yields its place in the
    /// registry, which must be kept for as long as the stream.
    pub(crate) async fn run_to_end(mut self) -> Option<Registered> {
        std::future::poll_fn(|cx| {
            self.drive(cx);
            if self.driver.is_some() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        self.lease
    }
}

fn drive(
    driver: &mut Option<Driver>,
    lease: Option<&Registered>,
    (user, waker): (&User, &Waker),
    cx: &mut Context<'_>,
) {
    user.task.register(cx.waker());
    if lease.is_some_and(|lease| lease.connection().poll_cut(cx)) {
        *driver = None;
    } else if let Some(running) = driver
        && running.as_mut().poll(&mut Context::from_waker(waker)).is_ready()
    {
        // What went wrong, if anything did, reaches us as the error of the response or of its body.
        *driver = None;
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("is_open", &self.driver.is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::sync::atomic::AtomicUsize;

    use http_body::Body;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::wire::body::{BodyError, ResponseBody, Via};
    use crate::wire::budget::Budget;
    use crate::wire::http1::LinkPool;
    use crate::wire::meter::Meter;
    use crate::wire::origin::Origin;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A link to a server that answers one request with this and then listens on.
    async fn link_to(answer: &'static [u8], budget: &Budget) -> Link {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (stream, accepted) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let server = accepted.unwrap().0.into_std().unwrap();
        server.set_nonblocking(false).unwrap();
        std::thread::spawn(move || {
            let mut server = server;
            let mut asked = [0; 1024];
            while matches!(server.read(&mut asked), Ok(read) if read > 0) {
                let _sent = server.write_all(answer);
            }
        });
        let transport = Transport::plain(stream.unwrap(), budget.take_free().unwrap());
        Link::open(transport, None).await.unwrap()
    }

    async fn wakes_from_head_to_end(answer: &'static [u8]) -> (usize, usize) {
        let budget = Budget::of(4);
        let pool = LinkPool::to_app(budget.clone());
        let mut link = link_to(answer, &budget).await;
        let mut request = Request::new(RequestBody::empty());
        request.headers_mut().insert(http::header::HOST, "app".parse().unwrap());
        let response = link.send(request).await.unwrap();
        let mut body = response
            .map(|body| {
                ResponseBody::relay(body, Arc::default(), Via::Link(Some(link), pool), (), Origin::Server)
            })
            .into_body();
        let wakes = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let (mut cx, mut length) = (Context::from_waker(&waker), 0);
        while !body.is_end_stream() {
            match Pin::new(&mut body).poll_frame(&mut cx) {
                Poll::Ready(Some(frame)) => length += frame.unwrap().into_data().unwrap().len(),
                Poll::Ready(None) => break,
                Poll::Pending => panic!("all of the answer has come"),
            }
        }
        drop(body);
        (length, wakes.0.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn a_task_does_not_wake_itself_while_it_reads_an_answer_that_has_come() {
        let known = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes";
        assert_eq!(wakes_from_head_to_end(known).await, (3, 0));
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nye\r\n1\r\ns\r\n0\r\n\r\n";
        assert_eq!(wakes_from_head_to_end(chunked).await, (3, 0));
    }
    /// How a gRPC call's answer ends that this cuts after its first piece of content, which is still on its way or not.
    async fn end_of_call(cut: fn(&Meter), is_on_its_way: bool) -> Result<http::HeaderMap, BodyError> {
        let budget = Budget::of(4);
        let mut link =
            link_to(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nye\r\n", &budget).await;
        let mut request = Request::new(RequestBody::empty());
        request.headers_mut().insert(http::header::HOST, "app".parse().unwrap());
        let (_, content) = link.send(request).await.unwrap().into_parts();
        let (meter, via) = (Arc::<Meter>::default(), Via::Once(Some(link)));
        let origin = Origin::GrpcServer(Arc::default());
        let mut body = ResponseBody::relay(content, Arc::clone(&meter), via, (), origin);
        let mut next = async || std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        let piece = next().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(*piece, *b"ye");
        let on_its_way = is_on_its_way.then_some(piece);
        cut(&meter);
        let end = next().await.unwrap();
        assert_eq!(meter.grpc_status(), meter.decision().map(|_| 7));
        let end = end?;
        drop(on_its_way);
        assert!(next().await.is_none());
        Ok(end.into_trailers().unwrap())
    }

    #[tokio::test]
    async fn a_call_that_is_cut_ends_by_the_trailers_of_its_denial() {
        let by_decision = |meter: &Meter| {
            meter.note_decision("abc-1");
            meter.cut();
        };
        let trailers = end_of_call(by_decision, false).await.unwrap();
        assert_eq!(trailers["grpc-status"], "7");
        assert_eq!(trailers["hauberk-decision"], "abc-1");
        // Trailers would have to wait for what is on its way: nothing of that may come any more.
        let end = end_of_call(by_decision, true).await;
        assert!(matches!(end, Err(BodyError::CutCall(_))), "{end:?}");
        // There is no decision where the whole connection ends.
        let end = end_of_call(Meter::cut, false).await;
        assert!(matches!(end, Err(BodyError::Cut)), "{end:?}");
    }
}
