//! `hauberk authority`

mod upstream;

use std::collections::BTreeSet;
use std::time::Duration;

use hauberk_proto::admin::v1 as api;
use owo_colors::OwoColorize as _;
use tokio::time::{Instant, timeout_at};
use tonic::{Response, Status};
use tonic_types::StatusExt as _;

use crate::arguments::{AuthorityCommand, AuthorityKind, Global, Waiting};
use crate::clock;
use crate::commands::rows::or_dash;
use crate::commands::{get, wait};
use crate::documents::{Defaults, tree_of};
use crate::error::CommandError;
use crate::output::{self, Format};
use crate::session::Session;
use crate::times;

const HEADERS: [&str; 8] = ["SERIAL", "KIND", "STATE", "SINCE", "EXPIRES", "HOLDERS", "KEY", "FINGERPRINT"];

/// No credential, join token or bundle file is meant to be good for longer that knows a former root alone.
const KNOWN_AFTER: Duration = Duration::from_secs(25 * 3_600);

/// Runs the command.
///
/// # Errors
/// The step cannot be taken, or is not enforced in time.
pub(crate) async fn run(global: &Global, command: AuthorityCommand) -> Result<(), CommandError> {
    let session = Session::open(global).await?;
    let begun = Instant::now();
    let mut client = session.authorities();
    let is_revocation = matches!(command, AuthorityCommand::Revoke { .. });
    let (answer, waiting) = match command {
        AuthorityCommand::List { output } => return list(&session, output).await,
        AuthorityCommand::Csr { new, out } => return upstream::request(&session, new, out.as_deref()).await,
        AuthorityCommand::Sign { file, out } => return upstream::sign(&session, &file, out.as_deref()).await,
        AuthorityCommand::Install { files, root, exclusive } => {
            return upstream::install(&session, &files, root.as_deref(), exclusive).await;
        }
        AuthorityCommand::Prepare { kind, own, waiting } => {
            let request = api::PrepareAuthorityRequest { kind: number(kind), own };
            (client.prepare_authority(request).await, waiting)
        }
        AuthorityCommand::Rotate { kind, waiting } => {
            let request = api::RotateAuthorityRequest { kind: number(kind) };
            (client.rotate_authority(request).await, waiting)
        }
        AuthorityCommand::Activate { serial, waiting } => {
            let listed =
                client.list_authorities(api::ListAuthoritiesRequest {}).await?.into_inner().authorities;
            // Before it is done: there is no way back.
            if let Some(cut_off) = whom_it_cuts_off(&serial, &listed, clock::now()) {
                output::note(cut_off);
            }
            let request = api::ActivateAuthorityRequest { serial: serial.clone() };
            let mut answer = client.activate_authority(request.clone()).await;
            if let (true, Some(timeout)) = (answer.as_ref().is_err_and(is_not_trusted_yet), waiting.wait) {
                settled(&session, (begun, timeout), is_trusted).await.map_err(not_activated)?;
                answer = client.activate_authority(request).await;
            }
            // One that goes on by itself may have been faster: what was waited for is there.
            if waiting.wait.is_some()
                && answer.is_err()
                && let Ok(Some(authority)) = active(&session, &serial).await
            {
                answer = Ok(Response::new(api::AuthorityResponse { authority: Some(authority) }));
            }
            (answer, waiting)
        }
        AuthorityCommand::Taint { serial, waiting } => {
            (client.taint_authority(api::TaintAuthorityRequest { serial }).await, waiting)
        }
        AuthorityCommand::Revoke { serial, now, waiting } => {
            (client.revoke_authority(api::RevokeAuthorityRequest { serial, now }).await, waiting)
        }
    };
    let authority = answer?.into_inner().authority.unwrap_or_default();
    told(&authority)?;
    if is_revocation && authority.kind() == api::AuthorityKind::Issuing {
        let listed = client.list_authorities(api::ListAuthoritiesRequest {}).await?.into_inner().authorities;
        output::note(believed_by_root(&authority, &listed, session.of_context()));
    }
    let Waiting { wait } = waiting;
    match wait {
        Some(timeout) => until_settled(&session, (begun, timeout)).await,
        None => Ok(()),
    }
}

fn told(authority: &api::Authority) -> Result<(), CommandError> {
    let state = if authority.goes_on { "prepared, and goes on by itself" } else { authority.state.as_str() };
    output::line(format_args!("authority/{} {state}", authority.serial))
}

