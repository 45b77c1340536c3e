//! The first certificate for a join token.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use hauberk_identity::{InstanceId, Name, NodeName, SpiffeId, UnixMillis};
use hauberk_tls::{CertificateRequest, RequestedKey};
use tokio::sync::Mutex;

use super::arrivals::Arrivals;
use super::attest::{KEYS_AT_ONCE, KEYS_IN_A_LIFE, Readings};
use super::bearer::Bearer;
use super::error::{EnrollmentError, without_conflict};
use super::first::{Admitted, Taken};
use super::former::Former;
use super::instance::{AgentInfo, Joined, presentable};
use super::node::StoredNode;
use super::renewals::Renewals;
use super::token::{TokenRecord, TokenUse, Uses, token_key, uses_of};
use crate::allowance::Allowances;
use crate::attestation::TokenReviewers;
use crate::audit::{Act, Actor, Audit};
use crate::clock::Clock;
use crate::instances::Instances;
use crate::issuance::{Issued, Issuer, Ledger};
use crate::metrics::{Metrics, OutcomeLabel};
use crate::random;
use crate::registry::{Commit, Store, StoreError, Stored, document, keys};
use crate::secret::SecretHash;

/// Into how many queues users of tokens are sorted, by the token's hash.
const QUEUES: usize = 64;

/// How many live instances a virtual node may have; each takes some memory and disk until its certificate expires. Far more
/// than anybody runs, it bounds those who hold a token for any number of agents. Those who join at the very same moment
/// may be a few more.
pub(crate) const MOST_INSTANCES: usize = 10_000;

/// An agent that has a certificate.
#[derive(Debug, Clone)]
pub struct Enrolled {
    /// The certificate.
    pub issued: Issued,
    /// Which instance it is.
    pub instance: InstanceId,
}

/// Lets agents in.
pub struct Enrollment {
    pub(super) store: Arc<dyn Store>,
    pub(super) issuer: Arc<Issuer>,
    pub(super) ledger: Arc<Ledger>,
    instances: Arc<Instances>,
    pub(super) audit: Arc<Audit>,
    metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    pub(super) trust_domain: hauberk_identity::TrustDomain,
    pub(super) svid_ttl: Duration,
    /// How often each instance may renew.
    pub(super) renewals: Renewals,
    /// How often each machine that shows evidence may do so with a new key.
    pub(super) machines: std::sync::Mutex<Allowances>,
    /// Enrollments of agents.
    pub(super) readings: Readings,
    /// The clusters that can be asked whose a token is.
    pub(super) reviewers: TokenReviewers,
    /// How fast each token makes instances.
    arrivals: std::sync::Mutex<Arrivals>,
    /// Users of one token that is for so many go one after the other, so that they do not fail each other's guards over
    /// and over.
    queues: Vec<Mutex<()>>,
}

/// The parts that [`Enrollment`] is made of.
pub struct EnrollmentParts {
    /// Tokens and nodes.
    pub store: Arc<dyn Store>,
    /// Certificates.
    pub issuer: Arc<Issuer>,
    /// What is recorded of instances.
    pub ledger: Arc<Ledger>,
    /// The instances there are.
    pub instances: Arc<Instances>,
    /// Records.
    pub audit: Arc<Audit>,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Clock,
    /// The trust domain of all nodes.
    pub trust_domain: hauberk_identity::TrustDomain,
    /// The life of agents' certificates.
    pub svid_ttl: Duration,
    /// The clusters that can be asked whose a token is.
    pub reviewers: TokenReviewers,
}

impl Enrollment {
    /// Puts the parts together.
    pub fn new(parts: EnrollmentParts) -> Self {
        let EnrollmentParts {
            store,
            issuer,
            ledger,
            instances,
            audit,
            metrics,
            clock,
            trust_domain,
            svid_ttl,
            reviewers,
        } = parts;
        let queues = std::iter::repeat_with(|| Mutex::new(())).take(QUEUES).collect();
        let machines = std::sync::Mutex::new(Allowances::new(KEYS_AT_ONCE, svid_ttl / KEYS_IN_A_LIFE));
        Self {
            store,
            issuer,
            ledger,
            instances,
            audit,
            metrics,
            clock,
            trust_domain,
            svid_ttl,
            renewals: Renewals::new(svid_ttl),
            machines,
            readings: Readings::default(),
            reviewers,
            arrivals: std::sync::Mutex::new(Arrivals::new()),
            queues,
        }
    }

