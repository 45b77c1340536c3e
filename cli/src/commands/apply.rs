//! `hauberk apply`

use hauberk_identity::{Name, TrustDomain};
use hauberk_policy::{Mode, PolicyDocument, PolicyTemplate};
use hauberk_proto::admin::v1::{ApplyRequest, ApplyResponse, Outcome};
use hauberk_proto::mesh::v1::{Resource, resource::Spec};
use owo_colors::OwoColorize as _;
use tokio::time::Instant;
use tonic::Status;
use tonic_types::StatusExt as _;

use crate::arguments::{Apply, DryRun, Global};
use crate::commands::{issuer_keys, left_out, simulate, wait};
use crate::context::ContextStore;
use crate::documents::{self, Documents, ReadError};
use crate::error::CommandError;
use crate::kinds;
use crate::output;
use crate::session::Session;

/// Stands for the trust domain of files that name none, without a context: nobody has a name below `.invalid` (RFC 2606
/// §2), so that whatever they write with a full id is of another one.
const UNKNOWN_TRUST_DOMAIN: &str = "unknown.invalid";

/// Runs the command.
///
/// # Errors
/// Everything that is wrong in the files; what the control plane answers; not enforced in time.
pub(crate) async fn run(global: &Global, arguments: Apply) -> Result<(), CommandError> {
    let documents = documents::read(&arguments.files, global.mesh.as_deref())?;
    if arguments.dry_run == Some(DryRun::Client) {
        let documents = check_policies(documents, global)?;
        for resource in documents.resources() {
            output::line(format_args!("{} is well-formed (client dry run)", kinds::label(resource)))?;
        }
        return Ok(());
    }
    let session = Session::open(global).await?;
    let validate_only = arguments.dry_run.is_some();
    let resources: Vec<Resource> = documents.resources().cloned().collect();
    let answer = send(&session, documents, validate_only).await?;
    let suffix = if validate_only { " (server dry run)" } else { "" };
    for applied in &answer.resources {
        if let Some(resource) = &applied.resource {
            let outcome = outcome_word(applied.outcome());
            output::line(format_args!("{} {outcome}{suffix}", kinds::label(resource)))?;
        }
    }
    finish(&session, &answer, validate_only, arguments.wait).await?;
    if validate_only {
        simulate::beside_dry_run(&session, resources, Vec::new()).await?;
    }
    Ok(())
}

/// Checks policies as the control plane will: for `--dry-run=client`, since otherwise that tells everything at once.
fn check_policies(documents: Documents, global: &Global) -> Result<Documents, CommandError> {
    let trust_domain = trust_domain_of(&documents, global)?;
    let violations: Vec<_> = documents
        .resources()
        .enumerate()
        .flat_map(|(index, resource)| {
            let field = format!("resources[{index}].spec.cedar");
            policy_problems(resource, &trust_domain).into_iter().map(move |problem| (field.clone(), problem))
        })
        .collect();
    if violations.is_empty() {
        return Ok(documents);
    }
    match documents.locate(violations) {
        (Some(problems), _) => Err(ReadError::Wrong(problems).into()),
        (None, elsewhere) => Err(CommandError::failed(elsewhere.join("\n"))),
    }
}

/// The trust domain that files without a control plane are of: the context's, else the one that they name.
///
/// # Errors
/// The context that was named is not there, or is broken.
pub(crate) fn trust_domain_of(documents: &Documents, global: &Global) -> Result<TrustDomain, CommandError> {
    let context = ContextStore::of_user().and_then(|store| store.select(global.context.as_deref()));
    match context {
        Ok((_, context)) => TrustDomain::parse(&context.trust_domain)
            .map_err(|error| CommandError::failed(format!("the context's trust domain: {error}"))),
        Err(error) if global.context.is_some() => Err(error.into()),
        Err(_) => match documents.resources().find_map(own_trust_domain) {
            Some(assumed) => {
                output::note(format_args!(
                    "without a context the trust domain is not known: {assumed} is assumed, which the first full id names"
                ));
                Ok(assumed)
            }
            None => TrustDomain::parse(UNKNOWN_TRUST_DOMAIN)
                .map_err(|error| CommandError::failed(error.to_string())),
        },
    }
}

/// The trust domain of the first node, port or route that a policy writes with its full id: these are always of the
/// control plane's own.
fn own_trust_domain(resource: &Resource) -> Option<TrustDomain> {
    let ids = cedar_of(resource)?.1.split("::\"spiffe://").collect::<Vec<_>>();
    ids.windows(2).find_map(|around| {
        let [before, after] = around else { return None };
        let is_own = ["Node", "Port", "Route"].iter().any(|kind| before.ends_with(kind));
        let (name, _) = after.split_once('/').filter(|_| is_own)?;
        TrustDomain::parse(name).ok()
    })
}

/// The Cedar of a policy or boundary.
fn cedar_of(resource: &Resource) -> Option<(Mode, &str)> {
    match &resource.spec {
        // What follows a template is known to the control plane alone.
        Some(Spec::Policy(policy)) if policy.template.is_none() => Some((Mode::Enforce, &policy.cedar)),
        Some(Spec::Boundary(boundary)) => Some((Mode::Boundary, &boundary.cedar)),
        _ => None,
    }
}

