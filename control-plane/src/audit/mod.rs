//! Who did what, from where, and what came of it: durable records of each admin act, enrollment and issuance, also of
//! those refused.
//!
//! The latest records are kept: of what admins did, of certificates issued, and of refusals each its own number, so that
//! none of them pushes out the others. A record of something that was done stands in the same commit as the deed.
//! Refusals are recorded so often for each who provokes them; the next record counts those left out.

mod about;
mod refusals;
mod rings;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use hauberk_identity::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::registry::{Commit, Committed, Store, StoreError, document};
pub use about::{About, Concerns};
use refusals::Refusals;
use rings::{Merged, Ring};
pub use rings::{NotAPosition, Position};

/// The longest text in a record, in characters: some of it is the caller's.
const LONGEST_TEXT: usize = 512;

/// The most that stands in a reason beyond that, in bytes, where an admin has written it: the selectors of one rule.
const LONGEST_RULE: usize = 32 * (4_096 + 32);

/// How many records one call looks at for those that match.
const LOOKED_AT: usize = 20_000;

/// What came of an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done.
    Ok,
    /// It was refused.
    Refused,
}

impl Outcome {
    /// As in records and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
        }
    }
}

/// Who acts, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// A SPIFFE id, `local:uid=0`, `unauthenticated`, or `control-plane` for what it does by itself.
    pub name: String,
    /// `IP:port`, or `unix`.
    pub source: String,
}

impl Actor {
    /// Somebody who has proved nothing.
    pub fn unauthenticated(source: impl ToString) -> Self {
        Self { name: "unauthenticated".to_owned(), source: source.to_string() }
    }
}

/// An act to be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// Who did it.
    pub actor: Actor,
    /// What, by a stable name: `resources.apply`, `enrollment.attest`, `certificate.issue`.
    pub action: &'static str,
    /// To what.
    pub object: String,
    /// What came of it.
    pub outcome: Outcome,
    /// Why, for a person; empty where nothing needs saying.
    pub reason: String,
    /// How much of the reason, in bytes, was written by an admin, so that it is not cut: selectors that are missing.
    pub of_rule: usize,
}

impl Act {
    /// Something that was done.
    pub fn done(actor: &Actor, action: &'static str, object: impl Into<String>) -> Self {
        let (actor, object) = (actor.clone(), object.into());
        Self { actor, action, object, outcome: Outcome::Ok, reason: String::new(), of_rule: 0 }
    }

    /// Something that was refused.
    pub fn refused(
        actor: &Actor,
        action: &'static str,
        object: impl Into<String>,
        why: impl ToString,
    ) -> Self {
        let (actor, object) = (actor.clone(), object.into());
        Self { actor, action, object, outcome: Outcome::Refused, reason: why.to_string(), of_rule: 0 }
    }

    /// The same with a reason that holds so many bytes of what an admin has written.
    #[must_use]
    pub fn naming(mut self, of_rule: usize) -> Self {
        self.of_rule = of_rule;
        self
    }

    /// The same with something worth knowing.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }
}

/// A record as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its number among all records; gaps mean acts that were begun and did not happen.
    pub sequence: u64,
    /// When, Unix ms.
    pub at: u64,
    /// See [`Actor::name`].
    pub actor: String,
    /// See [`Actor::source`].
    pub source: String,
    /// See [`Act::action`].
    pub action: String,
    /// See [`Act::object`].
    pub object: String,
    /// See [`Act::outcome`].
    pub outcome: Outcome,
    /// See [`Act::reason`].
    pub reason: String,
}

/// What of the records is wanted. Empty fields match everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Exactly this actor.
    pub actor: String,
    /// Actions that begin so.
    pub action: String,
    /// Only refused acts.
    pub refused_only: bool,
    /// Only acts since then.
    pub since: Option<UnixMillis>,
    /// Only those about this instance.
    pub about: Option<About>,
}

impl Filter {
    fn matches(&self, record: &Record) -> bool {
        (self.actor.is_empty() || record.actor == self.actor)
            && record.action.starts_with(&self.action)
            && (!self.refused_only || record.outcome == Outcome::Refused)
            && self.about.as_ref().is_none_or(|about| about.concerns(record).is_some())
    }
}

/// Records, the latest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Those that match.
    pub records: Vec<Record>,
    /// Where to go on: the `from` of the next call. `None` after the last.
    pub next: Option<Position>,
}

/// The book of records.
pub struct Audit {
    store: Arc<dyn Store>,
    clock: Clock,
    last: Mutex<Last>,
    refusals: Mutex<Refusals>,
}

/// The numbers that were given last.
#[derive(Default)]
struct Last {
    sequence: u64,
    in_ring: [u64; Ring::ALL.len()],
}

