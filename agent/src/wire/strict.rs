//! Where HTTP/1.1 requests are refused that two servers could read differently (RFC 9112 §2.2, §3.2, §5.2, §6.3,
//! §11.2).
//!
//! hyper resolves such requests in silence: it drops a `Content-Length` beside `Transfer-Encoding`, and a target's
//! fragment; its parser ends lines at a bare LF. That is safe in itself, since what we forward is written anew; but
//! whoever sends such requests is probing for a server that reads them otherwise, so they are refused. Since hyper
//! hides them, they must be seen before: [`StrictRequests`] reads along with the bytes that hyper reads. At the first
//! fault it hands hyper a NUL instead, at which hyper answers 400 and closes, or breaks off the body; and nothing
//! after it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::written::write_to;

/// The longest request head, and the longest chunk line or trailer section, in bytes.
pub(crate) const MAX_HEAD: usize = 16 * 1024;
/// How long a connection may take to its first byte, and then each head, chunk line or trailer section from its first
/// byte to its last. hyper's own limit also ends connections that are merely idle, and costs a timer for each request.
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

    fn has_begun(&self) -> bool {
        self.0.load(Ordering::Acquire)
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
    has_begun: bool,
    /// Runs while the first byte, or the rest of something begun, is waited for.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Bytes thrown away after the last answer.
    lingered: usize,
}