/// Who finds the control plane no longer once this root is active, as nothing by the former one's key can vouch for it, and from
/// when on nobody is left of them.
fn whom_it_cuts_off(
    serial: &str,
    listed: &[api::Authority],
    now: hauberk_identity::UnixMillis,
) -> Option<String> {
    let roots = || listed.iter().filter(|one| one.kind() == api::AuthorityKind::Root);
    let next = roots().find(|root| root.serial == serial && root.state == "prepared")?;
    let former = roots().find(|root| root.state == "active" && root.key == "elsewhere")?;
    let until = times::instant(next.changed_at.as_ref()?).plus(KNOWN_AFTER);
    (now < until).then(|| {
        format!(
            "warning: whoever knows root {} alone finds the control plane no longer, since its key is not here to vouch for what follows: \
             contexts in which no command is run since root {serial} came, and fingerprints and bundle files from before. From {until} on \
             none of those was good any longer, and nobody would have been cut off",
            former.serial
        )
    })
}

/// Whom the revocation of an issuing authority does not reach, and what is still to do about that.
fn believed_by_root(revoked: &api::Authority, listed: &[api::Authority], of_context: &str) -> String {
    let reached =
        "agents refuse what it has signed, and so do programs that read revocation lists (docs/identity.md)";
    let came = |authority: &api::Authority| authority.created_at.as_ref().map(times::instant);
    let vouches = |root: &&api::Authority| {
        let is_own = root.serial == revoked.root;
        // One that was in use before may have signed it too.
        let may_have_crossed =
            || root.state != "active" && root.key != "elsewhere" && came(root) < came(revoked);
        root.kind() == api::AuthorityKind::Root
            && !["prepared", "retired"].contains(&root.state.as_str())
            && (is_own || may_have_crossed())
    };
    // Those before the active one first: another may have no room beside them.
    let (active, former): (Vec<_>, Vec<_>) =
        listed.iter().filter(vouches).partition(|root| root.state == "active");
    if active.is_empty() && former.is_empty() {
        return format!("{reached}; no root is trusted any longer that vouches for it");
    }
    let mut steps = Vec::new();
    let replaced = active.iter().map(|root| match root.key.as_str() {
        "elsewhere" => "have another root signed and made active (docs/identity.md)".to_owned(),
        _ => format!("`hauberk authority rotate root --wait{of_context}`"),
    });
    let replaced: Vec<_> = replaced.collect();
    for (root, before) in former
        .into_iter()
        .map(|root| (root, &[][..]))
        .chain(active.into_iter().map(|root| (root, replaced.as_slice())))
    {
        steps.extend_from_slice(before);
        for (step, is_done) in [("taint", root.state == "tainted"), ("revoke", false)] {
            if !is_done {
                steps.push(format!("`hauberk authority {step} {} --wait{of_context}`", root.serial));
            }
        }
    }
    format!(
        "{reached}. A program that has the roots alone believes it for as long as a root is trusted that vouches for it: if its key may \
         be in other hands, {}",
        steps.join(", then ")
    )
}

async fn list(session: &Session, format: Format) -> Result<(), CommandError> {
    let answer = session.authorities().list_authorities(api::ListAuthoritiesRequest {}).await?.into_inner();
    let now = clock::now();
    let rows = answer.authorities.iter().map(|authority| row(authority, now)).collect();
    let trees = answer
        .authorities
        .iter()
        .map(|item| tree_of("hauberk.admin.v1.Authority", item, Defaults::Show))
        .collect();
    let names = answer.authorities.iter().map(|item| format!("authority/{}", item.serial)).collect();
    get::show(format, "authority", &HEADERS, rows, trees, names)?;
    if !answer.needed.is_empty() {
        output::note(format_args!("{} {}", "‼".yellow(), output::printable(&answer.needed)));
    }
    Ok(())
}

