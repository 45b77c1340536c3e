//! One key that signs views after another.

use super::{Authorities, LifecycleError};
use crate::audit::{Act, Actor};
use crate::authority::book::Book;
use crate::authority::view_keys::{self, ViewKeyView};

impl Authorities {
    /// The keys that sign views, the oldest first.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn view_keys(&self) -> Result<Vec<ViewKeyView>, LifecycleError> {
        let mut shown = view_keys::show(&Book::read(&*self.parts.store).await?);
        let now = self.parts.clock.now();
        for key in &mut shown {
            key.holders = self.parts.instances.believing(&key.key_id, now);
        }
        Ok(shown)
    }

    /// Has another key sign views and denylists, all of which are signed anew. What the former has signed stays good until it
    /// is revoked, by hand or by age. Gives the id of the new one.
    ///
    /// # Errors
    /// It cannot be made or written.
    pub async fn rotate_view_key(&self, actor: &Actor) -> Result<String, LifecycleError> {
        let _one_at_a_time = self.step.lock().await;
        let book = Book::read(&*self.parts.store).await?;
        let (key_id, commit) = view_keys::rotate(&book, &self.parts.keys, self.parts.clock.now())?;
        self.commit(commit, Act::done(actor, "view-key.rotate", key_id.clone())).await?;
        Ok(key_id)
    }

    /// Takes trust away from what a key has signed.
    ///
    /// # Errors
    /// There is no such key, or it signs.
    pub async fn revoke_view_key(&self, key_id: &str, actor: &Actor) -> Result<(), LifecycleError> {
        let _one_at_a_time = self.step.lock().await;
        let book = Book::read(&*self.parts.store).await?;
        let shown = view_keys::show(&book);
        match shown.iter().find(|key| key.key_id == key_id) {
            None => return Err(LifecycleError::Unknown(key_id.to_owned())),
            Some(key) if key.signs => return Err(LifecycleError::ViewKeySigns(key_id.to_owned())),
            Some(_) => {}
        }
        self.commit(view_keys::revoke(&book, key_id)?, Act::done(actor, "view-key.revoke", key_id)).await
    }
}
