//! Which control plane is meant, and with what credential it is called: `contexts.toml`.

mod credential;
mod file;

pub(crate) use credential::{Credential, Renewal, adopt, renew_if_due};
pub(crate) use file::{Context, ContextError, ContextStore, write_private};
