//! `hauberk token`

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use hauberk_identity::NodeName;
use hauberk_policy::shell_quote;
use hauberk_proto::admin::v1 as api;
use hauberk_proto::mesh::v1::{Kind, resource::Spec};

use crate::arguments::{Global, TextFormat, Token, TokenCreate, Uses};
use crate::clock;
use crate::commands::get;
use crate::context::write_private;
use crate::documents::{Tree, to_json};
use crate::error::CommandError;
use crate::output;
use crate::session::Session;
use crate::times;

/// Where the printed command expects the token.
const TOKEN_FILE: &str = "join-token";

/// Where the printed command has the app, to be filled in.
const APP: &str = ",app=127.0.0.1:PORT";

/// Runs the command.
///
/// # Errors
/// There is no such node or token, or what the control plane answers.
pub(crate) async fn run(global: &Global, command: Token) -> Result<(), CommandError> {
    let session = Session::open(global).await?;
    match command {
        Token::Create(arguments) => create(&session, arguments).await,
        Token::List { output } => {
            get::tokens(&session, output, session.named_mesh().unwrap_or_default(), None).await
        }
        Token::Delete { id } => {
            session.identities().delete_token(api::DeleteTokenRequest { id: id.clone() }).await?;
            output::line(format_args!("token/{id} deleted"))
        }
    }
}

/// What stands behind a pinned root that names no trust domain.
pub(crate) fn of_trust_domain(unnamed: &str) -> String {
    if unnamed.is_empty() { String::new() } else { format!(" --trust-domain {unnamed}") }
}

async fn create(session: &Session, arguments: TokenCreate) -> Result<(), CommandError> {
    let made = Made::ask(session, &arguments).await?;
    if let Some(path) = &arguments.out {
        write_private(path, format!("{}\n", made.token).as_bytes())
            .map_err(|error| CommandError::failed(format!("cannot write {}: {error}", path.display())))?;
    }
    if arguments.output == TextFormat::Json {
        return output::raw(&to_json(&made.tree(arguments.out.is_none())));
    }
    made.show(&arguments)
}

/// A token, and what becomes of its bearers.
struct Made {
    mesh: String,
    /// As the API writes it.
    node: String,
    token: String,
    record: api::Token,
    root_fingerprint: String,
    trust_domain: String,
    /// How an agent is started with it, its listeners left aside.
    command: String,
    /// The ports of its listeners.
    listeners: Vec<u32>,
    /// The agent listens where its app would, unless that is told to listen elsewhere.
    is_beside_app: bool,
}

impl Made {
    /// Has the control plane make it.
    async fn ask(session: &Session, arguments: &TokenCreate) -> Result<Self, CommandError> {
        let mesh = session.mesh().await?;
        let labels = labels(&arguments.labels)?;
        let node = match (&arguments.node, &arguments.gateway, &arguments.enrollment) {
            (Some(node), ..) => session.get(Kind::VirtualNode, &mesh, node).await.map(|_| node.clone())?,
            (None, Some(gateway), _) => session
                .get(Kind::VirtualGateway, &mesh, gateway)
                .await
                .map(|_| format!("gateway/{gateway}"))?,
            (None, None, name) => {
                let name = name.as_deref().unwrap_or_default();
                session.get(Kind::Enrollment, &mesh, name).await.map(|_| String::new())?
            }
        };
        // Before the token is made: one whose secret is never shown would be of no use.
        let status = session.system().get_status(api::GetStatusRequest {}).await?.into_inner();
        let (uses, unlimited) = match arguments.uses {
            Uses::Times(times) => (times, false),
            Uses::Unlimited => (0, true),
        };
        let request = api::CreateTokenRequest {
            mesh: mesh.clone(),
            node: node.clone(),
            ttl_seconds: u32::try_from(arguments.ttl.as_secs()).unwrap_or(u32::MAX),
            uses,
            unlimited,
            enrollment: arguments.enrollment.clone().unwrap_or_default(),
            labels,
        };
        let answer = session.identities().create_token(request).await?.into_inner();
        let api::CreateTokenResponse { token, record, root_fingerprint, trust_domain, node: made } = answer;
        // Control planes of an earlier release do not tell.
        let node = if made.is_empty() { node } else { made };
        let file =
            arguments.out.as_ref().map_or_else(|| TOKEN_FILE.to_owned(), |path| path.display().to_string());
        let agent_api = agent_api(&status, &session.context.server);
        let command = format!(
            "hauberk-agent run --control-plane {agent_api} --root-fingerprint {root_fingerprint}{} --join-token-file {}",
            of_trust_domain(&trust_domain),
            shell_quote(&file)
        );
        let (listeners, is_beside_app) = (ports(session, &mesh, &node).await, is_on_loopback(&agent_api));
        let record = record.unwrap_or_default();
        Ok(Self {
            mesh,
            node,
            token,
            record,
            root_fingerprint,
            trust_domain,
            command,
            listeners,
            is_beside_app,
        })
    }

