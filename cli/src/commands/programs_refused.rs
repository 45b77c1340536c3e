//! Programs that asked for an identity and came nearest to an enrollment, with the selectors that were missing.

use std::time::Duration;

use hauberk_identity::{NodeName, UnixMillis};
use hauberk_proto::admin::v1::{AuditRecord, ListAuditRequest};
use owo_colors::OwoColorize as _;

use crate::clock;
use crate::error::CommandError;
use crate::output;
use crate::session::Session;
use crate::times::{age, timestamp};

/// As the audit log names them.
const ACTION: &str = "workload.deny";

/// How many are shown, how far back they are looked for, and over how many pages at the most.
const SHOWN: usize = 10;
const LOOKED_FOR: Duration = Duration::from_secs(86_400);
const PAGES: usize = 20;

/// Shows the latest of a day.
///
/// # Errors
/// What the control plane answers.
pub(super) async fn show(
    session: &Session,
    mesh: &str,
    parent: &NodeName,
    enrollment: &str,
) -> Result<(), CommandError> {
    let (trust_domain, mesh) = session.names(mesh)?;
    let now = clock::now();
    let mut request = ListAuditRequest {
        actor: parent.spiffe_id(&trust_domain, &mesh).to_string(),
        action: ACTION.to_owned(),
        refused_only: true,
        since: Some(timestamp(now.minus(LOOKED_FOR))),
        ..ListAuditRequest::default()
    };
    let mut found = Vec::new();
    for _ in 0..PAGES {
        let answer = session.audit().list(request.clone()).await?.into_inner();
        found.extend(answer.records.into_iter().filter(|record| is_of(record, enrollment)));
        if found.len() >= SHOWN || answer.next_page_token.is_empty() {
            break;
        }
        request.page_token = answer.next_page_token;
    }
    found.truncate(SHOWN);
    if found.is_empty() {
        return Ok(());
    }
    output::line(
        format!("Programs that it nearly was of, in a day (the latest {SHOWN} at the most)").bold(),
    )?;
    let rows = found.iter().map(|record| row(record, now)).collect();
    output::raw(&output::table(&["AGO", "INSTANCE", "BECAUSE"], rows))
}

/// Whether it came nearest to this enrollment: `enrollment NAME, instance ID`.
fn is_of(record: &AuditRecord, enrollment: &str) -> bool {
    let rest = record.object.strip_prefix("enrollment ").and_then(|rest| rest.strip_prefix(enrollment));
    rest.is_some_and(|rest| rest.starts_with(','))
}

fn row(record: &AuditRecord, now: UnixMillis) -> Vec<String> {
    let instance = record.object.rsplit_once("instance ").map_or("-", |(_, id)| id);
    vec![age(record.at.as_ref(), now), instance.to_owned(), record.reason.clone()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_of_the_very_enrollment() {
        let record = |object: &str| AuditRecord { object: object.to_owned(), ..AuditRecord::default() };
        assert!(is_of(&record("enrollment worker, instance vj85pstwk8"), "worker"));
        assert!(!is_of(&record("enrollment worker-2, instance vj85pstwk8"), "worker"));
        assert!(!is_of(&record("instance vj85pstwk8"), "worker"));
        assert_eq!(row(&record("enrollment worker, instance vj85pstwk8"), UnixMillis(0))[1], "vj85pstwk8");
    }
}
