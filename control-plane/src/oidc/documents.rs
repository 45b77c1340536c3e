//! The two documents: what the issuer does, and its keys (OpenID Connect Discovery §3 and §4, RFC 7517).

use bytes::Bytes;
use hauberk_tls::jwt::KeyUse;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::json;

use crate::config::IssuerUrl;
use crate::jwt_svid::{KeySet, PUBLISHED_FOR};

/// How long either document may be kept, in seconds: less than a key is published before it signs.
const KEPT_FOR: u64 = 300;
const _: () = assert!(KEPT_FOR < PUBLISHED_FOR.as_secs(), "who keeps the keys would miss a new one");

/// What is served under one issuer's URL.
pub struct Documents {
    configuration_path: String,
    configuration: Bytes,
    keys_path: String,
}

impl Documents {
    /// Those of this issuer.
    pub fn new(issuer: &IssuerUrl) -> Self {
        let configuration = json!({
            "issuer": issuer.to_string(),
            "jwks_uri": format!("{issuer}/keys"),
            // There is no such thing: tokens are for workloads. Some readers refuse a document without it.
            "authorization_endpoint": "",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "claims_supported": ["iss", "sub", "aud", "exp", "iat", "jti"],
        });
        let path = issuer.path();
        Self {
            configuration_path: format!("{path}/.well-known/openid-configuration"),
            configuration: configuration.to_string().into(),
            keys_path: format!("{path}/keys"),
        }
    }

    /// The answer to one request.
    pub fn respond(&self, method: &Method, path: &str, keys: &KeySet) -> Response<Full<Bytes>> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut refusal = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered\n");
            refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        if path == self.configuration_path {
            document(self.configuration.clone())
        } else if path == self.keys_path {
            document(keys.bundle().to_jwks(KeyUse::Signature).into())
        } else {
            plain(StatusCode::NOT_FOUND, "there is nothing here\n")
        }
    }
}

fn document(text: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(kept) = HeaderValue::from_str(&format!("public, max-age={KEPT_FOR}")) {
        headers.insert(header::CACHE_CONTROL, kept);
    }
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
