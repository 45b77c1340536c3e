//! What starts and stops.
//!
//! [`ControlPlane`] holds the pieces that services are made of: every gRPC service gets an `Arc` of it. [`run`] opens
//! it, binds the listeners, starts the tasks, and stops them in the opposite order within the deadline.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hauberk_tls::{ClientAuth, LiveIdentity, SetupError};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::AccessLayer;
use crate::admins::Admins;
use crate::audit::Audit;
use crate::authority::{Authority, AuthorityError, KeyEncryptionKey, SealError};
use crate::clock::Clock;
use crate::compile;
use crate::config::Settings;
use crate::enrollment::{Enrollment, EnrollmentParts, Tokens};
use crate::health::Health;
use crate::init::UNFINISHED_MARKER;
use crate::issuance::{Issuer, Ledger};
use crate::metrics::Metrics;
use crate::private_file;
use crate::prune;
use crate::push::{Push, PushParts};
use crate::registry::{OpenError, SledStore, Store, StoreError};
use crate::resources::{Catalogs, Resources, ResourcesParts};
use crate::rpc::{self, Deadlines, Limits, Listening, LocalSocket};
use crate::server_certificate::{ServerCertificate, ServerCertificateError};
use crate::telemetry::LogControl;

/// How long a TLS handshake may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// What agents may hold open; one address may be that of many.
const AGENT_LIMITS: Limits = Limits {
    connections: 20_000,
    connections_per_address: 10_000,
    handshakes: 2_048,
    strangers: 256,
    calls: 16,
};

/// What admins may hold open.
const ADMIN_LIMITS: Limits =
    Limits { connections: 1_024, connections_per_address: 512, handshakes: 256, strangers: 64, calls: 64 };

/// How long calls may take until their answers begin.
const DEADLINES: Deadlines =
    Deadlines { call: Duration::from_secs(60), call_of_stranger: Duration::from_secs(20) };

/// How long the registry may take to close once everything that uses it has stopped.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

