//! `hauberk check`: what is wrong with the installation, and what to do about it.

mod instance;

use std::time::Duration;

use hauberk_identity::UnixMillis;
use hauberk_proto::admin::v1 as api;
use hauberk_proto::mesh::v1::{Kind, Resource, resource::Spec};
use owo_colors::OwoColorize as _;

use crate::arguments::{Check, Global, TextFormat};
use crate::client;
use crate::clock;
use crate::commands::rows::left;
use crate::context::{ContextStore, Credential};
use crate::documents::{Tree, to_json};
use crate::error::CommandError;
use crate::output;
use crate::session::Session;
use crate::times::{instant, short};

/// More than this and certificates seem not yet valid, or expired.
const MAX_SKEW: Duration = Duration::from_secs(30);
/// When to begin to think of the authorities' successors.
const AUTHORITY_WARNING: Duration = Duration::from_secs(30 * 86_400);
/// The control plane renews its certificate at half of 24 h.
const SERVER_WARNING: Duration = Duration::from_secs(3600);

/// The group of what is told of instances.
const AGENTS: &str = "agents";

/// How one thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Good,
    Warning,
    Bad,
}

/// One thing that was looked at.
#[derive(Debug)]
struct Finding {
    group: &'static str,
    level: Level,
    summary: String,
    fix: String,
}

