//! `hauberk explain`

use hauberk_identity::UnixMillis;
use hauberk_proto::admin::v1::{ExplainRequest, RulesSince, Source};
use hauberk_proto::agent::v1::{Decision, DecisionDetail, NoPolicies};

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
    let mut answer = session.policies().explain(request).await?.into_inner();
    if arguments.output == TextFormat::Json {
        return output::raw(&to_json(&tree_of("hauberk.admin.v1.ExplainResponse", &answer, Defaults::Show)));
    }
    let now = answer.rules_since.as_mut().and_then(|since| since.now.as_mut());
    for detail in answer.decision.iter_mut().chain(now) {
        decision::in_context(detail, session.of_context());
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
    match &answer.rules_since {
        None => lines.push(decision::trace(detail)),
        Some(since) => lines.push(changed(detail, since, answer.source())),
    }
    output::line(lines.join("\n").trim_end())
}

/// What is known of a decision whose rules are others by now, and what these decide.
fn changed(detail: &DecisionDetail, since: &RulesSince, source: Source) -> String {
    let mut out = String::new();
    if detail.policies.is_empty() {
        let why = match (detail.no_policies(), source) {
            (NoPolicies::Unspecified, Source::Kept) => "No policy concerned this target then.",
            (NoPolicies::Unspecified, _) => {
                "The agent names no policy that concerned this target then; whether there was one is not known of an agent of an\n\
                 earlier release, which names none either where it cannot tell which."
            }
            _ => decision::why_no_policies(detail),
        };
        out.push_str(&format!("{why}\n"));
    } else {
        // What would let it through now is for the present rules to say.
        let then = DecisionDetail { policies: detail.policies.clone(), ..DecisionDetail::default() };
        out.push_str(&decision::trace(&then));
    }
    let told = match (since.revision, &since.now, since.undecidable.as_str()) {
        (0, ..) => {
            return out + "\nThere is no such node any longer.";
        }
        (_, Some(now), _) => {
            let decided = now.decision.clone().unwrap_or_default();
            let route = match decided.route.as_str() {
                "" => String::new(),
                route => format!("  route  {}\n", printable(route)),
            };
            format!(
                "By the present rules the same request, as it was recorded, would be\n\n{}: {}\n{route}\n{}",
                decision::verdict(decided.verdict()),
                decision::reason(&decided),
                decision::trace(now),
            )
        }
        (_, None, "facts_not_recorded") => {
            "What the present ones would decide cannot be said: they read what was not recorded of it."
                .to_owned()
        }
        (_, None, "refused_before_policies") => {
            "What the present ones would say is not known: it was refused before any policy was asked."
                .to_owned()
        }
        (_, None, "busy") => {
            "What the present ones would decide was not looked at: too much that you have asked is under way; ask again."
                .to_owned()
        }
        (_, None, "gone") => "What was called is there no longer: such a call is denied.".to_owned(),
        (_, None, other) => {
            format!("What the present ones would decide cannot be said ({}).", printable(other))
        }
    };
    format!("{out}\nThe rules have changed since, last at revision {}. {told}", since.revision)
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

#[cfg(test)]
mod tests {
    use hauberk_proto::agent::v1::{PolicyTrace, Verdict};

    use super::*;

    fn told(
        detail: &DecisionDetail,
        revision: u64,
        now: Option<DecisionDetail>,
        undecidable: &str,
    ) -> String {
        told_by(Source::Kept, detail, RulesSince { revision, now, undecidable: undecidable.to_owned() })
    }

    fn told_by(source: Source, detail: &DecisionDetail, since: RulesSince) -> String {
        anstream::adapter::strip_str(&changed(detail, &since, source)).to_string()
    }

    #[test]
    fn what_was_decided_then_is_not_taken_for_what_is_decided_now() {
        let bare = DecisionDetail::default();
        let told_bare = |undecidable| told(&bare, 12, None, undecidable);
        for (undecidable, words) in [
            ("facts_not_recorded", "they read what was not recorded of it"),
            ("refused_before_policies", "refused before any policy was asked"),
            ("busy", "was not looked at: too much that you have asked is under way; ask again."),
            ("gone", "What was called is there no longer: such a call is denied."),
            ("\u{1b}[2J", "cannot be said (\u{fffd}[2J)"),
        ] {
            let told = told_bare(undecidable);
            assert!(told.contains("changed since, last at revision 12. ") && told.contains(words), "{told}");
            assert!(told.starts_with("No policy concerned this target then."), "{told}");
        }
        assert!(told(&bare, 0, None, "gone").contains("There is no such node any longer."));
        // Agents of an earlier release do not say why they name none.
        let by_agent = told_by(Source::Agent, &bare, RulesSince { revision: 12, ..RulesSince::default() });
        assert!(!by_agent.contains("No policy concerned") && by_agent.contains("is not known"), "{by_agent}");
        let note = PolicyTrace { policy: "readers".to_owned(), ..PolicyTrace::default() };
        let suggestion = "hauberk allow web orders".to_owned();
        let then = DecisionDetail { policies: vec![note], suggestion, ..DecisionDetail::default() };
        let decision = Decision { verdict: Verdict::Allow.into(), ..Decision::default() };
        let now = DecisionDetail { decision: Some(decision), ..DecisionDetail::default() };
        let told = told(&then, 12, Some(now), "");
        let (first, second) = told.split_once("By the present rules the same request").unwrap();
        assert!(first.contains("readers") && second.contains("ALLOWED"), "{told}");
        assert!(!told.contains("hauberk allow"), "what was lacking then may be there by now: {told}");
    }
}