/// A control plane that does not start, or stops badly.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// `init` was killed.
    #[error("`init` did not finish in {}: remove that directory and run `init` again", .0.display())]
    Unfinished(PathBuf),
    /// The registry is missing, in use, damaged or too new.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The key-encryption key is missing or wrong.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The authorities cannot be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The registry failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Our own certificate cannot be had.
    #[error(transparent)]
    ServerCertificate(#[from] ServerCertificateError),
    /// The TLS library refuses.
    #[error("TLS cannot be set up")]
    Tls(#[from] SetupError),
    /// A port is taken or not ours to take.
    #[error("cannot listen on {address} ({setting}): {source}. Free it, or choose another")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Which setting says so.
        setting: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// A file for other programs cannot be written.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Reflection cannot read our own descriptors.
    #[error("reflection cannot be set up")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The local administration cannot listen.
    #[error(transparent)]
    Local(#[from] rpc::LocalError),
    /// A listener ended although nobody asked it to.
    #[error("the {0} listener failed")]
    ListenerFailed(&'static str),
}

/// The addresses that were bound, as `addresses.json` in the data directory tells them to programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// Where agents connect.
    pub agent: SocketAddr,
    /// Where admins connect.
    pub admin: SocketAddr,
    /// Where probes and scrapers connect.
    pub health: SocketAddr,
}

/// The pieces that services are made of.
pub struct ControlPlane {
    /// What the operator wants.
    pub settings: Settings,
    /// The time.
    pub clock: Clock,
    /// Everything that is remembered.
    pub store: Arc<dyn Store>,
    /// Who did what.
    pub audit: Arc<Audit>,
    /// Trust domain, epoch, roots, issuing authority, view keys.
    pub authority: Arc<Authority>,
    /// Issues certificates.
    pub issuer: Arc<Issuer>,
    /// Which certificates and instances there are.
    pub ledger: Arc<Ledger>,
    /// Join tokens.
    pub tokens: Arc<Tokens>,
    /// Lets agents in and renews their certificates.
    pub enrollment: Arc<Enrollment>,
    /// Admins and their credentials.
    pub admins: Arc<Admins>,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// Changes the log filter.
    pub log: LogControl,
    /// Our own certificate and what it is verified against.
    pub identity: LiveIdentity,
    /// Cancelled when the control plane stops: tasks and streams end then.
    pub stop: CancellationToken,
    /// Owns every task; closed and waited for, within the deadline, when the control plane stops.
    pub tasks: TaskTracker,
    addresses: OnceLock<Addresses>,
}

impl ControlPlane {
    /// Opens what `init` made. Nothing listens yet.
    ///
    /// # Errors
    /// When the data directory is missing, unfinished, in use or damaged, or the key-encryption key is not its own.
    pub async fn open(settings: Settings, clock: Clock, log: LogControl) -> Result<Arc<Self>, AppError> {
        if settings.data_dir.join(UNFINISHED_MARKER).exists() {
            return Err(AppError::Unfinished(settings.data_dir));
        }
        // Its files are 0600, but whoever may write the directory could put others in their place.
        if private_file::is_open_to_others(&settings.data_dir)
            && let Err(error) = private_file::restrict_directory(&settings.data_dir)
        {
            let directory = settings.data_dir.display();
            tracing::warn!(event = "data_dir_open", %directory, %error, "others may enter it: run `chmod 700` on it");
        }
        let registry = settings.registry_directory();
        let opened = tokio::task::spawn_blocking(move || SledStore::open(&registry)).await;
        let store: Arc<dyn Store> = Arc::new(opened.map_err(|_| StoreError::Closed)??);
        let kek = KeyEncryptionKey::load(&settings.kek_file)?;
        let authority = Arc::new(Authority::load(&*store, &kek).await?);
        Self::assemble(settings, clock, log, store, authority).await
    }

    /// Puts the pieces together.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn assemble(
        settings: Settings,
        clock: Clock,
        log: LogControl,
        store: Arc<dyn Store>,
        authority: Arc<Authority>,
    ) -> Result<Arc<Self>, AppError> {
        let metrics = Arc::new(Metrics::default());
        let audit = Arc::new(Audit::open(Arc::clone(&store), clock.clone()).await?);
        let ledger = Arc::new(Ledger::new(Arc::clone(&store)));
        let issuer = Arc::new(Issuer::new(
            Arc::clone(&authority),
            Arc::clone(&audit),
            Arc::clone(&metrics),
            clock.clone(),
        ));
        let tokens = Arc::new(Tokens::new(Arc::clone(&store), Arc::clone(&audit), clock.clone()));
        let enrollment = Arc::new(Enrollment::new(EnrollmentParts {
            store: Arc::clone(&store),
            issuer: Arc::clone(&issuer),
            ledger: Arc::clone(&ledger),
            audit: Arc::clone(&audit),
            metrics: Arc::clone(&metrics),
            clock: clock.clone(),
            trust_domain: authority.trust_domain().clone(),
            svid_ttl: settings.svid_ttl,
        }));
        let admins = Arc::new(Admins::new(
            Arc::clone(&store),
            Arc::clone(&issuer),
            Arc::clone(&ledger),
            Arc::clone(&audit),
            clock.clone(),
            authority.trust_domain().clone(),
        ));
        let identity = LiveIdentity::new(authority.bundle().clone());
        Ok(Arc::new(Self {
            settings,
            clock,
            store,
            audit,
            authority,
            issuer,
            ledger,
            tokens,
            enrollment,
            admins,
            metrics,
            log,
            identity,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            addresses: OnceLock::new(),
        }))
    }

    /// The layer that every service stands behind.
    pub fn access(&self) -> AccessLayer {
        AccessLayer::new(
            Arc::clone(&self.admins),
            Arc::clone(&self.ledger),
            Arc::clone(&self.audit),
            Arc::clone(&self.metrics),
        )
    }

    /// Where admins connect, for their context files: what was bound, on loopback where it was bound everywhere.
    pub fn admin_server(&self) -> String {
        let bound = self.addresses.get().map_or(self.settings.admin_listen, |addresses| addresses.admin);
        reachable(bound).to_string()
    }

    /// Where the agent API is bound.
    pub fn agent_address(&self) -> SocketAddr {
        self.addresses.get().map_or(self.settings.agent_listen, |addresses| addresses.agent)
    }
}

/// Runs until `stop` is cancelled, then stops gracefully.
///
/// # Errors
/// When it cannot start; or a listener fails, which stops the rest.
pub async fn run(
    settings: Settings,
    clock: Clock,
    log: LogControl,
    stop: CancellationToken,
) -> Result<(), AppError> {
    let control = ControlPlane::open(settings, clock, log).await?;
    let health = Health::new(Arc::clone(&control.store), Arc::clone(&control.metrics));
    let result = match start(&control, &health).await {
        Ok(()) => {
            tokio::select! {
                () = stop.cancelled() => Ok(()),
                // A listener that fails cancels the control plane's own token.
                () = control.stop.cancelled() => Err(AppError::ListenerFailed("agent or admin")),
            }
        }
        Err(error) => Err(error),
    };
    stop_gracefully(&control, &health).await;
    result
}

/// Binds everything before anything is served: a port that is taken leaves no half of a control plane behind.
async fn start(control: &Arc<ControlPlane>, health: &Health) -> Result<(), AppError> {
    let settings = &control.settings;
    // A process that was killed left its own behind; it is gone where it was stopped.
    let _gone = std::fs::remove_file(settings.addresses_file());
    let agent = listen(settings.agent_listen, "agent-listen").await?;
    let admin = listen(settings.admin_listen, "admin-listen").await?;
    let probes = listen(settings.health_listen, "health-listen").await?;
    let addresses = Addresses { agent: agent.1, admin: admin.1, health: probes.1 };
    control.addresses.get_or_init(|| addresses.clone());

    let certificate = ServerCertificate::obtain(control).await?;
    let listening = |name, socket, limits| -> Result<Listening, AppError> {
        Ok(Listening {
            name,
            socket,
            acceptor: control.identity.acceptor(&[b"h2"], ClientAuth::Optional, HANDSHAKE_DEADLINE)?,
            limits,
            deadlines: DEADLINES,
            metrics: Arc::clone(&control.metrics),
            clock: control.clock.clone(),
            admins: Arc::clone(&control.admins),
        })
    };
    let agent = listening("agent", agent.0, AGENT_LIMITS)?;
    let admin = listening("admin", admin.0, ADMIN_LIMITS)?;
    let (resources, push) = start_push(control).await?;
    let admin_routes = rpc::admin_routes(control, &resources, &push).await?;
    let agent_routes = rpc::agent_routes(control, &push).await;
    let local = LocalSocket::bind(&settings.admin_socket())?;
    write_addresses(settings, &addresses)?;

    let stop = &control.stop;
    serve(control, "agent", rpc::serve(agent, agent_routes, control.access(), stop.clone()));
    serve(control, "admin", rpc::serve(admin, admin_routes, control.access(), stop.clone()));
    serve(control, "local", rpc::serve_local(Arc::clone(control), local, control.access(), stop.clone()));
    control.tasks.spawn(health.clone().serve(probes.0, stop.clone()));
    control.tasks.spawn(certificate.keep_current(Arc::clone(control)));
    control.tasks.spawn(prune::run(Arc::clone(control)));
    control.tasks.spawn(follow_revision(Arc::clone(control)));
    control.tasks.close();
    health.set_serving(true);
    tracing::info!(
        event = "ready",
        version = env!("CARGO_PKG_VERSION"),
        trust_domain = %control.authority.trust_domain(),
        agent = %addresses.agent,
        admin = %addresses.admin,
        health = %addresses.health,
        "the control plane serves"
    );
    Ok(())
}

/// From the registry to the agents: resources are followed, compiled into views, and pushed.
async fn start_push(control: &ControlPlane) -> Result<(Arc<Resources>, Arc<Push>), StoreError> {
    let (store, tasks, stop) = (&control.store, &control.tasks, &control.stop);
    let trust_domain = control.authority.trust_domain().clone();
    let catalogs = Catalogs::start(Arc::clone(store), trust_domain, tasks, stop.clone()).await?;
    let authority = Arc::clone(&control.authority);
    let compilation = compile::start(Arc::clone(store), authority, &catalogs, tasks, stop.clone()).await?;
    let push = Push::start(PushParts {
        store: Arc::clone(store),
        clock: control.clock.clone(),
        compilation,
        trust: rpc::message::trust(&control.authority),
        metrics: Arc::clone(&control.metrics),
        tasks: tasks.clone(),
        stop: stop.clone(),
    })
    .await?;
    let (running, clock) = (Arc::clone(&push), control.clock.clone());
    let resources = Resources::new(ResourcesParts {
        catalogs,
        audit: Arc::clone(&control.audit),
        clock: control.clock.clone(),
        trust_domain: control.authority.trust_domain().clone(),
        missing_feature: Box::new(move |node, features| {
            running.instances().missing_features(node, features, clock.now())
        }),
    });
    Ok((Arc::new(resources), push))
}

/// Starts a listener's task. One that fails stops the whole: half a control plane looks healthy and is not.
fn serve<E: std::error::Error + Send>(
    control: &Arc<ControlPlane>,
    name: &'static str,
    serving: impl Future<Output = Result<(), E>> + Send + 'static,
) {
    let stop = control.stop.clone();
    control.tasks.spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(event = "listener_failed", listener = name, %error, cause = error.source());
            stop.cancel();
        }
    });
}

