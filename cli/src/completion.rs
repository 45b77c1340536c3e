//! Completion scripts, and the live names that they ask for.

use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::{EnvCompleter, Shells};
use hauberk_proto::mesh::v1::Kind;

use crate::arguments::{Arguments, Color, Completion, Global, Shell};
use crate::context::ContextStore;
use crate::error::CommandError;
use crate::kinds;
use crate::output;
use crate::session::Session;

/// The variable by which the shell asks the program for candidates.
pub(crate) const VARIABLE: &str = "COMPLETE";
/// A person waits for these.
const PATIENCE: Duration = Duration::from_millis(800);

/// `hauberk completion SHELL`
///
/// # Errors
/// The output cannot be written.
pub(crate) fn print(arguments: &Completion) -> Result<(), CommandError> {
    let shell = match arguments.shell {
        Shell::Bash => "bash",
        Shell::Zsh => "zsh",
        Shell::Fish => "fish",
    };
    let mut script = Vec::new();
    let name = Arguments::command().get_name().to_owned();
    let shells = Shells::builtins();
    let completer: &dyn EnvCompleter =
        shells.completer(shell).ok_or_else(|| CommandError::failed(format!("{shell} is not supported")))?;
    completer
        .write_registration(VARIABLE, &name, &name, &own_path(), &mut script)
        .map_err(CommandError::Output)?;
    output::raw(&String::from_utf8_lossy(&script))
}

fn own_path() -> String {
    // As it was called where that was by name, so that the script outlives an upgrade.
    match std::env::args().next() {
        Some(called) if !called.contains('/') => called,
        called => std::env::current_exe()
            .ok()
            .map(|path| path.display().to_string())
            .or(called)
            .unwrap_or_else(|| "hauberk".to_owned()),
    }
}

/// The contexts of this user.
pub(crate) fn context_names() -> Vec<CompletionCandidate> {
    let contexts = ContextStore::of_user().and_then(|store| store.load()).unwrap_or_default();
    contexts.contexts.into_keys().map(CompletionCandidate::new).collect()
}

/// The kinds that `get` knows.
pub(crate) fn kind_words() -> Vec<CompletionCandidate> {
    kinds::every_word().map(CompletionCandidate::new).collect()
}

/// The kinds of resources.
pub(crate) fn resource_words() -> Vec<CompletionCandidate> {
    kinds::RESOURCES.iter().filter_map(|name| name.said.first()).map(CompletionCandidate::new).collect()
}

/// The virtual nodes that there are.
pub(crate) fn node_names() -> Vec<CompletionCandidate> {
    live_names(&[Kind::VirtualNode])
}

/// The virtual gateways that there are.
pub(crate) fn gateway_names() -> Vec<CompletionCandidate> {
    live_names(&[Kind::VirtualGateway])
}

/// Who may call: the virtual nodes, and the virtual gateways as `gateway/NAME`.
pub(crate) fn caller_names() -> Vec<CompletionCandidate> {
    live_names(&[Kind::VirtualNode, Kind::VirtualGateway])
}

/// What the word before on the command line asks for: names of that kind, else services and nodes.
pub(crate) fn target_names() -> Vec<CompletionCandidate> {
    let kind = std::env::args().rev().find_map(|word| kinds::resource_kind(&word).ok());
    match kind {
        Some(kind) => live_names(&[kind]),
        None => live_names(&[Kind::VirtualService, Kind::VirtualNode]),
    }
}

/// Asks the control plane; what cannot be asked in time is not completed.
fn live_names(kinds: &[Kind]) -> Vec<CompletionCandidate> {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    let names = runtime.block_on(async { tokio::time::timeout(PATIENCE, ask_names(kinds)).await });
    let names = names.ok().flatten().unwrap_or_default();
    names.into_iter().map(CompletionCandidate::new).collect()
}

async fn ask_names(kinds: &[Kind]) -> Option<Vec<String>> {
    let session = Session::open(&global()).await.ok()?;
    let mesh = session.named_mesh().unwrap_or_default().to_owned();
    let mut names = Vec::new();
    for kind in kinds {
        let found = session.list(*kind, &mesh).await.ok()?;
        names.extend(found.into_iter().map(|resource| written(*kind, kinds, resource.name)));
    }
    names.sort();
    names.dedup();
    Some(names)
}

/// How one of these kinds is written: where nodes are meant too, a gateway is told from a node of its name.
fn written(kind: Kind, beside: &[Kind], name: String) -> String {
    match kind {
        Kind::VirtualGateway if beside.contains(&Kind::VirtualNode) => format!("gateway/{name}"),
        _ => name,
    }
}

/// The global options of the unfinished command line, as far as it can be read.
fn global() -> Global {
    let words = std::env::args().skip_while(|word| word != "--").skip(1);
    match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments.global,
        Err(_) => Global {
            context: std::env::var("HAUBERK_CONTEXT").ok(),
            mesh: std::env::var("HAUBERK_MESH").ok(),
            is_mesh_of_variable: true,
            color: Color::Never,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_are_told_from_nodes_where_both_are_meant() {
        let both = [Kind::VirtualNode, Kind::VirtualGateway];
        let edge = || "edge".to_owned();
        assert_eq!(written(Kind::VirtualGateway, &both, edge()), "gateway/edge");
        assert_eq!(written(Kind::VirtualNode, &both, edge()), "edge");
        assert_eq!(written(Kind::VirtualGateway, &[Kind::VirtualGateway], edge()), "edge");
    }
}
