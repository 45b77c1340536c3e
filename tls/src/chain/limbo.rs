//! The core cases of x509-limbo: everything that the verifier checks but the SPIFFE id, which no case has.
//!
//! Judged without the rules on key usage, which would refuse most of the suite by themselves, since its leaves seldom
//! have any; cases that are about extended key usage are held against the rule on that too. Every case is judged, and
//! `tests/limbo-exceptions.json` lists each that comes out otherwise than the suite says, and why: where the rules on
//! chains differ from the suite's, and, marked as `beside`, where the suite asks for what is asked of nobody here:
//! names of hosts, lists of what is revoked, rules for browsers. Both are counted, and what is accepted against the
//! suite's word by itself.

use std::collections::BTreeMap;
use std::path::Path;

use hauberk_identity::TrustDomain;
use rustls_pki_types::ServerName;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use x509_parser::time::ASN1Time;

use super::*;
use crate::skipped::shared;
use crate::verifier::check_purpose;

#[derive(Deserialize)]
struct Suite {
    testcases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    id: String,
    features: Vec<String>,
    validation_kind: String,
    trusted_certs: Vec<String>,
    untrusted_intermediates: Vec<String>,
    peer_certificate: String,
    validation_time: Option<String>,
    expected_result: String,
    expected_peer_name: Option<PeerName>,
}

#[derive(Deserialize)]
struct PeerName {
    kind: String,
    value: String,
}

#[derive(Deserialize)]
struct Exception {
    /// What we answer: `SUCCESS` or `FAILURE`.
    actual: String,
    reason: String,
    /// Nothing follows from the case for an SVID.
    #[serde(default)]
    beside: bool,
}

#[test]
fn agrees_with_x509_limbo_but_for_what_is_listed() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let Some(vectors) = shared("vectors/x509/limbo-core.json") else { return };
    let suite: Suite = serde_json::from_str(&std::fs::read_to_string(&vectors).unwrap()).unwrap();
    let listed = std::fs::read_to_string(here.join("tests/limbo-exceptions.json")).unwrap();
    let mut exceptions: BTreeMap<String, Exception> = serde_json::from_str(&listed).unwrap();

    assert_eq!(suite.testcases.len(), 208, "{} is another", vectors.display());
    let differ = exceptions.values().filter(|exception| !exception.beside).count();
    assert!(differ <= 10, "{differ} exceptions are no exceptions");
    // These lists only shrink.
    let accepted = |beside| {
        let accepted = |exception: &&Exception| exception.actual == "SUCCESS" && exception.beside == beside;
        exceptions.values().filter(accepted).count()
    };
    assert_eq!((accepted(false), accepted(true)), (1, 22), "accepted against the suite's word");
    let mut surprises = Vec::new();
    for case in &suite.testcases {
        let (actual, why) = match judge(case) {
            Ok(()) => ("SUCCESS", "accepted".to_owned()),
            Err(why) => ("FAILURE", why),
        };
        match exceptions.remove(&case.id) {
            Some(exception) if exception.actual == actual && actual != case.expected_result => {
                assert!(!exception.reason.is_empty(), "{} has no reason", case.id);
            }
            Some(_) => surprises.push(format!("{}: listed, but {actual} ({why}) now agrees", case.id)),
            None if actual == case.expected_result => {}
            None => {
                surprises.push(format!("{}: {actual} instead of {} ({why})", case.id, case.expected_result))
            }
        }
    }
    surprises.extend(exceptions.into_keys().map(|id| format!("{id}: listed, but not in the suite")));
    assert!(surprises.is_empty(), "{} surprises:\n{}", surprises.len(), surprises.join("\n"));
}

fn judge(case: &Case) -> Result<(), String> {
    let usage = if case.validation_kind == "CLIENT" { Usage::Client } else { Usage::Server };
    let secs = match &case.validation_time {
        Some(time) => parse_time(time),
        None => UnixTime::now().as_secs(),
    };
    let domain = TrustDomain::parse("limbo.test").unwrap();
    let roots = case.trusted_certs.iter().map(|pem| certificate(pem)).collect::<Result<Vec<_>, _>>()?;
    let bundle = TrustBundle::new(domain, roots).map_err(|error| error.to_string())?;
    let leaf = certificate(&case.peer_certificate)?;
    let others =
        case.untrusted_intermediates.iter().map(|pem| certificate(pem)).collect::<Result<Vec<_>, _>>()?;
    let now = UnixMillis::from_secs(secs);
    let (facts, _) = verify_chain(&leaf, &others, &bundle, now, usage).map_err(|error| error.to_string())?;
    if case.features.iter().any(|feature| feature == "pedantic-webpki-eku") {
        check_purpose(&facts, usage).map_err(|error| error.to_string())?;
    }
    if let Some(name) = case.expected_peer_name.as_ref().filter(|name| name.kind != "RFC822") {
        let name = ServerName::try_from(name.value.as_str()).map_err(|error| error.to_string())?;
        let leaf = EndEntityCert::try_from(&leaf).map_err(|error| error.to_string())?;
        leaf.verify_is_valid_for_subject_name(&name).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn certificate(pem: &str) -> Result<CertificateDer<'static>, String> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| error.to_string())
}

/// Seconds from the epoch of a time such as `2024-01-01T00:00:00+00:00`.
fn parse_time(text: &str) -> u64 {
    let digits: String = text[..19].chars().filter(char::is_ascii_digit).collect();
    let der = [b"\x18\x0f", digits.as_bytes(), b"Z"].concat();
    let (_, time) = <ASN1Time as x509_parser::prelude::FromDer<_>>::from_der(&der).unwrap();
    u64::try_from(time.timestamp()).unwrap()
}
