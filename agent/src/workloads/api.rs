//! What a caller is given by the SPIFFE Workload API, now and at each change.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use hauberk_identity::SpiffeId;
use hauberk_proto::workload::{JwtBundlesResponse, X509BundlesResponse, X509svid, X509svidResponse};
use hauberk_tls::jwt::JwtBundle;
use hauberk_tls::{LiveIdentity, LiveState, TrustBundle};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::answers::{Answer, Answers, Encoded};
use super::attest::Caller;
use super::docker::Docker;
use super::given::{Given, HintsLeftOut, Suffices, Sufficiency};
use super::jwt;
use super::keeper::{Keeper, Kept};
use super::matching::Matching;
use super::nobody;
use super::pieces::Content;
use super::tokens::Tokens;
use super::told::{Board, RevocationLists};
use super::unjoined::Front;
use crate::mesh::Denied;
use crate::metrics::WorkloadService::WorkloadApi;
use crate::metrics::{Metrics, WorkloadMetrics};

/// How long a caller waits for what is on its way.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    kept: watch::Receiver<Kept>,
    pub(super) live: LiveIdentity,
    matching: Arc<Matching>,
    pub(super) tokens: Tokens,
    pub(super) board: Board,
    pub(super) denied: Arc<Denied>,
    hints_left_out: HintsLeftOut,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

impl Shared {
    pub(crate) fn new(keeper: &Keeper, tokens: Tokens, docker: Option<Docker>, front: &Front) -> Arc<Self> {
        let (kept, live, denied) = (keeper.kept(), keeper.live().clone(), Arc::clone(keeper.denied()));
        let (board, stop) = (front.board().clone(), front.stop().clone());
        let matching = Arc::new(Matching::new(docker, board.denials()));
        let metrics = front.all_metrics();
        let hints_left_out = HintsLeftOut::default();
        Arc::new(Self { kept, live, matching, tokens, board, denied, hints_left_out, metrics, stop })
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
}

/// One caller's view of what changes.
pub(super) struct Following {
    api: Api,
    kept: watch::Receiver<Kept>,
    live: watch::Receiver<LiveState>,
    revocation_lists: watch::Receiver<RevocationLists>,
    jwt_keys: watch::Receiver<Option<Arc<JwtBundle>>>,
    /// It was given nothing yet.
    is_first: bool,
    /// Whom it acts as by what it was given.
    default: Option<SpiffeId>,
}

impl Api {
    pub(crate) fn new(shared: Arc<Shared>, caller: Arc<Caller>) -> Self {
        Self { shared, caller }
    }

