//! Federation by SPIFFE's standard: our bundle for others to fetch, and theirs for our agents.
//!
//! The control plane alone asks (`follow`), one question at a time (`fetch`); what it was told last and found good is
//! in the registry, and reaches agents in their views. Keys of issuers of users' tokens come by the same way. Our own bundle gets its number in `own`.

mod error;
mod fetch;
mod follow;
mod followers;
mod metrics;
mod own;
mod status;
mod voucher;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use hauberk_identity::{TrustDomain, UnixMillis};
use hauberk_tls::jwt::JwtKeySet;
use hauberk_tls::{LiveIdentity, SpiffeBundle};
use http::Response;
use http_body_util::Full;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::registry::Store;
use crate::resources::{Catalog, Catalogs, Kind, MissingFeature, ResourceKey};
use crate::revocation::Denylist;
use crate::web::{document, not_yet, nothing};

pub use error::RefreshError;
pub use fetch::FetchError;
pub use own::{OwnBundle, OwnBundleParts, REFRESH_HINT, publish};
pub use status::{Failing, Hindrance};

use metrics::FederationMetrics;
use status::Status;

/// What federation needs.
pub struct FederationParts {
    /// The registry.
    pub store: Arc<dyn Store>,
    /// All resources.
    pub catalogs: Catalogs,
    /// Changes of what others are verified by are recorded here.
    pub audit: Arc<Audit>,
    /// The time of day.
    pub clock: Clock,
    /// Where figures are shown.
    pub metrics: Arc<Metrics>,
    /// The roots of the web; `None`: the system's.
    pub web_roots: Option<PathBuf>,
    /// Our own bundle.
    pub own: watch::Receiver<Arc<OwnBundle>>,
    /// What our own members are verified by.
    pub identity: LiveIdentity,
    /// Who is refused by everybody.
    pub denylist: watch::Receiver<Arc<Denylist>>,
    /// What running agents cannot enforce.
    pub missing_feature: MissingFeature,
}

/// Follows other trust domains, and knows our own bundle.
pub struct Federation {
    store: Arc<dyn Store>,
    catalogs: Catalogs,
    audit: Arc<Audit>,
    clock: Clock,
    metrics: FederationMetrics,
    web_roots: Option<PathBuf>,
    own: watch::Receiver<Arc<OwnBundle>>,
    identity: LiveIdentity,
    denylist: watch::Receiver<Arc<Denylist>>,
    missing_feature: MissingFeature,
    statuses: Mutex<BTreeMap<ResourceKey, Status>>,
}

/// A trust domain that is followed, as it stands.
#[derive(Debug, Clone)]
pub struct Followed {
    /// Which resource says so.
    pub key: ResourceKey,
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// What its members are verified by.
    pub bundle: Option<Arc<SpiffeBundle>>,
    /// Where later ones come from.
    pub endpoint: Option<String>,
    /// Who answers there is known by this very bundle.
    pub vouches_for_itself: bool,
    /// When it was last fetched.
    pub fetched_at: Option<UnixMillis>,
    /// Why the latest attempt failed, if it did.
    pub failing: Option<Failing>,
    /// Which of its keys are of no use, and why.
    pub passed_over: Vec<String>,
    /// The number that two of its bundles had, until there is one of another.
    pub reused: Option<u64>,
}

/// An issuer of users' tokens, as it stands.
#[derive(Debug, Clone)]
pub struct FollowedIssuer {
    /// Which resource says so.
    pub key: ResourceKey,
    /// How many keys verify its tokens.
    pub keys: usize,
    /// It was asked, and that is what it publishes.
    pub is_fetched: bool,
    /// Which of its keys are of no use, and why.
    pub passed_over: Vec<String>,
    /// The keys that the resource lists, where those count, and whether it has the name of our own issuer.
    pub listed: Option<(Arc<JwtKeySet>, bool)>,
    /// Why the latest attempt to fetch them failed, if it did.
    pub failing: Option<Failing>,
}

impl Federation {
    /// Puts the parts together. Nothing is asked before [`Federation::run`].
    pub fn new(parts: FederationParts) -> Arc<Self> {
        let FederationParts { store, catalogs, audit, clock, metrics, web_roots, own, identity, .. } = parts;
        let FederationParts { denylist, missing_feature, .. } = parts;
        let metrics = FederationMetrics::new(&metrics);
        let statuses = Mutex::default();
        Arc::new(Self {
            store,
            catalogs,
            audit,
            clock,
            metrics,
            web_roots,
            own,
            identity,
            denylist,
            missing_feature,
            statuses,
        })
    }

