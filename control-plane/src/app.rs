//! What starts and stops.
//!
//! [`ControlPlane`] holds the pieces that services are made of: every gRPC service gets an `Arc` of it. [`run`] opens
//! it, binds the listeners, starts the tasks, and stops them in the opposite order within the deadline.

mod addresses;
mod control_plane;
mod error;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hauberk_tls::ClientAuth;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::authority;
use crate::clock::Clock;
use crate::compile;
use crate::config::Settings;
use crate::federation::{self, Federation, FederationParts, OwnBundleParts};
use crate::health::{Health, revocation_lists};
use crate::oidc::Documents;
use crate::prune;
use crate::push::{Push, PushParts};
use crate::registry::StoreError;
use crate::resources::{Catalogs, MissingFeature, OwnIssuerParts, ResourceKey, Resources, ResourcesParts};
use crate::revocation::crl::{self, RevocationLists};
use crate::rpc::{self, Deadlines, Limits, Listening, LocalSocket};
use crate::server_certificate::ServerCertificate;
use crate::telemetry::LogControl;
use crate::web::{Respond, ServedCertificate, WebListener};

pub use addresses::{Addresses, reachable};
pub use control_plane::ControlPlane;
pub use error::AppError;

/// How long a TLS handshake may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// How many issuers may wait for their keys to be looked for, at agents' wish.
const UNKNOWN_KEYS: usize = 64;

/// How long who has no certificate may take for what comes next, while others of the same network want the place.
const GRACE: Duration = Duration::from_secs(2);

/// What agents may hold open. One address may be that of as many as a node has instances, for a token for many lets in a
/// thousand of them at once; one instance has a connection for its stream and few more.
const AGENT_LIMITS: Limits = Limits {
    connections: 20_000,
    connections_per_address: 10_000,
    connections_per_holder: 32,
    handshakes: 2_048,
    strangers: 256,
    grace: GRACE,
    calls: 16,
};

/// What admins may hold open.
const ADMIN_LIMITS: Limits = Limits {
    connections: 1_024,
    connections_per_address: 512,
    connections_per_holder: 256,
    handshakes: 256,
    strangers: 64,
    grace: GRACE,
    calls: 64,
};

/// How long calls may take until their answers begin.
const DEADLINES: Deadlines =
    Deadlines { call: Duration::from_secs(60), call_of_stranger: Duration::from_secs(20) };

/// How long the registry may take to close once everything that uses it has stopped.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

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
    let lists = watch::Sender::default();
    let health = Health::new(
        Arc::clone(&control.store),
        Arc::clone(&control.authority),
        Arc::clone(&control.revocations),
        Arc::clone(&control.metrics),
        lists.subscribe(),
        control.clock.clone(),
    );
    let failed = Arc::default();
    let result = match start(&control, &health, lists, &failed).await {
        Ok(()) => {
            tokio::select! {
                () = stop.cancelled() => Ok(()),
                // A listener that fails cancels the control plane's own token.
                () = control.stop.cancelled() => {
                    Err(AppError::ListenerFailed(failed.get().copied().unwrap_or("agent, admin or local")))
                }
            }
        }
        Err(error) => Err(error),
    };
    stop_gracefully(&control, &health).await;
    result
}

