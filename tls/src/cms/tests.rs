use std::process::{Command, Stdio};

use rcgen::{CertificateParams, DnType, KeyPair, RsaKeySize, SigningKey};

use super::*;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const CONTENT: &[u8] = br#"{"accountId": "123456789012", "instanceId": "i-0123456789abcdef0"}"#;

struct Cloud {
    key: KeyPair,
    der: Vec<u8>,
    pem: String,
}

impl Cloud {
    fn new() -> Self {
        let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "A cloud");
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2190, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        Self { der: certificate.der().to_vec(), pem: certificate.pem(), key }
    }

    fn signers(&self) -> DocumentSigners {
        DocumentSigners::from_pem(&self.pem).unwrap()
    }

    /// SignerInfo over `content`, in the manner of those who make instance identity documents.
    fn signature(&self, content: &[u8]) -> Vec<u8> {
        let (_, own) = X509Certificate::from_der(&self.der).unwrap();
        let oid = |bytes| tlv(OBJECT, &[bytes]);
        let attribute = |kind, value: Vec<u8>| tlv(SEQUENCE, &[&oid(kind), &tlv(SET, &[&value])]);
        let digest = tlv(OCTET_STRING, &[Fingerprint::of(content).as_bytes()]);
        let attributes = [attribute(CONTENT_TYPE, oid(DATA)), attribute(MESSAGE_DIGEST, digest)].concat();
        let signed = tlv(SET, &[&attributes]);
        self.signer_info(
            own.tbs_certificate.issuer.as_raw(),
            own.tbs_certificate.raw_serial(),
            &tlv(EXPLICIT_0, &[&attributes]),
            &self.key.sign(&signed).unwrap(),
        )
    }

    fn signer_info(&self, issuer: &[u8], serial: &[u8], attributes: &[u8], signature: &[u8]) -> Vec<u8> {
        let oid = |bytes| tlv(OBJECT, &[bytes]);
        let algorithm = |bytes| tlv(SEQUENCE, &[&oid(bytes), &[0x05, 0]]);
        let signer = tlv(SEQUENCE, &[issuer, &tlv(INTEGER, &[serial])]);
        tlv(
            SEQUENCE,
            &[
                &tlv(INTEGER, &[&[1]]),
                &signer,
                &algorithm(SHA_256),
                attributes,
                &algorithm(RSA),
                &tlv(OCTET_STRING, &[signature]),
            ],
        )
    }
}

fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let contents = parts.concat();
    let len = match contents.len() {
        len @ 0..=0x7f => vec![u8::try_from(len).unwrap()],
        len => [vec![0x82], u16::try_from(len).unwrap().to_be_bytes().to_vec()].concat(),
    };
    [&[tag], len.as_slice(), &contents].concat()
}

/// The same with an open length.
fn open(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    [&[tag, 0x80], parts.concat().as_slice(), &[0, 0]].concat()
}

/// A whole document around content and signatures, with open lengths and the content in parts.
fn document(content: &[u8], signatures: &[&[u8]]) -> Vec<u8> {
    let oid = |bytes| tlv(OBJECT, &[bytes]);
    let (one, other) = content.split_at(content.len() / 2);
    let text = open(0x24, &[&tlv(OCTET_STRING, &[one]), &tlv(OCTET_STRING, &[other])]);
    let encapsulated = open(SEQUENCE, &[&oid(DATA), &open(EXPLICIT_0, &[&text])]);
    let digests = tlv(SET, &[&tlv(SEQUENCE, &[&oid(SHA_256)])]);
    let signed_data =
        open(SEQUENCE, &[&tlv(INTEGER, &[&[1]]), &digests, &encapsulated, &tlv(SET, signatures)]);
    open(SEQUENCE, &[&oid(SIGNED_DATA), &open(EXPLICIT_0, &[&signed_data])])
}

#[test]
fn what_was_signed_comes_out_and_nothing_else() {
    let cloud = Cloud::new();
    let good = document(CONTENT, &[&cloud.signature(CONTENT)]);
    let verified = cloud.signers().verify(&good, NOW).unwrap();
    assert_eq!((verified.content.as_slice(), verified.signer), (CONTENT, Fingerprint::of(&cloud.der)));
    assert!(cloud.signers().holds(verified.signer));

    // Content beside the signature of another.
    let swapped = document(b"{}", &[&cloud.signature(CONTENT)]);
    assert_eq!(cloud.signers().verify(&swapped, NOW), Err(DocumentError::Digest));
    for at in 0..good.len() {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        // The version numbers, and the list of digests, say nothing.
        if let Ok(verified) = cloud.signers().verify(&flipped, NOW) {
            assert_eq!(verified.content, CONTENT, "byte {at}");
        }
        assert!(cloud.signers().verify(&good[..at], NOW).is_err(), "cut at {at}");
    }
    assert_eq!(cloud.signers().verify(&[good, vec![0]].concat(), NOW), Err(DocumentError::Malformed));
}

