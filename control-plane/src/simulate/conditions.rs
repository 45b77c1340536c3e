//! Whose the conditions are of which it was recorded how they came out.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use hauberk_policy::{ConditionOutcome, Engine};
use hauberk_proto::agent::v1 as agent;

/// How many bytes stand for what conditions say, as agents send them.
const DIGEST_LEN: usize = 16;

/// What the conditions of statements say, by what agents send in their stead.
#[derive(Debug, Default)]
pub(super) struct Conditions(HashMap<[u8; DIGEST_LEN], Arc<str>>);

impl Conditions {
    /// Those of which agents tell.
    pub(super) fn of<'a>(engines: impl IntoIterator<Item = &'a Engine>) -> Self {
        let texts = engines.into_iter().flat_map(Engine::conditions);
        Self(texts.filter_map(|text| Some((digest_of(text)?, Arc::clone(text)))).collect())
    }

    /// How those that are known came out in all calls of a flow. Another condition is no longer anybody's.
    pub(super) fn outcomes(&self, flow: &agent::FlowSummary) -> Arc<[ConditionOutcome]> {
        let known = flow.conditions.iter().filter_map(|outcome| {
            let text = self.0.get(outcome.digest.as_slice())?;
            Some(ConditionOutcome { text: Arc::clone(text), is_met: outcome.met })
        });
        known.collect()
    }
}

fn digest_of(text: &str) -> Option<[u8; DIGEST_LEN]> {
    digest(&SHA256, text.as_bytes()).as_ref().first_chunk().copied()
}
