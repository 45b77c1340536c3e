//! What `init` founds.

use hauberk_identity::{TrustDomain, UnixMillis};
use hauberk_tls::signing::ViewSigner;

use super::book::Kind;
use super::in_force::InForce;
use super::make;
use super::records::{Installation, State, TrustRecord};
use super::{Authority, AuthorityError, KeyStore, ViewKeys, view_keys};
use crate::registry::{Commit, document, keys};

/// Makes root, issuing authority and view-signing key, and the commit that founds the installation with them.
///
/// # Errors
/// When keys or certificates cannot be made.
pub async fn found(
    trust_domain: &TrustDomain,
    sans: Vec<String>,
    key_store: &KeyStore,
    now: UnixMillis,
) -> Result<(Commit, Authority), AuthorityError> {
    let domain = trust_domain.clone();
    let made = key_store.run(move |key_store| {
        let (root, root_record) = make::root(&domain, key_store, now)?;
        let (issuing, issuing_record) = make::issuing(&root, key_store, now)?;
        Ok::<_, AuthorityError>((root, root_record, issuing, issuing_record))
    });
    let (root, mut root_record, issuing, mut issuing_record) = made.await?;
    root_record.state = State::Active;
    issuing_record.state = State::Active;
    let view_signer = ViewSigner::generate()?;

    let root_key = Kind::Root.key(&root.serial().to_string());
    let issuing_key = Kind::Issuing.key(&issuing.serial().to_string());
    let (view_key, view_record) = view_keys::record_of(&view_signer, key_store, now.0)?;
    let (trust_domain_name, epoch) = (trust_domain.to_string(), now.0);
    let installation = Installation { trust_domain: trust_domain_name, epoch, sans, restored_at: None };
    let trust = TrustRecord { version: 1 };
    let commit = Commit::new()
        .absent(keys::INSTALLATION)
        .put(keys::INSTALLATION, document::to_bytes(keys::INSTALLATION, &installation)?)
        .put(root_key.clone(), document::to_bytes(&root_key, &root_record)?)
        .put(issuing_key.clone(), document::to_bytes(&issuing_key, &issuing_record)?)
        .put(keys::TRUST, document::to_bytes(keys::TRUST, &trust)?)
        .put(view_key.clone(), document::to_bytes(&view_key, &view_record)?)
        .raising_revision();
    let in_force = InForce::founded(issuing, ViewKeys::founded(view_signer), trust.version);
    let token = key_store.token().cloned();
    let authority = Authority::new(trust_domain.clone(), installation, in_force, token);
    Ok((commit, authority))
}
