//! A place in the web that an admin names and the control plane asks: what such a URL may be, and at which addresses.

use std::fmt;
use std::net::IpAddr;

use hauberk_policy::{Locality, locality};
use hauberk_tls::is_dns_name;

/// The port of `https` URLs that name none.
const HTTPS: u16 = 443;

/// The lowest other port: below it other protocols live, which are nothing to speak TLS to. Whoever writes resources could otherwise
/// have the control plane knock at mail servers and the like of its own network.
const LOWEST_OTHER_PORT: u16 = 1024;

/// The longest URL, in bytes.
const LONGEST_URL: usize = 2_048;

/// Where something is served that others publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebEndpoint {
    url: EndpointUrl,
    allows_private: bool,
}

/// An `https` URL without user or fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointUrl {
    host: String,
    port: u16,
    /// The path, and the query where there may be one.
    target: String,
}

/// Whether a URL may have a query.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Query {
    Taken,
    Refused,
}

impl WebEndpoint {
    /// Reads a URL, whose host may or may not have addresses inside of private networks. It may have a query: issuers tell
    /// their tenants apart by it, and bundle endpoints may (SPIFFE Federation §5.2.1.1).
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(crate) fn parse(url: &str, allows_private: bool) -> Result<Self, String> {
        Ok(Self { url: EndpointUrl::parse(url, Query::Taken)?, allows_private })
    }

    /// The same of an issuer's own URL, which has no query (OpenID Connect Discovery 1.0 §2).
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(super) fn of_issuer(url: &str, allows_private: bool) -> Result<Self, String> {
        Ok(Self { url: EndpointUrl::parse(url, Query::Refused)?, allows_private })
    }

    /// Another URL that is served by the same host, on the same port: of keys.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn beside(&self, url: &str) -> Result<Self, String> {
        let url = EndpointUrl::parse(url, Query::Taken)?;
        if (&url.host, url.port) != (&self.url.host, self.url.port) {
            return Err(format!("it is not on {}", self.url.authority()));
        }
        Ok(Self { url, ..self.clone() })
    }

    /// Its URL.
    pub fn url(&self) -> &EndpointUrl {
        &self.url
    }

    /// Whether it may be asked at this address. The names in URLs are resolved by servers of others, who could name any
    /// address in our own network. Never link-local ones: there clouds serve their machines' secrets.
    pub fn may_be_at(&self, address: IpAddr) -> bool {
        match locality(address) {
            Locality::Public => true,
            Locality::Inside => self.allows_private,
            Locality::Special => false,
        }
    }

    /// Whether it is not asked at this address whatever the resource says.
    pub fn is_never_at(&self, address: IpAddr) -> bool {
        matches!(locality(address), Locality::Special)
    }
}

