//! What a caller is given, as Envoy's secrets.

use std::sync::OnceLock;

use bytes::Bytes;
use hauberk_identity::{Serial, TrustDomain, UnixMillis, Validity};
use hauberk_proto::sds::envoy::config::core::v3::data_source::Specifier;
use hauberk_proto::sds::envoy::config::core::v3::{DataSource, TypedExtensionConfig};
use hauberk_proto::sds::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use hauberk_proto::sds::envoy::extensions::transport_sockets::tls::v3::spiffe_cert_validator_config::TrustDomain as Roots;
use hauberk_proto::sds::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate,
};
use hauberk_tls::{RootAuthority, TrustBundle, certificates_to_pem};
use prost_types::Any;

use super::super::given::Given;
use super::super::keeper::WorkloadSvid;
use super::super::pieces::{Piece, field};
use crate::random;

/// What a secret is called in an answer, and in a request that says it.
pub(super) const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// The numbers of fields into which others are written, in their messages' order: `Secret`,
/// `CertificateValidationContext`, `DataSource`, `TypedExtensionConfig`, `SpiffeCertValidatorConfig` and its
/// `TrustDomain`, `Any`.
const VALIDATION_CONTEXT: u8 = 4;
const CRL: u8 = 7;
const CUSTOM_VALIDATOR_CONFIG: u8 = 12;
const INLINE_BYTES: u8 = 2;
const TYPED_CONFIG: u8 = 2;
const TRUST_DOMAINS: u8 = 1;
const TRUST_BUNDLE: u8 = 2;
const VALUE: u8 = 2;

/// Names by which a caller asks without knowing who it is.
const DEFAULT_SVID: &str = "default";
const OWN_BUNDLE: &str = "ROOTCA";
const ALL_BUNDLES: &str = "ALL";

/// When the root ends that vouches for nobody: the first instant of 2100, Unix seconds.
const FAR_FUTURE: u64 = 4_102_444_800;

/// Envoy's validator that knows of trust domains, and its configuration.
const SPIFFE_VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";
const SPIFFE_VALIDATOR_CONFIG: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";

/// The secret of this name, encoded; `None` where the caller is given no such thing.
pub(super) fn named(given: &Given, name: &str) -> Option<Vec<Piece>> {
    let of_type = match name {
        DEFAULT_SVID => certificate(&given.svids.first().filter(|_| given.has_default)?.0),
        OWN_BUNDLE => roots(given, &given.bundle),
        ALL_BUNDLES => every_trust_domain(given),
        id => match trust_domain(id) {
            Some(named) => roots(given, given.x509_bundles().find(|bundle| *bundle.trust_domain() == named)?),
            None => certificate(&given.svids.iter().find(|(held, _)| held.svid.id().as_str() == id)?.0),
        },
    };
    Some(with_name(name, of_type))
}

