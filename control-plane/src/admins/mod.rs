//! People and programs that may call the admin API: who they are, what they may do, and their credentials.
//!
//! A credential is a client certificate of eight hours (docs/decisions/0015-an-admins-credential-lives-for-a-working-day.md). Every call looks at the admin's record, so one that is deleted
//! is refused at once, and one that is made anew under the same name does not bring old credentials back to life.

mod context_file;
mod dismissal;
mod error;
mod login;
mod record;
mod turn;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hauberk_identity::{IdentityKind, Name, Serial, SpiffeId, TrustDomain, UnixMillis};
use hauberk_tls::{CertificateRequest, PeerIdentity, RequestedKey};
use tokio_util::sync::CancellationToken;

use crate::allowance::Allowances;
use crate::audit::{Act, Actor, Audit};
use crate::clock::Clock;
use crate::issuance::{Holder, Issued, Issuer, Ledger, Order};
use crate::random;
use crate::registry::{Commit, Store, StoreError, Stored, document, keys};
use crate::revocation;
use crate::secret::{Secret, SecretHash};
pub use context_file::{Context, ContextFileError, add_context, contexts_path, current_context};
use dismissal::Dismissals;
pub use error::AdminError;
use record::LoginRecord;
pub use record::{AdminRecord, Role, holding};
use turn::Turns;

/// What every login token's text begins with.
const PREFIX: &str = "hbl1-";

/// The life of a login token.
const LOGIN_TTL: Duration = Duration::from_secs(600);

/// The life of a credential: it survives a pause of half of that, which nobody at work makes, and no night.
const CREDENTIAL_TTL: Duration = Duration::from_secs(8 * 3_600);

/// How often an admin may renew a credential at once (several commands may find it due), and how often in a credential's
/// life from then on.
const RENEWALS_AT_ONCE: u32 = 20;
const RENEWALS_IN_A_LIFE: u32 = 20;

/// How often a change is tried again when somebody else changes the same admin at the same moment.
const ATTEMPTS: u32 = 4;

/// An admin as shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminView {
    /// The name.
    pub name: Name,
    /// The rest.
    pub record: AdminRecord,
}

/// A login token, the one time that its text is known.
#[derive(Debug)]
pub struct IssuedLogin {
    /// The text.
    pub secret: Secret,
    /// Whose it is.
    pub admin: AdminView,
    /// Until when it is good.
    pub expires_at: UnixMillis,
}

/// A credential.
#[derive(Debug, Clone)]
pub struct Credential {
    /// The certificate.
    pub issued: Issued,
    /// Whose it is.
    pub admin: AdminView,
}

/// The admins.
pub struct Admins {
    store: Arc<dyn Store>,
    issuer: Arc<Issuer>,
    ledger: Arc<Ledger>,
    audit: Arc<Audit>,
    clock: Clock,
    trust_domain: TrustDomain,
    dismissals: Dismissals,
    /// How often each admin may renew.
    renewals: Mutex<Allowances>,
    turns: Turns,
}

impl Admins {
    /// Puts the parts together.
    pub fn new(
        store: Arc<dyn Store>,
        issuer: Arc<Issuer>,
        ledger: Arc<Ledger>,
        audit: Arc<Audit>,
        clock: Clock,
        trust_domain: TrustDomain,
    ) -> Self {
        let renewals = Mutex::new(Allowances::new(RENEWALS_AT_ONCE, CREDENTIAL_TTL / RENEWALS_IN_A_LIFE));
        let (dismissals, turns) = (Dismissals::default(), Turns::default());
        Self { store, issuer, ledger, audit, clock, trust_domain, dismissals, renewals, turns }
    }

    /// Makes an admin and a login token, good for one key, for ten minutes.
    ///
    /// # Errors
    /// When there is one of this name already, or no role is given.
    pub async fn create(
        &self,
        name: &Name,
        roles: &[Role],
        actor: &Actor,
    ) -> Result<IssuedLogin, AdminError> {
        let record = self.new_record(roles, actor)?;
        let secret = Secret::generate(PREFIX)?;
        let expires_at = self.clock.now().plus(LOGIN_TTL);
        let login = LoginRecord {
            admin: name.to_string(),
            generation: record.generation.clone(),
            expires_at: expires_at.0,
            used: None,
        };
        let (key, login_key) = (admin_key(name), login_key(&secret.hash()));
        let commit = Commit::new()
            .absent(key.clone())
            .put(key.clone(), document::to_bytes(&key, &record)?)
            .put(login_key.clone(), document::to_bytes(&login_key, &login)?);
        let act = Act::done(actor, "admin.create", name.as_str()).because(roles_in_words(&record.roles));
        match self.audit.commit(commit, act).await {
            Ok(_) => Ok(IssuedLogin { secret, admin: AdminView { name: name.clone(), record }, expires_at }),
            Err(StoreError::Conflict { .. }) => Err(AdminError::Exists(name.clone())),
            Err(error) => Err(error.into()),
        }
    }

