//! The SPIFFE Workload API, as one connection is served it.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use hauberk_identity::{Name, SpiffeId};
use hauberk_proto::workload::spiffe_workload_api_server::SpiffeWorkloadApi;
use hauberk_proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest,
    X509svidResponse,
};
use hauberk_tls::jwt::JwtBundle;
use hauberk_tls::{LiveIdentity, LiveState, SpiffeBundle, TrustBundle};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::answers::{Answer, Answers, Elsewhere, Encoded, carrying};
use super::attest::Caller;
use super::docker::Docker;
use super::entry::Entries;
use super::jwt;
use super::keeper::{Keeper, Kept, WorkloadSvid};
use super::looks::Looks;
use super::matching::Matching;
use super::nobody;
use super::pieces::Content;
use super::tokens::Tokens;
use super::told::{Board, RevocationLists};
use crate::mesh::Denied;
use crate::metrics::WorkloadService::WorkloadApi;
use crate::metrics::{Metrics, WorkloadMetrics};

/// What every caller must say, so that no request that a browser or proxy was tricked into is answered (SPIFFE Workload
/// Endpoint §4.1).
const METADATA: &str = "workload.spiffe.io";

/// How long a caller waits for what is on its way.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How many tokens one connection may have minted or verified at once. Each holds a request in memory.
const TOKENS_AT_ONCE: usize = 32;

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    kept: watch::Receiver<Kept>,
    pub(super) live: LiveIdentity,
    matching: Arc<Matching>,
    pub(super) looks: Looks,
    pub(super) tokens: Tokens,
    pub(super) board: Board,
    pub(super) denied: Arc<Denied>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

impl Shared {
    pub(crate) fn new(
        keeper: &Keeper,
        tokens: Tokens,
        board: Board,
        docker: Option<Docker>,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let (kept, live, denied) = (keeper.kept(), keeper.live().clone(), Arc::clone(keeper.denied()));
        let matching = Arc::new(Matching::new(docker, board.denials()));
        let looks = Looks::new(stop.clone());
        Arc::new(Self { kept, live, matching, looks, tokens, board, denied, metrics, stop })
    }

    pub(super) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    pub(super) fn metrics(&self) -> &WorkloadMetrics {
        self.metrics.workloads()
    }

    /// Forgets the tokens of whoever is vouched for no longer.
    pub(super) fn forget_tokens(&self) {
        if let Some(entries) = &self.kept.borrow().entries {
            self.tokens.retain(entries);
        }
    }
}

/// The API for one caller.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(super) shared: Arc<Shared>,
    caller: Arc<Caller>,
    tokens_at_once: Arc<Semaphore>,
}

/// What a caller is given at one moment.
#[derive(Debug)]
pub(super) struct Given {
    /// Its identities, the default first.
    pub(super) identities: Vec<Identity>,
    /// The certificates that there are for them, each with its hint.
    pub(super) svids: Vec<(Arc<WorkloadSvid>, String)>,
    /// What to verify others of our own trust domain by.
    pub(super) bundle: Arc<TrustBundle>,
    /// And those of other domains, as far as its enrollments name them.
    pub(super) federated: Vec<Arc<SpiffeBundle>>,
    /// Which certificates of our own are good no longer.
    pub(super) revocation_lists: RevocationLists,
    /// What to verify tokens of our own trust domain by.
    pub(super) jwt_keys: Option<Arc<JwtBundle>>,
}

impl Given {
    /// Of its own trust domain first, then of the others that have roots: clients take an empty set for a mistake, or for
    /// no check at all.
    pub(super) fn x509_bundles(&self) -> impl Iterator<Item = &TrustBundle> {
        let others = self.federated.iter().map(|bundle| bundle.x509());
        [&*self.bundle].into_iter().chain(others.filter(|bundle| !bundle.roots().is_empty()))
    }
}

/// One identity of a caller's.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) enrollment: Name,
    pub(super) id: SpiffeId,
    /// Unique among the caller's, or empty.
    pub(super) hint: String,
}

/// Whether what a caller is given suffices for its answer; otherwise what it waits for.
pub(super) type Suffices = fn(&Given) -> Result<(), &'static str>;

/// One caller's view of what changes.
pub(super) struct Following {
    api: Api,
    kept: watch::Receiver<Kept>,
    live: watch::Receiver<LiveState>,
    revocation_lists: watch::Receiver<RevocationLists>,
    jwt_keys: watch::Receiver<Option<Arc<JwtBundle>>>,
}