    /// Exchanges a join token for a first certificate. The use is bound to the key before anything is signed: the
    /// same key may ask again, since the answer may have been lost, and gets the same instance; another key may not.
    /// `former`: who joins anew, if it does.
    ///
    /// # Errors
    /// Says precisely why not; refusals are recorded.
    pub async fn attest(
        &self,
        token: &str,
        csr: &[u8],
        info: AgentInfo,
        former: Option<&Former>,
        source: &str,
    ) -> Result<Enrolled, EnrollmentError> {
        let hash = SecretHash::of(token);
        let result = self.try_attest(&hash, csr, info, former, source).await;
        self.count(result.as_ref().err());
        if let Err(error) = &result {
            let (actor, object) = (Actor::unauthenticated(source), format!("token {}", hash.short()));
            self.tell_refused(error, actor, "enrollment.attest", object, error).await;
        }
        result
    }

    async fn try_attest(
        &self,
        hash: &SecretHash,
        csr: &[u8],
        info: AgentInfo,
        former: Option<&Former>,
        source: &str,
    ) -> Result<Enrolled, EnrollmentError> {
        let key = token_key(hash);
        let (_, record) = self.token(&key).await?;
        self.check_expiry(&record)?;
        // The signature of a request is checked only for those who hold a token.
        let public_key = CertificateRequest::read(csr)?;
        let info = AgentInfo { version: presentable(&info.version), hostname: presentable(&info.hostname) };

        // Who uses a token for any number of agents changes nothing that others look at.
        let queue = if record.uses == Uses::Unlimited { None } else { self.queue(hash) };
        let _turn = match queue {
            Some(queue) => Some(queue.lock().await),
            None => None,
        };
        without_conflict(|| self.use_token(hash, &public_key, &info, former, source)).await
    }

    /// One attempt: fails with a conflict where the token, or the node, changed in between. One that lets nobody in uses up
    /// nothing of what the token, or the instance, may do.
    async fn use_token(
        &self,
        hash: &SecretHash,
        public_key: &RequestedKey,
        info: &AgentInfo,
        former: Option<&Former>,
        source: &str,
    ) -> Result<Enrolled, EnrollmentError> {
        let key = token_key(hash);
        let (stored, record) = self.token(&key).await?;
        self.check_expiry(&record)?;
        let use_key = format!("{}{}/{}", keys::TOKEN_USES, hash.as_str(), public_key.fingerprint());
        let before = match self.store.get(&use_key).await? {
            Some(used) => Some(document::from_stored::<TokenUse>(&use_key, &used)?),
            None => None,
        };

        let mesh = Name::parse(&record.mesh)?;
        let Bearer { makes, node, entitlement, evidence } =
            self.bearer(hash, &mesh, &record, before.as_ref(), source).await?;
        let of_node = (&mesh, &makes.node);
        let entitlement = self.check_denied(entitlement, of_node, None).await?;
        let id = makes.node.spiffe_id(&self.trust_domain, &mesh);
        let entitlement = self.check_former(entitlement, former, &id, Some(&record)).await?;
        let (instance, entitlement, taken) = match &before {
            Some(used) => {
                let damaged =
                    |_| StoreError::Damaged { key: used.instance.clone(), what: "it is no instance" };
                let instance = InstanceId::parse(&used.instance).map_err(damaged)?;
                let entitlement = entitlement.present(key).present(use_key);
                let entitlement = self.check_denied(entitlement, of_node, Some((&instance, None))).await?;
                (instance, entitlement, self.take_renewal(instance, &makes)?)
            }
            None => {
                self.check_room(&id, &node.uid, of_node)?;
                let instance = random::instance_id()?;
                let entitlement = self.count_use(entitlement, hash, (&stored, &record)).await?;
                let used = TokenUse {
                    instance: instance.to_string(),
                    at: self.clock.now().0,
                    source: source.to_owned(),
                    node_uid: Some(node.uid.clone()),
                };
                let bytes = document::to_bytes(&use_key, &used)?;
                let entitlement = entitlement.absent(use_key.clone()).put(use_key, bytes);
                (instance, entitlement, self.take_arrival(hash, record.uses, source)?)
            }
        };
        let joined = Joined {
            at: before.as_ref().map(|used| used.at),
            token: Some(hash.short().to_owned()),
            evidence,
            from: Some(before.map_or_else(|| source.to_owned(), |used| used.source)),
        };
        let actor = Actor { name: format!("token:{}", hash.short()), source: source.to_owned() };
        let (mesh, makes) = (&mesh, &makes);
        let admitted = Admitted { mesh, makes, node, instance, public_key, info, joined, actor, taken };
        self.issue_first(admitted, entitlement).await
    }

