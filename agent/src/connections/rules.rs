//! The rules of one moment, and what has been remembered of their decisions.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use hauberk_identity::{IdentityKind, Name, SpiffeId};
use hauberk_policy::{
    Allowance, Attempt, Caller, CallerMemo, Counted, Decision, Engine, EscapedSlashes, Moment, Peer,
    Protocol, Recalled,
};

use crate::decisions;
use crate::mesh::{External, Inbound, NodeView};

/// Memories for one caller, so that its connections seldom wait for each other.
const STRIPES: u64 = 4;

/// How many callers, and places that they call from, are remembered at once, and in how many bytes.
const OWN: (usize, usize) = (4_096, 48 * 1024 * 1024);
/// The same of other trust domains, which make as many ids as they like: what they fill is missing nowhere else.
const FOREIGN: (usize, usize) = (1_024, 6 * 1024 * 1024);
/// The same of what our apps call outside of the mesh.
const LEAVING: (usize, usize) = (1_024, 6 * 1024 * 1024);

/// What decides traffic until it is replaced as a whole.
#[derive(Debug)]
pub(crate) struct Rules {
    inbound: Arc<Inbound>,
    own: Memos<(Caller, Peer, u64)>,
    foreign: Memos<(Caller, Peer, u64)>,
    /// By external service.
    leaving: Memos<(Name, Caller, Peer)>,
}

/// The memories of some.
#[derive(Debug)]
struct Memos<K> {
    most: usize,
    known: Mutex<HashMap<K, SharedMemo>>,
    /// Shared by all of them.
    allowance: Arc<Allowance>,
}

/// One caller's memory of decisions, shared by some of its connections.
pub(crate) type SharedMemo = Arc<Memo>;

#[derive(Debug)]
pub(crate) struct Memo {
    /// The one that the memory is of, for what takes no memory.
    engine: Engine,
    pub(super) caller: Mutex<CallerMemo>,
    /// How often it was asked.
    #[cfg(test)]
    pub(super) asked: std::sync::atomic::AtomicUsize,
}

/// What was decided.
#[derive(Debug, Clone)]
pub(crate) enum Ruling {
    /// By policies.
    Policy(Arc<Decision>),
    /// Denied before policies were asked, for this reason.
    Refused(&'static str),
}

impl Ruling {
    /// Whether it may pass.
    pub(crate) fn is_allowed(&self) -> bool {
        match self {
            Self::Policy(decision) => decision.is_allowed(),
            Self::Refused(_) => false,
        }
    }

    /// Whether it may be another one a moment later, although nothing new is asked.
    pub(crate) fn changes_with_time(&self) -> bool {
        matches!(self, Self::Policy(decision) if decision.reads.change_with_time())
    }

    /// The same, as it is told.
    pub(crate) fn as_told(&self) -> decisions::Ruling<'_> {
        match self {
            Self::Policy(decision) => decisions::Ruling::Policy(decision),
            Self::Refused(reason) => decisions::Ruling::Refused { reason },
        }
    }
}

impl Rules {
    /// These rules, of which nothing is remembered yet.
    pub(crate) fn new(inbound: Arc<Inbound>) -> Self {
        Self { inbound, own: Memos::new(OWN), foreign: Memos::new(FOREIGN), leaving: Memos::new(LEAVING) }
    }

    /// What they were made of.
    pub(crate) fn inbound(&self) -> &Arc<Inbound> {
        &self.inbound
    }

