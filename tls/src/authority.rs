//! Certificate authorities of a trust domain: the root, and the issuing authority under it.

mod operator;
mod profile;
mod upstream;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::OnceLock;

use hauberk_identity::{Serial, TrustDomain, UnixMillis, Validity, ValidityError};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa, Issuer, KeyIdMethod,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use thiserror::Error;

use crate::authority_key::{self, AuthorityKey};
use crate::bundle::{self, BundleError, TrustBundle};
use crate::certificate::{self, CertificateFault, Facts};
use crate::fingerprint::Fingerprint;
use crate::key::{KeyError, KeyPair};
pub use operator::{OperatorAuthority, OperatorAuthorityError};
pub use upstream::{Place, UpstreamChain, UpstreamError, check_root, is_self_issued};

/// Seconds from the epoch to the end of year 9999, the last instant that X.509 can write.
const LAST_X509_SECOND: u64 = 253_402_300_799;

/// How many authorities may stand below the root: the issuing one.
const ROOT_PATH_LEN: u8 = 1;
/// The issuing authority signs leaves only.
const ISSUING_PATH_LEN: u8 = 0;

/// The self-signed root of a trust domain. It signs issuing authorities and nothing else.
pub struct RootAuthority(pub(crate) Authority);

/// The authority that signs SVIDs (see [`IssuingAuthority::sign`]).
pub struct IssuingAuthority {
    pub(crate) authority: Authority,
    /// What stands between it and its root, its own signer first.
    pub(crate) intermediates: Vec<CertificateDer<'static>>,
    /// The root alone, to check what was signed.
    pub(crate) root: TrustBundle,
    /// This authority alone as a root, once something that it signed was verified up to the root: the path between the two
    /// never changes, so that from then on the last signature is all there is to verify.
    pub(crate) proven: OnceLock<TrustBundle>,
}

