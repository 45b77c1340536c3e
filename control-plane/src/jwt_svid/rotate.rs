//! Prepare, publish, sign, retire: by the clock, and one commit at a time.

use std::time::Duration;

use hauberk_identity::UnixMillis;
use hauberk_tls::jwt::JwtSigner;
use tokio_util::sync::CancellationToken;

use super::keys::{SigningKeyError, SigningKeys};
use super::mint::LONGEST_TOKEN_LIFE;
use super::record::SigningKeyRecord;
use crate::audit::{Act, Actor};
use crate::registry::{Commit, StoreError, document, keys};

/// The life of a key, as SPIRE's: its tokens end with it.
pub(super) const KEY_LIFE: Duration = Duration::from_secs(24 * 3_600);

/// How long before the end of a key the next is made and published.
pub(super) const PREPARED_BEFORE_END: Duration = Duration::from_secs(12 * 3_600);

/// How long before the end of a key the next one signs.
pub(super) const SIGNS_BEFORE_END: Duration = Duration::from_secs(4 * 3_600);

/// How long a key is published before it signs, however late it is made: those who keep the set look again by then.
pub const PUBLISHED_FOR: Duration = Duration::from_secs(600);

/// How often the clock is asked whether something is due.
const EVERY: Duration = Duration::from_secs(60);

impl SigningKeys {
    /// Does what is due: forgets keys that have expired, and makes the next one.
    ///
    /// # Errors
    /// When the registry takes no writes. What signs goes on until it expires.
    pub async fn rotate(&self) -> Result<(), SigningKeyError> {
        let now = self.clock.now();
        let mut records = self.records().await?;
        for (key, _, stored) in records.extract_if(.., |(_, record, _)| UnixMillis(record.not_after) <= now) {
            let commit = Commit::new().at(key.clone(), stored.version).delete(key.clone()).using_reserve();
            self.record(commit, "jwt-key.retire", &key).await?;
        }
        if let Some(signs_from) = next_signs_from(records.iter().map(|(_, record, _)| record), now) {
            let (key, record) = self.prepare(now, signs_from)?;
            let value = document::to_bytes(&key, &record)?;
            let commit = Commit::new().absent(key.clone()).put(key.clone(), value).using_reserve();
            self.record(commit, "jwt-key.prepare", &key).await?;
            records = self.records().await?;
        }
        self.publish(records.iter().map(|(name, record, _)| (name, record)))
    }

    /// Rotates when it is due, over and over, until `stop`.
    pub async fn keep_current(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
            if let Err(error) = self.rotate().await {
                report(&error);
            }
        }
    }

    /// The first rotation, before anything is served. A registry that takes no writes stops no control plane: tokens are
    /// refused until there is a key.
    pub async fn begin(&self) {
        if let Err(error) = self.rotate().await {
            report(&error);
        }
    }

    fn prepare(
        &self,
        now: UnixMillis,
        signs_from: UnixMillis,
    ) -> Result<(String, SigningKeyRecord), SigningKeyError> {
        let signer = JwtSigner::generate()?;
        let key = format!("{}{}", keys::JWT_KEYS, signer.key_id());
        let record = SigningKeyRecord {
            created_at: now.0,
            signs_from: signs_from.0,
            not_after: now.plus(KEY_LIFE).0,
            public_key: signer.public_point().to_vec(),
            sealed_key: self.kek.seal(&key, &signer.to_pkcs8_der()?)?,
        };
        Ok((key, record))
    }

    async fn record(&self, commit: Commit, action: &'static str, key: &str) -> Result<(), StoreError> {
        let actor = Actor { name: "control-plane".to_owned(), source: "local".to_owned() };
        let object = key.strip_prefix(keys::JWT_KEYS).unwrap_or(key);
        self.audit.commit(commit, Act::done(&actor, action, object)).await?;
        tracing::info!(event = "jwt_key", action, key_id = object, "the keys that sign tokens have changed");
        Ok(())
    }
}

fn report(error: &SigningKeyError) {
    let cause = std::error::Error::source(error);
    tracing::error!(event = "jwt_key_failed", %error, cause, "keys that sign tokens are not rotated; it is tried again");
}

/// From when on a key that is made now signs; `None` where none is needed yet.
fn next_signs_from<'a>(
    records: impl Iterator<Item = &'a SigningKeyRecord>,
    now: UnixMillis,
) -> Option<UnixMillis> {
    // One that was made by a clock far ahead of today's counts for nothing until its time has come.
    let known = records.filter(|record| UnixMillis(record.signs_from) <= now.plus(KEY_LIFE));
    let (mut signs, mut ends) = (false, UnixMillis(0));
    for record in known {
        signs |= UnixMillis(record.signs_from) <= now;
        ends = ends.max(UnixMillis(record.not_after));
    }
    if !signs {
        return Some(now);
    }
    if ends.since(now) > PREPARED_BEFORE_END {
        return None;
    }
    let due = now.plus(PUBLISHED_FOR).max(ends.minus(SIGNS_BEFORE_END));
    // Too late to publish it first: the tokens of the last one would get shorter and shorter.
    if ends.since(due) < LONGEST_TOKEN_LIFE { Some(now) } else { Some(due) }
}
