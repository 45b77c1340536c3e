//! `hauberk simulate`

use hauberk_identity::UnixMillis;
use hauberk_proto::admin::v1::{Flip, SimulateRequest, SimulateResponse};
use hauberk_proto::agent::v1::{Decision, Verdict};
use hauberk_proto::mesh::v1::{Resource, ResourceRef};
use owo_colors::OwoColorize as _;
use tonic::{Code, Status};

use crate::arguments::{Global, Simulate};
use crate::clock;
use crate::commands::draft::{self, Draft};
use crate::commands::{apply, decision};
use crate::documents::{Defaults, Tree, tree_of};
use crate::error::CommandError;
use crate::output;
use crate::session::Session;
use crate::times;

/// What a trouble exits with: 1 means "something would be denied".
const TROUBLE: u8 = 2;

/// How many silent instances are named.
const NAMED: usize = 5;

/// Runs the command.
///
/// # Errors
/// `Exit(1)` where something would be denied that is allowed, `Exit(2)` after a failure.
pub(crate) async fn run(global: &Global, arguments: Simulate) -> Result<(), CommandError> {
    match simulate(global, arguments).await {
        Ok(0) => Ok(()),
        Ok(_) => Err(CommandError::Exit(1)),
        Err(error) => Err(error.exiting(TROUBLE, &global.of_context())),
    }
}

/// How many flows would be denied.
async fn simulate(global: &Global, arguments: Simulate) -> Result<u64, CommandError> {
    let (draft, session) = Draft::read(global, &arguments.files, &arguments.deleted).await?;
    let request = SimulateRequest { resources: draft.resources(), removed: draft.removed.clone() };
    let answer = session.record().simulate(request).await;
    let answer = answer.map_err(|status| draft.refused(status))?.into_inner();
    draft.check_removed(answer.removed)?;
    match arguments.output.for_programs() {
        Some(format) => {
            let mut tree = tree_of("hauberk.admin.v1.SimulateResponse", &answer, Defaults::Show);
            tell_undecidable(&mut tree);
            output::trees(format, vec![tree], true)?;
        }
        None => {
            apply::tell_warnings(&answer.warnings);
            show(&answer)?;
        }
    }
    warn_of_undecided(&answer, true);
    Ok(answer.denied)
}

/// Says of flips whose verdicts cannot be said just that: a field that is not there reads as a mistake.
fn tell_undecidable(answer: &mut Tree) {
    let Tree::Map(fields) = answer else { return };
    let flips = fields.iter_mut().filter(|(name, _)| name == "flips").filter_map(|(_, flips)| match flips {
        Tree::List(flips) => Some(flips),
        _ => None,
    });
    for flip in flips.flatten() {
        let Tree::Map(fields) = flip else { continue };
        for (_, verdict) in fields.iter_mut().filter(|(name, _)| name == "now" || name == "draft") {
            if *verdict == Tree::Text("unspecified".to_owned()) {
                *verdict = Tree::Text("undecidable".to_owned());
            }
        }
    }
}

fn warn_of_undecided(answer: &SimulateResponse, exit_code_tells: bool) {
    if let Some(warning) = undecided(answer, exit_code_tells) {
        output::note(format_args!("{} {warning}", "warning:".yellow().bold()));
    }
}

/// That nothing is known of some flows, nor told by the exit code where that tells of flows at all.
fn undecided(answer: &SimulateResponse, exit_code_tells: bool) -> Option<String> {
    let flows = counted(answer.undecidable, "flow");
    let calls = counted(answer.undecidable_decisions, "call");
    let nor = if exit_code_tells { ", and the exit code says nothing of them" } else { "" };
    (answer.undecidable > 0).then(|| format!("of {flows} ({calls}) nothing can be said{nor}"))
}

/// Shows what would become of recorded calls, beside what a dry run says; gives how many flows would be denied. The
/// exit code tells that of removals alone.
///
/// # Errors
/// Of removals what the control plane answers, also where it records nothing, being of a former release. What was accepted is accepted
/// whatever becomes of recorded calls.
pub(crate) async fn beside_dry_run(
    session: &Session,
    resources: Vec<Resource>,
    removed: Vec<ResourceRef>,
) -> Result<u64, CommandError> {
    let request = SimulateRequest { resources, removed: removed.clone() };
    match session.record().simulate(request).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            draft::check_removed(&removed, answer.removed)?;
            show(&answer)?;
            warn_of_undecided(&answer, !removed.is_empty());
            Ok(answer.denied)
        }
        Err(status) => not_known(status, &removed),
    }
}

/// How many flows would be denied, where that was refused to be said: of what was accepted the exit code tells that alone.
fn not_known(status: Status, removed: &[ResourceRef]) -> Result<u64, CommandError> {
    match status.code() {
        Code::Unimplemented => not_recorded(removed),
        _ if removed.is_empty() => {
            output::note(format_args!(
                "{} accepted; what would become of recorded calls is not known: {}",
                "warning:".yellow().bold(),
                output::printable(status.message())
            ));
            Ok(0)
        }
        _ => Err(status.into()),
    }
}

