//! The authorities of this installation: what `init` founds, what `run` loads, how one follows another, and what
//! everybody is to trust.
//!
//! A root's key is used where an issuing authority is made, and stays sealed otherwise.

mod book;
mod found;
mod in_force;
mod keeper;
mod lifecycle;
mod make;
mod records;
mod seal;
mod steps;
mod upstream;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{TrustDomain, TrustDomainError, ValidityError};
use hauberk_proto::agent::v1 as agent;
use hauberk_tls::signing::{SigningError, ViewSigner};
use hauberk_tls::{AuthorityError as CertificateError, BundleError, IssuingAuthority, KeyError};
use hauberk_tls::{CertificateDer, Root, TrustBundle};
use tokio::sync::watch;

use crate::random::NoRandomness;
use crate::registry::{Store, StoreError, document, keys};
use book::Book;
pub use book::Kind;
pub use found::found;
use in_force::InForce;
pub use keeper::keep;
pub use lifecycle::{Authorities, AuthoritiesParts, AuthorityView, LifecycleError, Need, Progress};
pub use lifecycle::{Requested, Unsettled};
use records::ViewKeyRecord;
pub use records::{Installation, State};
pub use seal::{KeyEncryptionKey, SealError};
pub use upstream::{Upstream, UpstreamFault, follow};

/// How far the beginning of a certificate lies before its issuance, for clocks that go slow.
pub const BACKDATED: Duration = Duration::from_secs(5 * 60);

/// How many keys that sign views are read; there are a handful.
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
    /// Somebody else has the key that would be needed.
    #[error(
        "root {0} is not this installation's own, and its key is not here: have the next issuing authority signed, with \
         `hauberk authority csr`, then `hauberk authority install`"
    )]
    RootElsewhere(String),
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
    view_signer: ViewSigner,
    view_keys: Vec<ViewKey>,
    in_force: watch::Sender<Arc<InForce>>,
    trust: watch::Sender<Arc<agent::Trust>>,
}

impl Authority {
    /// Loads what [`found`] put into the registry and what has become of it.
    ///
    /// # Errors
    /// When something is missing, damaged, or sealed under another key.
    pub async fn load(store: &dyn Store, kek: &KeyEncryptionKey) -> Result<Self, AuthorityError> {
        let stored = store.get(keys::INSTALLATION).await?.ok_or(AuthorityError::Unfinished)?;
        let installation: Installation = document::from_stored(keys::INSTALLATION, &stored)?;
        let trust_domain = TrustDomain::parse(&installation.trust_domain)?;
        let view_keys: Vec<(String, ViewKeyRecord)> = read_all(store, keys::VIEW_KEYS).await?;
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
        let in_force = InForce::of(&Book::read(store).await?, &trust_domain, None, || Ok(kek))?;
        Ok(Self::new(trust_domain, installation, view_signer, view_keys, in_force))
    }

    fn new(
        trust_domain: TrustDomain,
        installation: Installation,
        view_signer: ViewSigner,
        view_keys: Vec<ViewKey>,
        in_force: InForce,
    ) -> Self {
        let trust = in_force.message(&view_keys);
        Self {
            trust_domain,
            epoch: installation.epoch,
            sans: installation.sans,
            view_signer,
            view_keys,
            in_force: watch::Sender::new(Arc::new(in_force)),
            trust: watch::Sender::new(Arc::new(trust)),
        }
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

    /// The authority that signs certificates now.
    pub fn issuing(&self) -> Arc<IssuingAuthority> {
        Arc::clone(&self.in_force.borrow().issuing)
    }

    /// The roots that everybody is to trust now.
    pub fn bundle(&self) -> Arc<TrustBundle> {
        Arc::clone(&self.in_force.borrow().bundle)
    }

    /// The root under which certificates are issued now.
    pub fn root(&self) -> Option<Root> {
        self.issuing().root_bundle().roots().first().cloned()
    }

    /// SHA-256 of that root, hexadecimal: what agents pin.
    pub fn root_fingerprint(&self) -> String {
        self.root().map(|root| root.fingerprint().to_string()).unwrap_or_default()
    }

    /// What stands behind the control plane's own certificate and its issuing authority, so that whoever knows one of the
    /// trusted roots, by its fingerprint alone even, can verify it.
    pub fn server_chain(&self) -> Vec<CertificateDer<'static>> {
        self.in_force.borrow().server_chain.clone()
    }

    /// What agents are to trust, now and at each change.
    pub fn trust(&self) -> watch::Receiver<Arc<agent::Trust>> {
        self.trust.subscribe()
    }

    /// How often trust has changed.
    pub fn version(&self) -> u64 {
        self.in_force.borrow().version
    }

    /// Whether an authority was revoked since this process started: connections that were verified before may be by it.
    pub fn has_revoked(&self) -> bool {
        self.in_force.borrow().has_revoked
    }

    /// Signs views, and says with which key.
    pub fn view_signer(&self) -> &ViewSigner {
        &self.view_signer
    }

    /// The keys whose signatures on views are good.
    pub fn view_keys(&self) -> &[ViewKey] {
        &self.view_keys
    }

    fn publish(&self, in_force: InForce) {
        let trust = in_force.message(&self.view_keys);
        self.in_force.send_replace(Arc::new(in_force));
        self.trust.send_replace(Arc::new(trust));
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