    /// The view in force, or why there is none.
    pub(crate) fn view(&self) -> Result<&Arc<NodeView>, &'static str> {
        match &*self.inbound {
            Inbound::Open(view) => Ok(view),
            Inbound::Closed { reason } => Err(reason.as_str()),
        }
    }

    /// Whether anything at all may come in on this port, in the protocol that is already being spoken there.
    pub(crate) fn check_port(&self, port: u16, protocol: Protocol) -> Result<(), &'static str> {
        match self.view()?.port(port) {
            Some(port) if port.protocol == protocol => Ok(()),
            Some(_) => Err("wrong_protocol"),
            None => Err("no_such_port"),
        }
    }

    /// The memory for a caller on connections of one sort. Those with different `stripe` use different ones.
    pub(crate) fn memo(&self, caller: &Caller, peer: &Peer, stripe: u64) -> Result<SharedMemo, &'static str> {
        let engine = &self.view()?.engine;
        // Callers have as many addresses as they like.
        let peer = engine.peer_as_read(peer);
        let key = (caller.clone(), peer.clone(), stripe % STRIPES);
        let memos = match caller {
            Caller::Peer(id) if id.is_member_of(&engine.scope().trust_domain) => &self.own,
            Caller::Peer(_) | Caller::Anonymous => &self.foreign,
        };
        Ok(memos.of(key, engine, caller, &peer))
    }

    /// The memory for what we ourselves call of an external service of these rules, by apps of one sort.
    pub(super) fn memo_of(&self, external: &External, caller: &Caller, peer: &Peer) -> SharedMemo {
        let engine = &external.engine;
        let peer = engine.peer_as_read(peer);
        let key = (external.name.clone(), caller.clone(), peer.clone());
        self.leaving.of(key, engine, caller, &peer)
    }
}

impl<K: Eq + Hash> Memos<K> {
    fn new((most, bytes): (usize, usize)) -> Self {
        Self { most, known: Mutex::default(), allowance: Allowance::new(bytes) }
    }

    fn of(&self, key: K, engine: &Engine, caller: &Caller, peer: &Peer) -> SharedMemo {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = || known.len() >= self.most || self.allowance.is_spent();
        if !known.contains_key(&key) && is_full() {
            // Of those whose connections have ended.
            known.retain(|_, memo| Arc::strong_count(memo) > 1);
            if known.len() >= self.most {
                // Whoever uses one keeps it.
                known.clear();
            }
        }
        let make = || {
            let engine = engine.clone();
            Arc::new(Memo {
                caller: Mutex::new(engine.caller(caller, peer).within(&self.allowance)),
                engine,
                #[cfg(test)]
                asked: std::sync::atomic::AtomicUsize::default(),
            })
        };
        Arc::clone(known.entry(key).or_insert_with(make))
    }
}

/// What becomes of paths with escaped slashes at a port.
pub(crate) fn escaped_slashes(memo: &SharedMemo, port: u16) -> EscapedSlashes {
    memo.engine.escaped_slashes(port)
}

/// Asks a caller's memory. What is asked with a mark for its method and path is counted where it is remembered.
///
/// What takes evaluating is evaluated while others use the memory: what does not depend on what they ask does not wait
/// for it. A memory belongs to one view, so that what is learnt late is learnt for that view alone.
pub(crate) fn decide(
    memo: &SharedMemo,
    port: u16,
    attempt: Attempt<'_>,
    moment: Moment,
    mark: Option<u64>,
) -> (Arc<Decision>, Counted) {
    #[cfg(test)]
    memo.asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let memo = || memo.caller.lock().unwrap_or_else(PoisonError::into_inner);
    let recalled = memo().recall(port, attempt, moment, mark);
    match recalled {
        Recalled::Known(decision, counted) => (decision, counted),
        Recalled::Open(pending) => {
            let learned = pending.decide();
            memo().learn(learned)
        }
    }
}

/// Admins and control planes never call services. What paths stand for in other trust domains is theirs to say: to us
/// all of theirs are workloads.
pub(super) fn is_principal(id: &SpiffeId, view: &NodeView) -> bool {
    !id.is_member_of(&view.engine.scope().trust_domain)
        || !matches!(id.kind(), IdentityKind::Admin { .. } | IdentityKind::ControlPlane { .. })
}

#[cfg(test)]
mod tests;
