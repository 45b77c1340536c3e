//! Where header fields are stripped that must not cross an agent: those that speak of one connection only (RFC 9110
//! §7.6.1), and those whose names are ours to set.

mod authority;

use hauberk_policy::{AmbiguousPath, CanonicalPath, EscapedSlashes};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{InvalidUri, PathAndQuery};
use http::{Method, Request, Response, Version};
use thiserror::Error;

use super::strict::is_spelling_of;
pub(crate) use authority::{host, split_host};

/// Names the virtual service that a request is for; set by the caller's agent.
pub(crate) const SERVICE: HeaderName = HeaderName::from_static("hauberk-service");
/// The id of the decision that denied a request.
pub(crate) const DECISION: HeaderName = HeaderName::from_static("hauberk-decision");
/// Why an agent, not the app, answered with an error: one stable word.
pub(crate) const ERROR: HeaderName = HeaderName::from_static("hauberk-error");
/// For which user a request is made: between agents the user's token and who passed it on, between agent and app a
/// handle.
pub(crate) const IDENTITY: HeaderName = HeaderName::from_static("hauberk-identity");
/// Says who called, in Envoy's format; set by the app's own agent.
pub(crate) const CLIENT_CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// How a gRPC call ended, among headers or trailers.
pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
const UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");
/// Says that a connection over HTTP/1.1 ends with this message.
pub(crate) const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// What a request's headers said to the agent itself, now that they are ready to be passed on.
#[derive(Debug, Default)]
pub(crate) struct RequestHead {
    /// The service named in `hauberk-service`, if any.
    pub(crate) service: Option<HeaderValue>,
    /// What `hauberk-identity` says, if anything.
    pub(crate) identity: Option<HeaderValue>,
    /// The protocol that the caller wants to change to, if any. Only a GET without content has one: with any other
    /// request `Upgrade` is left out (RFC 9110 §7.8 permits to pass it over), so that no method, and no body, is read
    /// by the next server as something else than it was here.
    pub(crate) upgrade: Option<HeaderValue>,
    /// The caller takes trailers.
    pub(crate) takes_trailers: bool,
    /// The host that the request names, by its target or its `Host`; empty if HTTP/1.0 named none.
    pub(crate) host: String,
}

/// Why bytes beyond ASCII are refused, and what to do.
pub(crate) const OBS_TEXT: &str = "obs_text";
pub(crate) const WHY_NO_OBS_TEXT: &str = "the query or a header field's value holds bytes beyond ASCII, which servers read in different ways: encode it in ASCII";

/// Whether a request's head holds bytes beyond ASCII where nothing else refuses them: in a value, or in the query.
pub(crate) fn holds_obs_text<B>(request: &Request<B>) -> bool {
    hold_obs_text(request.headers()) || request.uri().query().is_some_and(|query| !query.is_ascii())
}

/// Whether a value holds bytes beyond ASCII (`obs-text` of RFC 9110 §5.5).
pub(crate) fn hold_obs_text(fields: &HeaderMap) -> bool {
    fields.values().any(|value| !value.as_bytes().is_ascii())
}

/// Why a request's headers are refused. The fault is the caller's: answer 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum HeaderProblem {
    /// More than one `Host`.
    #[error("more than one Host")]
    DuplicateHost,
    /// No `Host`, in HTTP/1.1.
    #[error("no Host")]
    NoHost,
    /// `Host` is not a host name or address, with or without a port.
    #[error("Host is not a host")]
    BadHost,
    /// `Host` names another host than the request's target.
    #[error("Host is not the target's")]
    ConflictingHost,
    /// More than one `hauberk-service`.
    #[error("more than one hauberk-service")]
    DuplicateService,
    /// More than one `hauberk-identity`.
    #[error("more than one hauberk-identity")]
    DuplicateIdentity,
    /// More than one `Content-Length`, be they equal or not.
    #[error("more than one Content-Length")]
    DuplicateLength,
    /// `Content-Length` is no number.
    #[error("Content-Length is not of digits alone")]
    BadLength,
    /// `content_length` or `transfer_encoding`, which some servers take for the names with a hyphen.
    #[error("a name of message framing is written with _")]
    Underscore,
}

