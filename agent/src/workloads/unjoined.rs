//! Programs that ask before the agent is somebody: until there is a certificate, however long that takes, they are answered what
//! they wait for.

use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::UnixMillis;
use hauberk_proto::refusal;
use hauberk_tls::{LiveState, Svid};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::api::{PATIENCE, Shared};
use super::looks::Looks;
use super::told::Board;
use crate::clock::Clock;
use crate::metrics::{Metrics, WorkloadMetrics};
use crate::state::State;

/// The longest that whoever watches whether the agent serves sleeps without a look at the clock, which may be set or
/// stand still while the host sleeps.
const LOOK: Duration = Duration::from_secs(15);

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
    /// It is nobody yet.
    Unjoined(Lack),
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
        match self.not_after {
            Some(not_after) if not_after <= self.clock.now() => certificate_ended(not_after),
            _ => not_joined("the agent has not joined yet: its log says what it waits for"),
        }
    }
}

/// # Errors
/// By this clock the agent's own certificate is not good: what programs are answered meanwhile.
pub(super) fn has_certificate(us: &LiveState, now: UnixMillis) -> Result<(), Status> {
    let Some(validity) = us.svid().map(Svid::validity) else {
        return Err(not_joined("the agent has no certificate: its log says why"));
    };
    if validity.not_after() <= now {
        return Err(certificate_ended(validity.not_after()));
    }
    if now < validity.not_before() {
        let begins = validity.not_before();
        return Err(not_joined(&format!(
            "the agent's own certificate begins only at {begins} by this host's clock, which is wrong, or was when that was issued"
        )));
    }
    Ok(())
}

/// How long that stays as it is, unless there is another certificate, and how long it is not looked at at the most. There
/// may be many who watch.
fn until_next_look(us: &LiveState, now: UnixMillis) -> Duration {
    let bounds = us.svid().map(Svid::validity).map(|validity| [validity.not_before(), validity.not_after()]);
    let next = bounds.and_then(|bounds| bounds.into_iter().find(|bound| now < *bound));
    next.map_or(LOOK, |next| next.since(now).clamp(Duration::from_millis(1), LOOK))
}

fn not_joined(message: &str) -> Status {
    refusal::with_reason(Code::Unavailable, refusal::NOT_JOINED, message)
}

/// What programs are answered while the agent's own certificate, which ended then, is not replaced.
fn certificate_ended(not_after: UnixMillis) -> Status {
    let message = format!(
        "the agent's own certificate ended at {not_after}, and it has no other yet: its log says why"
    );
    refusal::with_reason(Code::Unavailable, refusal::CERTIFICATE_ENDED, &message)
}