    pub(super) fn follow(&self) -> Following {
        let Shared { kept, live, board, .. } = &*self.shared;
        Following {
            api: self.clone(),
            kept: kept.clone(),
            live: live.subscribe(),
            revocation_lists: board.revocation_lists(),
            jwt_keys: board.jwt_keys(),
            is_first: true,
            default: None,
        }
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
    /// What the caller is given, once it suffices: now, or, where it `has_been_told`, once something has changed. Who
    /// it is is looked at each time.
    ///
    /// # Errors
    /// The status that ends its stream.
    pub(super) async fn until(&mut self, has_been_told: bool, suffices: Suffices) -> Result<Given, Status> {
        if has_been_told {
            self.changed().await?;
        }
        let deadline = Instant::now() + PATIENCE;
        let mut waits_for_more = self.is_first;
        loop {
            let kept = self.kept.borrow_and_update().clone();
            let live = self.live.borrow_and_update().clone();
            let revocation_lists = self.revocation_lists.borrow_and_update().clone();
            let jwt_keys = self.jwt_keys.borrow_and_update().clone();
            let lack = match &kept.entries {
                None => Some("the control plane has not told yet who is who here"),
                Some(entries) => {
                    let names = self.api.shared.matching.of(&self.api.caller, entries).await;
                    let names = names.map_err(|error| nobody::unseen(self.api.caller.uid, &error))?;
                    if names.is_empty() {
                        return Err(nobody::refused(&self.api.shared.denied, &live, entries));
                    }
                    let told = (entries.as_ref(), &kept);
                    let mut given = Given::of(&names, told, &live, revocation_lists, jwt_keys);
                    self.api.shared.hints_left_out.tell(&given.identities, told.0);
                    // Whoever acts as somebody goes on as that until there is the one who comes before.
                    given.has_default |= self.default.is_some()
                        && self.default.as_ref() == given.svids.first().map(|(first, _)| first.svid.id());
                    match suffices(&given) {
                        Sufficiency::InPart if waits_for_more => None,
                        Sufficiency::Whole | Sufficiency::InPart => {
                            self.is_first = false;
                            self.default = given.default_id().cloned();
                            return Ok(given);
                        }
                        Sufficiency::Lacks(lack) => Some(lack),
                    }
                }
            };
            tokio::select! {
                changed = self.changed() => changed?,
                () = sleep_until(deadline) => match lack {
                    Some(lack) => return Err(Status::unavailable(lack)),
                    // Who the caller is, is looked at again.
                    None => waits_for_more = false,
                },
            }
        }
    }

    /// Waits until something has changed of which the caller may be given something else. Whoever stops waiting misses
    /// nothing.
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
    use hauberk_identity::{Name, TrustDomain};
    use hauberk_proto::agent::v1 as pb;
    use hauberk_tls::KeyPair;
    use hauberk_tls::jwt::{JwtSigner, KeyUse};
    use http_body_util::BodyExt;
    use prost::Message;
    use tokio::time::timeout;
    use tonic::Code;

    use super::super::entry;
    use super::super::given::{has_certificate, has_identity};
    use super::super::keeper::WorkloadSvid;
    use super::super::looks::Depth;
    use super::super::looks::tests::{Stalled, programs};
    use super::super::testing::{Served, worker};
    use super::*;
    use crate::testing::{Authorities, HOUR, around};

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
        served.api().follow().until(false, has_identity).await.unwrap();
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
        served.api().follow().until(false, has_identity).await.unwrap();
        let mut stalled = Stalled::new();
        let own = rustix::process::geteuid().as_raw();
        for disk in [1, 1, 2, 2] {
            stalled.look(served.front.looks(), programs(own, disk), Depth::Surface);
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
        assert!(refused.message().contains("found out"), "{refused}");
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

    /// A program with identities of which a test says when each has its certificate.
    struct Stage {
        authorities: Arc<Authorities>,
        kept: watch::Sender<Kept>,
        served: Served,
    }

    impl Stage {
        /// By enrollments of these names.
        fn of(names: &[&str]) -> Self {
            let mut served = Served::new();
            let (kept, receiver) = watch::channel(Kept::default());
            served.front.close();
            Arc::get_mut(&mut served.shared).unwrap().kept = receiver;
            let stage = Self { authorities: Authorities::new(), kept, served };
            stage.enroll(names);
            stage
        }

        fn enroll(&self, names: &[&str]) {
            let entries = names.iter().map(|name| pb::WorkloadEntry {
                enrollment: (*name).to_owned(),
                spiffe_id: format!("spiffe://shop.local/workload/{name}"),
                ..worker()
            });
            let entries = entry::read(pb::WorkloadEntries { entries: entries.collect() });
            self.kept.send_modify(|kept| {
                kept.svids.retain(|name, _| entries.contains_key(name));
                kept.entries = Some(Arc::new(entries));
            });
        }

        fn issue(&self, name: &str) {
            let key = KeyPair::generate().unwrap();
            let svid = self.authorities.sign(&format!("workload/{name}"), key.public_key(), around(HOUR));
            let workload = Arc::new(WorkloadSvid { svid, key });
            let name = Name::parse(name).unwrap();
            self.kept.send_modify(|kept| {
                kept.svids.insert(name, workload);
            });
        }

        fn revoke(&self, name: &str) {
            let name = Name::parse(name).unwrap();
            self.kept.send_modify(|kept| {
                kept.svids.remove(&name);
            });
        }

        fn refuse(&self, name: &str) {
            let name = Name::parse(name).unwrap();
            self.kept.send_modify(|kept| {
                kept.refused.insert(name);
            });
        }

        fn ask(&self) -> Answers {
            self.served.api().answers::<X509svidResponse>(has_certificate)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_lacks_a_certificate_because_of_the_clock_is_told_so() {
        let stage = Stage::of(&["a"]);
        stage.kept.send_modify(|kept| {
            kept.outlived.insert(Name::parse("a").unwrap());
        });
        let refused = stage.served.api().follow().until(false, has_certificate).await.unwrap_err();
        assert!(refused.message().starts_with("this host's clock is ahead"), "{refused}");
        stage.issue("a");
        stage.served.api().follow().until(false, has_certificate).await.unwrap();
    }

    /// The last parts of the ids of the next answer, or why there is none; and after how long.
    async fn told_next(answers: &mut Answers) -> (Result<Vec<String>, Code>, Duration) {
        let since = Instant::now();
        let frame = answers.frame().await.expect("an answer, or a status").unwrap();
        let told = match frame.into_data() {
            Ok(mut answer) => {
                answer.advance(5);
                let svids = X509svidResponse::decode(answer).unwrap().svids;
                let names = svids.iter().map(|svid| svid.spiffe_id.rsplit('/').next().unwrap().to_owned());
                Ok(names.collect())
            }
            Err(frame) => Err(Status::from_header_map(frame.trailers_ref().unwrap()).unwrap().code()),
        };
        (told, since.elapsed())
    }

    fn names(names: &[&str]) -> Result<Vec<String>, Code> {
        Ok(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_is_told_of_all_that_it_is_at_once() {
        let stage = Stage::of(&["a", "b"]);
        stage.issue("b");
        let mut answers = stage.ask();
        let issuing = async {
            tokio::time::sleep(PATIENCE / 2).await;
            stage.issue("a");
        };
        let ((told, after), ()) = tokio::join!(told_next(&mut answers), issuing);
        assert_eq!(told, names(&["a", "b"]));
        assert!(after < PATIENCE, "{after:?}");

        // Nobody is taken for another because that one's certificate does not come.
        let stage = Stage::of(&["a", "b"]);
        stage.issue("b");
        let (told, after) = told_next(&mut stage.ask()).await;
        assert_eq!(told, Err(Code::Unavailable));
        assert!(after >= PATIENCE, "{after:?}");

        // Where only others do not come, it is who it is, and told of them later.
        stage.issue("a");
        stage.revoke("b");
        let mut answers = stage.ask();
        let (told, after) = told_next(&mut answers).await;
        assert_eq!(told, names(&["a"]));
        assert!(after >= PATIENCE, "{after:?}");
        stage.issue("b");
        assert_eq!(told_next(&mut answers).await.0, names(&["a", "b"]));

        // What is refused is waited for by nobody.
        let stage = Stage::of(&["a", "b"]);
        stage.issue("b");
        stage.refuse("a");
        let (told, after) = told_next(&mut stage.ask()).await;
        assert_eq!(told, names(&["b"]));
        assert!(after < PATIENCE, "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_was_told_who_it_is_goes_on_as_that() {
        let stage = Stage::of(&["b", "c"]);
        stage.issue("b");
        stage.issue("c");
        let mut answers = stage.ask();
        assert_eq!(told_next(&mut answers).await.0, names(&["b", "c"]));
        // One that comes before it, and lags: renewals are told all the same.
        stage.enroll(&["a", "b", "c"]);
        stage.issue("c");
        let (told, after) = told_next(&mut answers).await;
        assert_eq!(told, names(&["b", "c"]));
        assert!(after < PATIENCE, "{after:?}");
        stage.issue("a");
        assert_eq!(told_next(&mut answers).await.0, names(&["a", "b", "c"]));
        // It is withdrawn.
        stage.enroll(&["b", "c"]);
        let (told, after) = told_next(&mut answers).await;
        assert_eq!(told, names(&["b", "c"]));
        assert!(after < PATIENCE, "{after:?}");
        // It is revoked, and no other is issued: it is not told to be another for that.
        stage.revoke("b");
        let (told, after) = told_next(&mut answers).await;
        assert_eq!(told, Err(Code::Unavailable));
        assert!(after >= PATIENCE, "{after:?}");
    }
}
