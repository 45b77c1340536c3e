//! Answers that an agent gives itself instead of passing the request on.

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};

use super::body::ResponseBody;
use super::headers::{DECISION, ERROR, GRPC_STATUS};

const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// In which form the caller expects an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A status.
    Http,
    /// HTTP status 200, and the outcome in `grpc-status`.
    Grpc,
}

impl Form {
    /// The form that fits a request. That of gRPC, whose status is 200 whatever comes of the call, fits calls of gRPC
    /// alone: of anything else it would tell everybody who looks at the status that it went well. That is why it is not
    /// that of gRPC-Web either, which any caller over HTTP/1.1 may claim; its clients understand the status.
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let kind = request.headers().get(CONTENT_TYPE).filter(|_| request.method() == Method::POST);
        let Some(kind) = kind.map(HeaderValue::as_bytes) else { return Self::Http };
        if is_grpc(kind) && request.version() == Version::HTTP_2 { Self::Grpc } else { Self::Http }
    }
}

/// An error that is not an app's. The name is stable; the text is for a person, and is left out if empty.
pub(crate) fn error<G>(
    form: Form,
    status: StatusCode,
    name: &'static str,
    text: &str,
) -> Response<ResponseBody<G>> {
    let mut response = match form {
        Form::Grpc => grpc(grpc_status(status), if text.is_empty() { name } else { text }),
        Form::Http => plain(status, text),
    };
    response.headers_mut().insert(ERROR, HeaderValue::from_static(name));
    response
}

/// A denial. The caller learns the decision's id and nothing else; what is shown of an answer is often its content alone.
pub(crate) fn denial<G>(form: Form, decision: &str) -> Response<ResponseBody<G>> {
    let mut response = match form {
        Form::Grpc => grpc("7", "denied"),
        Form::Http => plain(
            StatusCode::FORBIDDEN,
            &format!("denied: `hauberk explain {decision}` tells an admin of the mesh why"),
        ),
    };
    if let Ok(id) = HeaderValue::from_str(decision) {
        response.headers_mut().insert(DECISION, id);
    }
    response
}

/// The end of an answer over gRPC that may not go on. The caller learns the decision's id and nothing else.
pub(crate) fn denial_trailers(decision: &str) -> HeaderMap {
    let mut trailers = denial::<()>(Form::Grpc, decision).into_parts().0.headers;
    trailers.remove(CONTENT_TYPE);
    trailers
}

/// Whether an answer with this head, to a caller who speaks `version`, ends by trailers that say how the call ended. gRPC for
/// browsers has them in its content; over HTTP/1.1 few look for trailers, and where a length was promised content must come.
pub(crate) fn ends_by_trailers(version: Version, head: &HeaderMap) -> bool {
    head.get(CONTENT_TYPE).is_some_and(|kind| is_grpc(kind.as_bytes()))
        && version == Version::HTTP_2
        && !head.contains_key(CONTENT_LENGTH)
}

/// Whether a media type is gRPC's, and not merely begins like it.
fn is_grpc(kind: &[u8]) -> bool {
    let rest = kind.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest, [] | [b'+' | b';' | b' ', ..]))
}

fn plain<G>(status: StatusCode, text: &str) -> Response<ResponseBody<G>> {
    let mut response = if text.is_empty() {
        let mut response = Response::new(ResponseBody::empty());
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        response
    } else {
        let mut response = Response::new(ResponseBody::text(format!("{text}\n")));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    };
    *response.status_mut() = status;
    response
}

/// A response of nothing but trailers, sent as its head.
fn grpc<G>(status: &'static str, message: &str) -> Response<ResponseBody<G>> {
    let mut response = Response::new(ResponseBody::empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from_static(status));
    if let Ok(message) = HeaderValue::from_str(&percent_encoded(message)) {
        headers.insert(GRPC_MESSAGE, message);
    }
    response
}

/// The gRPC status that stands for an HTTP one (grpc/doc/http-grpc-status-mapping.md).
fn grpc_status(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST => "13",
        StatusCode::UNAUTHORIZED => "16",
        StatusCode::FORBIDDEN => "7",
        StatusCode::NOT_FOUND | StatusCode::MISDIRECTED_REQUEST => "12",
        _ => "14",
    }
}

