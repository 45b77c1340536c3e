//! Tokens that were minted, kept until half of their lives has passed, and those that are being asked for. In memory
//! only, and never printed.
//!
//! There is one way to a token: it is asked for by a task that goes on whether or not somebody waits, once for all who
//! want it. A first token is one that is asked for with none at hand.

mod of_one;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Shared;
use hauberk_identity::{Name, SpiffeId, UnixMillis};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};
use zeroize::Zeroizing;

use self::of_one::OfOne;
use super::audience::Audience;
use super::told::Board;
use crate::clock::Clock;
use crate::skew::TOLERATED;

/// How much all of them may take, in bytes; beyond, that one goes of the enrollment that has most.
const MOST_BYTES: usize = 16 << 20;

/// How long nobody asks for another after that was in vain, or has brought one that is no better.
const REST: Duration = Duration::from_secs(10);

/// How long a program waits for a fresh token where there is one that is good as well.
pub(super) const FRESH_WITHIN: Duration = Duration::from_secs(2);

/// How often a program waits for what is asked for in place of what it waited for.
const DISPLACED: usize = 3;

pub(super) const UNMINTED: &str = "the control plane has minted no token: the agent's log says why";

const CHANGED: &str = "what is vouched for, or a key that signs, was changed at this moment: ask again";

/// In compact form.
pub(super) type Token = Arc<Zeroizing<String>>;

/// A token by our own clock: it lives from when it was asked for.
pub(super) struct HeldToken {
    /// Whom it names.
    pub(super) id: SpiffeId,
    pub(super) token: Token,
    /// What signed it.
    pub(super) key_id: String,
    /// When it was asked for, or signed by the control plane's clock, whichever is later.
    pub(super) since: UnixMillis,
    /// Half of its life has passed.
    pub(super) renew_at: UnixMillis,
    pub(super) not_after: UnixMillis,
    /// From when it was minted to its end, by the control plane's clock.
    pub(super) life: Duration,
    /// Another is not asked for now.
    pub(super) rest: Option<Rest>,
}

/// What a token is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Terms {
    /// Whom it names.
    pub(super) id: SpiffeId,
    /// The longest that it may live; `None`: an older control plane has not said.
    pub(super) life: Option<Duration>,
}

/// Since when another is not asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rest {
    since: Instant,
    /// Whether its key was tainted already when another was asked for: a taint that came later is a new reason to ask.
    was_tainted: bool,
    /// As long as one might live then: that it may not any longer is another.
    life: Option<Duration>,
}

/// How far what a key has signed is to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Good,
    /// It may be in other hands: what it has signed is to be replaced.
    Tainted,
    /// It verifies nothing.
    Gone,
}

/// What becomes of a token that is held when somebody wants one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It is given.
    Give,
    /// Another is asked for, and it is given where that does not come soon.
    GiveWhileAsking,
    /// It is given to nobody: another is asked for, and waited for.
    Drop,
}

/// One enrollment's token for one audience.
#[derive(Default)]
pub(super) struct Slot {
    held: Option<HeldToken>,
    asking: Option<Asking>,
}

/// Where it is kept.
pub(super) type Place = Arc<Mutex<Slot>>;

/// Another that is being asked for; no longer once this is dropped.
struct Asking {
    /// No other has it.
    number: u64,
    terms: Terms,
    begun: Instant,
    /// What came of it.
    ended: Ended,
    task: AbortHandle,
}

/// Not told where something else was asked for in its place.
type Ended = Shared<oneshot::Receiver<Result<Minted, Status>>>;

/// A token as it came.
#[derive(Clone)]
struct Minted {
    token: Token,
    key_id: String,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct TokenCache {
    slots: Mutex<BTreeMap<Name, OfOne>>,
    /// What asks: for each slot at most one, which goes when the slot does.
    tasks: Mutex<JoinSet<()>>,
    /// Counts what was asked for.
    asked: AtomicU64,
}

impl TokenCache {
    /// The place of a token, which may be empty.
    pub(super) fn slot(&self, enrollment: &Name, audience: &Audience) -> Place {
        let mut slots = lock(&self.slots);
        let slot = slots.entry(enrollment.clone()).or_default().place(audience);
        while slots.values().map(OfOne::bytes).sum::<usize>() > MOST_BYTES {
            let Some(most) = slots.values_mut().max_by_key(|of_one| of_one.bytes()) else { break };
            most.drop_oldest();
        }
        slot
    }

