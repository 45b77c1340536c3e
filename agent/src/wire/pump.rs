//! Bytes both ways between two streams.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

use super::meter::{Direction, Meter};

/// The most that is read at once.
const CHUNK: usize = 64 << 10;
/// How long a side that has its end already may go on to send what nobody takes any longer.
const LINGER: Duration = Duration::from_secs(5);

thread_local! {
    /// What every pump of a thread reads into. A connection that is idle owns no buffer.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Both ways between a caller and an app.
#[derive(Debug, Default)]
pub(crate) struct Pump {
    there: HalfPump,
    back: HalfPump,
}

impl Pump {
    /// Copies both ways until both sides have ended, one has failed, or `meter` is cut. The end of one side is passed
    /// on while the other goes on, and so is what a side had sent before it was gone.
    ///
    /// # Errors
    /// One side failed; or `PermissionDenied` where it was cut.
    pub(crate) async fn run<A, B>(&mut self, caller: &mut A, app: &mut B, meter: &Meter) -> io::Result<()>
    where
        A: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        let Self { there, back } = self;
        let mut lingering = None;
        std::future::poll_fn(|cx| {
            // Both halves are polled by one task, so that one of the two wakers is enough.
            if meter.poll_cut(Direction::In, cx.waker()) {
                return Poll::Ready(Err(cut()));
            }
            let there_is = there.poll(cx, caller, app, (meter, Direction::In))?;
            let back_is = back.poll(cx, app, caller, (meter, Direction::Out))?;
            // The other way has come to its end, and who sends on does so to nobody.
            let is_left =
                there.is_refused() && back_is.is_ready() || back.is_refused() && there_is.is_ready();
            if there_is.is_pending() || back_is.is_pending() {
                if !is_left {
                    return Poll::Pending;
                }
                let rest = lingering.get_or_insert_with(|| Box::pin(sleep(LINGER)));
                ready!(rest.as_mut().poll(cx));
            }
            Poll::Ready(there.refused.take().or(back.refused.take()).map_or(Ok(()), Err))
        })
        .await
    }

    /// Whether the caller has been told that the app has ended. It has the whole then, as far as is for us to say.
    pub(crate) fn caller_has_end(&self) -> bool {
        self.back.phase == Phase::Done
    }

    /// Whether the app has been told that the caller has ended.
    pub(crate) fn app_has_end(&self) -> bool {
        self.there.phase == Phase::Done
    }
}

/// How what is cut ends.
pub(super) fn cut() -> io::Error {
    io::ErrorKind::PermissionDenied.into()
}

/// One way.
#[derive(Debug, Default)]
struct HalfPump {
    /// What was read and could not be written yet, from `written` on.
    held: Vec<u8>,
    written: usize,
    phase: Phase,
    /// How the side that it goes to was found to be gone.
    refused: Option<io::Error>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Reading,
    Flushing,
    ShuttingDown,
    Done,
    /// What comes is thrown away: to leave it unread would reset its connection, and with that purge what its sender
    /// has not received yet.
    Discarding,
    Discarded,
}

