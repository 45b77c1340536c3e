//! What an answer consists of leaves together.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How many bytes are held back at most: what is larger is not made faster by it.
const MOST: usize = 16 * 1024;

/// A stream that does not obey the first flush after data.
///
/// The HTTP/2 codec flushes data of some size before it takes the next frame, so that an answer and its trailers would be two TLS
/// records, two packets, and two turns of whoever waits for them. The first flush therefore only sees to it that the task
/// is polled again, by which time there has been another, or nothing was to follow.
pub(super) struct Gathered<S> {
    stream: S,
    held: BytesMut,
    /// What is held was followed by a flush.
    is_due: bool,
    /// What is held ends with a frame's payload that was written from where it lay: that is when trailers may follow.
    may_go_on: bool,
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, held: BytesMut::new(), is_due: false, may_go_on: false }
    }

    /// Passes on what is held.
    fn poll_release(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, &self.held))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.advance(written);
        }
        // A connection that is silent costs nothing.
        self.held = BytesMut::new();
        self.is_due = false;
        Poll::Ready(Ok(()))
    }

    /// Makes room for so many bytes, unless they are too many to be held.
    fn poll_room(&mut self, context: &mut Context<'_>, bytes: usize) -> Poll<io::Result<()>> {
        if self.held.len() + bytes > MOST { self.poll_release(context) } else { Poll::Ready(Ok(())) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_room(context, bytes.len()))?;
        if bytes.len() > MOST {
            return Pin::new(&mut self.stream).poll_write(context, bytes);
        }
        self.held.extend_from_slice(bytes);
        self.may_go_on = false;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = slices.iter().map(|slice| slice.len()).sum();
        ready!(self.poll_room(context, bytes))?;
        if bytes > MOST {
            return Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        }
        for slice in slices {
            self.held.extend_from_slice(slice);
        }
        self.may_go_on = slices.len() > 1;
        Poll::Ready(Ok(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.may_go_on && !self.is_due && !self.held.is_empty() {
            self.is_due = true;
            context.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_release(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_release(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;

    /// Keeps each write apart, and takes so many bytes at once.
    #[derive(Default)]
    struct Writes {
        taken: Vec<Vec<u8>>,
        at_once: Option<usize>,
        is_closed: bool,
    }

    impl AsyncWrite for Writes {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.at_once.unwrap_or(usize::MAX));
            self.taken.push(bytes[..taken].to_vec());
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.is_closed = true;
            Poll::Ready(Ok(()))
        }
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct Codec {
        stream: Gathered<Writes>,
        woken: Arc<Woken>,
    }

    impl Codec {
        fn new(at_once: Option<usize>) -> Self {
            let writes = Writes { at_once, ..Writes::default() };
            Self { stream: Gathered::new(writes), woken: Arc::default() }
        }

        fn call<T>(
            &mut self,
            work: impl FnOnce(Pin<&mut Gathered<Writes>>, &mut Context<'_>) -> Poll<io::Result<T>>,
        ) -> T {
            let waker = Waker::from(Arc::clone(&self.woken));
            match work(Pin::new(&mut self.stream), &mut Context::from_waker(&waker)) {
                Poll::Ready(result) => result.unwrap(),
                Poll::Pending => panic!("nothing here has to wait"),
            }
        }

        /// A frame with its payload, as the codec writes what is not small.
        fn data(&mut self, payload: &[u8]) -> usize {
            self.call(|stream, context| {
                stream.poll_write_vectored(context, &[IoSlice::new(b"head"), IoSlice::new(payload)])
            })
        }

        fn small(&mut self, bytes: &[u8]) -> usize {
            self.call(|stream, context| stream.poll_write_vectored(context, &[IoSlice::new(bytes)]))
        }

        fn flush(&mut self) {
            self.call(Gathered::poll_flush);
        }

        fn taken(&self) -> &[Vec<u8>] {
            &self.stream.stream.taken
        }

        fn woken(&self) -> usize {
            self.woken.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn an_answer_and_its_trailers_are_one_write() {
        let mut codec = Codec::new(None);
        codec.data(b"answer");
        codec.flush();
        assert!(codec.taken().is_empty());
        codec.small(b"trailers");
        codec.flush();
        assert_eq!(codec.taken(), [b"headanswertrailers".to_vec()]);
    }

    #[test]
    fn data_that_nothing_follows_leaves_when_the_task_is_polled_again_which_it_is() {
        let mut codec = Codec::new(None);
        codec.data(b"one message of a stream");
        codec.flush();
        assert_eq!((codec.taken().len(), codec.woken()), (0, 1));
        codec.flush();
        assert_eq!((codec.taken().len(), codec.woken()), (1, 1));
        // The next one is held back anew.
        codec.data(b"and one more");
        codec.flush();
        assert_eq!((codec.taken().len(), codec.woken()), (1, 2));
    }

    #[test]
    fn what_no_trailers_can_follow_does_not_wait() {
        let mut codec = Codec::new(None);
        codec.small(b"ping");
        codec.flush();
        assert_eq!((codec.taken(), codec.woken()), (&[b"ping".to_vec()][..], 0));
    }

    #[test]
    fn all_of_it_arrives_in_order_however_little_is_taken_at_once() {
        for at_once in [None, Some(1), Some(7), Some(5_000)] {
            let mut codec = Codec::new(at_once);
            let mut sent = Vec::new();
            for number in 0..40_u8 {
                let payload = vec![number; 100 + usize::from(number) * 500];
                let all = [&b"head"[..], &payload].concat();
                let mut written = codec.data(&payload);
                while written < all.len() {
                    written += codec.small(&all[written..]);
                }
                codec.flush();
                sent.extend(all);
                assert!(codec.stream.held.len() <= MOST);
            }
            codec.flush();
            assert_eq!(codec.taken().concat(), sent, "{at_once:?}");
        }
    }

    #[test]
    fn nothing_is_held_back_from_a_stream_that_closes() {
        let mut codec = Codec::new(None);
        codec.data(b"last words");
        codec.flush();
        codec.call(Gathered::poll_shutdown);
        assert_eq!(codec.taken().concat(), b"headlast words");
        assert!(codec.stream.stream.is_closed);
    }
}