/// As gRPC writes messages: whatever is not printable ASCII, and `%`, is escaped.
fn percent_encoded(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_says_its_id_and_no_more() {
        let response: Response<ResponseBody<()>> = denial(Form::Http, "abc-1");
        assert_eq!(response.status(), 403);
        assert_eq!(response.headers()["hauberk-decision"], "abc-1");
        assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
        assert_eq!(response.headers().len(), 2);
        let ResponseBody::Own(Some(said)) = response.into_body() else { panic!("nothing is said") };
        assert_eq!(said, "denied: `hauberk explain abc-1` tells an admin of the mesh why\n");
        let response: Response<ResponseBody<()>> = denial(Form::Grpc, "abc-1");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "7");
        assert_eq!(response.headers()["hauberk-decision"], "abc-1");
    }

    #[test]
    fn a_call_of_grpc_alone_is_answered_as_one() {
        let form = |method, version, kind: &'static str| {
            let mut request = Request::new(());
            (*request.method_mut(), *request.version_mut()) = (method, version);
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            Form::of(&request)
        };
        for kind in ["application/grpc", "application/grpc+proto", "application/grpc; charset=utf-8"] {
            assert_eq!(form(Method::POST, Version::HTTP_2, kind), Form::Grpc, "{kind}");
            assert_eq!(form(Method::GET, Version::HTTP_2, kind), Form::Http, "{kind}");
            assert_eq!(form(Method::POST, Version::HTTP_11, kind), Form::Http, "{kind}");
        }
        for kind in
            ["application/grpcfoo", "application/grpc-web", "application/grpc-web+proto", "text/plain", ""]
        {
            assert_eq!(form(Method::POST, Version::HTTP_2, kind), Form::Http, "{kind}");
        }
        assert_eq!(Form::of(&Request::post("/").body(()).unwrap()), Form::Http);
        let claimed = form(Method::POST, Version::HTTP_11, "application/grpc-web");
        let denied: Response<ResponseBody<()>> = denial(claimed, "abc-1");
        assert_eq!(denied.status(), StatusCode::FORBIDDEN);
    }

    #[test]
    fn trailers_end_what_grpc_ends_by_trailers() {
        let trailers = denial_trailers("abc-1");
        assert_eq!(trailers["grpc-status"], "7");
        assert_eq!(trailers["hauberk-decision"], "abc-1");
        assert_eq!(trailers.len(), 3);
        let ends = |version, kind: &'static str, length: Option<&'static str>| {
            let mut head = HeaderMap::new();
            head.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            if let Some(length) = length {
                head.insert(CONTENT_LENGTH, HeaderValue::from_static(length));
            }
            ends_by_trailers(version, &head)
        };
        for kind in ["application/grpc", "application/grpc+proto", "application/grpc; charset=utf-8"] {
            assert!(ends(Version::HTTP_2, kind, None), "{kind}");
            assert!(!ends(Version::HTTP_11, kind, None), "{kind}");
            assert!(!ends(Version::HTTP_2, kind, Some("10")), "{kind}");
        }
        for kind in ["application/grpc-web", "application/grpc-web+proto", "text/plain", ""] {
            assert!(!ends(Version::HTTP_2, kind, None), "{kind}");
        }
        assert!(!ends_by_trailers(Version::HTTP_2, &HeaderMap::new()));
    }

    #[test]
    fn an_error_has_a_name_and_a_text() {
        let response: Response<ResponseBody<()>> =
            error(Form::Grpc, StatusCode::BAD_GATEWAY, "unknown_service", "no „x“: 100 %");
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(response.headers()["grpc-message"], "no %E2%80%9Ex%E2%80%9C: 100 %25");
        assert_eq!(response.headers()["hauberk-error"], "unknown_service");
        let response: Response<ResponseBody<()>> =
            error(Form::Http, StatusCode::BAD_GATEWAY, "unknown_service", "x");
        assert_eq!(response.status(), 502);
    }
}
