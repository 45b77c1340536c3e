//! Programs that ask before the agent is somebody: until there is a certificate, however long that takes, they are answered what
//! they wait for. Tokens of our own trust domain are verified all the same, by what is on disk.

use std::sync::Arc;

use hauberk_identity::{TrustDomain, UnixMillis};
use hauberk_proto::refusal;
use hauberk_proto::workload::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use hauberk_proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
};
use hauberk_tls::jwt::JwtBundle;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use super::answers::Elsewhere;
use super::api::{PATIENCE, Shared, check_marked};
use super::jwt;
use super::looks::Looks;
use super::told::Board;
use crate::clock::Clock;
use crate::mesh::Denied;
use crate::metrics::WorkloadService::WorkloadApi;
use crate::metrics::{Metrics, WorkloadMetrics};
use crate::state::{State, StoredIdentity};
use crate::sync::{Recipient, kept_denylist};

/// The path of the one call that takes no identity.
const VALIDATE: &str = "/SpiffeWorkloadAPI/ValidateJWTSVID";

/// What connections are accepted with from the start.
#[derive(Debug)]
pub(crate) struct Front {
    board: Board,
    looks: Looks,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    stage: watch::Sender<Stage>,
}

/// How far the agent is.
#[derive(Debug)]
enum Stage {
    /// It is nobody, or nobody any longer.
    Unjoined { lack: Lack, verifier: Option<Verifier> },
    /// It is somebody.
    Joined(Arc<Shared>),
}

/// Why the agent is nobody yet.
#[derive(Debug, Clone, Copy)]
struct Lack {
    /// When the certificate ends that is on disk, if one is.
    not_after: Option<UnixMillis>,
    clock: Clock,
}

impl Lack {
    fn status(self) -> Status {
        let (reason, message) = match self.not_after {
            Some(not_after) if not_after < self.clock.now() => (
                refusal::CERTIFICATE_ENDED,
                format!(
                    "the agent's own certificate ended at {not_after}, and it has no other yet: its log says why"
                ),
            ),
            _ => (
                refusal::NOT_JOINED,
                "the agent has not joined yet: its log says what it waits for".to_owned(),
            ),
        };
        refusal::with_reason(Code::Unavailable, reason, &message)
    }
}

impl Front {
    /// Of an agent that is nobody yet, and keeps its state here.
    pub(crate) fn new(
        board: Board,
        metrics: Arc<Metrics>,
        state: Arc<State>,
        clock: Clock,
        stop: CancellationToken,
    ) -> Arc<Self> {
        // What is damaged is told by whoever needs it.
        let identity = state.identity().ok().flatten();
        let not_after = identity.as_ref().map(|identity| identity.svid.validity().not_after());
        let lack = Lack { not_after, clock };
        let verifier = identity.and_then(|identity| Verifier::of(&identity, &state, lack, &metrics));
        let stage = watch::Sender::new(Stage::Unjoined { lack, verifier });
        let looks = Looks::new(stop.clone());
        Arc::new(Self { board, looks, metrics, stop, stage })
    }

    /// The agent is somebody: whoever has waited is served.
    pub(super) fn open(&self, shared: Arc<Shared>) {
        self.stage.send_replace(Stage::Joined(shared));
    }

    /// As before it was opened: nobody shares anything.
    #[cfg(test)]
    pub(super) fn close(&self) {
        let lack = Lack { not_after: None, clock: Clock::system() };
        self.stage.send_replace(Stage::Unjoined { lack, verifier: None });
    }

    /// What all connections share, once there is that.
    ///
    /// # Errors
    /// There is not for a while.
    pub(super) async fn shared(&self) -> Result<Arc<Shared>, Status> {
        if let Stage::Joined(shared) = &*self.stage.borrow() {
            return Ok(Arc::clone(shared));
        }
        let mut stages = self.stage.subscribe();
        let joining = stages.wait_for(|stage| matches!(stage, Stage::Joined(_)));
        tokio::select! {
            () = self.stop.cancelled() => return Err(self.refusing(Status::unavailable("the agent is stopping"))),
            _joined_or_not = timeout(PATIENCE, joining) => {}
        }
        let lack = match &*self.stage.borrow() {
            Stage::Joined(shared) => return Ok(Arc::clone(shared)),
            Stage::Unjoined { lack, .. } => *lack,
        };
        Err(self.refusing(lack.status()))
    }

