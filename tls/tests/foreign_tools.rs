//! What OpenSSL, which nobody here wrote, makes of our certificates.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hauberk_identity::{Name, Serial, SpiffeId, TrustDomain, UnixMillis, Validity};
use hauberk_tls::device::{DeviceAuthorities, DeviceKey};
use hauberk_tls::{
    CertificateDer, CertificateRequest, IssuingAuthority, KeyPair, RootAuthority, SvidTemplate, UpstreamChain,
};
use rustls_pki_types::UnixTime;
use rustls_pki_types::pem::PemObject;

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

/// As EasyRSA has it, and whoever configures OpenSSL so: who signed is told by key id, name and serial number.
const ISSUER_ALWAYS: &str = "
[req]
distinguished_name = dn
[dn]
[root]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always, issuer:always
[machine]
basicConstraints = CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always, issuer:always
[issuing]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always, issuer:always
subjectAltName = URI:spiffe://example.org
";

#[test]
fn authorities_that_name_their_issuer_and_its_serial_number_are_taken() {
    if Command::new("openssl").arg("version").output().is_err() {
        return skipped::skip("openssl is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let (path, at) = (folder.path(), |name: &str| folder.path().join(name));
    std::fs::write(at("ca.cnf"), ISSUER_ALWAYS).unwrap();
    let domain = TrustDomain::parse("example.org").unwrap();
    let own = KeyPair::generate().unwrap();
    let (own_key, own_public) = (KeyPair::from_pkcs8_pem(&own.to_pkcs8_pem()).unwrap(), own.public_key());
    let request = IssuingAuthority::request(&domain, &own.into(), Serial::from_random([7; 16])).unwrap();
    std::fs::write(at("issuing.csr"), CertificateRequest::to_pem(&request)).unwrap();
    for key in ["root", "machine"] {
        let file = format!("{key}.key");
        let curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
        openssl(path, &[&["genpkey", "-out", &file][..], &curve].concat());
    }
    let config = ["-config", "ca.cnf"];
    let root = ["req", "-x509", "-new", "-key", "root.key", "-subj", "/CN=Easy", "-days", "30"];
    openssl(path, &[&root[..], &config, &["-extensions", "root", "-out", "root.pem"]].concat());
    let machine = ["req", "-new", "-key", "machine.key", "-subj", "/CN=vm-1", "-out", "machine.csr"];
    openssl(path, &[&machine[..], &config].concat());
    let read = |name: &str| std::fs::read_to_string(at(name)).unwrap();
    for name in ["machine", "issuing"] {
        let (csr, pem) = (format!("{name}.csr"), format!("{name}.pem"));
        let signing = ["x509", "-req", "-in", &csr, "-CA", "root.pem", "-CAkey", "root.key", "-out", &pem];
        let more = ["-CAcreateserial", "-days", "7", "-extfile", "ca.cnf", "-extensions", name];
        openssl(path, &[&signing[..], &more].concat());
        let text = openssl(path, &["x509", "-in", &pem, "-noout", "-text"]);
        assert!(text.contains("DirName:/CN=Easy") && text.contains("serial:"), "{text}");
    }

    let now = UnixMillis::from_secs(UnixTime::now().as_secs());
    let key = read("machine.key");
    let own_device = DeviceKey::from_pem(&read("machine.pem"), key.as_bytes()).unwrap();
    let authorities = DeviceAuthorities::from_pem(&read("root.pem")).unwrap();
    let device = authorities.verify(own_device.chain(), now).unwrap();
    assert_eq!(device.facts().common_names, ["vm-1"]);

    let der = |name: &str| CertificateDer::from_pem_slice(read(name).as_bytes()).unwrap();
    let given = [der("issuing.pem"), der("root.pem")];
    let chain = UpstreamChain::find(&domain, &own_public, &given, None, &[], now).unwrap();
    IssuingAuthority::adopt(&chain, own_key, Vec::new(), Vec::new(), now).unwrap();
}

/// As an authority has it that was made before key ids were usual: what it signs names it by name and serial number.
const WITHOUT_KEY_IDS: &str = "
[req]
distinguished_name = dn
[dn]
[root]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = none
authorityKeyIdentifier = none
[machine]
basicConstraints = CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid, issuer
";

#[test]
fn machines_of_an_authority_without_a_key_id_are_taken() {
    if Command::new("openssl").arg("version").output().is_err() {
        return skipped::skip("openssl is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let (path, at) = (folder.path(), |name: &str| folder.path().join(name));
    std::fs::write(at("ca.cnf"), WITHOUT_KEY_IDS).unwrap();
    for key in ["root.key", "machine.key"] {
        let curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
        openssl(path, &[&["genpkey", "-out", key][..], &curve].concat());
    }
    let config = ["-config", "ca.cnf"];
    let root = ["req", "-x509", "-new", "-key", "root.key", "-subj", "/CN=Old", "-days", "30"];
    openssl(path, &[&root[..], &config, &["-extensions", "root", "-out", "root.pem"]].concat());
    let machine = ["req", "-new", "-key", "machine.key", "-subj", "/CN=vm-1", "-out", "machine.csr"];
    openssl(path, &[&machine[..], &config].concat());
    let signing = ["x509", "-req", "-in", "machine.csr", "-CA", "root.pem", "-CAkey", "root.key"];
    let more = ["-CAcreateserial", "-days", "7", "-extfile", "ca.cnf", "-extensions", "machine"];
    openssl(path, &[&signing[..], &more, &["-out", "machine.pem"]].concat());
    let text = openssl(path, &["x509", "-in", "machine.pem", "-noout", "-ext", "authorityKeyIdentifier"]);
    assert!(text.contains("DirName:/CN=Old") && !text.contains("keyid"), "{text}");

    let now = UnixMillis::from_secs(UnixTime::now().as_secs());
    let read = |name: &str| std::fs::read_to_string(at(name)).unwrap();
    let own_device = DeviceKey::from_pem(&read("machine.pem"), read("machine.key").as_bytes()).unwrap();
    let authorities = DeviceAuthorities::from_pem(&read("root.pem")).unwrap();
    let device = authorities.verify(own_device.chain(), now).unwrap();
    assert_eq!(device.facts().common_names, ["vm-1"]);
}

#[cfg(test)]
fn openssl(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}
