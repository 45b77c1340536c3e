//! The last denials, so that an id just seen can be explained.

use std::collections::hash_map::RandomState;
use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::sync::Arc;

use hauberk_identity::{InstanceId, Serial, UnixMillis};
use hauberk_policy::{Caller, Decision, Gathered, Moment, Peer};
use hauberk_proto::agent::v1 as pb;

use super::facts::{Facts, LeavesTo, Outcome, Request, Ruling};
use crate::mesh::{NodeView, ViewStamp};

/// How many decisions are remembered.
const CAPACITY: usize = 4_096;
/// How many views are kept for them beyond those in use, since a view with its engine may be large.
const MAX_VIEWS: usize = 8;
/// The longest method or path that is remembered whole, so that callers cannot fill our memory.
const MAX_PATH: usize = 2_048;
/// How many kinds are told apart before the oldest counts as new again.
const MAX_KINDS: usize = 4_096;

/// Lower-case base32 without i, l, o, u, as in instance ids.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The id of a decision: `<instance>-<boot><counter>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DecisionId(Box<str>);

#[derive(Debug)]
pub(super) struct Memory {
    instance: InstanceId,
    boot: [char; 4],
    /// The counter of the oldest record; those of the others follow without gaps.
    oldest: u64,
    records: VecDeque<Record>,
    views: VecDeque<Arc<NodeView>>,
    kinds: Kinds,
}

/// One remembered decision.
#[derive(Debug, Clone)]
struct Record {
    id: DecisionId,
    at: UnixMillis,
    view: Option<ViewStamp>,
    caller: Caller,
    caller_serial: Option<Serial>,
    peer_address: SocketAddr,
    peer: Peer,
    moment: Moment,
    port: u16,
    service: Box<str>,
    /// The external service and the host that were called.
    leaves_to: Option<(Box<str>, Box<str>)>,
    request: OwnedRequest,
    /// Where policies read it.
    query: Option<Box<str>>,
    gathered: Option<Arc<Gathered>>,
    /// Something was longer than what is remembered.
    is_shortened: bool,
    ruling: OwnedRuling,
    /// How it ended, once it has.
    outcome: Option<Outcome>,
    is_first: bool,
}

#[derive(Debug, Clone)]
enum OwnedRequest {
    Http { method: Box<str>, path: Box<str>, is_upgrade: bool },
    Grpc { path: Box<str> },
    Connect,
}

#[derive(Debug, Clone)]
enum OwnedRuling {
    Policy(Decision),
    Refused { reason: &'static str },
}

/// A record that was found, with the view that decided if it is still there.
#[derive(Debug)]
pub(super) struct Kept {
    record: Record,
    pub(super) view: Option<Arc<NodeView>>,
}

impl Memory {
    pub(super) fn new(instance: InstanceId, boot: [u8; 4]) -> Self {
        Self {
            instance,
            boot: boot.map(digit),
            oldest: 0,
            records: VecDeque::new(),
            views: VecDeque::new(),
            kinds: Kinds::default(),
        }
    }

    pub(super) fn instance(&self) -> InstanceId {
        self.instance
    }

    pub(super) fn set_instance(&mut self, instance: InstanceId) {
        self.instance = instance;
    }

    /// Remembers a decision; tells its id and whether it is the first of its kind.
    pub(super) fn keep(&mut self, at: UnixMillis, facts: &Facts<'_>) -> (DecisionId, bool) {
        let id = self.next_id();
        let is_first = self.kinds.is_new(facts);
        if let Some(view) = facts.view.and_then(ViewStamp::view) {
            self.keep_view(view);
        }
        if self.records.len() == CAPACITY {
            self.records.pop_front();
            self.oldest += 1;
        }
        self.records.push_back(Record::new(id.clone(), at, facts, is_first));
        (id, is_first)
    }

    pub(super) fn find(&self, id: &str) -> Option<Kept> {
        let record = self.records.get(self.index_of(id)?)?.clone();
        // The instance may have been named otherwise then, and another spelling of the counter is no id of ours.
        (&*record.id.0 == id).then(|| Kept { view: record.view.as_ref().and_then(ViewStamp::view), record })
    }

    /// Adds how it ended to what is remembered, if it still is.
    pub(super) fn complete(&mut self, id: &DecisionId, outcome: &Outcome) {
        if let Some(index) = self.index_of(id.as_str())
            && let Some(record) = self.records.get_mut(index)
        {
            record.outcome = Some(*outcome);
        }
    }

    /// Where the record with this id would be.
    fn index_of(&self, id: &str) -> Option<usize> {
        let (_, own) = id.split_once('-')?;
        let mut digits = own.chars();
        if !self.boot.iter().all(|digit| digits.next() == Some(*digit)) {
            return None;
        }
        usize::try_from(parse_counter(digits.as_str())?.checked_sub(self.oldest)?).ok()
    }

    pub(super) fn recorded(&self) -> u64 {
        self.oldest + self.records.len() as u64
    }