/// Takes out of a request's headers whatever must not be passed on.
///
/// # Errors
/// The request has no single host, service or length.
pub(crate) fn scrub_request<B>(request: &mut Request<B>) -> Result<RequestHead, HeaderProblem> {
    let mut head = RequestHead { host: host(request)?, ..RequestHead::default() };
    let may_upgrade = request.version() == Version::HTTP_11
        && request.method() == Method::GET
        && !has_content(request.headers());
    let headers = request.headers_mut();
    let found = Found::among(headers);
    // Over HTTP/1.1 `strict.rs` has refused these already; this is for HTTP/2.
    if found.underscore {
        return Err(HeaderProblem::Underscore);
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        if lengths.next().is_some() {
            return Err(HeaderProblem::DuplicateLength);
        }
        // An empty one passes for none with some, and for 0 with others.
        if length.is_empty() || !length.as_bytes().iter().all(u8::is_ascii_digit) {
            return Err(HeaderProblem::BadLength);
        }
    }
    if found.reserved {
        let mut services = headers.get_all(SERVICE).iter();
        head.service = services.next().cloned();
        if services.next().is_some() {
            return Err(HeaderProblem::DuplicateService);
        }
        let mut identities = headers.get_all(IDENTITY).iter();
        head.identity = identities.next().cloned();
        if identities.next().is_some() {
            return Err(HeaderProblem::DuplicateIdentity);
        }
        strip_reserved(headers);
    }
    if found.connection {
        head.takes_trailers = headers.get_all(header::TE).iter().any(|value| lists(value, "trailers"));
        let asks_upgrade = headers.get_all(header::CONNECTION).iter().any(|value| lists(value, "upgrade"));
        head.upgrade = headers
            .get(header::UPGRADE)
            .filter(|value| {
                // HTTP/2 is spoken here by ALPN or prior knowledge only.
                may_upgrade && asks_upgrade && !lists(value, "h2c")
            })
            .cloned();
        strip_connection(headers);
    }
    Ok(head)
}

/// What a request asks for, in the one spelling that is decided and passed on.
///
/// # Errors
/// It has several readings: answer 400.
pub(crate) fn canonical_target<B>(
    request: &Request<B>,
    escaped: EscapedSlashes,
) -> Result<PathAndQuery, AmbiguousTarget> {
    let written = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let path = CanonicalPath::parse_with(request.method().as_str(), written.as_str(), escaped)?;
    Ok(if path.was_rewritten() { PathAndQuery::try_from(path.target().as_ref())? } else { written.clone() })
}

