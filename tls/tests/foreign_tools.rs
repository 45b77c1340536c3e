//! What OpenSSL, which nobody here wrote, makes of our certificates.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hauberk_identity::{Name, Serial, SpiffeId, TrustDomain, UnixMillis, Validity};
use hauberk_tls::{CertificateRequest, IssuingAuthority, KeyPair, RootAuthority, SvidTemplate};
use rustls_pki_types::UnixTime;

#[allow(dead_code, unreachable_pub, reason = "what these tests lack, those of other crates do not")]
#[path = "../../integration-tests/src/skipped.rs"]
mod skipped;

#[test]
fn openssl_accepts_svids_strictly_and_refuses_to_let_them_issue() {
    if Command::new("openssl").arg("version").output().is_err() {
        return skipped::skip("openssl is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let now = UnixMillis::from_secs(UnixTime::now().as_secs());
    let around = |hours: u32| {
        let span = Duration::from_secs(3600) * hours;
        Validity::new(now.minus(span), now.plus(span)).unwrap()
    };
    let domain = TrustDomain::parse("example.org").unwrap();
    let root = RootAuthority::create(&domain, around(9), Serial::from_random([1; 16])).unwrap();
    let issuing = IssuingAuthority::create(&root, around(8), Serial::from_random([2; 16])).unwrap();
    let key = KeyPair::generate().unwrap();
    let request = CertificateRequest::create(&key).unwrap();
    let svid = issuing
        .sign(&SvidTemplate {
            id: SpiffeId::control_plane(&domain, &Name::parse("a").unwrap()),
            public_key: CertificateRequest::parse(&request).unwrap(),
            serial: Serial::from_random([3; 16]),
            validity: around(1),
            dns_names: vec!["localhost".into()],
            ip_addresses: vec!["127.0.0.1".parse().unwrap()],
        })
        .unwrap();
    let write = |name: &str, contents: &[u8]| std::fs::write(folder.path().join(name), contents).unwrap();
    write("root.pem", issuing.root_bundle().to_pem().as_bytes());
    write("issuing.der", issuing.certificate());
    write("chain.pem", svid.to_pem().as_bytes());
    write("request.der", &request);
    write("key.pem", key.to_pkcs8_pem().as_bytes());

    let verify = ["verify", "-x509_strict", "-CAfile", "root.pem", "-untrusted", "chain.pem"];
    for purpose in ["sslserver", "sslclient"] {
        openssl(folder.path(), &[&verify[..], &["-purpose", purpose, "chain.pem"]].concat());
    }
    openssl(folder.path(), &[&verify[..], &["-verify_hostname", "localhost", "chain.pem"]].concat());
    openssl(folder.path(), &["verify", "-x509_strict", "-CAfile", "root.pem", "issuing.der"]);
    openssl(folder.path(), &["req", "-inform", "DER", "-in", "request.der", "-verify", "-noout"]);
    let text = openssl(folder.path(), &["x509", "-in", "chain.pem", "-noout", "-text"]);
    for line in [
        "URI:spiffe://example.org/control-plane/a, DNS:localhost, IP Address:127.0.0.1",
        "X509v3 Subject Alternative Name: critical",
        "X509v3 Key Usage: critical\n                Digital Signature\n",
        "TLS Web Server Authentication, TLS Web Client Authentication\n",
        "X509v3 Basic Constraints: critical\n                CA:FALSE\n",
        "X509v3 Authority Key Identifier",
        "X509v3 Subject Key Identifier",
    ] {
        assert!(text.contains(line), "{line:?} is missing in {text}");
    }
    let text = openssl(folder.path(), &["x509", "-in", "issuing.der", "-noout", "-text"]);
    for line in ["CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign\n", "URI:spiffe://example.org\n"] {
        assert!(text.contains(line), "{line:?} is missing in {text}");
    }
}

#[test]
fn requests_by_weak_keys_of_openssls_are_refused() {
    if Command::new("openssl").arg("version").output().is_err() {
        return skipped::skip("openssl is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let request = |key: &[&str], more: &[&str]| {
        let making = [&["genpkey", "-out", "key.pem"], key].concat();
        openssl(folder.path(), &making);
        let asking =
            ["req", "-new", "-key", "key.pem", "-subj", "/CN=x", "-outform", "DER", "-out", "request.der"];
        openssl(folder.path(), &[&asking[..], more].concat());
        CertificateRequest::parse(&std::fs::read(folder.path().join("request.der")).unwrap())
    };
    let ec = |curve: &'static str| ["-algorithm", "EC", "-pkeyopt", curve];
    let rsa = |bits: &'static str| ["-algorithm", "RSA", "-pkeyopt", bits];
    let (p256, rsa2048) = (ec("ec_paramgen_curve:P-256"), rsa("rsa_keygen_bits:2048"));
    assert!(request(&p256, &[]).is_ok() && request(&rsa2048, &[]).is_ok());
    for (key, more) in [
        (rsa("rsa_keygen_bits:1024"), &[][..]),
        (rsa("rsa_keygen_bits:2047"), &[]),
        (ec("ec_paramgen_curve:secp224r1"), &[]),
        (ec("ec_paramgen_curve:secp256k1"), &[]),
        // A good key, and a proof of possession that proves little.
        (p256, &["-sha1"]),
        (rsa2048, &["-sha1"]),
    ] {
        assert!(request(&key, more).is_err(), "{key:?} {more:?}");
    }
}

#[cfg(test)]
fn openssl(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}
