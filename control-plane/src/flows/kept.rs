//! The denials that are kept: a ring in memory, of which the first of each kind are in the store too.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{InstanceId, UnixMillis};
use hauberk_proto::agent::v1 as agent;
use prost::Message;
use tracing::error;

use crate::allowance::Allowances;
use crate::registry::{Commit, Store, StoreError, keys};

/// How many denials are kept in all.
const MAX_KEPT: usize = 10_000;

/// How many bytes they take together, encoded.
const MAX_KEPT_BYTES: usize = 16 * 1024 * 1024;

/// How many one instance may have, so that a noisy or hostile one does not push out those of the others.
const MAX_KEPT_PER_INSTANCE: usize = 1_000;

/// How many first denials one instance has written at once, and after how long one more: there are as many kinds as it says, and
/// the disk is everybody's. What is above that is kept in memory, as denials are that are not the first of their kind.
const WRITTEN_AT_ONCE: u32 = 2_048;
const WRITTEN_EVERY: Duration = Duration::from_millis(100);

/// Denials that come closer together than this are written together.
pub(super) const WRITE_EVERY: Duration = Duration::from_millis(200);

/// How many keys one commit writes.
const WRITES_PER_COMMIT: usize = 500;

/// A denial and when the control plane heard of it.
#[derive(Debug, Clone)]
pub struct KeptDecision {
    /// What was decided.
    pub decision: Arc<agent::Decision>,
    /// When it came.
    pub kept_at: UnixMillis,
}

/// As it is stored.
#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(message, optional, tag = "1")]
    decision: Option<agent::Decision>,
    #[prost(uint64, tag = "2")]
    kept_at_unix_ms: u64,
}

/// The ring: the oldest goes first, an instance's own oldest before anybody else's.
#[derive(Debug)]
pub(super) struct Kept {
    by_id: HashMap<String, Entry>,
    order: BTreeMap<u64, String>,
    by_instance: HashMap<InstanceId, VecDeque<u64>>,
    next: u64,
    bytes: usize,
    /// Keys to write, with what they become.
    unwritten: BTreeMap<String, Option<Record>>,
    /// How many more each instance has written.
    written: Allowances,
}

#[derive(Debug)]
struct Entry {
    instance: InstanceId,
    number: u64,
    bytes: usize,
    durable: bool,
    kept: KeptDecision,
}

impl Kept {
    fn new() -> Self {
        Self {
            by_id: HashMap::new(),
            order: BTreeMap::new(),
            by_instance: HashMap::new(),
            next: 0,
            bytes: 0,
            unwritten: BTreeMap::new(),
            written: Allowances::new(WRITTEN_AT_ONCE, WRITTEN_EVERY),
        }
    }

    pub(super) async fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = store.list(keys::DECISIONS, after.as_deref(), 1_000).await?;
            for (key, stored) in &page.entries {
                match parse_record(key, &stored.value) {
                    Some(record) => found.push(record),
                    None => error!(event = "decision_record_unreadable", key, "a kept denial is left out"),
                }
            }
            after = page.entries.last().map(|(key, _)| key.clone());
            if !page.more {
                break;
            }
        }
        found.sort_by_key(|(_, _, kept_at)| *kept_at);
        let mut kept = Self::new();
        for (instance, decision, kept_at) in found {
            kept.add(instance, decision, kept_at, true);
        }
        Ok(kept)
    }

    /// Keeps a denial, if it is not known already. True if there is something to write.
    pub(super) fn keep(&mut self, instance: InstanceId, decision: &agent::Decision, now: UnixMillis) -> bool {
        if self.by_id.contains_key(&decision.id) {
            return false;
        }
        let is_written = decision.first_of_kind && self.written.take(&instance.to_string(), now).is_ok();
        if is_written {
            let record = Record { decision: Some(decision.clone()), kept_at_unix_ms: now.0 };
            self.unwritten.insert(key(instance, &decision.id), Some(record));
        }
        self.add(instance, decision.clone(), now, is_written);
        !self.unwritten.is_empty()
    }

    pub(super) fn find(&self, id: &str) -> Option<KeptDecision> {
        self.by_id.get(id).map(|entry| entry.kept.clone())
    }

    /// Forgets what came before an instant, for it tells of users; says how many denials there were.
    pub(super) fn prune(&mut self, before: UnixMillis) -> usize {
        let known = self.by_id.len();
        while let Some((&oldest, id)) = self.order.first_key_value()
            && self.by_id.get(id).is_none_or(|entry| entry.kept.kept_at < before)
        {
            self.remove(oldest);
        }
        known - self.by_id.len()
    }

    pub(super) fn next_commit(&mut self) -> Commit {
        let mut commit = Commit::new();
        while commit.len() < WRITES_PER_COMMIT
            && let Some((key, record)) = self.unwritten.pop_first()
        {
            commit = match record {
                Some(record) => commit.put(key, record.encode_to_vec()),
                None => commit.delete(key),
            };
        }
        commit
    }

    fn add(&mut self, instance: InstanceId, decision: agent::Decision, kept_at: UnixMillis, durable: bool) {
        let number = self.next;
        self.next += 1;
        let id = decision.id.clone();
        let bytes = decision.encoded_len();
        self.bytes += bytes;
        self.order.insert(number, id.clone());
        let own = self.by_instance.entry(instance).or_default();
        own.push_back(number);
        let own_oldest = if own.len() > MAX_KEPT_PER_INSTANCE { own.front().copied() } else { None };
        let kept = KeptDecision { decision: Arc::new(decision), kept_at };
        self.by_id.insert(id, Entry { instance, number, bytes, durable, kept });
        if let Some(oldest) = own_oldest {
            self.remove(oldest);
        }
        while self.by_id.len() > MAX_KEPT || self.bytes > MAX_KEPT_BYTES {
            let Some((&oldest, _)) = self.order.first_key_value() else { break };
            self.remove(oldest);
        }
    }

    fn remove(&mut self, number: u64) {
        let Some(entry) = self.order.remove(&number).and_then(|id| self.by_id.remove(&id)) else { return };
        debug_assert_eq!(entry.number, number);
        self.bytes -= entry.bytes;
        if let Some(own) = self.by_instance.get_mut(&entry.instance) {
            // Both orders are of age, so this is the first one.
            let first = own.pop_front();
            debug_assert_eq!(first, Some(number));
            if own.is_empty() {
                self.by_instance.remove(&entry.instance);
            }
        }
        if entry.durable {
            self.unwritten.insert(key(entry.instance, &entry.kept.decision.id), None);
        }
    }
}

fn key(instance: InstanceId, id: &str) -> String {
    format!("{}{instance}/{id}", keys::DECISIONS)
}

fn parse_record(key: &str, value: &[u8]) -> Option<(InstanceId, agent::Decision, UnixMillis)> {
    let (instance, id) = key.strip_prefix(keys::DECISIONS)?.split_once('/')?;
    let record = Record::decode(value).ok()?;
    let decision = record.decision.filter(|decision| decision.id == id)?;
    Some((InstanceId::parse(instance).ok()?, decision, UnixMillis(record.kept_at_unix_ms)))
}
