//! Tokens for the workloads that this agent vouches for: asked for when a program wants one, and kept for the next.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use hauberk_identity::{SpiffeId, UnixMillis};
use hauberk_proto::agent::v1 as pb;
use hauberk_proto::agent::v1::workloads_client::WorkloadsClient;
use hauberk_proto::refusal;
use hauberk_tls::jwt::{MAX_TOKEN_BYTES, unverified_key_id};
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Status};
use zeroize::Zeroizing;

use super::audience::Audience;
use super::entry::Entries;
use super::given::Identity;
use super::keeper::connect;
use super::nobody::no_identity;
use super::token_cache::{HeldToken, Terms, Token, TokenCache, UNMINTED};
use super::told::Board;
use crate::clock::{Clock, millis};
use crate::config::HostPort;
use crate::credentials::Credentials;

/// How many tokens are asked for at once, for all programs together; the control plane takes as many calls of a
/// connection.
const AT_ONCE: usize = 16;

/// How long minting one may take, whether or not somebody waits, the wait for a turn among it.
const MINTED_WITHIN: Duration = Duration::from_secs(10);

/// Why one that had no turn by then was not asked for.
const NO_TURN: &str = "it was not asked for: those that were wanted before it have taken all the time, and the agent asks for a few at once";

/// Has tokens minted.
pub(crate) struct Tokens {
    mint: Arc<Mint>,
    cache: TokenCache,
}

/// Asks the control plane.
struct Mint {
    control_plane: HostPort,
    credentials: Credentials,
    clock: Clock,
    at_once: Semaphore,
    /// Shared by those who need it at the same time; the last one to leave closes it.
    connection: Mutex<Option<WeakShared<Connecting>>>,
}

/// A connection that is there or is being made, by whoever waits for it.
type Connecting = BoxFuture<'static, Result<Channel, String>>;

impl Tokens {
    /// None yet.
    pub(crate) fn new(control_plane: HostPort, credentials: Credentials, clock: Clock) -> Self {
        let (at_once, connection) = (Semaphore::new(AT_ONCE), Mutex::default());
        let mint = Arc::new(Mint { control_plane, credentials, clock, at_once, connection });
        Self { mint, cache: TokenCache::default() }
    }

    /// The time by which tokens are judged.
    pub(super) fn now(&self) -> UnixMillis {
        self.mint.clock.now()
    }

    /// A token that names this identity: see [`TokenCache::token`].
    ///
    /// # Errors
    /// There is none. What the program is told, it may know.
    pub(super) async fn token(
        &self,
        identity: &Identity,
        audience: &Audience,
        board: &Board,
    ) -> Result<Token, Status> {
        let place = self.cache.slot(&identity.enrollment, audience);
        let turns = self.cache.turns(&identity.enrollment);
        let terms = Terms { id: identity.id.clone(), life: identity.token_life };
        let (mint, identity, audience) = (Arc::clone(&self.mint), identity.clone(), audience.clone());
        let clock = mint.clock;
        let minted = async move { mint.mint(&identity, &audience, &turns).await };
        self.cache.token(&place, &terms, (board, clock), minted).await
    }

    /// Forgets what is vouched for no longer.
    pub(super) fn retain(&self, entries: &Entries) {
        self.cache.retain(|enrollment| entries.contains_key(enrollment));
    }
}

impl Mint {
    /// `of_one` are the turns of its enrollment: whoever asks for many is not before all others with all of them.
    async fn mint(
        &self,
        identity: &Identity,
        audience: &Audience,
        of_one: &Semaphore,
    ) -> Result<HeldToken, Status> {
        let until = Instant::now() + MINTED_WITHIN;
        let _turns = self.turns(of_one, until).await.map_err(|problem| unavailable(identity, problem))?;
        let asked = Instant::now();
        timeout_at(until, self.ask(identity, audience)).await.unwrap_or_else(|_| {
            let had = millis(until.saturating_duration_since(asked));
            Err(unavailable(identity, &format!("the control plane does not answer in time: it had {had} ms")))
        })
    }

