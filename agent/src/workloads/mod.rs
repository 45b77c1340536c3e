//! Identities for programs beside the agent: the SPIFFE Workload API on a Unix socket.
//!
//! The control plane tells which workloads this node's agents vouch for ([`Entries`]); `Keeper` holds a certificate for
//! each of them; `serve` gives them to programs of which all that an entry asks for is true.

mod api;
mod attest;
mod authority;
mod entry;
pub mod fetch;
mod keeper;
mod matching;
mod process;
mod serve;
mod socket;

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) use entry::read;
pub use entry::{Certified, Entries, Entry};
pub(crate) use keeper::Keeper;
pub use socket::{ApiSocket, SocketError};

use api::Shared;
use serve::{MAX_CONNECTIONS, serve};

/// What the control plane has told of workloads; `None` until it has.
pub type Told = Option<Arc<Entries>>;

/// Nothing yet.
pub fn untold() -> (watch::Sender<Told>, watch::Receiver<Told>) {
    watch::channel(None)
}

/// How many files all of it may have open.
pub(crate) fn files(socket: Option<&ApiSocket>) -> u64 {
    if socket.is_some() { 2 * MAX_CONNECTIONS as u64 } else { 0 }
}

/// Begins to obtain certificates, and to serve them.
pub(crate) fn start(socket: ApiSocket, keeper: Keeper, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
    let shared = Shared::new(keeper.kept(), keeper.live().clone(), stop.clone());
    tasks.spawn(keeper.run(stop.clone()));
    tasks.spawn(serve(socket, shared));
}
