//! Bytes both ways between two streams.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::meter::{Direction, Meter};

/// The most that is read at once.
const CHUNK: usize = 64 << 10;

thread_local! {
    /// What every pump of a thread reads into. A connection that is idle owns no buffer.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Copies both ways until both sides have ended, one has failed, or `meter` is cut. The end of one side is passed on
/// while the other goes on.
///
/// # Errors
/// One side failed; or `PermissionDenied` where it was cut.
pub(crate) async fn pump<A, B>(caller: &mut A, app: &mut B, meter: &Meter) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut there, mut back) = (HalfPump::default(), HalfPump::default());
    std::future::poll_fn(|cx| {
        // Both halves are polled by one task, so that one of the two wakers is enough.
        if meter.poll_cut(Direction::In, cx.waker()) {
            return Poll::Ready(Err(cut()));
        }
        let there = there.poll(cx, caller, app, (meter, Direction::In))?;
        let back = back.poll(cx, app, caller, (meter, Direction::Out))?;
        if there.is_ready() && back.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
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
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Reading,
    Flushing,
    ShuttingDown,
    Done,
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
        loop {
            while let Some(rest) = self.held.get(self.written..).filter(|rest| !rest.is_empty()) {
                if meter.is_cut() {
                    return Poll::Ready(Err(cut()));
                }
                let written = ready!(Pin::new(&mut *to).poll_write(cx, rest))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
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
                            ready!(Pin::new(&mut *to).poll_flush(cx))?;
                            self.phase = Phase::Reading;
                        }
                        return Poll::Pending;
                    }
                },
                Phase::ShuttingDown => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.phase = Phase::Done;
                }
                Phase::Done => return Poll::Ready(Ok(())),
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
    ) -> io::Result<Poll<usize>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(CHUNK, 0);
            let mut buf = ReadBuf::new(scratch);
            match Pin::new(from).poll_read(cx, &mut buf) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(outcome) => outcome?,
            }
            // Asked after the read: a side that sends without a pause is not passed on until it has one, and what it
            // sends once the cut was told to be done does not pass at all.
            if meter.is_cut() {
                return Err(cut());
            }
            let mut rest = buf.filled();
            let read = rest.len();
            while !rest.is_empty() {
                match Pin::new(&mut *to).poll_write(cx, rest) {
                    Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(Ok(written)) => rest = rest.get(written..).unwrap_or_default(),
                    Poll::Ready(Err(error)) => return Err(error),
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

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
