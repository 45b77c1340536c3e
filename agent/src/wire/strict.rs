//! Where HTTP/1.1 requests are refused that two servers could read differently (RFC 9112 §2.2, §3.2, §5.2, §6.3,
//! §11.2).
//!
//! hyper resolves such requests in silence: it drops a `Content-Length` beside `Transfer-Encoding`, and a target's
//! fragment; its parser ends lines at a bare LF. That is safe in itself, since what we forward is written anew; but
//! whoever sends such requests is probing for a server that reads them otherwise, so they are refused. Since hyper
//! hides them, they must be seen before: [`StrictRequests`] reads along with the bytes that hyper reads. At the first
//! fault it hands hyper a NUL instead, at which hyper answers 400 and closes, or breaks off the body; and nothing
//! after it. What the fault is stands in that answer, which is written here since hyper's has no place for it.

mod named;
mod scanner;

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

pub(crate) use scanner::is_spelling_of;
use scanner::{Fault, Scanner};

/// The longest request head of a local app, and half of the longest chunk line or trailer section, in bytes.
pub(crate) const MAX_HEAD: usize = 16 * 1024;
/// The longest request head from the mesh: what an app's agent has taken has room for what that agent adds, a user's
/// identity above all.
pub(crate) const MAX_HEAD_FROM_MESH: usize = 2 * MAX_HEAD;
/// The most fields of a head over HTTP/1.1: hyper reads no more.
pub(crate) const MAX_FIELDS: usize = 100;

const HEAD_TOO_LONG: &str = "head_too_long";
/// The name of a head with more.
pub(crate) const TOO_MANY_FIELDS: &str = "too_many_fields";
/// How long a connection may take to the first byte of a request, whatever empty lines come before, and then each head, chunk
/// line or trailer section from its first byte to its last. hyper's own limit also ends connections that are merely idle, and costs a timer for each request.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long, and for how many bytes, the rest of a request is read and thrown away when its answer ends the connection:
/// a reset by unread bytes would take the answer away from whoever is still sending.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 32 << 20;

/// Says that a connection no longer carries HTTP/1.1: set when a 101, or a 2xx to CONNECT, is about to be sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Opaque(Arc<AtomicBool>);