async fn stop_gracefully(control: &ControlPlane, health: &Health) {
    tracing::info!(event = "stopping", "no new calls are taken");
    health.set_serving(false);
    control.stop.cancel();
    control.tasks.close();
    let deadline = control.settings.shutdown_deadline;
    if tokio::time::timeout(deadline, control.tasks.wait()).await.is_err() {
        tracing::warn!(event = "shutdown_deadline", ?deadline, "calls were still under way and are cut");
    }
    if tokio::time::timeout(CLOSE_DEADLINE, control.store.close()).await.is_err() {
        tracing::error!(
            event = "registry_close_late",
            "the registry did not close in time; nothing answered is lost"
        );
    }
    // They are no longer true; that they are gone already is no trouble.
    let _gone = std::fs::remove_file(control.settings.addresses_file());
    tracing::info!(event = "stopped", "the control plane has stopped");
}

/// Shows the current revision among the figures.
async fn follow_revision(control: Arc<ControlPlane>) {
    loop {
        match control.store.revision().await {
            Ok(revision) => {
                control.metrics.revision.set(i64::try_from(revision.0).unwrap_or(i64::MAX));
            }
            Err(error) => tracing::warn!(event = "registry_unreadable", %error, "the revision is unknown"),
        }
        tokio::select! {
            () = control.stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

async fn listen(address: SocketAddr, setting: &'static str) -> Result<(TcpListener, SocketAddr), AppError> {
    let failed = |source| AppError::Listen { address, setting, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

fn write_addresses(settings: &Settings, addresses: &Addresses) -> Result<(), AppError> {
    let path = settings.addresses_file();
    serde_json::to_vec_pretty(addresses)
        .map_err(std::io::Error::other)
        .and_then(|text| private_file::replace(&path, &text))
        .map_err(|source| AppError::Write { path, source })
}

/// An address that a client on this host can use.
pub fn reachable(mut bound: SocketAddr) -> SocketAddr {
    if bound.ip().is_unspecified() {
        bound.set_ip(match bound {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    bound
}
