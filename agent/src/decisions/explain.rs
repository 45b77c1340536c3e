//! Why a remembered decision was made.

use hauberk_proto::agent::v1 as pb;

use super::memory::Kept;

pub(super) fn explain(kept: &Kept) -> pb::DecisionDetail {
    pb::DecisionDetail { decision: Some(kept.to_proto()), policies: Vec::new(), suggestion: String::new() }
}
