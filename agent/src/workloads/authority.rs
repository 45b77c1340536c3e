//! What clients of gRPC say as `:authority` over a Unix socket: that of Java, and older ones in Go, the socket's path
//! as it is; the C implementation (that of Python, C++, Ruby …) the same with `%2F` for its slashes. That is no
//! authority by RFC 3986 §3.2 as our HTTP/2 library reads it, which resets the stream. Nothing here depends on what it
//! says, so what may not be in one is replaced on the way in.

mod fields;

use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::fields::{Fields, Kept};

/// What begins every connection (RFC 9113 §3.4).
const PREFACE: usize = 24;
/// What begins every frame: length, type, flags, stream (RFC 9113 §4.1).
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
/// The flags of HEADERS by which its fields are not all of it (RFC 9113 §6.2).
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
const PRIORITY_FIELDS: usize = 5;

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
    fields: Fields,
    table: Kept,
}

#[derive(Debug)]
enum State {
    Preface {
        left: usize,
    },
    Head {
        have: usize,
    },
    /// The byte that says how many pad a frame follows; with it, this many are left.
    PadLength {
        left: usize,
        before: usize,
    },
    /// What is no field and comes before the fields, and after them.
    Payload {
        left: usize,
        before: usize,
        padding: usize,
        is_headers: bool,
    },
}

impl<S> ReadableAuthority<S> {
    pub(super) fn new(stream: S) -> Self {
        let (state, fields) = (State::Preface { left: PREFACE }, Fields::Begin);
        Self { stream, filter: Filter { state, head: [0; FRAME_HEAD], fields, table: Kept::default() } }
    }
}