/// Why a request's target has no single reading. The fault is the caller's: answer 400.
#[derive(Debug, Error)]
pub(crate) enum AmbiguousTarget {
    #[error(transparent)]
    Path(#[from] AmbiguousPath),
    #[error(transparent)]
    Target(#[from] InvalidUri),
}

/// Adds what the next connection's HTTP version needs for the same request to be understood.
pub(crate) fn address_request(headers: &mut HeaderMap, head: &RequestHead, version: Version) {
    let is_http1 = version != Version::HTTP_2;
    if is_http1 {
        join_cookies(headers);
    }
    if head.takes_trailers {
        headers.insert(header::TE, TRAILERS);
    }
    if let (true, Some(protocol)) = (is_http1, &head.upgrade) {
        headers.insert(header::UPGRADE, protocol.clone());
        headers.insert(header::CONNECTION, UPGRADE);
    } else if is_http1 && head.takes_trailers {
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
}

/// HTTP/2 may split what HTTP/1.1 has in one line (RFC 9113 §8.2.3, RFC 6265 §5.4).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// What a response is answered instead of that is encoded as nothing here can tell its end by.
pub(crate) const UNKNOWN_CODING: &str = "unknown_transfer_encoding";

/// A response's content is encoded by something else than `chunked`, or by something besides. The fault is its
/// server's: answer 502.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the answer has another Transfer-Encoding than chunked")]
pub(crate) struct UnknownCoding;

/// Takes out of an app's or agent's response whatever must not be passed on. `keeps` is the one name of ours that is
/// let through, if any. The version goes too: of HTTP/1.0 the end of an answer may be that of its connection, by which
/// callers could not tell one that breaks off from a whole one.
///
/// # Errors
/// What its content is depends on a coding that is not passed on.
pub(crate) fn scrub_response<B>(
    response: &mut Response<B>,
    keeps: &[HeaderName],
) -> Result<(), UnknownCoding> {
    *response.version_mut() = Version::HTTP_11;
    let headers = response.headers_mut();
    let found = Found::among(headers);
    if found.reserved {
        let kept: Vec<_> = keeps
            .iter()
            .filter_map(|name| headers.get(name).map(|value| (name.clone(), value.clone())))
            .collect();
        strip_reserved(headers);
        headers.extend(kept);
    }
    if found.connection {
        let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
        if let Some(coding) = codings.next() {
            if codings.next().is_some() || !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Err(UnknownCoding);
            }
            // RFC 9112 §6.3: the length counts for nothing beside it, and would end the answer before its end.
            headers.remove(header::CONTENT_LENGTH);
        }
        strip_connection(headers);
    }
    Ok(())
}

/// Takes out of a request's trailers what it was decided by among its header fields: some servers take a field from
/// either place, and trailers come after the decision.
pub(crate) fn scrub_undecided(trailers: &mut HeaderMap, is_decided_by: impl Fn(&str) -> bool) {
    let undecided: Vec<_> = trailers.keys().filter(|name| is_decided_by(name.as_str())).cloned().collect();
    for name in undecided {
        trailers.remove(name);
    }
}

/// Takes out of trailers whatever must not be passed on.
pub(crate) fn scrub_trailers(trailers: &mut HeaderMap) {
    strip_reserved(trailers);
    strip_connection(trailers);
    for name in [header::HOST, header::CONTENT_LENGTH, header::AUTHORIZATION] {
        trailers.remove(name);
    }
}

/// Whether a name is ours to set, however it is spelled: servers are known that take every character which is neither
/// letter nor digit for the same one.
pub(crate) fn is_reserved(name: &str) -> bool {
    const EXACT: [&str; 2] = ["x-forwarded-client-cert", "x-spiffe-id"];
    const PREFIXES: [&str; 2] = ["hauberk-", "x-hauberk-"];
    // Nearly all names end here.
    if !matches!(name.as_bytes().first(), Some(b'h' | b'H' | b'x' | b'X')) {
        return false;
    }
    EXACT.iter().any(|own| is_any_spelling_of(name, own)) || PREFIXES.iter().any(|own| begins_like(name, own))
}

/// Whether servers are known that take the name for this one: see [`is_reserved`].
pub(crate) fn is_any_spelling_of(name: &str, own: &str) -> bool {
    name.len() == own.len() && begins_like(name, own)
}

/// Which kinds of fields there are, found in one pass.
#[derive(Default)]
struct Found {
    reserved: bool,
    connection: bool,
    underscore: bool,
}

impl Found {
    fn among(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for name in headers.keys() {
            found.reserved |= is_reserved(name.as_str());
            found.connection |= is_of_connection(name);
            found.underscore |= is_framing_with_underscore(name.as_str());
        }
        found
    }
}

/// How a gRPC call ended, if these headers or trailers tell.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

fn is_framing_with_underscore(name: &str) -> bool {
    let framing = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
    name.contains('_') && framing.iter().any(|own| is_spelling_of(name.as_bytes(), own.as_str().as_bytes()))
}

/// Whether content follows, by what the headers say.
fn has_content(headers: &HeaderMap) -> bool {
    headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0")
}

fn is_of_connection(name: &HeaderName) -> bool {
    [
        header::CONNECTION,
        header::UPGRADE,
        header::TE,
        header::TRANSFER_ENCODING,
        // We have answered it, and content follows at once: an app that turns it down would take that for the next
        // request.
        header::EXPECT,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        header::PROXY_AUTHORIZATION,
        header::PROXY_AUTHENTICATE,
        HTTP2_SETTINGS,
    ]
    .contains(name)
}

fn strip_reserved(headers: &mut HeaderMap) {
    let names: Vec<_> = headers.keys().filter(|name| is_reserved(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

fn strip_connection(headers: &mut HeaderMap) {
    let mut names: Vec<_> = headers.keys().filter(|name| is_of_connection(name)).cloned().collect();
    for value in headers.get_all(header::CONNECTION) {
        let listed = value.as_bytes().split(|byte| *byte == b',');
        names.extend(listed.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()));
    }
    // Listing these is an old trick to have a proxy drop what the next server relies on.
    const LASTING: [HeaderName; 2] = [header::HOST, header::CONTENT_LENGTH];
    for name in names.iter().filter(|name| !LASTING.contains(name)) {
        headers.remove(name);
    }
}

fn lists(value: &HeaderValue, token: &str) -> bool {
    value
        .as_bytes()
        .split(|byte| *byte == b',')
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

fn begins_like(name: &str, own: &str) -> bool {
    name.len() >= own.len()
        && name.bytes().zip(own.bytes()).all(|(found, own)| match own {
            b'-' => !found.is_ascii_alphanumeric(),
            own => found.eq_ignore_ascii_case(&own),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_our_names_however_they_are_spelled() {
        let mut spellings = Vec::new();
        for name in [
            "x-forwarded-client-cert",
            "x-spiffe-id",
            "hauberk-service",
            "hauberk-decision",
            "x-hauberk-user",
        ] {
            spellings.extend([
                name.to_owned(),
                name.to_uppercase(),
                name.replace('-', "_"),
                name.replace('-', "."),
                name.replace('-', "_").to_uppercase(),
                name.replacen('-', "_", 1),
                name.replace('-', "~"),
                name.split('-')
                    .map(|word| word[..1].to_uppercase() + &word[1..])
                    .collect::<Vec<_>>()
                    .join("-"),
            ]);
        }
        assert_eq!(spellings.len(), 40);
        for name in &spellings {
            assert!(is_reserved(name), "{name}");
            let mut trailers = HeaderMap::new();
            trailers
                .insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("forged"));
            trailers.insert("kept", HeaderValue::from_static("yes"));
            scrub_trailers(&mut trailers);
            assert_eq!(trailers.keys().collect::<Vec<_>>(), ["kept"]);
        }
        for name in
            ["host", "x-forwarded-for", "x-forwarded-client-certs", "x-spiffe-ids", "hauberkservice", "x", ""]
        {
            assert!(!is_reserved(name), "{name}");
        }
    }

    fn request(fields: &[(&str, &str)], target: &str) -> Request<()> {
        let mut request = Request::builder().uri(target).body(()).unwrap();
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.headers_mut().append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        request
    }

    #[test]
    fn strips_what_is_of_one_connection_only() {
        let mut request = request(
            &[
                ("host", "orders:80"),
                ("connection", "keep-alive, x-secret, Upgrade, host"),
                ("x-secret", "1"),
                ("keep-alive", "timeout=5"),
                ("upgrade", "websocket"),
                ("te", "gzip, trailers"),
                ("expect", "100-continue"),
                ("hauberk-service", "orders"),
                ("x_forwarded_client_cert", "URI=spiffe://evil/x"),
                ("accept", "*/*"),
            ],
            "/",
        );
        let head = scrub_request(&mut request).unwrap();
        assert_eq!(head.service.as_ref().unwrap(), "orders");
        assert_eq!(head.upgrade.as_ref().unwrap(), "websocket");
        assert_eq!(head.host, "orders:80");
        assert!(head.takes_trailers);
        let mut names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "host"]);
        address_request(request.headers_mut(), &head, Version::HTTP_11);
        assert_eq!(request.headers()["connection"], "upgrade");
        assert_eq!(request.headers()["te"], "trailers");
    }

    #[test]
    fn only_a_get_without_content_asks_for_another_protocol() {
        let asks = [("host", "a"), ("connection", "upgrade"), ("upgrade", "websocket")];
        let upgrade = |method: Method, more: &[(&str, &str)]| {
            let mut request = request(&[&asks, more].concat(), "/");
            *request.method_mut() = method;
            let head = scrub_request(&mut request).unwrap();
            address_request(request.headers_mut(), &head, Version::HTTP_11);
            assert_eq!(head.upgrade.is_some(), request.headers().contains_key("upgrade"));
            assert_eq!(head.upgrade.is_some(), request.headers().contains_key("connection"));
            head.upgrade.is_some()
        };
        assert!(upgrade(Method::GET, &[]));
        assert!(upgrade(Method::GET, &[("content-length", "0")]));
        assert!(!upgrade(Method::GET, &[("content-length", "1")]));
        assert!(!upgrade(Method::GET, &[("transfer-encoding", "chunked")]));
        for method in [Method::DELETE, Method::POST, Method::HEAD, Method::OPTIONS, Method::TRACE] {
            assert!(!upgrade(method, &[]));
        }
    }

    #[test]
    fn a_tunnel_leads_where_both_of_its_names_lead() {
        let asked = |fields: &[(&str, &str)], version| {
            let mut connect = request(fields, "orders:443");
            (*connect.method_mut(), *connect.version_mut()) = (Method::CONNECT, version);
            host(&connect)
        };
        let tunnel = Ok("orders:443".to_owned());
        assert_eq!(asked(&[("host", "Orders:443")], Version::HTTP_11), tunnel);
        assert_eq!(asked(&[("host", "orders")], Version::HTTP_11), tunnel);
        assert_eq!(asked(&[], Version::HTTP_10), tunnel);
        assert_eq!(asked(&[], Version::HTTP_11), Err(HeaderProblem::NoHost));
        for other in ["payments:443", "orders:444", "payments", ""] {
            let conflict = Err(HeaderProblem::ConflictingHost);
            assert_eq!(asked(&[("host", other)], Version::HTTP_11), conflict, "{other}");
        }
    }

    #[test]
    fn framing_has_one_spelling_and_one_value() {
        let problem = |fields: &[(&str, &str)]| {
            let fields = [&[("host", "a")], fields].concat();
            scrub_request(&mut request(&fields, "/")).unwrap_err()
        };
        let twice = [("content-length", "5"), ("content-length", "5")];
        assert_eq!(problem(&twice), HeaderProblem::DuplicateLength);
        for length in ["", " ", "+5", "5 5", "5,5"] {
            assert_eq!(problem(&[("content-length", length)]), HeaderProblem::BadLength, "{length:?}");
        }
        for name in ["content_length", "transfer_encoding"] {
            assert_eq!(problem(&[(name, "1")]), HeaderProblem::Underscore, "{name}");
        }
    }

    #[test]
    fn cookies_are_one_line_in_http1() {
        let fields = [("host", "a"), ("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")];
        for (version, lines) in
            [(Version::HTTP_11, &["a=1; b=2; c=3"][..]), (Version::HTTP_2, &["a=1", "b=2", "c=3"])]
        {
            let mut request = request(&fields, "/");
            let head = scrub_request(&mut request).unwrap();
            address_request(request.headers_mut(), &head, version);
            assert_eq!(request.headers().get_all("cookie").iter().collect::<Vec<_>>(), lines);
        }
    }

    #[test]
    fn refuses_a_second_reading_of_the_host() {
        let problem =
            |fields: &[(&str, &str)], target: &str| scrub_request(&mut request(fields, target)).unwrap_err();
        assert_eq!(problem(&[("host", "a"), ("host", "a")], "/"), HeaderProblem::DuplicateHost);
        assert_eq!(problem(&[], "/"), HeaderProblem::NoHost);
        assert_eq!(problem(&[], "http://a/"), HeaderProblem::NoHost);
        for host in [
            "a/b", "a:80:80", "a:80:", "a:", "a:+1", "a:65536", "[a]:80", "[::1", "::1", "a..", "a..b", ".a",
            ".",
        ] {
            assert_eq!(problem(&[("host", host)], "/"), HeaderProblem::BadHost, "{host}");
        }
        assert_eq!(problem(&[("host", "u@a")], "/"), HeaderProblem::BadHost);
        assert_eq!(problem(&[("host", "")], "/"), HeaderProblem::BadHost);
        assert_eq!(problem(&[("host", "a:99999")], "/"), HeaderProblem::BadHost);
        assert_eq!(problem(&[("host", "b")], "http://a/"), HeaderProblem::ConflictingHost);
        assert_eq!(
            problem(&[("host", "a"), ("hauberk-service", "a"), ("hauberk-service", "b")], "/"),
            HeaderProblem::DuplicateService
        );
        assert!(scrub_request(&mut request(&[("host", "A")], "http://a/")).is_ok());
        for version in [Version::HTTP_10, Version::HTTP_2] {
            let mut by_target = request(&[], "http://a/");
            *by_target.version_mut() = version;
            assert_eq!(scrub_request(&mut by_target).unwrap().host, "a", "{version:?}");
        }
    }

    #[test]
    fn splits_hosts() {
        assert_eq!(split_host("Orders.:80"), Some(("Orders", Some(80))));
        assert_eq!(split_host("[::1]:80"), Some(("[::1]", Some(80))));
        assert_eq!(split_host("[::1]"), Some(("[::1]", None)));
        assert_eq!(split_host("orders"), Some(("orders", None)));
        assert_eq!(split_host("a:"), None);
        assert_eq!(split_host("."), None);
    }

    #[test]
    fn lets_only_the_decision_through_in_responses() {
        let mut response = Response::new(());
        let headers = response.headers_mut();
        headers.insert("hauberk-decision", HeaderValue::from_static("id"));
        headers.insert("hauberk-other", HeaderValue::from_static("x"));
        headers.insert("connection", HeaderValue::from_static("close"));
        scrub_response(&mut response, &[DECISION]).unwrap();
        assert_eq!(response.headers().keys().collect::<Vec<_>>(), ["hauberk-decision"]);
        *response.version_mut() = Version::HTTP_10;
        scrub_response(&mut response, &[]).unwrap();
        assert!(response.headers().is_empty());
        assert_eq!(response.version(), Version::HTTP_11);
    }

    #[test]
    fn chunks_alone_say_where_a_response_ends_that_has_them() {
        let left = |fields: &[(&str, &str)]| {
            let mut response = Response::new(());
            for (name, value) in fields {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                response.headers_mut().append(name, value.parse().unwrap());
            }
            let names =
                |response: &Response<()>| response.headers().keys().map(ToString::to_string).collect();
            scrub_response(&mut response, &[]).map(|()| names(&response))
        };
        let none = Ok::<Vec<String>, _>(Vec::new());
        assert_eq!(left(&[("content-length", "2"), ("transfer-encoding", "Chunked ")]), none);
        assert_eq!(
            left(&[("content-length", "2"), ("content-length", "2"), ("transfer-encoding", "chunked")]),
            none
        );
        assert_eq!(
            left(&[("content-length", "2"), ("connection", "close")]),
            Ok(vec!["content-length".to_owned()])
        );
        for coding in ["gzip, chunked", "gzip", "chunked, chunked", "identity", ""] {
            assert_eq!(left(&[("transfer-encoding", coding)]), Err(UnknownCoding), "{coding}");
        }
        let twice = [("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")];
        assert_eq!(left(&twice), Err(UnknownCoding));
    }
}
