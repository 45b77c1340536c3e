//! Where an HTTP/2 connection ends whose peer leaves something unfinished.
//!
//! A peer that has not sent the whole preface, a frame, or a header block (RFC 9113 §3.4, §4.1, §4.3) holds a
//! connection without having asked for anything, so that neither rules nor the limits of streams reach it.
//! [`PromptFrames`] follows the framing of what is read and gives each of these a deadline. The content of a request
//! may come as slowly as it likes, and so may the first request, unless that is awaited too.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::written::write_to;

/// How long something begun may take to its end. A connection begins with itself.
const PATIENCE: Duration = Duration::from_secs(10);
/// The length of the client's preface.
const PREFACE: usize = 24;
/// The length of a frame's header.
const FRAME_HEADER: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// A server's side of a connection on which HTTP/2 arrives.
#[derive(Debug)]
pub(crate) struct PromptFrames<S> {
    inner: S,
    framing: Framing,
    /// Runs while the rest of something begun is waited for.
    deadline: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
struct Framing {
    part: Part,
    /// A header block has begun, and the frame that ends it has not come yet.
    is_amid_block: bool,
    /// Nothing was asked yet, which is waited for as for the rest of something begun.
    awaits_request: bool,
}

#[derive(Debug, Clone, Copy)]
enum Part {
    /// This many bytes of the preface are missing.
    Preface(usize),
    /// This many bytes of a frame's header have come.
    Header([u8; FRAME_HEADER], usize),
    /// This many bytes of a frame's payload are missing.
    Payload { left: usize, is_data: bool, is_header: bool },
}

impl<S> PromptFrames<S> {
    /// Reads `inner`, on which a peer may wait for as long as it likes before it asks.
    pub(crate) fn new(inner: S) -> Self {
        Self::with(inner, false)
    }

    /// Reads `inner`, on which a peer is to ask something soon.
    pub(crate) fn awaiting_a_request(inner: S) -> Self {
        Self::with(inner, true)
    }

