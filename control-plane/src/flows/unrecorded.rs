//! Decisions of a node that are in none of its flows: how many, and until when.

use hauberk_identity::{SpiffeId, UnixMillis};
use prost::Message;

use crate::registry::keys;

/// How many, as it is kept.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Unrecorded {
    #[prost(uint64, tag = "1")]
    pub(super) count: u64,
    /// When the last of them was.
    #[prost(uint64, tag = "2")]
    pub(super) last_seen_unix_ms: u64,
}

impl Unrecorded {
    /// Where the record of a node stands.
    pub(super) fn key(node: &SpiffeId) -> String {
        format!("{}{node}", keys::UNRECORDED)
    }

    /// So many more, of which the last was then.
    pub(super) fn add(&mut self, count: u64, last_seen: UnixMillis) {
        if count > 0 {
            self.count = self.count.saturating_add(count);
            self.last_seen_unix_ms = self.last_seen_unix_ms.max(last_seen.0);
        }
    }

    /// Forgets them if the last was before that; says whether it did.
    pub(super) fn forget_before(&mut self, before: UnixMillis) -> bool {
        let is_old = self.count > 0 && self.last_seen_unix_ms < before.0;
        if is_old {
            *self = Self::default();
        }
        is_old
    }
}
