//! The rings of records: each keeps its own latest, so that what happens often, or what anybody can provoke, pushes out
//! only its own kind.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

use super::{Act, Actor, Outcome, Record};
use crate::registry::{Store, StoreError, document, keys};

/// How many records one reading of the store takes.
const READ_AT_ONCE: usize = 1_000;

/// Where a record is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Ring {
    /// What admins did.
    Acts,
    /// Certificates of agents, those that renew, and our own; keys that sign tokens.
    Issuance,
    /// What was refused to those who had proved who they are.
    Refusals,
    /// What was refused to those who had proved nothing.
    Strangers,
}

impl Ring {
    pub(super) const ALL: [Self; 4] = [Self::Acts, Self::Issuance, Self::Refusals, Self::Strangers];

    pub(super) fn of(act: &Act) -> Self {
        match (act.outcome, act.action) {
            (Outcome::Refused, _) if act.actor.is_stranger() => Self::Strangers,
            (Outcome::Refused, _) => Self::Refusals,
            (
                Outcome::Ok,
                "enrollment.attest" | "certificate.renew" | "certificate.issue" | "admin.renew"
                | "workload.issue" | "jwt-key.prepare" | "jwt-key.retire",
            ) => Self::Issuance,
            (Outcome::Ok, _) => Self::Acts,
        }
    }

    /// How many records are kept; at about 300 bytes each.
    pub(super) fn retained(self) -> u64 {
        match self {
            Self::Acts | Self::Issuance => 100_000,
            Self::Refusals | Self::Strangers => 20_000,
        }
    }

    pub(super) fn key(self, number: u64) -> String {
        format!("{}{}", self.prefix(), keys::newest_first(number))
    }

    /// The last record's number in the ring and its number among all; zeros where there is none.
    pub(super) async fn last(self, store: &dyn Store) -> Result<(u64, u64), StoreError> {
        let latest = store.list(self.prefix(), None, 1).await?;
        match latest.entries.first() {
            Some((key, stored)) => {
                let record: Record = document::from_stored(key, stored)?;
                Ok((self.number_of(key).unwrap_or(record.sequence), record.sequence))
            }
            None => Ok((0, 0)),
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Acts => keys::AUDIT,
            Self::Issuance => keys::AUDIT_ISSUANCE,
            Self::Refusals => keys::AUDIT_REFUSALS,
            Self::Strangers => keys::AUDIT_STRANGERS,
        }
    }

    fn number_of(self, key: &str) -> Option<u64> {
        keys::number_of(key.strip_prefix(self.prefix())?)
    }
}

impl Actor {
    /// Whether somebody acts who has proved nothing.
    pub(super) fn is_stranger(&self) -> bool {
        self.name == Self::unauthenticated("").name
    }
}

/// How far a reading of all rings, the latest first, has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position([u64; Ring::ALL.len()]);

impl Default for Position {
    /// Before the latest.
    fn default() -> Self {
        Self([u64::MAX; Ring::ALL.len()])
    }
}

/// For page tokens; [`FromStr`] reads it.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([acts, issuance, refusals, strangers]) = self;
        write!(f, "{acts}.{issuance}.{refusals}.{strangers}")
    }
}

impl FromStr for Position {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        let numbers: Result<Vec<u64>, _> = text.split('.').map(str::parse).collect();
        numbers.ok().and_then(|numbers| numbers.try_into().ok()).map(Self).ok_or(NotAPosition)
    }
}

/// A text that is no position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not one that this control plane has given")]
pub struct NotAPosition;

/// Reads all rings as one, the latest first.
pub(super) struct Merged<'a> {
    store: &'a dyn Store,
    position: Position,
    rings: [Reader; Ring::ALL.len()],
}

struct Reader {
    ring: Ring,
    ahead: VecDeque<(u64, Record)>,
    read_to: u64,
    has_more: bool,
}

impl<'a> Merged<'a> {
    pub(super) fn new(store: &'a dyn Store, position: Position) -> Self {
        let Position([acts, issuance, refusals, strangers]) = position;
        let reader = |ring, read_to| Reader { ring, ahead: VecDeque::new(), read_to, has_more: true };
        let rings = [
            reader(Ring::Acts, acts),
            reader(Ring::Issuance, issuance),
            reader(Ring::Refusals, refusals),
            reader(Ring::Strangers, strangers),
        ];
        Self { store, position, rings }
    }

    /// The next record, and where to go on after it.
    pub(super) async fn next(&mut self) -> Result<Option<(Record, Position)>, StoreError> {
        for reader in &mut self.rings {
            reader.fill(self.store).await?;
        }
        let latest = self.rings.iter_mut().zip(&mut self.position.0);
        let latest = latest.max_by_key(|(reader, _)| reader.ahead.front().map(|(_, record)| record.sequence));
        Ok(latest
            .and_then(|(reader, position)| {
                let (number, record) = reader.ahead.pop_front()?;
                *position = number;
                Some(record)
            })
            .map(|record| (record, self.position)))
    }
}

impl Reader {
    async fn fill(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        if !self.ahead.is_empty() || !self.has_more {
            return Ok(());
        }
        let after = self.ring.key(self.read_to);
        let page = store.list(self.ring.prefix(), Some(&after), READ_AT_ONCE).await?;
        self.has_more = page.more;
        for (key, stored) in &page.entries {
            let record: Record = document::from_stored(key, stored)?;
            let number = self.ring.number_of(key).unwrap_or(record.sequence);
            self.read_to = number;
            self.ahead.push_back((number, record));
        }
        Ok(())
    }
}
