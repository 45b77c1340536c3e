use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, RsaKeySize, SanType,
};

use super::*;
use crate::bootstrap::{BootstrapTrust, bootstrap_connector};
use crate::key;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const DAY: Duration = Duration::from_secs(86_400);

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2028, 1, 1);
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn root_of(params: CertificateParams) -> Ca {
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Ca { der: certificate.der().clone(), pem: certificate.pem(), issuer: Issuer::new(params, key) }
}

fn root() -> Ca {
    root_of(authority("machines"))
}

impl Ca {
    fn below(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Ca { der: certificate.der().clone(), pem: certificate.pem(), issuer: Issuer::new(params, key) }
    }

    fn machine(&self, params: CertificateParams, key: &impl PublicKeyData) -> CertificateDer<'static> {
        params.signed_by(key, &self.issuer).unwrap().der().clone()
    }

    fn trusted(&self) -> DeviceAuthorities {
        DeviceAuthorities::from_pem(&self.pem).unwrap()
    }
}

fn machine() -> CertificateParams {
    let mut params = params("vm-1");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.subject_alt_names = vec![
        SanType::DnsName("VM-1.example".try_into().unwrap()),
        SanType::IpAddress("10.0.0.7".parse().unwrap()),
        SanType::URI("urn:vm:1".try_into().unwrap()),
    ];
    params
}

fn binding(byte: u8) -> ChannelBinding {
    ChannelBinding([byte; 32])
}

fn agent_key() -> PublicKey {
    key::KeyPair::generate().unwrap().public_key()
}

fn refusal(result: Result<Device, DeviceError>) -> DeviceError {
    result.unwrap_err()
}

#[test]
fn every_kind_of_key_proves_itself_and_no_other_statement() {
    let ca = root();
    let keys = [
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
        KeyPair::generate_for(&rcgen::PKCS_ED25519),
        KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048),
    ];
    for key in keys.map(Result::unwrap) {
        let certificate = ca.machine(machine(), &key);
        let pem = pem::encode("CERTIFICATE", &certificate);
        let own = DeviceKey::from_pem(&pem, key.serialize_pem().as_bytes()).unwrap();
        let device = ca.trusted().verify(own.chain(), NOW).unwrap();
        let agent = agent_key();
        let said = statement(&binding(1), &agent, "shop", "vms");
        let signature = own.prove(&said).unwrap();
        device.check_proof(&said, &signature).unwrap();
        // Another connection, agent, mesh or enrollment; and names that only together read the same.
        for other in [
            statement(&binding(2), &agent, "shop", "vms"),
            statement(&binding(1), &agent_key(), "shop", "vms"),
            statement(&binding(1), &agent, "shopv", "ms"),
            statement(&binding(1), &agent, "shop", "others"),
            said[PURPOSE.len()..].to_vec(),
        ] {
            assert_eq!(device.check_proof(&other, &signature), Err(DeviceError::Proof));
        }
        for at in 0..signature.len() {
            let mut flipped = signature.clone();
            flipped[at] ^= 1;
            assert_eq!(device.check_proof(&said, &flipped), Err(DeviceError::Proof), "byte {at}");
        }
        assert_eq!(device.check_proof(&said, &[]), Err(DeviceError::Proof));
    }
}

#[test]
fn a_machine_is_what_its_certificate_says() {
    let ca = root();
    let between = ca.below(authority("between"));
    let key = KeyPair::generate().unwrap();
    let mut asked = machine();
    asked.serial_number = Some(vec![0x51, 0x31].into());
    let chain = [between.machine(asked, &key), between.der.clone()];
    let device = ca.trusted().verify(&chain, NOW).unwrap();
    let DeviceFacts { key_fingerprint, serial, common_names, dns_names, uris, ip_addresses } = device.facts();
    assert_eq!(*key_fingerprint, Fingerprint::of(&key.subject_public_key_info()));
    assert_eq!((serial.to_string().as_str(), common_names.as_slice()), ("5131", &["vm-1".to_owned()][..]));
    assert_eq!(
        (dns_names.as_slice(), uris.as_slice()),
        (&["vm-1.example".to_owned()][..], &["urn:vm:1".to_owned()][..])
    );
    assert_eq!(ip_addresses, &["10.0.0.7".parse::<IpAddr>().unwrap()]);
    assert_eq!(device.authorities(), [Fingerprint::of(&between.der), Fingerprint::of(&ca.der)]);
    assert!(
        ca.trusted().holds(Fingerprint::of(&ca.der)) && !ca.trusted().holds(Fingerprint::of(&between.der))
    );
}