impl Api {
    pub(crate) fn new(shared: Arc<Shared>, caller: Caller) -> Self {
        let tokens_at_once = Arc::new(Semaphore::new(TOKENS_AT_ONCE));
        Self { shared, caller: Arc::new(caller), tokens_at_once }
    }

    pub(super) fn follow(&self) -> Following {
        let Shared { kept, live, board, .. } = &*self.shared;
        Following {
            api: self.clone(),
            kept: kept.clone(),
            live: live.subscribe(),
            revocation_lists: board.revocation_lists(),
            jwt_keys: board.jwt_keys(),
        }
    }

    fn check_metadata<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let said: Vec<_> = request.metadata().get_all(METADATA).iter().collect();
        if matches!(said[..], [value] if value == "true") {
            return Ok(());
        }
        Err(self.refusing(Status::invalid_argument(
            "the metadata `workload.spiffe.io: true` is missing: is this a client of the SPIFFE Workload API?",
        )))
    }

    /// A turn to have a token minted or verified.
    fn turn(&self) -> Result<SemaphorePermit<'_>, Status> {
        let too_many = |_| {
            self.refusing(Status::resource_exhausted(format!(
                "{TOKENS_AT_ONCE} such calls are under way on this connection"
            )))
        };
        self.tokens_at_once.try_acquire().map_err(too_many)
    }

    /// Counts a refusal.
    fn refusing(&self, status: Status) -> Status {
        self.shared.metrics().denied(&status);
        status
    }

    /// An answer at once, and one at each change of it, until the caller is given nothing any longer.
    pub(super) fn answers<A: Answer>(&self, suffices: Suffices) -> Answers {
        let first = (self.follow(), None::<Content>);
        let shared = Arc::clone(&self.shared);
        let answers = futures_util::stream::unfold(Some(first), move |state| async move {
            let (mut following, mut told) = state?;
            loop {
                let given = following.until(told.is_some(), suffices).await;
                let (answer, content) = match given.and_then(|given| Encoded::of::<A>(&given)) {
                    Ok(answer) => answer,
                    Err(status) => return Some((Err(status), None)),
                };
                if told.replace(content.clone()) != Some(content) {
                    return Some((Ok(answer), Some((following, told))));
                }
            }
        });
        Answers::new(answers.inspect(move |answer| shared.metrics().told(WorkloadApi, answer)))
    }
}

impl Following {
    /// What the caller is given, once it suffices: now, or, where it `has_been_told`, once something has changed. Who it is
    /// is looked at each time.
    ///
    /// # Errors
    /// The status that ends its stream.
    pub(super) async fn until(&mut self, has_been_told: bool, suffices: Suffices) -> Result<Given, Status> {
        if has_been_told {
            self.changed().await?;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let kept = self.kept.borrow_and_update().clone();
            let live = self.live.borrow_and_update().clone();
            let revocation_lists = self.revocation_lists.borrow_and_update().clone();
            let jwt_keys = self.jwt_keys.borrow_and_update().clone();
            let reason = match &kept.entries {
                None => "the control plane has not told yet who is who here",
                Some(entries) => {
                    let names = self.api.shared.matching.of(&self.api.caller, entries).await;
                    let names = names.map_err(|error| nobody::unseen(self.api.caller.uid, &error))?;
                    if names.is_empty() {
                        return Err(nobody::refused(&self.api.shared.denied, &live, entries));
                    }
                    let identities = with_hints(&names, entries);
                    let svids = identities.iter().filter_map(|Identity { enrollment, hint, .. }| {
                        Some((Arc::clone(kept.svids.get(enrollment)?), hint.clone()))
                    });
                    let svids = svids.collect();
                    let (bundle, federated) = (Arc::clone(live.bundle()), federated(&names, entries, &live));
                    let given = Given { identities, svids, bundle, federated, revocation_lists, jwt_keys };
                    match suffices(&given) {
                        Ok(()) => return Ok(given),
                        Err(lack) => lack,
                    }
                }
            };
            tokio::select! {
                changed = self.changed() => changed?,
                () = sleep_until(deadline) => return Err(Status::unavailable(reason)),
            }
        }
    }

    /// Waits until something has changed of which the caller may be given something else. Whoever stops waiting misses nothing.
    ///
    /// # Errors
    /// The agent stops.
    pub(super) async fn changed(&mut self) -> Result<(), Status> {
        let stopping = || Status::unavailable("the agent is stopping");
        tokio::select! {
            () = self.api.shared.stop.cancelled() => Err(stopping()),
            changed = self.kept.changed() => changed.map_err(|_| stopping()),
            changed = self.live.changed() => changed.map_err(|_| stopping()),
            changed = self.revocation_lists.changed() => changed.map_err(|_| stopping()),
            changed = self.jwt_keys.changed() => changed.map_err(|_| stopping()),
        }
    }
}