    /// The whole command, with this behind the port of each listener.
    fn command(&self, app: &str) -> String {
        let listeners = self.listeners.iter().map(|port| format!(" --listener {port}{app}"));
        format!("{}{}", self.command, listeners.collect::<String>())
    }

    /// For programs; with the secret where that is nowhere else.
    fn tree(&self, with_token: bool) -> Tree {
        let mut entries = vec![
            ("id", Tree::text(&self.record.id)),
            ("mesh", Tree::text(&self.mesh)),
            ("node", Tree::text(&self.node)),
            ("rootFingerprint", Tree::text(&self.root_fingerprint)),
            // Nobody fills anything in there: where the agent is beside its app, any free port is its own.
            (
                "command",
                Tree::text(self.command(if self.is_beside_app { ",inbound=127.0.0.1:0" } else { "" })),
            ),
        ];
        if !self.record.enrollment.is_empty() {
            let labels = sorted(&self.record.labels).map(|(name, value)| (name.as_str(), Tree::text(value)));
            entries.push(("enrollment", Tree::text(&self.record.enrollment)));
            entries.push(("labels", Tree::map(labels.collect::<Vec<_>>())));
        }
        if !self.trust_domain.is_empty() {
            entries.push(("trustDomain", Tree::text(&self.trust_domain)));
        }
        if with_token {
            entries.push(("token", Tree::text(&self.token)));
        }
        Tree::map(entries)
    }

    fn show(&self, arguments: &TokenCreate) -> Result<(), CommandError> {
        match &arguments.out {
            Some(path) => output::note(format_args!("the token is in {}", path.display())),
            None => output::line(&self.token)?,
        }
        let times = match arguments.uses {
            Uses::Times(1) => "once".to_owned(),
            Uses::Times(times) => format!("{times} times"),
            Uses::Unlimited => "any number of times".to_owned(),
        };
        let by = match self.record.enrollment.as_str() {
            "" => String::new(),
            name => format!(" by enrollment {name} as it is now"),
        };
        output::note(format_args!(
            "token {} makes agents {} of mesh {}{by}, {times}, and expires {}; it is shown only now",
            self.record.id,
            NodeName::parse(&self.node).map_or_else(|_| self.node.clone(), |named| named.in_words()),
            self.mesh,
            times::until(self.record.expires_at.as_ref(), clock::now())
        ));
        if arguments.out.is_none() {
            output::note(format_args!(
                "put it into a file of mode 0600, {TOKEN_FILE} say, on the node; then there:"
            ));
        }
        let app = if self.is_beside_app { APP } else { "" };
        output::note(format_args!("  {}", self.command(app)));
        if self.is_beside_app && !self.listeners.is_empty() {
            output::note(
                "PORT is where the app listens: on one host with the control plane the agent takes the listener's own number. A \
                 second agent of the host needs --state-dir, --outbound, --admin and --health of its own",
            );
        }
        Ok(())
    }
}

