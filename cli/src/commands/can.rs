//! `hauberk can`

use hauberk_proto::admin::v1::CheckRequest;
use hauberk_proto::agent::v1::{HeaderLines, Verdict};
use owo_colors::OwoColorize as _;

use crate::arguments::{Can, Global, TextFormat};
use crate::clock;
use crate::commands::decision;
use crate::documents::{Defaults, to_json, tree_of};
use crate::error::CommandError;
use crate::output;
use crate::session::Session;
use crate::times;

/// Runs the command.
///
/// # Errors
/// `Exit(1)` where the answer is no; `Exit(2)` where there is none.
pub(crate) async fn run(global: &Global, arguments: Can) -> Result<(), CommandError> {
    match ask(global, arguments).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(CommandError::Exit(1)),
        // So that scripts can tell "no" from "nobody knows".
        Err(error) => Err(error.exiting(2)),
    }
}

async fn ask(global: &Global, arguments: Can) -> Result<bool, CommandError> {
    let (method, path) = match (arguments.method, arguments.path) {
        (Some(rpc), None) if rpc.contains('/') && !rpc.starts_with('/') => (String::new(), rpc),
        (Some(path), None) if path.starts_with('/') => ("GET".to_owned(), path),
        (Some(method), None) if !method.is_empty() => {
            return Err(CommandError::Usage(format!(
                "which path? Write: hauberk can {} {} {method} /PATH",
                arguments.caller, arguments.target
            )));
        }
        (method, path) => (method.unwrap_or_default(), path.unwrap_or_default()),
    };
    let headers = arguments.headers.iter().map(|line| header(line)).collect::<Result<_, _>>()?;
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
        certificate_age_s: arguments.certificate_age.unwrap_or_default().as_secs(),
        user: arguments.user.unwrap_or_default(),
        claims: arguments.claims.unwrap_or_default(),
        actors: arguments.actors,
    };
    let answer = session.policies().check(request).await?.into_inner();
    let allowed = !answer.decisions.is_empty()
        && answer.decisions.iter().all(|detail| {
            detail.decision.as_ref().is_some_and(|decision| decision.verdict() != Verdict::Deny)
        });
    if arguments.output == TextFormat::Json {
        output::raw(&to_json(&tree_of("hauberk.admin.v1.CheckResponse", &answer, Defaults::Show)))?;
        return Ok(allowed);
    }
    let word = if allowed { "yes".green().bold().to_string() } else { "no".red().bold().to_string() };
    if answer.decisions.is_empty() {
        output::line(format_args!("{word}: nothing serves the target"))?;
    }
    for detail in &answer.decisions {
        let Some(decision) = &detail.decision else { continue };
        output::line(format_args!(
            "{word}: {} → {}:{} {}: {}",
            decision::short_name(&decision.caller),
            decision::short_name(&decision.node),
            decision.port,
            decision::act(decision),
            decision::reason(decision)
        ))?;
        if decision.verdict() != Verdict::Allow {
            output::note(decision::trace(detail).trim_end());
        }
    }
    Ok(allowed)
}

/// Reads `NAME=VALUE`.
fn header(line: &str) -> Result<HeaderLines, CommandError> {
    let (name, value) = line
        .split_once('=')
        .ok_or_else(|| CommandError::Usage(format!("`{line}` is no header field: write x-tenant=blue")))?;
    let (name, values) = (name.to_ascii_lowercase(), vec![value.to_owned()]);
    Ok(HeaderLines { name, values, unreadable: false })
}
