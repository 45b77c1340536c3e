//! What starts and stops, in which order.
//!
//! Start: sockets, so that a port that is taken is told at once; health and admin; the certificate; what is on disk; the
//! data path; the stream to the control plane; the child, once traffic is served. Stop: the mesh is told to send nothing
//! new; what is under way ends; the child ends; everything else.

mod error;
mod listeners;
mod network;
mod open_files;
mod signals;
mod sockets;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hauberk_proto::agent::v1 as pb;
use rustix::process::Signal;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::admin::Admin;
use crate::child::{Child, ChildError};
use crate::clock::Clock;
use crate::config::{Config, TcpBinding};
use crate::connections::Connections;
use crate::context::Context;
use crate::credentials::Credentials;
use crate::decisions::{AccessLog, AccessLogWriter, Decisions};
use crate::enroll::{self, EnrollError};
use crate::health::Health;
use crate::inbound::Limits;
use crate::local_http;
use crate::mesh::Mesh;
use crate::outbound::{Outbound, TcpService};
use crate::random;
use crate::renew::{Expiry, Renewal};
use crate::resident;
use crate::state::State;
use crate::status::{Joined, Status};
use crate::sync::{Held, Recipient, Sync, ViewAge};
use crate::telemetry::LogFilter;
use crate::workloads::{self, Board};
pub use error::AppError;
use listeners::{ListenerError, Listeners, advertised_ip};
use network::Network;
use open_files::OpenFiles;
use signals::{Signals, exit_code, is_stop};
use sockets::Sockets;