    /// Waits for its turns until then.
    ///
    /// # Errors
    /// They have not come.
    async fn turns<'a>(
        &'a self,
        of_one: &'a Semaphore,
        until: Instant,
    ) -> Result<[SemaphorePermit<'a>; 2], &'static str> {
        let both = async { Ok([of_one.acquire().await?, self.at_once.acquire().await?]) };
        let both = timeout_at(until, both).await.map_err(|_| NO_TURN)?;
        both.map_err(|_: AcquireError| "the agent is stopping")
    }

    async fn ask(&self, identity: &Identity, audience: &Audience) -> Result<HeldToken, Status> {
        let unavailable = |problem: &str| unavailable(identity, problem);
        // Held until the answer is there, so that others find it.
        let connection = self.connection();
        let channel = connection.clone().await.map_err(|problem| unavailable(&problem))?;
        let request = pb::MintWorkloadTokenRequest {
            enrollment: identity.enrollment.to_string(),
            audience: audience.names().to_vec(),
        };
        let asked_at = self.clock.now();
        let answer = WorkloadsClient::new(channel).mint_token(request).await;
        let answer = answer.map_err(|status| match status.code() {
            // Too many, too often: the program's own doing.
            Code::InvalidArgument | Code::ResourceExhausted => Status::new(status.code(), status.message()),
            Code::PermissionDenied => {
                let (problem, enrollment) = (status.message(), &identity.enrollment);
                tracing::warn!(event = "workload_token_denied", %enrollment, problem);
                no_identity(refusal::NOT_VOUCHED_FOR)
            }
            code => unavailable(&format!("{code:?}: {}", status.message())),
        })?;
        read(answer.into_inner(), &identity.id, asked_at).map_err(unavailable)
    }

    /// The one that others have or are making, unless it was in vain; otherwise another.
    fn connection(&self) -> Shared<Connecting> {
        let mut known = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let open = known.as_ref().and_then(WeakShared::upgrade);
        if let Some(open) = open.filter(|open| !matches!(open.peek(), Some(Err(_)))) {
            return open;
        }
        let (control_plane, credentials) = (self.control_plane.clone(), self.credentials.clone());
        let connecting = async move { connect(&control_plane, &credentials).await }.boxed().shared();
        *known = connecting.downgrade();
        connecting
    }
}

fn unavailable(identity: &Identity, problem: &str) -> Status {
    tracing::warn!(event = "workload_token_delayed", enrollment = %identity.enrollment, problem);
    Status::unavailable(UNMINTED)
}