impl EndpointUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// Says what is wrong with it.
    fn parse(text: &str, query: Query) -> Result<Self, String> {
        let wrong =
            |what: &str| Err(format!("{what}: a URL such as https://bundles.partner.example/ is needed"));
        if text.len() > LONGEST_URL {
            return wrong("it is longer than 2048 bytes");
        }
        let Ok(uri) = text.parse::<http::Uri>() else { return wrong("it is no URL") };
        let Some(authority) = uri.authority() else { return wrong("it has no host") };
        if uri.scheme_str() != Some("https") {
            return wrong("it is not https");
        }
        if authority.as_str().contains('@') || text.contains('#') {
            return wrong("it has a user or a fragment");
        }
        match uri.query() {
            Some(_) if query == Query::Refused => return wrong("it has a query"),
            Some(own) if !own.bytes().all(|byte| byte.is_ascii_graphic()) => {
                return wrong("its query holds what has to be escaped");
            }
            _ => {}
        }
        // An address of IPv6 stands in brackets.
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if bare.parse::<IpAddr>().is_err() && !is_dns_name(bare) {
            return wrong("its host is neither a DNS name nor an IP address");
        }
        let port = match authority.port() {
            None if authority.as_str() == host => HTTPS,
            Some(port) if port.as_u16() == HTTPS || port.as_u16() >= LOWEST_OTHER_PORT => port.as_u16(),
            _ => return wrong("its port is neither 443 nor one from 1024 to 65535"),
        };
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let target = format!("{}{query}", uri.path());
        Ok(Self { host: bare.to_ascii_lowercase(), port, target })
    }

    /// The DNS name or IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path, which begins with a slash, and the query, if there is one.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// What stands between the scheme and the path.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == HTTPS { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.authority(), self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_https_urls_are_taken() {
        let good = [
            ("https://a.example", "https://a.example/", 443),
            ("https://A.example:443/x/y", "https://a.example/x/y", 443),
            ("https://a.example:8443/", "https://a.example:8443/", 8443),
            ("https://[2001:db8::1]:8443/b", "https://[2001:db8::1]:8443/b", 8443),
            ("https://192.0.2.7/", "https://192.0.2.7/", 443),
        ];
        for (text, shown, port) in good {
            for query in [Query::Refused, Query::Taken] {
                let url = EndpointUrl::parse(text, query).unwrap();
                assert_eq!((url.to_string().as_str(), url.port()), (shown, port));
            }
        }
        let of_six = EndpointUrl::parse("https://[2001:db8::1]/", Query::Refused).unwrap();
        assert_eq!(of_six.host(), "2001:db8::1");
        for text in [
            "http://a.example/",
            "https://",
            "https:///x",
            "a.example",
            "file:///etc/passwd",
            "https://user@a.example/",
            "https://user:secret@a.example/",
            "https://a.example/#x",
            "https://a.example/?x=1#y",
            "https://user@a.example/?x=1",
            "https://a.example/?x= 1",
            "https://a.example/?x=\u{e9}",
            "https://a.example?@b.example/#",
            "https://a.example:22/",
            "https://a.example:0/",
            "https://a.example:/",
            "https://a.example:99999/",
            "https://a_b.example/",
            "https://a.example\\@b.example/",
            "https://a.example /",
            "",
        ] {
            for query in [Query::Refused, Query::Taken] {
                assert!(EndpointUrl::parse(text, query).is_err(), "{text}");
            }
        }
    }

    #[test]
    fn all_but_issuers_themselves_may_be_told_apart_by_a_query() {
        for (text, target) in [
            (
                "https://a.example/t/discovery/v2.0/keys?p=b2c_1_sign-in",
                "/t/discovery/v2.0/keys?p=b2c_1_sign-in",
            ),
            ("https://a.example?x=1", "/?x=1"),
            ("https://a.example/?", "/?"),
            ("https://a.example/k?u=user@b.example", "/k?u=user@b.example"),
        ] {
            assert!(WebEndpoint::of_issuer(text, false).is_err(), "{text}");
            let url = WebEndpoint::parse(text, false).unwrap().url;
            assert_eq!((url.host(), url.target()), ("a.example", target));
            assert_eq!(url.to_string(), format!("https://a.example{target}"));
        }
    }

    #[test]
    fn beside_an_endpoint_is_what_its_own_host_serves_on_its_own_port() {
        let endpoint = WebEndpoint::parse("https://a.example:8443/x", true).unwrap();
        let other = endpoint.beside("https://A.example:8443/y").unwrap();
        assert_eq!(other.url().to_string(), "https://a.example:8443/y");
        let other = endpoint.beside("https://a.example:8443/keys?p=x").unwrap();
        assert_eq!(other.url().target(), "/keys?p=x");
        assert!(other.may_be_at("127.0.0.1".parse().unwrap()), "with the same addresses");
        for elsewhere in [
            "https://a.example/y",
            "https://b.example:8443/y",
            "http://a.example:8443/y",
            "/y",
            "https://a.example:8443@b.example/y",
        ] {
            assert!(endpoint.beside(elsewhere).is_err(), "{elsewhere}");
        }
    }

    #[test]
    fn endpoints_are_not_asked_inside_our_own_network_unless_that_is_allowed() {
        let endpoint = |allows_private| WebEndpoint::parse("https://a.example/", allows_private).unwrap();
        let (outside, inside) = (["1.1.1.1", "2606:4700::1111"], ["127.0.0.1", "10.1.2.3", "::1", "fd00::1"]);
        let never = ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "0.0.0.0"];
        let may = |allows, address: &str| endpoint(allows).may_be_at(address.parse().unwrap());
        for address in outside {
            assert!(may(false, address) && may(true, address), "{address}");
        }
        for address in inside {
            assert!(!may(false, address) && may(true, address), "{address}");
        }
        for address in never {
            assert!(!may(false, address) && !may(true, address), "{address}");
        }
    }
}
