//! The SPIFFE Workload API's JWT profile: tokens for programs, the keys that verify them, and the check itself.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures_util::future::try_join_all;
use hauberk_identity::{SpiffeId, UnixMillis};
use hauberk_proto::workload::{
    JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse,
};
use hauberk_tls::jwt::{JwtBundle, JwtSvid, KeyUse, verify_jwt_svid};
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use tokio::time::timeout;
use tonic::Status;

use super::api::{Api, Given, Identity, PATIENCE, Shared, has_identity};
use super::audience::Audience;
use crate::mesh::Denied;

/// The longest audience that a token may be verified for, in bytes.
const LONGEST_AUDIENCE: usize = 4 * 1024;

const NO_KEYS: &str = "the control plane has not told the keys that verify tokens yet";

/// One token for each identity of the caller's, or for the one that it names.
pub(super) async fn fetch(api: &Api, request: JwtsvidRequest) -> Result<JwtsvidResponse, Status> {
    let JwtsvidRequest { audience, spiffe_id } = request;
    let audience = Audience::new(audience).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let named = match spiffe_id.as_str() {
        "" => None,
        id => Some(
            SpiffeId::parse(id).map_err(|error| Status::invalid_argument(format!("spiffe_id: {error}")))?,
        ),
    };
    let given = api.follow().until(false, has_identity).await?;
    // Two enrollments may be one identity; its token is the same.
    let mut seen = HashSet::new();
    let wanted: Vec<&Identity> = given
        .identities
        .iter()
        .filter(|identity| {
            named.as_ref().is_none_or(|named| *named == identity.id) && seen.insert(&identity.id)
        })
        .collect();
    if wanted.is_empty() {
        return Err(Status::permission_denied("no identity issued"));
    }
    api.shared.forget_tokens();
    let minted = wanted.into_iter().map(|identity| {
        let audience = &audience;
        async move {
            let token = api.shared.tokens.token(identity, audience).await?;
            let (spiffe_id, hint) = (identity.id.to_string(), identity.hint.clone());
            Ok::<_, Status>(Jwtsvid { spiffe_id, svid: token.to_string(), hint })
        }
    });
    match timeout(PATIENCE, try_join_all(minted)).await {
        Ok(svids) => Ok(JwtsvidResponse { svids: svids? }),
        Err(_) => Err(Status::unavailable("the control plane does not answer")),
    }
}

/// The keys are known.
pub(super) fn has_keys(given: &Given) -> Result<(), &'static str> {
    given.jwt_keys.as_ref().map(drop).ok_or(NO_KEYS)
}

pub(super) fn bundles(given: &Given) -> JwtBundlesResponse {
    let own = given.jwt_keys.iter().map(|keys| &**keys);
    let others = given.federated.iter().map(|bundle| bundle.jwt());
    let all = own.chain(others.filter(|keys| keys.keys().next().is_some()));
    let bundles =
        all.map(|keys| (keys.trust_domain().id_string(), keys.to_jwks(KeyUse::Unsaid).into_bytes()));
    JwtBundlesResponse { bundles: bundles.collect::<HashMap<_, _>>() }
}

/// Verifies a token for whoever asks: that takes no secret, and so no identity.
pub(super) async fn validate(
    shared: &Shared,
    request: ValidateJwtsvidRequest,
) -> Result<ValidateJwtsvidResponse, Status> {
    let ValidateJwtsvidRequest { audience, svid } = request;
    if audience.is_empty() || audience.len() > LONGEST_AUDIENCE {
        return Err(Status::invalid_argument(format!("an audience has 1 to {LONGEST_AUDIENCE} bytes")));
    }
    let mut told = shared.board.jwt_keys();
    let keys = match timeout(PATIENCE, told.wait_for(Option::is_some)).await {
        Ok(Ok(keys)) => keys.clone(),
        _ => None,
    };
    let keys = keys.ok_or_else(|| Status::unavailable(NO_KEYS))?;
    let svid = judge(&svid, &audience, &keys, &shared.denied, shared.tokens.now())
        .map_err(Status::invalid_argument)?;
    Ok(ValidateJwtsvidResponse {
        spiffe_id: svid.id().to_string(),
        claims: Some(Struct { fields: members(svid.claims()) }),
    })
}

/// The one check, and whether everybody refuses whom the token names.
fn judge(
    token: &str,
    audience: &str,
    keys: &JwtBundle,
    denied: &Denied,
    now: UnixMillis,
) -> Result<JwtSvid, String> {
    let svid = verify_jwt_svid(token, audience, keys, now).map_err(|error| error.to_string())?;
    if denied.is_in_quarantine(svid.id()) {
        return Err(format!("{} is in quarantine", svid.id()));
    }
    Ok(svid)
}

fn members(object: &serde_json::Map<String, serde_json::Value>) -> BTreeMap<String, Value> {
    object.iter().map(|(name, value)| (name.clone(), in_protobuf(value))).collect()
}

fn in_protobuf(value: &serde_json::Value) -> Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(*value),
        // Numbers of protobuf's JSON are these.
        serde_json::Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or(f64::NAN)),
        serde_json::Value::String(text) => Kind::StringValue(text.clone()),
        serde_json::Value::Array(values) => {
            Kind::ListValue(ListValue { values: values.iter().map(in_protobuf).collect() })
        }
        serde_json::Value::Object(object) => Kind::StructValue(Struct { fields: members(object) }),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use hauberk_identity::TrustDomain;
    use hauberk_tls::jwt::{Claims, JwtSigner};
    use serde_json::json;

    use super::*;
    use crate::mesh::Denylist;
    use crate::testing::{HOUR, now};

    #[test]
    fn claims_are_told_as_they_are() {
        let claims = json!({"aud": ["a"], "exp": 1.5, "on": true, "none": null, "of": {"x": "y"}});
        let told = members(claims.as_object().unwrap());
        let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
        let audience = Kind::ListValue(ListValue { values: vec![text("a")] });
        let of = Kind::StructValue(Struct { fields: BTreeMap::from([("x".to_owned(), text("y"))]) });
        let kinds = [
            ("aud", audience),
            ("exp", Kind::NumberValue(1.5)),
            ("none", Kind::NullValue(0)),
            ("of", of),
            ("on", Kind::BoolValue(true)),
        ];
        let expected = kinds.map(|(name, kind)| (name.to_owned(), Value { kind: Some(kind) }));
        assert_eq!(told, BTreeMap::from(expected));
    }

    #[test]
    fn nobody_in_quarantine_is_believed() {
        let signer = JwtSigner::generate().unwrap();
        let domain = TrustDomain::parse("shop.local").unwrap();
        let keys = JwtBundle::new(domain, [signer.public_key().unwrap()]).unwrap();
        let id = SpiffeId::parse("spiffe://shop.local/mesh/shop/node/orders").unwrap();
        let token = signer.sign(&Claims {
            id: &id,
            audience: &["db".to_owned()],
            issued_at: now(),
            expires_at: now().plus(HOUR),
            token_id: "1",
            issuer: None,
        });
        let token = token.unwrap();
        let denied = Denied::new();
        assert_eq!(*judge(&token, "db", &keys, &denied, now()).unwrap().id(), id);
        assert!(judge(&token, "other", &keys, &denied, now()).unwrap_err().contains("other"));
        denied.replace(Denylist { identities: [id].into(), ..Denylist::default() });
        assert!(judge(&token, "db", &keys, &denied, now()).unwrap_err().contains("quarantine"));
    }
}