    fn next_id(&self) -> DecisionId {
        let counter = self.recorded();
        let mut text = format!("{}-", self.instance);
        text.extend(self.boot);
        let width = (u64::BITS - counter.leading_zeros()).div_ceil(5).max(1);
        text.extend((0..width).rev().map(|place| digit((counter >> (5 * place)) as u8)));
        DecisionId(text.into())
    }

    fn keep_view(&mut self, view: Arc<NodeView>) {
        if self.views.iter().any(|kept| Arc::ptr_eq(kept, &view)) {
            return;
        }
        if self.views.len() == MAX_VIEWS {
            self.views.pop_front();
        }
        self.views.push_back(view);
    }
}

impl Record {
    fn new(id: DecisionId, at: UnixMillis, facts: &Facts<'_>, is_first: bool) -> Self {
        let is_long = |text: &str| text.len() >= MAX_PATH;
        let is_much = facts.is_long();
        let query = facts.query_read().filter(|_| !is_much);
        let (method, path) = (facts.request.method().unwrap_or_default(), facts.request.path());
        Self {
            id,
            at,
            view: facts.view.cloned(),
            caller: facts.caller.clone(),
            caller_serial: facts.caller_serial,
            peer_address: facts.peer_address,
            peer: facts.peer.clone(),
            moment: facts.moment,
            port: facts.port,
            service: shortened(facts.service),
            leaves_to: facts.leaves_to.map(|to| (to.external.into(), shortened(to.host))),
            request: match facts.request {
                Request::Http { method, path, is_upgrade } => {
                    OwnedRequest::Http { method: shortened(method), path: shortened(path), is_upgrade }
                }
                Request::Grpc { path } => OwnedRequest::Grpc { path: shortened(path) },
                Request::Connect => OwnedRequest::Connect,
            },
            query: query.map(Into::into),
            gathered: facts.gathered_read().filter(|_| !is_much).cloned(),
            is_shortened: is_much || is_long(method) || is_long(path),
            ruling: match facts.ruling {
                Ruling::Policy(decision) => OwnedRuling::Policy(decision.clone()),
                Ruling::Refused { reason } => OwnedRuling::Refused { reason },
            },
            outcome: None,
            is_first,
        }
    }
}

impl Kept {
    pub(super) fn facts(&self) -> Facts<'_> {
        let record = &self.record;
        Facts {
            view: record.view.as_ref(),
            caller: &record.caller,
            caller_serial: record.caller_serial,
            peer_address: record.peer_address,
            peer: &record.peer,
            moment: record.moment,
            port: record.port,
            service: &record.service,
            leaves_to: record.leaves_to.as_ref().map(|(external, host)| LeavesTo { external, host }),
            request: match &record.request {
                OwnedRequest::Http { method, path, is_upgrade } => {
                    Request::Http { method, path, is_upgrade: *is_upgrade }
                }
                OwnedRequest::Grpc { path } => Request::Grpc { path },
                OwnedRequest::Connect => Request::Connect,
            },
            query: record.query.as_deref(),
            gathered: record.gathered.as_ref(),
            ruling: match &record.ruling {
                OwnedRuling::Policy(decision) => Ruling::Policy(decision),
                OwnedRuling::Refused { reason } => Ruling::Refused { reason },
            },
        }
    }

    pub(super) fn to_proto(&self) -> pb::Decision {
        let record = &self.record;
        let told = self.facts().to_proto(record.at, Some(&record.id), record.outcome.as_ref());
        let facts = told.facts.map(|facts| pb::DecisionFacts { shortened: record.is_shortened, ..facts });
        pb::Decision { first_of_kind: record.is_first, facts, ..told }
    }

    /// Whether the request was longer than what is remembered, so that it cannot be decided again.
    pub(super) fn is_shortened(&self) -> bool {
        self.record.is_shortened
    }
}

impl DecisionId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Which (caller, action, route, reason) have been seen. Hashes with a random key stand for them, so that no caller
/// can make two kinds look like one.
#[derive(Debug, Default)]
struct Kinds {
    hasher: RandomState,
    seen: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Kinds {
    fn is_new(&mut self, facts: &Facts<'_>) -> bool {
        let ruling = facts.ruling;
        let kind = self.hasher.hash_one((
            facts.caller_id(),
            (facts.external(), facts.leaves_to.is_some()),
            facts.port,
            facts.request.action(),
            ruling.route(),
            ruling.reason(),
            ruling.verdict(),
        ));
        if !self.seen.insert(kind) {
            return false;
        }
        self.order.push_back(kind);
        if self.order.len() > MAX_KINDS
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        true
    }
}

fn shortened(text: &str) -> Box<str> {
    let end = (0..=text.len().min(MAX_PATH)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default().into()
}

fn digit(bits: u8) -> char {
    DIGITS.get(usize::from(bits & 31)).map_or('0', |digit| char::from(*digit))
}

fn parse_counter(text: &str) -> Option<u64> {
    if text.is_empty() || text.len() > 13 {
        return None;
    }
    text.bytes().try_fold(0_u64, |counter, byte| {
        let digit = DIGITS.iter().position(|digit| *digit == byte)?;
        counter.checked_mul(32)?.checked_add(digit as u64)
    })
}
