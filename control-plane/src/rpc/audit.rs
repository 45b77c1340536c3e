//! The admin API's `Audit` service.

use std::sync::Arc;

use hauberk_identity::UnixMillis;
use hauberk_proto::admin::v1::audit_server::{Audit, AuditServer};
use hauberk_proto::admin::v1::{AuditOutcome, AuditRecord, ListAuditRequest, ListAuditResponse};
use tonic::{Request, Response, Status};

use super::{message, page, status};
use crate::app::ControlPlane;
use crate::audit::{Filter, NotAPosition, Outcome, Record};

/// The service, ready to be mounted.
pub(super) fn service(control: &Arc<ControlPlane>) -> AuditServer<AuditService> {
    let service = AuditService { control: Arc::clone(control) };
    AuditServer::new(service).max_decoding_message_size(super::LARGEST_REQUEST)
}

pub(super) struct AuditService {
    control: Arc<ControlPlane>,
}

#[tonic::async_trait]
impl Audit for AuditService {
    async fn list(&self, request: Request<ListAuditRequest>) -> Result<Response<ListAuditResponse>, Status> {
        let ListAuditRequest { actor, action, refused_only, since, page_size, page_token } =
            request.into_inner();
        let limit = page::size(page_size, 100, 1_000)?;
        let from = match page_token.as_str() {
            "" => None,
            token => {
                Some(token.parse().map_err(|error: NotAPosition| status::bad_field("pageToken", error))?)
            }
        };
        let since = since.map(|since| instant(&since)).transpose()?;
        let filter = Filter { actor, action, refused_only, since, ..Filter::default() };
        let page = self.control.audit.list(&filter, from, limit).await;
        let page = page.map_err(|error| status::of_store(&error))?;
        Ok(Response::new(ListAuditResponse {
            records: page.records.into_iter().map(record).collect(),
            next_page_token: page.next.map(|next| next.to_string()).unwrap_or_default(),
        }))
    }
}

fn instant(since: &prost_types::Timestamp) -> Result<UnixMillis, Status> {
    let wrong = || status::bad_field("since", "not an instant after 1970");
    let seconds = u64::try_from(since.seconds).map_err(|_| wrong())?;
    let nanos = u64::try_from(since.nanos).ok().filter(|nanos| *nanos < 1_000_000_000).ok_or_else(wrong)?;
    Ok(UnixMillis(UnixMillis::from_secs(seconds).0.saturating_add(nanos / 1_000_000)))
}

/// A record as it is told.
pub(super) fn record(record: Record) -> AuditRecord {
    let Record { sequence, at, actor, source, action, object, outcome, reason } = record;
    let outcome = match outcome {
        Outcome::Ok => AuditOutcome::Ok,
        Outcome::Refused => AuditOutcome::Refused,
    };
    AuditRecord {
        sequence,
        at: Some(message::timestamp(UnixMillis(at))),
        actor,
        source,
        action,
        object,
        outcome: outcome.into(),
        reason,
    }
}