/// Binds everything before anything is served: a port that is taken leaves no half of a control plane behind.
async fn start(
    control: &Arc<ControlPlane>,
    health: &Health,
    lists: watch::Sender<Arc<RevocationLists>>,
    failed: &Arc<OnceLock<&'static str>>,
) -> Result<(), AppError> {
    let settings = &control.settings;
    // A process that was killed left its own behind; it is gone where it was stopped.
    let _gone = std::fs::remove_file(settings.addresses_file());
    let agent = listen(settings.agent_listen, "agent-listen").await?;
    let admin = listen(settings.admin_listen, "admin-listen").await?;
    let probes = listen(settings.health_listen, "health-listen").await?;
    let oidc = listen_if(settings.oidc_listen, "oidc-listen").await?;
    let bundle = listen_if(settings.bundle_listen, "bundle-listen").await?;
    let addresses = Addresses {
        agent: agent.1,
        admin: admin.1,
        health: probes.1,
        oidc: oidc.as_ref().map(|(_, bound)| *bound),
        bundle: bundle.as_ref().map(|(_, bound)| *bound),
    };
    control.addresses.get_or_init(|| addresses.clone());

    control.authorities.begin(&authority::own_actor()).await;
    let certificate = ServerCertificate::obtain(control).await?;
    control.authorities.begin_jwt_keys(&authority::own_actor()).await;
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
            revocations: Arc::clone(&control.revocations),
            authority: Arc::clone(&control.authority),
            ledger: Arc::clone(&control.ledger),
        })
    };
    let agent = listening("agent", agent.0, AGENT_LIMITS)?;
    let admin = listening("admin", admin.0, ADMIN_LIMITS)?;
    let (told, unknown_keys) = mpsc::channel(UNKNOWN_KEYS);
    let (resources, push) = start_push(control, lists.subscribe(), told).await?;
    health.watch_resources(resources.catalogs());
    let federation = start_federation(control, &resources, &push);
    let admin_routes = rpc::admin_routes(control, &resources, &push, &federation).await?;
    let agent_routes = rpc::agent_routes(control, &push).await;
    let mut of_web = Vec::new();
    if let (Some((socket, _)), Some(issuer)) = (oidc, &settings.oidc_issuer) {
        let files = settings.oidc_certificate.as_ref();
        let certificate =
            ServedCertificate::open("oidc", files, &control.identity, control.clock.clone()).await?;
        let (documents, keys) = (Documents::new(issuer), Arc::clone(&control.signing_keys));
        let respond: Arc<Respond> = Arc::new(move |path| documents.respond(path, &keys.current()));
        of_web.push(WebListener { socket, certificate, respond });
    }
    if let Some((socket, _)) = bundle {
        let files = settings.bundle_certificate.as_ref();
        let certificate =
            ServedCertificate::open("bundle", files, &control.identity, control.clock.clone()).await?;
        let (federation, lists) = (Arc::clone(&federation), lists.subscribe());
        // Programs outside of the mesh get what they verify by from one place, and the figures of `/metrics` are not there.
        let respond: Arc<Respond> = Arc::new(move |path| {
            revocation_lists(path, &lists.borrow()).unwrap_or_else(|| federation.respond(path))
        });
        of_web.push(WebListener { socket, certificate, respond });
    }
    let local = LocalSocket::bind(&settings.admin_socket())?;
    addresses::write(settings, &addresses)?;

    let stop = &control.stop;
    control.tasks.spawn({
        let (admins, changes, stop) =
            (Arc::clone(&control.admins), control.admins.changes().await?, stop.clone());
        async move { admins.follow(changes, stop).await }
    });
    serve(control, ("agent", failed), rpc::serve(agent, agent_routes, control.access(), stop.clone()));
    serve(control, ("admin", failed), rpc::serve(admin, admin_routes, control.access(), stop.clone()));
    serve(
        control,
        ("local", failed),
        rpc::serve_local(Arc::clone(control), local, control.access(), stop.clone()),
    );
    control.tasks.spawn(health.clone().serve(probes.0, stop.clone()));
    for listener in of_web {
        control.tasks.spawn(listener.serve(stop.clone()));
    }
    control.tasks.spawn(federation.run(unknown_keys, stop.clone()));
    control.tasks.spawn(certificate.keep_current(Arc::clone(control)));
    control.tasks.spawn(prune::run(Arc::clone(control)));
    control.tasks.spawn({
        let (revocations, stop) = (Arc::clone(&control.revocations), stop.clone());
        async move { revocations.follow(stop).await }
    });
    let (revocations, authorities) = (Arc::clone(&control.revocations), Arc::clone(&control.authorities));
    control.tasks.spawn(crl::publish(revocations, authorities, lists, stop.clone()));
    control.tasks.spawn(authority::keep(Arc::clone(&control.authorities), control.stop.clone()));
    control.tasks.spawn(authority::follow(Arc::clone(&control.authorities), control.stop.clone()));
    control.tasks.spawn(authority::watch_token(Arc::clone(&control.authority), control.stop.clone()));
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
        oidc = addresses.oidc.map(tracing::field::display),
        bundle = addresses.bundle.map(tracing::field::display),
        "the control plane serves"
    );
    Ok(())
}

/// From the registry to the agents: resources are followed, compiled into views, and pushed.
pub(crate) async fn start_push(
    control: &ControlPlane,
    revocation_lists: watch::Receiver<Arc<RevocationLists>>,
    unknown_keys: mpsc::Sender<ResourceKey>,
) -> Result<(Arc<Resources>, Arc<Push>), StoreError> {
    let (store, tasks, stop) = (&control.store, &control.tasks, &control.stop);
    let trust_domain = control.authority.trust_domain().clone();
    let own_issuer = control
        .settings
        .oidc_issuer
        .as_ref()
        .map(|url| OwnIssuerParts { url: url.to_string(), signing_keys: Arc::clone(&control.signing_keys) });
    let catalogs = Catalogs::start(Arc::clone(store), trust_domain, own_issuer, tasks, stop.clone()).await?;
    let (authority, token_life) = (Arc::clone(&control.authority), control.settings.jwt_svid_ttl);
    let store = Arc::clone(store);
    let compilation = compile::start(store, authority, &catalogs, token_life, tasks, stop.clone()).await?;
    let push = Push::start(PushParts {
        store: Arc::clone(&control.store),
        audit: Arc::clone(&control.audit),
        instances: Arc::clone(&control.instances),
        clock: control.clock.clone(),
        denylist: control.revocations.subscribe(),
        compilation,
        trust: control.authority.trust(),
        signing_keys: control.signing_keys.subscribe(),
        revocation_lists,
        unknown_keys,
        identity: control.identity.clone(),
        metrics: Arc::clone(&control.metrics),
        tasks: tasks.clone(),
        stop: stop.clone(),
    })
    .await?;
    tasks.spawn({
        let (push, authority, clock) =
            (Arc::clone(&push), Arc::clone(&control.authority), control.clock.clone());
        let (catalogs, stop) = (catalogs.subscribe(), stop.clone());
        async move {
            let (trust_domain, epoch) = (authority.trust_domain(), authority.epoch());
            push.flows().would_denials().follow(catalogs, (trust_domain, epoch), &clock, &stop).await;
        }
    });
    let resources = Resources::new(ResourcesParts {
        catalogs,
        audit: Arc::clone(&control.audit),
        clock: control.clock.clone(),
        trust_domain: control.authority.trust_domain().clone(),
        server_names: Arc::clone(&control.server_names),
        missing_feature: missing_feature(&push, &control.clock),
    });
    Ok((Arc::new(resources), push))
}