impl HalfPump {
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        (meter, direction): (&Meter, Direction),
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if self.refused.is_none() {
            match ready!(self.poll_copy(cx, from, to, (meter, direction))) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(Failure::Of(error)) => return Poll::Ready(Err(error)),
                Err(Failure::Refused(error)) => {
                    (self.held, self.written) = (Vec::new(), 0);
                    self.phase = Phase::Discarding;
                    self.refused = Some(error);
                }
            }
        }
        while self.phase == Phase::Discarding {
            // An error as well is the end of what comes.
            if ready!(poll_discard(cx, from)).unwrap_or_default() == 0 {
                self.phase = Phase::Discarded;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the side that it goes to is gone.
    fn is_refused(&self) -> bool {
        self.refused.is_some()
    }

    fn poll_copy<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        (meter, direction): (&Meter, Direction),
    ) -> Poll<Result<(), Failure>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            while let Some(rest) = self.held.get(self.written..).filter(|rest| !rest.is_empty()) {
                if meter.is_cut() {
                    return Poll::Ready(Err(Failure::Of(cut())));
                }
                let written = ready!(Pin::new(&mut *to).poll_write(cx, rest)).map_err(Failure::to_write)?;
                if written == 0 {
                    return Poll::Ready(Err(Failure::Of(io::ErrorKind::WriteZero.into())));
                }
                self.written += written;
            }
            if !self.held.is_empty() {
                (self.held, self.written) = (Vec::new(), 0);
            }
            match self.phase {
                Phase::Reading | Phase::Flushing => match self.poll_chunk(cx, from, to, meter)? {
                    Poll::Ready(0) => self.phase = Phase::ShuttingDown,
                    Poll::Ready(read) => {
                        self.phase = Phase::Flushing;
                        meter.count(direction, read);
                    }
                    Poll::Pending => {
                        if self.phase == Phase::Flushing {
                            ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Failure::to_write)?;
                            self.phase = Phase::Reading;
                        }
                        return Poll::Pending;
                    }
                },
                Phase::ShuttingDown => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Failure::to_write)?;
                    self.phase = Phase::Done;
                }
                Phase::Done | Phase::Discarding | Phase::Discarded => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Reads once, and writes what can be written at once. Says how many bytes were read.
    fn poll_chunk<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        meter: &Meter,
    ) -> Result<Poll<usize>, Failure>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(CHUNK, 0);
            let mut buf = ReadBuf::new(scratch);
            match Pin::new(from).poll_read(cx, &mut buf) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(outcome) => outcome.map_err(Failure::Of)?,
            }
            // Asked after the read: a side that sends without a pause is not passed on until it has one, and what it
            // sends once the cut was told to be done does not pass at all.
            if meter.is_cut() {
                return Err(Failure::Of(cut()));
            }
            let mut rest = buf.filled();
            let read = rest.len();
            while !rest.is_empty() {
                match Pin::new(&mut *to).poll_write(cx, rest) {
                    Poll::Ready(Ok(0)) => return Err(Failure::Of(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(written)) => rest = rest.get(written..).unwrap_or_default(),
                    Poll::Ready(Err(error)) => return Err(Failure::to_write(error)),
                    Poll::Pending => {
                        self.held = rest.to_vec();
                        break;
                    }
                }
            }
            Ok(Poll::Ready(read))
        })
    }
}

/// Why one way goes no further.
enum Failure {
    /// The side that it goes to is gone, after an end of its own: what had come before that is still there to be read.
    Refused(io::Error),
    Of(io::Error),
}

impl Failure {
    fn to_write(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected => Self::Refused(error),
            // Of a reset without an end before it a write is told once, and what is read then looks like an end.
            _ => Self::Of(error),
        }
    }
}

