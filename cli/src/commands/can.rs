//! `hauberk can`

use hauberk_proto::admin::v1::{CheckRequest, Outlook};
use hauberk_proto::agent::v1::{HeaderLines, Verdict};
use owo_colors::OwoColorize as _;

use crate::arguments::{Can, Global, TextFormat};
use crate::clock;
use crate::commands::{decision, prospect};
use crate::documents::{Defaults, to_json, tree_of};
use crate::error::CommandError;
use crate::output;
use crate::session::Session;
use crate::times;

/// What an answer exits with that depends on what was not told.
const DEPENDS: u8 = 3;

/// Runs the command.
///
/// # Errors
/// `Exit(1)` where the answer is no; `Exit(2)` where there is none; `Exit(3)` where it depends on what was not told.
pub(crate) async fn run(global: &Global, arguments: Can) -> Result<(), CommandError> {
    match ask(global, arguments).await {
        Ok(Outlook::Always) => Ok(()),
        Ok(Outlook::Never) => Err(CommandError::Exit(1)),
        Ok(_) => Err(CommandError::Exit(DEPENDS)),
        // So that scripts can tell "no" from "nobody knows".
        Err(error) => Err(error.exiting(2, &global.of_context())),
    }
}

async fn ask(global: &Global, arguments: Can) -> Result<Outlook, CommandError> {
    let (method, path) = match (arguments.method, arguments.path) {
        (Some(rpc), None) if rpc.contains('/') && !rpc.starts_with('/') => (String::new(), rpc),
        (Some(path), None) if path.starts_with('/') => ("GET".to_owned(), path),
        (Some(method), None) if !method.is_empty() => {
            let asked = format!("hauberk can {} {}", arguments.caller, arguments.target);
            let of_context = global.of_context();
            return Err(CommandError::Usage(format!(
                "which path? Write: {asked} {method} /PATH{of_context}, or of a gRPC method: {asked} \
                 PACKAGE.SERVICE/METHOD{of_context}"
            )));
        }
        (method, path) => (method.unwrap_or_default(), path.unwrap_or_default()),
    };
    prospect::method_note(&method).into_iter().for_each(output::note);
    let headers = arguments.headers.iter().map(|line| header(line)).collect();
    let at = arguments.at.as_deref().map(|text| times::since(text, clock::now())).transpose();
    let at = at.map_err(CommandError::Usage)?;
    let session = Session::open(global).await?;
    let request = CheckRequest {
        mesh: session.mesh().await?,
        caller: arguments.caller,
        target: arguments.target,
        port: arguments.port.map_or(0, u32::from),
        method,
        path,
        address: arguments.from.map(|address| address.to_string()).unwrap_or_default(),
        host: arguments.host.unwrap_or_default(),
        headers,
        at: at.map(times::timestamp),
        user: arguments.user.unwrap_or_default(),
        claims: arguments.claims.unwrap_or_default(),
        actors: arguments.actors,
        without_user: arguments.without_user,
        certificate_age_s: arguments.certificate_age.map(|age| age.as_secs()),
        tls_group: arguments.tls_group.unwrap_or_default(),
    };
    let mut answer = session.policies().check(request).await?.into_inner();
    let outlook = prospect::overall(&answer);
    if arguments.output == TextFormat::Json {
        output::raw(&to_json(&tree_of("hauberk.admin.v1.CheckResponse", &answer, Defaults::Show)))?;
        return Ok(outlook);
    }
    let word = match outlook {
        Outlook::Always => "yes".green().bold().to_string(),
        Outlook::Never => "no".red().bold().to_string(),
        _ => "it depends".yellow().bold().to_string(),
    };
    if answer.decisions.is_empty() {
        output::line(format_args!("{word}: nothing serves the target"))?;
    }
    answer.decisions.iter_mut().for_each(|detail| decision::in_context(detail, session.of_context()));
    for detail in &answer.decisions {
        let Some(decision) = &detail.decision else { continue };
        let what = format!(
            "{word}: {} → {} {}",
            decision::caller_name(&decision.caller, &decision.node),
            decision::target(decision),
            decision::act(decision),
        );
        match outlook {
            Outlook::Always => output::line(format_args!("{what}: {}", decision::reason(decision)))?,
            Outlook::Never => {
                let never = answer.prospects.iter().filter(|one| one.outlook() == Outlook::Never);
                let mut reasons = never.map(prospect::settled).collect::<Vec<_>>();
                // An upgrade is two things.
                reasons.dedup();
                output::line(format_args!("{what}: {}", reasons.join("; ")))?;
            }
            _ => output::line(format_args!(
                "{what}, on what was not told\n{}",
                prospect::open_conditions(&answer).trim_end()
            ))?,
        }
        if outlook == Outlook::Never || decision.verdict() == Verdict::AuditAllow {
            output::note(decision::trace(detail).trim_end());
        }
    }
    Ok(outlook)
}

/// Reads `NAME=VALUE`, or `NAME` of a field that is not sent.
fn header(line: &str) -> HeaderLines {
    let (name, values) = match line.split_once('=') {
        Some((name, value)) => (name, vec![value.to_owned()]),
        None => (line, Vec::new()),
    };
    HeaderLines { name: name.to_ascii_lowercase(), values, unreadable: false }
}
