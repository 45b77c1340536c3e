//! Wycheproof's vectors of signatures and of keys. Where we differ, we are the stricter, and a list says why.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::{JwtBundle, jws};
use super::domain;
use crate::skipped::shared;

/// Signatures that the suite calls valid and that are refused here.
const STRICTER_SIGNATURES: &[(&[u64], &str)] = &[
    (&[1, 348, 352, 357, 358, 359, 376, 377], "an HMAC: whoever verifies it could have made it"),
    (&[346, 350], "PS384 by a key that is for PS256"),
    (&[347, 351], "the key names an algorithm that there is not, ES521"),
    (&[372, 373], "characters outside of base64url, which the suite lets decoders pass over"),
];

/// The same of keys.
const STRICTER_KEYS: &[(&[u64], &str)] = &[(&[2, 13, 14, 15], "an HMAC, as above")];

/// The tokens accepted and refused otherwise than the suite says, by case.
fn differences(file: &str) -> Option<(usize, BTreeMap<u64, String>)> {
    let path = shared(&format!("vectors/wycheproof/{file}"))?;
    let suite: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let (mut count, mut differences) = (0, BTreeMap::new());
    for group in suite["testGroups"].as_array().unwrap() {
        let key = group.get("public").or_else(|| group.get("private")).unwrap();
        let set = if key.get("keys").is_some() { key.clone() } else { json!({ "keys": [key] }) };
        let keys = JwtBundle::from_jwks(domain("shop.test"), set.to_string().as_bytes());
        for case in group["tests"].as_array().unwrap() {
            let token = case["jws"].as_str().unwrap_or_default();
            let outcome = match &keys {
                Ok(keys) => jws::verify(token, jws::Types::Exactly(&["JWT", "JOSE"]), keys.key_set())
                    .map(drop)
                    .map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            let should = case["result"] == "valid";
            if outcome.is_ok() != should {
                let words = format!("{} {}: {outcome:?}", group["comment"], case["comment"]);
                differences.insert(case["tcId"].as_u64().unwrap(), words);
            }
            count += 1;
        }
    }
    Some((count, differences))
}

fn listed(lists: &[&[(&[u64], &str)]]) -> Vec<u64> {
    let mut cases: Vec<u64> =
        lists.iter().flat_map(|list| list.iter()).flat_map(|(cases, _)| cases.iter().copied()).collect();
    cases.sort_unstable();
    cases
}

#[test]
fn signatures() {
    let Some((count, differences)) = differences("json_web_signature_test.json") else { return };
    assert_eq!(count, 401);
    let cases: Vec<u64> = differences.keys().copied().collect();
    assert_eq!(cases, listed(&[STRICTER_SIGNATURES]), "{differences:#?}");
    assert!(differences.values().all(|words| words.contains("Err(")), "{differences:#?}");
}

#[test]
fn keys() {
    let Some((count, differences)) = differences("json_web_key_test.json") else { return };
    assert_eq!(count, 26);
    let cases: Vec<u64> = differences.keys().copied().collect();
    assert_eq!(cases, listed(&[STRICTER_KEYS]), "{differences:#?}");
}
