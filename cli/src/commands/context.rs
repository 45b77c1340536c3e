//! `hauberk context`

use crate::arguments::{ContextCommand, Global};
use crate::clock;
use crate::commands::rows;
use crate::context::{ContextError, ContextStore};
use crate::error::CommandError;
use crate::output;

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