    fn with(inner: S, awaits_request: bool) -> Self {
        let framing = Framing { part: Part::Preface(PREFACE), is_amid_block: false, awaits_request };
        Self { inner, framing, deadline: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PromptFrames<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        match Pin::new(&mut this.inner).poll_read(cx, buf) {
            Poll::Ready(outcome) => {
                outcome?;
                if this.framing.read(buf.filled().get(before..).unwrap_or_default()) {
                    this.deadline = None;
                }
                Poll::Ready(Ok(()))
            }
            Poll::Pending if this.framing.is_amid() => {
                let deadline = this.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(PATIENCE)));
                deadline.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PromptFrames<S> {
    write_to!(inner);

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl Framing {
    /// Whether something has begun that must soon end.
    fn is_amid(&self) -> bool {
        self.awaits_request
            || match self.part {
                Part::Preface(_) => true,
                Part::Header(_, 0) => self.is_amid_block,
                Part::Header(..) => true,
                Part::Payload { is_data, .. } => !is_data || self.is_amid_block,
            }
    }

    /// Follows these bytes. Says whether anything came to its end among them.
    fn read(&mut self, mut bytes: &[u8]) -> bool {
        let mut has_ended = false;
        while !bytes.is_empty() {
            let taken = match &mut self.part {
                Part::Preface(left) | Part::Payload { left, .. } => {
                    let taken = bytes.len().min(*left);
                    *left -= taken;
                    taken
                }
                Part::Header(header, come) => {
                    let rest = header.get_mut(*come..).unwrap_or_default();
                    let taken = bytes.len().min(rest.len());
                    rest.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
                    *come += taken;
                    taken
                }
            };
            bytes = bytes.get(taken..).unwrap_or_default();
            if let Part::Header(header, FRAME_HEADER) = self.part {
                self.begin_payload(header);
            }
            if let Part::Preface(0) | Part::Payload { left: 0, .. } = self.part {
                if let Part::Payload { is_header: true, .. } = self.part {
                    self.awaits_request &= self.is_amid_block;
                }
                self.part = Part::Header([0; FRAME_HEADER], 0);
                has_ended |= !self.is_amid_block && !self.awaits_request;
            }
        }
        has_ended
    }

    fn begin_payload(&mut self, header: [u8; FRAME_HEADER]) {
        let [long, middle, short, kind, flags, ..] = header;
        let left = usize::from(long) << 16 | usize::from(middle) << 8 | usize::from(short);
        let is_header = kind == HEADERS || kind == CONTINUATION;
        if is_header {
            self.is_amid_block = flags & END_HEADERS == 0;
        }
        self.part = Part::Payload { left, is_data: kind == DATA, is_header };
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let head = [0, 0, length, kind, flags, 0, 0, 0, 1];
        [&head[..], &vec![0; usize::from(length)]].concat()
    }

    /// Whether a peer may stay for long that has sent these bytes, however they are cut.
    async fn may_stay(bytes: &[u8]) -> bool {
        may_stay_on(PromptFrames::new, bytes).await
    }

    async fn may_stay_on(make: fn(DuplexStream) -> PromptFrames<DuplexStream>, bytes: &[u8]) -> bool {
        let mut outcomes = Vec::new();
        for step in [1, 2, 5, bytes.len().max(1)] {
            let (mut client, server) = tokio::io::duplex(1024);
            let mut stream = make(server);
            let mut read = [0; 1024];
            for part in bytes.chunks(step) {
                client.write_all(part).await.unwrap();
                assert_eq!(stream.read(&mut read).await.unwrap(), part.len());
            }
            outcomes.push(tokio::time::timeout(PATIENCE * 10, stream.read(&mut read)).await.is_err());
        }
        assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "{bytes:?}: {outcomes:?}");
        outcomes[0]
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_the_rest_of_what_has_begun_only_so_long() {
        let after = |more: &[u8]| [BEGIN, more].concat();
        assert!(may_stay(BEGIN).await);
        assert!(may_stay(&after(&frame(HEADERS, END_HEADERS, 9))).await);
        assert!(
            may_stay(&after(&[frame(HEADERS, 0, 9), frame(CONTINUATION, END_HEADERS, 0)].concat())).await
        );
        // Content may come slowly.
        assert!(may_stay(&after(&frame(DATA, 0, 9)[..12])).await);
        for unfinished in [&b""[..], b"PRI * HT", &after(b"\0\0")] {
            assert!(!may_stay(unfinished).await, "{unfinished:?}");
        }
        assert!(!may_stay(&after(&frame(HEADERS, END_HEADERS, 9)[..12])).await);
        assert!(!may_stay(&after(&frame(HEADERS, 0, 9))).await);
        assert!(!may_stay(&after(&[frame(HEADERS, 0, 9), frame(CONTINUATION, 0, 1)].concat())).await);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_to_ask_does_so_soon_or_goes() {
        let after = |more: &[u8]| [BEGIN, more].concat();
        let ping = frame(6, 0, 8);
        for silent in [&b""[..], BEGIN, &after(&ping), &after(&frame(HEADERS, 0, 9))] {
            assert!(!may_stay_on(PromptFrames::awaiting_a_request, silent).await, "{silent:?}");
        }
        let asked = [frame(HEADERS, 0, 9), frame(CONTINUATION, END_HEADERS, 1), ping].concat();
        for asked in [&frame(HEADERS, END_HEADERS, 9), &asked] {
            assert!(may_stay_on(PromptFrames::awaiting_a_request, &after(asked)).await, "{asked:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_block_in_many_parts_has_one_deadline() {
        let (mut client, server) = tokio::io::duplex(1024);
        let mut stream = PromptFrames::new(server);
        let trickle = async {
            client.write_all(&[BEGIN, &frame(HEADERS, 0, 1)].concat()).await.unwrap();
            while client.write_all(&frame(CONTINUATION, 0, 1)).await.is_ok() {
                tokio::time::sleep(PATIENCE / 4).await;
            }
        };
        let reading = async {
            let mut read = [0; 1024];
            loop {
                if let Err(error) = stream.read(&mut read).await {
                    return error.kind();
                }
            }
        };
        tokio::select! {
            kind = reading => assert_eq!(kind, io::ErrorKind::TimedOut),
            () = trickle => panic!("nobody ended it"),
        }
    }
}