/// The fields of a secret: its name, and what it is.
fn with_name(name: &str, of_type: Vec<Piece>) -> Vec<Piece> {
    let name = Piece::of(&Secret { name: name.to_owned(), r#type: None });
    [name].into_iter().chain(of_type).collect()
}

/// Any message, of which it is said what it is.
pub(super) fn any(type_url: &str, message: Vec<Piece>) -> Vec<Piece> {
    let type_url = Piece::of(&Any { type_url: type_url.to_owned(), value: Vec::new() });
    [type_url].into_iter().chain(field(VALUE, message)).collect()
}

/// In the place of a trust domain's roots that a caller is not given, or no longer: what lets nobody in. Envoy would
/// keep those that it had, and takes an empty set for no check at all. `None` where the name is no trust domain's.
pub(super) fn nobody(name: &str) -> Option<Vec<Piece>> {
    trust_domain(name)?;
    // The same for as long as the program runs, so that it is no change each time.
    static ROOT: OnceLock<Option<String>> = OnceLock::new();
    let root = ROOT.get_or_init(root_without_key).as_ref()?;
    Some(with_name(name, validation(root, None)))
}

/// A root whose key is forgotten as soon as it is made.
fn root_without_key() -> Option<String> {
    let nobody = TrustDomain::parse("nobody.invalid").ok()?;
    let forever = Validity::new(UnixMillis::from_secs(0), UnixMillis::from_secs(FAR_FUTURE)).ok()?;
    let root = RootAuthority::create(&nobody, forever, Serial::from_random(random::bytes().ok()?)).ok()?;
    Some(certificates_to_pem([root.certificate()]))
}

/// The names of everything that a caller is given: each identity and each trust domain.
pub(super) fn all_names(given: &Given) -> impl Iterator<Item = String> {
    let ids = given.svids.iter().map(|(workload, _)| workload.svid.id().to_string());
    ids.chain(given.x509_bundles().map(|bundle| bundle.trust_domain().id_string()))
}

/// The trust domain whose id this is, without a path.
fn trust_domain(id: &str) -> Option<TrustDomain> {
    TrustDomain::parse(id.strip_prefix("spiffe://")?).ok()
}

fn certificate(workload: &WorkloadSvid) -> Vec<Piece> {
    let certificate = Type::TlsCertificate(TlsCertificate {
        certificate_chain: inline(workload.svid.to_pem().as_bytes()),
        private_key: inline(workload.key.to_pkcs8_pem().as_bytes()),
    });
    vec![Piece::of(&Secret { name: String::new(), r#type: Some(certificate) })]
}

/// For Envoy's own validator. These roots vouch for nobody of another trust domain.
fn roots(given: &Given, bundle: &TrustBundle) -> Vec<Piece> {
    validation(&bundle.to_pem(), lists(given, bundle, given.revocation_lists.of_leaves.as_ref()))
}

/// The revocation lists of this trust domain, as far as Envoy can be given them: it refuses what no list covers.
fn lists(given: &Given, bundle: &TrustBundle, of: Option<&Bytes>) -> Option<Piece> {
    let is_own = bundle.trust_domain() == given.bundle.trust_domain();
    of.filter(|_| is_own).cloned().map(Piece::Lists)
}

fn validation(roots: &str, lists: Option<Piece>) -> Vec<Piece> {
    let context = CertificateValidationContext {
        trusted_ca: inline(roots.as_bytes()),
        // An authority that is believed no longer has no list.
        only_verify_leaf_cert_crl: lists.is_some(),
        ..CertificateValidationContext::default()
    };
    let crl = lists.into_iter().flat_map(|lists| field(CRL, field(INLINE_BYTES, vec![lists])));
    field(VALIDATION_CONTEXT, [Piece::of(&context)].into_iter().chain(crl).collect())
}

fn every_trust_domain(given: &Given) -> Vec<Piece> {
    let trust_domains = given.x509_bundles().flat_map(|bundle| {
        let name = Roots { name: bundle.trust_domain().to_string(), trust_bundle: None };
        // This validator takes lists from the same text, and wants those of all authorities of a chain.
        let lists = lists(given, bundle, given.revocation_lists.complete.as_ref());
        let text = [Piece::Own(bundle.to_pem().into_bytes())].into_iter().chain(lists);
        let trust_bundle = field(TRUST_BUNDLE, field(INLINE_BYTES, text.collect()));
        field(TRUST_DOMAINS, [Piece::of(&name)].into_iter().chain(trust_bundle).collect())
    });
    let config = any(SPIFFE_VALIDATOR_CONFIG, trust_domains.collect());
    let name = TypedExtensionConfig { name: SPIFFE_VALIDATOR.to_owned(), typed_config: None };
    let extension = [Piece::of(&name)].into_iter().chain(field(TYPED_CONFIG, config)).collect();
    field(VALIDATION_CONTEXT, field(CUSTOM_VALIDATOR_CONFIG, extension))
}

fn inline(bytes: &[u8]) -> Option<DataSource> {
    Some(DataSource { specifier: Some(Specifier::InlineBytes(bytes.to_vec())) })
}
