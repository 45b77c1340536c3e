//! What must be there before agents start: resources, join tokens, the bundle.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use clap::Args;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::error::DemoError;
use super::issuer::AUDIENCE;
use super::{MESH, PEOPLE};
use crate::context::{ContextStore, write_private};

/// For whom.
#[derive(Debug, Args)]
pub(crate) struct PrepareArguments {
    /// A virtual node, and the folder that gets its token and the bundle; may be repeated
    #[arg(long = "node", value_name = "NODE=FOLDER", required = true)]
    nodes: Vec<String>,
}

/// How long a token of the demo may be used.
const TOKEN_TTL: &str = "24h";

/// Applies the shop and writes `token` and `bundle.pem` into each folder.
pub(super) async fn run(arguments: &PrepareArguments) -> Result<ExitCode, DemoError> {
    let mut nodes = Vec::new();
    for argument in &arguments.nodes {
        match argument.split_once('=') {
            Some((node, folder)) => nodes.push((node, PathBuf::from(folder))),
            None => return Err(DemoError::NodeArgument(argument.clone())),
        }
    }
    apply(None).await?;
    for (node, folder) in nodes {
        token(None, node, &folder.join("token"), "unlimited").await?;
        bundle(None, &folder.join("bundle.pem"))?;
        println!("{node}: token and bundle in {}", folder.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Applies the shop's resources.
///
/// # Errors
/// The control plane refuses them or cannot be reached.
pub(super) async fn apply(context: Option<&str>) -> Result<(), DemoError> {
    hauberk(context, &["apply", "--filename", "-"], MESH).await.map(drop)
}

/// Says who the shop's people are, and what they may do. Their issuer's keys are in force when this returns.
///
/// # Errors
/// The control plane refuses it, or does not reach the issuer.
pub(super) async fn people(context: Option<&str>, issuer: &str) -> Result<(), DemoError> {
    let resources = format!(
        "kind: JwtIssuer\nmesh: shop\nname: login\nspec: {{issuer: '{issuer}', audiences: [{AUDIENCE}], \
         allowPrivateAddresses: true}}\n---\n{PEOPLE}"
    );
    hauberk(context, &["apply", "--filename", "-"], &resources).await?;
    hauberk(context, &["bundle", "refresh", "--issuer", "login", "--mesh", "shop"], "").await.map(drop)
}

/// Writes a join token for a node into a file that only its owner can read.
///
/// # Errors
/// The control plane refuses it, or the file cannot be written.
pub(super) async fn token(
    context: Option<&str>,
    node: &str,
    file: &Path,
    uses: &str,
) -> Result<(), DemoError> {
    let created = ["token", "create", "--node", node, "--mesh", "shop", "--ttl", TOKEN_TTL, "--uses", uses];
    let token = hauberk(context, &created, "").await?;
    write_private(file, token.as_bytes()).map_err(cannot_write(file))
}

/// Writes the mesh's roots into a file.
///
/// # Errors
/// There is no context, or the file cannot be written.
pub(super) fn bundle(context: Option<&str>, file: &Path) -> Result<(), DemoError> {
    let (_, context) = ContextStore::of_user()?.select(context)?;
    std::fs::write(file, context.bundle_pem).map_err(cannot_write(file))
}

fn cannot_write(file: &Path) -> impl FnOnce(io::Error) -> DemoError {
    DemoError::io(format!("cannot write {}", file.display()))
}

/// Runs this very program, as a person would, and gives its standard output.
///
/// # Errors
/// It does not start, or fails; then its words are the error.
pub(super) async fn hauberk(
    context: Option<&str>,
    arguments: &[&str],
    input: &str,
) -> Result<String, DemoError> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if let Some(context) = context {
        command.args(["--context", context]);
    }
    let mut child = command.spawn().map_err(DemoError::io("hauberk does not start"))?;
    if let Some(mut pipe) = child.stdin.take() {
        // A command that fails before it has read everything says why itself.
        drop(pipe.write_all(input.as_bytes()).await);
    }
    let output = child.wait_with_output().await?;
    if !output.status.success() {
        let command = format!("hauberk {}", arguments.join(" "));
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(DemoError::Command { command, said });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