impl<S> StrictRequests<S> {
    /// Reads `prefix` first, then `inner`; all of it unread once `opaque` has begun.
    pub(crate) fn new(inner: S, prefix: Bytes, opaque: Opaque) -> Self {
        Self {
            inner,
            prefix,
            opaque,
            scanner: Scanner::default(),
            is_poisoned: false,
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
        if let Some(at) = this.scanner.first_fault(read) {
            if let Some(byte) = read.get_mut(at) {
                *byte = 0;
            }
            buf.set_filled(before + at + 1);
            this.is_poisoned = true;
        }
        if !this.has_begun || !this.scanner.is_amid_section() {
            this.has_begun = true;
            this.deadline = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S> StrictRequests<S> {
    /// The stream, and what has been read of it and not been handed on.
    pub(crate) fn into_parts(self) -> (S, Bytes) {
        (self.inner, self.prefix)
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
        self.is_poisoned = true;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for StrictRequests<S> {
    write_to!(inner);

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingered == 0 {
            ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
        }
        if this.is_poisoned || this.scanner.is_amid_request() && !this.opaque.has_begun() {
            return this.poll_linger(cx);
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

/// Follows the framing of a sequence of requests.
#[derive(Debug, Default)]
struct Scanner {
    state: State,
    /// The beginning of a line whose end has not come yet.
    carry: Vec<u8>,
    /// Bytes of this head, chunk line or trailer section so far.
    section: usize,
    head: Head,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    RequestLine,
    HeaderLine,
    /// Bytes left of a body of known length.
    Body(u64),
    ChunkSize,
    /// Bytes left of a chunk.
    Chunk(u64),
    ChunkEnd,
    TrailerLine,
}

#[derive(Debug, Default)]
struct Head {
    content_length: Option<u64>,
    is_chunked: bool,
    has_host: bool,
}

/// The bytes cannot be taken for one sequence of requests only.
struct Fault;

impl Scanner {
    /// Whether a head, a chunk line or a trailer section has begun and not ended.
    fn is_amid_section(&self) -> bool {
        self.section > 0
    }

    /// Whether a request has begun and not ended.
    fn is_amid_request(&self) -> bool {
        self.is_amid_section() || !matches!(self.state, State::RequestLine)
    }

    /// The index of the byte at which the bytes became unacceptable.
    fn first_fault(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let taken = match self.state {
                State::Body(left) => {
                    let taken = fitting(left, rest.len());
                    let left = left - taken as u64;
                    self.state = if left == 0 { State::RequestLine } else { State::Body(left) };
                    taken
                }
                State::Chunk(left) => {
                    let taken = fitting(left, rest.len());
                    let left = left - taken as u64;
                    self.state = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
                    taken
                }
                _ => match self.take_line(rest) {
                    Ok(taken) => taken,
                    Err(offset) => return Some(at + offset),
                },
            };
            at += taken;
        }
        None
    }

    /// Takes one line, or the part of it that has come. Answers how many bytes, or which byte is the fault.
    fn take_line(&mut self, rest: &[u8]) -> Result<usize, usize> {
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            self.section += rest.len();
            // hyper answers 431 by its own limit; this one only bounds our memory.
            if self.section > 2 * MAX_HEAD {
                return Err(0);
            }
            self.carry.extend_from_slice(rest);
            return Ok(rest.len());
        };
        self.section += end + 1;
        let part = rest.get(..end).unwrap_or_default();
        let outcome = if self.carry.is_empty() {
            self.on_line(part)
        } else {
            let mut line = std::mem::take(&mut self.carry);
            line.extend_from_slice(part);
            self.on_line(&line)
        };
        outcome.map(|()| end + 1).map_err(|Fault| end)
    }

    fn on_line(&mut self, line: &[u8]) -> Result<(), Fault> {
        let line = line.strip_suffix(b"\r").ok_or(Fault)?;
        if line.contains(&b'\r') || line.contains(&0) {
            return Err(Fault);
        }
        match self.state {
            // RFC 9112 §2.2: an empty line before the request line is ignored.
            State::RequestLine if line.is_empty() => self.section = 0,
            // The URI parser that hyper uses would drop a fragment, and with it the path that another server reads.
            State::RequestLine if line.contains(&b'#') => return Err(Fault),
            State::RequestLine => {
                self.head = Head::default();
                self.state = State::HeaderLine;
            }
            State::HeaderLine if line.is_empty() => self.end_of_head()?,
            State::HeaderLine => self.on_header(line)?,
            State::ChunkSize => {
                self.state = match chunk_size(line)? {
                    0 => State::TrailerLine,
                    size => State::Chunk(size),
                };
                self.section = 0;
            }
            State::ChunkEnd if line.is_empty() => {
                self.state = State::ChunkSize;
                self.section = 0;
            }
            State::TrailerLine if line.is_empty() => {
                self.state = State::RequestLine;
                self.section = 0;
            }
            State::TrailerLine => field(line).map(drop)?,
            State::ChunkEnd | State::Body(_) | State::Chunk(_) => return Err(Fault),
        }
        Ok(())
    }

    fn on_header(&mut self, line: &[u8]) -> Result<(), Fault> {
        let (name, value) = field(line)?;
        // Servers in the tradition of CGI cannot tell `_` from `-`, so both spellings count, and only one is let by.
        if is_spelling_of(name, b"content-length") {
            let length = decimal(value).ok_or(Fault)?;
            if name.contains(&b'_') || self.head.content_length.replace(length).is_some() {
                return Err(Fault);
            }
        } else if is_spelling_of(name, b"transfer-encoding") {
            if name.contains(&b'_') || self.head.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Fault);
            }
            self.head.is_chunked = true;
        } else if is_spelling_of(name, b"host") && std::mem::replace(&mut self.head.has_host, true) {
            return Err(Fault);
        }
        Ok(())
    }

    fn end_of_head(&mut self) -> Result<(), Fault> {
        self.state = match (self.head.is_chunked, self.head.content_length) {
            (true, Some(_)) => return Err(Fault),
            (true, None) => State::ChunkSize,
            (false, None | Some(0)) => State::RequestLine,
            (false, Some(length)) => State::Body(length),
        };
        self.section = 0;
        Ok(())
    }
}

fn fitting(left: u64, available: usize) -> usize {
    usize::try_from(left).map_or(available, |left| left.min(available))
}

/// A field line's name and its value without the white space around it. A folded line is a fault.
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Fault)?;
    let (name, value) = line.split_at_checked(colon).ok_or(Fault)?;
    if name.is_empty() || name.iter().any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control()) {
        return Err(Fault);
    }
    Ok((name, value.get(1..).unwrap_or_default().trim_ascii()))
}

/// Whether a name is `wanted`, in whatever case and with `_` for `-` or without.
pub(crate) fn is_spelling_of(name: &[u8], wanted: &[u8]) -> bool {
    name.len() == wanted.len()
        && name
            .iter()
            .zip(wanted)
            .all(|(found, wanted)| found.eq_ignore_ascii_case(wanted) || (*wanted == b'-' && *found == b'_'))
}

fn decimal(value: &[u8]) -> Option<u64> {
    let are_digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    are_digits.then(|| std::str::from_utf8(value).ok()?.parse().ok()).flatten()
}

/// The size on a chunk's line, whatever extension follows it.
fn chunk_size(line: &[u8]) -> Result<u64, Fault> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, rest) = line.split_at_checked(digits).ok_or(Fault)?;
    if !(rest.is_empty() || rest.trim_ascii_start().starts_with(b";")) {
        return Err(Fault);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| Fault)?;
    u64::from_str_radix(digits, 16).map_err(|_| Fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the bytes pass, whole and however they are cut.
    fn passes(bytes: &[u8]) -> bool {
        let whole = Scanner::default().first_fault(bytes).is_none();
        for step in [1, 2, 3, 7] {
            let mut scanner = Scanner::default();
            let cut = bytes.chunks(step).all(|part| scanner.first_fault(part).is_none());
            assert_eq!(whole, cut, "cut by {step}: {:?}", String::from_utf8_lossy(bytes));
        }
        whole
    }

    #[test]
    fn follows_ordinary_requests() {
        for bytes in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"\r\nPOST / HTTP/1.1\r\nContent-Length: 5\r\n\r\na\nb\n\nGET / HTTP/1.1\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\n\n\n\n\r\n0\r\nX: y\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        ] {
            assert!(passes(bytes), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn finds_every_second_reading() {
        for bytes in [
            &b"GET / HTTP/1.1\nHost: a\r\n\r\n"[..],
            b"GET / HTTP/1.1\r\nHost: a\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n",
            b"GET /a#/../b HTTP/1.1\r\nHost: a\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nabcde",
            b"POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\nabcde",
            b"POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\nabcde",
            b"POST / HTTP/1.1\r\nContent_Length: 5\r\n\r\nabcde",
            b"POST / HTTP/1.1\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcX\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;a\nb\r\nabc\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\n\r\n",
        ] {
            assert!(!passes(bytes), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_the_rest_of_a_head_only_so_long() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut client, server) = tokio::io::duplex(1024);
        let mut stream = StrictRequests::new(server, Bytes::new(), Opaque::default());
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
        let mut stream = StrictRequests::new(server, Bytes::new(), Opaque::default());
        let error = tokio::time::timeout(PATIENCE * 2, stream.read_u8()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn hands_on_nothing_after_a_fault() {
        use tokio::io::AsyncReadExt;
        let sent = &b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n"[..];
        let mut stream = StrictRequests::new(sent, Bytes::new(), Opaque::default());
        let mut read = Vec::new();
        stream.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"GET / HTTP/1.1\r\nHost: a\0");

        let opaque = Opaque::default();
        opaque.begin();
        let mut stream = StrictRequests::new(sent, Bytes::from_static(b"\n\n"), opaque);
        let mut read = Vec::new();
        stream.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, [b"\n\n", sent].concat());
    }
}