/// Why an authority cannot be made or loaded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuthorityError {
    /// No key could be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The stored certificate is malformed. The fault is the store's.
    #[error("the authority's certificate is refused: {0}")]
    Certificate(#[from] CertificateFault),
    /// The stored key does not belong to the stored certificate.
    #[error("the key does not belong to the authority's certificate")]
    KeyMismatch,
    /// The stored certificate names no trust domain.
    #[error("the authority's certificate does not name a trust domain")]
    TrustDomain,
    /// The root is not acceptable as one.
    #[error("the root is refused: {0}")]
    Root(#[from] BundleError),
    /// The validity that was asked for lies outside the root's.
    #[error("the validity asked for lies outside the root's")]
    Validity(#[from] ValidityError),
    /// The library could not build the certificate.
    #[error("the certificate could not be signed: {0}")]
    Sign(String),
}

/// What the certificate of an authority says, without its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthorityCertificate {
    serial: Serial,
    validity: Validity,
    fingerprint: Fingerprint,
    key_fingerprint: Fingerprint,
}

impl AuthorityCertificate {
    /// Reads it; its form is checked, not who signed it.
    ///
    /// # Errors
    /// It is malformed.
    pub fn read(der: impl Into<CertificateDer<'static>>) -> Result<Self, AuthorityError> {
        let der = der.into();
        let facts = Facts::read(&der)?;
        Ok(Self {
            serial: facts.serial,
            validity: facts.validity,
            fingerprint: Fingerprint::of(&der),
            key_fingerprint: Fingerprint::of(facts.spki),
        })
    }

    /// Its serial number.
    pub fn serial(&self) -> Serial {
        self.serial
    }

    /// When it is valid.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Its SHA-256.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The SHA-256 of its public key: what a bundle distrusts it by.
    pub fn key_fingerprint(&self) -> Fingerprint {
        self.key_fingerprint
    }
}

/// Whether one certificate names another as its issuer, by name and by key id. Who signed it is not checked.
pub fn names_as_issuer(certificate: &CertificateDer<'_>, issuer: &CertificateDer<'_>) -> bool {
    let (Ok(certificate), Ok(issuer)) = (Facts::read(certificate), Facts::read(issuer)) else { return false };
    certificate.issuer == issuer.subject && certificate.authority_key_id == issuer.subject_key_id
}

/// What both kinds of authority have. Its issuer name and key id are parsed once, not with every signature.
pub(crate) struct Authority {
    pub(crate) issuer: Issuer<'static, AuthorityKey>,
    pub(crate) der: CertificateDer<'static>,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) validity: Validity,
    serial: Serial,
}

impl RootAuthority {
    /// Creates the root of `trust_domain` with a new key.
    ///
    /// # Errors
    /// No key or certificate could be made.
    pub fn create(
        trust_domain: &TrustDomain,
        validity: Validity,
        serial: Serial,
    ) -> Result<Self, AuthorityError> {
        Self::create_with(trust_domain, validity, serial, KeyPair::generate()?.into())
    }

    /// The same with a key that was made for it.
    ///
    /// # Errors
    /// No certificate could be made.
    pub fn create_with(
        trust_domain: &TrustDomain,
        validity: Validity,
        serial: Serial,
        key: AuthorityKey,
    ) -> Result<Self, AuthorityError> {
        let params = authority_params(trust_domain, "root", ROOT_PATH_LEN, validity, serial)?;
        let certificate = params.self_signed(&key).map_err(sign_error)?;
        Authority::load(certificate.into(), key).map(Self)
    }

    /// Loads a root that [`RootAuthority::certificate`] and [`RootAuthority::key`] gave.
    ///
    /// # Errors
    /// Key and certificate do not belong together, or the certificate is not that of an authority.
    pub fn load(
        certificate: impl Into<CertificateDer<'static>>,
        key: impl Into<AuthorityKey>,
    ) -> Result<Self, AuthorityError> {
        let authority = Authority::load(certificate.into(), key.into())?;
        TrustBundle::new(authority.trust_domain.clone(), [authority.der.clone()])?;
        Ok(Self(authority))
    }
}

impl IssuingAuthority {
    /// Creates an issuing authority under `root` with a new key. The validity is capped by the root's.
    ///
    /// # Errors
    /// No key or certificate could be made, or nothing of the validity lies within the root's.
    pub fn create(root: &RootAuthority, validity: Validity, serial: Serial) -> Result<Self, AuthorityError> {
        Self::create_with(root, validity, serial, KeyPair::generate()?.into())
    }

    /// The same with a key that was made for it.
    ///
    /// # Errors
    /// No certificate could be made, or nothing of the validity lies within the root's.
    pub fn create_with(
        root: &RootAuthority,
        validity: Validity,
        serial: Serial,
        key: AuthorityKey,
    ) -> Result<Self, AuthorityError> {
        let certificate = root.certify(&key.public_key(), validity, serial)?;
        Self::load(certificate, key, root.0.der.clone())
    }

    /// Loads an issuing authority and the root that it stands under.
    ///
    /// # Errors
    /// Key and certificate do not belong together, or one of the certificates is not that of an authority.
    pub fn load(
        certificate: impl Into<CertificateDer<'static>>,
        key: impl Into<AuthorityKey>,
        root: impl Into<CertificateDer<'static>>,
    ) -> Result<Self, AuthorityError> {
        let authority = Authority::load(certificate.into(), key.into())?;
        let root = TrustBundle::new(authority.trust_domain.clone(), [root.into()])?;
        Ok(Self { authority, intermediates: Vec::new(), root, proven: OnceLock::new() })
    }

    /// A certificate of this authority by another root: same key, same name, so that whatever it signs is vouched for by
    /// that root too. Sent along while one root follows another, for those who know the former alone.
    ///
    /// # Errors
    /// No certificate could be made, or nothing of the validity lies within the root's.
    pub fn cross_signed(
        &self,
        root: &RootAuthority,
        serial: Serial,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let (authority, root) = (&self.authority, &root.0);
        let validity = capped(authority.validity, root.validity)?;
        let mut params = upstream::issuing_params(&authority.trust_domain, validity, serial)?;
        params.distinguished_name = upstream::subject_of(&authority.der)?;
        // By which what it signs names it: whoever signed its own certificate may have chosen another than we do.
        if let Some(key_id) = certificate::subject_key_id(&authority.der)? {
            params.key_identifier_method = KeyIdMethod::PreSpecified(key_id);
        }
        let key = authority.issuer.key();
        Ok(params.signed_by(key, &root.issuer).map_err(sign_error)?.into())
    }

    /// The root that this authority stands under, as a bundle.
    pub fn root_bundle(&self) -> &TrustBundle {
        &self.root
    }
}

impl Authority {
    fn load(der: CertificateDer<'static>, key: AuthorityKey) -> Result<Self, AuthorityError> {
        let facts = Facts::read(&der)?;
        if facts.spki != key.public_key().spki_der() {
            return Err(AuthorityError::KeyMismatch);
        }
        let trust_domain = bundle::trust_domain_of(&facts).ok_or(AuthorityError::TrustDomain)?;
        let (validity, serial) = (facts.validity, facts.serial);
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(sign_error)?;
        Ok(Self { issuer, der, trust_domain, validity, serial })
    }
}

/// The accessors that root and issuing authority share.
macro_rules! authority_accessors {
    ($type:ty, $field:tt) => {
        impl $type {
            /// The authority's certificate in DER.
            pub fn certificate(&self) -> &CertificateDer<'static> {
                &self.$field.der
            }

            /// What the authority signs with.
            pub fn key(&self) -> &AuthorityKey {
                self.$field.issuer.key()
            }

            /// The trust domain whose members it vouches for.
            pub fn trust_domain(&self) -> &TrustDomain {
                &self.$field.trust_domain
            }

            /// When its certificate is valid.
            pub fn validity(&self) -> Validity {
                self.$field.validity
            }

            /// Its certificate's serial number.
            pub fn serial(&self) -> Serial {
                self.$field.serial
            }

            /// The SHA-256 of its certificate.
            pub fn fingerprint(&self) -> Fingerprint {
                Fingerprint::of(&self.$field.der)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($type))
                    .field("trust_domain", &self.$field.trust_domain)
                    .field("serial", &self.$field.serial)
                    .field("not_after", &self.$field.validity.not_after())
                    .finish_non_exhaustive()
            }
        }
    };
}