impl Filter {
    fn pass(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.state = match self.state {
                State::Preface { left: 1 } => State::Head { have: 0 },
                State::Preface { left } => State::Preface { left: left - 1 },
                State::Head { have } => self.head(have, *byte),
                State::PadLength { left, before } => {
                    let padding = usize::from(*byte);
                    State::Payload { left: left - 1, before, padding, is_headers: true }.or_next()
                }
                State::Payload { left, before, padding, is_headers } => {
                    if is_headers && before == 0 && left > padding {
                        self.fields =
                            mem::replace(&mut self.fields, Fields::Lost).next(byte, &mut self.table);
                    }
                    let before = before.saturating_sub(1);
                    State::Payload { left: left - 1, before, padding, is_headers }.or_next()
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
        let [high, middle, low, kind, flags, ..] = self.head;
        let left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        if kind != CONTINUATION {
            self.fields = Fields::Begin;
        }
        let before = if kind == HEADERS && flags & PRIORITY != 0 { PRIORITY_FIELDS } else { 0 };
        if kind == HEADERS && flags & PADDED != 0 && left > 0 {
            return State::PadLength { left, before };
        }
        let is_headers = matches!(kind, HEADERS | CONTINUATION);
        State::Payload { left, before, padding: 0, is_headers }.or_next()
    }
}

impl State {
    /// The next frame's head, where nothing of this one is left.
    fn or_next(self) -> Self {
        if let Self::Payload { left: 0, .. } = self { Self::Head { have: 0 } } else { self }
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
    use std::time::Duration;

    use h2::server;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(1);
    const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const END_STREAM: u8 = 0x01;
    const END_HEADERS: u8 = 0x04;
    /// `:method: POST`, `:scheme: http`.
    const POST: &[u8] = b"\x83\x86";
    /// `:path: /%2F/a`, which is none of ours.
    const PATH: &[u8] = b"\x44\x06/%2F/a";

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
    }

    fn text(bytes: &[u8]) -> Vec<u8> {
        [&[u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    /// A text by the code of RFC 7541 Appendix B.
    fn coded(bytes: &[u8]) -> Vec<u8> {
        [&[0x80 | u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    /// The authorities that are read of requests, or `None` for one that was reset.
    async fn read(sent: &[u8], requests: usize) -> Vec<Option<String>> {
        let (mut client, served) = tokio::io::duplex(1 << 16);
        client.write_all(sent).await.unwrap();
        let mut connection = server::handshake(ReadableAuthority::new(served)).await.unwrap();
        let mut authorities = Vec::new();
        // Of one that is reset nothing is told.
        while let Ok(Some(Ok((request, _answer)))) = timeout(SOON, connection.accept()).await {
            assert_eq!(request.uri().path(), "/%2F/a");
            authorities.push(request.uri().authority().map(ToString::to_string));
        }
        authorities.resize(requests, None);
        authorities
    }

    async fn read_of(fields: &[u8]) -> Option<String> {
        let fields = [POST, PATH, fields].concat();
        let sent = [BEGIN, &frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields)].concat();
        read(&sent, 1).await.remove(0)
    }

    #[tokio::test(start_paused = true)]
    async fn a_sockets_path_is_an_authority_in_every_form_of_a_field() {
        // "/run/x/api.sock", which by the code becomes what differs by one bit.
        let path = b"/run/x/api.sock";
        let by_code = b"\x62\xcb\x6a\x63\xcb\x03\xac\xcb\xa0\xe4\xeb";
        // By Netty and by Go, which say which field it is by its place, in each of the three forms.
        for form in [0x41, 0x01, 0x11] {
            let as_it_is = read_of(&[&[form][..], &text(path)].concat()).await;
            assert_eq!(as_it_is.as_deref(), Some("-run-x-api.sock"), "{form:#x}");
            let by_code = read_of(&[&[form][..], &coded(by_code)].concat()).await;
            assert_eq!(by_code.as_deref(), Some("3run3x3api.sock"), "{form:#x}");
        }
        // By the C implementation, which writes the name out.
        let named = [&b"\x40"[..], &text(b":authority"), &text(b"run%2Fx%2Fapi.sock")].concat();
        assert_eq!(read_of(&named).await.as_deref(), Some("run-2Fx-2Fapi.sock"));
        let named = [&b"\x40"[..], &coded(b"\xb8\x3b\x53\x39\xec\x32\x7d\x7f"), &text(path)].concat();
        assert_eq!(read_of(&named).await.as_deref(), Some("-run-x-api.sock"));
        // "tmp%2fa b@x/api.sock", with codes of five to thirteen bits, and "www.example.com" of RFC 7541 §C.4.1.
        let mixed = b"\x4d\x35\xaa\x29\x46\xa4\x7f\xfa\xf2\xc0\xeb\x32\xe8\x39\x3a\xff";
        let mixed = read_of(&[&b"\x41"[..], &coded(mixed)].concat()).await;
        assert_eq!(mixed.as_deref(), Some("tmp.2fa-b@x3api.sock"));
        let plain = b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff";
        let plain = read_of(&[&b"\x41"[..], &coded(plain)].concat()).await;
        assert_eq!(plain.as_deref(), Some("www.example.com"));
        // Longer than the first byte can say.
        let long = [&b"\x41\x7f\x03"[..], &b"/a".repeat(65)].concat();
        assert_eq!(read_of(&long).await.as_deref(), Some(&*"-a".repeat(65)));
    }

    #[tokio::test(start_paused = true)]
    async fn fields_are_found_among_padding_and_over_frames() {
        let fields =
            |value: &[u8]| [b"\x3f\xe1\x1f", POST, PATH, b"\x41", &text(value), b"\x40\x01x\x03%2F"].concat();
        let all = fields(b"/run/a.sock");
        let (first, rest) = all.split_at(17);
        let padded = [&b"\x04\0\0\0\0\x10"[..], &all, b"\0\0\0\0"].concat();
        let sent = [
            BEGIN,
            &frame(HEADERS, END_STREAM | END_HEADERS | PADDED | PRIORITY, 1, &padded),
            &frame(HEADERS, END_STREAM, 3, first),
            &frame(CONTINUATION, END_HEADERS, 3, rest),
            // What both sides have in their tables by now: the whole field.
            &frame(HEADERS, END_STREAM | END_HEADERS, 5, &[POST, PATH, b"\xc0"].concat()),
        ]
        .concat();
        assert_eq!(
            read(&sent, 3).await[..2],
            [Some("-run-a.sock".to_owned()), Some("-run-a.sock".to_owned())]
        );
        for size in [1, 2, 7, sent.len()] {
            let (mut in_pieces, mut at_once) = (sent.clone(), sent.clone());
            let mut filtered = ReadableAuthority::new(());
            in_pieces.chunks_mut(size).for_each(|chunk| filtered.filter.pass(chunk));
            ReadableAuthority::new(()).filter.pass(&mut at_once);
            assert_eq!(in_pieces, at_once, "in pieces of {size}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_both_sides_have_in_their_tables_is_known_by_its_place_there() {
        // Each path goes into the table too; the second authority does, and the third does not.
        let sent = |[first, second, third, fourth]: [&[u8]; 4]| {
            let requests = [
                [&b"\x40"[..], &text(b":authority"), &text(first)].concat(),
                [&b"\x7f\0"[..], &text(second)].concat(),
                [&b"\x0f\x30"[..], &text(third)].concat(),
                // Beside it a field whose name has the first place by then, that the authority's had before.
                [&b"\x7f\x01"[..], &text(fourth), b"\x40\x01x\x01/\x7e\x03%2F\x0f\x2f\x01/"].concat(),
            ];
            let framed = [1, 3, 5, 7].into_iter().zip(requests).map(|(stream, authority)| {
                frame(HEADERS, END_STREAM | END_HEADERS, stream, &[POST, PATH, &authority].concat())
            });
            [BEGIN.to_vec(), framed.collect::<Vec<_>>().concat()].concat()
        };
        let paths = sent([b"/run/a", b"/run/b", b"/run/c", b"/run/d"]);
        let wanted: Vec<_> = ["-run-a", "-run-b", "-run-c", "-run-d"].map(str::to_owned).map(Some).into();
        assert_eq!(read(&paths, 4).await, wanted);
        let mut passed = paths.clone();
        ReadableAuthority::new(()).filter.pass(&mut passed);
        assert_eq!(passed, sent([b"-run-a", b"-run-b", b"-run-c", b"-run-d"]), "and nothing else");
    }

    #[test]
    fn nothing_but_an_authority_is_changed() {
        let fields = [POST, PATH, b"\x04\x02/%\x40\x01x\x03%2F\x40\x0b:authoritys\x01/\x40\0\x01/"].concat();
        let sent = [
            BEGIN,
            &frame(HEADERS, END_HEADERS, 1, &fields),
            // What looks like a head.
            &frame(0, END_STREAM, 1, &[&b"\x41"[..], &text(b"/a")].concat()),
            // More than there are bytes, a number that ends nowhere, padding beyond the frame, and no payload at all.
            &frame(HEADERS, END_HEADERS, 3, b"\x41\x7f\xff\xff\xff\xff\xff\xff\xff/"),
            &frame(HEADERS, END_HEADERS | PADDED, 5, b"\xff\x41\x01/"),
            &frame(HEADERS, END_HEADERS | PADDED | PRIORITY, 7, b""),
            &frame(CONTINUATION, END_HEADERS, 7, b""),
        ]
        .concat();
        let mut passed = sent.clone();
        ReadableAuthority::new(()).filter.pass(&mut passed);
        assert_eq!(passed, sent);
    }

    proptest! {
        #[test]
        fn any_bytes_pass_as_they_do_one_by_one(
            frames in proptest::collection::vec((0..10_u8, any::<u8>(), proptest::collection::vec(any::<u8>(), 0..64)), 0..8),
            beside in proptest::collection::vec(any::<u8>(), 0..64),
            size in 1..20_usize,
        ) {
            let frames = frames.iter().flat_map(|(kind, flags, payload)| frame(*kind, *flags, 1, payload));
            let sent: Vec<u8> = BEGIN.iter().copied().chain(frames).chain(beside).collect();
            let [mut at_once, mut in_pieces] = [(); 2].map(|()| sent.clone());
            ReadableAuthority::new(()).filter.pass(&mut at_once);
            let mut filtered = ReadableAuthority::new(());
            in_pieces.chunks_mut(size).for_each(|piece| filtered.filter.pass(piece));
            prop_assert_eq!(&at_once, &in_pieces);
            // What is readable stays so.
            ReadableAuthority::new(()).filter.pass(&mut in_pieces);
            prop_assert_eq!(at_once, in_pieces);
        }
    }
}