/// How many flows would be denied, where none is recorded: of a removal the exit code would say what is not known.
fn not_recorded(removed: &[ResourceRef]) -> Result<u64, CommandError> {
    draft::check_removed(removed, 0)?;
    output::note("what it would change for recorded calls is not known: the control plane records none");
    Ok(0)
}

fn show(answer: &SimulateResponse) -> Result<(), CommandError> {
    let now = clock::now();
    if !answer.flips.is_empty() {
        let headers =
            ["CALLER", "CALLEE", "ACTION", "ROUTE", "NOW", "DRAFT", "COUNT", "LAST SEEN", "BECAUSE"];
        output::raw(&output::table(&headers, answer.flips.iter().map(|flip| row(flip, now)).collect()))?;
    }
    if answer.omitted > 0 {
        output::note(format_args!("and {} more", answer.omitted));
    }
    for line in remarks(answer, now) {
        output::note(line);
    }
    Ok(())
}

fn row(flip: &Flip, now: UnixMillis) -> Vec<String> {
    let word = |verdict: Verdict| match verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
        Verdict::AuditAllow => "allow (AUDIT)",
        Verdict::Unspecified => "?",
    };
    vec![
        decision::caller_name(&flip.caller, &flip.node),
        match flip.external.as_str() {
            "" => format!("{}:{}", decision::short_name(&flip.node), flip.port),
            external => format!("external/{external}:{}", flip.port),
        },
        flip.action.clone(),
        place(flip),
        word(flip.now()).to_owned(),
        word(flip.draft()).to_owned(),
        flip.count.to_string(),
        format!("{} ago", times::age(flip.last_seen.as_ref(), now)),
        because(flip),
    ]
}

/// The declared route; of an undeclared one a path, which says more.
fn place(flip: &Flip) -> String {
    match (flip.route.as_str(), flip.path.as_str()) {
        ("" | "*undeclared", "") if flip.action == "connect" => "-".to_owned(),
        ("" | "*undeclared", "") => "(other paths)".to_owned(),
        ("" | "*undeclared", path) if flip.more_paths > 0 => format!("{path} and {} more", flip.more_paths),
        ("" | "*undeclared", path) => path.to_owned(),
        (route, _) => route.to_owned(),
    }
}

fn because(flip: &Flip) -> String {
    let policies = flip.policies.join(", ");
    match (flip.reason.as_str(), flip.draft()) {
        ("facts_not_recorded", _) => "it depends on what was not recorded of these calls".to_owned(),
        ("depends_on_time", _) => {
            "it depends on the time, which is recorded of the latest call only".to_owned()
        }
        ("too_many_to_record", _) => "their paths were too many to be recorded".to_owned(),
        ("unreadable_record", _) => "the port would not take such calls".to_owned(),
        ("called_elsewhere", _) => {
            "their service moves to another node, whose answer to them was never recorded".to_owned()
        }
        ("no_longer_called", _) => "a service of the port is no longer served there".to_owned(),
        ("listener_changes", _) => {
            "the listener would refuse requests that it takes now, and which is not recorded".to_owned()
        }
        ("caller_changes", _) => {
            "what gives the caller its identity changes: it may be somebody else then, or nobody".to_owned()
        }
        ("bundle_changes", _) => {
            "what its trust domain is verified by changes: whether it is let in is not known".to_owned()
        }
        ("trust_domain_not_federated", _) => {
            "its trust domain is followed no longer: every agent refuses it, whatever policies permit"
                .to_owned()
        }
        ("no_policy_matched", Verdict::Deny) if !policies.is_empty() => {
            format!("no policy permits it any longer; {policies} did")
        }
        (reason, _) => decision::reason(&Decision {
            reason: reason.to_owned(),
            policies: flip.policies.clone(),
            ..Decision::default()
        }),
    }
}

fn remarks(answer: &SimulateResponse, now: UnixMillis) -> Vec<String> {
    let mut lines = Vec::new();
    let mut parts = Vec::new();
    let calls = |flows: u64, decisions: u64| format!("{flows} ({})", counted(decisions, "call"));
    if answer.denied > 0 {
        let figure = calls(answer.denied, answer.denied_decisions);
        parts.push(format!("{figure} would be denied").red().bold().to_string());
    }
    if answer.undecidable > 0 {
        let figure = calls(answer.undecidable, answer.undecidable_decisions);
        parts.push(format!("{figure} cannot be decided").yellow().to_string());
    }
    if answer.allowed > 0 {
        let figure = calls(answer.allowed, answer.allowed_decisions);
        parts.push(format!("{figure} would be allowed"));
    }
    let of = counted(answer.flows, "recorded flow");
    let since = answer.since.as_ref().map(|since| times::age(Some(since), now));
    let since = since.map(|age| format!(" of the last {age}")).unwrap_or_default();
    lines.push(match (answer.flows, parts.is_empty()) {
        (0, _) => "no calls are recorded, so that nothing can be said of any".to_owned(),
        (_, true) => format!("{of}{since}: nothing would be decided otherwise"),
        (_, false) => format!("{of}{since}: {}", parts.join(", ")),
    });
    lines.extend(gaps(answer.unrecorded, &answer.silent_instances));
    lines
}

