//! The framing of HTTP/1.1 requests, followed line by line.

use http::Uri;

use super::{HEAD_TOO_LONG, MAX_FIELDS, MAX_HEAD, TOO_MANY_FIELDS};

/// Follows the framing of a sequence of requests.
#[derive(Debug)]
pub(super) struct Scanner {
    /// The longest head.
    max_head: usize,
    state: State,
    /// The beginning of a line whose end has not come yet.
    carry: Vec<u8>,
    /// Bytes of this head, chunk line or trailer section so far.
    section: usize,
    head: Head,
    has_begun: bool,
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
    fields: usize,
}

/// The bytes cannot be taken for one sequence of requests only, for the reason of this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault(pub(super) &'static str);

const NOT_CRLF: Fault = Fault("ambiguous_line_end");
const FIELD: Fault = Fault("malformed_header");
const LENGTH: Fault = Fault("ambiguous_content_length");
const CODING: Fault = Fault("ambiguous_transfer_encoding");
const CHUNK: Fault = Fault("malformed_chunk");

impl Scanner {
    /// Nothing has come yet. `max_head` is the longest head, in bytes.
    pub(super) fn new(max_head: usize) -> Self {
        let (state, head) = (State::default(), Head::default());
        Self { max_head, state, carry: Vec::new(), section: 0, head, has_begun: false }
    }

    /// Whether a first request has begun: empty lines before it begin nothing.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether a head, a chunk line or a trailer section has begun and not ended.
    pub(super) fn is_amid_section(&self) -> bool {
        self.section > 0
    }

    /// Whether a request has begun and not ended.
    pub(super) fn is_amid_request(&self) -> bool {
        self.is_amid_section() || !matches!(self.state, State::RequestLine)
    }

    /// Whether a request's head has ended, and the request has not.
    pub(super) fn is_amid_body(&self) -> bool {
        !matches!(self.state, State::RequestLine | State::HeaderLine)
    }

    /// The index of the byte at which the bytes became unacceptable, and why.
    pub(super) fn first_fault(&mut self, bytes: &[u8]) -> Option<(usize, Fault)> {
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
                    Err((offset, fault)) => return Some((at + offset, fault)),
                },
            };
            at += taken;
        }
        None
    }

    /// Takes one line, or the part of it that has come. Answers how many bytes, or which byte is the fault.
    fn take_line(&mut self, rest: &[u8]) -> Result<usize, (usize, Fault)> {
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            self.section += rest.len();
            if self.section > self.longest() {
                return Err((0, Fault(HEAD_TOO_LONG)));
            }
            self.carry.extend_from_slice(rest);
            self.has_begun |= *self.carry != *b"\r";
            return Ok(rest.len());
        };
        self.section += end + 1;
        if self.section > self.longest() {
            return Err((end, Fault(HEAD_TOO_LONG)));
        }
        let part = rest.get(..end).unwrap_or_default();
        let outcome = if self.carry.is_empty() {
            self.on_line(part)
        } else {
            let mut line = std::mem::take(&mut self.carry);
            line.extend_from_slice(part);
            self.on_line(&line)
        };
        outcome.map(|()| end + 1).map_err(|fault| (end, fault))
    }

    /// How long this head, chunk line or trailer section may be.
    fn longest(&self) -> usize {
        match self.state {
            State::RequestLine | State::HeaderLine => self.max_head,
            _ => 2 * MAX_HEAD,
        }
    }

    fn on_line(&mut self, line: &[u8]) -> Result<(), Fault> {
        let line = line.strip_suffix(b"\r").ok_or(NOT_CRLF)?;
        if line.contains(&b'\r') {
            return Err(NOT_CRLF);
        }
        if line.contains(&0) {
            return Err(FIELD);
        }
        match self.state {
            // RFC 9112 §2.2: an empty line before the request line is ignored.
            State::RequestLine if line.is_empty() => self.section = 0,
            // The URI parser that hyper uses would drop a fragment, and with it the path that another server reads.
            State::RequestLine if line.contains(&b'#') => return Err(Fault("fragment_in_target")),
            State::RequestLine => {
                let target = target_of(line).ok_or(Fault("malformed_request"))?;
                if !is_read_as_uri(target) {
                    return Err(Fault("ambiguous_path"));
                }
                self.has_begun = true;
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
            State::ChunkEnd | State::Body(_) | State::Chunk(_) => return Err(CHUNK),
        }
        Ok(())
    }

    fn on_header(&mut self, line: &[u8]) -> Result<(), Fault> {
        let (name, value) = field(line)?;
        self.head.fields += 1;
        if self.head.fields > MAX_FIELDS {
            return Err(Fault(TOO_MANY_FIELDS));
        }
        // Servers in the tradition of CGI cannot tell `_` from `-`, so both spellings count, and only one is let by.
        if is_spelling_of(name, b"content-length") {
            let length = decimal(value).ok_or(LENGTH)?;
            if name.contains(&b'_') || self.head.content_length.replace(length).is_some() {
                return Err(LENGTH);
            }
        } else if is_spelling_of(name, b"transfer-encoding") {
            if name.contains(&b'_') || self.head.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(CODING);
            }
            self.head.is_chunked = true;
        } else if is_spelling_of(name, b"host") && std::mem::replace(&mut self.head.has_host, true) {
            return Err(Fault("ambiguous_host"));
        }
        Ok(())
    }

    fn end_of_head(&mut self) -> Result<(), Fault> {
        self.state = match (self.head.is_chunked, self.head.content_length) {
            (true, Some(_)) => return Err(CODING),
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
    let colon = line.iter().position(|byte| *byte == b':').ok_or(FIELD)?;
    let (name, value) = line.split_at_checked(colon).ok_or(FIELD)?;
    let value = value.get(1..).unwrap_or_default();
    if !is_token(name) || value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(FIELD);
    }
    Ok((name, value.trim_ascii()))
}

