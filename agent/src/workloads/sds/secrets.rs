//! What a caller is given, as Envoy's secrets.

use std::sync::OnceLock;

use hauberk_identity::{Serial, TrustDomain, UnixMillis, Validity};
use hauberk_proto::sds::envoy::config::core::v3::data_source::Specifier;
use hauberk_proto::sds::envoy::config::core::v3::{DataSource, TypedExtensionConfig};
use hauberk_proto::sds::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use hauberk_proto::sds::envoy::extensions::transport_sockets::tls::v3::spiffe_cert_validator_config::TrustDomain as Roots;
use hauberk_proto::sds::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate,
};
use hauberk_tls::{RootAuthority, TrustBundle, certificates_to_pem};
use prost::Message;

use super::super::api::Given;
use super::super::keeper::WorkloadSvid;
use crate::random;

/// What a secret is called in an answer, and in a request that says it.
pub(super) const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

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

/// The secret of this name; `None` where the caller is given no such thing.
pub(super) fn named(given: &Given, name: &str) -> Option<Secret> {
    let secret = match name {
        DEFAULT_SVID => certificate(&given.svids.first()?.0),
        OWN_BUNDLE => roots(given, &given.bundle),
        ALL_BUNDLES => every_trust_domain(given),
        id => match trust_domain(id) {
            Some(named) => roots(given, given.x509_bundles().find(|bundle| *bundle.trust_domain() == named)?),
            None => certificate(&given.svids.iter().find(|(held, _)| held.svid.id().as_str() == id)?.0),
        },
    };
    Some(Secret { name: name.to_owned(), r#type: Some(secret) })
}

/// In the place of a trust domain's roots that a caller is not given, or no longer: what lets nobody in. Envoy would keep those that
/// it had, and takes an empty set for no check at all. `None` where the name is no trust domain's.
pub(super) fn nobody(name: &str) -> Option<Secret> {
    trust_domain(name)?;
    // The same for as long as the program runs, so that it is no change each time.
    static ROOT: OnceLock<Option<String>> = OnceLock::new();
    let root = ROOT.get_or_init(root_without_key).as_ref()?;
    Some(Secret { name: name.to_owned(), r#type: Some(validation(root, None)) })
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

fn certificate(workload: &WorkloadSvid) -> Type {
    Type::TlsCertificate(TlsCertificate {
        certificate_chain: inline(workload.svid.to_pem().as_bytes()),
        private_key: inline(workload.key.to_pkcs8_pem().as_bytes()),
    })
}

/// For Envoy's own validator. These roots vouch for nobody of another trust domain.
fn roots(given: &Given, bundle: &TrustBundle) -> Type {
    validation(&bundle.to_pem(), lists(given, bundle))
}

/// The revocation lists of this trust domain, as far as Envoy can be given them: it refuses what no list covers.
fn lists<'a>(given: &'a Given, bundle: &TrustBundle) -> Option<&'a str> {
    let is_own = bundle.trust_domain() == given.bundle.trust_domain();
    given.revocation_lists.complete.as_deref().filter(|_| is_own)
}

fn validation(roots: &str, lists: Option<&str>) -> Type {
    Type::ValidationContext(CertificateValidationContext {
        trusted_ca: inline(roots.as_bytes()),
        crl: lists.and_then(|lists| inline(lists.as_bytes())),
        // An authority that is believed no longer has no list.
        only_verify_leaf_cert_crl: lists.is_some(),
        custom_validator_config: None,
    })
}

fn every_trust_domain(given: &Given) -> Type {
    let trust_domains = given.x509_bundles().map(|bundle| {
        // This validator takes lists from the same text.
        let bundle_and_lists = bundle.to_pem() + lists(given, bundle).unwrap_or_default();
        Roots { name: bundle.trust_domain().to_string(), trust_bundle: inline(bundle_and_lists.as_bytes()) }
    });
    let config = SpiffeCertValidatorConfig { trust_domains: trust_domains.collect() };
    let config =
        prost_types::Any { type_url: SPIFFE_VALIDATOR_CONFIG.to_owned(), value: config.encode_to_vec() };
    Type::ValidationContext(CertificateValidationContext {
        custom_validator_config: Some(TypedExtensionConfig {
            name: SPIFFE_VALIDATOR.to_owned(),
            typed_config: Some(config),
        }),
        ..CertificateValidationContext::default()
    })
}

fn inline(bytes: &[u8]) -> Option<DataSource> {
    Some(DataSource { specifier: Some(Specifier::InlineBytes(bytes.to_vec())) })
}