/// Takes a token over. Its instants are by the control plane's clock: how far they are apart is used, and whether that
/// clock is far ahead.
fn read(
    answer: pb::MintTokenResponse,
    id: &SpiffeId,
    asked_at: UnixMillis,
) -> Result<HeldToken, &'static str> {
    let pb::MintTokenResponse { token, spiffe_id, issued_at_unix_ms, expires_at_unix_ms } = answer;
    let token = Zeroizing::new(token);
    if spiffe_id != id.as_str() {
        // The enrollment was changed at this moment: its new form is on its way.
        return Err("the token names somebody else");
    }
    if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
        return Err("the token cannot be one");
    }
    let life = Duration::from_millis(expires_at_unix_ms.saturating_sub(issued_at_unix_ms));
    Ok(HeldToken {
        id: id.clone(),
        key_id: unverified_key_id(&token).map_err(|_| "the token names no key")?,
        token: Arc::new(token),
        since: asked_at.max(UnixMillis(issued_at_unix_ms)),
        renew_at: asked_at.plus(life / 2),
        not_after: asked_at.plus(life),
        life,
        rest: None,
    })
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use hauberk_identity::Name;

    use super::super::testing::Served;
    use super::*;

    /// A token of one header, which names the key `k`.
    const TOKEN: &str = "eyJraWQiOiJrIn0.e30.AA";

    fn identity(enrollment: &str) -> Identity {
        Identity {
            enrollment: Name::parse(enrollment).unwrap(),
            id: SpiffeId::parse("spiffe://shop.local/workload/a").unwrap(),
            hint: String::new(),
            token_life: None,
        }
    }

    #[tokio::test]
    async fn whoever_asks_for_many_leaves_turns_to_others_also_once_it_has_gone() {
        // Whoever connects to it hears nothing.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let served = Served::with(silent.local_addr().unwrap());
        let tokens = &served.shared.tokens;
        let (one, other) = (identity("one"), identity("other"));
        let audience = |number: usize| Audience::new(vec![number.to_string()]).unwrap();
        let left = async || {
            // Until each that was asked for has had its chance.
            for _ in 0..2_000 {
                tokio::task::yield_now().await;
            }
            tokens.mint.at_once.available_permits()
        };
        for number in 0..1_000 {
            let asked = tokens.token(&one, &audience(number), &served.board).now_or_never();
            assert!(asked.is_none(), "it waits, and is given up at once");
        }
        let left_by_one = left().await;
        assert!(left_by_one >= AT_ONCE / 2, "{left_by_one}");
        assert!(left_by_one < AT_ONCE, "some are asked for, though nobody waits");
        assert!(tokens.token(&other, &audience(0), &served.board).now_or_never().is_none());
        assert_eq!(left().await, left_by_one - 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_does_not_come_is_waited_for_no_longer_than_an_answer_and_told_as_such() {
        // Whoever connects to it hears nothing.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let served = Served::with(silent.local_addr().unwrap());
        let mint = &served.shared.tokens.mint;
        let (none, since) = (Semaphore::new(0), Instant::now());
        assert_eq!(mint.turns(&none, since + MINTED_WITHIN).await.unwrap_err(), NO_TURN);
        // Timers go by whole milliseconds.
        let in_time = MINTED_WITHIN + Duration::from_millis(10);
        assert!((MINTED_WITHIN..=in_time).contains(&since.elapsed()), "{:?}", since.elapsed());
        // Nor is what is left after that any longer.
        let (free, audience) = (Semaphore::new(1), Audience::new(vec!["db".to_owned()]).unwrap());
        for turns in [&none, &free] {
            let since = Instant::now();
            let refused = mint.mint(&identity("one"), &audience, turns).await.err().unwrap();
            assert_eq!((refused.code(), refused.message()), (Code::Unavailable, UNMINTED));
            assert!(since.elapsed() <= in_time, "{:?}", since.elapsed());
        }
    }

    #[test]
    fn a_token_is_kept_for_half_its_life_by_our_own_clock() {
        let id = SpiffeId::parse("spiffe://shop.local/workload/a").unwrap();
        let answer = |token: &str, spiffe_id: &str| pb::MintTokenResponse {
            token: token.to_owned(),
            spiffe_id: spiffe_id.to_owned(),
            issued_at_unix_ms: 1_000_000,
            expires_at_unix_ms: 1_300_000,
        };
        let at = |seconds| UnixMillis(5_000_000).plus(Duration::from_secs(seconds));
        let held = read(answer(TOKEN, id.as_str()), &id, at(0)).unwrap();
        assert_eq!(held.key_id, "k");
        assert_eq!((held.since, held.renew_at, held.not_after), (at(0), at(150), at(300)));
        assert_eq!(held.life, Duration::from_secs(300));
        // By our own clock, or by the control plane's, whichever was ahead when it was minted.
        let of_later = pb::MintTokenResponse {
            issued_at_unix_ms: at(360).0,
            expires_at_unix_ms: at(660).0,
            ..answer(TOKEN, id.as_str())
        };
        let of_later = read(of_later, &id, at(0)).unwrap();
        assert_eq!((of_later.since, of_later.not_after), (at(360), at(300)));
        let other = SpiffeId::parse("spiffe://shop.local/workload/b").unwrap();
        for (token, spiffe_id) in [
            (TOKEN, other.as_str()),
            ("e30.e30.AA", id.as_str()),
            ("", id.as_str()),
            (&"x".repeat(20_000), id.as_str()),
        ] {
            assert!(read(answer(token, spiffe_id), &id, at(0)).is_err());
        }
    }
}
