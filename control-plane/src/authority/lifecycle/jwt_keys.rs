//! One key that signs JWT-SVIDs after another, by hand and by the clock.
//!
//! A change of them is a change of trust: agents that verify tokens are told the keys before the version that counts the change,
//! so that whoever acknowledges the version has the keys in force.

use std::sync::Arc;

use hauberk_identity::UnixMillis;
use tokio::sync::MutexGuard;

use super::{Authorities, LifecycleError, named};
use crate::audit::{Act, Actor};
use crate::authority::book::Book;
use crate::authority::records::State;
use crate::jwt_svid::{Due, JwtKeyView, KeySet, Prepare, remove};
use crate::registry::{Commit, StoreError};

/// What a step begins from.
struct Begun<'a> {
    /// Held until what was written is published.
    _one_at_a_time: MutexGuard<'a, ()>,
    book: Book,
    keys: Arc<KeySet>,
    now: UnixMillis,
}

/// With how many keys no further one is prepared. What verifies tokens reads a bounded number, and takes none where there are more;
/// one that is tainted makes room for its successor in any case.
const MOST_KEYS: usize = 32;

impl Begun<'_> {
    /// It is small, and tokens end without it: it is taken while there is any room.
    fn commit(&self) -> Result<Commit, StoreError> {
        Ok(self.book.change()?.using_reserve())
    }

    /// The version of trust that the step makes.
    fn next_version(&self) -> u64 {
        self.book.trust.version + 1
    }

    fn find(&self, key_id: &str) -> Result<JwtKeyView, LifecycleError> {
        self.keys.find(key_id, self.now).ok_or_else(|| LifecycleError::Unknown(key_id.to_owned()))
    }
}

impl Authorities {
    /// The keys that sign tokens, in the order in which they sign.
    pub fn jwt_keys(&self) -> Vec<JwtKeyView> {
        let now = self.parts.clock.now();
        let mut keys = self.parts.signing_keys.current().show(now);
        let live = self.parts.instances.trusting(now);
        for key in &mut keys {
            key.holders = live.iter().filter(|live| live.version >= key.needs_version).count();
        }
        keys
    }

    /// Makes a key that everybody is told of. Where one waits already, that one; `goes_on`: it signs as soon as every live instance
    /// knows it. Otherwise it signs once the clock says so, or when it is activated. Gives its id.
    ///
    /// # Errors
    /// There are as many as agents are to know, or it cannot be made or written.
    pub async fn prepare_jwt_key(&self, goes_on: bool, actor: &Actor) -> Result<String, LifecycleError> {
        let begun = self.begin_jwt_step().await?;
        let (key_id, commit) = match begun.keys.prepared(begun.now) {
            Some(waiting) if waiting.goes_on || !goes_on => return Ok(waiting.key_id),
            Some(waiting) => {
                let commit = begun.keys.go_on(begun.commit()?, &waiting.key_id)?;
                (waiting.key_id, commit)
            }
            None if begun.keys.show(begun.now).len() >= MOST_KEYS => {
                return Err(LifecycleError::TooManyJwtKeys(MOST_KEYS));
            }
            None => self.new_jwt_key(&begun, begun.keys.next_by_hand(begun.now), goes_on, begun.commit()?)?,
        };
        let action = if goes_on { "jwt-key.rotate" } else { "jwt-key.prepare" };
        self.commit(commit, Act::done(actor, action, key_id.clone())).await?;
        Ok(key_id)
    }

    /// Has a prepared key sign from now on.
    ///
    /// # Errors
    /// It is not prepared, or somebody would not know its tokens yet.
    pub async fn activate_jwt_key(&self, key_id: &str, actor: &Actor) -> Result<(), LifecycleError> {
        let begun = self.begin_jwt_step().await?;
        let key = begun.find(key_id)?;
        if key.state != State::Prepared {
            return Err(wrong_state(&key, "only a prepared one is activated"));
        }
        let late = self.not_trusting(key.needs_version);
        if !late.is_empty() {
            let named = named(late.iter().map(|late| (&late.spiffe_id, late.instance.to_string())));
            return Err(LifecycleError::NotTrustedYet { count: late.len(), named });
        }
        let commit = begun.keys.activate(begun.commit()?, key_id, begun.next_version(), begun.now)?;
        self.commit(commit, Act::done(actor, "jwt-key.activate", key_id)).await
    }

