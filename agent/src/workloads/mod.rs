//! Identities for programs beside the agent: the SPIFFE Workload API and Envoy's SDS on a Unix socket.
//!
//! The control plane tells which workloads this node's agents vouch for ([`Entries`]); `Keeper` holds a certificate for
//! each of them, `Tokens` the tokens that were asked for; `serve` gives them to programs of which all that an entry
//! asks for is true.

mod answers;
mod api;
mod attest;
mod audience;
mod authority;
mod cgroup;
mod client;
mod denials;
mod directory;
mod docker;
mod entrance;
mod entry;
pub mod fetch;
mod file_set;
mod given;
#[cfg(test)]
mod gone;
mod hold;
mod introspection;
mod jwt;
mod keeper;
mod looks;
mod matching;
mod nobody;
mod peer;
mod pieces;
mod places;
mod process;
mod sds;
mod serve;
mod socket;
mod systemd;
#[cfg(test)]
mod testing;
mod token_cache;
mod tokens;
mod told;
mod unjoined;
mod unmapped;
mod untaken;
pub mod validate;
pub mod watch;

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use client::ApiError;
pub use entry::{Certified, Entries, Entry};
pub(crate) use looks::AT_ONCE as LOOKS_AT_ONCE;
pub use socket::{ApiSocket, SocketError};
pub use told::{Board, Told};
pub(crate) use unjoined::Front;

use crate::config::Config;
use crate::context::Context;
use crate::credentials::Credentials;
use crate::state::State;
use api::Shared;
use docker::Docker;
use keeper::Keeper;
use places::Places;
use serve::serve;
use tokens::Tokens;

/// How many files all of it may have open where it is served and there are so many connections.
pub(crate) fn files(is_served: bool, connections: usize) -> u64 {
    // A look opens the first process of a container, and a file of either.
    let asking = docker::AT_ONCE + systemd::AT_ONCE + looks::AT_ONCE;
    // A connection has its socket, and of its program the directory in /proc and the executable.
    if is_served { (3 * connections + 2 * asking + serve::REFUSED_AT_ONCE) as u64 } else { 0 }
}

/// Forgets the keys that verify tokens: where no Workload API is served nobody is told of their changes, and one that
/// is served again is not to believe what was revoked meanwhile.
fn forget_keys(state: &State) {
    if let Err(error) = state.forget_jwt_keys() {
        tracing::error!(event = "state_not_saved", %error, "keys that verify tokens are still on the disk");
    }
}

/// Lets programs in over so many connections. Until [`start`] they are told to wait.
pub(crate) fn accept(socket: ApiSocket, connections: usize, front: &Arc<Front>, tasks: &mut JoinSet<()>) {
    tasks.spawn(serve(socket, Places::new(connections), Arc::clone(front)));
}

/// Begins to obtain certificates, and to serve them and what the board holds, if programs are let in.
pub(crate) fn start(
    front: Option<&Front>,
    config: &Config,
    (credentials, context): (Credentials, &Context),
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) {
    let Some(front) = front else { return forget_keys(credentials.state()) };
    let board = front.board();
    board.reload(credentials.state(), credentials.live().current().bundle().trust_domain());
    let mesh = (Arc::clone(&context.mesh.denied), Arc::clone(&context.mesh.issuers));
    let (control_plane, clock) = (config.control_plane.clone(), context.clock);
    let tokens = Tokens::new(control_plane.clone(), credentials.clone(), clock);
    let keeper = Keeper::new(control_plane, credentials, clock, board.entries(), mesh);
    let docker = config.docker_socket.clone().map(Docker::new);
    front.open(Shared::new(&keeper, tokens, docker, front));
    tasks.spawn(keeper.run(stop.clone()));
}