    /// What asks for a token of this enrollment takes a turn first.
    pub(super) fn turns(&self, enrollment: &Name) -> Arc<Semaphore> {
        lock(&self.slots).entry(enrollment.clone()).or_default().turns()
    }

    /// Forgets the tokens of all that are vouched for no longer.
    pub(super) fn retain(&self, is_enrolled: impl Fn(&Name) -> bool) {
        lock(&self.slots).retain(|enrollment, _| is_enrolled(enrollment));
    }

    /// A token by these terms, with half of its life left, or more; with less, or by a key that is tainted, where
    /// another does not come soon: that is then for whoever asks next. One by a key that is known no longer, or that
    /// lives for longer than one may now, is given to nobody. One that was minted while a clock was ahead is not kept
    /// for longer than it takes to ask again. `mint` asks for one; it has an end, and is not begun where that is not
    /// due.
    ///
    /// # Errors
    /// There is none, for the reason that `mint` gave.
    pub(super) async fn token<M>(
        &self,
        place: &Place,
        terms: &Terms,
        (board, clock): (&Board, Clock),
        mint: M,
    ) -> Result<Token, Status>
    where
        M: Future<Output = Result<HeldToken, Status>> + Send + 'static,
    {
        let verdict = |held: &HeldToken| {
            held.verdict(terms, Standing::of(&held.key_id, board), clock.now(), Instant::now())
        };
        let mut waited_for = {
            let mut slot = lock(place);
            slot.held.take_if(|held| verdict(held) == Verdict::Drop);
            if let Some(held) = slot.held.as_ref().filter(|held| verdict(held) == Verdict::Give) {
                return Ok(Arc::clone(&held.token));
            }
            let was_tainted = slot.held.as_ref().is_some_and(|held| board.is_tainted(&held.key_id));
            let former =
                slot.asking.take_if(|asking| asking.terms == *terms && asking.ended.peek().is_none());
            let asking = former.unwrap_or_else(|| self.ask(place, terms, was_tainted, mint));
            let asking = slot.asking.insert(asking);
            Some((asking.begun, asking.ended.clone()))
        };
        let mut outcome = Err(Status::unavailable(CHANGED));
        for _ in 0..=DISPLACED {
            let Some((begun, ended)) = waited_for else { break };
            let told = match timeout_at(begun + FRESH_WITHIN, ended.clone()).await {
                Ok(told) => told,
                Err(_) => {
                    let good = lock(place).good(verdict);
                    match good {
                        // Another is there for whoever asks next.
                        Some(token) => return Ok(token),
                        None => ended.await,
                    }
                }
            };
            if let Ok(told) = told {
                outcome = told;
                break;
            }
            // By other terms by now: for the same identity it is as good.
            waited_for = lock(place).asking_for(&terms.id);
        }
        // Time has passed, and keys may have gone.
        let outcome = outcome.and_then(|minted| match Standing::of(&minted.key_id, board) {
            Standing::Gone => Err(Status::unavailable(CHANGED)),
            Standing::Good | Standing::Tainted => Ok(minted.token),
        });
        outcome.or_else(|status| lock(place).good(verdict).ok_or(status))
    }

    /// Asks for a token without anybody who has to wait.
    fn ask<M>(&self, place: &Place, terms: &Terms, was_tainted: bool, mint: M) -> Asking
    where
        M: Future<Output = Result<HeldToken, Status>> + Send + 'static,
    {
        let (tell, ended) = oneshot::channel();
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let (place, terms, asked) = (Arc::downgrade(place), terms.clone(), terms.clone());
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        let task = tasks.spawn(async move {
            let outcome = mint.await;
            let Some(place) = place.upgrade() else { return };
            let rest = Rest { since: Instant::now(), was_tainted, life: terms.life };
            let mut slot = lock(&place);
            // Otherwise something else was asked for when this had its answer already.
            let Some(this) = slot.asking.take_if(|asking| asking.number == number) else { return };
            // Whoever has waited may have gone.
            let _gone = tell.send(slot.settle(&terms, outcome, rest));
            // Last of all: this task ends with it.
            drop(this);
        });
        Asking { number, terms: asked, begun: Instant::now(), ended: ended.shared(), task }
    }
}

impl Slot {
    /// What is being asked for of this identity, and since when.
    fn asking_for(&self, id: &SpiffeId) -> Option<(Instant, Ended)> {
        let asking = self.asking.as_ref().filter(|asking| asking.terms.id == *id)?;
        Some((asking.begun, asking.ended.clone()))
    }

