//! The pieces that services are made of, and how they are put together.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use hauberk_tls::LiveIdentity;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::addresses::{Addresses, reachable};
use super::error::AppError;
use crate::access::AccessLayer;
use crate::admins::Admins;
use crate::attestation::TokenReviewers;
use crate::audit::Audit;
use crate::authority::{
    Authorities, AuthoritiesParts, Authority, KeyEncryptionKey, KeyStore, Token, Upstream,
};
use crate::clock::Clock;
use crate::config::Settings;
use crate::enrollment::{Enrollment, EnrollmentParts, Tokens};
use crate::init::UNFINISHED_MARKER;
use crate::instances::Instances;
use crate::issuance::{Issuer, IssuerParts, Ledger};
use crate::jwt_svid::{Minter, MinterParts, SigningKeys};
use crate::metrics::Metrics;
use crate::private_file;
use crate::registry::{SledStore, Store, StoreError};
use crate::revocation::{Revocations, RevocationsParts};
use crate::server_certificate::ServerNames;
use crate::telemetry::LogControl;

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
    /// Puts one authority in the place of another.
    pub authorities: Arc<Authorities>,
    /// What the control plane's own certificate says beside its SPIFFE id.
    pub server_names: Arc<ServerNames>,
    /// Issues certificates.
    pub issuer: Arc<Issuer>,
    /// Which certificates and instances there are.
    pub ledger: Arc<Ledger>,
    /// The agents there are.
    pub instances: Arc<Instances>,
    /// Join tokens.
    pub tokens: Arc<Tokens>,
    /// Lets agents in and renews their certificates.
    pub enrollment: Arc<Enrollment>,
    /// Who is refused before their certificates expire.
    pub revocations: Arc<Revocations>,
    /// The keys that sign JWT-SVIDs.
    pub signing_keys: Arc<SigningKeys>,
    /// Mints JWT-SVIDs.
    pub minter: Arc<Minter>,
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
    pub(super) addresses: OnceLock<Addresses>,
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
        let kek = Arc::new(KeyEncryptionKey::load(&settings.kek_file)?);
        let keys = KeyStore::new(kek, Token::open_if(settings.token.as_ref()).await?);
        let authority = Arc::new(Authority::load(&*store, &keys).await?);
        Self::assemble(settings, clock, log, store, authority, keys).await
    }

    /// Puts the pieces together.
    ///
    /// # Errors
    /// When the registry cannot be read, or the key-encryption key is another's.
    pub async fn assemble(
        settings: Settings,
        clock: Clock,
        log: LogControl,
        store: Arc<dyn Store>,
        authority: Arc<Authority>,
        keys: KeyStore,
    ) -> Result<Arc<Self>, AppError> {
        let metrics = Arc::new(Metrics::default());
        let audit = Arc::new(Audit::open(Arc::clone(&store), clock.clone()).await?);
        let ledger = Arc::new(Ledger::new(Arc::clone(&store), authority.restored_at()));
        let instances = Arc::<Instances>::default();
        let server_names = Arc::new(ServerNames::of(&settings, &authority)?);
        let issuer = Arc::new(Issuer::new(IssuerParts {
            authority: Arc::clone(&authority),
            audit: Arc::clone(&audit),
            metrics: Arc::clone(&metrics),
            clock: clock.clone(),
            server_names: Arc::clone(&server_names),
        }));
        let tokens = Arc::new(Tokens::new(Arc::clone(&store), Arc::clone(&audit), clock.clone()));
        let enrollment = Arc::new(Enrollment::new(EnrollmentParts {
            store: Arc::clone(&store),
            issuer: Arc::clone(&issuer),
            ledger: Arc::clone(&ledger),
            instances: Arc::clone(&instances),
            audit: Arc::clone(&audit),
            metrics: Arc::clone(&metrics),
            clock: clock.clone(),
            trust_domain: authority.trust_domain().clone(),
            svid_ttl: settings.svid_ttl,
            reviewers: TokenReviewers::new(settings.token_review.iter().cloned()),
        }));
        let signing_keys = Arc::new(
            SigningKeys::load(Arc::clone(&store), Arc::clone(keys.kek()), authority.trust_domain().clone())
                .await?,
        );
        let minter = Arc::new(Minter::new(MinterParts {
            keys: Arc::clone(&signing_keys),
            enrollment: Arc::clone(&enrollment),
            audit: Arc::clone(&audit),
            metrics: Arc::clone(&metrics),
            clock: clock.clone(),
            token_life: settings.jwt_svid_ttl,
            issuer: settings.oidc_issuer.as_ref().map(ToString::to_string),
        }));
        let admins = Arc::new(Admins::new(
            Arc::clone(&store),
            Arc::clone(&issuer),
            Arc::clone(&ledger),
            Arc::clone(&audit),
            clock.clone(),
            authority.trust_domain().clone(),
        ));
        let revocations = Revocations::load(RevocationsParts {
            store: Arc::clone(&store),
            audit: Arc::clone(&audit),
            ledger: Arc::clone(&ledger),
            instances: Arc::clone(&instances),
            authority: Arc::clone(&authority),
            clock: clock.clone(),
        });
        let revocations = Arc::new(revocations.await?);
        let identity = LiveIdentity::new((*authority.bundle()).clone());
        let authorities = Arc::new(Authorities::new(AuthoritiesParts {
            store: Arc::clone(&store),
            audit: Arc::clone(&audit),
            authority: Arc::clone(&authority),
            identity: identity.clone(),
            instances: Arc::clone(&instances),
            ledger: Arc::clone(&ledger),
            clock: clock.clone(),
            keys,
            signing_keys: Arc::clone(&signing_keys),
            upstream: settings
                .upstream
                .as_ref()
                .map(|upstream| Upstream::of(upstream, authority.trust_domain(), &clock)),
            server_names: (*server_names).clone(),
            metrics: Arc::clone(&metrics),
        }));
        Ok(Arc::new(Self {
            settings,
            clock,
            store,
            audit,
            authority,
            authorities,
            server_names,
            issuer,
            ledger,
            instances,
            tokens,
            enrollment,
            revocations,
            signing_keys,
            minter,
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
            Arc::clone(&self.revocations),
            Arc::clone(&self.audit),
            Arc::clone(&self.metrics),
            Arc::clone(&self.authority),
            self.clock.clone(),
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