fn row(authority: &api::Authority, now: hauberk_identity::UnixMillis) -> Vec<String> {
    let kind = match authority.kind() {
        api::AuthorityKind::Root if authority.exclusive => "upstream root, exclusive",
        api::AuthorityKind::Root if authority.upstream => "upstream root",
        api::AuthorityKind::Root => "root",
        api::AuthorityKind::Issuing => "issuing",
        api::AuthorityKind::ViewKey => "view-key",
        api::AuthorityKind::JwtKey => "jwt-key",
        api::AuthorityKind::Unspecified => "unknown",
    };
    vec![
        authority.serial.clone(),
        kind.to_owned(),
        authority.state.clone(),
        times::age(authority.changed_at.as_ref(), now),
        times::until(authority.not_after.as_ref(), now),
        // Whom it signs for another control plane's agents is known there.
        if authority.state == "delegated" { "-".to_owned() } else { authority.holders.to_string() },
        authority.key.clone(),
        or_dash(authority.fingerprint.clone()),
    ]
}

/// Whether somebody has yet to learn of an authority: whoever waits is waited with, instead of being refused.
fn is_not_trusted_yet(status: &Status) -> bool {
    status.get_details_error_info().is_some_and(|info| info.reason == "NOT_TRUSTED_YET")
}

/// Whether an authority can be activated: all trust it. What becomes active by itself is not waited for.
fn is_trusted(state: &api::WaitForAuthoritiesResponse) -> bool {
    state.done || state.laggards.is_empty()
}

/// An authority, if it is the active one of its kind.
async fn active(session: &Session, serial: &str) -> Result<Option<api::Authority>, CommandError> {
    let listed = session.authorities().list_authorities(api::ListAuthoritiesRequest {}).await?.into_inner();
    Ok(listed.authorities.into_iter().find(|own| {
        own.serial == serial && own.state == "active" && own.kind() != api::AuthorityKind::ViewKey
    }))
}

fn not_activated(error: CommandError) -> CommandError {
    match error {
        CommandError::Failed(message, mut help) => {
            help.push("nothing is activated yet: the same command goes on waiting".to_owned());
            CommandError::Failed(message, help)
        }
        error => error,
    }
}

/// Waits until a change of authorities has reached everybody, and says so.
async fn until_settled(session: &Session, waiting: (Instant, Duration)) -> Result<(), CommandError> {
    let concerned = settled(session, waiting, |state| state.done).await?;
    output::note(format_args!(
        "{} {} trust and hold what they should ({} ms)",
        "✓".green(),
        wait::instances(concerned),
        waiting.0.elapsed().as_millis()
    ));
    Ok(())
}

/// Waits until it has come so far, for so long from an instant; gives how many are concerned.
async fn settled(
    session: &Session,
    (begun, timeout): (Instant, Duration),
    is_far_enough: fn(&api::WaitForAuthoritiesResponse) -> bool,
) -> Result<u32, CommandError> {
    let deadline = begun + timeout;
    let request = api::WaitForAuthoritiesRequest {};
    let mut stream = match timeout_at(deadline, session.authorities().wait_for_authorities(request)).await {
        Ok(answer) => answer?.into_inner(),
        Err(_) => return Err(CommandError::failed("the control plane did not answer in time")),
    };
    let (mut last, mut told) = (None, BTreeSet::new());
    let outcome = loop {
        match timeout_at(deadline, stream.message()).await {
            Ok(Ok(Some(state))) if is_far_enough(&state) => break Ok(state),
            Ok(Ok(Some(state))) => {
                wait::tell_obstructed(&state.laggards, &mut told);
                output::progress(state.settled, state.concerned, &said(&state));
                last = Some(state);
            }
            Ok(Ok(None)) => {
                break Err(CommandError::failed("the control plane ended the wait: it is probably stopping"));
            }
            Ok(Err(status)) => break Err(status.into()),
            Err(_) => break Err(laggards(last.take(), timeout, session.of_context())),
        }
    };
    output::end_progress();
    outcome.map(|state| state.concerned)
}

fn said(state: &api::WaitForAuthoritiesResponse) -> String {
    let first = wait::waiting_for(&state.laggards);
    format!("{} of {} trust and hold what they should{first}", state.settled, state.concerned)
}

