//! The authorities of this installation: what `init` founds, what `run` loads, how one follows another, and what
//! everybody is to trust.
//!
//! A root's key is used where an issuing authority is made, and stays sealed otherwise.

mod book;
mod found;
mod in_force;
mod keeper;
mod key_store;
mod lifecycle;
mod make;
mod records;
mod seal;
mod signing;
mod steps;
mod token;
mod upstream;
mod view_keys;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use hauberk_identity::{TrustDomain, TrustDomainError, UnixMillis, ValidityError};
use hauberk_proto::agent::v1 as agent;
use hauberk_tls::signing::{SigningError, ViewSigner};
use hauberk_tls::{AuthorityError as CertificateError, BundleError, IssuingAuthority, KeyError};
use hauberk_tls::{Root, TrustBundle};
use tokio::sync::watch;

use crate::random::NoRandomness;
use crate::registry::{Store, StoreError, document, keys};
use book::Book;
pub use book::Kind;
pub use found::{MadeKeys, found};
use in_force::InForce;
pub use in_force::ServerChain;
pub use keeper::{keep, own_actor};
pub use key_store::KeyStore;
pub use lifecycle::{Authorities, AuthoritiesParts, AuthorityView, KeyNamed, LifecycleError};
pub use lifecycle::{ListError, ListIssuer, ListIssuers, Need, Progress};
pub use lifecycle::{Requested, Unsettled};
pub use records::{Installation, State};
pub use seal::{KeyEncryptionKey, SealError};
pub use signing::Turn;
pub use token::{Token, TokenError, TokenSettings, watch as watch_token};
pub use upstream::{Upstream, UpstreamFault, follow};
use view_keys::ViewKeys;
pub use view_keys::{ViewKey, ViewKeyView};

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
    /// Whoever knows the oldest of them alone would find us no longer.
    #[error(
        "no other root can take the place of the active one before {from}: roots that were in use before it are still trusted, whoever knows \
         one of them alone is to find the control plane, and a chain of certificates has room for {room} of them. Wait until then, or take \
         trust away from {oldest}, which cuts off whoever knows that one alone: `hauberk authority revoke {oldest}`"
    )]
    RootsInUse {
        /// The serial number of the oldest one.
        oldest: String,
        /// How many there is room for, the active one among them.
        room: usize,
        /// From when on there is.
        from: UnixMillis,
    },
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
    /// A token does not do what is needed.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A token does not sign with a key that was made in it.
    #[error("{0}")]
    TokenKey(String),
    /// A key is in a token, and there is none.
    #[error(
        "the key of {whose} is in the PKCS#11 token {label:?} (serial number {serial}): set --pkcs11-module, \
         --pkcs11-token and --pkcs11-pin-file"
    )]
    NoToken {
        /// Which authority's, or the request's.
        whose: String,
        /// The token's label.
        label: String,
        /// The token's serial number.
        serial: String,
    },
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

/// The authorities in force. Private keys do not leave it.
pub struct Authority {
    trust_domain: TrustDomain,
    epoch: u64,
    restored_at: Option<UnixMillis>,
    sans: Vec<String>,
    token: Option<Arc<Token>>,
    in_force: watch::Sender<Arc<InForce>>,
    trust: watch::Sender<Arc<agent::Trust>>,
    view_signer: watch::Sender<Arc<ViewSigner>>,
}

/// The epoch of the installation whose registry this is; 0 before there is one.
///
/// # Errors
/// When the store cannot be read.
pub(crate) async fn epoch_of(store: &dyn Store) -> Result<u64, StoreError> {
    let Some(stored) = store.get(keys::INSTALLATION).await? else { return Ok(0) };
    Ok(document::from_stored::<Installation>(keys::INSTALLATION, &stored)?.epoch)
}

impl Authority {
    /// Loads what [`found`] put into the registry and what has become of it.
    ///
    /// # Errors
    /// When something is missing, damaged, sealed under another key, or in a token that does not sign with it.
    pub async fn load(store: &dyn Store, key_store: &KeyStore) -> Result<Self, AuthorityError> {
        let stored = store.get(keys::INSTALLATION).await?.ok_or(AuthorityError::Unfinished)?;
        let installation: Installation = document::from_stored(keys::INSTALLATION, &stored)?;
        let trust_domain = TrustDomain::parse(&installation.trust_domain)?;
        let book = Book::read(store).await?;
        report_root(&book, key_store).await;
        let in_force = InForce::at_start(&book, &trust_domain, key_store).await?;
        let token = key_store.token().cloned();
        Ok(Self::new(trust_domain, installation, in_force, token))
    }

    fn new(
        trust_domain: TrustDomain,
        installation: Installation,
        in_force: InForce,
        token: Option<Arc<Token>>,
    ) -> Self {
        let (trust, view_signer) = (in_force.message(), Arc::clone(&in_force.view_keys.signer));
        Self {
            trust_domain,
            epoch: installation.epoch,
            restored_at: installation.restored_at.map(UnixMillis),
            sans: installation.sans,
            token,
            in_force: watch::Sender::new(Arc::new(in_force)),
            trust: watch::Sender::new(Arc::new(trust)),
            view_signer: watch::Sender::new(view_signer),
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

    /// When it was last said that the registry was put back from a backup.
    pub fn restored_at(&self) -> Option<UnixMillis> {
        self.restored_at
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

    /// What completes the control plane's own certificate.
    pub fn server_chain(&self) -> ServerChain {
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

    /// Signs views and denylists, and says with which key. After a change all are to be signed anew.
    pub fn view_signer(&self) -> watch::Receiver<Arc<ViewSigner>> {
        self.view_signer.subscribe()
    }

    /// The keys whose signatures on views are good.
    pub fn view_keys(&self) -> Vec<ViewKey> {
        self.in_force.borrow().view_keys.believed.clone()
    }

    fn publish(&self, in_force: InForce) {
        let (trust, signer) = (in_force.message(), Arc::clone(&in_force.view_keys.signer));
        self.in_force.send_replace(Arc::new(in_force));
        self.trust.send_replace(Arc::new(trust));
        // After trust: sessions tell agents of a key before they send what it has signed.
        self.view_signer.send_if_modified(|current| {
            let is_new = current.key_id() != signer.key_id();
            *current = signer;
            is_new
        });
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

/// A root in a token is looked for when the control plane starts, not when it is needed, in months. Without it certificates
/// are issued as before.
async fn report_root(book: &Book, key_store: &KeyStore) {
    let Some(root) = book.active(Kind::Root).filter(|root| root.record.token_key.is_some()).cloned() else {
        return;
    };
    let authority = root.serial.clone();
    if let Err(error) = key_store.run(move |key_store| make::open_root(&root, key_store)).await {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::error!(
            event = "root_key_missing", authority, %error, cause, "no issuing authority can be made under this root"
        );
    }
}