authority_accessors!(RootAuthority, 0);
authority_accessors!(IssuingAuthority, authority);

/// The profile of an authority's certificate: X509-SVID §2 and RFC 5280 §4.2.1.
fn authority_params(
    trust_domain: &TrustDomain,
    role: &str,
    path_len: u8,
    validity: Validity,
    serial: Serial,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = dated_params(validity, serial);
    // The serial number makes the name unique: verifiers then never try the key of a namesake.
    params.distinguished_name.push(DnType::OrganizationName, "Hauberk");
    params.distinguished_name.push(DnType::CommonName, format!("Hauberk {role} authority"));
    let unique = serial.to_string().as_str().try_into().map_err(sign_error)?;
    params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 5]), DnValue::PrintableString(unique));
    params.subject_alt_names = vec![uri(&trust_domain.id_string()).map_err(sign_error)?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// Parameters that say nothing yet but when and under which number, with an empty subject.
pub(crate) fn dated_params(validity: Validity, serial: Serial) -> CertificateParams {
    let mut params = CertificateParams::default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch(validity.not_before());
    params.not_after = epoch + since_epoch(validity.not_after());
    params.serial_number = Some(serial.as_bytes().to_vec().into());
    params.distinguished_name = DistinguishedName::new();
    params
}

/// The time from the epoch to an instant as X.509 writes it, in whole seconds.
pub(crate) fn since_epoch(at: UnixMillis) -> std::time::Duration {
    std::time::Duration::from_secs(at.as_secs().min(LAST_X509_SECOND))
}

pub(crate) fn uri(text: &str) -> Result<SanType, rcgen::Error> {
    Ia5String::try_from(text).map(SanType::URI)
}

/// The part of `asked` that lies within `signer`, in whole seconds as certificates count.
pub(crate) fn capped(asked: Validity, signer: Validity) -> Result<Validity, ValidityError> {
    Validity::new(
        asked.not_before().max(signer.not_before()).floor_to_second(),
        asked.not_after().min(signer.not_after()).floor_to_second(),
    )
}

fn sign_error(error: rcgen::Error) -> AuthorityError {
    AuthorityError::Sign(authority_key::reason(error))
}