    /// The token that is held, where it may be given.
    fn good(&self, verdict: impl Fn(&HeldToken) -> Verdict) -> Option<Token> {
        self.held.as_ref().filter(|held| verdict(held) != Verdict::Drop).map(|held| Arc::clone(&held.token))
    }

    /// Takes over what came of asking for another: it takes the place of the one that is held, a denial takes that
    /// away, and after anything else it stays.
    fn settle(
        &mut self,
        terms: &Terms,
        outcome: Result<HeldToken, Status>,
        rest: Rest,
    ) -> Result<Minted, Status> {
        match outcome {
            Ok(mut minted) => {
                // The next one would be as well, until a clock is set, or all control planes know how long it may live.
                let is_no_better = minted.is_ahead(minted.asked_at()) || minted.is_too_long(terms.life);
                minted.rest = is_no_better.then_some(rest);
                let told = Minted { token: Arc::clone(&minted.token), key_id: minted.key_id.clone() };
                self.held = Some(minted);
                Ok(told)
            }
            Err(status) => {
                if status.code() == Code::PermissionDenied {
                    self.held = None;
                }
                if let Some(held) = &mut self.held {
                    held.rest = Some(rest);
                }
                Err(status)
            }
        }
    }
}

impl HeldToken {
    /// What becomes of it when somebody wants a token by these terms.
    fn verdict(&self, terms: &Terms, key: Standing, now: UnixMillis, instant: Instant) -> Verdict {
        let is_tainted = key == Standing::Tainted;
        let rests = self.rest.is_some_and(|rest| rest.holds(instant, is_tainted, terms.life));
        if self.id != terms.id || now >= self.not_after || key == Standing::Gone {
            return Verdict::Drop;
        }
        let is_doubtful = self.is_ahead(now) || self.is_too_long(terms.life);
        match (is_doubtful, is_tainted || now >= self.renew_at) {
            _ if rests => Verdict::Give,
            (true, _) => Verdict::Drop,
            (false, true) => Verdict::GiveWhileAsking,
            (false, false) => Verdict::Give,
        }
    }

    /// Whether it begins later than clocks may differ: it was minted while one was ahead, and nobody can say how long
    /// it is good.
    fn is_ahead(&self, now: UnixMillis) -> bool {
        self.since.since(now) > TOLERATED
    }

    /// By our own clock.
    fn asked_at(&self) -> UnixMillis {
        self.not_after.minus(self.life)
    }

