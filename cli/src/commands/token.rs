//! `hauberk token`

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

/// The port of the agents' API where nobody chose another.
const AGENT_PORT: u16 = 7443;
/// Where the printed command expects the token.
const TOKEN_FILE: &str = "join-token";

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

async fn create(session: &Session, arguments: TokenCreate) -> Result<(), CommandError> {
    let mesh = session.mesh().await?;
    let node = session.get(Kind::VirtualNode, &mesh, &arguments.node).await?;
    let (uses, unlimited) = match arguments.uses {
        Uses::Times(times) => (times, false),
        Uses::Unlimited => (0, true),
    };
    let request = api::CreateTokenRequest {
        mesh: mesh.clone(),
        node: arguments.node.clone(),
        ttl_seconds: u32::try_from(arguments.ttl.as_secs()).unwrap_or(u32::MAX),
        uses,
        unlimited,
    };
    let answer = session.identities().create_token(request).await?.into_inner();
    let record = answer.record.unwrap_or_default();
    let listeners: String = match &node.spec {
        Some(Spec::VirtualNode(spec)) => spec
            .listeners
            .iter()
            .filter_map(|listener| listener.port_mapping.as_ref()?.port)
            .map(|port| format!(" --listener {port}"))
            .collect(),
        _ => String::new(),
    };
    let file =
        arguments.out.as_ref().map_or_else(|| TOKEN_FILE.to_owned(), |path| path.display().to_string());
    if let Some(path) = &arguments.out {
        write_private(path, format!("{}\n", answer.token).as_bytes())
            .map_err(|error| CommandError::failed(format!("cannot write {file}: {error}")))?;
    }
    let host =
        session.context.server.rsplit_once(':').map_or(session.context.server.as_str(), |(host, _)| host);
    let agent = format!(
        "hauberk-agent run --control-plane {host}:{AGENT_PORT} --root-fingerprint {} --join-token-file {file}{listeners}",
        answer.root_fingerprint
    );
    if arguments.output == TextFormat::Json {
        let mut entries = vec![
            ("id", Tree::text(&record.id)),
            ("mesh", Tree::text(&mesh)),
            ("node", Tree::text(&arguments.node)),
            ("rootFingerprint", Tree::text(&answer.root_fingerprint)),
            ("command", Tree::text(&agent)),
        ];
        if arguments.out.is_none() {
            entries.push(("token", Tree::text(&answer.token)));
        }
        return output::raw(&to_json(&Tree::map(entries)));
    }
    match &arguments.out {
        Some(_) => output::note(format_args!("the token is in {file}")),
        None => output::line(&answer.token)?,
    }
    let now = clock::now();
    let times = match arguments.uses {
        Uses::Times(1) => "once".to_owned(),
        Uses::Times(times) => format!("{times} times"),
        Uses::Unlimited => "any number of times".to_owned(),
    };
    output::note(format_args!(
        "token {} makes agents virtual node {} of mesh {mesh}, {times}, and expires {}; it is shown only now",
        record.id,
        arguments.node,
        times::until(record.expires_at.as_ref(), now)
    ));
    if arguments.out.is_none() {
        output::note(format_args!(
            "put it into a file of mode 0600, {TOKEN_FILE} say, on the node; then there:"
        ));
    }
    output::note(format_args!("  {agent}"));
    Ok(())
}