fn laggards(
    last: Option<api::WaitForAuthoritiesResponse>,
    timeout: Duration,
    of_context: &str,
) -> CommandError {
    let Some(state) = last else {
        return CommandError::failed(format!("nothing was heard within {}", times::short(timeout)));
    };
    let after = times::short(timeout);
    if state.laggards.is_empty() && !state.waiting.is_empty() {
        let waiting = &state.waiting;
        return CommandError::Failed(
            format!("after {after}, {}, and authority {waiting} waits all the same", said(&state)),
            vec![
                "it becomes active by itself within seconds, unless what the control plane's log tells hinders it; a root that \
                 the former one does not vouch for 25 hours after it came: until then credentials and join tokens are good \
                 that know the former root alone (docs/identity.md)"
                    .to_owned(),
                format!("to have it active now: hauberk authority activate {waiting} --wait{of_context}"),
            ],
        );
    }
    let now = clock::now();
    let row = |laggard: &api::Laggard| {
        let expires = times::until(laggard.certificate_not_after.as_ref(), now);
        vec![laggard.instance_id.clone(), laggard.spiffe_id.clone(), laggard.reason.clone(), expires]
    };
    let rows = state.laggards.iter().map(row).collect();
    let headers = ["INSTANCE", "SPIFFE-ID", "REASON", "CERTIFICATE-EXPIRES"];
    output::note(output::table(&headers, rows).trim_end());
    let mut help = wait::advice(&state.laggards);
    if !state.waiting.is_empty() {
        help.push(format!(
            "authority {} becomes active by itself once all of them trust it or have expired",
            state.waiting
        ));
    }
    CommandError::Failed(format!("after {after}, {}", said(&state)), help)
}

