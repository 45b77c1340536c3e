//! A ClientHello as it stands in its records (RFC 8446 §4.1.2 and §5.1), as far as rustls does not tell of it.

use std::net::IpAddr;

/// The type of records that hold handshake messages, of such a message, and of a server's name.
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const HOST_NAME: u8 = 0;
/// The extensions `server_name` (RFC 6066 §3), `encrypted_client_hello` (RFC 9849), and what came before that, which has another
/// server's name encrypted too.
const SERVER_NAME: usize = 0;
const HIDDEN: [usize; 2] = [0xfe0d, 0xffce];

/// What stands there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RawHello {
    server_name: Option<String>,
    /// Another hello, or a server's name, is encrypted in it; or something that looks like it.
    pub(super) hides_another: bool,
}

/// What is left to be read.
#[derive(Clone, Copy)]
struct Rest<'a>(&'a [u8]);

impl RawHello {
    /// Reads the message that begins these records; none where it is not whole, or not as it should be.
    pub(super) fn of(records: &[u8]) -> Option<Self> {
        let message = message(Rest(records))?;
        let mut body = Rest(&message);
        // Version and random.
        body.take(2 + 32)?;
        let _session_id = body.vector(1)?;
        let _cipher_suites = body.vector(2)?;
        let _compression_methods = body.vector(1)?;
        let mut hello = Self { server_name: None, hides_another: false };
        if body.is_empty() {
            return Some(hello);
        }
        let mut extensions = body.vector(2)?;
        if !body.is_empty() {
            return None;
        }
        while !extensions.is_empty() {
            let kind = extensions.number(2)?;
            let content = extensions.vector(2)?;
            hello.hides_another |= HIDDEN.contains(&kind);
            if kind == SERVER_NAME && hello.server_name.replace(host_name(content)?).is_some() {
                return None;
            }
        }
        Some(hello)
    }

    /// Whether this is the host that it asks for. An address is none (RFC 6066 §3).
    pub(super) fn asks_for(&self, host: Option<&str>) -> bool {
        let named = self.server_name.as_deref().filter(|name| name.parse::<IpAddr>().is_err());
        match (named, host) {
            (Some(named), Some(host)) => named.eq_ignore_ascii_case(host),
            (named, host) => named == host,
        }
    }
}

/// The first handshake message, without its head, put together of its records.
fn message(mut records: Rest<'_>) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        let mut head = Rest(&message);
        if let (Some(kind), Some(length)) = (head.number(1), head.number(3)) {
            if kind != usize::from(CLIENT_HELLO) {
                return None;
            }
            if let Some(body) = head.take(length) {
                return Some(body.to_vec());
            }
        }
        if records.number(1)? != usize::from(HANDSHAKE) {
            return None;
        }
        let _version = records.take(2)?;
        let fragment = records.vector(2)?;
        if fragment.is_empty() {
            return None;
        }
        message.extend_from_slice(fragment.0);
    }
}

/// The one host of the extension `server_name`. Other kinds of names are not defined.
fn host_name(mut content: Rest<'_>) -> Option<String> {
    let mut names = content.vector(2)?;
    let kind = names.number(1)?;
    let name = names.vector(2)?;
    let is_whole = content.is_empty() && names.is_empty() && kind == usize::from(HOST_NAME);
    is_whole.then(|| String::from_utf8(name.0.to_vec()).ok()).flatten()
}

impl<'a> Rest<'a> {
    fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of so many bytes.
    fn number(&mut self, bytes: usize) -> Option<usize> {
        let taken = self.take(bytes)?;
        Some(taken.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// What stands behind its own length, which takes so many bytes.
    fn vector(&mut self, bytes: usize) -> Option<Self> {
        let length = self.number(bytes)?;
        self.take(length).map(Self)
    }
}
