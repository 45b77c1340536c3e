//! Decisions on their way to the control plane.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hauberk_identity::UnixMillis;
use hauberk_proto::agent::v1 as pb;
use tokio::sync::Notify;

/// How many wait while the control plane is away or slow.
const MAX_WAITING: usize = 1_024;
/// How many go into one message.
const MAX_BATCH: usize = 256;

#[derive(Debug)]
pub(super) struct Upstream {
    is_observed: AtomicBool,
    queue: Mutex<Queue>,
    added: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<pb::Decision>,
    dropped: u64,
    limit_per_second: u32,
    second: u64,
    sent_this_second: u32,
}

impl Upstream {
    pub(super) fn new() -> Self {
        Self { is_observed: AtomicBool::new(false), queue: Mutex::default(), added: Notify::new() }
    }

    pub(super) fn is_observed(&self) -> bool {
        self.is_observed.load(Ordering::Relaxed)
    }

    pub(super) fn observe(&self, all: bool, limit_per_second: u32) {
        self.queue().limit_per_second = limit_per_second;
        self.is_observed.store(all && limit_per_second > 0, Ordering::Relaxed);
    }

    /// Queues a decision, or counts it as left out. The first of a kind is no subject to the limit.
    pub(super) fn push(&self, at: UnixMillis, decision: pb::Decision) {
        let mut queue = self.queue();
        if queue.waiting.len() >= MAX_WAITING || !(decision.first_of_kind || queue.is_within_limit(at)) {
            queue.dropped += 1;
            return;
        }
        queue.waiting.push_back(decision);
        drop(queue);
        self.added.notify_one();
    }

    pub(super) async fn next_batch(&self) -> pb::Decisions {
        loop {
            if let Some(batch) = self.queue().take() {
                return batch;
            }
            self.added.notified().await;
        }
    }

    #[cfg(test)]
    pub(super) fn queue_len(&self) -> usize {
        self.queue().waiting.len()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn is_within_limit(&mut self, at: UnixMillis) -> bool {
        let second = at.0 / 1_000;
        if self.second != second {
            self.second = second;
            self.sent_this_second = 0;
        }
        self.sent_this_second = self.sent_this_second.saturating_add(1);
        self.sent_this_second <= self.limit_per_second
    }

    fn take(&mut self) -> Option<pb::Decisions> {
        if self.waiting.is_empty() {
            return None;
        }
        let count = self.waiting.len().min(MAX_BATCH);
        let decisions = self.waiting.drain(..count).collect();
        Some(pb::Decisions { decisions, dropped: std::mem::take(&mut self.dropped) })
    }
}
