//! `hauberk suggest`

use hauberk_identity::UnixMillis;
use hauberk_proto::admin::v1::{SuggestRequest, SuggestResponse};
use owo_colors::OwoColorize as _;

use crate::arguments::{Global, Suggest};
use crate::clock;
use crate::commands::decision;
use crate::commands::simulate::{counted, gaps};
use crate::documents::{Defaults, resource_tree, to_yaml, tree_of};
use crate::error::CommandError;
use crate::output;
use crate::session::Session;
use crate::times;

/// Runs the command.
///
/// # Errors
/// What the control plane answers.
pub(crate) async fn run(global: &Global, arguments: Suggest) -> Result<(), CommandError> {
    let session = Session::open(global).await?;
    let (mesh, node) = (session.mesh().await?, arguments.node.unwrap_or_default());
    let answer = session.record().suggest(SuggestRequest { mesh, node }).await?.into_inner();
    if let Some(format) = arguments.output.for_programs() {
        let tree = tree_of("hauberk.admin.v1.SuggestResponse", &answer, Defaults::Show);
        return output::trees(format, vec![tree], true);
    }
    let documents: Vec<_> = answer.policies.iter().map(|policy| to_yaml(&resource_tree(policy))).collect();
    output::raw(&documents.join("---\n"))?;
    for line in remarks(&answer, clock::now(), session.of_context()) {
        output::note(line);
    }
    Ok(())
}

fn remarks(answer: &SuggestResponse, now: UnixMillis, of_context: &str) -> Vec<String> {
    if answer.seen == 0 {
        let mut lines = vec!["no allowed calls are recorded, so that there is nothing to suggest".to_owned()];
        lines.extend(gaps(answer.unrecorded, &answer.silent_instances));
        return lines;
    }
    let since = answer.since.as_ref().map(|since| times::age(Some(since), now)).unwrap_or_default();
    let mut lines = vec![format!(
        "{} {} of {} of the last {since} ({}), by {}",
        "covered:".bold(),
        answer.covered,
        counted(answer.seen, "allowed call"),
        percentage(answer.covered, answer.seen),
        counted_policies(answer.policies.len())
    )];
    for uncovered in &answer.uncovered {
        lines.push(format!(
            "  not covered: {} → {}:{} {} {}: {}, {}",
            decision::caller_name(&uncovered.caller, &uncovered.node),
            match uncovered.external.as_str() {
                "" => decision::short_name(&uncovered.node),
                external => format!("external/{}", output::printable(external)),
            },
            uncovered.port,
            output::printable(&uncovered.action),
            output::printable(&uncovered.route),
            counted(uncovered.count, "call"),
            why(&uncovered.reason, uncovered.count)
        ));
    }
    if !answer.generalisations.is_empty() {
        lines.push("beyond what was seen it allows:".bold().to_string());
        lines.extend(answer.generalisations.iter().map(|text| format!("  {}", output::printable(text))));
    }
    if !answer.used.is_empty() {
        let title =
            "were these the only permits, whatever else is allowed now would be denied; of those in force:";
        lines.push(title.bold().to_string());
        lines.extend(answer.used.iter().map(|used| {
            let name = output::printable(&used.policy);
            match used.count {
                0 => format!("  {name} let none of the recorded calls through"),
                count => format!("  {name} let {} through", counted(count, "recorded call")),
            }
        }));
        lines.push(format!("  what a draft without them would deny: hauberk simulate -f DRAFT{of_context}"));
    }
    lines.extend(gaps(answer.unrecorded, &answer.silent_instances));
    lines
}

fn why(reason: &str, count: u64) -> &str {
    match reason {
        "facts_not_recorded" if count != 1 => {
            "which depend on what is not recorded, such as their users: keep the policy that lets them through"
        }
        "denied_now" => "which would be denied today",
        "facts_not_recorded" => {
            "which depends on what is not recorded, such as its user: keep the policy that lets it through"
        }
        "unreadable_record" => "which the port would not take",
        "too_many_to_record" if count == 1 => {
            "whose path was one of too many to be recorded: declare routes for them"
        }
        "too_many_to_record" => "whose paths were too many to be recorded: declare routes for them",
        "cannot_be_written" => "which no policy can be written for",
        other => other,
    }
}

fn counted_policies(count: usize) -> String {
    if count == 1 { "1 policy".to_owned() } else { format!("{count} policies") }
}

/// Rounded down, so that only all of them are 100 %.
fn percentage(part: u64, whole: u64) -> String {
    let permille = u128::from(part) * 1_000 / u128::from(whole.max(1));
    format!("{}.{} %", permille / 10, permille % 10)
}

#[cfg(test)]
mod tests {
    use hauberk_proto::admin::v1::{PermitUse, Uncovered};

    use super::*;

    #[test]
    fn figures_say_how_well_it_fits() {
        let node = |name: &str| format!("spiffe://shop.local/mesh/shop/node/{name}");
        let answer = SuggestResponse {
            policies: vec![hauberk_proto::mesh::v1::Resource::default()],
            generalisations: vec!["orders:8080 /orders/{id}: every path of the declared route".to_owned()],
            seen: 3_001,
            covered: 2_999,
            uncovered: [
                ("GET", 1, "too_many_to_record"),
                ("GET", 139, "facts_not_recorded"),
                ("PUT", 1, "facts_not_recorded"),
            ]
            .map(|(action, count, reason)| Uncovered {
                caller: node("web"),
                node: node("orders"),
                port: 8080,
                action: action.to_owned(),
                route: "*undeclared".to_owned(),
                count,
                reason: reason.to_owned(),
                external: String::new(),
            })
            .to_vec(),
            used: vec![
                PermitUse { policy: "shop-open".to_owned(), count: 2_999 },
                PermitUse { policy: "unused".to_owned(), count: 0 },
            ],
            since: Some(times::timestamp(UnixMillis(1_799_990_000_000))),
            silent_instances: Vec::new(),
            unrecorded: 0,
        };
        let now = UnixMillis(1_800_000_000_000);
        let shown = remarks(&answer, now, "").join("\n");
        insta::assert_snapshot!(anstream::adapter::strip_str(&shown).to_string());
        let elsewhere = remarks(&answer, now, " --context prod").join("\n");
        assert!(elsewhere.contains("hauberk simulate -f DRAFT --context prod"), "{elsewhere}");
        assert_eq!(percentage(5, 5), "100.0 %");
    }
}
