//! `hauberk allow` and `hauberk deny`

use hauberk_identity::Name;
use hauberk_policy::{Access, Grant, GrantCaller, GrantTarget, PathPattern, Verb};
use hauberk_proto::admin::v1::ApplyRequest;
use hauberk_proto::mesh::v1::{Kind, PolicySpec, Resource, resource::Spec};
use hauberk_tls::Fingerprint;

use crate::arguments::{Global, Grant as Arguments};
use crate::commands::{apply, served, still_denied};
use crate::error::CommandError;
use crate::kinds;
use crate::nearest::suggestion;
use crate::output;
use crate::session::Session;

/// Runs either command.
///
/// # Errors
/// Caller or target do not exist, or what the control plane answers.
pub(crate) async fn run(global: &Global, verb: Verb, arguments: Arguments) -> Result<(), CommandError> {
    let session = Session::open(global).await?;
    let mesh = session.mesh().await?;
    let target = target(&session, &mesh, &arguments.target).await?;
    let callers = callers(&session, &mesh, &arguments.callers).await?;
    let grant = Grant { callers, target, port: arguments.port, access: access(&arguments)? };
    served::check(&grant, &arguments.target, &served::ports(&session, &mesh, &grant.target).await?)?;
    let cedar = grant.to_cedar(verb).map_err(usage)?;
    let description = Some(grant.command(verb));
    let policy = PolicySpec { cedar: cedar.clone(), description, ..PolicySpec::default() };
    let (name, exists) = free_name(&session, &mesh, grant.name(verb), &policy).await?;
    output::note(format_args!("policy {name} of mesh {mesh}:"));
    output::raw(&cedar)?;
    if exists {
        output::note("it stands already; nothing was changed");
        // Whoever asks again may do so because it was not enforced in time. A dry run waits for nothing.
        let patience = arguments.wait.filter(|_| !arguments.dry_run);
        let enforced = apply::until_enforced(&session, 0, false, patience).await;
        if verb == Verb::Allow {
            still_denied::warn(&session, &mesh, &grant, &arguments.target).await;
        }
        return enforced;
    }
    let resource = Resource {
        mesh: mesh.clone(),
        name: name.clone(),
        spec: Some(Spec::Policy(policy)),
        ..Resource::default()
    };
    let request = ApplyRequest { resources: vec![resource], validate_only: arguments.dry_run };
    let answer = session.resources().apply(request).await?.into_inner();
    if arguments.dry_run {
        output::note("dry run: nothing was changed");
    } else {
        for applied in &answer.resources {
            output::note(format_args!("policy/{name} {}", apply::outcome_word(applied.outcome())));
        }
        let of_mesh = global.mesh.as_ref().map(|mesh| format!(" --mesh {mesh}")).unwrap_or_default();
        let of_context = session.of_context();
        output::note(format_args!("undo: hauberk delete policy {name}{of_mesh}{of_context}"));
    }
    let finished = apply::finish(&session, &answer, arguments.dry_run, arguments.wait).await;
    // After what was waited for, so that nobody takes "enforced" for "let through".
    if verb == Verb::Allow && !arguments.dry_run {
        still_denied::warn(&session, &mesh, &grant, &arguments.target).await;
    }
    finished
}

/// A virtual service before a virtual node, saying which; or `external/stripe`.
async fn target(session: &Session, mesh: &str, text: &str) -> Result<GrantTarget, CommandError> {
    let (is_external, named) = match text.strip_prefix("external/") {
        Some(named) => (true, named),
        None => (false, text),
    };
    let name =
        Name::parse(named).map_err(|error| CommandError::Usage(format!("target `{text}`: {error}")))?;
    if is_external {
        session.get(Kind::ExternalService, mesh, named).await?;
        return Ok(GrantTarget::External(name));
    }
    if session.find(Kind::VirtualService, mesh, text).await?.is_some() {
        output::note(format_args!("{text} is a virtual service: only the ports that provide it are meant"));
        return Ok(GrantTarget::Service(name));
    }
    if session.find(Kind::VirtualNode, mesh, text).await?.is_some() {
        output::note(format_args!("{text} is a virtual node: all its ports are meant"));
        return Ok(GrantTarget::Node(name));
    }
    let mut others = session.list(Kind::VirtualService, mesh).await?;
    others.extend(session.list(Kind::VirtualNode, mesh).await?);
    if others.is_empty() {
        session.check_mesh(mesh).await?;
    }
    let nearest = suggestion(text, others.iter().map(|other| other.name.as_str()));
    Err(CommandError::failed(format!(
        "there is neither a virtual service nor a virtual node `{text}` in mesh {mesh}{nearest}"
    )))
}

