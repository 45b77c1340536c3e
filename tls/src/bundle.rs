//! The roots of one trust domain.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use hauberk_identity::{TrustDomain, Validity};
use rustls_pki_types::{CertificateDer, TrustAnchor};
use thiserror::Error;

use crate::certificate::{self, CertificateFault, Facts};
use crate::fingerprint::Fingerprint;
use crate::pem;

/// The most roots in one bundle: a rotation needs two or three, and every handshake pays for each.
const MAX_ROOTS: usize = 32;

/// The same of a bundle that may be another trust domain's: where each of its servers is an authority of its own, as SPIRE's are
/// without an upstream one, there are some four for each server.
const MAX_ROOTS_OF_OTHERS: usize = 256;

/// The roots that vouch for the members of one trust domain. Without roots it verifies nobody.
#[derive(Clone)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    /// Sorted by DER, so that equal sets have one spelling.
    roots: Vec<Root>,
    /// What webpki needs of each root, in the same order.
    anchors: Vec<TrustAnchor<'static>>,
    /// Public keys of authorities that stand under a root and are believed nothing any longer.
    distrusted: BTreeSet<Fingerprint>,
}

/// One root certificate of a bundle.
#[derive(Clone)]
pub struct Root {
    der: CertificateDer<'static>,
    fingerprint: Fingerprint,
    validity: Validity,
    path_len: Option<u32>,
    names_trust_domain: bool,
}

/// Why a bundle is refused. The fault is whoever supplied it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BundleError {
    /// The text is not PEM.
    #[error("the bundle is not PEM")]
    Pem,
    /// More than anybody needs.
    #[error("the bundle has more than {0} roots")]
    TooMany(usize),
    /// One certificate is malformed.
    #[error("a certificate of the bundle is refused: {0}")]
    Certificate(#[from] CertificateFault),
    /// One certificate is not that of an authority.
    #[error("certificate {0} is not that of an authority")]
    NotAnAuthority(Fingerprint),
    /// One root names another trust domain.
    #[error("root {0} is not of the bundle's trust domain")]
    TrustDomain(Fingerprint),
    /// The domain was to be learnt from the roots, and none of them names one.
    #[error("no root names its trust domain: say which one is meant (--trust-domain)")]
    NoTrustDomain,
    /// There is no root to learn the trust domain from.
    #[error("the bundle holds no certificate")]
    Empty,
}

impl TrustBundle {
    /// A bundle of the given roots; the order does not matter and duplicates collapse.
    ///
    /// # Errors
    /// One of them is malformed, not an authority, or names another trust domain.
    pub fn new<R>(trust_domain: TrustDomain, roots: impl IntoIterator<Item = R>) -> Result<Self, BundleError>
    where
        R: Into<CertificateDer<'static>>,
    {
        Self::with_most(MAX_ROOTS, trust_domain, roots)
    }

    /// The same of a trust domain that others run, perhaps: it may have more roots.
    ///
    /// # Errors
    /// As [`TrustBundle::new`].
    pub(crate) fn of_others<R>(
        trust_domain: TrustDomain,
        roots: impl IntoIterator<Item = R>,
    ) -> Result<Self, BundleError>
    where
        R: Into<CertificateDer<'static>>,
    {
        Self::with_most(MAX_ROOTS_OF_OTHERS, trust_domain, roots)
    }

    fn with_most<R>(
        most: usize,
        trust_domain: TrustDomain,
        roots: impl IntoIterator<Item = R>,
    ) -> Result<Self, BundleError>
    where
        R: Into<CertificateDer<'static>>,
    {
        let mut sorted = BTreeMap::new();
        for der in roots {
            let der = der.into();
            if !sorted.contains_key(der.as_ref()) {
                sorted.insert(der.to_vec(), Root::read(der, &trust_domain)?);
            }
            if sorted.len() > most {
                return Err(BundleError::TooMany(most));
            }
        }
        let roots: Vec<Root> = sorted.into_values().collect();
        let anchors = roots
            .iter()
            .map(|root| webpki::anchor_from_trusted_cert(&root.der).map(|anchor| anchor.to_owned()))
            .collect::<Result<_, _>>()
            .map_err(|_| CertificateFault::Malformed)?;
        Ok(Self { trust_domain, roots, anchors, distrusted: BTreeSet::new() })
    }

    /// A bundle without roots, which verifies nobody.
    pub fn empty(trust_domain: TrustDomain) -> Self {
        Self { trust_domain, roots: Vec::new(), anchors: Vec::new(), distrusted: BTreeSet::new() }
    }

    /// The same bundle that believes nothing of the authorities with these public keys, whoever vouches for them.
    #[must_use]
    pub fn distrusting(mut self, keys: impl IntoIterator<Item = Fingerprint>) -> Self {
        self.distrusted.extend(keys);
        self
    }