/// Runs the command.
///
/// # Errors
/// `Exit(1)` where something is wrong.
pub(crate) async fn run(global: &Global, arguments: Check) -> Result<(), CommandError> {
    let mut report = Report::default();
    look(global, &mut report).await;
    let findings = report.0;
    match arguments.output {
        TextFormat::Text => show(&findings)?,
        TextFormat::Json => output::raw(&to_json(&Tree::List(findings.iter().map(tree).collect())))?,
    }
    if findings.iter().any(|finding| finding.level == Level::Bad) {
        Err(CommandError::Exit(1))
    } else {
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Report(Vec<Finding>);

impl Report {
    fn good(&mut self, group: &'static str, summary: impl Into<String>) {
        self.add(group, Level::Good, summary.into(), String::new());
    }

    fn warning(&mut self, group: &'static str, summary: impl Into<String>, fix: impl Into<String>) {
        self.add(group, Level::Warning, summary.into(), fix.into());
    }

    fn bad(&mut self, group: &'static str, summary: impl Into<String>, fix: impl Into<String>) {
        self.add(group, Level::Bad, summary.into(), fix.into());
    }

    fn add(&mut self, group: &'static str, level: Level, summary: String, fix: String) {
        self.0.push(Finding { group, level, summary, fix });
    }
}

/// Looks at everything that can be reached; what cannot be reached ends the look.
async fn look(global: &Global, report: &mut Report) {
    const CONTEXT: &str = "context";
    const CONTROL_PLANE: &str = "control plane";
    let now = clock::now();
    let selected = ContextStore::of_user().and_then(|store| store.select(global.context.as_deref()));
    let (name, context) = match selected {
        Ok(selected) => selected,
        Err(error) => return report.bad(CONTEXT, error.to_string(), error.help().join("\n")),
    };
    report.good(CONTEXT, format!("{name}: {} as {}", context.server, context.admin));
    let credential = match Credential::of(&name, &context, now) {
        Ok(credential) => credential,
        Err(error) => return report.bad(CONTEXT, error.to_string(), error.help().join("\n")),
    };
    let ends = credential.svid.validity().not_after();
    report.good(CONTEXT, format!("the credential is valid for {}, and renewed by use", left(ends, now)));
    if let Err(error) = client::connect(&context.server, &credential).await {
        return report.bad(CONTROL_PLANE, error.to_string(), error.help().join("\n"));
    }
    let session = match Session::open(global).await {
        Ok(session) => session,
        Err(error) => return report.bad(CONTROL_PLANE, error.to_string(), ""),
    };
    report.good(
        CONTROL_PLANE,
        format!("reachable at {}, trust domain {}", context.server, context.trust_domain),
    );
    let asked = clock::now();
    let status = match session.system().get_status(api::GetStatusRequest {}).await {
        Ok(answer) => answer.into_inner(),
        Err(error) => {
            return report.bad(
                CONTROL_PLANE,
                error.message().to_owned(),
                "is it of the same version as this?",
            );
        }
    };
    let heard = clock::now();
    control_plane(report, &status, (asked, heard), session.of_context());
    if let Err(error) = mesh(report, &session, &status.findings, global).await {
        report.bad("mesh", error.to_string(), "");
    }
    for finding in status.findings {
        let level = match finding.severity() {
            api::Severity::Error => Level::Bad,
            api::Severity::Warning | api::Severity::Unspecified => Level::Warning,
            api::Severity::Ok => Level::Good,
        };
        report.add("control plane says", level, finding.summary, finding.fix);
    }
}

fn control_plane(
    report: &mut Report,
    status: &api::GetStatusResponse,
    (asked, heard): (UnixMillis, UnixMillis),
    of_context: &str,
) {
    const GROUP: &str = "control plane";
    let ours = env!("CARGO_PKG_VERSION");
    if status.version == ours {
        report.good(GROUP, format!("version {ours}, as this command line"));
    } else {
        report.warning(
            GROUP,
            format!("it is version {}, this command line {ours}", status.version),
            "use the same version of both",
        );
    }
    if let Some(theirs) = status.now.as_ref().map(instant) {
        let skew = if theirs < asked { asked.since(theirs) } else { theirs.since(heard) };
        if skew > MAX_SKEW {
            let way = if theirs < asked { "behind" } else { "ahead of" };
            report.bad(
                GROUP,
                format!("its clock is {} {way} this machine's", short(skew)),
                "let both machines keep time by NTP",
            );
        } else {
            report.good(GROUP, format!("clocks agree within {} ms", skew.as_millis()));
        }
    }
    if status.store_read_only_reason.is_empty() {
        report.good(GROUP, format!("the store takes writes; revision {}", status.revision));
    } else {
        report.bad(
            GROUP,
            format!("the store takes no writes: {}", status.store_read_only_reason),
            "agents go on meanwhile; what to do is under what the control plane says",
        );
    }
    let of_authorities = format!("hauberk authority list{of_context} says what follows it");
    let certificates = [
        ("root authority", status.root_not_after.as_ref(), AUTHORITY_WARNING, of_authorities.as_str()),
        ("issuing authority", status.issuing_not_after.as_ref(), AUTHORITY_WARNING, of_authorities.as_str()),
        (
            "server certificate",
            status.server_certificate_not_after.as_ref(),
            SERVER_WARNING,
            "it should have been renewed: look at the control plane's log",
        ),
    ];
    for (what, not_after, warn_before, fix) in certificates {
        let Some(not_after) = not_after.map(instant) else { continue };
        if not_after < heard {
            report.bad(
                "certificates",
                format!("the {what} expired {} ago", short(heard.since(not_after))),
                fix,
            );
        } else if not_after.since(heard) < warn_before {
            report.warning("certificates", format!("the {what} expires in {}", left(not_after, heard)), fix);
        } else {
            report.good("certificates", format!("the {what} is valid for {}", left(not_after, heard)));
        }
    }
}

async fn mesh(
    report: &mut Report,
    session: &Session,
    told: &[api::Finding],
    global: &Global,
) -> Result<(), CommandError> {
    let mesh = global.mesh.clone().unwrap_or_default();
    let meshes = session.list(Kind::Mesh, "").await?;
    if meshes.is_empty() {
        report.warning(
            "mesh",
            "there is no mesh yet",
            format!("echo '{{kind: Mesh, name: shop}}' | hauberk apply -f -{}", session.of_context()),
        );
        return Ok(());
    }
    let names: Vec<&str> = meshes.iter().map(|mesh| mesh.name.as_str()).collect();
    report.good("mesh", format!("meshes: {}", names.join(", ")));
    let request = api::ListInstancesRequest { mesh: mesh.clone(), node: String::new() };
    let instances = session.identities().list_instances(request).await?.into_inner().instances;
    if instances.is_empty() {
        session.check_mesh(&mesh).await?;
    }
    let nodes = session.list(Kind::VirtualNode, &mesh).await?;
    audits(report, meshes.iter().chain(&nodes), session.of_context());
    relaxations(report, &nodes);
    nobodys_users(report, &nodes, &session.list(Kind::JwtIssuer, &mesh).await?);
    let connected = instances.iter().filter(|instance| instance.connected).count();
    let count = instances.len();
    if count == 0 {
        report.warning(
            AGENTS,
            "no agent has joined",
            format!("hauberk token create --node NODE{} prints the command for one", session.of_context()),
        );
        return Ok(());
    }
    report.good(AGENTS, format!("{connected} of {count} instances are connected"));
    let now = clock::now();
    for instance in &instances {
        instance::look(report, instance, told, now, session.of_context());
    }
    Ok(())
}

/// What lets default denials through is said loudly.
fn audits<'a>(report: &mut Report, resources: impl Iterator<Item = &'a Resource>, of_context: &str) {
    for resource in resources {
        let loose = |mode: Option<&String>| mode.is_some_and(|mode| mode == "AUDIT");
        let found: Vec<String> = match &resource.spec {
            Some(Spec::MeshSpec(spec)) if loose(spec.authorization.as_ref()) => {
                vec![format!("mesh {}", resource.name)]
            }
            Some(Spec::VirtualNode(spec)) if loose(spec.authorization.as_ref()) => {
                vec![format!("virtual node {}", resource.name)]
            }
            Some(Spec::VirtualNode(spec)) => spec
                .listeners
                .iter()
                .filter(|listener| loose(listener.authorization.as_ref()))
                .map(|listener| {
                    format!("listener {} of {}", crate::commands::rows::listener(listener), resource.name)
                })
                .collect(),
            _ => Vec::new(),
        };
        for what in found {
            report.warning(
                "mesh",
                format!("{what} is in mode AUDIT: what no policy permits is let through"),
                format!(
                    "hauberk tap{of_context} shows what would be denied; then remove `authorization: AUDIT`"
                ),
            );
        }
    }
}

/// What takes requests that servers read in two ways is said loudly.
fn relaxations(report: &mut Report, nodes: &[Resource]) {
    for node in nodes {
        let Some(Spec::VirtualNode(spec)) = &node.spec else { continue };
        for listener in &spec.listeners {
            if listener.path_with_escaped_slashes_action.as_deref() == Some("KEEP_UNCHANGED") {
                let listener = crate::commands::rows::listener(listener);
                report.warning(
                    "mesh",
                    format!("listener {listener} of {} takes paths with escaped slashes (%2F), which servers read in two ways", node.name),
                    "remove `pathWithEscapedSlashesAction: KEEP_UNCHANGED` unless the app needs it; both readings must be permitted",
                );
            }
            if listener.obs_text.as_deref() == Some("FORWARD") {
                let listener = crate::commands::rows::listener(listener);
                report.warning(
                    "mesh",
                    format!("listener {listener} of {} takes header fields with bytes beyond ASCII, which servers read in two ways", node.name),
                    "remove `obsText: FORWARD` unless callers send such fields; better have them encode what they say in ASCII",
                );
            }
        }
    }
}

/// Listeners that take the tokens of users where nobody says who these are.
fn nobodys_users(report: &mut Report, nodes: &[Resource], issuers: &[Resource]) {
    for node in nodes {
        let Some(Spec::VirtualNode(spec)) = &node.spec else { continue };
        if issuers.iter().any(|issuer| issuer.mesh == node.mesh) {
            continue;
        }
        for listener in spec.listeners.iter().filter(|listener| listener.users.is_some()) {
            let listener = crate::commands::rows::listener(listener);
            report.warning(
                "mesh",
                format!(
                    "listener {listener} of {} takes users' tokens, and mesh {} has no JwtIssuer: every token is refused",
                    node.name, node.mesh
                ),
                "apply a JwtIssuer that says whose tokens are taken, or take `users` off the listener",
            );
        }
    }
}

fn show(findings: &[Finding]) -> Result<(), CommandError> {
    let mut group = "";
    for finding in findings {
        if finding.group != group {
            group = finding.group;
            output::line(group.bold())?;
        }
        let sign = match finding.level {
            Level::Good => "✓".green().to_string(),
            Level::Warning => "‼".yellow().to_string(),
            Level::Bad => "✗".red().bold().to_string(),
        };
        output::line(format_args!("  {sign} {}", output::printable(&finding.summary)))?;
        if !finding.fix.is_empty() && finding.level != Level::Good {
            for (index, fix) in finding.fix.lines().enumerate() {
                let margin = if index == 0 { "fix:" } else { " or:" };
                output::line(format_args!("      {margin} {}", output::printable(fix)))?;
            }
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    match (count(Level::Bad), count(Level::Warning)) {
        (0, 0) => output::note("all is well"),
        (0, warnings) => output::note(format_args!("nothing is wrong; {warnings} to look at")),
        (bad, warnings) => output::note(format_args!("{bad} wrong, {warnings} to look at")),
    }
    Ok(())
}

fn tree(finding: &Finding) -> Tree {
    let level = match finding.level {
        Level::Good => "ok",
        Level::Warning => "warning",
        Level::Bad => "error",
    };
    Tree::map([
        ("group", Tree::text(finding.group)),
        ("severity", Tree::text(level)),
        ("summary", Tree::text(&finding.summary)),
        ("fix", Tree::text(&finding.fix)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_mend_it_mean_the_context_that_was_named() {
        let mut report = Report::default();
        let late = api::Instance { connected: true, latest_revision: 2, ..api::Instance::default() };
        instance::look(&mut report, &late, &[], UnixMillis(2), " --context prod");
        let spec = hauberk_proto::mesh::v1::MeshSpec {
            authorization: Some("AUDIT".to_owned()),
            ..Default::default()
        };
        let mesh = Resource { spec: Some(Spec::MeshSpec(spec)), ..Resource::default() };
        audits(&mut report, [&mesh].into_iter(), " --context prod");
        let status = api::GetStatusResponse {
            root_not_after: Some(crate::times::timestamp(UnixMillis(1))),
            ..api::GetStatusResponse::default()
        };
        control_plane(&mut report, &status, (UnixMillis(2), UnixMillis(2)), " --context prod");
        for command in ["get instances -o wide", "tap", "authority list"] {
            let told = format!("hauberk {command} --context prod ");
            assert!(report.0.iter().any(|finding| finding.fix.contains(&told)), "{command}: {report:?}");
        }
    }
}
