//! Where a token is minted. It names the caller's own SPIFFE id, which its certificate proved, or that of a workload
//! which it may vouch for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hauberk_identity::{InstanceId, Name, Serial, SpiffeId, UnixMillis};
use hauberk_tls::PeerIdentity;
use hauberk_tls::jwt::Claims;
use hauberk_tls::signing::SigningError;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use zeroize::Zeroizing;

use super::keys::SigningKeys;
use crate::allowance::Allowances;
use crate::audit::{Act, Actor, Audit};
use crate::clock::Clock;
use crate::enrollment::{Enrollment, EnrollmentError, EntitledWorkload, workload_object};
use crate::metrics::{Metrics, OutcomeLabel};
use crate::random::{self, NoRandomness};

/// The longest life that a token may be given.
pub const LONGEST_TOKEN_LIFE: Duration = Duration::from_secs(3_600);

/// For how many a token may be meant, and how many bytes their names may have together: so that it fits into a header.
const MOST_AUDIENCES: usize = 32;
const MOST_AUDIENCE_BYTES: usize = 4 * 1024;

/// How many tokens an instance may ask for at once, for itself and for each of its workloads, and how often from then on: a
/// token for each of many audiences after a restart, and not one for each request that is forwarded.
const AT_ONCE: u32 = 500;
const ONE_EVERY: Duration = Duration::from_millis(100);

/// Why no token was minted.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// A token for anybody would be good anywhere.
    #[error("a token needs an audience: at least one, and none of them empty")]
    NoAudience,
    /// More than fits.
    #[error(
        "a token is for at most {MOST_AUDIENCES} audiences of {MOST_AUDIENCE_BYTES} bytes together: ask for several"
    )]
    TooManyAudiences,
    /// The caller is not entitled to its name any longer.
    #[error(transparent)]
    NotEntitled(#[from] EnrollmentError),
    /// More tokens than anybody needs.
    #[error(
        "this instance has asked for too many tokens: keep them until they expire. Again in {again_in:?}"
    )]
    TooOften {
        /// When it may.
        again_in: Duration,
    },
    /// There is no key, or none that is valid now.
    #[error("the control plane has no key to sign tokens with: its log says why")]
    NoKey,
    /// Signing failed.
    #[error("the token could not be signed")]
    Sign(#[from] SigningError),
    /// No number for the token can be made.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

impl MintError {
    /// The stable name of the refusal, for callers and metrics; of what failed here, what it is called in metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoAudience | Self::TooManyAudiences => "BAD_FIELD",
            Self::NotEntitled(error) => error.reason(),
            Self::TooOften { .. } => "TOO_MANY_TOKENS",
            Self::NoKey => "NO_SIGNING_KEY",
            Self::Sign(_) | Self::NoRandomness(_) => "FAILED",
        }
    }

    /// Whether the caller was refused, as against something having failed here.
    fn is_refusal(&self) -> bool {
        match self {
            Self::NoAudience | Self::TooManyAudiences | Self::TooOften { .. } => true,
            Self::NotEntitled(error) => error.is_refusal(),
            Self::NoKey | Self::Sign(_) | Self::NoRandomness(_) => false,
        }
    }
}

/// A token that was minted.
pub struct Minted {
    /// Whom it names.
    pub id: SpiffeId,
    /// In compact form. Whoever has it is who it names, until it expires.
    pub token: Zeroizing<String>,
    /// When it was made.
    pub issued_at: UnixMillis,
    /// When it ends.
    pub expires_at: UnixMillis,
}

/// Mints tokens.
pub struct Minter {
    keys: Arc<SigningKeys>,
    enrollment: Arc<Enrollment>,
    audit: Arc<Audit>,
    clock: Clock,
    token_life: Duration,
    issuer: Option<String>,
    allowances: Mutex<Allowances>,
    outcomes: Family<OutcomeLabel, Counter>,
    metrics: Arc<Metrics>,
}

/// The parts that [`Minter`] is made of.
pub struct MinterParts {
    /// What signs.
    pub keys: Arc<SigningKeys>,
    /// Who is entitled to a name.
    pub enrollment: Arc<Enrollment>,
    /// Records of refusals.
    pub audit: Arc<Audit>,
    /// Where the figures are shown.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Clock,
    /// The life of a token.
    pub token_life: Duration,
    /// The URL that tokens name as their issuer, where the keys are served there.
    pub issuer: Option<String>,
}

impl Minter {
    /// Puts the parts together.
    pub fn new(parts: MinterParts) -> Self {
        let MinterParts { keys, enrollment, audit, metrics, clock, token_life, issuer } = parts;
        let outcomes = Family::<OutcomeLabel, Counter>::default();
        metrics.register(|registry| {
            registry.register("jwt_svids", "JWT-SVIDs asked for by agents, by outcome", outcomes.clone());
        });
        let allowances = Mutex::new(Allowances::new(AT_ONCE, ONE_EVERY));
        Self { keys, enrollment, audit, clock, token_life, issuer, allowances, outcomes, metrics }
    }

