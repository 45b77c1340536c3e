//! The SPIFFE Workload API's JWT profile: tokens for programs, the keys that verify them, and the check itself.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures_util::future::try_join_all;
use hauberk_identity::{SpiffeId, TrustDomain, UnixMillis};
use hauberk_proto::refusal;
use hauberk_proto::workload::{
    Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest, ValidateJwtsvidResponse,
};
use hauberk_tls::SpiffeBundle;
use hauberk_tls::jwt::{JwtBundle, JwtSvid, KeyUse, unverified_trust_domain, verify_jwt_svid};
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use tokio::time::timeout;
use tonic::Status;

use super::api::{Api, PATIENCE, Shared};
use super::audience::Audience;
use super::given::{Given, Identity, Sufficiency, has_identity};
use super::nobody::no_identity;
use super::unjoined::has_certificate;
use crate::mesh::{Denial, Denied, MintedFor};

/// The longest audience that a token may be verified for, in bytes.
const LONGEST_AUDIENCE: usize = 4 * 1024;

const NO_DENYLIST: &str =
    "the control plane has not told yet who is revoked, and what was kept of that is damaged";
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
        return Err(no_identity(refusal::NOT_ITS_IDENTITY));
    }
    api.shared.forget_tokens();
    let minted = wanted.into_iter().map(|identity| {
        let audience = &audience;
        async move {
            let token = api.shared.tokens.token(identity, audience, &api.shared.board).await?;
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
pub(super) fn has_keys(given: &Given) -> Sufficiency {
    if given.jwt_keys.is_some() { Sufficiency::Whole } else { Sufficiency::Lacks(NO_KEYS) }
}

/// The keys of each trust domain, by its SPIFFE id.
pub(super) fn bundles(given: &Given) -> BTreeMap<String, Vec<u8>> {
    let own = given.jwt_keys.iter().map(|keys| &**keys);
    let others = given.federated.iter().map(|bundle| bundle.jwt());
    let all = own.chain(others.filter(|keys| keys.keys().next().is_some()));
    all.map(|keys| (keys.trust_domain().id_string(), keys.to_jwks(KeyUse::Unsaid).into_bytes())).collect()
}

/// Verifies a token by the keys of exactly the trust domain that it claims to be of. For our own that takes no secret,
/// and so no identity; of the others a program knows those whose keys it is given.
///
/// Whoever cannot prove who it is itself vouches for nobody: once its certificate has ended, an agent has not heard for
/// long which keys are good and who is revoked; before it begins, the clock is wrong by which tokens end.
pub(super) async fn validate(
    api: &Api,
    request: ValidateJwtsvidRequest,
) -> Result<ValidateJwtsvidResponse, Status> {
    let (claimed, shared) = (claimed(&request)?, &api.shared);
    let ValidateJwtsvidRequest { audience, svid } = request;
    let us = shared.live.current();
    has_certificate(&us, shared.tokens.now())?;
    let verified = if claimed == *us.bundle().trust_domain() {
        let keys = own_keys(shared).await?;
        if !shared.denied.is_known() {
            return Err(Status::unavailable(NO_DENYLIST));
        }
        judge(&svid, &audience, &keys, &shared.denied, shared.tokens.now())
    } else {
        // Of whom another domain refuses we are told nothing.
        let bundle = bundle_of(&claimed, api).await?;
        verify_jwt_svid(&svid, &audience, bundle.jwt(), shared.tokens.now())
            .map_err(|error| error.to_string())
    };
    Ok(told(&verified.map_err(Status::invalid_argument)?))
}

/// The trust domain that the token of a request claims to be of.
///
/// # Errors
/// The request is none, or the token.
fn claimed(request: &ValidateJwtsvidRequest) -> Result<TrustDomain, Status> {
    let ValidateJwtsvidRequest { audience, svid } = request;
    if audience.is_empty() || audience.len() > LONGEST_AUDIENCE {
        return Err(Status::invalid_argument(format!("an audience has 1 to {LONGEST_AUDIENCE} bytes")));
    }
    unverified_trust_domain(svid).map_err(|error| Status::invalid_argument(error.to_string()))
}

/// What is told of a token that was verified.
fn told(svid: &JwtSvid) -> ValidateJwtsvidResponse {
    ValidateJwtsvidResponse {
        spiffe_id: svid.id().to_string(),
        claims: Some(Struct { fields: members(svid.claims()) }),
    }
}

async fn own_keys(shared: &Shared) -> Result<Arc<JwtBundle>, Status> {
    let mut told = shared.board.jwt_keys();
    let keys = match timeout(PATIENCE, told.wait_for(Option::is_some)).await {
        Ok(Ok(keys)) => keys.clone(),
        _ => None,
    };
    keys.ok_or_else(|| Status::unavailable(NO_KEYS))
}

/// The bundle of another trust domain, where the caller is given it.
async fn bundle_of(trust_domain: &TrustDomain, api: &Api) -> Result<Arc<SpiffeBundle>, Status> {
    let given = api.follow().until(false, has_identity).await?;
    let found = given.federated.into_iter().find(|bundle| bundle.trust_domain() == trust_domain);
    found.ok_or_else(|| {
        Status::invalid_argument(format!(
            "the token is of trust domain {trust_domain}, whose keys this program is not given: no enrollment of its names the \
             domain (`federatesWith`), or nobody follows it"
        ))
    })
}

/// The one check of a token by our own keys, and whether everybody refuses whom it names, or the instance that it was
/// minted for.
fn judge(
    token: &str,
    audience: &str,
    keys: &JwtBundle,
    denied: &Denied,
    now: UnixMillis,
) -> Result<JwtSvid, String> {
    let svid = verify_jwt_svid(token, audience, keys, now).map_err(|error| error.to_string())?;
    let minted_for = MintedFor::of(svid.claims()).ok_or("the token is about nobody")?;
    match denied.denial_of_token(&minted_for) {
        None => Ok(svid),
        Some(Denial::Revoked) => Err("the instance that the token was minted for was revoked".to_owned()),
        Some(Denial::Quarantined) => Err(format!(
            "the token is of a node in quarantine: that of {}, or of the agent that vouched for it",
            svid.id()
        )),
    }
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
    use hauberk_identity::{InstanceId, Serial, Validity};
    use hauberk_proto::agent::v1 as pb;
    use hauberk_tls::jwt::{Claims, JwtSigner};
    use hauberk_tls::{TrustBundle, bundle_document};
    use serde_json::json;
    use tonic::Code;

    use super::super::testing::{Served, worker};
    use super::*;
    use crate::mesh::Denylist;
    use crate::state::StoredIdentity;
    use crate::testing::{Authorities, HOUR, now};

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

    fn domain(name: &str) -> TrustDomain {
        TrustDomain::parse(name).unwrap()
    }

    fn keys_of(trust_domain: &str, signer: &JwtSigner) -> JwtBundle {
        JwtBundle::new(domain(trust_domain), [signer.public_key().unwrap()]).unwrap()
    }

    /// A token for `db`.
    fn token(signer: &JwtSigner, id: &str) -> String {
        numbered(signer, id, "1")
    }

    fn numbered(signer: &JwtSigner, id: &str, token_id: &str) -> String {
        let claims = Claims {
            id: &SpiffeId::parse(id).unwrap(),
            audience: &["db".to_owned()],
            issued_at: now(),
            expires_at: now().plus(HOUR),
            token_id,
            issuer: None,
        };
        signer.sign(&claims).unwrap().to_string()
    }

    /// Whom a token turns out to be about, or why it proves nothing.
    async fn validated(api: &Api, svid: String) -> Result<String, (Code, String)> {
        let request = ValidateJwtsvidRequest { audience: "db".to_owned(), svid };
        match validate(api, request).await {
            Ok(answer) => Ok(answer.spiffe_id),
            Err(status) => Err((status.code(), status.message().to_owned())),
        }
    }

    #[tokio::test]
    async fn tokens_of_another_trust_domain_verify_by_its_own_keys_alone() {
        const THEIRS: &str = "spiffe://partner.example/payments";
        const OURS: &str = "spiffe://shop.local/mesh/shop/node/orders";
        let served = Served::new();
        let api = served.api();
        let [ours, theirs, others] = [(); 3].map(|()| JwtSigner::generate().unwrap());
        let jwks = keys_of("shop.local", &ours).to_jwks(KeyUse::Unsaid);
        let told = pb::JwtKeys { jwks, ..pb::JwtKeys::default() };
        served.board.take_jwt_keys(&told, &domain("shop.local")).unwrap();
        let followed = [("partner.example", &theirs), ("other.example", &others)].map(|(name, signer)| {
            let nobody = TrustBundle::empty(domain(name));
            let document = bundle_document(&nobody, &keys_of(name, signer), None, None);
            Arc::new(SpiffeBundle::parse(&domain(name), document.as_bytes()).unwrap())
        });
        assert!(served.live.publish_federated(followed.into_iter().collect()));
        let federates_with = vec!["partner.example".to_owned()];
        let entries = vec![pb::WorkloadEntry { federates_with, ..worker() }];
        served.board.take_entries(pb::WorkloadEntries { entries });

        assert_eq!(validated(&api, token(&theirs, THEIRS)).await, Ok(THEIRS.to_owned()));
        assert_eq!(validated(&api, token(&ours, OURS)).await, Ok(OURS.to_owned()));
        for (signer, id, reason) in [
            (&ours, THEIRS, "not in the bundle"),
            (&others, THEIRS, "not in the bundle"),
            (&theirs, OURS, "not in the bundle"),
            // Followed, but not for this program; followed by nobody.
            (&others, "spiffe://other.example/x", "trust domain other.example"),
            (&others, "spiffe://nobody.example/x", "trust domain nobody.example"),
        ] {
            let (code, said) = validated(&api, token(signer, id)).await.unwrap_err();
            assert_eq!(code, Code::InvalidArgument, "{id}: {said}");
            assert!(said.contains(reason), "{id}: {said}");
        }

        // Whoever is nobody verifies what everybody may, and knows of no other domain.
        served.board.vouch_for_nobody();
        assert_eq!(validated(&api, token(&ours, OURS)).await, Ok(OURS.to_owned()));
        let refused = async {
            loop {
                match validated(&api, token(&theirs, THEIRS)).await {
                    Ok(_) => tokio::task::yield_now().await,
                    Err((code, _)) => return code,
                }
            }
        };
        assert_eq!(timeout(PATIENCE, refused).await, Ok(Code::PermissionDenied));
    }

    #[test]
    fn nobody_in_quarantine_is_believed() {
        const ORDERS: &str = "spiffe://shop.local/mesh/shop/node/orders";
        let signer = JwtSigner::generate().unwrap();
        let (keys, id) = (keys_of("shop.local", &signer), SpiffeId::parse(ORDERS).unwrap());
        let token = token(&signer, ORDERS);
        let denied = Denied::new();
        assert_eq!(*judge(&token, "db", &keys, &denied, now()).unwrap().id(), id);
        assert!(judge(&token, "other", &keys, &denied, now()).unwrap_err().contains("other"));
        denied.replace(Denylist { identities: [id].into(), ..Denylist::default() });
        assert!(judge(&token, "db", &keys, &denied, now()).unwrap_err().contains("quarantine"));
    }

    #[test]
    fn tokens_of_a_revoked_instance_or_of_one_on_hold_prove_nothing() {
        let signer = JwtSigner::generate().unwrap();
        let keys = keys_of("shop.local", &signer);
        let [one, other]: [InstanceId; 2] = ["0123456789", "vj85pstwk8"].map(|id| id.parse().unwrap());
        let denied = Denied::new();
        let seen = |id: &str| {
            [Some(one), Some(other), None].map(|instance| {
                let number = instance.map(|instance| Serial::of_instance(instance, [7; 16]).to_string());
                let number = number.unwrap_or_else(|| "hvBMkVQ8JRr8Q0c1ZC9Pzw".to_owned());
                match judge(&numbered(&signer, id, &number), "db", &keys, &denied, now()) {
                    Ok(_) => "good",
                    Err(reason) if reason.contains("revoked") => "revoked",
                    Err(reason) if reason.contains("quarantine") => "on hold",
                    Err(_) => "no token",
                }
            })
        };
        for id in ["spiffe://shop.local/mesh/shop/node/orders", "spiffe://shop.local/workload/worker"] {
            denied.replace(Denylist::default());
            assert_eq!(seen(id), ["good"; 3]);
            denied.replace(Denylist { instances: [one].into(), ..Denylist::default() });
            assert_eq!(
                seen(id),
                ["revoked", "good", "good"],
                "of an earlier release nobody knows whose it is"
            );
            denied.replace(Denylist { held_instances: [other].into(), ..Denylist::default() });
            assert_eq!(seen(id), ["good", "on hold", "good"]);
        }
    }

    #[tokio::test]
    async fn what_another_domain_numbers_its_tokens_by_says_nothing_of_our_instances() {
        const THEIRS: &str = "spiffe://partner.example/payments";
        let served = Served::new();
        let theirs = JwtSigner::generate().unwrap();
        let nobody = TrustBundle::empty(domain("partner.example"));
        let document = bundle_document(&nobody, &keys_of("partner.example", &theirs), None, None);
        let bundle = SpiffeBundle::parse(&domain("partner.example"), document.as_bytes()).unwrap();
        assert!(served.live.publish_federated([Arc::new(bundle)].into_iter().collect()));
        let federates_with = vec!["partner.example".to_owned()];
        let entries = vec![pb::WorkloadEntry { federates_with, ..worker() }];
        served.board.take_entries(pb::WorkloadEntries { entries });
        let instance: InstanceId = "0123456789".parse().unwrap();
        served.shared.denied.replace(Denylist { instances: [instance].into(), ..Denylist::default() });
        let number = Serial::of_instance(instance, [7; 16]).to_string();
        let token = numbered(&theirs, THEIRS, &number);
        assert_eq!(validated(&served.api(), token).await, Ok(THEIRS.to_owned()));
    }

    #[tokio::test]
    async fn no_token_is_vouched_for_while_it_is_not_known_who_is_revoked() {
        let served = Served::new();
        let signer = JwtSigner::generate().unwrap();
        let jwks = keys_of("shop.local", &signer).to_jwks(KeyUse::Unsaid);
        let told = pb::JwtKeys { jwks, ..pb::JwtKeys::default() };
        served.board.take_jwt_keys(&told, &domain("shop.local")).unwrap();
        let (id, number) = ("spiffe://shop.local/workload/billing", Serial::from_random([7; 16]).to_string());
        let token = || numbered(&signer, id, &number);
        served.shared.denied.lose();
        let (code, _) = validated(&served.api(), token()).await.unwrap_err();
        assert_eq!(code, Code::Unavailable);
        served.shared.denied.replace(Denylist::default());
        assert_eq!(validated(&served.api(), token()).await, Ok(id.to_owned()));
    }

    #[tokio::test]
    async fn no_token_is_vouched_for_once_our_own_certificate_has_ended_or_before_it_begins() {
        let served = Served::new();
        let signer = JwtSigner::generate().unwrap();
        let jwks = keys_of("shop.local", &signer).to_jwks(KeyUse::Unsaid);
        let told = pb::JwtKeys { jwks, ..pb::JwtKeys::default() };
        served.board.take_jwt_keys(&told, &domain("shop.local")).unwrap();
        let request = || ValidateJwtsvidRequest {
            audience: "db".to_owned(),
            svid: token(&signer, "spiffe://shop.local/workload/billing"),
        };
        let api = served.api();
        assert!(validate(&api, request()).await.is_ok());
        let ended = Validity::new(now().minus(2 * HOUR), now().minus(HOUR)).unwrap();
        // As where this host's clock was set back.
        let to_come = Validity::new(now().plus(HOUR), now().plus(2 * HOUR)).unwrap();
        for (validity, reason) in [(ended, refusal::CERTIFICATE_ENDED), (to_come, refusal::NOT_JOINED)] {
            let StoredIdentity { svid, key, .. } =
                Authorities::new().identity("mesh/shop/node/web", validity);
            served.live.publish(svid, &key).unwrap();
            let refused = validate(&api, request()).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unavailable);
            assert_eq!(refusal::reason(&refused).as_deref(), Some(reason), "{refused}");
        }
    }
}