/// How long the news that we are draining may take to reach callers before connections are refused.
const ANNOUNCE: Duration = Duration::from_millis(500);
/// How long to wait for the control plane's news before we go on with what is on disk.
const SETTLE: Duration = Duration::from_secs(3);
/// How long the rest may take to end at last.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Runs the agent until it is told to stop or its child has ended, and gives the exit code.
///
/// # Errors
/// It cannot start, or a part of it has failed.
pub async fn run(config: Config, log_filter: LogFilter) -> Result<u8, AppError> {
    let config = Arc::new(config);
    let clock = Clock::system();
    let open_files = OpenFiles::raise();
    let mut signals = Signals::new()?;
    let state = Arc::new(State::open(&config.state_dir)?);
    let sockets = Sockets::bind(&config).await?;
    let mesh = Mesh::new();
    let status =
        Arc::new(Status::new(mesh.clone(), config.control_plane.authority(), sockets.addresses.clone()));
    mesh.own_sockets.set(sockets.addresses.sockets());
    state.publish(crate::addresses::FILE, &sockets.addresses.to_json())?;

    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let health = Arc::new(Health(Arc::clone(&status)));
    tasks.spawn(local_http::serve(sockets.health, health, stop.clone()));
    let admin = Arc::new(Admin { status: Arc::clone(&status), log_filter });
    tasks.spawn(local_http::serve(sockets.admin, admin, stop.clone()));

    let joining = async {
        let issued = Box::pin(enroll::obtain(&config, &state, clock, &stop)).await?;
        Ok::<_, EnrollError>((issued, advertised_ip(&config, &state).await))
    };
    let network = Network::new(&config.control_plane, status.connected.subscribe());
    let (issued, advertised_ip) = tokio::select! {
        joined = joining => joined?,
        () = network.gone() => return Err(AppError::NetworkGone),
        signal = signals.next_stop() => return Ok(exit_code(signal)),
    };
    let (access_log, access_log_writer) = start_access_log(&config)?;
    let (instance, issued_at) = (issued.identity.instance, issued.identity.issued_at);
    let decisions = Arc::new(Decisions::new(clock, instance, random::bytes()?, access_log));
    let recipient = Recipient::of(issued.identity.svid.id())?;
    let credentials = Credentials::new(issued, Arc::clone(&state))?;
    let connections = Connections::new(Context {
        clock,
        identity: credentials.live().clone(),
        trust: credentials.trust_changes(),
        mesh: mesh.clone(),
        decisions: Arc::clone(&decisions),
        metrics: Arc::default(),
    });
    status.joined(Joined {
        credentials: credentials.clone(),
        decisions: Arc::clone(&decisions),
        connections: Arc::clone(&connections),
    });
    mesh.gate.set_certificate_valid(true);

    let age = Arc::new(ViewAge::new());
    let held = Held::load(
        Arc::clone(&state),
        mesh.clone(),
        recipient.clone(),
        &credentials.trust().view_keys,
        Arc::clone(&age),
    );
    tasks.spawn(age.watch(Arc::clone(&mesh.gate), clock, stop.clone()));
    tasks.spawn({
        let (connections, stop) = (Arc::clone(&connections), stop.clone());
        async move { connections.enforce(stop).await }
    });
    tasks.spawn({
        let (services, stop) = (Arc::clone(&mesh.services), stop.clone());
        async move { services.drop_idle(stop).await }
    });
    tasks.spawn({
        let (endpoints, stop) = (Arc::clone(&mesh.endpoints), stop.clone());
        async move { endpoints.keep_resolved(stop).await }
    });
    let renewal = Renewal {
        config: Arc::clone(&config),
        state: Arc::clone(&state),
        clock,
        credentials: credentials.clone(),
        decisions: Arc::clone(&decisions),
        instance,
        issued_at,
    };
    tasks.spawn(renewal.run(stop.clone()));
    tasks.spawn(Expiry::new(credentials.clone(), Arc::clone(&mesh.gate), clock).run(stop.clone()));
    let registrations = watch::Sender::new(pb::Register::default());
    let of_programs = open_files.of_programs();
    let shares = open_files.shares(workloads::files(sockets.workload_api.is_some(), of_programs));
    let board = Board::new(sockets.workload_api.is_some());
    let parts = (credentials.clone(), connections.context());
    workloads::start((sockets.workload_api, of_programs), &board, &config, parts, &mut tasks, &stop);
    let sync = Sync {
        control_plane: config.control_plane.clone(),
        clock,
        credentials,
        recipient,
        mesh: mesh.clone(),
        workloads: board,
        decisions,
        metrics: Arc::clone(&connections.context().metrics),
        registrations: registrations.subscribe(),
        connected: status.connected.clone(),
        settled: status.settled.clone(),
    };
    tasks.spawn(sync.run(held, stop.clone()));
    tasks.spawn({
        let (settled, stop) = (status.settled.clone(), stop.clone());
        async move {
            // Until then or until we stop, whichever is first; after that nobody waits for it.
            let _ = timeout(SETTLE, stop.cancelled()).await;
            settled.send_replace(true);
        }
    });
    let outbound = Outbound::new(Arc::clone(&connections), shares.from_app, shares.to_mesh);
    serve_outbound(sockets.outbound, sockets.tcp, outbound, &stop, &mut tasks);

    let stop_inbound = CancellationToken::new();
    let listeners = Listeners {
        config: Arc::clone(&config),
        state,
        mesh,
        status: Arc::clone(&status),
        connections,
        limits: Limits::new(shares.from_mesh, shares.to_app),
        registrations: registrations.clone(),
        advertised_ip,
    };
    let mut inbound = JoinSet::new();
    inbound.spawn(listeners.run(stop_inbound.clone()));

    let agent = Running {
        config,
        status,
        signals,
        open_files,
        stop,
        stop_inbound,
        tasks,
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

/// Everything that runs.
struct Running {
    config: Arc<Config>,
    status: Arc<Status>,
    signals: Signals,
    open_files: OpenFiles,
    stop: CancellationToken,
    stop_inbound: CancellationToken,
    tasks: JoinSet<()>,
    inbound: JoinSet<Result<(), ListenerError>>,
    child: Option<Child>,
    network: Network,
    /// Here so that the session outlives the listeners.
    _registrations: watch::Sender<pb::Register>,
}

/// What happened next.
enum Event {
    Signal(Signal),
    Ready,
    ChildEnded(Result<u8, ChildError>),
    Failed(AppError),
}

impl Running {
    async fn until_stopped(mut self) -> Result<u8, AppError> {
        let outcome = self.serve().await;
        let begun = tokio::select! {
            stopped = stop_in_order(&self.config, &self.status, &self.stop_inbound, &mut self.inbound, &mut self.child) => {
                Ok(stopped)
            }
            signal = self.signals.next_stop() => Err(signal),
        };
        self.stop.cancel();
        match (outcome, begun) {
            (_, Err(signal)) => {
                if let Some(child) = &self.child {
                    child.send(Signal::KILL);
                }
                tracing::warn!(event = "stopped", reason = "a second signal");
                Ok(exit_code(signal))
            }
            (Err(error), _) => Err(error),
            (Ok(code), Ok(of_child)) => {
                let all_ended = async { while self.tasks.join_next().await.is_some() {} };
                if timeout(LAST_WORDS, all_ended).await.is_err() {
                    tracing::warn!(event = "tasks_cut_off", count = self.tasks.len());
                }
                tracing::info!(event = "stopped");
                Ok(of_child.or(code).unwrap_or(0))
            }
        }
    }

    /// Until there is a reason to stop; the child's exit code, if that is it.
    async fn serve(&mut self) -> Result<Option<u8>, AppError> {
        let mut is_ready = false;
        loop {
            match self.next_event(is_ready).await {
                Event::Ready => {
                    is_ready = true;
                    let addresses =
                        serde_json::to_string(&*self.status.addresses.borrow()).unwrap_or_default();
                    tracing::info!(event = "ready", addresses);
                    match resident::release_code() {
                        Ok(bytes) => tracing::debug!(event = "code_released", bytes),
                        Err(error) => tracing::debug!(event = "code_not_released", %error),
                    }
                    if !self.config.command.is_empty() {
                        let outbound = self.status.addresses.borrow().outbound;
                        let child = Child::start(&self.config.command, outbound)?;
                        self.open_files.restore(child.pid());
                        self.child = Some(child);
                    }
                }
                Event::Signal(signal) if is_stop(signal) => {
                    tracing::info!(event = "stopping", signal = signal.as_raw());
                    return Ok(None);
                }
                Event::Signal(signal) => {
                    if let Some(child) = &self.child {
                        child.send(signal);
                    }
                }
                Event::ChildEnded(code) => {
                    self.child = None;
                    return Ok(Some(code?));
                }
                Event::Failed(error) => return Err(error),
            }
        }
    }

    async fn next_event(&mut self, is_ready: bool) -> Event {
        loop {
            let child_ended = async {
                match &mut self.child {
                    Some(child) => child.wait().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                signal = self.signals.next() => return Event::Signal(signal),
                () = self.status.ready(), if !is_ready => return Event::Ready,
                code = child_ended => return Event::ChildEnded(code),
                () = self.network.gone() => return Event::Failed(AppError::NetworkGone),
                Some(ended) = self.tasks.join_next() => {
                    if let Err(error) = ended {
                        return Event::Failed(error.into());
                    }
                }
                Some(ended) = self.inbound.join_next() => match ended {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return Event::Failed(error.into()),
                    Err(error) => return Event::Failed(error.into()),
                },
            }
        }
    }
}

/// Drains, then ends the child; its exit code, if there was one.
async fn stop_in_order(
    config: &Config,
    status: &Status,
    stop_inbound: &CancellationToken,
    inbound: &mut JoinSet<Result<(), ListenerError>>,
    child: &mut Option<Child>,
) -> Option<u8> {
    status.draining.send_replace(true);
    let somebody_is_told = *status.connected.borrow() && !status.addresses.borrow().inbound.is_empty();
    tokio::time::sleep(config.drain_delay.unwrap_or(if somebody_is_told {
        ANNOUNCE
    } else {
        Duration::ZERO
    }))
    .await;
    stop_inbound.cancel();
    let drained = async { while inbound.join_next().await.is_some() {} };
    if timeout(config.drain_timeout, drained).await.is_err() {
        tracing::warn!(event = "drain_cut_off", after_ms = config.drain_timeout.as_millis() as u64);
        inbound.abort_all();
    }
    let child = child.as_mut()?;
    child.send(Signal::TERM);
    match timeout(config.drain_timeout, child.wait()).await {
        Ok(ended) => ended.ok(),
        Err(_) => {
            tracing::warn!(event = "child_killed", after_ms = config.drain_timeout.as_millis() as u64);
            child.send(Signal::KILL);
            child.wait().await.ok()
        }
    }
}

/// Local apps are served until everything else has stopped, for they may need others while they end.
fn serve_outbound(
    http: TcpListener,
    tcp: Vec<(TcpBinding, TcpListener)>,
    outbound: Arc<Outbound>,
    stop: &CancellationToken,
    tasks: &mut JoinSet<()>,
) {
    tasks.spawn({
        let (outbound, stop) = (Arc::clone(&outbound), stop.clone());
        async move { outbound.maintain(stop).await }
    });
    for (TcpBinding { local: _, is_external, service, port }, listener) in tcp {
        let (outbound, stop) = (Arc::clone(&outbound), stop.clone());
        let service = TcpService { is_external, name: service, port };
        tasks.spawn(async move { outbound.serve_tcp(listener, service, stop).await });
    }
    let stop = stop.clone();
    tasks.spawn(async move {
        outbound.serve_http(http, stop).await;
        outbound.finish().await;
    });
}

fn start_access_log(config: &Config) -> io::Result<(Option<AccessLog>, Option<AccessLogWriter>)> {
    if !config.access_log {
        return Ok((None, None));
    }
    let (log, writer) = AccessLog::start(io::stderr())?;
    Ok((Some(log), Some(writer)))
}
