//! What is DER, and what begins TLS.

use hauberk_tls::cms::DocumentSigners;
use hauberk_tls::device::DeviceAuthorities;
use hauberk_tls::{
    CertificateRequest, CrlEntry, CrlIssue, Greeting, Svid, Usage, certificates_from_pem,
    certificates_to_pem, unverified_id, verify_kept_crl, verify_svid,
};

use crate::Target;
use crate::keys::{Chain, NOW, key, orders};

/// Whoever has a request accepted has the private key: of the keys in the seeds nobody else has one.
pub(crate) fn certificate_request() -> Target {
    let request = CertificateRequest::create(&key(3)).expect("a request");
    let known = key(3).public_key().fingerprint();
    Target::new("certificate_request", [request], move |bytes| {
        let read = CertificateRequest::read(bytes);
        let parsed = CertificateRequest::parse(bytes);
        if let Ok(key) = &parsed {
            assert_eq!(key.fingerprint(), known, "possession of another key was proved");
        }
        assert!(read.is_err() || parsed.is_ok(), "what is read with its wishes is read without them");
        read.is_ok()
    })
}

/// A leaf that was not signed as it stands is nobody's.
pub(crate) fn certificate_chain() -> Target {
    let chain = Chain::new();
    let leaf = chain.svid.chain().first().cloned().expect("a leaf");
    let bundle = chain.issuing.root_bundle().clone();
    Target::new("certificate_chain", [chain.concatenated()], move |bytes| {
        let Ok(svid) = Svid::from_concatenated_der(bytes) else { return false };
        let verified =
            [Usage::Client, Usage::Server].map(|usage| verify_svid(svid.chain(), &bundle, NOW, usage));
        for peer in verified.iter().flatten() {
            assert_eq!(svid.chain().first(), Some(&leaf), "another leaf is believed");
            assert_eq!(peer.id(), &orders());
        }
        let first = svid.chain().first().expect("a chain has a leaf");
        assert_eq!(unverified_id(first).as_ref(), Ok(svid.id()));
        let again = certificates_from_pem(&certificates_to_pem(svid.chain()));
        assert_eq!(again.as_deref(), Ok(svid.chain()), "PEM says the same");
        verified.iter().all(Result::is_ok)
    })
}

/// The same of a machine's certificate, by the rules for those.
pub(crate) fn device_chain() -> Target {
    let chain = Chain::new();
    let leaf = chain.svid.chain().first().cloned().expect("a leaf");
    let authorities =
        DeviceAuthorities::from_pem(&chain.issuing.root_bundle().to_pem()).expect("an authority");
    Target::new("device_chain", [chain.concatenated()], move |bytes| {
        let Ok(svid) = Svid::from_concatenated_der(bytes) else { return false };
        let is_believed = authorities.verify(svid.chain(), NOW).is_ok();
        assert!(!is_believed || svid.chain().first() == Some(&leaf), "another machine is believed");
        is_believed
    })
}

/// A list that was kept is believed only with what was signed of it. What stands around that is ours to write.
pub(crate) fn revocation_list() -> Target {
    let chain = Chain::new();
    let entries = [false, true].map(|is_on_hold| CrlEntry {
        serial: hauberk_identity::Serial::from_random([if is_on_hold { 8 } else { 9 }; 16]),
        revoked_at: NOW,
        is_on_hold,
    });
    let next_update = NOW.plus(std::time::Duration::from_secs(3600));
    let issue = CrlIssue { number: 7, this_update: NOW, next_update };
    let list = chain.issuing.sign_crl(&entries, issue).expect("a list");
    // The first of the three parts of a CertificateList (RFC 5280 §5.1), after the header of the whole.
    let signed = list.get(4..).and_then(|rest| {
        let length = u16::from_be_bytes(rest.get(2..4)?.try_into().ok()?);
        rest.get(..4 + usize::from(length)).map(<[u8]>::to_vec)
    });
    let signed = signed.expect("a list of more than 255 bytes");
    Target::new("revocation_list", [list], move |bytes| {
        let is_believed = verify_kept_crl(bytes, chain.issuing.certificate()).is_ok();
        assert!(
            !is_believed || bytes.windows(signed.len()).any(|part| part == signed),
            "another list is believed"
        );
        is_believed
    })
}

/// A cloud's document is believed with the content that was signed. What else stands in it may be spelt otherwise:
/// nobody reads it.
pub(crate) fn signed_document() -> Target {
    let signers = DocumentSigners::from_pem(include_str!("../seeds/signer.pem")).expect("a signer");
    let document = include_bytes!("../seeds/document.p7");
    let content = signers.verify(document, NOW).expect("a document").content;
    Target::new("signed_document", [&document[..]], move |bytes| {
        let signed = signers.verify(bytes, NOW);
        assert!(signed.iter().all(|signed| signed.content == content), "another content is believed");
        signed.is_ok()
    })
}

/// What was read of a beginning stays true when more comes.
pub(crate) fn client_hello() -> Target {
    let hello = include_bytes!("../seeds/client_hello.bin");
    Target::new("client_hello", [&hello[..]], |bytes| {
        let whole = Greeting::of(bytes);
        // Anywhere, and at the same place for the same bytes.
        let spread = |sum: usize, byte: &u8| sum.wrapping_mul(31).wrapping_add(usize::from(*byte));
        let cut = bytes.iter().fold(7, spread) % (bytes.len() + 1);
        match Greeting::of(bytes.get(..cut).unwrap_or(bytes)) {
            Greeting::Incomplete => {}
            known => assert_eq!(known, whole, "a part of it said otherwise than all of it"),
        }
        matches!(whole, Greeting::Hello(Some(_)))
    })
}
