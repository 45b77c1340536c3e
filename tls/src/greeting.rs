//! What a client of TLS says first, for those who pass the stream on without ending TLS themselves.

mod raw;

use raw::RawHello;
use rustls::server::Acceptor;

/// The longest beginning that is waited for, in bytes: post-quantum key shares take some 1,200, and records hold 16 KiB.
pub const MAX_GREETING: usize = 64 * 1024;

/// What the bytes are that a client has sent so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Greeting {
    /// More are needed.
    Incomplete,
    /// Not the beginning of TLS.
    NotTls,
    /// A whole ClientHello, with the host that it asks for, in lower case, if it does (RFC 6066 §3).
    Hello(Option<String>),
    /// A whole ClientHello in which another one is encrypted (RFC 9849), with a host that only the server can read; or one that
    /// only looks like it (GREASE, §6.2), which nobody but the server can tell apart.
    HidesAnother,
}

impl Greeting {
    /// Reads what has come.
    pub fn of(bytes: &[u8]) -> Self {
        match (Self::by_rustls(bytes), RawHello::of(bytes)) {
            (Self::Hello(_) | Self::NotTls, Some(raw)) if raw.hides_another => Self::HidesAnother,
            (Self::Hello(host), Some(raw)) if raw.asks_for(host.as_deref()) => Self::Hello(host),
            // Where two read two things, nobody knows what the server reads.
            (Self::Hello(_), _) => Self::NotTls,
            (other, _) => other,
        }
    }

    fn by_rustls(bytes: &[u8]) -> Self {
        let mut acceptor = Acceptor::default();
        let mut rest = bytes;
        loop {
            // What is not taken at once is taken after what came before was looked at.
            let taken = match acceptor.read_tls(&mut rest) {
                Ok(taken) => taken,
                Err(_) => return Self::NotTls,
            };
            match acceptor.accept() {
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    return Self::Hello(hello.server_name().map(str::to_ascii_lowercase));
                }
                Ok(None) if taken > 0 && !rest.is_empty() => {}
                Ok(None) if bytes.len() >= MAX_GREETING => return Self::NotTls,
                Ok(None) => return Self::Incomplete,
                Err(_) => return Self::NotTls,
            }
        }
    }
}

#[cfg(test)]
mod tests;
