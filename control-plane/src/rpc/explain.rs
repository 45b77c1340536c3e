//! The answer to "why was this denied?".

use hauberk_proto::admin::v1 as wire;
use hauberk_proto::admin::v1::{ExplainRequest, ExplainResponse, Source};
use tonic::Status;

use super::{message, status};
use crate::bulkhead::Bulkhead;
use crate::push::{Explained, Push, RulesSince};

/// Explains one decision by the id that the denied caller was given. `asker`: where their work waits for its turn, and who they are.
pub(super) async fn explain(
    push: &Push,
    request: ExplainRequest,
    asker: (&Bulkhead, &str),
) -> Result<ExplainResponse, Status> {
    let ExplainRequest { decision_id } = request;
    let Explained { detail, kept_at, rules_since } =
        push.explain(decision_id.trim(), asker).await.map_err(|error| status::of_explain(&error))?;
    let source = if kept_at.is_some() { Source::Kept } else { Source::Agent };
    Ok(ExplainResponse {
        decision: Some(detail),
        source: source.into(),
        kept_at: kept_at.map(message::timestamp),
        rules_since: rules_since.map(encode_rules_since),
    })
}

fn encode_rules_since(RulesSince { revision, now }: RulesSince) -> wire::RulesSince {
    let undecidable = now.as_ref().err().map(|why| why.as_str().to_owned()).unwrap_or_default();
    wire::RulesSince { revision: revision.unwrap_or(0), now: now.ok(), undecidable }
}
