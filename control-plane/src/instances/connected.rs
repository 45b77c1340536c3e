//! What a stream tells of its instance.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use hauberk_identity::{InstanceId, Name, UnixMillis};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Instance, Instances, Refusal, ViewMark};
use crate::revocation::Mark;

/// A stream that stands for its instance until it is dropped, or a newer one takes its place.
#[derive(Debug)]
pub struct Connected {
    pub(super) instances: Arc<Instances>,
    pub(super) instance: InstanceId,
    number: u64,
    superseded: CancellationToken,
    /// The highest version of trust that it has acknowledged.
    pub(super) trusted: AtomicU64,
}

impl Connected {
    pub(super) fn new(
        instances: Arc<Instances>,
        instance: InstanceId,
        number: u64,
        superseded: CancellationToken,
    ) -> Self {
        Self { instances, instance, number, superseded, trusted: AtomicU64::new(0) }
    }

    /// Its number; later streams have higher ones.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Cancelled once a newer stream stands for the instance.
    pub fn superseded(&self) -> &CancellationToken {
        &self.superseded
    }

    /// The agent has said something.
    pub fn seen(&self, now: UnixMillis) {
        let mut state = self.instances.lock();
        if let Some(instance) = state.of_session(self.instance, self.number) {
            instance.last_seen = Some(now);
        }
    }

    /// A view is on its way.
    pub fn pushed(&self, service: Option<&Name>, mark: ViewMark) {
        self.change(|instance| instance.enforcement.pushed(service, mark, Instant::now()));
    }

    /// A view is in force: the time from its push, or `None` where no such view was pushed.
    pub fn acknowledged(&self, service: Option<&str>, epoch: u64, revision: u64) -> Option<Duration> {
        let at = Instant::now();
        self.change(|instance| instance.enforcement.acknowledged(service, epoch, revision, at)).flatten()
    }

    /// A denylist is on its way.
    pub fn pushed_denylist(&self, mark: Mark) {
        self.change(|instance| instance.denylist.pushed = Some((mark, Instant::now())));
    }

    /// A denylist is in force: the time from its push, or `None` where another was pushed meanwhile, or none.
    pub fn acknowledged_denylist(&self, mark: Mark) -> Option<Duration> {
        let at = Instant::now();
        let acknowledged = self.change(|instance| {
            let (pushed, pushed_at) = instance.denylist.pushed?;
            if mark > pushed {
                return None;
            }
            instance.denylist.in_force = instance.denylist.in_force.max(Some(mark));
            (mark == pushed).then(|| {
                instance.denylist.pushed = None;
                at.saturating_duration_since(pushed_at)
            })
        });
        acknowledged.flatten()
    }

    /// A view was refused.
    pub fn refused(&self, service: Option<&str>, epoch: u64, refusal: Refusal) {
        self.change(|instance| instance.enforcement.refused(service, epoch, refusal));
    }

    /// The agent no longer holds a service.
    pub fn dropped(&self, service: &str) {
        self.change(|instance| instance.enforcement.dropped(service));
    }

    /// What became of a registration: `None`, or why it was not taken.
    pub fn registered(&self, refused: Option<String>) {
        self.change(|instance| instance.registration_refused = refused);
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Instance) -> T) -> Option<T> {
        self.instances.change(|state| state.of_session(self.instance, self.number).map(change))
    }

    /// Ends it. True if no newer stream stands for the instance.
    pub fn end(&self) -> bool {
        self.instances.change(|state| {
            let current = state
                .of_session(self.instance, self.number)
                .map(|instance| instance.session = None)
                .is_some();
            if current {
                state.connected -= 1;
            }
            current
        })
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.end();
    }
}