#[test]
fn a_second_signer_makes_nothing_of_the_first() {
    let (cloud, other) = (Cloud::new(), Cloud::new());
    let (ours, theirs) = (cloud.signature(CONTENT), other.signature(CONTENT));
    for signatures in [&[][..], &[&*ours, &theirs], &[&*theirs, &ours], &[&*ours, &ours]] {
        let refused = cloud.signers().verify(&document(CONTENT, signatures), NOW);
        assert_eq!(refused, Err(DocumentError::NotOneSignature));
    }
    // Somebody else's key under our signer's name.
    let (_, own) = X509Certificate::from_der(&cloud.der).unwrap();
    let own = &own.tbs_certificate;
    let forged = other.key.sign(CONTENT).unwrap();
    let forged = other.signer_info(own.issuer.as_raw(), own.raw_serial(), &[], &forged);
    let refused = cloud.signers().verify(&document(CONTENT, &[&forged]), NOW);
    assert_eq!(refused, Err(DocumentError::Signature));
    let refused = cloud.signers().verify(&document(CONTENT, &[&theirs]), NOW);
    assert_eq!(refused, Err(DocumentError::UnknownSigner));
    let late = NOW.plus(std::time::Duration::from_secs(200 * 365 * 86_400));
    let refused = cloud.signers().verify(&document(CONTENT, &[&ours]), late);
    assert_eq!(refused, Err(DocumentError::SignerNotValid(Fingerprint::of(&cloud.der))));
}

#[test]
fn a_signature_over_the_content_itself_does_as_well() {
    let cloud = Cloud::new();
    let (_, own) = X509Certificate::from_der(&cloud.der).unwrap();
    let own = &own.tbs_certificate;
    let bare = cloud.key.sign(CONTENT).unwrap();
    let info = cloud.signer_info(own.issuer.as_raw(), own.raw_serial(), &[], &bare);
    assert_eq!(cloud.signers().verify(&document(CONTENT, &[&info]), NOW).unwrap().content, CONTENT);
}

#[test]
fn hostile_lengths_and_depths_end_soon() {
    let signers = Cloud::new().signers();
    let deep = [0x30, 0x80].repeat(30_000);
    let long = [&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff][..], &[0; 100]].concat();
    let endless = [&[0x30, 0x80][..], &[0x05, 0x00].repeat(30_000)].concat();
    for wrong in [&deep[..], &long, &endless, b"", &[0x30], &[0x30, 0x80], &[0x04, 0x80, 0, 0], &[0x3f, 1, 0]]
    {
        assert_eq!(signers.verify(wrong, NOW), Err(DocumentError::Malformed));
    }
    assert_eq!(signers.verify(&[0; 70_000], NOW), Err(DocumentError::TooLong(70_000)));
}

#[test]
fn only_rsa_signs() {
    let key = KeyPair::generate().unwrap();
    let ec = CertificateParams::default().self_signed(&key).unwrap().pem();
    assert_eq!(DocumentSigners::from_pem(&ec).unwrap_err(), DocumentSignersError::NotRsa(1));
    assert_eq!(DocumentSigners::from_pem("").unwrap_err(), DocumentSignersError::NoCertificate);
    let broken = pem::encode("CERTIFICATE", b"nonsense");
    assert_eq!(DocumentSigners::from_pem(&broken).unwrap_err(), DocumentSignersError::Malformed(1));
    let many = Cloud::new().pem.repeat(129);
    assert_eq!(DocumentSigners::from_pem(&many).unwrap_err(), DocumentSignersError::TooMany(129));
}

/// Documents by a program that nobody here wrote, in both of its encodings.
#[test]
fn openssl_s_documents_verify() {
    let cloud = Cloud::new();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    std::fs::write(file("cert.pem"), &cloud.pem).unwrap();
    std::fs::write(file("key.pem"), cloud.key.serialize_pem()).unwrap();
    std::fs::write(file("content"), CONTENT).unwrap();
    for more in [&["-stream"][..], &[], &["-nocerts"], &["-noattr"]] {
        let run = Command::new("openssl")
            .args(["cms", "-sign", "-nodetach", "-binary", "-outform", "DER", "-md", "sha256"])
            .args(["-signer", "cert.pem", "-inkey", "key.pem", "-in", "content", "-out", "document"])
            .args(more)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .output();
        let Ok(run) = run else { return crate::skipped::skip("openssl is not installed") };
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let document = std::fs::read(file("document")).unwrap();
        let verified = cloud.signers().verify(&document, NOW);
        assert_eq!(verified.unwrap_or_else(|error| panic!("{more:?}: {error}")).content, CONTENT);
    }
}
