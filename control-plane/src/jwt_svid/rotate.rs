//! Prepare, publish, sign, retire: what is due by the clock, and what each step writes.

use std::time::Duration;

use hauberk_identity::UnixMillis;
use hauberk_tls::jwt::JwtSigner;

use super::keys::{KeySet, SigningKey, SigningKeyError, SigningKeys};
use super::mint::LONGEST_TOKEN_LIFE;
use super::record::SigningKeyRecord;
use crate::authority::State;
use crate::registry::{Commit, StoreError, document, keys};

/// The life of a key, as SPIRE's: its tokens end with it.
pub(super) const KEY_LIFE: Duration = Duration::from_secs(24 * 3_600);

/// How long before the end of a key the next is made and published.
pub(super) const PREPARED_BEFORE_END: Duration = Duration::from_secs(12 * 3_600);

/// How long before the end of a key the next one signs.
pub(super) const SIGNS_BEFORE_END: Duration = Duration::from_secs(4 * 3_600);

/// How long a key is published before it signs by itself, however late it is made: those who keep the set look again by then.
pub const PUBLISHED_FOR: Duration = Duration::from_secs(600);

/// How many keys are kept, the latest ones, until they have surely expired: where a control plane starts every few minutes, nothing ever
/// has, and what verifies tokens reads a bounded number.
const KEPT_IN_DOUBT: usize = 16;

/// A key as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtKeyView {
    /// What its tokens name it by.
    pub key_id: String,
    /// What it is now.
    pub state: State,
    /// When it was made.
    pub created_at: UnixMillis,
    /// When it came into its state.
    pub changed_at: UnixMillis,
    /// When it and the last of its tokens end.
    pub not_after: UnixMillis,
    /// It is prepared, and signs as soon as every live instance knows it.
    pub goes_on: bool,
    /// The version of trust that tells of it as it is.
    pub needs_version: u64,
    /// Live instances that have acknowledged that version.
    pub holders: usize,
}

/// What is to be made.
pub(crate) struct Prepare {
    /// From when on it signs, unless it is activated before.
    pub(crate) signs_from: UnixMillis,
    /// It signs as soon as every live instance knows it.
    pub(crate) goes_on: bool,
    /// The version of trust that tells of it.
    pub(crate) needs_version: u64,
}

/// What is due by itself.
pub(crate) enum Due {
    /// Make the next key, which signs from this instant on.
    Prepare(UnixMillis),
    /// Let this one sign, once every live instance knows it.
    Activate(JwtKeyView),
    /// This one has expired.
    Retire(String),
}

impl JwtKeyView {
    /// Until when a token that it has signed may be good.
    pub(crate) fn tokens_end_at(&self) -> UnixMillis {
        self.changed_at.plus(LONGEST_TOKEN_LIFE).min(self.not_after)
    }
}

impl KeySet {
    /// All keys, in the order in which they sign. Of who knows them nothing is known here.
    pub(crate) fn show(&self, now: UnixMillis) -> Vec<JwtKeyView> {
        let signs = self.signing_at(now).map(SigningKey::id);
        let shown = self.keys.iter().enumerate().map(|(index, key)| {
            let SigningKeyRecord {
                created_at,
                signs_from,
                not_after,
                tainted_at,
                goes_on,
                needs_version,
                ..
            } = key.record;
            let (state, changed_at) = if let Some(tainted_at) = tainted_at {
                (State::Tainted, tainted_at)
            } else if UnixMillis(signs_from) > now {
                (State::Prepared, created_at)
            } else if signs == Some(key.id()) {
                (State::Active, signs_from)
            } else {
                let after = self.keys.get(index + 1..).unwrap_or_default().iter();
                let next = after.map(|next| next.record.signs_from).find(|next| UnixMillis(*next) <= now);
                (State::Retiring, next.unwrap_or(not_after))
            };
            JwtKeyView {
                key_id: key.id().to_owned(),
                state,
                created_at: UnixMillis(created_at),
                changed_at: UnixMillis(changed_at),
                not_after: UnixMillis(not_after),
                goes_on: goes_on && state == State::Prepared,
                needs_version,
                holders: 0,
            }
        });
        shown.collect()
    }

    /// One of them.
    pub(crate) fn find(&self, key_id: &str, now: UnixMillis) -> Option<JwtKeyView> {
        self.show(now).into_iter().find(|key| key.key_id == key_id)
    }

    /// The first that is prepared.
    pub(crate) fn prepared(&self, now: UnixMillis) -> Option<JwtKeyView> {
        self.show(now).into_iter().find(|key| key.state == State::Prepared)
    }

    /// What is due, the most urgent first. A clock that is ahead for a while takes no key away.
    pub(crate) fn due(&self, now: UnixMillis, surely_past: UnixMillis) -> Vec<Due> {
        let without_place = self.keys.len().saturating_sub(KEPT_IN_DOUBT);
        let expired =
            self.keys.iter().enumerate().filter(|(index, key)| {
                key.not_after() <= if *index < without_place { now } else { surely_past }
            });
        let mut due: Vec<_> = expired.map(|(_, key)| Due::Retire(key.id().to_owned())).collect();
        due.extend(self.next_signs_from(now).map(Due::Prepare));
        due.extend(self.prepared(now).filter(|key| key.goes_on).map(Due::Activate));
        due
    }