    /// Asks all bundle endpoints, each in its own time, until `stop`; those of `unknown_keys`, whose tokens name keys that are not known,
    /// at once, or where that was done lately, as soon as it may be again.
    pub async fn run(self: Arc<Self>, unknown_keys: mpsc::Receiver<ResourceKey>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = follow::all(&self) => {}
            () = self.hurry(unknown_keys) => {}
        }
    }

    /// Our own bundle, as others are told it.
    pub fn own(&self) -> Arc<OwnBundle> {
        Arc::clone(&self.own.borrow())
    }

    /// The answer of our bundle endpoint to one request.
    pub fn respond(&self, path: &str) -> Response<Full<Bytes>> {
        let own = self.own();
        if path != "/" {
            return nothing();
        }
        if own.document.is_empty() {
            return not_yet(own::TRY_AGAIN, "the bundle has no number yet: ask again\n");
        }
        // A cache on the way would hold back what was revoked.
        document(own.document.clone().into(), 0)
    }

    /// All trust domains that are followed, in order.
    pub fn followed(&self, catalog: &Catalog) -> Vec<Followed> {
        let statuses = self.statuses();
        let of_mesh = catalog.meshes().iter().flat_map(|(mesh, resources)| {
            resources.federated().map(move |(key, followed, bundle)| {
                let key = ResourceKey::federated_trust_domain(mesh.clone(), key.clone());
                (key, resources, followed, bundle)
            })
        });
        let followed = of_mesh.map(|(key, resources, followed, bundle)| {
            let status = statuses.get(&key);
            let stored = resources.fetched(key.name.as_str()).map(|fetched| fetched.fetched_at());
            // What the resource itself says is of no matter once there was an answer.
            let passed_over = match status.filter(|status| status.succeeded_at().is_some()) {
                Some(status) => status.passed_over(),
                None if stored.is_none() => followed.passed_over(),
                None => &[],
            };
            Followed {
                trust_domain: followed.trust_domain().clone(),
                bundle: bundle.cloned(),
                endpoint: followed.endpoint().map(|endpoint| endpoint.at().url().to_string()),
                vouches_for_itself: followed.vouches_for_itself(),
                fetched_at: status.and_then(Status::succeeded_at).or(stored),
                failing: status.and_then(Status::failing),
                passed_over: passed_over.to_vec(),
                reused: status.and_then(Status::reused),
                key,
            }
        });
        followed.collect()
    }

    /// All issuers of users' tokens, in order.
    pub fn issuers(&self, catalog: &Catalog) -> Vec<FollowedIssuer> {
        let statuses = self.statuses();
        let of_mesh = catalog.meshes().iter().flat_map(|(mesh, resources)| {
            resources.issuers().map(move |(name, issuer, keys)| {
                let key = ResourceKey { kind: Kind::JwtIssuer, mesh: mesh.clone(), name: name.clone() };
                (key, resources, issuer, keys)
            })
        });
        let issuers = of_mesh.map(|(key, resources, issuer, keys)| {
            let status = statuses.get(&key);
            // Those of the resource count no longer once others were fetched.
            let is_fetched = issuer.initial().zip(keys).is_none_or(|(own, keys)| !Arc::ptr_eq(own, keys));
            let passed_over =
                if is_fetched { status.map(Status::passed_over) } else { Some(issuer.passed_over()) };
            let listed = issuer.initial().filter(|_| !is_fetched).cloned();
            FollowedIssuer {
                listed: listed.map(|listed| (listed, resources.has_our_name(issuer))),
                keys: keys.map_or(0, |keys| keys.keys().count()),
                is_fetched: is_fetched && keys.is_some() && !resources.is_us(issuer),
                passed_over: passed_over.unwrap_or_default().to_vec(),
                failing: status.and_then(Status::failing),
                key,
            }
        });
        issuers.collect()
    }

    async fn hurry(&self, mut unknown_keys: mpsc::Receiver<ResourceKey>) {
        while let Some(key) = unknown_keys.recv().await {
            // Whose keys are not fetched has none that are not known.
            if let Some(status) = self.statuses().get(&key) {
                status.wanted().notify_one();
            }
        }
        // Nobody is left who could ask.
        std::future::pending().await
    }

    fn statuses(&self) -> MutexGuard<'_, BTreeMap<ResourceKey, Status>> {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
