//! Tokens for the workloads that this agent vouches for: asked for when a program wants one, and kept for the next.

use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use hauberk_identity::{SpiffeId, UnixMillis};
use hauberk_proto::agent::v1 as pb;
use hauberk_proto::agent::v1::workloads_client::WorkloadsClient;
use hauberk_proto::refusal;
use hauberk_tls::jwt::{MAX_TOKEN_BYTES, unverified_key_id};
use tokio::sync::{Mutex, Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Status};
use zeroize::Zeroizing;

use super::audience::Audience;
use super::entry::Entries;
use super::given::Identity;
use super::keeper::connect;
use super::nobody::no_identity;
use super::token_cache::{HeldToken, Renewal, Rest, Slot, TokenCache, settle};
use super::told::Board;
use crate::clock::Clock;
use crate::config::HostPort;
use crate::credentials::Credentials;

/// How many tokens are asked for at once, for all programs together; the control plane takes as many calls of a connection.
const AT_ONCE: usize = 16;

/// How long a program waits for a fresh token where there is one that is good as well.
const FRESH_WITHIN: Duration = Duration::from_secs(2);

const UNMINTED: &str = "the control plane has minted no token: the agent's log says why";

/// How long minting one may take, whether or not somebody waits.
const MINTED_WITHIN: Duration = Duration::from_secs(10);

/// Has tokens minted.
pub(crate) struct Tokens {
    mint: Arc<Mint>,
    cache: TokenCache,
    /// Those that are asked for while there is one that is good: they go on where nobody waits, and end with us.
    renewals: std::sync::Mutex<JoinSet<()>>,
}

/// Asks the control plane.
struct Mint {
    control_plane: HostPort,
    credentials: Credentials,
    clock: Clock,
    at_once: Semaphore,
    /// Shared by those who need it at the same time; the last one to leave closes it.
    connection: Mutex<Weak<Channel>>,
}

impl Tokens {
    /// None yet.
    pub(crate) fn new(control_plane: HostPort, credentials: Credentials, clock: Clock) -> Self {
        let (at_once, connection) = (Semaphore::new(AT_ONCE), Mutex::default());
        let mint = Arc::new(Mint { control_plane, credentials, clock, at_once, connection });
        Self { mint, cache: TokenCache::default(), renewals: std::sync::Mutex::default() }
    }

    /// The time by which tokens are judged.
    pub(super) fn now(&self) -> UnixMillis {
        self.mint.clock.now()
    }

    /// A token that names this identity, with half of its life left, or more; with less, or by a key that is tainted, where the
    /// control plane does not answer soon: its answer is then for whoever asks next. One by a key that is known no longer is
    /// given to nobody. One that was minted while a clock was ahead is not kept for longer than it takes to ask again.
    ///
    /// # Errors
    /// There is none. What the program is told, it may know.
    pub(super) async fn token(
        &self,
        identity: &Identity,
        audience: &Audience,
        board: &Board,
    ) -> Result<Arc<Zeroizing<String>>, Status> {
        let slot = self.cache.slot(&identity.enrollment, audience);
        let mut held = slot.lock().await;
        let (now, instant) = (self.now(), Instant::now());
        let rests = |held: &HeldToken| held.rests(instant, board.is_tainted(&held.key_id));
        if held
            .as_ref()
            .is_some_and(|held| !board.verifies(&held.key_id) || held.is_ahead(now) && !rests(held))
        {
            *held = None;
        }
        let Some(former) = held.as_mut().filter(|held| held.is_valid(&identity.id, now)) else {
            *held = None;
            let minted = self.mint.mint(identity, audience).await?;
            return Ok(Arc::clone(&held.insert(minted).token));
        };
        let is_tainted = board.is_tainted(&former.key_id);
        if (former.is_fresh(&identity.id, now) && !is_tainted) || rests(former) {
            return Ok(Arc::clone(&former.token));
        }
        let renewal = match former.renewal.clone().filter(|renewal| renewal.ended.peek().is_none()) {
            Some(renewal) => renewal,
            None => former.renewal.insert(self.renew(&slot, identity, audience, is_tainted)).clone(),
        };
        drop(held);
        let status = match timeout_at(renewal.begun + FRESH_WITHIN, renewal.ended).await {
            Ok(Ok(status)) => status,
            // It broke off, or goes on.
            Ok(Err(_)) | Err(_) => None,
        };
        let held = slot.lock().await;
        // Time has passed, and keys may have gone.
        let is_good =
            |held: &&HeldToken| held.is_valid(&identity.id, self.now()) && board.verifies(&held.key_id);
        match held.as_ref().filter(is_good) {
            Some(held) => Ok(Arc::clone(&held.token)),
            None => Err(status.unwrap_or_else(|| Status::unavailable(UNMINTED))),
        }
    }

