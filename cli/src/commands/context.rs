//! `hauberk context`

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use crate::arguments::{ContextCommand, Global};
use crate::clock;
use crate::commands::rows;
use crate::context::{ContextError, ContextStore, Credential, write_private};
use crate::error::CommandError;
use crate::output;
use crate::times;

/// Runs the command.
///
/// # Errors
/// There is no such context, or the file cannot be changed.
pub(crate) fn run(global: &Global, command: ContextCommand) -> Result<(), CommandError> {
    let store = ContextStore::of_user()?;
    match command {
        ContextCommand::List => list(&store),
        ContextCommand::Use { name } => {
            let (name, context) = store.select(Some(&name))?;
            store.update(|contexts| contexts.current = Some(name.clone()))?;
            output::note(format_args!("commands now go to {} ({})", name, context.server));
            Ok(())
        }
        ContextCommand::Current => output::line(store.select(global.context.as_deref())?.0),
        ContextCommand::Export { dir } => export(&store, global.context.as_deref(), &dir),
        ContextCommand::Delete { name } => {
            let (name, _) = store.select(Some(&name))?;
            store.update(|contexts| {
                contexts.contexts.remove(&name);
                if contexts.current.as_deref() == Some(name.as_str()) {
                    contexts.current = None;
                }
            })?;
            output::line(format_args!("context/{name} deleted"))
        }
    }
}

/// Writes each part of a credential that is still good to a file of its own.
fn export(store: &ContextStore, name: Option<&str>, folder: &Path) -> Result<(), CommandError> {
    let (name, context) = store.select(name)?;
    let now = clock::now();
    let credential = Credential::of(&name, &context, now)?;
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|source| ContextError::Io {
        verb: "make",
        path: folder.to_owned(),
        source,
    })?;
    for (file, text) in [
        ("ca.pem", &context.bundle_pem),
        ("cert.pem", &context.certificate_pem),
        ("key.pem", &context.key_pem),
    ] {
        let path = folder.join(file);
        write_private(&path, text.as_bytes()).map_err(|source| ContextError::Io {
            verb: "write",
            path: path.clone(),
            source,
        })?;
        output::line(path.display())?;
    }
    let left = times::short(credential.svid.validity().not_after().since(now));
    output::note(format_args!(
        "good for {left} at {}; whoever reads key.pem is {}",
        context.server, context.admin
    ));
    output::note("any gRPC client can use them, and learns the API by reflection:");
    let [ca, certificate, key] = ["ca.pem", "cert.pem", "key.pem"].map(|file| folder.join(file));
    output::note(format_args!(
        "  grpcurl -cacert {} -cert {} -key {} {} list",
        ca.display(),
        certificate.display(),
        key.display(),
        context.server
    ));
    Ok(())
}

fn list(store: &ContextStore) -> Result<(), CommandError> {
    let contexts = store.load()?;
    if contexts.contexts.is_empty() {
        return Err(ContextError::None { path: store.path() }.into());
    }
    let now = clock::now();
    let rows = contexts.contexts.iter().map(|(name, context)| {
        let current = contexts.current.as_deref() == Some(name.as_str());
        let ends = hauberk_tls::Svid::from_pem(&context.certificate_pem)
            .map_or_else(|_| "unreadable".to_owned(), |svid| rows::left(svid.validity().not_after(), now));
        vec![
            if current { "*" } else { "" }.to_owned(),
            name.clone(),
            context.server.clone(),
            context.trust_domain.clone(),
            context.admin.clone(),
            ends,
        ]
    });
    output::raw(&output::table(
        &["", "NAME", "SERVER", "TRUST-DOMAIN", "ADMIN", "CREDENTIAL"],
        rows.collect(),
    ))
}