/// Hints are unique in an answer: the first of a kind stays (SPIFFE Workload API §5.2.1).
fn with_hints(names: &[Name], entries: &Entries) -> Vec<Identity> {
    let mut taken = HashSet::new();
    let identities = names.iter().filter_map(|name| {
        let entry = entries.get(name)?;
        let hint = if taken.insert(&entry.hint) { entry.hint.clone() } else { String::new() };
        Some(Identity { enrollment: name.clone(), id: entry.certificate.id.clone(), hint })
    });
    identities.collect()
}

/// There is a certificate.
pub(super) fn has_certificate(given: &Given) -> Result<(), &'static str> {
    if given.svids.is_empty() { Err("the control plane has not issued the certificate yet") } else { Ok(()) }
}

/// It is somebody.
pub(super) fn has_identity(_: &Given) -> Result<(), &'static str> {
    Ok(())
}

/// The bundles of the trust domains that the entries of a caller name, each once.
fn federated(names: &[Name], entries: &Entries, live: &LiveState) -> Vec<Arc<SpiffeBundle>> {
    let named: BTreeSet<_> =
        names.iter().filter_map(|name| entries.get(name)).flat_map(|entry| &entry.federates_with).collect();
    named.into_iter().filter_map(|trust_domain| live.federated().get(trust_domain).cloned()).collect()
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Api {
    type FetchX509SVIDStream = Elsewhere<X509svidResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.check_metadata(&request)?;
        Ok(carrying(self.answers::<X509svidResponse>(has_certificate), tokio_stream::empty()))
    }

    type FetchX509BundlesStream = Elsewhere<X509BundlesResponse>;

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.check_metadata(&request)?;
        Ok(carrying(self.answers::<X509BundlesResponse>(has_identity), tokio_stream::empty()))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        self.check_metadata(&request)?;
        let _turn = self.turn()?;
        let fetched = jwt::fetch(self, request.into_inner()).await;
        self.shared.metrics().told(WorkloadApi, &fetched);
        fetched.map(Response::new)
    }

    type FetchJWTBundlesStream = Elsewhere<JwtBundlesResponse>;

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        self.check_metadata(&request)?;
        Ok(carrying(self.answers::<JwtBundlesResponse>(jwt::has_keys), tokio_stream::empty()))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        self.check_metadata(&request)?;
        let _turn = self.turn()?;
        let verified = jwt::validate(self, request.into_inner()).await;
        self.shared.metrics().told(WorkloadApi, &verified);
        verified.map(Response::new)
    }
}

impl Answer for X509svidResponse {
    /// `crl = 2`.
    const LISTS: Option<u8> = Some(2);

    fn of(given: &Given) -> Self {
        let bundle = concatenated(&given.bundle);
        let svids = given.svids.iter().map(|(workload, hint)| X509svid {
            spiffe_id: workload.svid.id().to_string(),
            x509_svid: workload.svid.chain().iter().flat_map(|der| der.iter().copied()).collect(),
            x509_svid_key: workload.key.to_pkcs8_der().to_vec(),
            bundle: bundle.clone(),
            hint: hint.clone(),
        });
        let federated = given.x509_bundles().skip(1).map(x509_bundle);
        Self { svids: svids.collect(), crl: Vec::new(), federated_bundles: federated.collect() }
    }
}

impl Answer for X509BundlesResponse {
    /// `crl = 1`.
    const LISTS: Option<u8> = Some(1);

    fn of(given: &Given) -> Self {
        Self { crl: Vec::new(), bundles: given.x509_bundles().map(x509_bundle).collect() }
    }
}

impl Answer for JwtBundlesResponse {
    const LISTS: Option<u8> = None;

    fn of(given: &Given) -> Self {
        Self { bundles: jwt::bundles(given) }
    }
}

fn x509_bundle(bundle: &TrustBundle) -> (String, Vec<u8>) {
    (bundle.trust_domain().id_string(), concatenated(bundle))
}