/// The ports of a node, as its agent is told of them. Where they cannot be had nothing is lost but these words.
async fn ports(session: &Session, mesh: &str, node: &str) -> Vec<u32> {
    let node = match NodeName::parse(node) {
        Ok(NodeName::Node(name)) => session.get(Kind::VirtualNode, mesh, name.as_str()).await.ok(),
        Ok(NodeName::Gateway(_)) | Err(_) => None,
    };
    match node.and_then(|node| node.spec) {
        Some(Spec::VirtualNode(spec)) => {
            spec.listeners.iter().filter_map(|listener| listener.port_mapping.as_ref()?.port).collect()
        }
        _ => Vec::new(),
    }
}

/// One name has one value.
fn labels(given: &[(String, String)]) -> Result<HashMap<String, String>, CommandError> {
    let mut labels = HashMap::with_capacity(given.len());
    for (name, value) in given {
        if let Some(other) = labels.insert(name.clone(), value.clone()) {
            let message = format!("--label {name:?} is given twice: {other:?} and {value:?}");
            return Err(CommandError::Usage(message));
        }
    }
    Ok(labels)
}

/// In the order of their names.
pub(crate) fn sorted(labels: &HashMap<String, String>) -> impl Iterator<Item = (&String, &String)> {
    labels.iter().collect::<BTreeMap<_, _>>().into_iter()
}

/// Where agents reach the control plane: as it says itself, else on the host that this context reaches it on.
fn agent_api(status: &api::GetStatusResponse, admin_server: &str) -> String {
    let port = status.agent_port;
    match status.agent_host.as_str() {
        "" => {
            let host = admin_server.rsplit_once(':').map_or(admin_server, |(host, _)| host);
            format!("{host}:{port}")
        }
        ipv6 if ipv6.contains(':') => format!("[{ipv6}]:{port}"),
        host => format!("{host}:{port}"),
    }
}

/// Whether agents that are sent there are on the control plane's own host, and advertise the loopback.
fn is_on_loopback(agent_api: &str) -> bool {
    let host = agent_api.rsplit_once(':').map_or(agent_api, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_beside_the_control_plane_are_told_of_their_apps_port() {
        for (agent_api, is_loopback) in [
            ("127.0.0.1:7443", true),
            ("[::1]:7443", true),
            ("localhost:7443", true),
            ("10.0.0.1:7443", false),
            ("cp.shop.example:7443", false),
        ] {
            assert_eq!(is_on_loopback(agent_api), is_loopback, "{agent_api}");
        }
    }

    #[test]
    fn programs_are_given_a_command_without_anything_to_fill_in() {
        let made = Made {
            mesh: "shop".to_owned(),
            node: "orders".to_owned(),
            token: "secret".to_owned(),
            record: api::Token::default(),
            root_fingerprint: "ab".to_owned(),
            trust_domain: String::new(),
            command: "hauberk-agent run".to_owned(),
            listeners: vec![8080, 9090],
            is_beside_app: true,
        };
        let told = to_json(&made.tree(true));
        assert!(told.contains("\"hauberk-agent run --listener 8080,inbound=127.0.0.1:0 --listener 9090,inbound=127.0.0.1:0\""), "{told}");
        let for_people =
            "hauberk-agent run --listener 8080,app=127.0.0.1:PORT --listener 9090,app=127.0.0.1:PORT";
        assert_eq!(made.command(APP), for_people);
    }

    #[test]
    fn agents_are_sent_to_their_own_port() {
        let told = |host: &str, server: &str| {
            let status = api::GetStatusResponse {
                agent_host: host.to_owned(),
                agent_port: 1443,
                ..Default::default()
            };
            agent_api(&status, server)
        };
        assert_eq!(told("cp.shop.example", "127.0.0.1:7444"), "cp.shop.example:1443");
        assert_eq!(told("2001:db8::7", "127.0.0.1:7444"), "[2001:db8::7]:1443");
        assert_eq!(told("", "127.0.0.1:7444"), "127.0.0.1:1443");
        assert_eq!(told("", "[::1]:7444"), "[::1]:1443");
    }
}
