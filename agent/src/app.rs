//! What starts and stops, in which order.
//!
//! Start: sockets, so that a port that is taken is told at once; health and admin; programs, who are told to wait; the
//! certificate; what is on disk; the data path; the stream to the control plane; the child, once traffic is served.
//! Stop: the mesh is told to send nothing new; what is under way ends; the child ends; everything else.

mod error;
mod listeners;
mod network;
mod open_files;
mod running;
mod signals;
mod sockets;
mod start;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hauberk_proto::agent::v1 as pb;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::Config;
use crate::decisions::{AccessLog, AccessLogWriter};
use crate::inbound::Limits;
use crate::mesh::Mesh;
use crate::outbound::Outbound;
use crate::state::State;
use crate::status::Status;
use crate::telemetry::LogFilter;
use crate::workloads;
pub use error::AppError;
use listeners::Listeners;
use network::Network;
use open_files::OpenFiles;
use running::Running;
use signals::{Signals, exit_code};
use sockets::Sockets;
use start::Start;

/// How long the rest may take to end at last.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Runs the agent until it is told to stop or its child has ended, and gives the exit code.
///
/// # Errors
/// It cannot start, or a part of it has failed.
pub async fn run(config: Config, log_filter: LogFilter) -> Result<u8, AppError> {
    let config = Arc::new(config);
    let open_files = OpenFiles::raise();
    let mut signals = Signals::new()?;
    let state = Arc::new(State::open(&config.state_dir)?);
    let sockets = Sockets::bind(&config).await?;
    let mesh = Mesh::new();
    let status =
        Arc::new(Status::new(mesh.clone(), config.control_plane.authority(), sockets.addresses.clone()));
    mesh.own_sockets.set(sockets.addresses.sockets());
    state.publish(crate::addresses::FILE, &sockets.addresses.to_json())?;

    let (clock, stop, tasks) = (Clock::system(), CancellationToken::new(), JoinSet::new());
    let mut start = Start { config, clock, state, mesh, status, metrics: Arc::default(), stop, tasks };
    start.serve_probes(sockets.health, sockets.admin, log_filter);
    // Before there is a certificate: whoever waits for one is to hear that, and how long that takes nobody knows.
    let of_programs = open_files.of_programs();
    let programs = sockets.workload_api.map(|socket| start.accept_programs(socket, of_programs));
    let network = Network::new(&start.config.control_plane, start.status.connected.subscribe());
    let (issued, advertised_ip) = tokio::select! {
        joined = Box::pin(start.join()) => joined?,
        () = network.gone() => return Err(AppError::NetworkGone),
        signal = signals.next_stop() => return Ok(exit_code(signal)),
    };
    let (access_log, access_log_writer) = start_access_log(&start.config)?;
    let member = start.become_member(issued, access_log)?;
    let registrations = watch::Sender::new(pb::Register::default());
    let shares = open_files.shares(workloads::files(programs.is_some(), of_programs));
    start.start_tasks(&member, programs.as_deref(), &registrations);
    let outbound = Outbound::new(Arc::clone(&member.connections), shares.from_app, shares.to_mesh);
    start.serve_outbound(sockets.outbound, sockets.tcp, outbound);

    let stop_inbound = CancellationToken::new();
    let listeners = Listeners {
        config: Arc::clone(&start.config),
        state: start.state,
        mesh: start.mesh,
        status: Arc::clone(&start.status),
        connections: member.connections,
        limits: Limits::new(shares.from_mesh, shares.to_app),
        registrations: registrations.clone(),
        advertised_ip,
    };
    let mut inbound = JoinSet::new();
    inbound.spawn(listeners.run(stop_inbound.clone()));

    let agent = Running {
        config: start.config,
        status: start.status,
        signals,
        open_files,
        stop: start.stop,
        stop_inbound,
        tasks: start.tasks,
        inbound,
        child: None,
        network,
        _registrations: registrations,
    };
    let outcome = agent.until_stopped().await;
    if let Some(writer) = access_log_writer {
        // Its sink may block; whoever reads it slowly does not keep us.
        let _ = timeout(LAST_WORDS, tokio::task::spawn_blocking(|| writer.close())).await;
    }
    outcome
}

fn start_access_log(config: &Config) -> io::Result<(Option<AccessLog>, Option<AccessLogWriter>)> {
    if !config.access_log {
        return Ok((None, None));
    }
    let (log, writer) = AccessLog::start(io::stderr())?;
    Ok((Some(log), Some(writer)))
}