    /// Whether it lives for longer than one that is minted now.
    fn is_too_long(&self, longest: Option<Duration>) -> bool {
        longest.is_some_and(|longest| self.life > longest)
    }
}

impl Rest {
    /// Whether nothing better is to be had by asking again: that was done just now, with all the reasons that there
    /// are.
    fn holds(&self, now: Instant, is_tainted: bool, life: Option<Duration>) -> bool {
        let is_shortened = life.is_some_and(|life| self.life.is_none_or(|former| life < former));
        now.duration_since(self.since) < REST && (self.was_tainted || !is_tainted) && !is_shortened
    }
}

impl Standing {
    fn of(key_id: &str, board: &Board) -> Self {
        match board.verifies(key_id) {
            false => Self::Gone,
            true if board.is_tainted(key_id) => Self::Tainted,
            true => Self::Good,
        }
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures_util::future::join_all;
    use hauberk_identity::TrustDomain;
    use hauberk_proto::agent::v1 as pb;
    use hauberk_tls::jwt::{JwtBundle, JwtSigner, KeyUse};
    use tokio::time::{advance, sleep, timeout};

    use super::of_one::MOST_OF_ONE;
    use super::*;

    const NOW: UnixMillis = UnixMillis::from_secs(1_800_000_000);
    const LIFE: Duration = Duration::from_secs(300);
    const SECOND: Duration = Duration::from_secs(1);

    fn id(name: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://shop.local/workload/{name}")).unwrap()
    }

    fn terms(life: Duration) -> Terms {
        Terms { id: id("a"), life: Some(life) }
    }

    fn audience(number: usize) -> Audience {
        Audience::new(vec![number.to_string()]).unwrap()
    }

    fn held(text: &str, asked_at: UnixMillis, life: Duration) -> HeldToken {
        HeldToken {
            id: id("a"),
            token: Arc::new(Zeroizing::new(text.to_owned())),
            key_id: "k".to_owned(),
            since: asked_at,
            renew_at: asked_at.plus(life / 2),
            not_after: asked_at.plus(life),
            life,
            rest: None,
        }
    }

    /// One place for a token, and a control plane that mints as a test says.
    struct World {
        cache: TokenCache,
        place: Place,
        board: Board,
        clock: Clock,
        asked: Arc<AtomicUsize>,
    }

    impl World {
        fn new() -> Self {
            let cache = TokenCache::default();
            let place = cache.slot(&Name::parse("a").unwrap(), &audience(1));
            let (board, clock) = (Board::new(true), Clock::starting_at(NOW));
            Self { cache, place, board, clock, asked: Arc::default() }
        }

        /// What is given where the control plane answers after so long: the number of the token, or none.
        async fn given(
            &self,
            terms: &Terms,
            after: Duration,
            answer: Result<Duration, Code>,
        ) -> Result<String, Code> {
            let (asked, clock, id) = (Arc::clone(&self.asked), self.clock, terms.id.clone());
            let mint = async move {
                let (number, asked_at) = (asked.fetch_add(1, Ordering::Relaxed) + 1, clock.now());
                sleep(after).await;
                let life = answer.map_err(|code| Status::new(code, "no"))?;
                Ok(HeldToken { id, ..held(&number.to_string(), asked_at, life) })
            };
            let token = self.cache.token(&self.place, terms, (&self.board, self.clock), mint).await;
            token.map(|token| token.to_string()).map_err(|status| status.code())
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::Relaxed)
        }

        fn hold(&self, token: HeldToken) {
            *lock(&self.place) = Slot { held: Some(token), asking: None };
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_token_that_comes_late_is_there_for_whoever_asks_again() {
        let (world, terms, patience) = (World::new(), terms(LIFE), 5 * SECOND);
        let late = || world.given(&terms, 6 * SECOND, Ok(LIFE));
        let begun = Instant::now();
        let waiting = (0..20).map(|_| timeout(patience, late()));
        assert!(
            join_all(waiting).await.into_iter().all(|given| given.is_err()),
            "each went after five seconds"
        );
        assert_eq!(timeout(patience, late()).await.unwrap(), Ok("1".to_owned()));
        assert_eq!((world.asked(), begun.elapsed().as_secs()), (1, 6), "it was asked for once, for all");
        assert_eq!(late().await, Ok("1".to_owned()));
        assert_eq!((world.asked(), begun.elapsed().as_secs()), (1, 6));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_first_token_is_told_why_there_is_none() {
        let (world, terms) = (World::new(), terms(LIFE));
        for code in [Code::PermissionDenied, Code::ResourceExhausted, Code::Unavailable] {
            let waiting = (0..3).map(|_| world.given(&terms, 3 * SECOND, Err(code)));
            assert_eq!(join_all(waiting).await, [Err(code), Err(code), Err(code)]);
        }
        assert_eq!(world.asked(), 3, "and who asks after that asks again");
        // Of another identity by the same enrollment: what is asked for as the former is not for it.
        let other = Terms { id: id("b"), ..terms.clone() };
        let (one, two) =
            tokio::join!(world.given(&terms, SECOND, Ok(LIFE)), world.given(&other, SECOND, Ok(LIFE)));
        assert_eq!((one, two), (Err(Code::Unavailable), Ok("4".to_owned())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_control_plane_that_hangs_keeps_nobody_waiting_who_has_a_token() {
        let (world, terms, hangs) = (World::new(), terms(12 * LIFE), Duration::from_secs(60));
        let given = || world.given(&terms, hangs, Ok(12 * LIFE));
        let old = |left: Duration| held("old", NOW.minus(12 * LIFE - left), 12 * LIFE);
        world.hold(old(LIFE));
        let begun = Instant::now();
        assert!(join_all((0..20).map(|_| given())).await.into_iter().all(|given| given == Ok("old".into())));
        assert_eq!((begun.elapsed(), world.asked()), (FRESH_WITHIN, 1), "one was asked for, for all");
        // Nobody waits for what is asked for already, and it comes although nobody does.
        assert_eq!(given().await, Ok("old".to_owned()));
        assert_eq!(begun.elapsed(), FRESH_WITHIN);
        advance(hangs).await;
        tokio::task::yield_now().await;
        assert_eq!((given().await, world.asked()), (Ok("1".to_owned()), 1));
        // Nobody is given one that ends while it waits for another.
        world.hold(HeldToken { not_after: world.clock.now().plus(SECOND), ..old(LIFE) });
        let begun = Instant::now();
        assert_eq!(given().await, Ok("2".to_owned()));
        assert_eq!(begun.elapsed(), hangs);
        // Nor one of which nobody knows how long it is good.
        world.hold(held("ahead", world.clock.now().plus(2 * LIFE), LIFE));
        assert!(timeout(hangs / 2, given()).await.is_err(), "another is asked for");
        assert!(lock(&world.place).held.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_lives_for_longer_than_one_may_now_is_given_to_nobody() {
        let world = World::new();
        let (long, short) = (terms(12 * LIFE), terms(LIFE));
        let given = async |terms: &Terms, answer| world.given(terms, SECOND, answer).await;
        assert_eq!(given(&long, Ok(12 * LIFE)).await, Ok("1".to_owned()));
        assert_eq!(given(&long, Ok(12 * LIFE)).await, Ok("1".to_owned()));
        // Also where no other is to be had, and however lately one was asked for.
        world.hold(HeldToken { renew_at: NOW, ..held("old", NOW, 12 * LIFE) });
        assert_eq!(given(&long, Err(Code::Unavailable)).await, Ok("old".to_owned()));
        assert_eq!(given(&short, Err(Code::Unavailable)).await, Err(Code::Unavailable));
        assert_eq!(given(&short, Ok(LIFE)).await, Ok("4".to_owned()));
        assert_eq!(given(&long, Ok(12 * LIFE)).await, Ok("4".to_owned()), "a shorter one is as good");
        // An older control plane says nothing of it.
        let unsaid = Terms { life: None, ..short.clone() };
        world.hold(held("old", NOW, 12 * LIFE));
        assert_eq!(given(&unsaid, Ok(LIFE)).await, Ok("old".to_owned()));
        // Of several control planes one may not know it yet: what it mints is of use for a while, for want of a better
        // one.
        lock(&world.place).held = None;
        assert_eq!(given(&short, Ok(2 * LIFE)).await, Ok("5".to_owned()));
        assert_eq!(given(&short, Ok(2 * LIFE)).await, Ok("5".to_owned()));
        advance(REST).await;
        assert_eq!(given(&short, Ok(LIFE)).await, Ok("6".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_for_by_other_terms_is_waited_for_by_nobody() {
        let world = World::new();
        let (long, short) = (terms(12 * LIFE), terms(LIFE));
        for (one, other) in [(&long, &short), (&short, &long)] {
            let life = |terms: &Terms| terms.life.unwrap();
            let (former, latter) = tokio::join!(
                world.given(one, SECOND, Ok(life(one))),
                world.given(other, SECOND, Ok(life(other)))
            );
            assert!(latter.is_ok(), "{latter:?}");
            assert_eq!(former, latter, "what was on its way first is given to nobody");
            let held = lock(&world.place).held.take().unwrap();
            assert_eq!(Some(held.life), other.life);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_key_signed_that_is_gone_is_given_to_nobody_and_by_a_tainted_one_for_want_of_another() {
        let world = World::new();
        let trust_domain = TrustDomain::parse("shop.local").unwrap();
        let [one, other] = [(); 2].map(|()| JwtSigner::generate().unwrap());
        let tell = |signers: &[&JwtSigner], tainted: &[&JwtSigner]| {
            let keys = signers.iter().map(|signer| signer.public_key().unwrap());
            let jwks = JwtBundle::new(trust_domain.clone(), keys).unwrap().to_jwks(KeyUse::Unsaid);
            let tainted_key_ids = tainted.iter().map(|signer| signer.key_id().to_owned()).collect();
            world.board.take_jwt_keys(&pb::JwtKeys { jwks, tainted_key_ids }, &trust_domain).unwrap();
        };
        world.hold(HeldToken { key_id: one.key_id().to_owned(), ..held("old", NOW, LIFE) });
        let terms = terms(LIFE);
        let given = async || world.given(&terms, SECOND, Err(Code::Unavailable)).await;
        assert_eq!(given().await, Ok("old".to_owned()), "while the keys are not told");
        tell(&[&one, &other], &[]);
        assert_eq!((given().await, world.asked()), (Ok("old".to_owned()), 0));
        tell(&[&one, &other], &[&one]);
        assert_eq!(
            (given().await, world.asked()),
            (Ok("old".to_owned()), 1),
            "nobody answers, and it is good"
        );
        assert_eq!((given().await, world.asked()), (Ok("old".to_owned()), 1), "not again at once");
        tell(&[&other], &[]);
        assert_eq!(given().await, Err(Code::Unavailable));
        assert!(lock(&world.place).held.is_none());
        // Nor what comes just then.
        assert_eq!(
            world.given(&terms, SECOND, Ok(LIFE)).await,
            Err(Code::Unavailable),
            "by a key that none is"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_displaced_when_it_had_its_answer_takes_nothing_from_its_successor() {
        let world = World::new();
        let (cache, terms) = (Arc::new(TokenCache::default()), terms(LIFE));
        let mint = {
            let (cache, place, terms) = (Arc::clone(&cache), Arc::clone(&world.place), terms.clone());
            async move {
                let successor = cache.ask(&place, &terms, false, async {
                    sleep(SECOND).await;
                    Ok(held("second", NOW, LIFE))
                });
                let former = lock(&place).asking.replace(successor);
                drop(former);
                Ok(held("first", NOW, LIFE))
            }
        };
        let given = cache.token(&world.place, &terms, (&world.board, world.clock), mint).await;
        assert_eq!(given.unwrap().as_str(), "second");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_has_a_place_for_is_asked_for_no_longer() {
        let world = World::new();
        let World { cache, board, clock, .. } = &world;
        let (enrollment, wanted) = (Name::parse("a").unwrap(), terms(LIFE));
        let running = || {
            let mut tasks = lock(&cache.tasks);
            while tasks.try_join_next().is_some() {}
            tasks.len()
        };
        // Beside the one that the world holds.
        for number in 2..3 * MOST_OF_ONE {
            let place = cache.slot(&enrollment, &audience(number));
            let asked = cache.token(&place, &wanted, (board, *clock), std::future::pending());
            assert!(timeout(SECOND, asked).await.is_err());
        }
        let until = async |left| {
            while running() > left {
                sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(running(), left);
        };
        timeout(SECOND, until(MOST_OF_ONE)).await.expect("those that were displaced end");
        cache.retain(|_| false);
        timeout(SECOND, until(0)).await.expect("and those that nobody is entitled to");
    }

    #[test]
    fn what_becomes_of_a_token_follows_from_it_the_terms_its_key_and_the_time() {
        use Verdict::{Drop, Give, GiveWhileAsking};
        let (token, terms, instant) = (held("t", NOW, LIFE), terms(LIFE), Instant::now());
        let at = |seconds| NOW.plus(Duration::from_secs(seconds));
        let see = |token: &HeldToken, terms: &Terms, key, now| token.verdict(terms, key, now, instant);
        for (key, at_once, past_half, past_end) in [
            (Standing::Good, Give, GiveWhileAsking, Drop),
            (Standing::Tainted, GiveWhileAsking, GiveWhileAsking, Drop),
            (Standing::Gone, Drop, Drop, Drop),
        ] {
            let seen = [0, 149, 150, 299, 300].map(|seconds| see(&token, &terms, key, at(seconds)));
            assert_eq!(seen, [at_once, at_once, past_half, past_half, past_end], "{key:?}");
        }
        let rest = |was_tainted, life| HeldToken {
            rest: Some(Rest { since: instant, was_tainted, life }),
            ..held("t", NOW, LIFE)
        };
        let (resting, knowing) = (rest(false, Some(LIFE)), rest(true, Some(LIFE)));
        let good = Standing::Good;
        assert_eq!(
            [see(&resting, &terms, good, at(150)), see(&resting, &terms, good, at(300))],
            [Give, Drop]
        );
        assert_eq!(see(&resting, &terms, Standing::Tainted, at(0)), GiveWhileAsking, "a new reason");
        assert_eq!(see(&knowing, &terms, Standing::Tainted, at(0)), Give);
        assert_eq!(see(&knowing, &terms, Standing::Gone, at(0)), Drop);
        assert_eq!(resting.verdict(&terms, good, at(150), instant + REST), GiveWhileAsking);
        let shorter = Terms { life: Some(LIFE - SECOND), ..terms.clone() };
        let unsaid = Terms { life: None, ..terms.clone() };
        for token in [&token, &resting, &rest(false, None)] {
            assert_eq!(see(token, &shorter, good, at(0)), Drop);
            assert_eq!(see(token, &unsaid, good, at(0)), Give);
        }
        let other = Terms { id: id("b"), ..terms };
        assert_eq!(see(&knowing, &other, good, at(0)), Drop);
    }

    #[test]
    fn a_denial_takes_the_token_away_and_what_is_in_vain_rests() {
        let (terms, since) = (terms(LIFE), Instant::now());
        let rest = Rest { since, was_tainted: false, life: Some(LIFE) };
        let mut slot = Slot { held: Some(held("one", NOW, LIFE)), asking: None };
        assert!(slot.settle(&terms, Err(Status::unavailable("no")), rest).is_err());
        assert_eq!(slot.held.as_ref().unwrap().rest, Some(rest));
        assert_eq!(slot.settle(&terms, Ok(held("two", NOW, LIFE)), rest).unwrap().token.as_str(), "two");
        assert_eq!(slot.held.as_ref().unwrap().rest, None);
        let ahead = HeldToken { since: NOW.plus(2 * LIFE), ..held("ahead", NOW, LIFE) };
        assert!(slot.settle(&terms, Ok(ahead), rest).is_ok());
        assert_eq!(slot.held.as_ref().unwrap().rest, Some(rest), "the next would be too");
        let denied = slot.settle(&terms, Err(Status::permission_denied("no")), rest);
        assert_eq!(denied.err().unwrap().code(), Code::PermissionDenied);
        assert!(slot.held.is_none());
    }

    #[test]
    fn all_of_them_take_no_more_than_so_much_and_who_has_most_gives_way() {
        let cache = TokenCache::default();
        let name = |number: usize| Name::parse(&format!("of-{number}")).unwrap();
        let small = cache.slot(&name(100), &audience(0));
        let large = |number: usize| Audience::new(vec![format!("{number:04000}")]).unwrap();
        for enrollment in 0..4 {
            for number in 0..MOST_OF_ONE {
                cache.slot(&name(enrollment), &large(number));
            }
        }
        let (count, counted, held) = {
            let slots = lock(&cache.slots);
            let of_each = slots.values().map(OfOne::counted);
            let (count, held) = of_each.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            (count, slots.values().map(OfOne::bytes).sum::<usize>(), held)
        };
        assert!(counted == held && held <= MOST_BYTES && held > MOST_BYTES - 20_000, "{counted} {held}");
        assert!(count > 1_000, "{count}");
        assert!(Arc::ptr_eq(&small, &cache.slot(&name(100), &audience(0))), "it takes next to nothing");
    }

    #[test]
    fn each_enrollment_has_so_many_and_the_others_keep_theirs() {
        let cache = TokenCache::default();
        let (one, other) = (Name::parse("one").unwrap(), Name::parse("other").unwrap());
        let first = cache.slot(&one, &audience(0));
        let others = cache.slot(&other, &audience(0));
        assert!(Arc::ptr_eq(&first, &cache.slot(&one, &audience(0))));
        assert!(!Arc::ptr_eq(&first, &others));
        for number in 1..MOST_OF_ONE {
            cache.slot(&one, &audience(number));
        }
        assert!(Arc::ptr_eq(&first, &cache.slot(&one, &audience(0))), "and now the second is the oldest");
        cache.slot(&one, &audience(MOST_OF_ONE));
        assert!(Arc::ptr_eq(&first, &cache.slot(&one, &audience(0))));
        for number in MOST_OF_ONE + 1..2 * MOST_OF_ONE {
            cache.slot(&one, &audience(number));
        }
        assert!(Arc::ptr_eq(&first, &cache.slot(&one, &audience(0))), "it was asked for again");
        for number in 0..MOST_OF_ONE {
            cache.slot(&one, &audience(10 * MOST_OF_ONE + number));
        }
        assert!(!Arc::ptr_eq(&first, &cache.slot(&one, &audience(0))));
        assert!(Arc::ptr_eq(&others, &cache.slot(&other, &audience(0))));
        cache.retain(|name| *name == one);
        assert!(!Arc::ptr_eq(&others, &cache.slot(&other, &audience(0))));
    }
}
