//! Programs that asked for an identity and got none, until the control plane is told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use hauberk_proto::agent::v1 as pb;

/// How many wait to be told.
const MOST_WAITING: usize = 32;

/// How many are told at once.
const AT_ONCE: usize = 8;

/// Those that wait. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub(super) struct Denials(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    queue: VecDeque<pb::WorkloadDenied>,
    left_out: u64,
}

impl Denials {
    /// One more. Where too many wait, it is counted alone.
    pub(super) fn add(&self, denied: pb::WorkloadDenied) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.queue.len() >= MOST_WAITING {
            waiting.left_out += 1;
        } else {
            waiting.queue.push_back(denied);
        }
    }

    /// The next ones to be told, a few at a time.
    pub(super) fn next(&self) -> Vec<pb::WorkloadDenied> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.queue.len().min(AT_ONCE);
        let mut next: Vec<_> = waiting.queue.drain(..count).collect();
        if let Some(first) = next.first_mut() {
            first.left_out = std::mem::take(&mut waiting.left_out);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_wait_and_others_are_counted() {
        let denials = Denials::default();
        assert!(denials.next().is_empty());
        for _ in 0..100 {
            denials.add(pb::WorkloadDenied::default());
        }
        let first = denials.next();
        assert_eq!((first.len(), first[0].left_out, first[1].left_out), (AT_ONCE, 68, 0));
        let rest: usize = std::iter::from_fn(|| Some(denials.next().len()).filter(|count| *count > 0)).sum();
        assert_eq!(AT_ONCE + rest, MOST_WAITING);
    }
}
