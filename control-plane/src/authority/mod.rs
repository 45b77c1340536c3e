//! The authorities of this installation: what `init` founds, what `run` loads, and what everybody is to trust.
//!
//! The root's key is used by [`found`] alone and stays sealed afterwards.

mod records;
mod seal;

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use hauberk_identity::{TrustDomain, TrustDomainError, UnixMillis, Validity, ValidityError};
use hauberk_tls::signing::{SigningError, ViewSigner};
use hauberk_tls::{AuthorityError as CertificateError, BundleError, IssuingAuthority, KeyError, KeyPair};
use hauberk_tls::{RootAuthority, TrustBundle};

use crate::random::{self, NoRandomness};
use crate::registry::{Commit, Store, StoreError, document, keys};
pub use records::Installation;
use records::{AuthorityRecord, ViewKeyRecord};
pub use seal::{KeyEncryptionKey, SealError};

/// How far the beginning of a certificate lies before its issuance, for clocks that go slow.
pub const BACKDATED: Duration = Duration::from_secs(5 * 60);

/// The life of a root.
const ROOT_LIFE: Duration = Duration::from_secs(3_650 * 86_400);

/// The life of an issuing authority.
const ISSUING_LIFE: Duration = Duration::from_secs(90 * 86_400);

/// How many authorities of a kind are read; there are a handful.
const MANY: usize = 1_000;