    /// Reads the roots from certificates in DER that follow one another, as the SPIFFE Workload API has them: of any trust domain.
    ///
    /// # Errors
    /// As [`TrustBundle::new`].
    pub fn from_concatenated_der(trust_domain: TrustDomain, bytes: &[u8]) -> Result<Self, BundleError> {
        Self::of_others(trust_domain, certificate::split(bytes)?)
    }

    /// Reads the roots from PEM; sections that are not certificates are passed over.
    ///
    /// # Errors
    /// As [`TrustBundle::new`], and for text that is not PEM.
    pub fn from_pem(trust_domain: TrustDomain, text: &str) -> Result<Self, BundleError> {
        Self::new(trust_domain, pem::decode_certificates(text).map_err(|_| BundleError::Pem)?)
    }

    /// Reads the roots from PEM. The trust domain is the one that was told, else the one that roots among them name.
    ///
    /// # Errors
    /// As [`TrustBundle::from_pem`], and where there is no root, or nobody says of which trust domain.
    pub fn from_self_describing_pem(text: &str, told: Option<&TrustDomain>) -> Result<Self, BundleError> {
        let roots = pem::decode_certificates(text).map_err(|_| BundleError::Pem)?;
        if roots.is_empty() {
            return Err(BundleError::Empty);
        }
        let mut named = told.cloned();
        for root in &roots {
            if named.is_none() {
                named = trust_domain_of(&Facts::read(root)?);
            }
        }
        Self::new(named.ok_or(BundleError::NoTrustDomain)?, roots)
    }

    /// The trust domain whose members the roots vouch for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots, sorted by DER.
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// The root with this fingerprint.
    pub fn root(&self, fingerprint: Fingerprint) -> Option<&Root> {
        self.roots.iter().find(|root| root.fingerprint == fingerprint)
    }

    /// All roots as one PEM text.
    pub fn to_pem(&self) -> String {
        pem::encode_certificates(self.roots.iter().map(|root| &root.der))
    }

    pub(crate) fn distrusts(&self, key: Fingerprint) -> bool {
        self.distrusted.contains(&key)
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    pub(crate) fn root_of(&self, anchor: &TrustAnchor<'_>) -> Option<&Root> {
        self.anchors.iter().position(|own| own == anchor).and_then(|at| self.roots.get(at))
    }
}

impl Root {
    /// Checks that `der` is the certificate of an authority that may stand for `trust_domain`.
    fn read(der: CertificateDer<'static>, trust_domain: &TrustDomain) -> Result<Self, BundleError> {
        let fingerprint = Fingerprint::of(&der);
        let (facts, strength) = Facts::read_with_strength(&der)?;
        // Whose root it is, before what it is worth: a bundle with another domain's says that it is that one's. A root
        // from elsewhere may name no trust domain, but it must not name another.
        if facts.authority.is_some() && facts.uris().any(|uri| uri != trust_domain.id_string()) {
            return Err(BundleError::TrustDomain(fingerprint));
        }
        strength.map_err(CertificateFault::from)?;
        let authority = facts.authority.filter(|authority| authority.critical);
        let authority = authority.ok_or(BundleError::NotAnAuthority(fingerprint))?;
        // Signed by itself, it may leave out whose key signed it, but not name another (RFC 5280 §4.2.1.1).
        let names_itself = facts.authority_serial.is_none_or(|serial| serial == facts.serial);
        let signer_is_right = match facts.authority_key_id {
            Some(id) => !facts.self_issued || Some(id) == facts.subject_key_id && names_itself,
            None => facts.self_issued && facts.authority_serial.is_none(),
        };
        let signs = facts.key_usage.is_some_and(|usage| usage.cert_sign);
        if !signs || facts.subject_key_id.is_none() || !signer_is_right {
            return Err(BundleError::NotAnAuthority(fingerprint));
        }
        let (validity, path_len) = (facts.validity, authority.path_len);
        let names_trust_domain = facts.uris().next().is_some();
        Ok(Self { der, fingerprint, validity, path_len, names_trust_domain })
    }

    /// The certificate in DER.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The SHA-256 of the certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// When the root is valid.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Whether it names its trust domain: one that does not may vouch for others too.
    pub fn names_trust_domain(&self) -> bool {
        self.names_trust_domain
    }

    pub(crate) fn path_len(&self) -> Option<u32> {
        self.path_len
    }
}

impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain
            && self.roots == other.roots
            && self.distrusted == other.distrusted
    }
}

impl Eq for TrustBundle {}

impl PartialEq for Root {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for Root {}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustBundle")
            .field("trust_domain", &self.trust_domain)
            .field("roots", &self.roots)
            .field("distrusted", &self.distrusted)
            .finish()
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Root").field(&self.fingerprint).finish()
    }
}

/// The trust domain that an authority names in its only URI (X509-SVID §2).
pub(crate) fn trust_domain_of(authority: &Facts<'_>) -> Option<TrustDomain> {
    let mut uris = authority.uris();
    let (uri, None) = (uris.next()?, uris.next()) else { return None };
    TrustDomain::parse(uri.strip_prefix("spiffe://")?).ok()
}

#[cfg(test)]
mod tests;
