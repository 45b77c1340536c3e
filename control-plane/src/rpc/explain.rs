//! The answer to "why was this denied?".

use hauberk_proto::admin::v1::{ExplainRequest, ExplainResponse, Source};
use tonic::Status;

use super::{message, status};
use crate::push::{Explained, Push};

/// Explains one decision by the id that the denied caller was given.
pub(super) async fn explain(push: &Push, request: ExplainRequest) -> Result<ExplainResponse, Status> {
    let ExplainRequest { decision_id } = request;
    let Explained { detail, kept_at } =
        push.explain(decision_id.trim()).await.map_err(|error| status::of_explain(&error))?;
    let source = if kept_at.is_some() { Source::Kept } else { Source::Agent };
    Ok(ExplainResponse {
        decision: Some(detail),
        source: source.into(),
        kept_at: kept_at.map(message::timestamp),
    })
}