impl Front {
    /// Of an agent that is nobody yet, and keeps its state here.
    pub(crate) fn new(
        board: Board,
        metrics: Arc<Metrics>,
        state: &State,
        clock: Clock,
        stop: CancellationToken,
    ) -> Arc<Self> {
        // What is damaged is told by whoever needs it.
        let identity = state.identity().ok().flatten();
        let not_after = identity.map(|identity| identity.svid.validity().not_after());
        let stage = watch::Sender::new(Stage::Unjoined(Lack { not_after, clock }));
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
        self.stage.send_replace(Stage::Unjoined(lack));
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
            () = self.stop.cancelled() => {
                return Err(self.metrics().refusing(Status::unavailable("the agent is stopping")));
            }
            _joined_or_not = timeout(PATIENCE, joining) => {}
        }
        let lack = match &*self.stage.borrow() {
            Stage::Joined(shared) => return Ok(Arc::clone(shared)),
            Stage::Unjoined(lack) => *lack,
        };
        Err(self.metrics().refusing(lack.status()))
    }

    /// Whether the agent serves, once that is other than `before`: it is somebody, by a certificate that is good now.
    pub(super) async fn serves_other_than(&self, before: Option<bool>) -> bool {
        let mut stages = self.stage.subscribe();
        loop {
            let shared = match &*stages.borrow_and_update() {
                Stage::Unjoined(_) => None,
                Stage::Joined(shared) => Some(Arc::clone(shared)),
            };
            // Before it is looked at, so that no change slips in between.
            let mut live = shared.as_ref().map(|shared| shared.live.subscribe());
            let (serves, wait) = shared.map_or((false, LOOK), |shared| {
                let (us, now) = (shared.live.current(), shared.tokens.now());
                (has_certificate(&us, now).is_ok(), until_next_look(&us, now))
            });
            if before != Some(serves) {
                return serves;
            }
            let renewed = async {
                match &mut live {
                    Some(live) => live.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The senders are ours.
                Ok(()) = stages.changed() => {}
                Ok(()) = renewed => {}
                () = sleep(wait) => {}
            }
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
}

#[cfg(test)]
mod tests {
    use hauberk_identity::{SpiffeId, Validity};
    use hauberk_proto::agent::v1 as pb;
    use hauberk_proto::workload::{ValidateJwtsvidRequest, X509BundlesRequest, X509svidRequest};
    use hauberk_tls::jwt::{Claims, JwtSigner};
    use tempfile::TempDir;
    use tokio::task::JoinSet;
    use tokio::time::Instant;

    use super::super::client::{Client, connect, marked};
    use super::super::entrance::TOKENS_AT_ONCE;
    use super::super::places::Places;
    use super::super::serve::serve;
    use super::super::socket::ApiSocket;
    use super::super::testing::{Served, worker};
    use super::*;
    use crate::state::StoredIdentity;
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
        let kept = State::open(&folder.path().join("state")).unwrap();
        state(&kept);
        let (board, stop) = (Board::new(true), CancellationToken::new());
        let front = Front::new(board, Arc::default(), &kept, Clock::system(), stop);
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

    /// What an agent was told that long ago it may have been told otherwise since; and by a clock that its own
    /// certificate proves wrong no token is young.
    #[tokio::test(start_paused = true)]
    async fn an_agent_without_a_certificate_that_is_good_now_vouches_for_no_token() {
        let signer = JwtSigner::generate().unwrap();
        let claims = Claims {
            id: &SpiffeId::parse("spiffe://shop.local/workload/worker").unwrap(),
            audience: &["db".to_owned()],
            issued_at: now(),
            expires_at: now().plus(HOUR),
            token_id: "1",
            issuer: None,
        };
        let token = signer.sign(&claims).unwrap().to_string();
        for (validity, reason) in [
            (Validity::new(now().minus(2 * HOUR), now().minus(HOUR)), refusal::CERTIFICATE_ENDED),
            (Validity::new(now().plus(HOUR), now().plus(2 * HOUR)), refusal::NOT_JOINED),
        ] {
            let mut asked = asked(|state| {
                let authorities = Authorities::new();
                let identity = authorities.identity("mesh/shop/node/web", validity.unwrap());
                state.keeping().unwrap().save_identity(&identity).unwrap();
                state.save_trust(&authorities.stored_trust()).unwrap();
            })
            .await;
            let validate = ValidateJwtsvidRequest { audience: "db".to_owned(), svid: token.clone() };
            let refused = [
                asked.client.fetch_x509svid(marked(X509svidRequest {})).await.unwrap_err(),
                asked.client.validate_jwtsvid(marked(validate)).await.unwrap_err(),
            ];
            for status in refused {
                assert_eq!(status.code(), Code::Unavailable, "{status}");
                assert_eq!(refusal::reason(&status).as_deref(), Some(reason));
            }
        }
    }

    /// One user may watch by a hundred thousand streams.
    #[tokio::test(start_paused = true)]
    async fn whoever_watches_hears_at_the_very_moment_and_wakes_seldom_until_then() {
        let clock = Clock::starting_at(now());
        let served = Served::by(clock);
        let validity =
            Validity::new(now().plus(Duration::from_secs(40)), now().plus(Duration::from_secs(100))).unwrap();
        let StoredIdentity { svid, key, .. } = Authorities::new().identity("mesh/shop/node/web", validity);
        // As it says: in whole seconds.
        let validity = svid.validity();
        served.live.publish(svid, &key).unwrap();
        for (before, bound) in [(false, validity.not_before()), (true, validity.not_after())] {
            let mut polls = 0;
            let mut watched = std::pin::pin!(served.front.serves_other_than(Some(before)));
            let counted = std::future::poll_fn(|context| {
                polls += 1;
                watched.as_mut().poll(context)
            });
            assert_eq!(counted.await, !before);
            let told_at = clock.now();
            assert!(bound <= told_at, "{bound} {told_at}");
            assert!(told_at.since(bound) <= Duration::from_millis(100), "{bound} {told_at}");
            assert!(polls <= 7, "{polls}");
        }
        // Nothing is awaited here but that the clock is set.
        assert_eq!(until_next_look(&served.live.current(), clock.now()), LOOK);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_with_tokens_until_the_agent_is_somebody_has_as_many_turns_as_later() {
        let asked = asked(|_| {}).await;
        let validate = || {
            let request = ValidateJwtsvidRequest { audience: "db".to_owned(), svid: "a.b.c".to_owned() };
            let mut client = asked.client.clone();
            async move { client.validate_jwtsvid(marked(request)).await.unwrap_err().code() }
        };
        let codes = futures_util::future::join_all((0..TOKENS_AT_ONCE + 2).map(|_| validate())).await;
        let count = |code| codes.iter().filter(|told| **told == code).count();
        assert_eq!((count(Code::Unavailable), count(Code::ResourceExhausted)), (TOKENS_AT_ONCE, 2));
    }
}
