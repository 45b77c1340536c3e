//! What the C implementation of gRPC (that of Python, C++, Ruby …) says as `:authority` over a Unix socket: the
//! socket's path, with `%2F` for its slashes. That is no authority by RFC 3986 §3.2 as our HTTP/2 library reads it,
//! which resets the stream. Nothing here depends on what it says, so the percent signs are replaced on the way in: a
//! byte by a byte, so that no length and no table of HPACK (RFC 7541) changes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What begins every connection (RFC 9113 §3.4).
const PREFACE: usize = 24;
/// What begins every frame: length, type, flags, stream (RFC 9113 §4.1).
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
/// The name as a literal without Huffman coding, as those who need this write it. A line feed is in no header's value.
const NAME: &[u8] = b"\n:authority";

/// A connection whose requests name an authority that can be read.
#[derive(Debug)]
pub(super) struct ReadableAuthority<S> {
    stream: S,
    filter: Filter,
}

#[derive(Debug)]
struct Filter {
    state: State,
    head: [u8; FRAME_HEAD],
    search: Search,
}

#[derive(Debug)]
enum State {
    Preface { left: usize },
    Head { have: usize },
    Payload { left: usize, is_headers: bool },
}

#[derive(Debug)]
enum Search {
    Name { matched: usize },
    Length,
    Value { left: usize },
}

impl<S> ReadableAuthority<S> {
    pub(super) fn new(stream: S) -> Self {
        let (state, search) = (State::Preface { left: PREFACE }, Search::Name { matched: 0 });
        Self { stream, filter: Filter { state, head: [0; FRAME_HEAD], search } }
    }
}

impl Filter {
    fn pass(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.state = match self.state {
                State::Preface { left: 1 } => State::Head { have: 0 },
                State::Preface { left } => State::Preface { left: left - 1 },
                State::Head { have } => self.head(have, *byte),
                State::Payload { left, is_headers } => {
                    if is_headers {
                        self.search(byte);
                    }
                    if left == 1 {
                        State::Head { have: 0 }
                    } else {
                        State::Payload { left: left - 1, is_headers }
                    }
                }
            };
        }
    }

    fn head(&mut self, have: usize, byte: u8) -> State {
        if let Some(place) = self.head.get_mut(have) {
            *place = byte;
        }
        if have + 1 < FRAME_HEAD {
            return State::Head { have: have + 1 };
        }
        let [high, middle, low, kind, ..] = self.head;
        let left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let is_headers = matches!(kind, HEADERS | CONTINUATION);
        if kind != CONTINUATION {
            self.search = Search::Name { matched: 0 };
        }
        if left == 0 { State::Head { have: 0 } } else { State::Payload { left, is_headers } }
    }

    fn search(&mut self, byte: &mut u8) {
        self.search = match self.search {
            Search::Name { matched } if NAME.get(matched) == Some(byte) => {
                if matched + 1 == NAME.len() {
                    Search::Length
                } else {
                    Search::Name { matched: matched + 1 }
                }
            }
            Search::Name { .. } => Search::Name { matched: usize::from(NAME.first() == Some(byte)) },
            // Huffman coding has its own bit, and longer lengths than 126 more bytes (RFC 7541 §5): these are left
            // alone.
            Search::Length if (1..127).contains(byte) => Search::Value { left: usize::from(*byte) },
            Search::Length => Search::Name { matched: 0 },
            Search::Value { left } => {
                if *byte == b'%' {
                    *byte = b'-';
                }
                if left == 1 { Search::Name { matched: 0 } } else { Search::Value { left: left - 1 } }
            }
        };
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadableAuthority<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.filter.pass(buffer.filled_mut().get_mut(before..).unwrap_or_default());
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadableAuthority<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, 4, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn percent_signs_of_an_authority_alone_are_replaced() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let head = |authority: &[u8]| {
            let length = [u8::try_from(authority.len()).unwrap()];
            [b"@\x05:path\x04/a%2@\n:authority", &length[..], authority, b"@\x01x\x03%2F"].concat()
        };
        let stream = |authority: &[u8]| {
            let (one, two) = (head(authority), head(authority));
            let (first, rest) = two.split_at(25);
            let data = head(b"tmp%2Fa");
            [
                &preface[..],
                &frame(4, &[]),
                &frame(HEADERS, &one),
                &frame(0, &data),
                &frame(HEADERS, first),
                &frame(CONTINUATION, rest),
            ]
            .concat()
        };
        let (sent, wanted) = (stream(b"tmp%2Fa.sock"), stream(b"tmp-2Fa.sock"));
        for size in [1, 2, 7, sent.len()] {
            let mut bytes = sent.clone();
            let mut filtered = ReadableAuthority::new(());
            bytes.chunks_mut(size).for_each(|chunk| filtered.filter.pass(chunk));
            assert_eq!(bytes, wanted, "in pieces of {size}");
        }
    }
}