    /// The commit in which a token is used once more, by a new instance.
    async fn count_use(
        &self,
        commit: Commit,
        hash: &SecretHash,
        (stored, record): (&Stored, &TokenRecord),
    ) -> Result<Commit, EnrollmentError> {
        let key = token_key(hash);
        match record.uses {
            Uses::Unlimited => Ok(commit.present(key)),
            Uses::Limited(limit) if record.used < limit => {
                let used = TokenRecord { used: record.used + 1, ..record.clone() };
                let bytes = document::to_bytes(&key, &used)?;
                Ok(commit.at(key.clone(), stored.version).put(key, bytes))
            }
            Uses::Limited(_) => {
                let by = uses_of(&*self.store, hash.as_str()).await?;
                Err(EnrollmentError::UsedUp { by })
            }
        }
    }

    /// Counts a new instance of a token.
    fn take_arrival<'a>(
        &self,
        token: &'a SecretHash,
        uses: Uses,
        source: &'a str,
    ) -> Result<Taken<'a>, EnrollmentError> {
        match uses {
            Uses::Limited(_) => Ok(Taken::Nothing),
            Uses::Unlimited => {
                self.arrivals().take(token, source, self.clock.now())?;
                Ok(Taken::Arrival { token, source })
            }
        }
    }

    async fn token(&self, key: &str) -> Result<(Stored, TokenRecord), EnrollmentError> {
        let stored = self.store.get(key).await?.ok_or(EnrollmentError::UnknownToken)?;
        let record = document::from_stored(key, &stored)?;
        Ok((stored, record))
    }

    /// The node or gateway that exists, where it is the very one that a token or an instance belongs to.
    pub(super) async fn same_node(
        &self,
        mesh: &Name,
        node: &NodeName,
        belongs_to: Option<&str>,
    ) -> Result<StoredNode, EnrollmentError> {
        let existing = StoredNode::read(&*self.store, mesh, node).await?;
        let (mesh, node) = (mesh.clone(), node.clone());
        match (existing, belongs_to) {
            (None, _) => Err(EnrollmentError::NoSuchNode { mesh, node }),
            (Some(existing), Some(belongs_to)) if existing.uid != belongs_to => {
                Err(EnrollmentError::NodeMadeAnew { mesh, node })
            }
            (Some(existing), _) => Ok(existing),
        }
    }

    fn check_expiry(&self, record: &TokenRecord) -> Result<(), EnrollmentError> {
        let (now, expires_at) = (self.clock.now(), UnixMillis(record.expires_at));
        if now >= expires_at {
            return Err(EnrollmentError::Expired { ago: now.since(expires_at) });
        }
        Ok(())
    }

    /// Whether one more instance of a node is let in.
    pub(super) fn check_room(
        &self,
        id: &SpiffeId,
        uid: &str,
        (mesh, node): (&Name, &NodeName),
    ) -> Result<(), EnrollmentError> {
        if self.instances.has_live(id, uid, MOST_INSTANCES, self.clock.now()) {
            let (mesh, node) = (mesh.clone(), node.clone());
            return Err(EnrollmentError::TooManyInstances { mesh, node, most: MOST_INSTANCES });
        }
        Ok(())
    }

    pub(super) fn arrivals(&self) -> MutexGuard<'_, Arrivals> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self, hash: &SecretHash) -> Option<&Mutex<()>> {
        let number = usize::from_str_radix(hash.as_str().get(..4)?, 16).ok()?;
        self.queues.get(number % QUEUES)
    }

    /// Counts and records that somebody was refused, as against something having failed here.
    pub(super) async fn tell_refused(
        &self,
        error: &EnrollmentError,
        actor: Actor,
        action: &'static str,
        object: impl Into<String>,
        why: impl ToString,
    ) {
        if error.is_refusal() {
            self.metrics.refused(error.reason());
            let act = Act::refused(&actor, action, object, why).naming(error.of_rule());
            self.audit.record_refusal(act).await;
        }
    }

    pub(super) fn count(&self, error: Option<&EnrollmentError>) {
        let outcome = match error {
            None => "ok",
            Some(error) if error.is_refusal() => "refused",
            Some(_) => "failed",
        };
        self.metrics.enrollments.get_or_create(&OutcomeLabel { outcome }).inc();
    }
}
