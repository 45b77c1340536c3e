//! Join tokens: 256 random bits, shown once, kept as a hash, good for a while, bound to one virtual node, or with labels to an
//! enrollment that says what these make of their bearers.

mod request;

use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{NodeName, UnixMillis};
use serde::{Deserialize, Serialize};

use crate::audit::{Act, Actor, Audit};
use crate::clock::Clock;
use crate::registry::{Commit, Guard, Store, StoreError, document, keys};
use crate::secret::{Secret, SecretHash};
use request::Destination;
pub use request::{EnrollmentOfToken, TokenError, TokenFor, TokenRequest};

/// What every join token's text begins with.
const PREFIX: &str = "hbk1-";

/// The life of a token where none is asked for.
const DEFAULT_TTL: Duration = Duration::from_secs(600);

/// The longest life of a token.
const LONGEST_TTL: Duration = Duration::from_secs(86_400);

/// How long an expired token is remembered, so that its refusal can say so.
const KEPT_AFTER_EXPIRY: Duration = Duration::from_secs(86_400);

/// How many uses of a token are listed.
const USES_LISTED: usize = 1_000;

/// How many records one reading of the store takes.
const READ_AT_ONCE: usize = 1_000;

/// How many agents may use a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Uses {
    /// This many.
    Limited(u32),
    /// Any number, until it expires.
    Unlimited,
}

/// A token as the registry knows it; the hash of its text is in the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// The mesh.
    pub mesh: String,
    /// The virtual node or gateway that its bearers become, as [`NodeName`] writes it; empty where an enrollment says that.
    pub node: String,
    /// Which node of that name; `None` in records of releases that did not look at it.
    #[serde(default)]
    pub node_uid: Option<String>,
    /// Unix ms.
    pub created_at: u64,
    /// Unix ms.
    pub expires_at: u64,
    /// Who made it.
    pub created_by: String,
    /// How many may use it.
    pub uses: Uses,
    /// How many have; not counted for unlimited ones.
    pub used: u32,
    /// What says what its bearers become; `None`: `node`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrollment: Option<EnrollmentOfToken>,
}

impl TokenRecord {
    /// Whether somebody new may join by it at `now`.
    pub fn lets_in(&self, now: UnixMillis) -> bool {
        let has_uses = match self.uses {
            Uses::Limited(most) => self.used < most,
            Uses::Unlimited => true,
        };
        has_uses && now < UnixMillis(self.expires_at)
    }
}

/// Who used a token; the hash of the token and the fingerprint of the key are in the registry's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUse {
    /// The instance that came of it.
    pub instance: String,
    /// Unix ms.
    pub at: u64,
    /// From where.
    pub source: String,
    /// Which node it is an instance of; `None` in records of releases whose tokens had one node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_uid: Option<String>,
}

/// A token, the one time that its text is known.
#[derive(Debug)]
pub struct IssuedToken {
    /// The text.
    pub secret: Secret,
    /// What is kept.
    pub view: TokenView,
    /// What it makes of its bearers, as things are now.
    pub node: NodeName,
}

/// A token as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenView {
    /// Not secret: the beginning of the hash.
    pub id: String,
    /// What is kept.
    pub record: TokenRecord,
    /// Those who used it, in no order; at most a thousand.
    pub used_by: Vec<TokenUse>,
}

/// Makes, lists and takes back join tokens.
pub struct Tokens {
    store: Arc<dyn Store>,
    audit: Arc<Audit>,
    clock: Clock,
}

impl Tokens {
    /// The tokens in a store.
    pub fn new(store: Arc<dyn Store>, audit: Arc<Audit>, clock: Clock) -> Self {
        Self { store, audit, clock }
    }

    /// Makes a token for a virtual node that exists, or with labels of which an enrollment makes something.
    ///
    /// # Errors
    /// When the request is impossible or the registry fails.
    pub async fn create(&self, request: TokenRequest, actor: &Actor) -> Result<IssuedToken, TokenError> {
        let ttl = request.ttl.unwrap_or(DEFAULT_TTL);
        if ttl < Duration::from_secs(1) || ttl > LONGEST_TTL {
            return Err(TokenError::BadTtl);
        }
        if request.uses == Uses::Limited(0) {
            return Err(TokenError::NoUses);
        }
        let mesh = &request.mesh;
        let Destination { node, node_uid, enrollment, key: needed } =
            Destination::of(&*self.store, mesh, request.of).await?;
        let now = self.clock.now();
        let secret = Secret::generate(PREFIX)?;
        let hash = secret.hash();
        let (to, why) = match &enrollment {
            None => (format!("{mesh}/{node}"), None),
            Some(of) => (format!("enrollment {mesh}/{}", of.name), Some(format!("labels {of}"))),
        };
        let record = TokenRecord {
            mesh: request.mesh.to_string(),
            node: if enrollment.is_some() { String::new() } else { node.to_string() },
            node_uid,
            created_at: now.0,
            expires_at: now.plus(ttl).0,
            created_by: actor.name.clone(),
            uses: request.uses,
            used: 0,
            enrollment,
        };
        let key = token_key(&hash);
        let commit = Commit::new()
            .present(needed)
            .absent(key.clone())
            .put(key.clone(), document::to_bytes(&key, &record)?);
        let act = Act::done(actor, "token.create", format!("{} for {to}", hash.short()));
        let act = match why {
            Some(why) => act.because(why),
            None => act,
        };
        match self.audit.commit(commit, act).await {
            Ok(_) => {
                let id = hash.short().to_owned();
                let view = TokenView { id, record, used_by: Vec::new() };
                Ok(IssuedToken { secret, view, node })
            }
            Err(StoreError::Conflict { guard: Guard::Present(_) }) => Err(record.gone(request.mesh, node)),
            Err(error) => Err(error.into()),
        }
    }