fn missing_feature(push: &Arc<Push>, clock: &Clock) -> MissingFeature {
    let (push, clock) = (Arc::clone(push), clock.clone());
    Box::new(move |node, features| push.instances().missing_features(node, features, clock.now()))
}

/// Numbers our own bundle from now on; others' are asked for once [`Federation::run`] does.
fn start_federation(control: &ControlPlane, resources: &Resources, push: &Arc<Push>) -> Arc<Federation> {
    let (sender, own) = watch::channel(Arc::default());
    let parts = OwnBundleParts {
        store: Arc::clone(&control.store),
        authority: Arc::clone(&control.authority),
        signing_keys: Arc::clone(&control.signing_keys),
        clock: control.clock.clone(),
    };
    control.tasks.spawn(federation::publish(parts, sender, control.stop.clone()));
    Federation::new(FederationParts {
        store: Arc::clone(&control.store),
        catalogs: resources.catalogs().clone(),
        audit: Arc::clone(&control.audit),
        clock: control.clock.clone(),
        metrics: Arc::clone(&control.metrics),
        web_roots: control.settings.web_roots.clone(),
        own,
        identity: control.identity.clone(),
        denylist: control.revocations.subscribe(),
        missing_feature: missing_feature(push, &control.clock),
    })
}

/// Starts a listener's task. One that fails stops the whole, and is the first that has failed: half a control plane looks healthy and
/// is not.
fn serve<E: std::error::Error + Send>(
    control: &Arc<ControlPlane>,
    (name, first): (&'static str, &Arc<OnceLock<&'static str>>),
    serving: impl Future<Output = Result<(), E>> + Send + 'static,
) {
    let (stop, first) = (control.stop.clone(), Arc::clone(first));
    control.tasks.spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(event = "listener_failed", listener = name, %error, cause = error.source());
            first.get_or_init(|| name);
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

async fn listen_if(
    address: Option<SocketAddr>,
    setting: &'static str,
) -> Result<Option<(TcpListener, SocketAddr)>, AppError> {
    match address {
        Some(address) => listen(address, setting).await.map(Some),
        None => Ok(None),
    }
}

async fn listen(address: SocketAddr, setting: &'static str) -> Result<(TcpListener, SocketAddr), AppError> {
    let failed = |source| AppError::Listen { address, setting, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::keys;

    #[tokio::test]
    async fn the_first_listener_that_fails_is_named_and_stops_the_rest() {
        let scratch = crate::testing::scratch().await;
        let (control, failed) = (&scratch.control, Arc::default());
        for name in ["admin", "agent"] {
            serve(control, (name, &failed), async { Err(std::io::Error::other("no more files")) });
            control.stop.cancelled().await;
        }
        control.tasks.close();
        control.tasks.wait().await;
        assert_eq!(failed.get(), Some(&"admin"));
    }

    #[tokio::test]
    async fn whoever_is_deleted_by_others_is_cut_off() {
        let scratch = crate::testing::scratch().await;
        let control = &scratch.control;
        let lists = watch::Sender::default();
        let health = Health::new(
            Arc::clone(&control.store),
            Arc::clone(&control.authority),
            Arc::clone(&control.revocations),
            Arc::default(),
            lists.subscribe(),
            control.clock.clone(),
        );
        start(control, &health, lists, &Arc::default()).await.unwrap();
        let (name, csr) = (hauberk_identity::Name::parse("ada").unwrap(), crate::testing::request().1);
        let credential =
            control.admins.issue_locally(&name, &[], &csr, &crate::testing::actor()).await.unwrap();
        let peer = scratch.peer(&credential.issued.svid);
        let dismissed = control.admins.dismissal_of(&peer).unwrap();
        let deletion = crate::registry::Commit::new().delete(format!("{}{name}", keys::ADMINS));
        control.store.commit(deletion).await.unwrap();
        tokio::time::timeout(Duration::from_secs(30), dismissed.cancelled()).await.unwrap();
        stop_gracefully(control, &health).await;
    }
}
