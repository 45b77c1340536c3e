//! What a caller is given, as Envoy's secrets.

use hauberk_proto::sds::envoy::config::core::v3::data_source::Specifier;
use hauberk_proto::sds::envoy::config::core::v3::{DataSource, TypedExtensionConfig};
use hauberk_proto::sds::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use hauberk_proto::sds::envoy::extensions::transport_sockets::tls::v3::spiffe_cert_validator_config::TrustDomain;
use hauberk_proto::sds::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate,
};
use hauberk_tls::TrustBundle;
use prost::Message;

use super::super::api::Given;
use super::super::keeper::WorkloadSvid;

/// What a secret is called in an answer, and in a request that says it.
pub(super) const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// Names by which a caller asks without knowing who it is.
const DEFAULT_SVID: &str = "default";
const OWN_BUNDLE: &str = "ROOTCA";
const ALL_BUNDLES: &str = "ALL";

/// Envoy's validator that knows of trust domains, and its configuration.
const SPIFFE_VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";
const SPIFFE_VALIDATOR_CONFIG: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";

/// The secret of this name; `None` where the caller is given no such thing.
pub(super) fn named(given: &Given, name: &str) -> Option<Secret> {
    let secret = match name {
        DEFAULT_SVID => certificate(&given.svids.first()?.0),
        OWN_BUNDLE => roots(&given.bundle),
        ALL_BUNDLES => every_trust_domain(given),
        id if id == given.bundle.trust_domain().id_string() => roots(&given.bundle),
        id => certificate(&given.svids.iter().find(|(held, _)| held.svid.id().as_str() == id)?.0),
    };
    Some(Secret { name: name.to_owned(), r#type: Some(secret) })
}

/// The names of everything that a caller is given: each identity and its own trust domain. Others stand in `ALL` alone: an
/// Envoy that asked for one by name would keep its roots when it is followed no longer.
pub(super) fn all_names(given: &Given) -> impl Iterator<Item = String> {
    let ids = given.svids.iter().map(|(workload, _)| workload.svid.id().to_string());
    ids.chain([given.bundle.trust_domain().id_string()])
}

fn certificate(workload: &WorkloadSvid) -> Type {
    Type::TlsCertificate(TlsCertificate {
        certificate_chain: inline(workload.svid.to_pem().as_bytes()),
        private_key: inline(workload.key.to_pkcs8_pem().as_bytes()),
    })
}

/// For Envoy's own validator. These roots vouch for nobody of another trust domain.
fn roots(bundle: &TrustBundle) -> Type {
    Type::ValidationContext(CertificateValidationContext {
        trusted_ca: inline(bundle.to_pem().as_bytes()),
        ..CertificateValidationContext::default()
    })
}

fn every_trust_domain(given: &Given) -> Type {
    let trust_domains = given.x509_bundles().map(|bundle| TrustDomain {
        name: bundle.trust_domain().to_string(),
        trust_bundle: inline(bundle.to_pem().as_bytes()),
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