    /// Mints a token that names the caller. Tokens are counted, not recorded one by one: there may be many in a minute, and
    /// who may have them is recorded with the certificate. Refusals are recorded.
    ///
    /// # Errors
    /// When the audience cannot be, the caller is not entitled, or there is no key.
    pub async fn mint(
        &self,
        caller: &PeerIdentity,
        audience: &[String],
        source: &str,
    ) -> Result<Minted, MintError> {
        let result = self.try_mint(caller, audience).await;
        self.tell(&result, caller, "jwt-svid.mint", || caller.id().to_string(), source).await;
        result
    }

    /// Mints a token that names a workload. `enrollment` is a name in the mesh of the caller's node; whom the token names
    /// comes from that enrollment, and only where that node is its parent. Counted and recorded as the caller's own.
    ///
    /// # Errors
    /// As for the caller's own, and when the enrollment is not there or another node's.
    pub async fn mint_for_workload(
        &self,
        caller: &PeerIdentity,
        instance: InstanceId,
        enrollment: &str,
        audience: &[String],
        source: &str,
    ) -> Result<Minted, MintError> {
        let result = self.try_mint_for_workload(caller, instance, enrollment, audience).await;
        self.tell(&result, caller, "workload.mint", || workload_object(enrollment, instance), source).await;
        result
    }

    async fn tell(
        &self,
        result: &Result<Minted, MintError>,
        caller: &PeerIdentity,
        action: &'static str,
        object: impl FnOnce() -> String,
        source: &str,
    ) {
        let outcome = match result {
            Ok(_) => "ok",
            Err(error) if error.is_refusal() => "refused",
            Err(_) => "failed",
        };
        self.outcomes.get_or_create(&OutcomeLabel { outcome }).inc();
        if let Err(error) = result
            && error.is_refusal()
        {
            self.metrics.refused(error.reason());
            let actor = Actor { name: caller.id().to_string(), source: source.to_owned() };
            self.audit.record_refusal(Act::refused(&actor, action, object(), error)).await;
        }
    }

    async fn try_mint(&self, caller: &PeerIdentity, audience: &[String]) -> Result<Minted, MintError> {
        check_audience(audience)?;
        let serial = caller.serial();
        // Before anything is read. A certificate of an earlier release does not say whose it is, and counts for itself.
        self.take(&serial.instance().map_or_else(|| serial.to_string(), |instance| instance.to_string()))?;
        let entitled = self.enrollment.entitled(caller).await?;
        // Whoever began to ask before it was revoked gets nothing after.
        self.enrollment.entitlement(&entitled, caller).await?;
        self.sign(caller.id(), entitled.instance, audience, self.token_life)
    }

    async fn try_mint_for_workload(
        &self,
        caller: &PeerIdentity,
        instance: InstanceId,
        enrollment: &str,
        audience: &[String],
    ) -> Result<Minted, MintError> {
        check_audience(audience)?;
        // What can be no name is refused below; all of it counts together.
        let name = Name::parse(enrollment).ok();
        self.take(&format!("{instance}/{}", name.as_ref().map_or("", |name| name.as_str())))?;
        let EntitledWorkload { workload, .. } = self.enrollment.entitled_workload(caller, enrollment).await?;
        self.sign(workload.id(), instance, audience, workload.token_ttl().unwrap_or(self.token_life))
    }

    fn sign(
        &self,
        id: &SpiffeId,
        instance: InstanceId,
        audience: &[String],
        life: Duration,
    ) -> Result<Minted, MintError> {
        let now = self.clock.now();
        let keys = self.keys.current();
        let key = keys.signing_at(now).ok_or(MintError::NoKey)?;
        // Whoever refuses the instance refuses its tokens by that alone.
        let token_id = Serial::of_instance(instance, random::bytes()?).to_string();
        let expires_at = now.plus(life).min(key.not_after()).floor_to_second();
        let token = key.signer.sign(&Claims {
            id,
            audience,
            issued_at: now,
            expires_at,
            token_id: &token_id,
            issuer: self.issuer.as_deref(),
        })?;
        Ok(Minted { id: id.clone(), token, issued_at: now, expires_at })
    }

    fn take(&self, whose: &str) -> Result<(), MintError> {
        let mut allowances = self.allowances.lock().unwrap_or_else(PoisonError::into_inner);
        allowances.take(whose, self.clock.now()).map_err(|again_in| MintError::TooOften { again_in })
    }
}

fn check_audience(audience: &[String]) -> Result<(), MintError> {
    if audience.is_empty() || audience.iter().any(String::is_empty) {
        return Err(MintError::NoAudience);
    }
    let bytes: usize = audience.iter().map(String::len).sum();
    if audience.len() > MOST_AUDIENCES || bytes > MOST_AUDIENCE_BYTES {
        return Err(MintError::TooManyAudiences);
    }
    Ok(())
}
