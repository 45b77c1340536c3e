//! How a request is addressed on the next connection.

use http::header::{self, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Request, Version};

use super::body::RequestBody;
use super::headers::{self, RequestHead};

/// For HTTP/1.1: the path as target, the host in `Host`.
pub(crate) fn address_http1(request: &mut Request<RequestBody>, head: &RequestHead) {
    *request.version_mut() = Version::HTTP_11;
    if request.uri().authority().is_some() {
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    }
    if let Ok(host) = HeaderValue::from_str(&head.host) {
        request.headers_mut().insert(header::HOST, host);
    }
    headers::address_request(request.headers_mut(), head, Version::HTTP_11);
    // hyper would leave out the body of a GET whose length nobody said.
    if !request.body().is_empty() && !request.headers().contains_key(header::CONTENT_LENGTH) {
        request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Whether a request may be more than one to the server it is sent to over HTTP/1.1: it has content, which many servers
/// leave unread with its method and then take for the next request on the connection. What came of that was decided by
/// nobody. Those that read the content of the methods left out here are all that serve them.
pub(crate) fn hides_content(request: &Request<RequestBody>) -> bool {
    let is_read = [Method::POST, Method::PUT, Method::PATCH].contains(request.method());
    !is_read && !request.body().is_empty()
}

/// Says to the server that nothing more comes on the connection, which is then neither read for another request nor
/// used again. Not for a request that asks for another protocol.
pub(crate) fn end_with(request: &mut Request<RequestBody>) {
    let close = match request.headers().contains_key(header::TE) {
        true => HeaderValue::from_static("te, close"),
        false => HeaderValue::from_static("close"),
    };
    request.headers_mut().insert(header::CONNECTION, close);
}

/// For HTTP/2: path and host in the target.
pub(crate) fn address_http2(request: &mut Request<RequestBody>, head: &RequestHead) {
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().remove(header::HOST);
    headers::address_request(request.headers_mut(), head, Version::HTTP_2);
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = head.host.parse().ok().or_else(|| Some(Authority::from_static("localhost")));
    parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}
