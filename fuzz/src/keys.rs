//! Keys that are the same in each run, so that what is signed in one is good in the next.

use hauberk_identity::{Name, Serial, SpiffeId, TrustDomain, UnixMillis, Validity};
use hauberk_tls::{IssuingAuthority, KeyPair, RootAuthority, Svid, SvidTemplate};

/// When all that is made here is valid.
pub(crate) const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const YEAR: std::time::Duration = std::time::Duration::from_secs(365 * 24 * 3600);

/// PKCS#8 (RFC 5208) of a P-256 key (RFC 5915) up to the private scalar.
const PKCS8: [u8; 35] = [
    0x30, 0x41, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06,
    0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04, 0x27, 0x30, 0x25, 0x02, 0x01, 0x01, 0x04,
    0x20,
];

/// The key whose private scalar is this number: nobody takes it for a secret.
pub(crate) fn pkcs8(scalar: u8) -> Vec<u8> {
    [&PKCS8[..], &[0; 31], &[scalar]].concat()
}

pub(crate) fn key(scalar: u8) -> KeyPair {
    KeyPair::from_pkcs8_der(&pkcs8(scalar)).expect("a P-256 key")
}

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::parse("shop.local").expect("a trust domain")
}

pub(crate) fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

pub(crate) fn orders() -> SpiffeId {
    SpiffeId::node(&trust_domain(), &name("shop"), &name("orders"))
}

/// A root, an issuing authority under it, and a certificate of that for `orders`.
pub(crate) struct Chain {
    pub(crate) issuing: IssuingAuthority,
    pub(crate) svid: Svid,
}

impl Chain {
    pub(crate) fn new() -> Self {
        let validity = Validity::new(NOW.minus(YEAR), NOW.plus(YEAR)).expect("a validity");
        let serial = |byte| Serial::from_random([byte; 16]);
        let root =
            RootAuthority::create_with(&trust_domain(), validity, serial(1), key(1).into()).expect("a root");
        let issuing = IssuingAuthority::create_with(&root, validity, serial(2), key(2).into());
        let issuing = issuing.expect("an issuing authority");
        let template = SvidTemplate {
            id: orders(),
            public_key: key(3).public_key(),
            serial: serial(3),
            validity,
            dns_names: vec!["orders.shop.example".to_owned()],
            ip_addresses: vec![],
        };
        let svid = issuing.sign(&template).expect("a certificate");
        Self { issuing, svid }
    }

    /// Its certificates one after another, as the Workload API has them.
    pub(crate) fn concatenated(&self) -> Vec<u8> {
        self.svid.chain().iter().flat_map(|certificate| certificate.as_ref()).copied().collect()
    }
}
