//! The Workload API of an agent without a control plane, which is told what a test likes.

use std::net::SocketAddr;
use std::sync::Arc;

use hauberk_proto::agent::v1 as pb;
use hauberk_tls::LiveIdentity;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::api::{Api, Shared};
use super::attest::Caller;
use super::keeper::Keeper;
use super::tokens::Tokens;
use super::told::Board;
use super::unjoined::Front;
use crate::clock::Clock;
use crate::config::HostPort;
use crate::credentials::{Credentials, Issued};
use crate::mesh::Mesh;
use crate::state::{State, StoredTrust};
use crate::testing::{Authorities, HOUR, around};

/// It, until dropped.
pub(super) struct Served {
    pub(super) board: Board,
    pub(super) live: LiveIdentity,
    pub(super) state: Arc<State>,
    pub(super) shared: Arc<Shared>,
    pub(super) front: Arc<Front>,
    _tasks: JoinSet<()>,
    _folder: TempDir,
}

impl Served {
    pub(super) fn new() -> Self {
        Self::by(Clock::system())
    }

    /// The same by this clock.
    pub(super) fn by(clock: Clock) -> Self {
        Self::with_both(SocketAddr::from(([127, 0, 0, 1], 1)), clock)
    }

    /// The same with a control plane at this address.
    pub(super) fn with(control_plane: SocketAddr) -> Self {
        Self::with_both(control_plane, Clock::system())
    }

    fn with_both(control_plane: SocketAddr, clock: Clock) -> Self {
        hauberk_tls::install_provider();
        let (authorities, folder) = (Authorities::new(), tempfile::tempdir().unwrap());
        let state = Arc::new(State::open(folder.path()).unwrap());
        let trust = StoredTrust::new(authorities.trust()).unwrap();
        let issued = Issued { identity: authorities.identity("mesh/shop/node/web", around(HOUR)), trust };
        let credentials = Credentials::new(issued, Arc::clone(&state)).unwrap();
        let (board, live) = (Board::new(true), credentials.live().clone());
        let control_plane = HostPort { host: control_plane.ip().to_string(), port: control_plane.port() };
        let (mesh, stop) = (Mesh::new(), CancellationToken::new());
        let mesh = (mesh.denied, mesh.issuers);
        let keeper = Keeper::new(control_plane.clone(), credentials.clone(), clock, board.entries(), mesh);
        let tokens = Tokens::new(control_plane, credentials, clock);
        let front = Front::new(board.clone(), Arc::default(), &state, clock, stop.clone());
        let shared = Shared::new(&keeper, tokens, None, &front);
        front.open(Arc::clone(&shared));
        let mut tasks = JoinSet::new();
        tasks.spawn(keeper.run(stop));
        Self { board, live, state, shared, front, _tasks: tasks, _folder: folder }
    }

    /// As this process is served it.
    pub(super) fn api(&self) -> Api {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let caller = Caller::of(&ours, self.front.looks()).unwrap();
        Api::new(Arc::clone(&self.shared), Arc::new(caller))
    }
}

/// An entry that is this process's.
pub(super) fn worker() -> pb::WorkloadEntry {
    pb::WorkloadEntry {
        enrollment: "worker".to_owned(),
        spiffe_id: "spiffe://shop.local/workload/worker".to_owned(),
        selectors: vec![format!("unix:uid:{}", rustix::process::geteuid().as_raw())],
        ..pb::WorkloadEntry::default()
    }
}
