//! `hauberk explain`

use hauberk_identity::UnixMillis;
use hauberk_proto::admin::v1::{ExplainRequest, Source};

use crate::arguments::{Explain, Global, TextFormat};
use crate::commands::decision;
use crate::documents::{Defaults, to_json, tree_of};
use crate::error::CommandError;
use crate::output;
use crate::session::Session;

/// Runs the command.
///
/// # Errors
/// Nobody knows of such a decision.
pub(crate) async fn run(global: &Global, arguments: Explain) -> Result<(), CommandError> {
    let session = Session::open(global).await?;
    let request = ExplainRequest { decision_id: arguments.decision };
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
        format!(" (service {})", output::printable(&made.service))
    };
    let peer =
        if made.peer_address.is_empty() { String::new() } else { format!(" from {}", made.peer_address) };
    let mut lines = vec![
        format!(
            "{} {}: {}",
            decision::verdict(made.verdict()),
            output::printable(&made.id),
            decision::reason(&made)
        ),
        String::new(),
        format!("  who    {}{peer}", if made.caller.is_empty() { "anonymous" } else { &made.caller }),
        format!("  what   {}", decision::act(&made)),
        format!("  where  {} port {}{service}", made.node, made.port),
        format!("  when   {}", UnixMillis(made.at_unix_ms)),
        format!("  by     revision {}{}", made.revision, source(answer.source())),
    ];
    if !made.route.is_empty() {
        lines.push(format!("  route  {}", output::printable(&made.route)));
    }
    lines.push(String::new());
    lines.push(decision::trace(detail));
    output::raw(&lines.join("\n"))
}

fn source(source: Source) -> &'static str {
    match source {
        Source::Agent => ", as the agent itself remembers",
        Source::Kept => ", as the control plane kept it",
        Source::Unspecified => "",
    }
}