#[test]
fn whoever_is_not_vouched_for_is_refused() {
    let (ca, other) = (root(), root());
    let key = KeyPair::generate().unwrap();
    let verify = |chain: &[CertificateDer<'_>], now| ca.trusted().verify(chain, now);
    let good = ca.machine(machine(), &key);
    verify(std::slice::from_ref(&good), NOW).unwrap();
    assert_eq!(refusal(verify(&[], NOW)), VerifyError::NoCertificate.into());
    // Of the same name, and not the same.
    assert!(verify(&[other.machine(machine(), &key)], NOW).is_err());
    let late = verify(std::slice::from_ref(&good), NOW.plus(DAY * 365));
    assert!(matches!(refusal(late), DeviceError::Chain(VerifyError::Expired { .. })));
    let early = verify(&[good], NOW.minus(DAY * 730));
    assert!(matches!(refusal(early), DeviceError::Chain(VerifyError::NotYetValid { .. })));
    // All of them begin then: the clock of whoever issues may be a minute ahead of ours, and no more.
    let begins = UnixMillis::from_secs(1_767_225_600);
    let between = ca.below(authority("between"));
    for chain in [vec![ca.machine(machine(), &key)], vec![between.machine(machine(), &key), between.der]] {
        verify(&chain, begins.minus(Duration::from_secs(60))).unwrap();
        let early = verify(&chain, begins.minus(Duration::from_secs(61)));
        assert!(matches!(refusal(early), DeviceError::Chain(VerifyError::NotYetValid { .. })));
    }

    let itself = verify(std::slice::from_ref(&ca.der), NOW);
    assert_eq!(refusal(itself), VerifyError::AuthorityAsLeaf.into());
    let mut without = machine();
    without.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
    assert_eq!(refusal(verify(&[ca.machine(without, &key)], NOW)), DeviceError::KeyUsage);
    let mut server = machine();
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    assert!(verify(&[ca.machine(server, &key)], NOW).is_err());

    // A machine that issues.
    let signer = ca.below(machine());
    let chain = [signer.machine(machine(), &key), signer.der.clone()];
    assert!(verify(&chain, NOW).is_err());

    let mut old = authority("machines");
    old.not_after = rcgen::date_time_ymd(2026, 12, 31);
    let old = root_of(old);
    let chain = [old.machine(machine(), &key)];
    let refused = refusal(old.trusted().verify(&chain, NOW));
    assert_eq!(refused, VerifyError::RootOutsideValidity(Fingerprint::of(&old.der)).into());

    let mut short = authority("machines");
    short.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let short = root_of(short);
    let between = short.below(authority("between"));
    let chain = [between.machine(machine(), &key), between.der.clone()];
    assert_eq!(refusal(short.trusted().verify(&chain, NOW)), VerifyError::PathTooLong.into());
}

struct HugeRsa(Vec<u8>);

impl HugeRsa {
    /// A modulus of as many bytes; nobody has its key, and nobody needs it to keep a verifier busy.
    fn of(bytes: usize) -> Self {
        let integer = |contents: &[u8]| [&der_head(2, contents.len()), contents].concat();
        let modulus = [vec![0], vec![0xff; bytes]].concat();
        let body = [integer(&modulus), integer(&[1, 0, 1])].concat();
        Self([der_head(0x30, body.len()), body].concat())
    }
}

fn der_head(tag: u8, len: usize) -> Vec<u8> {
    match len {
        0..=0x7f => vec![tag, u8::try_from(len).unwrap()],
        0x80..=0xff => vec![tag, 0x81, u8::try_from(len).unwrap()],
        _ => [vec![tag, 0x82], u16::try_from(len).unwrap().to_be_bytes().to_vec()].concat(),
    }
}

impl PublicKeyData for HugeRsa {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

#[test]
fn hostile_chains_are_refused_before_any_of_their_signatures_is_checked() {
    let ca = root();
    let key = KeyPair::generate().unwrap();
    let huge = ca.machine(machine(), &HugeRsa::of(2048));
    let refused = refusal(ca.trusted().verify(&[huge], NOW));
    let too_large = CertificateFault::Key(key::KeyError::RsaSize(16_384));
    assert_eq!(refused, VerifyError::Leaf(too_large).into());
    let large = ca.machine(machine(), &HugeRsa::of(1024));
    ca.trusted().verify(&[large], NOW).unwrap();

    // Among the intermediates, where it need not even belong to the path.
    let leaf = ca.machine(machine(), &key);
    let huge = authority("huge").signed_by(&HugeRsa::of(2048), &ca.issuer).unwrap().der().clone();
    let refused = refusal(ca.trusted().verify(&[leaf.clone(), huge], NOW));
    assert_eq!(refused, VerifyError::Intermediate(too_large).into());

    let mut chain = vec![leaf];
    chain.extend(std::iter::repeat_n(ca.der.clone(), MAX_INTERMEDIATES));
    ca.trusted().verify(&chain, NOW).unwrap();
    chain.push(ca.der.clone());
    assert_eq!(refusal(ca.trusted().verify(&chain, NOW)), VerifyError::TooManyCertificates(6).into());

    let mut many = machine();
    many.subject_alt_names =
        (0..65).map(|number| SanType::DnsName(format!("vm-{number}").try_into().unwrap())).collect();
    assert_eq!(refusal(ca.trusted().verify(&[ca.machine(many, &key)], NOW)), DeviceError::TooManyNames);
}

#[test]
fn only_authorities_are_taken_for_such() {
    let ca = root();
    let machine = pem::encode("CERTIFICATE", &ca.machine(machine(), &KeyPair::generate().unwrap()));
    let refused = |text: &str| DeviceAuthorities::from_pem(text).unwrap_err();
    assert_eq!(refused(""), DeviceAuthoritiesError::NoCertificate);
    assert_eq!(refused("-----BEGIN CERTIFICATE-----\n!"), DeviceAuthoritiesError::NoCertificate);
    assert_eq!(refused(&[ca.pem.as_str(), &machine].concat()), DeviceAuthoritiesError::NotAnAuthority(2));
    assert_eq!(refused(&ca.pem.repeat(17)), DeviceAuthoritiesError::TooMany(17));
    let broken = pem::encode("CERTIFICATE", b"nonsense");
    let malformed = DeviceAuthoritiesError::Certificate { number: 1, source: CertificateFault::Malformed };
    assert_eq!(refused(&broken), malformed);
}

#[tokio::test]
async fn both_ends_name_a_connection_alike_and_no_two_connections() {
    use crate::{ClientAuth, IssuingAuthority, LiveIdentity, RootAuthority, SvidTemplate};
    use hauberk_identity::{SpiffeId, TrustDomain};

    let domain = TrustDomain::parse("shop.test").unwrap();
    let now = UnixMillis::from_secs(UnixTime::now().as_secs());
    let window = Validity::new(now.minus(DAY), now.plus(DAY)).unwrap();
    let serial = |byte| Serial::from_random([byte; 16]);
    let root = RootAuthority::create(&domain, window, serial(1)).unwrap();
    let issuing = IssuingAuthority::create(&root, window, serial(2)).unwrap();
    let key = key::KeyPair::generate().unwrap();
    let template = SvidTemplate {
        id: SpiffeId::parse("spiffe://shop.test/control-plane/one").unwrap(),
        public_key: key.public_key(),
        serial: serial(3),
        validity: window,
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
    };
    let live = LiveIdentity::new(issuing.root_bundle().clone());
    live.publish(issuing.sign(&template).unwrap(), &key).unwrap();
    let acceptor = live.acceptor(&[b"h2"], ClientAuth::Optional, DAY).unwrap();
    let trust = BootstrapTrust::Bundle(std::sync::Arc::new(issuing.root_bundle().clone()));
    let connector = bootstrap_connector(trust, &[b"h2"], DAY).unwrap();
    let mut names = Vec::new();
    for _ in 0..2 {
        let (ours, theirs) = tokio::io::duplex(65_536);
        let (client, server) = tokio::join!(connector.connect(ours), acceptor.accept(theirs));
        let name = ChannelBinding::of(&client.unwrap()).unwrap();
        assert!(name == ChannelBinding::of(&server.unwrap()).unwrap());
        names.push(name);
    }
    assert!(names[0] != names[1]);
}