    /// All tokens that are good or expired lately; those of one mesh where it is given.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn list(&self, mesh: Option<&str>) -> Result<Vec<TokenView>, TokenError> {
        let page = self.store.list(keys::TOKENS, None, usize::MAX).await?;
        let mut tokens = Vec::new();
        for (key, stored) in &page.entries {
            let record: TokenRecord = document::from_stored(key, stored)?;
            if mesh.is_some_and(|mesh| record.mesh != mesh) {
                continue;
            }
            let hash = key.strip_prefix(keys::TOKENS).unwrap_or(key);
            let used_by = uses_of(&*self.store, hash).await?;
            tokens.push(TokenView { id: hash.get(..12).unwrap_or(hash).to_owned(), record, used_by });
        }
        tokens.sort_by_key(|token| std::cmp::Reverse(token.record.created_at));
        Ok(tokens)
    }

    /// Takes a token back, by its id. Instances that used it keep their certificates. Who used it is forgotten by
    /// [`Tokens::prune`]: on a full disk a token must still be taken back, and that is small.
    ///
    /// # Errors
    /// When there is none of this id.
    pub async fn delete(&self, id: &str, actor: &Actor) -> Result<(), TokenError> {
        let missing = || TokenError::NoSuchToken(id.to_owned());
        if id.len() < 12 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(missing());
        }
        let page = self.store.list(&format!("{}{id}", keys::TOKENS), None, 1).await?;
        let (key, _) = page.entries.into_iter().next().ok_or_else(missing)?;
        let commit = Commit::new().present(key.clone()).delete(key).using_reserve();
        match self.audit.commit(commit, Act::done(actor, "token.delete", id)).await {
            Err(StoreError::Conflict { .. }) => Err(missing()),
            result => result.map(|_| ()).map_err(TokenError::from),
        }
    }

    /// Forgets tokens that expired more than a day before `now`, and who used those that are gone. Gives the number of both.
    ///
    /// # Errors
    /// When the store cannot be read or written; the next run goes on.
    pub async fn prune(&self, now: UnixMillis) -> Result<usize, StoreError> {
        let mut removed = 0;
        for (key, stored) in self.store.list(keys::TOKENS, None, usize::MAX).await?.entries {
            let record: TokenRecord = document::from_stored(&key, &stored)?;
            if UnixMillis(record.expires_at).plus(KEPT_AFTER_EXPIRY) < now {
                self.store.commit(Commit::new().delete(key)).await?;
                removed += 1;
            }
        }
        Ok(removed + self.prune_uses().await?)
    }

    /// Whoever is on record when the tokens are read has used one that was there: where it is not, nobody uses it again.
    async fn prune_uses(&self) -> Result<usize, StoreError> {
        let (mut removed, mut after) = (0, None);
        loop {
            let page = self.store.list(keys::TOKEN_USES, after.as_deref(), READ_AT_ONCE).await?;
            let mut commit = Commit::new();
            let mut last = (String::new(), false);
            for (key, _) in &page.entries {
                let token = key.strip_prefix(keys::TOKEN_USES).and_then(|rest| rest.split_once('/'));
                let token = token.map_or("", |(hash, _)| hash);
                if last.0 != token {
                    let is_there = self.store.get(&format!("{}{token}", keys::TOKENS)).await?.is_some();
                    last = (token.to_owned(), is_there);
                }
                if !last.1 {
                    commit = commit.delete(key);
                }
            }
            removed += commit.len();
            if !commit.is_empty() {
                self.store.commit(commit).await?;
            }
            if !page.more {
                return Ok(removed);
            }
            after = page.entries.last().map(|(key, _)| key.clone());
        }
    }
}

/// The registry's key of a token.
pub(super) fn token_key(hash: &SecretHash) -> String {
    format!("{}{}", keys::TOKENS, hash.as_str())
}

/// Those who used a token.
pub(super) async fn uses_of(store: &dyn Store, hash: &str) -> Result<Vec<TokenUse>, StoreError> {
    let page = store.list(&format!("{}{hash}/", keys::TOKEN_USES), None, USES_LISTED).await?;
    page.entries.iter().map(|(key, stored)| document::from_stored(key, stored)).collect()
}
