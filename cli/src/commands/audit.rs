//! `hauberk audit`

use hauberk_identity::UnixMillis;
use hauberk_proto::admin::v1::{AuditOutcome, AuditRecord, ListAuditRequest};

use crate::arguments::{Audit, AuditList, Global};
use crate::clock;
use crate::commands::names;
use crate::documents::{Defaults, tree_of};
use crate::error::CommandError;
use crate::output::{self, Format};
use crate::session::Session;
use crate::times;

/// The most that the control plane sends at once.
const PAGE: u32 = 1000;

/// Runs the command.
///
/// # Errors
/// What the control plane answers.
pub(crate) async fn run(global: &Global, command: Audit) -> Result<(), CommandError> {
    let Audit::List(arguments) = command;
    let since = arguments.since.as_deref().map(|text| times::since(text, clock::now())).transpose();
    let since = since.map_err(CommandError::Usage)?;
    let session = Session::open(global).await?;
    let mut found = records(&session, &arguments, since).await?;
    // They come the latest first; on a terminal the latest belongs beside the prompt.
    found.reverse();
    if arguments.output == Format::Name {
        return found.iter().try_for_each(|record| output::line(record.sequence));
    }
    if matches!(arguments.output, Format::Json | Format::Yaml) {
        let trees = found
            .iter()
            .map(|record| tree_of("hauberk.admin.v1.AuditRecord", record, Defaults::Show))
            .collect();
        return output::trees(arguments.output, trees, false);
    }
    if found.is_empty() {
        output::note("there is no such record");
        return Ok(());
    }
    let headers = ["AT", "WHO", "FROM", "DID", "TO", "OUTCOME"];
    let rows = found.iter().map(row);
    if arguments.output == Format::Wide {
        return output::raw(&output::wide_table(&headers, rows.collect()));
    }
    let trust_domain = &session.context.trust_domain;
    let rows = rows.map(|row| row.into_iter().map(|cell| names::short(&cell, trust_domain)).collect());
    output::raw(&output::table(&headers, rows.collect()))
}

async fn records(
    session: &Session,
    arguments: &AuditList,
    since: Option<UnixMillis>,
) -> Result<Vec<AuditRecord>, CommandError> {
    let actor = arguments.actor.as_deref().unwrap_or_default();
    let mut request = ListAuditRequest {
        actor: actor_id(actor, &session.context.trust_domain),
        action: arguments.action.clone().unwrap_or_default(),
        refused_only: arguments.refused,
        since: since.map(times::timestamp),
        ..Default::default()
    };
    let limit = usize::try_from(arguments.limit).unwrap_or(usize::MAX);
    let mut found = Vec::new();
    loop {
        let wanted = limit.saturating_sub(found.len()).min(usize::try_from(PAGE).unwrap_or(1000));
        request.page_size = i32::try_from(wanted).unwrap_or_default();
        let page = session.audit().list(request.clone()).await?.into_inner();
        found.extend(page.records);
        if page.next_page_token.is_empty() || found.len() >= limit {
            found.truncate(limit);
            return Ok(found);
        }
        request.page_token = page.next_page_token;
    }
}

/// The SPIFFE id of whom a user names: in full, as the table does, or an admin by the bare name.
fn actor_id(named: &str, trust_domain: &str) -> String {
    match named {
        "" | "unauthenticated" | "control-plane" => named.to_owned(),
        id if id.contains(':') => id.to_owned(),
        path if path.contains('/') => names::full(path, trust_domain),
        name => names::full(&format!("admin/{name}"), trust_domain),
    }
}

fn row(record: &AuditRecord) -> Vec<String> {
    let at = record.at.as_ref().map(times::instant).unwrap_or(UnixMillis(0));
    let outcome = match record.outcome() {
        AuditOutcome::Ok => "ok".to_owned(),
        _ if record.reason.is_empty() => "refused".to_owned(),
        _ => format!("refused: {}", record.reason),
    };
    let who = record.actor.clone();
    vec![
        at.floor_to_second().to_string(),
        who,
        record.source.clone(),
        record.action.clone(),
        record.object.clone(),
        outcome,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_actor_is_named_in_full_as_the_table_does_or_as_an_admin() {
        for (named, id) in [
            ("anna", "spiffe://shop.example/admin/anna"),
            ("admin/anna", "spiffe://shop.example/admin/anna"),
            ("mesh/shop/node/web", "spiffe://shop.example/mesh/shop/node/web"),
            ("spiffe://partner.example/workload/x", "spiffe://partner.example/workload/x"),
            ("unauthenticated", "unauthenticated"),
            ("control-plane", "control-plane"),
            ("control-plane/r1", "spiffe://shop.example/control-plane/r1"),
            ("", ""),
        ] {
            assert_eq!(actor_id(named, "shop.example"), id);
        }
    }
}