    /// Asks for another without anybody who has to wait. There is one of a token's at a time, and each token was minted first.
    fn renew(&self, slot: &Slot, identity: &Identity, audience: &Audience, was_tainted: bool) -> Renewal {
        let (tell, ended) = oneshot::channel();
        let (mint, slot) = (Arc::clone(&self.mint), Arc::clone(slot));
        let (identity, audience) = (identity.clone(), audience.clone());
        let mut renewals = self.renewals.lock().unwrap_or_else(PoisonError::into_inner);
        while renewals.try_join_next().is_some() {}
        renewals.spawn(async move {
            let minting = timeout(MINTED_WITHIN, mint.mint(&identity, &audience));
            let outcome = minting
                .await
                .unwrap_or_else(|_| Err(unavailable(&identity, "the control plane does not answer in time")));
            let rest = Rest { since: Instant::now(), was_tainted };
            let mut held = slot.lock().await;
            let status = settle(&mut held, outcome, rest);
            drop(held);
            // Whoever has waited may have gone.
            let _gone = tell.send(status);
        });
        Renewal { begun: Instant::now(), ended: ended.shared() }
    }

    /// Forgets what is vouched for no longer.
    pub(super) fn retain(&self, entries: &Entries) {
        self.cache.retain(|enrollment| entries.contains_key(enrollment));
    }
}

impl Mint {
    async fn mint(&self, identity: &Identity, audience: &Audience) -> Result<HeldToken, Status> {
        let unavailable = |problem: &str| unavailable(identity, problem);
        let _turn = self.at_once.acquire().await.map_err(|_| unavailable("the agent is stopping"))?;
        let channel = self.connected().await.map_err(|problem| unavailable(&problem))?;
        let request = pb::MintWorkloadTokenRequest {
            enrollment: identity.enrollment.to_string(),
            audience: audience.names().to_vec(),
        };
        let asked_at = self.clock.now();
        let answer = WorkloadsClient::new((*channel).clone()).mint_token(request).await;
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

    async fn connected(&self) -> Result<Arc<Channel>, String> {
        let mut connection = self.connection.lock().await;
        if let Some(channel) = connection.upgrade() {
            return Ok(channel);
        }
        let channel = Arc::new(connect(&self.control_plane, &self.credentials).await?);
        *connection = Arc::downgrade(&channel);
        Ok(channel)
    }
}

fn unavailable(identity: &Identity, problem: &str) -> Status {
    tracing::warn!(event = "workload_token_delayed", enrollment = %identity.enrollment, problem);
    Status::unavailable(UNMINTED)
}

/// Takes a token over. Its instants are by the control plane's clock: how far they are apart is used, and whether that clock
/// is far ahead.
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
    let mut held = HeldToken {
        id: id.clone(),
        key_id: unverified_key_id(&token).map_err(|_| "the token names no key")?,
        token: Arc::new(token),
        since: asked_at.max(UnixMillis(issued_at_unix_ms)),
        renew_at: asked_at.plus(life / 2),
        not_after: asked_at.plus(life),
        rest: None,
        renewal: None,
    };
    if held.is_ahead(asked_at) {
        // The next one will be as well, until a clock is set.
        held.rest = Some(Rest { since: Instant::now(), was_tainted: false });
    }
    Ok(held)
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use hauberk_identity::{Name, TrustDomain};
    use hauberk_tls::jwt::{JwtBundle, JwtSigner, KeyUse};

    use super::super::testing::Served;
    use super::*;

    #[tokio::test]
    async fn what_a_key_signed_that_is_gone_is_given_to_nobody_and_by_a_tainted_one_for_want_of_another() {
        let served = Served::new();
        let (tokens, board) = (&served.shared.tokens, &served.board);
        let trust_domain = TrustDomain::parse("shop.local").unwrap();
        let [one, other] = [(); 2].map(|()| JwtSigner::generate().unwrap());
        let tell = |signers: &[&JwtSigner], tainted: &[&JwtSigner]| {
            let keys = signers.iter().map(|signer| signer.public_key().unwrap());
            let jwks = JwtBundle::new(trust_domain.clone(), keys).unwrap().to_jwks(KeyUse::Unsaid);
            let tainted_key_ids = tainted.iter().map(|signer| signer.key_id().to_owned()).collect();
            board.take_jwt_keys(&pb::JwtKeys { jwks, tainted_key_ids }, &trust_domain).unwrap();
        };
        let id = SpiffeId::parse("spiffe://shop.local/workload/a").unwrap();
        let (enrollment, audience) =
            (Name::parse("a").unwrap(), Audience::new(vec!["db".to_owned()]).unwrap());
        let identity = Identity { enrollment: enrollment.clone(), id: id.clone(), hint: String::new() };
        let slot = tokens.cache.slot(&enrollment, &audience);
        *slot.lock().await = Some(HeldToken {
            id,
            token: Arc::new(Zeroizing::new(TOKEN.to_owned())),
            key_id: one.key_id().to_owned(),
            since: tokens.now(),
            renew_at: tokens.now().plus(Duration::from_secs(100)),
            not_after: tokens.now().plus(Duration::from_secs(200)),
            rest: None,
            renewal: None,
        });
        let given = async || tokens.token(&identity, &audience, board).await.map(|token| token.to_string());
        assert_eq!(given().await.unwrap(), TOKEN, "while the keys are not told");
        tell(&[&one, &other], &[]);
        assert_eq!(given().await.unwrap(), TOKEN);
        tell(&[&one, &other], &[&one]);
        assert!(board.is_tainted(one.key_id()) && !board.is_tainted(other.key_id()));
        assert_eq!(given().await.unwrap(), TOKEN, "nobody answers, and it is good");
        tell(&[&other], &[]);
        assert_eq!(given().await.unwrap_err().code(), Code::Unavailable);
        assert!(slot.lock().await.is_none());
    }