/// Authorities that cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The data directory was never finished.
    #[error("`init` did not finish here: remove the data directory and run `init` again")]
    Unfinished,
    /// The registry holds no authority of a kind that is needed.
    #[error("the registry holds no {0}: restore it from a backup")]
    Missing(&'static str),
    /// The registry cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A key is sealed under another key-encryption key.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A record names an impossible trust domain.
    #[error("the registry's trust domain is damaged")]
    TrustDomain(#[from] TrustDomainError),
    /// A certificate could not be made or read.
    #[error("an authority's certificate cannot be used")]
    Certificate(#[from] CertificateError),
    /// The roots do not make a bundle.
    #[error("the trust bundle cannot be made")]
    Bundle(#[from] BundleError),
    /// A private key could not be made or read.
    #[error("a private key cannot be used")]
    Key(#[from] KeyError),
    /// The key that signs views could not be made or read.
    #[error("the view-signing key cannot be used")]
    ViewKey(#[from] SigningError),
    /// The clock stands before the epoch.
    #[error("the clock is wrong")]
    Clock(#[from] ValidityError),
    /// No serial number can be made.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// A key whose signatures on views are good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewKey {
    /// SHA-256 of the key, hexadecimal.
    pub key_id: String,
    /// SubjectPublicKeyInfo, DER.
    pub public_key: Vec<u8>,
}

/// The authorities in force. Private keys do not leave it.
pub struct Authority {
    trust_domain: TrustDomain,
    epoch: u64,
    sans: Vec<String>,
    issuing: IssuingAuthority,
    bundle: TrustBundle,
    view_signer: ViewSigner,
    view_keys: Vec<ViewKey>,
}

/// Makes root, issuing authority and view-signing key, and the commit that founds the installation with them.
///
/// # Errors
/// When keys or certificates cannot be made.
pub fn found(
    trust_domain: &TrustDomain,
    sans: Vec<String>,
    kek: &KeyEncryptionKey,
    now: UnixMillis,
) -> Result<(Commit, Authority), AuthorityError> {
    let from = now.minus(BACKDATED);
    let root =
        RootAuthority::create(trust_domain, Validity::new(from, now.plus(ROOT_LIFE))?, random::serial()?)?;
    let issuing =
        IssuingAuthority::create(&root, Validity::new(from, now.plus(ISSUING_LIFE))?, random::serial()?)?;
    let view_signer = ViewSigner::generate()?;

    let root_key = format!("{}{}", keys::ROOTS, root.serial());
    let issuing_key = format!("{}{}", keys::ISSUING, issuing.serial());
    let view_key = format!("{}{}", keys::VIEW_KEYS, view_signer.key_id());
    let root_record = AuthorityRecord {
        created_at: now.0,
        certificate: root.certificate().to_vec(),
        sealed_key: kek.seal(&root_key, &root.key().to_pkcs8_der())?,
    };
    let issuing_record = AuthorityRecord {
        created_at: now.0,
        certificate: issuing.certificate().to_vec(),
        sealed_key: kek.seal(&issuing_key, &issuing.key().to_pkcs8_der())?,
    };
    let view_record = ViewKeyRecord {
        created_at: now.0,
        public_key: view_signer.public_key_der().to_vec(),
        sealed_key: kek.seal(&view_key, &view_signer.to_pkcs8_der()?)?,
    };
    let installation = Installation { trust_domain: trust_domain.to_string(), epoch: now.0, sans };
    let commit = Commit::new()
        .absent(keys::INSTALLATION)
        .put(keys::INSTALLATION, document::to_bytes(keys::INSTALLATION, &installation)?)
        .put(root_key.clone(), document::to_bytes(&root_key, &root_record)?)
        .put(issuing_key.clone(), document::to_bytes(&issuing_key, &issuing_record)?)
        .put(view_key.clone(), document::to_bytes(&view_key, &view_record)?)
        .raising_revision();
    let authority = Authority {
        trust_domain: trust_domain.clone(),
        epoch: now.0,
        sans: installation.sans,
        bundle: issuing.root_bundle().clone(),
        issuing,
        view_keys: vec![ViewKey {
            key_id: view_signer.key_id().to_owned(),
            public_key: view_record.public_key,
        }],
        view_signer,
    };
    Ok((commit, authority))
}

impl Authority {
    /// Loads what [`found`] put into the registry.
    ///
    /// # Errors
    /// When something is missing, damaged, or sealed under another key.
    pub async fn load(store: &dyn Store, kek: &KeyEncryptionKey) -> Result<Self, AuthorityError> {
        let stored = store.get(keys::INSTALLATION).await?.ok_or(AuthorityError::Unfinished)?;
        let installation: Installation = document::from_stored(keys::INSTALLATION, &stored)?;
        let trust_domain = TrustDomain::parse(&installation.trust_domain)?;
        let roots: Vec<(String, AuthorityRecord)> = read_all(store, keys::ROOTS).await?;
        let issuing: Vec<(String, AuthorityRecord)> = read_all(store, keys::ISSUING).await?;
        let view_keys: Vec<(String, ViewKeyRecord)> = read_all(store, keys::VIEW_KEYS).await?;

        let bundle =
            TrustBundle::new(trust_domain.clone(), roots.iter().map(|(_, root)| root.certificate.clone()))?;
        let (_, root) = roots
            .iter()
            .max_by_key(|(_, record)| record.created_at)
            .ok_or(AuthorityError::Missing("root"))?;
        let (name, active) = issuing
            .iter()
            .max_by_key(|(_, record)| record.created_at)
            .ok_or(AuthorityError::Missing("issuing authority"))?;
        let key = KeyPair::from_pkcs8_der(&kek.open(name, &active.sealed_key)?)?;
        let issuing = IssuingAuthority::load(active.certificate.clone(), key, root.certificate.clone())?;

        let (name, signs) = view_keys
            .iter()
            .max_by_key(|(_, record)| record.created_at)
            .ok_or(AuthorityError::Missing("view-signing key"))?;
        let view_signer = ViewSigner::from_pkcs8_der(&kek.open(name, &signs.sealed_key)?)?;
        let view_keys = view_keys
            .iter()
            .map(|(key, record)| ViewKey {
                key_id: key.strip_prefix(keys::VIEW_KEYS).unwrap_or(key).to_owned(),
                public_key: record.public_key.clone(),
            })
            .collect();
        Ok(Self {
            trust_domain,
            epoch: installation.epoch,
            sans: installation.sans,
            issuing,
            bundle,
            view_signer,
            view_keys,
        })
    }

    /// The trust domain of all that is issued here.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The first part of every view's number.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// DNS names and IP addresses that `init` was given for the server certificate.
    pub fn sans(&self) -> &[String] {
        &self.sans
    }

    /// The authority that signs certificates.
    pub fn issuing(&self) -> &IssuingAuthority {
        &self.issuing
    }

    /// The roots that everybody is to trust.
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// The root under which certificates are issued now.
    pub fn root(&self) -> Option<&hauberk_tls::Root> {
        self.issuing.root_bundle().roots().first()
    }

    /// SHA-256 of that root, hexadecimal: what agents pin.
    pub fn root_fingerprint(&self) -> String {
        self.root().map(|root| root.fingerprint().to_string()).unwrap_or_default()
    }

    /// Signs views, and says with which key.
    pub fn view_signer(&self) -> &ViewSigner {
        &self.view_signer
    }

    /// The keys whose signatures on views are good.
    pub fn view_keys(&self) -> &[ViewKey] {
        &self.view_keys
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

async fn read_all<T: serde::de::DeserializeOwned>(
    store: &dyn Store,
    prefix: &str,
) -> Result<Vec<(String, T)>, StoreError> {
    let page = store.list(prefix, None, MANY).await?;
    page.entries
        .into_iter()
        .map(|(key, stored)| document::from_stored(&key, &stored).map(|record| (key, record)))
        .collect()
}