/// The target of a line that has a method, a target and one of the versions that there are. hyper refuses others too,
/// and says nothing of it.
fn target_of(line: &[u8]) -> Option<&[u8]> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (method, target, version) = (parts.next(), parts.next(), parts.next());
    let is_target = |target: &[u8]| !target.is_empty() && !target.iter().any(|byte| byte.is_ascii_control());
    let is_whole = method.is_some_and(is_token)
        && matches!(version, Some(b"HTTP/1.1" | b"HTTP/1.0"))
        && parts.next().is_none();
    target.filter(|target| is_whole && is_target(target))
}

/// Whether a target is one to hyper, which says nothing of others either. Ordinary ones cost no copy.
fn is_read_as_uri(target: &[u8]) -> bool {
    let path = target.strip_prefix(b"http://").map_or(target, |absolute| {
        let is_of_authority = |byte: &u8| byte.is_ascii_alphanumeric() || b"-.".contains(byte);
        let name = absolute.iter().take_while(|byte| is_of_authority(byte)).count();
        let (name, rest) = absolute.split_at_checked(name).unwrap_or_default();
        let digits = match rest.split_first() {
            Some((b':', port)) => 1 + port.iter().take_while(|byte| byte.is_ascii_digit()).count(),
            _ => 0,
        };
        let rest = rest.get(digits..).unwrap_or_default();
        Some(rest).filter(|_| !name.is_empty() && digits != 1).unwrap_or_default()
    });
    let is_ordinary = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-._~%?&=+:,@!$'()*;".contains(byte);
    path.starts_with(b"/") && path.iter().all(is_ordinary) || Uri::try_from(target).is_ok()
}

