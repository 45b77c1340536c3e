//! What is known of a question besides who asks for what: where the caller is, when it is, and what of a request's
//! head was gathered.

use std::net::IpAddr;
use std::sync::Arc;

use hauberk_identity::UnixMillis;

use crate::fields::{MAX_LINES, canonical_host, is_spelling_of, readable};
use crate::reads::{Fact, FactSet};
use crate::user::OnBehalfOf;

/// What is known of a caller's connection and does not change while it lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    address: Option<IpAddr>,
    tls: Option<Tls>,
}

/// What a TLS handshake negotiated.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tls {
    /// The protocol's version, such as `TLSv1.3`.
    pub version: Arc<str>,
    /// The group of the key exchange, such as `X25519MLKEM768`.
    pub group: Arc<str>,
}

/// What changes while a connection lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The time of the decision.
    pub time: UnixMillis,
    /// The first instant at which the certificate that the caller proved last is valid; none where it showed none.
    pub certificate_since: Option<UnixMillis>,
}

/// What of a request must be gathered because policies read it. See [`Engine::wanted`](crate::Engine::wanted).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    pub(crate) host: bool,
    pub(crate) headers: Arc<[Arc<str>]>,
    /// Whom it is made for.
    pub(crate) user: bool,
}

/// What of a request was gathered, besides its method and path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gathered {
    host: Option<Box<str>>,
    headers: Vec<HeaderLines>,
    on_behalf_of: OnBehalfOf,
}

/// All lines of one header field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderLines {
    /// The field's name.
    pub name: Arc<str>,
    /// The lines' values in their order, as sent; none where one of them cannot be read, there are more than 64, or the
    /// name was spelled in another way too.
    pub values: Option<Vec<Box<str>>>,
}

impl Peer {
    /// A caller at this address, if that is known.
    pub fn new(address: Option<IpAddr>, tls: Option<Tls>) -> Self {
        // A socket for both families shows IPv4 addresses inside IPv6 ones, which no IPv4 range holds.
        Self { address: address.map(|address| address.to_canonical()), tls }
    }

    /// Where it is, if that is known.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// What was negotiated, where it speaks TLS.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// The same without what is not read.
    pub(crate) fn as_read(&self, reads: FactSet) -> Self {
        Self {
            address: self.address.filter(|_| reads.contains(Fact::Address)),
            tls: self.tls.clone().filter(|_| reads.contains(Fact::Tls)),
        }
    }
}

impl Moment {
    /// Seconds since the certificate's first instant.
    pub fn certificate_age(&self) -> Option<u64> {
        self.certificate_since.map(|since| self.time.since(since).as_secs())
    }
}

impl Wanted {
    /// Gathers it from what a request's head says: its host, with or without port, and all lines of its header fields.
    pub fn gather<'h>(&self, host: &str, fields: impl IntoIterator<Item = (&'h str, &'h [u8])>) -> Gathered {
        let host = self.host.then(|| canonical_host(host).into());
        let lines = |name: &Arc<str>| HeaderLines { name: Arc::clone(name), values: Some(Vec::new()) };
        let mut headers: Vec<_> = self.headers.iter().map(lines).collect();
        if !headers.is_empty() {
            for (name, value) in fields {
                // Of several listed names that are spellings of each other each is told: the field is one of them, and
                // spoils the others.
                for lines in headers.iter_mut().filter(|lines| is_spelling_of(name, &lines.name)) {
                    let value = readable(value).filter(|_| name.eq_ignore_ascii_case(&lines.name));
                    match (value, &mut lines.values) {
                        (Some(value), Some(values)) if values.len() < MAX_LINES => values.push(value.into()),
                        _ => lines.values = None,
                    }
                }
            }
        }
        Gathered { host, headers, on_behalf_of: OnBehalfOf::NotLookedAt }
    }

    /// Whether it must be told for whom a request is made.
    pub fn user(&self) -> bool {
        self.user
    }
}

