//! What a client of TLS says first, for those who pass the stream on without ending TLS themselves.

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
}

impl Greeting {
    /// Reads what has come.
    pub fn of(bytes: &[u8]) -> Self {
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
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    fn hello(name: &str) -> Vec<u8> {
        crate::install_provider();
        let config =
            ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_hello_says_whom_it_is_for() {
        let bytes = hello("Api.Partner.example");
        assert_eq!(Greeting::of(&bytes), Greeting::Hello(Some("api.partner.example".to_owned())));
        assert_eq!(Greeting::of(&hello("192.0.2.7")), Greeting::Hello(None));
        for end in [0, 1, 5, 6, bytes.len() / 2, bytes.len() - 1] {
            assert_eq!(Greeting::of(&bytes[..end]), Greeting::Incomplete, "{end}");
        }
    }

    #[test]
    fn what_is_no_tls_is_known_as_soon_as_it_cannot_be() {
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"SSH-2.0-x\r\n", &[0; 16]] {
            assert_eq!(Greeting::of(bytes), Greeting::NotTls, "{bytes:?}");
        }
    }
}