/// Whether it is a `token` (RFC 9110 §5.6.2).
fn is_token(text: &[u8]) -> bool {
    let is_of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(is_of_token)
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
    let (digits, rest) = line.split_at_checked(digits).ok_or(CHUNK)?;
    if !(rest.is_empty() || rest.trim_ascii_start().starts_with(b";")) {
        return Err(CHUNK);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| CHUNK)?;
    u64::from_str_radix(digits, 16).map_err(|_| CHUNK)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the bytes pass, whole and however they are cut.
    fn passes(bytes: &[u8]) -> bool {
        let whole = Scanner::new(MAX_HEAD).first_fault(bytes).is_none();
        for step in [1, 2, 3, 7] {
            let mut scanner = Scanner::new(MAX_HEAD);
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
    fn empty_lines_begin_no_request() {
        let mut scanner = Scanner::new(MAX_HEAD);
        for (bytes, has_begun) in [(&b"\r"[..], false), (b"\n\r\n\r", false), (b"\nG", true), (b"ET", true)] {
            assert!(scanner.first_fault(bytes).is_none());
            assert_eq!(scanner.has_begun(), has_begun, "{bytes:?}");
        }
        let mut scanner = Scanner::new(MAX_HEAD);
        assert!(
            scanner.first_fault(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").is_none() && scanner.has_begun()
        );
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

    #[test]
    fn ordinary_targets_are_what_the_library_takes() {
        for target in [
            "/",
            "/a?b=%20&c",
            "/a;b",
            "*",
            "http://orders",
            "http://orders/",
            "http://orders:80/a?b",
            "http://or-d.x:80",
            "orders:443",
            "orders",
            "http://[::1]:80/",
            "https://a/",
            "/{a}|\"",
            "/\u{e4}",
        ] {
            assert!(is_read_as_uri(target.as_bytes()), "{target}");
            assert!(Uri::try_from(target).is_ok(), "{target}");
        }
        for target in [
            &b"?x"[..],
            b"a/b",
            b"/\xff",
            b"/?\xe4",
            b"/<",
            b"/a?`\x7f",
            b"http:///a",
            b"http://a:b:c/",
            b"http://:80/",
            b"://",
            b"http://a b/",
        ] {
            assert_eq!(is_read_as_uri(target), Uri::try_from(target).is_ok(), "{target:?}");
        }
        for target in [&b"?x"[..], b"a/b", b"/\xff"] {
            assert!(!is_read_as_uri(target), "{target:?}");
        }
    }

    #[test]
    fn names_what_is_wrong() {
        for (bytes, reason) in [
            (&b"GET / HTTP/1.1\nHost: a\r\n\r\n"[..], "ambiguous_line_end"),
            (b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", "ambiguous_line_end"),
            (b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", "malformed_header"),
            (b"GET / HTTP/1.1\r\nHost: a\0\r\n\r\n", "malformed_header"),
            (b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", "ambiguous_host"),
            (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "fragment_in_target"),
            (b"GET ?x HTTP/1.1\r\nHost: a\r\n\r\n", "ambiguous_path"),
            (b"GET a/b HTTP/1.1\r\nHost: a\r\n\r\n", "ambiguous_path"),
            (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", "ambiguous_path"),
            (
                b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                "ambiguous_transfer_encoding",
            ),
            (
                b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
                "ambiguous_content_length",
            ),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", "malformed_chunk"),
        ] {
            let found = Scanner::new(MAX_HEAD).first_fault(bytes).map(|(_, Fault(reason))| reason);
            assert_eq!(found, Some(reason), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_head_has_so_many_fields_and_bytes() {
        let fault = |head: &str| {
            let found = Scanner::new(MAX_HEAD).first_fault(head.as_bytes()).map(|(_, Fault(reason))| reason);
            assert_eq!(passes(head.as_bytes()), found.is_none());
            found
        };
        let fields = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
        assert_eq!(fault(&fields(MAX_FIELDS)), None);
        assert_eq!(fault(&fields(MAX_FIELDS + 1)), Some(TOO_MANY_FIELDS));
        // Each head is counted by itself.
        assert_eq!(fault(&fields(MAX_FIELDS).repeat(2)), None);
        let long = |length: usize| format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "b".repeat(length - 23));
        assert_eq!(fault(&long(MAX_HEAD)), None);
        assert_eq!(fault(&long(MAX_HEAD + 1)), Some(HEAD_TOO_LONG));
    }
}