fn concatenated(bundle: &TrustBundle) -> Vec<u8> {
    bundle.roots().iter().flat_map(|root| root.der().iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Buf;
    use futures_util::FutureExt;
    use hauberk_identity::TrustDomain;
    use hauberk_proto::agent::v1 as pb;
    use hauberk_tls::jwt::{JwtSigner, KeyUse};
    use http_body_util::BodyExt;
    use prost::Message;
    use tokio::time::timeout;
    use tonic::Code;

    use super::super::looks::Depth;
    use super::super::looks::tests::{Stalled, programs};
    use super::super::testing::{Served, worker};
    use super::*;

    /// The keys of so many signers, as they are told.
    fn told(signers: &[JwtSigner]) -> pb::JwtKeys {
        let keys = signers.iter().map(|signer| signer.public_key().unwrap());
        let bundle = JwtBundle::new(domain(), keys).unwrap();
        pb::JwtKeys { jwks: bundle.to_jwks(KeyUse::Unsaid), ..pb::JwtKeys::default() }
    }

    fn domain() -> TrustDomain {
        TrustDomain::parse("shop.local").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_and_does_not_wait_keeps_no_turn_from_others() {
        let served = Served::new();
        served.board.take_entries(pb::WorkloadEntries { entries: vec![worker()] });
        // As the streams of a connection on which other answers are left unread: `untaken.rs` polls them no further.
        let streams = (0..50).map(|_| served.api().answers::<X509BundlesResponse>(has_identity));
        let mut left: Vec<_> = streams.collect();
        for stream in &mut left {
            assert!(stream.frame().now_or_never().is_none());
        }
        served.api().follow().until(false, has_identity).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_be_looked_at_is_told_in_time() {
        let served = Served::new();
        served.board.take_entries(pb::WorkloadEntries { entries: vec![worker()] });
        let mut stalled = Stalled::new();
        let own = rustix::process::geteuid().as_raw();
        for disk in [1, 1, 2, 2] {
            stalled.look(&served.shared.looks, programs(own, disk), Depth::Surface);
        }
        stalled.begun(4).await;
        let (mut following, since) = (served.api().follow(), Instant::now());
        let mut asking = std::pin::pin!(following.until(false, has_identity));
        let refused = loop {
            // The clock of a test does not go by itself while a thread works.
            tokio::time::advance(Duration::from_secs(1)).await;
            if let Some(answer) = (&mut asking).now_or_never() {
                break answer.unwrap_err();
            }
        };
        assert_eq!(refused.code(), Code::Unavailable);
        assert!(since.elapsed() <= 2 * PATIENCE);
        stalled.end().await;
    }

    #[tokio::test]
    async fn keys_that_are_rotated_reach_whoever_waits_and_the_latest_whoever_is_slow() {
        let served = Served::new();
        let (board, state, api) = (&served.board, &served.state, served.api());
        let signers: Vec<JwtSigner> = (0..20).map(|_| JwtSigner::generate().unwrap()).collect();
        let mut stream = api.answers::<JwtBundlesResponse>(jwt::has_keys);
        board.take_entries(pb::WorkloadEntries { entries: vec![worker()] });
        board.take_jwt_keys(&told(&signers[..1]), &domain()).unwrap();
        let mut next = async || {
            let frame = timeout(4 * PATIENCE, stream.frame()).await.expect("in time").expect("a stream");
            let mut answer = frame.unwrap().into_data().map_err(|trailers| {
                Status::from_header_map(trailers.trailers_ref().unwrap()).unwrap().code()
            })?;
            answer.advance(5);
            let bundles = JwtBundlesResponse::decode(answer).unwrap().bundles;
            let jwks = bundles.get("spiffe://shop.local").expect("our own").clone();
            Ok::<_, Code>(String::from_utf8(jwks).unwrap())
        };
        assert_eq!(next().await.unwrap(), told(&signers[..1]).jwks);
        board.take_jwt_keys(&told(&signers[..2]), &domain()).unwrap();
        assert_eq!(next().await.unwrap(), told(&signers[..2]).jwks);
        // What is no key set changes nothing; whoever reads nothing for a while has missed nothing that counts.
        assert!(
            board
                .take_jwt_keys(&pb::JwtKeys { jwks: "{}".to_owned(), ..pb::JwtKeys::default() }, &domain())
                .is_err()
        );
        for many in 3..=signers.len() {
            board.take_jwt_keys(&told(&signers[..many]), &domain()).unwrap();
        }
        assert_eq!(next().await.unwrap(), told(&signers).jwks);

        // As they are kept, another agent finds them.
        state.save_jwt_keys(&told(&signers)).unwrap();
        let again = Board::new(true);
        again.reload(state, &domain());
        super::super::forget_keys(state);
        assert_eq!(state.jwt_keys().unwrap(), None);
        super::super::forget_keys(state);
        assert_eq!(again.jwt_keys().borrow().as_ref().unwrap().keys().count(), signers.len());

        board.vouch_for_nobody();
        assert_eq!(next().await.unwrap_err(), Code::PermissionDenied);
    }
}
