//! Who is refused everywhere, whatever policies say: a snapshot that is replaced whole and read without a lock.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use hauberk_identity::{InstanceId, Serial, SpiffeId};
use hauberk_tls::LiveState;
use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::state::Mark;

/// Why somebody with a good certificate is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// The certificate was revoked.
    Revoked,
    /// The identity is in quarantine.
    Quarantined,
}

impl Denial {
    /// The name in logs and decisions.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Quarantined => "quarantined",
        }
    }
}

/// Whom a token of our own control plane was minted for: who it is about, and the instance that asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MintedFor {
    id: SpiffeId,
    /// Says which instance; that of a token of an earlier release says none.
    number: Option<Serial>,
}

impl MintedFor {
    /// What a verified token says (`sub`, `jti`); `None` where it is about nobody who has a SPIFFE id. Only of tokens
    /// that our own control plane has signed does it mean anything.
    pub fn of(claims: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let id = SpiffeId::parse(text("sub")?).ok()?;
        Some(Self { id, number: text("jti").and_then(|number| number.parse().ok()) })
    }
}

/// Everybody who is refused.
#[derive(Debug, Default)]
pub struct Denylist {
    /// Its number; zeros before the first.
    pub mark: Mark,
    /// Revoked certificates.
    pub serials: HashSet<Serial>,
    /// Revoked instances: all certificates that say that they are theirs.
    pub instances: HashSet<InstanceId>,
    /// Certificates of workloads whose nodes are in quarantine.
    pub on_hold: HashSet<Serial>,
    /// Instances that have vouched for such workloads, likewise.
    pub held_instances: HashSet<InstanceId>,
    /// Identities in quarantine.
    pub identities: HashSet<SpiffeId>,
}

impl Denylist {
    /// Why whoever proves this is refused, if so.
    pub fn denial(&self, id: &SpiffeId, serial: Serial) -> Option<Denial> {
        let is_of = |instances: &HashSet<InstanceId>| {
            serial.instance().is_some_and(|instance| instances.contains(&instance))
        };
        if self.serials.contains(&serial) || is_of(&self.instances) {
            return Some(Denial::Revoked);
        }
        let is_held =
            self.identities.contains(id) || self.on_hold.contains(&serial) || is_of(&self.held_instances);
        is_held.then_some(Denial::Quarantined)
    }
}

/// The denylist in force, and how far live traffic has been brought in line with it. `sync/` writes, `connections.rs`
/// enforces.
#[derive(Debug)]
pub struct Denied {
    current: ArcSwap<Denylist>,
    is_known: AtomicBool,
    changes: watch::Sender<Mark>,
    applied: watch::Sender<Mark>,
}

impl Denied {
    /// Nobody is refused.
    pub fn new() -> Self {
        Self {
            current: ArcSwap::default(),
            is_known: AtomicBool::new(true),
            changes: watch::Sender::new(Mark::default()),
            applied: watch::Sender::new(Mark::default()),
        }
    }

    /// Puts a list in force for whatever begins from now on.
    pub fn replace(&self, denylist: Denylist) {
        let mark = denylist.mark;
        self.current.store(Arc::new(denylist));
        self.is_known.store(true, Ordering::Release);
        self.changes.send_replace(mark);
    }

    /// The list that was kept cannot be read: until another comes it is not known who is refused.
    pub fn lose(&self) {
        self.is_known.store(false, Ordering::Release);
    }

    /// Whether it is known who is refused. Where it is not, nobody is to be vouched for.
    pub fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Acquire)
    }

    /// Why whoever proves this is refused, if so. Takes no lock and no memory.
    pub fn denial(&self, id: &SpiffeId, serial: Serial) -> Option<Denial> {
        self.current.load().denial(id, serial)
    }

    /// Why a token is refused that was minted for somebody, if so: as that instance's certificates are. Takes no lock
    /// and no memory.
    pub fn denial_of_token(&self, MintedFor { id, number }: &MintedFor) -> Option<Denial> {
        let current = self.current.load();
        match number {
            Some(number) => current.denial(id, *number),
            None => current.identities.contains(id).then_some(Denial::Quarantined),
        }
    }

    /// Why everybody refuses us, if so.
    pub fn denial_of_us(&self, us: &LiveState) -> Option<Denial> {
        us.svid().and_then(|svid| self.denial(svid.id(), svid.serial()))
    }

    /// The number of the list in force.
    pub fn mark(&self) -> Mark {
        self.current.load().mark
    }

    /// Each list that is put in force.
    pub fn changes(&self) -> watch::Receiver<Mark> {
        self.changes.subscribe()
    }

    /// States that live traffic obeys this list.
    pub fn publish_applied(&self, mark: Mark) {
        self.applied.send_replace(mark);
    }

    /// The list that live traffic obeys.
    pub fn applied(&self) -> watch::Receiver<Mark> {
        self.applied.subscribe()
    }
}

impl Default for Denied {
    fn default() -> Self {
        Self::new()
    }
}