/// Reads once, for nobody.
fn poll_discard<R: AsyncRead + Unpin>(cx: &mut Context<'_>, from: &mut R) -> Poll<io::Result<usize>> {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.resize(CHUNK, 0);
        let mut buf = ReadBuf::new(scratch);
        ready!(Pin::new(from).poll_read(cx, &mut buf))?;
        Poll::Ready(Ok(buf.filled().len()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::net::{TcpListener, TcpStream};

    async fn pump<A, B>(caller: &mut A, app: &mut B, meter: &Meter) -> io::Result<()>
    where
        A: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        Pump::default().run(caller, app, meter).await
    }

    /// The two ends of a connection.
    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (stream, accepted) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (stream.unwrap(), accepted.unwrap().0)
    }

    #[tokio::test]
    async fn what_one_side_had_sent_before_it_was_gone_comes_whole() {
        const MUCH: usize = 1 << 20;
        let ((mut app, mut app_side), (mut caller, mut caller_side)) =
            (connection().await, connection().await);
        let (meter, mut pump) = (Meter::default(), Pump::default());
        let agent = async {
            let outcome = pump.run(&mut caller_side, &mut app_side, &meter).await;
            drop((caller_side, app_side));
            outcome
        };
        let ends = async {
            app.write_all(&vec![1; MUCH]).await.unwrap();
            // Closes both ways, while the caller still sends.
            drop(app);
            // What had not left the app yet, its own kernel would take back.
            while meter.counted().1 < MUCH as u64 {
                tokio::task::yield_now().await;
            }
            for _ in 0..100 {
                caller.write_all(b"more").await.unwrap();
                tokio::task::yield_now().await;
            }
            let mut received = Vec::new();
            caller.read_to_end(&mut received).await.unwrap();
            drop(caller);
            received.len()
        };
        let (outcome, received) = tokio::join!(agent, ends);
        assert_eq!(received, MUCH);
        assert!(outcome.is_err());
        assert!(pump.caller_has_end() && !pump.app_has_end());
    }

    #[tokio::test]
    async fn what_one_side_breaks_off_is_not_taken_for_the_whole() {
        let ((mut app, mut app_side), (mut caller, mut caller_side)) =
            (connection().await, connection().await);
        app.write_all(b"some").await.unwrap();
        app.set_zero_linger().unwrap();
        drop(app);
        caller.write_all(b"more").await.unwrap();
        let (meter, mut pump) = (Meter::default(), Pump::default());
        assert!(pump.run(&mut caller_side, &mut app_side, &meter).await.is_err());
        assert!(!pump.caller_has_end());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_its_end_and_sends_on_to_nobody_is_left_after_a_while() {
        let (mut caller, mut caller_side) = duplex(16);
        let (app, mut app_side) = duplex(16);
        drop(app);
        let (meter, mut pump) = (Meter::default(), Pump::default());
        let since = tokio::time::Instant::now();
        let (outcome, sent) =
            tokio::join!(pump.run(&mut caller_side, &mut app_side, &meter), caller.write_all(b"more"));
        sent.unwrap();
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert!(pump.caller_has_end() && !pump.app_has_end());
        assert_eq!(since.elapsed().as_secs(), LINGER.as_secs());
    }

    #[tokio::test]
    async fn passes_each_end_on_by_itself() {
        let (mut caller, mut caller_side) = duplex(16);
        let (mut app, mut app_side) = duplex(16);
        let meter = Meter::default();
        let sent: Vec<u8> = (0..200_000_u32).map(|i| i as u8).collect();
        let caller_task = async move {
            caller.write_all(&sent).await.unwrap();
            caller.shutdown().await.unwrap();
            let mut got = Vec::new();
            caller.read_to_end(&mut got).await.unwrap();
            got
        };
        let app_task = async move {
            let mut got = Vec::new();
            app.read_to_end(&mut got).await.unwrap();
            app.write_all(b"late answer").await.unwrap();
            got
        };
        let (outcome, answer, got) =
            tokio::join!(pump(&mut caller_side, &mut app_side, &meter), caller_task, app_task);
        outcome.unwrap();
        assert_eq!(answer, b"late answer");
        assert_eq!(got.len(), 200_000);
        assert_eq!(meter.counted(), (200_000, 11));
    }

    /// What it gives is read only after the meter was cut.
    struct CutBefore<'a>(&'a Meter);

    impl AsyncRead for CutBefore<'_> {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.0.cut();
            buf.put_slice(b"late");
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for CutBefore<'_> {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn passes_nothing_on_that_came_after_the_cut() {
        for caller_is_late in [true, false] {
            let meter = Meter::default();
            let (mut other, mut other_side) = duplex(16);
            let mut late = CutBefore(&meter);
            let outcome = match caller_is_late {
                true => pump(&mut late, &mut other_side, &meter).await,
                false => pump(&mut other_side, &mut late, &meter).await,
            };
            assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            drop(other_side);
            let mut passed = Vec::new();
            other.read_to_end(&mut passed).await.unwrap();
            assert!(passed.is_empty(), "{passed:?}");
            assert_eq!(meter.counted(), (0, 0));
        }
    }

    #[tokio::test]
    async fn ends_when_it_is_cut() {
        let (_caller, mut caller_side) = duplex(16);
        let (_app, mut app_side) = duplex(16);
        let meter = Meter::default();
        let (outcome, ()) =
            tokio::join!(pump(&mut caller_side, &mut app_side, &meter), async { meter.cut() });
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
