//! `hauberk wait`: until every live instance concerned enforces a revision.

use std::collections::BTreeSet;
use std::time::Duration;

use hauberk_proto::admin::v1::{Laggard, WaitRequest, WaitResponse};
use owo_colors::OwoColorize as _;
use tokio::time::{Instant, timeout_at};

use crate::arguments::{Global, Wait};
use crate::clock;
use crate::commands::decision::short_name;
use crate::error::CommandError;
use crate::output;
use crate::session::Session;
use crate::times;

/// What to do is said of so many instances one by one.
const MOST_ADVISED: usize = 5;

/// Runs the command.
///
/// # Errors
/// Not enforced in time; the laggards are named.
pub(crate) async fn run(global: &Global, arguments: Wait) -> Result<(), CommandError> {
    let session = Session::open(global).await?;
    // Commands that say which revision to wait for wait for all meshes themselves, whichever one is meant otherwise.
    let is_meant = !(global.is_mesh_of_variable && arguments.revision.is_some());
    let mesh = session.named_mesh().filter(|_| is_meant).unwrap_or_default().to_owned();
    let waiting = (Instant::now(), arguments.timeout);
    until_enforced(&session, arguments.revision.unwrap_or_default(), &mesh, waiting).await
}

/// Waits for a revision (0: the current one) of a mesh (empty: all), from an instant for so long.
///
/// # Errors
/// Not enforced in time; the laggards are named.
pub(crate) async fn until_enforced(
    session: &Session,
    revision: u64,
    mesh: &str,
    (begun, timeout): (Instant, Duration),
) -> Result<(), CommandError> {
    let deadline = begun + timeout;
    let request = WaitRequest { revision, mesh: mesh.to_owned() };
    let mut stream = match timeout_at(deadline, session.rollout().wait(request)).await {
        Ok(answer) => answer?.into_inner(),
        Err(_) => return Err(CommandError::failed("the control plane did not answer in time")),
    };
    let (mut last, mut told): (Option<WaitResponse>, _) = (None, BTreeSet::new());
    loop {
        match timeout_at(deadline, stream.message()).await {
            Ok(Ok(Some(state))) if state.done => {
                output::end_progress();
                let took = begun.elapsed().as_millis();
                output::note(format_args!(
                    "{} revision {} is enforced by {} ({took} ms)",
                    "✓".green(),
                    state.revision,
                    instances(state.concerned)
                ));
                return Ok(());
            }
            Ok(Ok(Some(state))) => {
                tell_obstructed(&state.laggards, &mut told);
                let said = format!(
                    "revision {}: {} of {} enforce it{}",
                    state.revision,
                    state.enforced,
                    state.concerned,
                    whom_or_what(&state)
                );
                output::progress(state.enforced, state.concerned, &said);
                last = Some(state);
            }
            Ok(Ok(None)) => {
                output::end_progress();
                return Err(CommandError::failed(
                    "the control plane ended the wait: it is probably stopping",
                ));
            }
            Ok(Err(status)) => {
                output::end_progress();
                return Err(status.into());
            }
            Err(_) => {
                output::end_progress();
                return Err(laggards(last, timeout));
            }
        }
    }
}

fn laggards(last: Option<WaitResponse>, timeout: Duration) -> CommandError {
    let Some(state) = last else {
        return CommandError::failed(format!("nothing was heard within {}", times::short(timeout)));
    };
    let now = clock::now();
    let rows = state
        .laggards
        .iter()
        .map(|laggard| {
            vec![
                laggard.instance_id.clone(),
                laggard.spiffe_id.clone(),
                laggard.reason.clone(),
                match laggard.acknowledged_revision {
                    0 => "nothing known".to_owned(),
                    revision => format!("revision {revision}"),
                },
                times::until(laggard.certificate_not_after.as_ref(), now),
            ]
        })
        .collect();
    if !state.laggards.is_empty() {
        let headers = ["INSTANCE", "SPIFFE-ID", "REASON", "ACKNOWLEDGED", "CERTIFICATE-EXPIRES"];
        output::note(output::table(&headers, rows).trim_end());
    }
    let mut help = advice(&state.laggards);
    if !state.lacking_fix.is_empty() {
        help.insert(0, output::printable(&state.lacking_fix).to_string());
    }
    if !state.laggards.is_empty() {
        help.push(
            "those listed act on an older revision until they answer or their certificates expire".to_owned(),
        );
    }
    CommandError::Failed(
        format!(
            "after {}, {} of {} enforce revision {}{}",
            times::short(timeout),
            state.enforced,
            instances(state.concerned),
            state.revision,
            whom_or_what(&state)
        ),
        help,
    )
}

