//! `hauberk explain`

use hauberk_identity::UnixMillis;
use hauberk_proto::admin::v1::{ExplainRequest, Source};
use hauberk_proto::agent::v1::Decision;

use crate::arguments::{Explain, Global, TextFormat};
use crate::commands::decision;
use crate::documents::{Defaults, describe, to_json, tree_of};
use crate::error::CommandError;
use crate::kinds;
use crate::output::{self, printable};
use crate::session::Session;

/// Runs the command.
///
/// # Errors
/// Nobody knows of such a decision, kind or field.
pub(crate) async fn run(global: &Global, arguments: Explain) -> Result<(), CommandError> {
    let mut words = arguments.subject.split('.');
    match words.next().map(kinds::resource_kind) {
        Some(Ok(kind)) => {
            if arguments.output == TextFormat::Json {
                return Err(CommandError::Usage(
                    "-o json shows decisions; kinds are shown as text".to_owned(),
                ));
            }
            let fields: Vec<&str> = words.collect();
            return output::raw(&describe(kind, &fields).map_err(CommandError::failed)?);
        }
        // Ids have a hyphen between the instance and its count; kinds have none.
        Some(Err(unknown)) if !arguments.subject.contains('-') => {
            return Err(CommandError::advised(
                unknown,
                "explain takes a kind, such as virtualnode.spec.listeners, or a decision's id, such as 3f9k2m7q1x-8c4d0001",
            ));
        }
        _ => {}
    }
    let session = Session::open(global).await?;
    let request = ExplainRequest { decision_id: arguments.subject };
    let answer = session.policies().explain(request).await?.into_inner();
    if arguments.output == TextFormat::Json {
        return output::raw(&to_json(&tree_of("hauberk.admin.v1.ExplainResponse", &answer, Defaults::Show)));
    }
    let Some(detail) = &answer.decision else {
        return Err(CommandError::failed("the control plane knows the decision, but not what it was"));
    };
    let made = detail.decision.clone().unwrap_or_default();
    let service = if made.service.is_empty() {
        String::new()
    } else {
        format!(" (service {})", printable(&made.service))
    };
    let peer = if made.peer_address.is_empty() {
        String::new()
    } else {
        format!(" from {}", printable(&made.peer_address))
    };
    let caller = if made.caller.is_empty() { "anonymous".to_owned() } else { printable(&made.caller) };
    let mut lines = vec![
        format!("{} {}: {}", decision::verdict(made.verdict()), printable(&made.id), decision::reason(&made)),
        String::new(),
        format!("  who    {caller}{peer}"),
        format!("  what   {}", decision::act(&made)),
        format!("  where  {}{service}", place(&made)),
        format!("  when   {}", UnixMillis(made.at_unix_ms)),
        format!("  by     revision {}{}", made.revision, source(answer.source())),
    ];
    if let Some(made_for) = decision::made_for(&made) {
        lines.insert(3, format!("  for    {made_for}"));
    }
    if let Some(answer) = decision::answer(&made) {
        lines.push(format!("  sent   {answer}"));
    }
    if !made.route.is_empty() {
        lines.push(format!("  route  {}", printable(&made.route)));
    }
    lines.push(String::new());
    lines.push(decision::trace(detail));
    output::line(lines.join("\n").trim_end())
}

/// Where it was decided; of what leaves the mesh, what was called.
fn place(made: &Decision) -> String {
    if made.external_host.is_empty() && made.external.is_empty() {
        return format!("{} port {}", printable(&made.node), made.port);
    }
    let host = match made.external_host.as_str() {
        "" => String::new(),
        host => format!(" ({})", printable(host)),
    };
    format!("{}{host}, outside of the mesh", decision::target(made))
}

fn source(source: Source) -> &'static str {
    match source {
        Source::Agent => ", as the agent itself remembers",
        Source::Kept => ", as the control plane kept it",
        Source::Unspecified => "",
    }
}
