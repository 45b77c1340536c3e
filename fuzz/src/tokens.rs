//! Tokens and keys in JSON.

use std::time::Duration;

use hauberk_tls::jwt::{
    Claims, JwtBundle, JwtKeySet, JwtSigner, KeyUse, UserTokens, unverified_issuer, unverified_key_id,
    unverified_trust_domain, verify_jwt_svid,
};
use hauberk_tls::{SpiffeBundle, bundle_document};

use crate::Target;
use crate::keys::{Chain, NOW, orders, pkcs8, trust_domain};

const AUDIENCE: &str = "payments";
const ISSUER: &str = "https://login.shop.example";

fn signer() -> JwtSigner {
    JwtSigner::from_pkcs8_der(&pkcs8(4)).expect("a key")
}

fn keys() -> JwtKeySet {
    JwtKeySet::new([signer().public_key().expect("a public key")]).expect("a set")
}

fn token() -> String {
    let claims = Claims {
        id: &orders(),
        audience: &[AUDIENCE.to_owned()],
        issued_at: NOW,
        expires_at: NOW.plus(Duration::from_secs(300)),
        token_id: "1",
        issuer: Some(ISSUER),
    };
    signer().sign(&claims).expect("a token").to_string()
}

/// No other token is believed than the one that was signed, not even one that only is spelt otherwise.
pub(crate) fn jwt_svid() -> Target {
    let token = token();
    let bundle =
        JwtBundle::new(trust_domain(), [signer().public_key().expect("a public key")]).expect("a bundle");
    let seed = token.clone();
    Target::of_text("jwt_svid", [seed.as_str()], move |text| {
        let _ = (unverified_key_id(text), unverified_trust_domain(text));
        let is_believed = verify_jwt_svid(text, AUDIENCE, &bundle, NOW).is_ok();
        assert!(!is_believed || text == token, "another token is believed");
        is_believed
    })
}

/// The same by the rules for tokens of users.
pub(crate) fn user_token() -> Target {
    let (token, keys) = (token(), keys());
    let seed = token.clone();
    Target::of_text("user_token", [seed.as_str()], move |text| {
        let _ = unverified_issuer(text);
        let audiences = [AUDIENCE.to_owned()];
        let tokens =
            UserTokens { issuer: ISSUER, audiences: &audiences, audience_is_client: false, keys: &keys };
        let is_believed = tokens.verify(text, NOW).is_ok();
        assert!(!is_believed || text == token, "another token is believed");
        is_believed
    })
}

/// What is read of a set is written as it was read, and whoever passes unusable keys over reads no others.
pub(crate) fn jwk_set() -> Target {
    let set = keys().to_jwks(KeyUse::Signature);
    Target::new("jwk_set", [set], |bytes| {
        let fingerprints =
            |set: &JwtKeySet| set.keys().map(|key| (key.id().to_owned(), key.fingerprint())).collect();
        let strict: Option<Vec<_>> = JwtKeySet::from_jwks(bytes).ok().as_ref().map(fingerprints);
        if let Ok(set) = JwtKeySet::from_jwks(bytes) {
            let again = JwtKeySet::from_jwks(set.to_jwks(KeyUse::Signature).as_bytes()).expect("our own set");
            assert_eq!(strict, Some(fingerprints(&again)));
        }
        if let (Ok((lenient, passed_over)), Some(strict)) = (JwtKeySet::of_issuer(bytes), &strict)
            && passed_over.is_empty()
        {
            assert_eq!(&fingerprints(&lenient), strict);
        }
        strict.is_some()
    })
}

/// What is read of a bundle is written as it was read.
pub(crate) fn spiffe_bundle() -> Target {
    let jwt =
        JwtBundle::new(trust_domain(), [signer().public_key().expect("a public key")]).expect("a bundle");
    let hint = Some(Duration::from_secs(300));
    let document = bundle_document(Chain::new().issuing.root_bundle(), &jwt, Some(7), hint);
    Target::new("spiffe_bundle", [document], |bytes| {
        let Ok(bundle) = SpiffeBundle::parse(&trust_domain(), bytes) else { return false };
        let again =
            SpiffeBundle::parse(&trust_domain(), bundle.to_document().as_bytes()).expect("our own document");
        assert!(again.has_same_keys(&bundle), "its keys are others when it is read again");
        assert_eq!((again.sequence(), again.refresh_hint()), (bundle.sequence(), bundle.refresh_hint()));
        true
    })
}