    /// Whether the agent is somebody, once that is other than `before`.
    pub(super) async fn is_joined_other_than(&self, before: Option<bool>) -> bool {
        let is_joined = |stage: &Stage| matches!(stage, Stage::Joined(_));
        let mut stages = self.stage.subscribe();
        let other = stages.wait_for(|stage| before != Some(is_joined(stage))).await;
        other.is_ok_and(|stage| is_joined(&stage))
    }

    /// Who answers this request before the agent is somebody, if it can be answered.
    pub(super) fn verifier_for<B>(
        &self,
        request: &http::Request<B>,
    ) -> Option<SpiffeWorkloadApiServer<Verifier>> {
        match &*self.stage.borrow() {
            Stage::Unjoined { verifier: Some(verifier), .. } if request.uri().path() == VALIDATE => {
                Some(SpiffeWorkloadApiServer::new(verifier.clone()))
            }
            Stage::Unjoined { .. } | Stage::Joined(_) => None,
        }
    }

    /// What the control plane has told.
    pub(crate) fn board(&self) -> &Board {
        &self.board
    }

    pub(super) fn looks(&self) -> &Looks {
        &self.looks
    }

    pub(super) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    pub(super) fn metrics(&self) -> &WorkloadMetrics {
        self.metrics.workloads()
    }

    pub(super) fn all_metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// Counts a refusal.
    fn refusing(&self, status: Status) -> Status {
        self.metrics().denied(&status);
        status
    }
}

/// Verifies tokens of our own trust domain by what is on disk. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Verifier(Arc<Kept>);

#[derive(Debug)]
struct Kept {
    trust_domain: TrustDomain,
    keys: JwtBundle,
    denied: Denied,
    lack: Lack,
    metrics: Arc<Metrics>,
}

impl Verifier {
    /// `None` where something is missing that it takes: of a list of who is revoked that cannot be read nobody knows whom it names.
    fn of(identity: &StoredIdentity, state: &State, lack: Lack, metrics: &Arc<Metrics>) -> Option<Self> {
        let id = identity.svid.id();
        let (trust, keys) = (state.trust().ok()??, state.jwt_keys().ok()??);
        let keys = JwtBundle::from_jwks(id.trust_domain().clone(), keys.jwks.as_bytes()).ok()?;
        let denied = Denied::new();
        let recipient = Recipient::of(id).ok()?;
        if let Some((denylist, _key)) = kept_denylist(state, &trust.view_keys, &recipient).ok()? {
            denied.replace(denylist);
        }
        let (trust_domain, metrics) = (id.trust_domain().clone(), Arc::clone(metrics));
        Some(Self(Arc::new(Kept { trust_domain, keys, denied, lack, metrics })))
    }

    fn validate(&self, request: &ValidateJwtsvidRequest) -> Result<ValidateJwtsvidResponse, Status> {
        let Kept { trust_domain, keys, denied, lack, metrics: _ } = &*self.0;
        if jwt::claimed(request)? != *trust_domain {
            // Whether the program is given that domain's keys only the control plane tells.
            return Err(lack.status());
        }
        let svid = jwt::judge(&request.svid, &request.audience, keys, denied, lack.clock.now());
        Ok(jwt::told(&svid.map_err(Status::invalid_argument)?))
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Verifier {
    type FetchX509SVIDStream = Elsewhere<X509svidResponse>;

    async fn fetch_x509svid(
        &self,
        _: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        Err(self.0.lack.status())
    }

    type FetchX509BundlesStream = Elsewhere<X509BundlesResponse>;

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Err(self.0.lack.status())
    }

    async fn fetch_jwtsvid(&self, _: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        Err(self.0.lack.status())
    }

    type FetchJWTBundlesStream = Elsewhere<JwtBundlesResponse>;

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(self.0.lack.status())
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let verified = check_marked(&request).and_then(|()| self.validate(request.get_ref()));
        self.0.metrics.workloads().told(WorkloadApi, &verified);
        verified.map(Response::new)
    }
}

#[cfg(test)]
mod tests {
    use hauberk_identity::{SpiffeId, Validity};
    use hauberk_proto::agent::v1 as pb;
    use hauberk_tls::jwt::{Claims, JwtSigner, KeyUse};
    use tempfile::TempDir;
    use tokio::task::JoinSet;
    use tokio::time::Instant;

    use super::super::client::{Client, connect, marked};
    use super::super::places::Places;
    use super::super::serve::serve;
    use super::super::socket::ApiSocket;
    use super::super::testing::{Served, worker};
    use super::*;
    use crate::state::StoredTrust;
    use crate::testing::{Authorities, HOUR, now};