/// Callers, of which those that are nodes or gateways of this mesh must exist: a rule for a misspelt name would never
/// apply.
async fn callers(session: &Session, mesh: &str, texts: &[String]) -> Result<Vec<GrantCaller>, CommandError> {
    let (trust_domain, mesh_name) = session.names(mesh)?;
    let mut callers = Vec::new();
    for text in texts {
        let caller = GrantCaller::parse(text, &trust_domain, &mesh_name).map_err(usage)?;
        match &caller {
            GrantCaller::Node(name) => session.get(Kind::VirtualNode, mesh, name.as_str()).await.map(drop)?,
            GrantCaller::Gateway(name) => {
                session.get(Kind::VirtualGateway, mesh, name.as_str()).await.map(drop)?;
            }
            _ => {}
        }
        callers.push(caller);
    }
    Ok(callers)
}

fn access(arguments: &Arguments) -> Result<Access, CommandError> {
    if let Some(rpc) = &arguments.rpc {
        return Access::rpc(rpc).map_err(usage);
    }
    if arguments.methods.is_empty() && arguments.path.is_none() {
        return Ok(Access::All);
    }
    let path = arguments.path.as_deref().map(PathPattern::parse).transpose().map_err(usage)?;
    let methods = arguments.methods.iter().map(|method| upper_case(method)).collect();
    Ok(Access::Http { methods, path })
}

/// `get` means GET; `upgrade` is a word of its own.
fn upper_case(method: &str) -> String {
    if method == "upgrade" { method.to_owned() } else { method.to_uppercase() }
}

fn usage(error: hauberk_policy::GrantError) -> CommandError {
    CommandError::Usage(error.to_string())
}

/// The policy's name, and whether exactly this policy stands there already. Where another one has the name, a short
/// hash of the content is put behind it.
async fn free_name(
    session: &Session,
    mesh: &str,
    name: String,
    policy: &PolicySpec,
) -> Result<(String, bool), CommandError> {
    let Some(existing) = session.find(Kind::Policy, mesh, &name).await? else { return Ok((name, false)) };
    if is_same(&existing, policy) {
        return Ok((name, true));
    }
    let hash = Fingerprint::of(policy.cedar.as_bytes()).to_string();
    let longer = format!("{name}-{}", hash.get(..6).unwrap_or(&hash));
    output::note(format_args!(
        "another {} is called {name}, so this one is called {longer}",
        kinds::said(Kind::Policy)
    ));
    let exists =
        session.find(Kind::Policy, mesh, &longer).await?.is_some_and(|other| is_same(&other, policy));
    Ok((longer, exists))
}

fn is_same(existing: &Resource, policy: &PolicySpec) -> bool {
    match &existing.spec {
        Some(Spec::Policy(spec)) => {
            spec.cedar == policy.cedar && spec.mode.as_deref().unwrap_or("ENFORCE") == "ENFORCE"
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::arguments::{Arguments as CommandLine, Command};

    fn access_of(line: &str) -> Result<Access, CommandError> {
        match CommandLine::try_parse_from(line.split(' ')).unwrap().command {
            Command::Allow(arguments) => access(&arguments),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn words_become_access() {
        assert_eq!(access_of("hauberk allow web orders").unwrap(), Access::All);
        let http = access_of("hauberk allow web orders --methods get,HEAD --path /orders/*").unwrap();
        let methods = vec!["GET".to_owned(), "HEAD".to_owned()];
        assert_eq!(http, Access::Http { methods, path: Some(PathPattern::parse("/orders/*").unwrap()) });
        let rpc = access_of("hauberk allow web orders --rpc shop.Orders/*").unwrap();
        assert_eq!(rpc, Access::Rpc { service: "shop.Orders".to_owned(), method: None });
        for wrong in ["--rpc Orders", "--path /../x", "--path orders"] {
            let refused = access_of(&format!("hauberk allow web orders {wrong}"));
            assert!(matches!(refused, Err(CommandError::Usage(_))), "{wrong}");
        }
    }

    #[test]
    fn the_same_policy_is_known_again() {
        let policy = PolicySpec {
            cedar: "permit(principal is Node, action, resource);".to_owned(),
            ..Default::default()
        };
        let stored =
            |spec: &PolicySpec| Resource { spec: Some(Spec::Policy(spec.clone())), ..Resource::default() };
        assert!(is_same(&stored(&policy), &policy));
        let audited = PolicySpec { mode: Some("AUDIT".to_owned()), ..policy.clone() };
        assert!(!is_same(&stored(&audited), &policy));
    }
}
