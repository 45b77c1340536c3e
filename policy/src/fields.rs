//! Header fields and queries, as policies read them.

use std::borrow::Cow;

/// Fields that speak of one connection only (RFC 9110 §7.6.1) or of the message's framing: agents take them out or make
/// them anew.
const OF_CONNECTION: [&str; 14] = [
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "host",
    "via",
];
/// Fields that hold secrets, which must come into no record of a decision.
const SECRET: [&str; 3] = ["authorization", "cookie", "set-cookie"];
/// Names that are the agents' own to set.
const OURS: [&str; 2] = ["x-forwarded-client-cert", "x-spiffe-id"];
const OUR_PREFIXES: [&str; 2] = ["hauberk-", "x-hauberk-"];

/// Why policies cannot name a header field, and what to do instead.
pub(crate) fn why_not_listed(name: &str) -> Option<(&'static str, &'static str)> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Some(("no header field has such a name", "write a name such as \"x-tenant\""));
    }
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some(("header fields are named in lower case here", "write it in lower case"));
    }
    if name.contains('_') {
        return Some((
            "servers take \"_\" in the name of a header field for \"-\"",
            "write it with \"-\"; requests with the other spelling are denied",
        ));
    }
    if name == "host" {
        return Some(("the host is a fact of its own", "write context.host"));
    }
    if OF_CONNECTION.contains(&name) {
        return Some((
            "this field speaks of one connection, and agents do not pass it on",
            "use a field that callers send to the service",
        ));
    }
    if SECRET.contains(&name) {
        return Some((
            "this field holds secrets, which must not come into records of decisions",
            "use a field that holds none",
        ));
    }
    if OURS.contains(&name) || OUR_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        return Some((
            "agents take this field out of requests and set it themselves",
            "write principal or context.peer for who calls",
        ));
    }
    None
}

/// Whether a name is that of a header field which callers send to a service; if not, why, and what to do instead.
///
/// # Errors
/// It is not.
pub fn is_listed_header(name: &str) -> Result<(), (&'static str, &'static str)> {
    why_not_listed(name).map_or(Ok(()), Err)
}

/// Whether a field's name is a spelling of a listed one: servers are known that take every character which is neither
/// letter nor digit for the same one.
pub(crate) fn is_spelling_of(name: &str, listed: &str) -> bool {
    name.len() == listed.len()
        && name.bytes().zip(listed.bytes()).all(|(found, own)| {
            found.eq_ignore_ascii_case(&own) || !found.is_ascii_alphanumeric() && !own.is_ascii_alphanumeric()
        })
}

/// The most names with values in a query, and lines of one header field, that policies read. More are nobody's need,
/// and would be a caller's means to keep an agent busy.
const MAX_PAIRS: usize = 256;
pub(crate) const MAX_LINES: usize = 64;

/// A field's value as policies read it: none where it is not ASCII, which servers read in different ways, holds control
/// characters, tabs apart, or begins or ends with white space, which HTTP/2 forbids (RFC 9113 §8.2.1) and HTTP/1.1
/// takes away.
pub(crate) fn readable(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.is_ascii())?;
    let is_padded = text.trim_matches([' ', '\t']).len() != text.len();
    (!is_padded && !text.chars().any(|char| char.is_control() && char != '\t')).then_some(text)
}

#[cfg(test)]
thread_local! {
    /// How many queries this thread has parsed.
    pub(crate) static PARSED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// The names and values of a query, `+` and escapes decoded (URL Standard, application/x-www-form-urlencoded), in their
/// order. None where servers are known to read it in different ways: an escape that is none or not UTF-8, a NUL, a
/// character outside ASCII, or a semicolon that is not escaped. None, too, where there are more than 256.
pub(crate) fn parse_query(query: &str) -> Option<Vec<(Cow<'_, str>, Cow<'_, str>)>> {
    #[cfg(test)]
    PARSED.set(PARSED.get() + 1);
    if !query.is_ascii() || query.contains(';') {
        return None;
    }
    let pieces = || query.split('&').filter(|piece| !piece.is_empty());
    if pieces().nth(MAX_PAIRS).is_some() {
        return None;
    }
    pieces()
        .map(|piece| {
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            Some((decode(name, true)?, decode(value, true)?))
        })
        .collect()
}

/// Decodes escapes. None where one is broken, not UTF-8, or a NUL.
pub(crate) fn decode(text: &str, plus_is_space: bool) -> Option<Cow<'_, str>> {
    if !(text.contains('%') || plus_is_space && text.contains('+')) {
        return Some(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? << 4 | digit()?).ok().filter(|byte| *byte != 0)?
            }
            b'+' if plus_is_space => b' ',
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

/// A host as policies read it: in lower case, without port and last dot. What is none stays as it is.
pub fn canonical_host(authority: &str) -> String {
    let host = match authority.rsplit_once(':') {
        Some((host, _)) if !host.contains(':') || host.ends_with(']') => host,
        _ => authority,
    };
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_agents_do_not_pass_on_cannot_be_named() {
        for name in ["x-tenant", "accept", "x-request-id", "traceparent", "x-hauberkian"] {
            assert_eq!(why_not_listed(name), None, "{name}");
        }
        for name in [
            "",
            "X-Tenant",
            "x tenant",
            "x_tenant",
            "é",
            "host",
            "cookie",
            "authorization",
            "connection",
            "te",
            "content-length",
            "transfer-encoding",
            "x-forwarded-client-cert",
            "hauberk-service",
            "x-hauberk-user",
        ] {
            assert!(why_not_listed(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_query_keeps_every_value_decoded() {
        let parsed = |query: &str| {
            let pairs = parse_query(query)?;
            Some(
                pairs
                    .into_iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect::<Vec<_>>()
                    .join("|"),
            )
        };
        for (query, expected) in [
            ("", Some("")),
            ("a=1&a=2&b", Some("a=1|a=2|b=")),
            ("a+b=c%2Bd&&=x", Some("a b=c+d|=x")),
            ("a=b=c", Some("a=b=c")),
            ("%C3%A9=%26%3D%3B", Some("é=&=;")),
            ("a=%", None),
            ("a=%4", None),
            ("a=%zz", None),
            ("a=%ff", None),
            ("a=%00", None),
            ("a=1;b=2", None),
            ("a=é", None),
        ] {
            assert_eq!(parsed(query).as_deref(), expected, "{query}");
        }
        assert!(parsed(&"a&".repeat(MAX_PAIRS)).is_some());
        assert!(parsed(&"a&".repeat(MAX_PAIRS + 1)).is_none());
    }

    #[test]
    fn a_host_has_one_spelling() {
        for (authority, host) in [
            ("Orders.Shop:8080", "orders.shop"),
            ("orders.shop.", "orders.shop"),
            ("orders.shop.:80", "orders.shop"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("10.0.0.1", "10.0.0.1"),
            ("", ""),
        ] {
            assert_eq!(canonical_host(authority), host, "{authority}");
        }
    }

    #[test]
    fn other_spellings_of_a_field_are_known() {
        for (name, is_one) in [
            ("x-tenant", true),
            ("X_TENANT", true),
            ("x.tenant", true),
            ("x-tenants", false),
            ("xxtenant", false),
        ] {
            assert_eq!(is_spelling_of(name, "x-tenant"), is_one, "{name}");
        }
        assert_eq!(readable(b"a\tb"), Some("a\tb"));
        assert_eq!(readable(b"a\x01"), None);
        assert_eq!(readable(b"\xff"), None);
        assert_eq!(readable("é".as_bytes()), None);
    }
}