    #[tokio::test]
    async fn a_control_plane_that_hangs_keeps_nobody_waiting_who_has_a_token() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let served = Served::with(silent.local_addr().unwrap());
        let tokens = &served.shared.tokens;
        let id = SpiffeId::parse("spiffe://shop.local/workload/a").unwrap();
        let (enrollment, audience) =
            (Name::parse("a").unwrap(), Audience::new(vec!["db".to_owned()]).unwrap());
        let identity = Identity { enrollment: enrollment.clone(), id: id.clone(), hint: String::new() };
        let hold = async |since: UnixMillis| {
            *tokens.cache.slot(&enrollment, &audience).lock().await = Some(HeldToken {
                id: id.clone(),
                token: Arc::new(Zeroizing::new(TOKEN.to_owned())),
                key_id: "k".to_owned(),
                since,
                renew_at: since,
                not_after: since.plus(Duration::from_secs(3_600)),
                rest: None,
                renewal: None,
            });
        };
        hold(tokens.now()).await;
        let begun = Instant::now();
        let given = || tokens.token(&identity, &audience, &served.board);
        let all = futures_util::future::join_all((0..20).map(|_| given())).await;
        assert!(all.into_iter().all(|given| given.unwrap().as_str() == TOKEN));
        assert!(begun.elapsed() < 2 * FRESH_WITHIN, "one has waited, for all: {:?}", begun.elapsed());
        // Who has less time has it no later for having gone, and nobody waits for what is asked for already.
        hold(tokens.now()).await;
        let less = FRESH_WITHIN * 3 / 4;
        assert!(timeout(less, given()).await.is_err(), "it is asked for");
        assert_eq!(timeout(less, given()).await.unwrap().unwrap().as_str(), TOKEN);
        let begun = Instant::now();
        assert_eq!(given().await.unwrap().as_str(), TOKEN);
        assert!(begun.elapsed() < FRESH_WITHIN / 4);
        // Nobody is given one that ends while it waits for another.
        hold(tokens.now()).await;
        if let Some(held) = &mut *tokens.cache.slot(&enrollment, &audience).lock().await {
            held.not_after = tokens.now().plus(FRESH_WITHIN / 2);
        }
        assert_eq!(given().await.unwrap_err().code(), Code::Unavailable);
        // Nobody is given one of which nobody knows how long it is good.
        hold(tokens.now().plus(Duration::from_secs(600))).await;
        assert!(timeout(FRESH_WITHIN, given()).await.is_err(), "it is asked for");
        assert!(tokens.cache.slot(&enrollment, &audience).lock().await.is_none());
    }

    /// A token of one header, which names the key `k`.
    const TOKEN: &str = "eyJraWQiOiJrIn0.e30.AA";

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
        assert!(held.is_fresh(&id, at(149)) && !held.is_fresh(&id, at(150)));
        assert!(held.is_valid(&id, at(299)) && !held.is_valid(&id, at(300)));
        // By our own clock, or by the control plane's, whichever was ahead when it was minted.
        let minute = Duration::from_secs(60);
        assert!(!held.is_ahead(at(0).minus(5 * minute)) && held.is_ahead(at(0).minus(6 * minute)));
        let of_later = pb::MintTokenResponse {
            issued_at_unix_ms: at(360).0,
            expires_at_unix_ms: at(660).0,
            ..answer(TOKEN, id.as_str())
        };
        let of_later = read(of_later, &id, at(0)).unwrap();
        assert!(of_later.is_ahead(at(0)) && !of_later.is_ahead(at(60)));
        // The next would be too: it is of use for a short while.
        assert!(of_later.rests(Instant::now(), false) && !held.rests(Instant::now(), false));
        let other = SpiffeId::parse("spiffe://shop.local/workload/b").unwrap();
        assert!(!held.is_fresh(&other, at(0)) && !held.is_valid(&other, at(0)));
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