fn number(kind: AuthorityKind) -> i32 {
    match kind {
        AuthorityKind::Root => api::AuthorityKind::Root.into(),
        AuthorityKind::Issuing => api::AuthorityKind::Issuing.into(),
        AuthorityKind::ViewKey => api::AuthorityKind::ViewKey.into(),
        AuthorityKind::JwtKey => api::AuthorityKind::JwtKey.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_waited_for_in_vain_is_named_with_the_reason() {
        let late = |node: &str, reason: &str, obstructed| api::Laggard {
            instance_id: format!("{node}1"),
            spiffe_id: format!("spiffe://shop.local/mesh/shop/node/{node}"),
            reason: reason.to_owned(),
            obstructed,
            fix: "delete it".to_owned(),
            ..api::Laggard::default()
        };
        let why = "its view cannot be compiled: the stored policy p is not accepted";
        let laggards = vec![late("web", "not connected", false), late("orders", why, true)];
        let state =
            api::WaitForAuthoritiesResponse { concerned: 3, settled: 1, laggards, ..Default::default() };
        let CommandError::Failed(message, help) = super::laggards(Some(state), Duration::from_secs(5), "")
        else {
            panic!("it has failed");
        };
        assert_eq!(
            message,
            format!(
                "after 5s, 1 of 3 trust and hold what they should; waiting for orders: {why}; and for web"
            )
        );
        assert_eq!(help, ["web1: delete it", "orders1: delete it"]);
    }

    #[test]
    fn an_authority_that_waits_for_nobody_is_told_with_what_makes_it_active() {
        let state = api::WaitForAuthoritiesResponse {
            concerned: 2,
            settled: 2,
            waiting: "4a5b".to_owned(),
            ..Default::default()
        };
        let CommandError::Failed(message, help) =
            laggards(Some(state), Duration::from_secs(5), " --context prod")
        else {
            panic!("it has failed");
        };
        assert_eq!(
            message,
            "after 5s, 2 of 2 trust and hold what they should, and authority 4a5b waits all the same"
        );
        assert!(
            help[0].starts_with("it becomes active by itself within seconds"),
            "it may be none: {help:?}"
        );
        assert!(help[0].contains("25 hours after it came"), "{help:?}");
        assert_eq!(help[1], "to have it active now: hauberk authority activate 4a5b --wait --context prod");
    }

    #[test]
    fn what_takes_a_root_away_means_the_context_that_was_named() {
        let told = of_root("active");
        for step in ["rotate root", "taint 4a5b", "revoke 4a5b"] {
            assert!(told.contains(&format!("`hauberk authority {step} --wait --context prod`")), "{told}");
        }
    }

    /// What is told of an issuing authority that was revoked, of a root in this state.
    fn of_root(state: &str) -> String {
        let at = |seconds: u64| Some(times::timestamp(hauberk_identity::UnixMillis(seconds * 1_000)));
        let root = api::Authority {
            serial: "4a5b".to_owned(),
            kind: api::AuthorityKind::Root.into(),
            state: state.to_owned(),
            created_at: at(1),
            ..api::Authority::default()
        };
        let next = api::Authority {
            serial: "6c7d".to_owned(),
            state: "active".to_owned(),
            created_at: at(3),
            ..root.clone()
        };
        let revoked =
            api::Authority { root: "4a5b".to_owned(), created_at: at(2), ..api::Authority::default() };
        let listed = if state == "active" { vec![root] } else { vec![root, next] };
        believed_by_root(&revoked, &listed, " --context prod")
    }

    #[test]
    fn a_root_that_nothing_vouches_for_is_said_to_cut_off_who_knows_the_former_one_alone() {
        let at = |hours: u64| hauberk_identity::UnixMillis(hours * 3_600_000);
        let root = |serial: &str, state: &str, key: &str| api::Authority {
            serial: serial.to_owned(),
            kind: api::AuthorityKind::Root.into(),
            state: state.to_owned(),
            key: key.to_owned(),
            changed_at: Some(times::timestamp(at(1))),
            ..api::Authority::default()
        };
        let next = root("6c7d", "prepared", "elsewhere");
        let told = |active: &str, hours| {
            whom_it_cuts_off("6c7d", &[root("4a5b", "active", active), next.clone()], at(hours))
        };
        let warned = told("elsewhere", 25).unwrap();
        assert!(
            warned.contains("root 4a5b alone") && warned.contains(&format!("From {} on", at(26))),
            "{warned}"
        );
        assert_eq!(told("elsewhere", 26), None, "all have learnt of it");
        assert_eq!(told("sealed", 1), None, "its key vouches for what follows");
    }

    #[test]
    fn of_a_root_that_was_replaced_only_what_is_left_to_do_is_told() {
        let commands = |state| {
            let told = of_root(state);
            ["rotate root", "taint", "revoke"]
                .map(|step| told.contains(&format!("`hauberk authority {step} ")))
        };
        assert_eq!(commands("active"), [true; 3]);
        assert_eq!(commands("retiring"), [false, true, true]);
        assert_eq!(commands("tainted"), [false, false, true]);
        assert_eq!(commands("retired"), [false; 3]);
        assert!(of_root("retired").ends_with("no root is trusted any longer that vouches for it"));
    }

    #[test]
    fn only_one_that_is_not_trusted_yet_is_waited_for() {
        let refused = |reason: &str| {
            let details = tonic_types::ErrorDetails::with_error_info(reason, "hauberk", []);
            is_not_trusted_yet(&Status::with_error_details(tonic::Code::FailedPrecondition, "no", details))
        };
        assert!(refused("NOT_TRUSTED_YET"));
        assert!(!refused("NOT_VALID_NOW") && !is_not_trusted_yet(&Status::unknown("no")));
    }

    #[test]
    fn what_waits_though_all_trust_it_can_be_activated() {
        let state = |laggards, waiting: &str, done| {
            let waiting = waiting.to_owned();
            is_trusted(&api::WaitForAuthoritiesResponse { laggards, waiting, done, ..Default::default() })
        };
        assert!(state(Vec::new(), "4a5b", false) && state(Vec::new(), "", true));
        assert!(!state(vec![api::Laggard::default()], "4a5b", false));
    }

    #[test]
    fn what_was_said_of_a_root_is_shown() {
        let kind = |exclusive| {
            let root = api::Authority { upstream: true, exclusive, ..api::Authority::default() };
            let root = api::Authority { kind: api::AuthorityKind::Root.into(), ..root };
            row(&root, hauberk_identity::UnixMillis(0)).swap_remove(1)
        };
        assert_eq!([kind(false), kind(true)], ["upstream root", "upstream root, exclusive"]);
    }

    #[test]
    fn what_does_not_apply_is_a_dash() {
        let cells = |authority: &api::Authority| {
            let row = row(authority, hauberk_identity::UnixMillis(0));
            (row[5].clone(), row[7].clone())
        };
        let text = |text: &str| text.to_owned();
        let delegated =
            api::Authority { state: text("delegated"), fingerprint: text("ab"), ..api::Authority::default() };
        assert_eq!(cells(&delegated), (text("-"), text("ab")));
        let key = api::Authority { state: text("active"), holders: 2, ..api::Authority::default() };
        assert_eq!(cells(&key), (text("2"), text("-")), "a control plane of a former release tells none");
    }
}