    /// All admins, by name.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn list(&self) -> Result<Vec<AdminView>, AdminError> {
        let page = self.store.list(keys::ADMINS, None, usize::MAX).await?;
        let mut admins = Vec::with_capacity(page.entries.len());
        for (key, stored) in &page.entries {
            let name = Name::parse(key.strip_prefix(keys::ADMINS).unwrap_or(key))?;
            admins.push(AdminView { name, record: document::from_stored(key, stored)? });
        }
        Ok(admins)
    }

    /// Removes an admin, whose credentials are refused from the next call on.
    ///
    /// # Errors
    /// When there is none of this name, it is the caller itself, or the last owner; or others changed admins all the time.
    pub async fn delete(&self, name: &str, actor: &Actor) -> Result<(), AdminError> {
        let missing = || AdminError::NoSuchAdmin(name.to_owned());
        let name = Name::parse(name).map_err(|_| missing())?;
        if actor.name == SpiffeId::admin(&self.trust_domain, &name).as_str() {
            return Err(AdminError::Oneself);
        }
        let _turn = self.turns.of(&name).await;
        let mut attempt = 1;
        loop {
            let (stored, record) = self.read(&name).await?.ok_or_else(missing)?;
            let key = admin_key(&name);
            let mut commit = Commit::new().at(key.clone(), stored.version).delete(key);
            if record.roles.contains(&Role::Owner) {
                let others = self.list().await?;
                let other = others
                    .iter()
                    .find(|other| other.name != name && other.record.roles.contains(&Role::Owner));
                let other = other.ok_or_else(|| AdminError::LastOwner(name.clone()))?;
                // Two owners who delete each other at the same moment: one of them stays.
                commit = commit.present(admin_key(&other.name));
            }
            match self.audit.commit(commit, Act::done(actor, "admin.delete", name.as_str())).await {
                Err(StoreError::Conflict { .. }) if attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error.into()),
                Ok(committed) => {
                    // Nobody who is answered finds the admin there still; who has gone before leaves that to `follow`.
                    self.dismissals.dismiss(&name, committed.version);
                    return Ok(());
                }
            }
        }
    }

    /// For a peer that presents an admin's certificate: what is cancelled when that admin is deleted, for whoever
    /// holds connections or streams open.
    pub fn dismissal_of(&self, peer: &PeerIdentity) -> Option<CancellationToken> {
        let IdentityKind::Admin { name } = peer.id().kind() else { return None };
        let name = Name::parse(name).ok()?;
        Some(self.dismissals.of(name))
    }

    /// Issues a fresh credential to an admin who has proved the present one.
    ///
    /// # Errors
    /// When the admin is gone, renews too often, or the request is not acceptable.
    pub async fn renew(
        &self,
        name: &Name,
        renewed: Serial,
        csr: &[u8],
        actor: &Actor,
    ) -> Result<Credential, AdminError> {
        self.check_renewals(name)?;
        let public_key = CertificateRequest::read(csr)?;
        let _turn = self.turns.of(name).await;
        let mut attempt = 1;
        loop {
            let (stored, record) =
                self.read(name).await?.ok_or_else(|| AdminError::NoSuchAdmin(name.to_string()))?;
            let commit = Commit::new().at(admin_key(name), stored.version);
            let checked = revocation::check_certificate(&*self.store, commit, renewed).await?;
            let commit = checked.map_err(|_| AdminError::Stale)?;
            match self.credential(name, record, &public_key, |_| Ok(commit), actor, "admin.renew").await {
                Err(error) if error.is_conflict() && attempt < ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    /// Issues a credential on the host itself, making the admin if need be: an owner where no role is given.
    ///
    /// # Errors
    /// When the admin exists with other roles, or the request is not acceptable.
    pub async fn issue_locally(
        &self,
        name: &Name,
        roles: &[Role],
        csr: &[u8],
        actor: &Actor,
    ) -> Result<Credential, AdminError> {
        let public_key = CertificateRequest::read(csr)?;
        let _turn = self.turns.of(name).await;
        let mut attempt = 1;
        loop {
            let (record, commit) = match self.read(name).await? {
                Some((stored, record)) => {
                    if !roles.is_empty() && sorted(roles) != record.roles {
                        return Err(AdminError::OtherRoles(name.clone()));
                    }
                    (record, Commit::new().at(admin_key(name), stored.version))
                }
                None => {
                    let roles = if roles.is_empty() { &[Role::Owner] } else { roles };
                    (self.new_record(roles, actor)?, Commit::new().absent(admin_key(name)))
                }
            };
            match self.credential(name, record, &public_key, |_| Ok(commit), actor, "admin.issue").await {
                Err(error) if error.is_conflict() && attempt < ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    /// Who a peer with a verified certificate is among the admins, now.
    ///
    /// # Errors
    /// When it is nobody's, or was somebody's.
    pub async fn authenticate(&self, peer: &PeerIdentity) -> Result<AdminView, AdminError> {
        let IdentityKind::Admin { name } = peer.id().kind() else {
            return Err(AdminError::NotAnAdmin(peer.id().clone()));
        };
        let name = Name::parse(name)?;
        if peer.not_after() < self.clock.now() {
            return Err(AdminError::Stale);
        }
        let (_, record) = self.read(&name).await?.ok_or(AdminError::Stale)?;
        match self.ledger.certificate(peer.serial()).await? {
            Some(issued)
                if issued.is_of(peer) && issued.holder == Holder::Admin(record.generation.clone()) =>
            {
                Ok(AdminView { name, record })
            }
            _ => Err(AdminError::Stale),
        }
    }

    /// Forgets login tokens that have expired. Gives their number.
    ///
    /// # Errors
    /// When the store cannot be read or written; the next run goes on.
    pub async fn prune(&self, now: UnixMillis) -> Result<usize, StoreError> {
        let mut commit = Commit::new();
        for (key, stored) in self.store.list(keys::LOGINS, None, usize::MAX).await?.entries {
            let login: LoginRecord = document::from_stored(&key, &stored)?;
            if UnixMillis(login.expires_at) < now {
                commit = commit.delete(key);
            }
        }
        let removed = commit.len();
        if removed > 0 {
            self.store.commit(commit).await?;
        }
        Ok(removed)
    }

    /// Each renewal is a record in the store: they must not fill it.
    fn check_renewals(&self, name: &Name) -> Result<(), AdminError> {
        let mut renewals = self.renewals.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = renewals.take(name.as_str(), self.clock.now());
        taken.map_err(|again_in| AdminError::TooOften { again_in })
    }

    async fn credential(
        &self,
        name: &Name,
        mut record: AdminRecord,
        public_key: &RequestedKey,
        entitlement: impl FnOnce(&str) -> Result<Commit, StoreError>,
        actor: &Actor,
        action: &'static str,
    ) -> Result<Credential, AdminError> {
        let order = Order {
            id: SpiffeId::admin(&self.trust_domain, name),
            holder: Holder::Admin(record.generation.clone()),
            public_key: public_key.clone(),
            ttl: CREDENTIAL_TTL,
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            actor: actor.clone(),
            action,
        };
        let key = admin_key(name);
        let issued = self
            .issuer
            .issue(order, |serial, certificate| {
                record.credential_not_after = Some(certificate.not_after);
                Ok(entitlement(serial)?.put(key.clone(), document::to_bytes(&key, &record)?))
            })
            .await?;
        Ok(Credential { issued, admin: AdminView { name: name.clone(), record } })
    }

    fn new_record(&self, roles: &[Role], actor: &Actor) -> Result<AdminRecord, AdminError> {
        if roles.is_empty() {
            return Err(AdminError::NoRoles);
        }
        Ok(AdminRecord {
            roles: sorted(roles),
            generation: random::instance_id()?.to_string(),
            created_at: self.clock.now().0,
            created_by: actor.name.clone(),
            credential_not_after: None,
        })
    }

    async fn read(&self, name: &Name) -> Result<Option<(Stored, AdminRecord)>, StoreError> {
        let key = admin_key(name);
        match self.store.get(&key).await? {
            Some(stored) => {
                let record = document::from_stored(&key, &stored)?;
                Ok(Some((stored, record)))
            }
            None => Ok(None),
        }
    }
}

fn admin_key(name: &Name) -> String {
    format!("{}{name}", keys::ADMINS)
}

fn login_key(hash: &SecretHash) -> String {
    format!("{}{}", keys::LOGINS, hash.as_str())
}

fn sorted(roles: &[Role]) -> Vec<Role> {
    let mut roles = roles.to_vec();
    roles.sort_unstable();
    roles.dedup();
    roles
}

fn roles_in_words(roles: &[Role]) -> String {
    roles.iter().map(Role::as_str).collect::<Vec<_>>().join(", ")
}
