//! The two documents: what the issuer does, and its keys (OpenID Connect Discovery §3 and §4, RFC 7517).

use bytes::Bytes;
use hauberk_tls::jwt::KeyUse;
use http::Response;
use http_body_util::Full;
use serde_json::json;

use crate::config::IssuerUrl;
use crate::jwt_svid::{KeySet, PUBLISHED_FOR};
use crate::web::{document, nothing};

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
            // The second because the standard demands it of every such document (OpenID Connect Discovery 1.0 §3): no
            // key of ours signs with it.
            "id_token_signing_alg_values_supported": ["ES256", "RS256"],
            "claims_supported": ["iss", "sub", "aud", "exp", "iat", "nbf", "jti"],
        });
        let path = issuer.path();
        Self {
            configuration_path: format!("{path}/.well-known/openid-configuration"),
            configuration: configuration.to_string().into(),
            keys_path: format!("{path}/keys"),
        }
    }

    /// The answer to one request.
    pub fn respond(&self, path: &str, keys: &KeySet) -> Response<Full<Bytes>> {
        if path == self.configuration_path {
            document(self.configuration.clone(), KEPT_FOR)
        } else if path == self.keys_path {
            document(keys.bundle().to_jwks(KeyUse::Signature).into(), KEPT_FOR)
        } else {
            nothing()
        }
    }
}
