//! What `init` founds.

use hauberk_identity::{TrustDomain, UnixMillis};
use hauberk_tls::signing::ViewSigner;
use hauberk_tls::{IssuingAuthority, RootAuthority};

use super::book::Kind;
use super::in_force::InForce;
use super::make;
use super::records::{AuthorityRecord, Installation, State, TokenKeyRecord, TrustRecord};
use super::{Authority, AuthorityError, KeyStore, ViewKeys, view_keys};
use crate::registry::{Commit, document, keys};

/// Keys that were made for an installation, and are of no use where it is not founded.
pub struct MadeKeys(Vec<TokenKeyRecord>);

impl MadeKeys {
    /// Destroys those that are in a token: there is no record by which anybody would. What cannot be destroyed is told.
    pub async fn destroy(self, key_store: &KeyStore) {
        for key in self.0 {
            let (token, id) = (key.label.clone(), key.key_id());
            let destroyed = key_store.run(move |keys| keys.destroy(Some(&key))).await;
            if let Err(error) = destroyed {
                tracing::warn!(event = "token_key_left", token, %id, %error,
                    "a key of the installation that was not founded is left in its token: delete it there");
            }
        }
    }
}

/// Makes root, issuing authority and view-signing key, and the commit that founds the installation with them.
///
/// # Errors
/// When keys or certificates cannot be made.
pub async fn found(
    trust_domain: &TrustDomain,
    sans: Vec<String>,
    key_store: &KeyStore,
    now: UnixMillis,
) -> Result<(Commit, Authority, MadeKeys), AuthorityError> {
    let domain = trust_domain.clone();
    let made = key_store.run(move |key_store| {
        let (root, root_record) = make::root(&domain, key_store, now)?;
        let (issuing, issuing_record) = make::issuing(&root, key_store, now)?;
        Ok::<_, AuthorityError>((root, root_record, issuing, issuing_record))
    });
    let (root, root_record, issuing, issuing_record) = made.await?;
    let in_token = [&root_record, &issuing_record].into_iter().filter_map(|record| record.token_key.clone());
    let made_keys = MadeKeys(in_token.collect());
    match commit(trust_domain, sans, key_store, now, (root, root_record), (issuing, issuing_record)) {
        Ok((commit, authority)) => Ok((commit, authority, made_keys)),
        Err(error) => {
            made_keys.destroy(key_store).await;
            Err(error)
        }
    }
}

fn commit(
    trust_domain: &TrustDomain,
    sans: Vec<String>,
    key_store: &KeyStore,
    now: UnixMillis,
    (root, mut root_record): (RootAuthority, AuthorityRecord),
    (issuing, mut issuing_record): (IssuingAuthority, AuthorityRecord),
) -> Result<(Commit, Authority), AuthorityError> {
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