impl Audit {
    /// Goes on after the last record in the store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(store: Arc<dyn Store>, clock: Clock) -> Result<Self, StoreError> {
        let mut last = Last::default();
        for (ring, in_ring) in Ring::ALL.into_iter().zip(&mut last.in_ring) {
            let (number, sequence) = ring.last(&*store).await?;
            *in_ring = number;
            last.sequence = last.sequence.max(sequence);
        }
        let (last, refusals) = (Mutex::new(last), Mutex::new(Refusals::new()));
        Ok(Self { store, clock, last, refusals })
    }

    /// Commits what an act does together with its record, so that neither happens without the other. The log tells the
    /// act once it is known what came of it: `failed` where the store did not take it.
    ///
    /// # Errors
    /// What the store answers, or when the record cannot be encoded; nothing was done then.
    pub async fn commit(&self, commit: Commit, act: Act) -> Result<Committed, StoreError> {
        let ring = Ring::of(&act);
        let (sequence, number) = self.next_numbers(ring);
        let key = ring.key(number);
        let record = Record {
            sequence,
            at: self.clock.now().0,
            actor: shortened(act.actor.name, LONGEST_TEXT),
            source: shortened(act.actor.source, LONGEST_TEXT),
            action: act.action.to_owned(),
            object: shortened(act.object, LONGEST_TEXT),
            outcome: act.outcome,
            reason: shortened(act.reason, LONGEST_TEXT + act.of_rule.min(LONGEST_RULE)),
        };
        let commit = commit.put(key.clone(), document::to_bytes(&key, &record)?);
        let commit = match number.checked_sub(ring.retained()) {
            Some(expired) if expired > 0 => commit.delete(ring.key(expired)),
            _ => commit,
        };
        let mut line = LogLine { record: &record, committed: Committing::Unanswered };
        let answer = self.store.commit(commit).await;
        line.committed = match &answer {
            Ok(_) => Committing::Done,
            Err(error) => Committing::Failed(error.to_string()),
        };
        answer
    }

    /// Records an act by itself: one that was refused, or one that changed nothing in the store.
    ///
    /// # Errors
    /// When the store does not take it.
    pub async fn record(&self, act: Act) -> Result<(), StoreError> {
        self.commit(Commit::new(), act).await.map(|_| ())
    }

    /// Records a refusal, within the limit of whoever provoked it. A store that does not take it is logged: the caller
    /// is refused all the same.
    pub async fn record_refusal(&self, mut act: Act) {
        let admitted = {
            let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            refusals.admit(&act, self.clock.now())
        };
        match admitted {
            Some(0) => {}
            // It stands first, since long reasons are cut.
            Some(left_out) => {
                act.reason = format!("({left_out} refusals before this were not recorded) {}", act.reason);
            }
            None => return,
        }
        if let Err(error) = self.record(act).await {
            tracing::error!(event = "audit_failed", %error, "a refusal could not be recorded");
        }
    }

    /// Reads records, the latest first, at most `limit`, going on from where a former page ended. A page may hold fewer
    /// and still have a next: one call looks at a bounded number of records.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn list(
        &self,
        filter: &Filter,
        from: Option<Position>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let mut records = Vec::new();
        let mut all = Merged::new(&*self.store, from.unwrap_or_default());
        let mut looked_at = 0;
        while let Some((record, position)) = all.next().await? {
            if filter.since.is_some_and(|since| record.at < since.0) {
                break;
            }
            if filter.matches(&record) {
                records.push(record);
            }
            looked_at += 1;
            if records.len() >= limit || looked_at >= LOOKED_AT {
                return Ok(Page { records, next: Some(position) });
            }
        }
        Ok(Page { records, next: None })
    }

    /// The next number among all records, and in a ring.
    fn next_numbers(&self, ring: Ring) -> (u64, u64) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.sequence += 1;
        let sequence = last.sequence;
        match last.in_ring.get_mut(ring as usize) {
            Some(number) => {
                *number += 1;
                (sequence, *number)
            }
            // Every ring has its place.
            None => (sequence, sequence),
        }
    }
}

/// The log line of an act. It is written when it is dropped, so that an act also has one where whoever waited for the
/// store has gone: that does not take a commit back.
struct LogLine<'a> {
    record: &'a Record,
    committed: Committing,
}

/// What is known of a commit.
enum Committing {
    Unanswered,
    Done,
    Failed(String),
}

impl Drop for LogLine<'_> {
    fn drop(&mut self) {
        let Record { sequence, at: _, actor, source, action, object, outcome, reason } = self.record;
        let (outcome, reason) = match &self.committed {
            Committing::Done => (outcome.as_str(), reason),
            Committing::Failed(error) => ("failed", error),
            Committing::Unanswered => ("unknown", reason),
        };
        tracing::info!(event = "audit", sequence, actor, source, action, object, outcome, reason);
    }
}

fn shortened(mut text: String, longest: usize) -> String {
    if let Some((cut, _)) = text.char_indices().nth(longest) {
        text.truncate(cut);
        text.push('…');
    }
    text
}