impl Gathered {
    /// Nothing.
    pub fn nothing() -> &'static Self {
        static NOTHING: Gathered =
            Gathered { host: None, headers: Vec::new(), on_behalf_of: OnBehalfOf::NotLookedAt };
        &NOTHING
    }

    /// What was recorded of a former request.
    pub fn recorded(host: Option<String>, headers: Vec<HeaderLines>) -> Self {
        Self { host: host.map(Into::into), headers, on_behalf_of: OnBehalfOf::NotLookedAt }
    }

    /// The same, made for somebody.
    #[must_use]
    pub fn made_for(self, on_behalf_of: OnBehalfOf) -> Self {
        Self { on_behalf_of, ..self }
    }

    /// The same without these header fields, as if nobody had looked for them.
    #[must_use]
    pub fn without_fields(mut self, is_left_out: impl Fn(&str) -> bool) -> Self {
        self.headers.retain(|lines| !is_left_out(&lines.name));
        self
    }

    /// Whom it is made for.
    pub fn on_behalf_of(&self) -> &OnBehalfOf {
        &self.on_behalf_of
    }

    /// The host, in lower case and without port; empty where the request named none. None where it was not gathered.
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// The header fields that were looked for.
    pub fn headers(&self) -> &[HeaderLines] {
        &self.headers
    }

    /// Whether the field was looked for, or is another spelling of one that was.
    pub fn looked_for(&self, name: &str) -> bool {
        self.headers.iter().any(|lines| is_spelling_of(name, &lines.name))
    }

    pub(crate) fn field(&self, name: &str) -> Option<&HeaderLines> {
        self.headers.iter().find(|lines| *lines.name == *name)
    }

    /// About how many bytes it holds, the user aside.
    pub fn size(&self) -> usize {
        let lines = self.headers.iter().flat_map(|lines| lines.values.iter().flatten());
        self.host().unwrap_or_default().len() + lines.map(|value| value.len()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_listed_field_is_a_value_as_sent() {
        let wanted = Wanted {
            host: true,
            headers: ["x-tenant".into(), "accept".into(), "x-none".into()].into(),
            user: false,
        };
        let fields: [(&str, &[u8]); 5] = [
            ("x-tenant", b"blue, green"),
            ("x-other", b"x"),
            ("X-Tenant", b"red"),
            ("accept", b"a"),
            ("accept", b"\xff"),
        ];
        let gathered = wanted.gather("Orders.shop:80", fields);
        assert_eq!(gathered.host(), Some("orders.shop"));
        let values = |name| gathered.field(name).unwrap().values.as_ref().map(|values| values.join("|"));
        assert_eq!(values("x-tenant").as_deref(), Some("blue, green|red"));
        assert_eq!(values("accept"), None, "a value that is no text spoils the field");
        assert_eq!(values("x-none").as_deref(), Some(""));
        assert_eq!(gathered.field("x-other"), None);
        let spelled = wanted.gather("", [("x-tenant", &b"blue"[..]), ("x_tenant", b"red")]);
        assert_eq!(spelled.field("x-tenant").unwrap().values, None, "servers may read either");
        for listed in [["x-api", "x.api"], ["x.api", "x-api"]] {
            let wanted = Wanted { headers: listed.map(Into::into).into(), ..Wanted::default() };
            let gathered = wanted.gather("", [("x.api", &b"1"[..])]);
            let values = |name| gathered.field(name).unwrap().values.as_ref().map(|values| values.join("|"));
            assert_eq!((values("x.api").as_deref(), values("x-api")), (Some("1"), None), "{listed:?}");
        }
        let many = wanted.gather("", std::iter::repeat_n(("accept", &b"a"[..]), MAX_LINES + 1));
        assert_eq!(many.field("accept").unwrap().values, None);
    }

    #[test]
    fn what_is_not_read_of_a_peer_does_not_tell_it_from_others() {
        let tls = Tls { version: "TLSv1.3".into(), group: "X25519".into() };
        let peer = Peer::new(Some("10.0.0.1".parse().unwrap()), Some(tls));
        assert_eq!(peer.as_read(FactSet::of(&[Fact::Path])), Peer::new(None, None));
        assert_eq!(peer.as_read(FactSet::of(&[Fact::Address])), Peer::new(peer.address(), None));
        assert_eq!(peer.as_read(FactSet::of(&[Fact::Tls])), Peer::new(None, peer.tls().cloned()));
    }

    #[test]
    fn an_address_has_one_spelling() {
        let peer = |text: &str| Peer::new(Some(text.parse().unwrap()), None);
        assert_eq!(peer("::ffff:10.0.0.1"), peer("10.0.0.1"));
    }
}
