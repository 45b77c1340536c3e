//! Steps that take keys: where those are in a token, they wait for it.

use super::{Authorities, LifecycleError};
use crate::authority::book::{Book, Entry, Kind};
use crate::authority::key_store::Destroyed;
use crate::authority::records::TokenKeyRecord;
use crate::authority::{AuthorityError, KeyStore, TokenError, make};
use crate::registry::{Condition, StoreError};

impl Authorities {
    /// Makes what takes a key.
    pub(super) async fn make<T, E>(
        &self,
        work: impl FnOnce(&KeyStore) -> Result<T, E> + Send + 'static,
    ) -> Result<T, LifecycleError>
    where
        T: Send + 'static,
        E: From<TokenError> + Send + 'static,
        LifecycleError: From<E>,
    {
        let keys = &self.parts.keys;
        // What is made in a token stays there, also if nothing can be written of it.
        if keys.token().is_some()
            && let Condition::Full(reason) | Condition::Broken(reason) = self.parts.store.condition()
        {
            return Err(StoreError::ReadOnly { reason }.into());
        }
        Ok(keys.run(work).await?)
    }

    /// Opens the key of what signs once this has become active, and looks whether both are valid: afterwards there would be no
    /// other.
    pub(super) async fn see_to_sign(&self, book: &Book, entry: &Entry) -> Result<(), LifecycleError> {
        let signs = match entry.kind {
            Kind::Issuing => Some(entry),
            Kind::Root => book.waits_under(entry),
        };
        let signs = signs.ok_or(AuthorityError::Missing("issuing authority"))?;
        let now = self.parts.clock.now();
        if let Some(other) = [entry, signs].into_iter().find(|it| !it.certificate.validity().contains(now)) {
            let (serial, validity) = (other.serial.clone(), other.certificate.validity());
            return Err(LifecycleError::NotValidNow { serial, validity, now });
        }
        Ok(make::open_issuing(book, signs, &self.parts.keys).await.map(drop)?)
    }

    /// Destroys the key of a request in whose place another was written; where that fails it is left, and said.
    pub(super) async fn destroy_former(&self, former: TokenKeyRecord) {
        let (label, id) = (former.label.clone(), former.key_id());
        let problem = match self.parts.keys.run(move |keys| keys.destroy(Some(&former))).await {
            Ok(Destroyed::Left) => "that token is not there".to_owned(),
            Ok(Destroyed::WithItsRecord | Destroyed::InToken) => return,
            Err(error) => error.to_string(),
        };
        tracing::warn!(
            event = "token_key_left",
            token = label,
            %id,
            problem,
            "the key of the former request is left in its token: nobody signs with it, delete it there"
        );
    }

    /// Destroys the key of an authority that is about to be forgotten: before it is, so that a crash leaves none behind.
    /// Tells why it is forgotten, and what has become of its key.
    pub(super) async fn destroy_key(&self, entry: &Entry) -> Result<String, LifecycleError> {
        let Some(record) = &entry.record.token_key else { return Ok("by age".to_owned()) };
        let key = record.clone();
        let destroyed = self.parts.keys.run(move |keys| keys.destroy(Some(&key))).await?;
        let token = format!("the token {:?} (serial number {})", record.label, record.token_serial);
        Ok(match destroyed {
            Destroyed::WithItsRecord => "by age".to_owned(),
            Destroyed::InToken => format!("by age; its key was destroyed in {token}"),
            Destroyed::Left => format!("by age; its key is left in {token}, with the id {}", record.key_id()),
        })
    }
}