    /// An agent that is nobody, and a program that asks it.
    struct Asked {
        front: Arc<Front>,
        client: Client,
        _tasks: JoinSet<()>,
        _folder: TempDir,
    }

    async fn asked(state: impl FnOnce(&State)) -> Asked {
        hauberk_tls::install_provider();
        let folder = tempfile::tempdir().unwrap();
        let kept = Arc::new(State::open(&folder.path().join("state")).unwrap());
        state(&kept);
        let (board, stop) = (Board::new(true), CancellationToken::new());
        let front = Front::new(board, Arc::default(), kept, Clock::system(), stop);
        let path = folder.path().join("api.sock");
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(ApiSocket::bind(&path).unwrap(), Places::new(64), Arc::clone(&front)));
        let client = connect(path.to_str().unwrap()).await.unwrap();
        Asked { front, client, _tasks: tasks, _folder: folder }
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_an_agent_that_has_not_joined_hears_so_and_is_served_once_it_has() {
        let mut asked = asked(|_| {}).await;
        let since = Instant::now();
        let refused = asked.client.fetch_x509_bundles(marked(X509BundlesRequest {})).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        assert_eq!(refusal::reason(&refused).as_deref(), Some(refusal::NOT_JOINED));
        assert!(since.elapsed() <= 2 * PATIENCE, "{:?}", since.elapsed());
        let page = asked.front.metrics.text();
        assert!(page.contains("hauberk_workload_denials_total{reason=\"unavailable\"} 1"), "{page}");

        // Whoever waits as it joins goes on on the same connection.
        let served = Served::new();
        served.board.take_entries(pb::WorkloadEntries { entries: vec![worker()] });
        let joining = async {
            tokio::task::yield_now().await;
            asked.front.open(Arc::clone(&served.shared));
        };
        let (answers, ()) =
            tokio::join!(asked.client.fetch_x509_bundles(marked(X509BundlesRequest {})), joining);
        assert!(answers.unwrap().into_inner().message().await.unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_an_agent_whose_certificate_has_ended_hears_so_and_has_tokens_verified() {
        const ID: &str = "spiffe://shop.local/workload/worker";
        let signer = JwtSigner::generate().unwrap();
        let domain = TrustDomain::parse("shop.local").unwrap();
        let keys = JwtBundle::new(domain, [signer.public_key().unwrap()]).unwrap();
        let mut asked = asked(|state| {
            let authorities = Authorities::new();
            let ended = Validity::new(now().minus(2 * HOUR), now().minus(HOUR)).unwrap();
            let identity = authorities.identity("mesh/shop/node/web", ended);
            state.keeping().unwrap().save_identity(&identity).unwrap();
            state.save_trust(&StoredTrust::new(authorities.trust()).unwrap()).unwrap();
            let jwks = keys.to_jwks(KeyUse::Unsaid);
            state.save_jwt_keys(&pb::JwtKeys { jwks, ..pb::JwtKeys::default() }).unwrap();
        })
        .await;
        let refused = asked.client.fetch_x509svid(marked(X509svidRequest {})).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        assert_eq!(refusal::reason(&refused).as_deref(), Some(refusal::CERTIFICATE_ENDED));

        let token = |id: &str| {
            let claims = Claims {
                id: &SpiffeId::parse(id).unwrap(),
                audience: &["db".to_owned()],
                issued_at: now(),
                expires_at: now().plus(HOUR),
                token_id: "1",
                issuer: None,
            };
            signer.sign(&claims).unwrap().to_string()
        };
        let mut validated = async |audience: &str, id: &str, is_marked: bool| {
            let request = ValidateJwtsvidRequest { audience: audience.to_owned(), svid: token(id) };
            let request = if is_marked { marked(request) } else { Request::new(request) };
            let answer = asked.client.validate_jwtsvid(request).await;
            answer.map(|answer| answer.into_inner().spiffe_id).map_err(|status| status.code())
        };
        assert_eq!(validated("db", ID, true).await, Ok(ID.to_owned()));
        assert_eq!(validated("other", ID, true).await, Err(Code::InvalidArgument));
        assert_eq!(validated("db", ID, false).await, Err(Code::InvalidArgument));
        assert_eq!(validated("db", "spiffe://partner.example/x", true).await, Err(Code::Unavailable));
    }
}
