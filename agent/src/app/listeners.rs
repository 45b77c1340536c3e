//! Which inbound listeners there are: those configured, and the others of the view, each bound as soon as it is known.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hauberk_proto::agent::v1 as pb;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::addresses::Published;
use crate::config::{Config, ListenerConfig};
use crate::connections::Connections;
use crate::control_plane::local_ip_towards;
use crate::inbound::{self, Limits, Listener};
use crate::mesh::{Inbound, Mesh, NodeView};
use crate::random::Backoff;
use crate::state::State;
use crate::status::Status;

/// How soon a listener that could not be bound is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The owner of all inbound listeners.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) config: Arc<Config>,
    pub(super) state: Arc<State>,
    pub(super) mesh: Mesh,
    pub(super) status: Arc<Status>,
    pub(super) connections: Arc<Connections>,
    pub(super) limits: Arc<Limits>,
    pub(super) registrations: watch::Sender<pb::Register>,
    pub(super) advertised_ip: IpAddr,
}

/// A listener that is bound and served.
#[derive(Debug)]
struct Bound {
    address: SocketAddr,
    advertised: SocketAddr,
    is_configured: bool,
    stop: CancellationToken,
    serving: AbortHandle,
}

/// Why a listener cannot be bound. The fault is whoever configured it, or another program's.
#[derive(Debug, Error)]
pub enum ListenerError {
    /// The socket cannot be had.
    #[error("port {port}: {address} cannot be bound: {source}")]
    Bind {
        /// The listener's number.
        port: u16,
        /// Where it was to be.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// App and agent would share one address.
    #[error(
        "port {port}: the agent would listen on {address}, where the app is expected; give --listener \
         {port},inbound=IP:PORT or ,app=IP:PORT or --advertise-ip"
    )]
    AppIsThere {
        /// The listener's number.
        port: u16,
        /// The address of both.
        address: SocketAddr,
    },
}