    /// Has everything that a key has signed replaced. Where it is the one that signs, another does from then on, in the same
    /// commit.
    ///
    /// # Errors
    /// There is no such key, or it cannot be written.
    pub async fn taint_jwt_key(&self, key_id: &str, actor: &Actor) -> Result<(), LifecycleError> {
        let begun = self.begin_jwt_step().await?;
        let key = begun.find(key_id)?;
        let (version, now) = (begun.next_version(), begun.now);
        let mut commit = begun.commit()?;
        match key.state {
            State::Tainted => return Ok(()),
            State::Active => {
                commit = match begun.keys.prepared(now) {
                    Some(waiting) => begun.keys.activate(commit, &waiting.key_id, version, now)?,
                    None => self.new_jwt_key(&begun, now, false, commit)?.1,
                };
            }
            _ => {}
        }
        let commit = begun.keys.taint(commit, key_id, version, now)?;
        self.commit(commit, Act::done(actor, "jwt-key.taint", key_id)).await
    }

    /// Takes a key away: nothing that it has signed is good any longer. `even_now`: even where that is in use.
    ///
    /// # Errors
    /// It signs, what it has signed may be in use, or live instances may still hand that out.
    pub async fn revoke_jwt_key(
        &self,
        key_id: &str,
        even_now: bool,
        actor: &Actor,
    ) -> Result<(), LifecycleError> {
        let begun = self.begin_jwt_step().await?;
        let key = begun.find(key_id)?;
        match key.state {
            State::Active => {
                let needed = "put another in its place first, with `hauberk authority rotate jwt-key`, or at once with \
                              `hauberk authority taint`";
                return Err(wrong_state(&key, needed));
            }
            State::Tainted if !even_now => {
                let late = self.not_trusting(key.needs_version);
                if !late.is_empty() {
                    let named = named(late.iter().map(|late| (&late.spiffe_id, late.instance.to_string())));
                    return Err(LifecycleError::TokensKept { count: late.len(), named });
                }
            }
            State::Retiring if !even_now && begun.now < key.tokens_end_at() => {
                return Err(LifecycleError::TokensInUse { until: key.tokens_end_at(), key_id: key.key_id });
            }
            _ => {}
        }
        let commit = remove(begun.commit()?, key_id);
        self.commit(commit, Act::done(actor, "jwt-key.revoke", key_id)).await
    }

    /// Takes the next step that is due by itself. Whether one was taken.
    ///
    /// # Errors
    /// The registry takes no writes: what signs goes on until it expires, and it is tried again.
    pub async fn advance_jwt_keys(&self, actor: &Actor) -> Result<bool, LifecycleError> {
        let keys = self.parts.signing_keys.current();
        for due in keys.due(self.parts.clock.now(), self.parts.clock.surely_past()) {
            match due {
                Due::Retire(key_id) => {
                    let begun = self.begin_jwt_step().await?;
                    let commit = remove(begun.commit()?, &key_id);
                    self.commit(commit, Act::done(actor, "jwt-key.retire", key_id)).await?;
                }
                Due::Prepare(signs_from) => {
                    let begun = self.begin_jwt_step().await?;
                    let (key_id, commit) = self.new_jwt_key(&begun, signs_from, false, begun.commit()?)?;
                    self.commit(commit, Act::done(actor, "jwt-key.prepare", key_id)).await?;
                }
                Due::Activate(key) if self.not_trusting(key.needs_version).is_empty() => {
                    self.activate_jwt_key(&key.key_id, actor).await?;
                }
                Due::Activate(_) => continue,
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// Takes the steps that are due, before anything is served. A registry that takes no writes stops no control plane: tokens are
    /// refused until there is a key.
    pub async fn begin_jwt_keys(&self, actor: &Actor) {
        loop {
            match self.advance_jwt_keys(actor).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(event = "jwt_key_failed", %error, cause, "keys that sign tokens are not rotated; it is tried again");
                    return;
                }
            }
        }
    }

    async fn begin_jwt_step(&self) -> Result<Begun<'_>, LifecycleError> {
        let one_at_a_time = self.step.lock().await;
        let book = Book::read(&*self.parts.store).await?;
        if book.trust.version != self.parts.authority.version() {
            self.publish().await?;
        }
        let (keys, now) = (self.parts.signing_keys.current(), self.parts.clock.now());
        Ok(Begun { _one_at_a_time: one_at_a_time, book, keys, now })
    }

    fn new_jwt_key(
        &self,
        begun: &Begun<'_>,
        signs_from: UnixMillis,
        goes_on: bool,
        commit: Commit,
    ) -> Result<(String, Commit), LifecycleError> {
        let wanted = Prepare { signs_from, goes_on, needs_version: begun.next_version() };
        Ok(self.parts.signing_keys.prepare(commit, &wanted, begun.now)?)
    }
}

fn wrong_state(key: &JwtKeyView, needed: &'static str) -> LifecycleError {
    LifecycleError::WrongState { serial: key.key_id.clone(), state: key.state, needed }
}