/// Says at once of whom no waiting helps: their views cannot be made as the configuration is. `told`: of whom it was
/// said.
pub(crate) fn tell_obstructed(laggards: &[Laggard], told: &mut BTreeSet<String>) {
    for laggard in laggards.iter().filter(|laggard| laggard.obstructed) {
        if told.len() < MOST_ADVISED && told.insert(laggard.instance_id.clone()) {
            output::end_progress();
            let Laggard { instance_id, spiffe_id, reason, fix, .. } = laggard;
            let warning = format!("{instance_id} of {spiffe_id}: {reason}; {fix}");
            output::note(format_args!("{} {}", "warning:".yellow().bold(), output::printable(&warning)));
        }
    }
}

/// For whom is waited: one for whom waiting does not help, with the reason, before any other; nothing where nobody is
/// late.
pub(crate) fn waiting_for(laggards: &[Laggard]) -> String {
    let first = laggards.iter().find(|laggard| laggard.obstructed).or(laggards.first());
    let Some(Laggard { spiffe_id, reason, obstructed, .. }) = first else { return String::new() };
    // Instances of one node are named once.
    let others: BTreeSet<&str> = laggards.iter().map(|laggard| laggard.spiffe_id.as_str()).collect();
    let others = others.into_iter().filter(|other| other != spiffe_id).collect::<Vec<_>>();
    let mut said = format!("; waiting for {}", short_name(spiffe_id));
    if *obstructed {
        said += &format!(": {reason}");
    }
    if !others.is_empty() {
        let named: Vec<_> = others.iter().take(MOST_ADVISED - 1).map(|other| short_name(other)).collect();
        said += if *obstructed { "; and for " } else { ", " };
        said += &named.join(", ");
        let more = others.len() - named.len();
        if more > 0 {
            said += &format!(" and {more} more");
        }
    }
    output::printable(&said).to_string()
}

/// For what of the control plane's own is waited, or else for whom.
fn whom_or_what(state: &WaitResponse) -> String {
    if state.lacking.is_empty() {
        return waiting_for(&state.laggards);
    }
    output::printable(&format!("; {}", state.lacking)).to_string()
}

/// What to do about the first of those who are late.
pub(crate) fn advice(laggards: &[Laggard]) -> Vec<String> {
    let mut help: Vec<String> = laggards
        .iter()
        .take(MOST_ADVISED)
        .map(|laggard| format!("{}: {}", laggard.instance_id, laggard.fix))
        .map(|line| output::printable(&line))
        .collect();
    if laggards.len() > MOST_ADVISED {
        help.push("and so with the others".to_owned());
    }
    help
}

/// So many, in words.
pub(crate) fn instances(count: u32) -> String {
    if count == 1 { "1 instance".to_owned() } else { format!("{count} instances") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_nodes_that_are_waited_for_are_named_up_to_a_bound() {
        let id = |node: &str| format!("spiffe://shop.local/mesh/shop/node/{node}");
        let late = |node: &str| Laggard { spiffe_id: id(node), ..Laggard::default() };
        assert_eq!(waiting_for(&[]), "");
        assert_eq!(waiting_for(&[late("b"), late("b")]), "; waiting for b");
        assert_eq!(waiting_for(&[late("b"), late("a"), late("b")]), "; waiting for b, a");
        let many: Vec<_> = "gfedcba".split("").filter(|node| !node.is_empty()).map(late).collect();
        assert_eq!(waiting_for(&many), "; waiting for g, a, b, c, d and 2 more");
    }

    #[test]
    fn what_the_control_plane_lacks_is_told_where_nobody_is_late() {
        let lacking = "what was revoked last is not on the denylist yet".to_owned();
        let lacking_fix = "its log says what fails".to_owned();
        let state = WaitResponse { revision: 7, lacking, lacking_fix, ..WaitResponse::default() };
        let CommandError::Failed(message, help) = laggards(Some(state), Duration::from_secs(5)) else {
            panic!("it is no usage error")
        };
        assert_eq!(
            message,
            "after 5s, 0 of 0 instances enforce revision 7; what was revoked last is not on the denylist yet"
        );
        assert_eq!(help, ["its log says what fails"]);
    }
}