    /// When the next key would sign that is made now by hand.
    pub(crate) fn next_by_hand(&self, now: UnixMillis) -> UnixMillis {
        if self.signing_at(now).is_none() {
            return now;
        }
        now.plus(PUBLISHED_FOR).max(self.ends(now).minus(SIGNS_BEFORE_END))
    }

    /// From when on a key that is made now signs; `None` where none is needed yet.
    fn next_signs_from(&self, now: UnixMillis) -> Option<UnixMillis> {
        if self.signing_at(now).is_none() {
            return Some(now);
        }
        let ends = self.ends(now);
        if ends.since(now) > PREPARED_BEFORE_END {
            return None;
        }
        let due = now.plus(PUBLISHED_FOR).max(ends.minus(SIGNS_BEFORE_END));
        // Too late to publish it first: the tokens of the last one would get shorter and shorter.
        if ends.since(due) < LONGEST_TOKEN_LIFE { Some(now) } else { Some(due) }
    }

    /// The end of the last key that signs or will. One that was made by a clock far ahead of today's counts for nothing until its
    /// time has come.
    fn ends(&self, now: UnixMillis) -> UnixMillis {
        let count =
            |key: &&SigningKey| !key.is_tainted() && UnixMillis(key.record.signs_from) <= now.plus(KEY_LIFE);
        self.keys.iter().filter(count).map(SigningKey::not_after).max().unwrap_or_default()
    }

    fn record(&self, key_id: &str) -> Result<SigningKeyRecord, SigningKeyError> {
        let key = self.keys.iter().find(|key| key.id() == key_id);
        key.map(|key| key.record.clone()).ok_or_else(|| SigningKeyError::NotThere(key_id.to_owned()))
    }

    /// A key signs from now on, for a whole life of its own.
    ///
    /// # Errors
    /// There is no such key: a step that changes nothing would be taken for done.
    pub(crate) fn activate(
        &self,
        commit: Commit,
        key_id: &str,
        needs_version: u64,
        now: UnixMillis,
    ) -> Result<Commit, SigningKeyError> {
        let record = self.record(key_id)?;
        let not_after = now.plus(KEY_LIFE).0;
        let signs =
            SigningKeyRecord { signs_from: now.0, not_after, goes_on: false, needs_version, ..record };
        Ok(put(commit, key_id, &signs)?)
    }

    /// A key that is prepared signs as soon as every live instance knows it.
    ///
    /// # Errors
    /// There is no such key.
    pub(crate) fn go_on(&self, commit: Commit, key_id: &str) -> Result<Commit, SigningKeyError> {
        let record = self.record(key_id)?;
        Ok(put(commit, key_id, &SigningKeyRecord { goes_on: true, ..record })?)
    }

    /// A key signs nothing more, and what it has signed is replaced.
    ///
    /// # Errors
    /// There is no such key: it is not to be taken for tainted.
    pub(crate) fn taint(
        &self,
        commit: Commit,
        key_id: &str,
        needs_version: u64,
        now: UnixMillis,
    ) -> Result<Commit, SigningKeyError> {
        let record = self.record(key_id)?;
        let (tainted_at, goes_on) = (Some(now.0), false);
        Ok(put(commit, key_id, &SigningKeyRecord { tainted_at, goes_on, needs_version, ..record })?)
    }
}

impl SigningKeys {
    /// A new key. Gives its id.
    pub(crate) fn prepare(
        &self,
        commit: Commit,
        wanted: &Prepare,
        now: UnixMillis,
    ) -> Result<(String, Commit), SigningKeyError> {
        let mut signer = JwtSigner::generate()?;
        // On a command line that would begin an option.
        while signer.key_id().starts_with('-') {
            signer = JwtSigner::generate()?;
        }
        let Prepare { signs_from, goes_on, needs_version } = *wanted;
        let record = SigningKeyRecord {
            created_at: now.0,
            signs_from: signs_from.0,
            not_after: now.plus(KEY_LIFE).0,
            public_key: signer.public_point().to_vec(),
            sealed_key: self.kek.seal(&store_key(signer.key_id()), &signer.to_pkcs8_der()?)?,
            tainted_at: None,
            goes_on,
            needs_version,
        };
        Ok((signer.key_id().to_owned(), put(commit, signer.key_id(), &record)?))
    }
}

/// A key verifies nothing any longer.
pub(crate) fn remove(commit: Commit, key_id: &str) -> Commit {
    commit.delete(store_key(key_id))
}

fn put(commit: Commit, key_id: &str, record: &SigningKeyRecord) -> Result<Commit, StoreError> {
    let key = store_key(key_id);
    let bytes = document::to_bytes(&key, record)?;
    Ok(commit.put(key, bytes))
}

fn store_key(key_id: &str) -> String {
    format!("{}{key_id}", keys::JWT_KEYS)
}