impl Opaque {
    /// From here on, bytes pass unread.
    pub(crate) fn begin(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether they do.
    pub(crate) fn has_begun(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Why the requests of a connection came to their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken {
    /// The name that the caller is given in `hauberk-error`.
    pub(crate) fault: &'static str,
    /// The fault is in the body of a request that came to be decided; otherwise none came of what was sent.
    pub(crate) is_under_way: bool,
}

impl Broken {
    /// The status that the caller is given.
    pub(crate) fn status(&self) -> StatusCode {
        status_of(self.fault)
    }
}

fn status_of(fault: &str) -> StatusCode {
    match fault {
        HEAD_TOO_LONG | TOO_MANY_FIELDS => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// Is told of the one fault that a connection has.
struct Tell(Box<dyn FnOnce(Broken) + Send>);

impl fmt::Debug for Tell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tell")
    }
}

/// A server's side of a connection on which HTTP/1.1 requests arrive.
#[derive(Debug)]
pub(crate) struct StrictRequests<S> {
    inner: S,
    /// Bytes that were read while it was found out what is spoken.
    prefix: Bytes,
    opaque: Opaque,
    scanner: Scanner,
    is_poisoned: bool,
    /// What hyper is given after that: it reads on for the end of a head that came in parts before it looks at any.
    rest: &'static [u8],
    /// What was wrong, where we have seen it.
    fault: Option<&'static str>,
    /// Until there is one.
    tell: Option<Tell>,
    /// What is left to be written of that answer.
    answer: Bytes,
    has_begun: bool,
    /// Runs while the first byte, or the rest of something begun, is waited for.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Bytes thrown away after the last answer.
    lingered: usize,
}

impl<S> StrictRequests<S> {
    /// Reads `prefix` first, then `inner`; all of it unread once `opaque` has begun. A head has `max_head` bytes at the
    /// most. A fault is told to `tell`.
    pub(crate) fn new(
        inner: S,
        prefix: Bytes,
        opaque: Opaque,
        max_head: usize,
        tell: impl FnOnce(Broken) + Send + 'static,
    ) -> Self {
        Self {
            tell: Some(Tell(Box::new(tell))),
            inner,
            prefix,
            opaque,
            scanner: Scanner::new(max_head),
            is_poisoned: false,
            rest: b"",
            fault: None,
            answer: Bytes::new(),
            has_begun: false,
            deadline: None,
            lingered: 0,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StrictRequests<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_poisoned {
            let part = this.rest.get(..buf.remaining()).unwrap_or(this.rest);
            buf.put_slice(part);
            this.rest = this.rest.get(part.len()..).unwrap_or_default();
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        if this.prefix.is_empty() {
            match Pin::new(&mut this.inner).poll_read(cx, buf) {
                Poll::Ready(outcome) => outcome?,
                Poll::Pending => return this.poll_patience(cx, buf),
            }
        } else {
            let part = this.prefix.split_to(this.prefix.len().min(buf.remaining()));
            buf.put_slice(&part);
        }
        if this.opaque.has_begun() {
            return Poll::Ready(Ok(()));
        }
        let read = buf.filled_mut().get_mut(before..).unwrap_or_default();
        if let Some((at, Fault(reason))) = this.scanner.first_fault(read) {
            if let Some(byte) = read.get_mut(at) {
                *byte = 0;
            }
            buf.set_filled(before + at + 1);
            this.end_by(reason);
        }
        let begins = !this.has_begun && this.scanner.has_begun();
        if begins || this.has_begun && !this.scanner.is_amid_section() {
            this.has_begun = true;
            this.deadline = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S> StrictRequests<S> {
    /// hyper's answer to a fault that we have handed it, with the fault's name. Without one whatever is written is an
    /// app's, and what passes through a tunnel is too.
    fn named(&self, written: &[u8]) -> Option<Bytes> {
        if self.opaque.has_begun() { None } else { named::answer(written, self.fault?) }
    }

    /// The stream, and what has been read of it and not been handed on.
    pub(crate) fn into_parts(self) -> (S, Bytes) {
        (self.inner, self.prefix)
    }

    /// Nothing more is read, for this reason.
    fn end_by(&mut self, fault: &'static str) {
        self.is_poisoned = true;
        if !self.scanner.is_amid_body() {
            self.rest = b"\r\n\r\n";
        }
        self.fault = Some(fault);
        if let Some(Tell(tell)) = self.tell.take() {
            tell(Broken { fault, is_under_way: self.scanner.is_amid_body() });
        }
    }

    /// Waits on, but not for ever if the rest of something is missing.
    fn poll_patience(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.opaque.has_begun() || self.has_begun && !self.scanner.is_amid_section() {
            return Poll::Pending;
        }
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(PATIENCE)));
        if deadline.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        if !self.has_begun {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        buf.put_slice(&[0]);
        self.end_by("slow_request");
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for StrictRequests<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_answer(cx))?;
        if let Some(answer) = this.named(buf) {
            this.answer = answer;
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut this.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_answer(cx))?;
        let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
        if let Some(answer) = this.named(first) {
            this.answer = answer;
            return Poll::Ready(Ok(first.len()));
        }
        Pin::new(&mut this.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_answer(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_answer(cx))?;
        if this.lingered == 0 {
            ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
        }
        if this.is_poisoned || this.scanner.is_amid_request() && !this.opaque.has_begun() {
            return this.poll_linger(cx);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> StrictRequests<S> {
    /// Writes what is left of the answer to a fault.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.answer.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, &self.answer))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.answer.advance(written.min(self.answer.len())),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> StrictRequests<S> {
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingered == 0 {
            self.lingered = 1;
            self.deadline = Some(Box::pin(tokio::time::sleep(LINGER)));
        }
        let is_late = self.deadline.as_mut().is_none_or(|deadline| deadline.as_mut().poll(cx).is_ready());
        let mut scratch = [0; 8 << 10];
        while !is_late && self.lingered < LINGER_BYTES {
            let mut unread = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.inner).poll_read(cx, &mut unread) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !unread.filled().is_empty() => self.lingered += unread.filled().len(),
                // The other side has ended, or is gone.
                Poll::Ready(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_for_the_rest_of_a_head_only_so_long() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut client, server) = tokio::io::duplex(1024);
        let mut stream = StrictRequests::new(server, Bytes::new(), Opaque::default(), MAX_HEAD, drop);
        let mut read = [0; 64];
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert_eq!(stream.read(&mut read).await.unwrap(), 18);
        // Idle between requests, for as long as it likes.
        let idle = tokio::time::timeout(PATIENCE * 10, stream.read(&mut read)).await;
        assert!(idle.is_err());
        client.write_all(b"GET / HT").await.unwrap();
        assert_eq!(stream.read(&mut read).await.unwrap(), 8);
        assert_eq!(stream.read(&mut read).await.unwrap(), 1);
        assert_eq!(read[0], 0);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_the_first_byte_only_so_long() {
        use tokio::io::AsyncReadExt;
        let (_client, server) = tokio::io::duplex(1024);
        let mut stream = StrictRequests::new(server, Bytes::new(), Opaque::default(), MAX_HEAD, drop);
        let error = tokio::time::timeout(PATIENCE * 2, stream.read_u8()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn empty_lines_take_the_place_of_no_request() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut client, server) = tokio::io::duplex(1024);
        let mut stream = StrictRequests::new(server, Bytes::new(), Opaque::default(), MAX_HEAD, drop);
        let reading = async {
            let mut read = [0; 64];
            loop {
                if let Err(error) = stream.read(&mut read).await {
                    return error.kind();
                }
            }
        };
        let trickle = async {
            while client.write_all(b"\r\n").await.is_ok() {
                tokio::time::sleep(PATIENCE / 4).await;
            }
        };
        let ends = async {
            tokio::select! {
                kind = reading => kind,
                () = trickle => panic!("nobody ended it"),
            }
        };
        assert_eq!(tokio::time::timeout(PATIENCE * 2, ends).await.unwrap(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn only_the_answer_to_a_fault_is_given_its_name() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let sent = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        for (is_faulty, is_tunnel) in [(true, false), (false, false), (true, true)] {
            let (mut client, server) = tokio::io::duplex(1024);
            let opaque = Opaque::default();
            let mut stream = StrictRequests::new(server, Bytes::new(), opaque.clone(), MAX_HEAD, drop);
            client.write_all(if is_faulty { b"GET /\n" } else { b"GET / " }).await.unwrap();
            assert!(stream.read(&mut [0; 64]).await.unwrap() > 0);
            if is_tunnel {
                opaque.begin();
            }
            stream.write_all(sent).await.unwrap();
            stream.flush().await.unwrap();
            drop(stream);
            let mut came = Vec::new();
            client.read_to_end(&mut came).await.unwrap();
            let came = String::from_utf8(came).unwrap();
            let is_named = came.contains("hauberk-error: ambiguous_line_end\r\n");
            assert_eq!(is_named, is_faulty && !is_tunnel, "{came}");
            assert!(is_named || came.as_bytes() == sent, "{came}");
        }
    }

    #[tokio::test]
    async fn hands_on_nothing_after_a_fault() {
        use tokio::io::AsyncReadExt;
        let sent = &b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n"[..];
        let mut stream = StrictRequests::new(sent, Bytes::new(), Opaque::default(), MAX_HEAD, drop);
        let mut read = Vec::new();
        stream.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"GET / HTTP/1.1\r\nHost: a\0\r\n\r\n");

        let opaque = Opaque::default();
        opaque.begin();
        let mut stream = StrictRequests::new(sent, Bytes::from_static(b"\n\n"), opaque, MAX_HEAD, drop);
        let mut read = Vec::new();
        stream.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, [b"\n\n", sent].concat());
    }
}