impl Listeners {
    /// Binds and serves until `stop`, then lets what is under way come to its end. Dropping the future ends it all.
    ///
    /// # Errors
    /// A configured listener cannot be bound.
    pub(super) async fn run(self, stop: CancellationToken) -> Result<(), ListenerError> {
        let mut serving = JoinSet::new();
        let mut bound = BTreeMap::new();
        let mut file = Published::new(Arc::clone(&self.state));
        for listener in &self.config.listeners {
            let opened = self.open(listener, true, &mut serving).await?;
            bound.insert(listener.port, opened);
        }
        let mut inbound = self.mesh.inbound();
        let mut draining = self.status.draining.subscribe();
        inbound.mark_changed();
        let mut view = None;
        let mut is_incomplete = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Ok(()) = draining.changed() => {}
                Ok(()) = inbound.changed() => {
                    if let Inbound::Open(open) = &**inbound.borrow_and_update() {
                        view = Some(Arc::clone(open));
                    }
                }
                () = tokio::time::sleep(RETRY), if is_incomplete => {}
                Some(_) = serving.join_next() => continue,
            }
            if let Some(view) = &view {
                is_incomplete = !self.follow(view, &mut bound, &mut serving).await;
            }
            self.publish(view.as_deref(), &bound, !is_incomplete && view.is_some(), &mut file).await;
        }
        bound.values().for_each(|bound: &Bound| bound.stop.cancel());
        while serving.join_next().await.is_some() {}
        Ok(())
    }

    /// Binds what the view has and nobody configured, and gives up what it no longer has. Whether all are bound.
    async fn follow(
        &self,
        view: &NodeView,
        bound: &mut BTreeMap<u16, Bound>,
        serving: &mut JoinSet<()>,
    ) -> bool {
        bound.retain(|port, listener| {
            let stays = listener.is_configured || view.port(*port).is_some();
            if !stays {
                listener.stop.cancel();
            }
            stays && !listener.serving.is_finished()
        });
        let mut is_complete = true;
        for port in view.ports.iter().map(|port| port.number) {
            if bound.contains_key(&port) {
                continue;
            }
            let configured = self.config.listeners.iter().find(|listener| listener.port == port);
            let listener = configured.cloned().unwrap_or_else(|| ListenerConfig::default_for(port));
            match self.open(&listener, configured.is_some(), serving).await {
                Ok(opened) => {
                    bound.insert(port, opened);
                }
                Err(error) => {
                    tracing::error!(event = "listener_not_bound", port, %error);
                    is_complete = false;
                }
            }
        }
        is_complete
    }

    async fn open(
        &self,
        listener: &ListenerConfig,
        is_configured: bool,
        serving: &mut JoinSet<()>,
    ) -> Result<Bound, ListenerError> {
        let ListenerConfig { port, inbound, app, advertise } = *listener;
        let address = inbound.unwrap_or(SocketAddr::new(self.advertised_ip, port));
        if address == app {
            return Err(ListenerError::AppIsThere { port, address });
        }
        let failed = |source| ListenerError::Bind { port, address, source };
        let socket = TcpListener::bind(address).await.map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        let reachable = if address.ip().is_unspecified() { self.advertised_ip } else { address.ip() };
        let advertised = advertise.unwrap_or(SocketAddr::new(reachable, address.port()));
        tracing::info!(event = "listening", port, %address, %advertised, %app);
        let stop = CancellationToken::new();
        let listener = Listener { port, socket, app };
        let connections = Arc::clone(&self.connections);
        let served = inbound::serve(listener, connections, Arc::clone(&self.limits), stop.clone());
        let serving = serving.spawn(served);
        Ok(Bound { address, advertised, is_configured, stop, serving })
    }

    /// Tells the control plane where traffic goes, and probes and people where we listen.
    async fn publish(
        &self,
        view: Option<&NodeView>,
        bound: &BTreeMap<u16, Bound>,
        is_complete: bool,
        file: &mut Published,
    ) {
        let in_view = |port: u16| view.is_some_and(|view| view.port(port).is_some());
        let ports = bound.iter().filter(|(port, _)| in_view(**port)).map(|(port, bound)| pb::Registration {
            listener_port: (*port).into(),
            address: bound.advertised.to_string(),
            healthy: true,
        });
        let register = pb::Register { ports: ports.collect(), draining: *self.status.draining.borrow() };
        self.registrations.send_if_modified(|current| {
            let differs = *current != register;
            *current = register;
            differs
        });
        let inbound: BTreeMap<u16, SocketAddr> =
            bound.iter().map(|(port, bound)| (*port, bound.address)).collect();
        let mut addresses = self.status.addresses.borrow().clone();
        if addresses.inbound != inbound || addresses.is_complete != is_complete {
            addresses.inbound = inbound;
            addresses.is_complete = is_complete;
            self.mesh.own_sockets.set(addresses.sockets());
            // Before we count as ready: whoever waits for that reads the file then.
            file.replace(&addresses).await;
            self.status.addresses.send_replace(addresses);
        }
    }
}

/// The address that other agents reach us by: the configured one, or the one that the control plane is reached from, or
/// the one from before. Waits until there is one.
pub(super) async fn advertised_ip(config: &Config, state: &State) -> IpAddr {
    if let Some(ip) = config.advertise_ip {
        return ip;
    }
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    loop {
        let problem = match local_ip_towards(&config.control_plane).await {
            Ok(ip) => {
                if state.advertised_ip().ok().flatten() != Some(ip)
                    && let Err(error) = state.save_advertised_ip(ip)
                {
                    tracing::error!(event = "state_not_saved", %error);
                }
                return ip;
            }
            Err(error) => error,
        };
        if let Ok(Some(ip)) = state.advertised_ip() {
            return ip;
        }
        tracing::warn!(event = "own_address_unknown", error = %problem);
        tokio::time::sleep(backoff.step()).await;
    }
}