/// What is missing from the record.
pub(super) fn gaps(unrecorded: u64, silent: &[String]) -> Vec<String> {
    let mut lines = Vec::new();
    if unrecorded > 0 {
        let calls = counted(unrecorded, "call");
        lines.push(format!(
            "{calls} besides are in none of these figures: they were too various to be recorded"
        ));
    }
    if !silent.is_empty() {
        let named = silent.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = silent.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let label = "warning:".yellow().bold().to_string();
        lines.push(format!(
            "{label} not recorded, for these agents are of a former release: what is decided by {}{more}",
            output::printable(&named)
        ));
    }
    lines
}

/// `1 call`, `2 calls`.
pub(super) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::to_json;

    fn flip(now: Verdict, draft: Verdict, reason: &str, policies: &[&str]) -> Flip {
        Flip {
            external: String::new(),
            caller: "spiffe://shop.local/mesh/shop/node/web".to_owned(),
            node: "spiffe://shop.local/mesh/shop/node/orders".to_owned(),
            port: 8080,
            action: "GET".to_owned(),
            route: "*undeclared".to_owned(),
            path: "/orders/1".to_owned(),
            more_paths: 0,
            now: now.into(),
            draft: draft.into(),
            reason: reason.to_owned(),
            policies: policies.iter().map(|name| (*name).to_owned()).collect(),
            count: 7,
            last_seen: Some(times::timestamp(UnixMillis(1_800_000_000_000))),
        }
    }

    #[test]
    fn without_a_record_a_dry_run_of_a_removal_fails() {
        assert_eq!(not_recorded(&[]).ok(), Some(0));
        let refused = not_recorded(&[ResourceRef::default()]).unwrap_err().to_string();
        assert!(refused.contains("of a former release"), "{refused}");
    }

    #[test]
    fn what_is_accepted_is_so_whatever_is_known_of_calls() {
        let unreadable = || Status::failed_precondition("the stored policy p is not accepted");
        assert_eq!(not_known(unreadable(), &[]).ok(), Some(0));
        assert!(not_known(unreadable(), &[ResourceRef::default()]).is_err());
    }

    #[test]
    fn what_flips_is_a_table_and_a_sentence() {
        let answer = SimulateResponse {
            flips: vec![
                flip(Verdict::Allow, Verdict::Deny, "no_policy_matched", &["web-reads"]),
                Flip { more_paths: 2, ..flip(Verdict::Allow, Verdict::Deny, "forbidden", &["nobody"]) },
                flip(Verdict::Unspecified, Verdict::Unspecified, "facts_not_recorded", &[]),
                flip(Verdict::Deny, Verdict::Allow, "permitted", &["cart-reads"]),
            ],
            flows: 12,
            denied: 2,
            denied_decisions: 14,
            undecidable: 1,
            undecidable_decisions: 7,
            allowed: 1,
            allowed_decisions: 1,
            since: Some(times::timestamp(UnixMillis(1_799_990_000_000))),
            unrecorded: 3,
            silent_instances: vec!["orders/0123456789".to_owned()],
            ..SimulateResponse::default()
        };
        let now = UnixMillis(1_800_000_060_000);
        let rows = answer.flips.iter().map(|flip| row(flip, now)).collect();
        let table = output::table(
            &["CALLER", "CALLEE", "ACTION", "ROUTE", "NOW", "DRAFT", "COUNT", "LAST SEEN", "BECAUSE"],
            rows,
        );
        let shown = format!("{table}{}\n", remarks(&answer, now).join("\n"));
        insta::assert_snapshot!(anstream::adapter::strip_str(&shown).to_string());
        let mut tree = tree_of("hauberk.admin.v1.SimulateResponse", &answer, Defaults::Show);
        tell_undecidable(&mut tree);
        let json = to_json(&tree);
        assert!(!json.contains("unspecified"), "{json}");
        let undecidable = "\"now\": \"undecidable\",\n      \"draft\": \"undecidable\"";
        assert!(json.contains(undecidable) && json.contains("\"now\": \"allow\""), "{json}");
        let warning = "of 1 flow (7 calls) nothing can be said, and the exit code says nothing of them";
        assert_eq!(undecided(&answer, true).as_deref(), Some(warning));
        assert_eq!(undecided(&answer, false).as_deref(), Some("of 1 flow (7 calls) nothing can be said"));
        assert_eq!(undecided(&SimulateResponse { undecidable: 0, ..answer }, true), None);
    }
}