fn policy_problems(resource: &Resource, trust_domain: &TrustDomain) -> Vec<String> {
    let (Ok(mesh), Ok(name)) = (Name::parse(&resource.mesh), Name::parse(&resource.name)) else {
        return Vec::new();
    };
    let problems = match &resource.spec {
        Some(Spec::PolicyTemplate(template)) => {
            PolicyTemplate::parse(mesh, trust_domain, &template.cedar).err()
        }
        _ => cedar_of(resource)
            .and_then(|(mode, cedar)| PolicyDocument::parse(mesh, trust_domain, name, mode, cedar).err()),
    };
    problems
        .unwrap_or_default()
        .into_iter()
        .map(|problem| {
            let help = problem.help.map(|help| format!(" ({help})")).unwrap_or_default();
            format!("{}:{}+{}: {}{help}", problem.line, problem.column, problem.length, problem.message)
        })
        .collect()
}

/// Sends everything as one transaction. The answer tells of all that is created or changed how it is then; of what is
/// changed it may lack how it was.
///
/// # Errors
/// What the control plane finds wrong, shown in the files.
pub(crate) async fn send(
    session: &Session,
    documents: Documents,
    validate_only: bool,
) -> Result<ApplyResponse, CommandError> {
    let sent: Vec<Resource> = documents.resources().cloned().collect();
    let request = ApplyRequest { resources: sent.clone(), validate_only };
    match session.resources().apply(request).await {
        Ok(answer) => {
            let mut answer = answer.into_inner();
            left_out::put_back(&sent, &mut answer);
            Ok(answer)
        }
        Err(status) => Err(located(&documents, status)),
    }
}

/// An answer of the control plane, with what is wrong shown in the files.
pub(crate) fn located(documents: &Documents, status: Status) -> CommandError {
    let Some(request) = status.get_details_bad_request() else { return status.into() };
    let violations =
        request.field_violations.into_iter().map(|violation| (violation.field, violation.description));
    match documents.locate(violations.collect()) {
        (Some(problems), elsewhere) => {
            for line in elsewhere {
                output::note(line);
            }
            CommandError::Wrong(problems)
        }
        (None, _) => status.into(),
    }
}

/// Shows warnings and what comes next, and waits where that was asked for.
///
/// # Errors
/// Not enforced in time.
pub(crate) async fn finish(
    session: &Session,
    answer: &ApplyResponse,
    validate_only: bool,
    timeout: Option<std::time::Duration>,
) -> Result<(), CommandError> {
    let begun = Instant::now();
    tell_warnings(&answer.warnings);
    let changed = answer.resources.iter().any(|applied| applied.outcome() != Outcome::Unchanged);
    if validate_only {
        return Ok(());
    }
    let Some(patience) = timeout else {
        return until_enforced(session, answer.revision, changed, timeout).await;
    };
    // What is waited for is that users are let in, and the keys by which they are come after the resource.
    let is_later = issuer_keys::fetch_first(session, answer, patience).await;
    let revision = if is_later { 0 } else { answer.revision };
    // Fetching them takes of the time that there is.
    wait::until_enforced(session, revision, "", (begun, patience)).await
}

/// Shows what a person should know.
pub(crate) fn tell_warnings(warnings: &[String]) {
    for warning in warnings {
        output::note(format_args!("{} {}", "warning:".yellow().bold(), output::printable(warning)));
    }
}

/// Waits for a revision where that was asked for; says otherwise how to, where anything has changed.
///
/// # Errors
/// Not enforced in time.
pub(crate) async fn until_enforced(
    session: &Session,
    revision: u64,
    changed: bool,
    timeout: Option<std::time::Duration>,
) -> Result<(), CommandError> {
    match timeout {
        Some(timeout) => wait::until_enforced(session, revision, "", (Instant::now(), timeout)).await,
        None if changed => {
            let of_context = session.of_context();
            output::note(format_args!(
                "revision {revision}; until all agents enforce it: hauberk wait --revision {revision}{of_context}"
            ));
            Ok(())
        }
        None => Ok(()),
    }
}

/// `created`, `configured`, `unchanged`.
pub(crate) fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Created => "created",
        Outcome::Configured => "configured",
        Outcome::Unchanged => "unchanged",
        Outcome::Deleted => "deleted",
        Outcome::Unspecified => "applied",
    }
}

#[cfg(test)]
mod tests {
    use hauberk_proto::mesh::v1::PolicySpec;

    use super::*;

    #[test]
    fn a_full_id_tells_the_trust_domain() {
        let told = |cedar: &str| {
            let policy = PolicySpec { cedar: cedar.to_owned(), ..PolicySpec::default() };
            let resource = Resource {
                mesh: "shop".to_owned(),
                name: "p".to_owned(),
                spec: Some(Spec::Policy(policy)),
                ..Resource::default()
            };
            own_trust_domain(&resource)
                .map(|domain| (domain.to_string(), policy_problems(&resource, &domain)))
        };
        let partner = "principal == Workload::\"spiffe://partner.example/app\"";
        let own = "principal == Node::\"spiffe://shop.example/mesh/bank/node/web\"";
        let both = format!("permit({partner}, action, resource);\npermit({own}, action, resource);");
        assert_eq!(told(&both), Some(("shop.example".to_owned(), Vec::new())));
        assert_eq!(told(&format!("permit({partner}, action, resource);")), None);
        assert_eq!(told("permit(principal == Node::\"web\", action, resource);"), None);
    }
}
