//! The first credential of an admin, by a login token.

use hauberk_identity::{Name, Serial, SpiffeId, UnixMillis};
use hauberk_tls::{CertificateRequest, RequestedKey};

use super::record::{LoginRecord, LoginUse};
use super::{ATTEMPTS, AdminError, Admins, Credential, admin_key, login_key};
use crate::audit::{Act, Actor};
use crate::registry::{Commit, StoreError, Stored, document};
use crate::revocation;
use crate::secret::SecretHash;

impl Admins {
    /// Exchanges a login token for a credential.
    ///
    /// # Errors
    /// When the token is not good, or the request not acceptable. Refusals are recorded.
    pub async fn login(&self, token: &str, csr: &[u8], source: &str) -> Result<Credential, AdminError> {
        let hash = SecretHash::of(token);
        let result = self.try_login(&hash, csr, source).await;
        if let Err(error) = &result
            && error.is_refusal()
        {
            let actor = Actor::unauthenticated(source);
            let object = format!("login {}", hash.short());
            self.audit.record_refusal(Act::refused(&actor, "admin.login", object, error)).await;
        }
        result
    }

    /// Binds the token to the key before anything is signed: the same key may ask again while the token lives, since the answer may
    /// have been lost; another key may not.
    async fn try_login(&self, hash: &SecretHash, csr: &[u8], source: &str) -> Result<Credential, AdminError> {
        let name = Name::parse(&self.login_record(hash).await?.2.admin)?;
        let _turn = self.turns.of(&name).await;
        let mut public_key = None;
        let mut attempt = 1;
        loop {
            let (key, stored, login) = self.login_record(hash).await?;
            if self.clock.now() >= UnixMillis(login.expires_at) {
                return Err(AdminError::LoginExpired);
            }
            let public_key = match &public_key {
                Some(public_key) => public_key,
                None => public_key.insert(CertificateRequest::read(csr)?),
            };
            let commit = Commit::new().at(key, stored.version);
            match self.log_in(&name, hash, (commit, login), public_key, source).await {
                Err(error) if error.is_conflict() && attempt < ATTEMPTS => attempt += 1,
                Err(error) if error.is_conflict() => return Err(AdminError::UnknownLogin),
                result => return result,
            }
        }
    }

    /// A login token, unused or used, with the key where it stands. A used one stands elsewhere: releases that let in each token
    /// once do not find it.
    async fn login_record(&self, hash: &SecretHash) -> Result<(String, Stored, LoginRecord), AdminError> {
        for key in [login_key(hash), used_login_key(hash)] {
            if let Some(stored) = self.store.get(&key).await? {
                let login = document::from_stored(&key, &stored)?;
                return Ok((key, stored, login));
            }
        }
        Err(AdminError::UnknownLogin)
    }

    /// One attempt: fails with a conflict where somebody else uses the token, or changes its admin, at this moment.
    async fn log_in(
        &self,
        name: &Name,
        hash: &SecretHash,
        (commit, login): (Commit, LoginRecord),
        public_key: &RequestedKey,
        source: &str,
    ) -> Result<Credential, AdminError> {
        let (admin, record) = self.read(name).await?.ok_or(AdminError::UnknownLogin)?;
        if record.generation != login.generation {
            return Err(AdminError::UnknownLogin);
        }
        let (key_fingerprint, used_key) = (public_key.fingerprint().to_string(), used_login_key(hash));
        let commit = commit.at(admin_key(name), admin.version);
        let commit = match &login.used {
            None => commit.delete(login_key(hash)).absent(used_key.clone()),
            Some(before) if before.key_fingerprint == key_fingerprint => {
                self.check_renewals(name)?;
                let damaged =
                    |_| StoreError::Damaged { key: used_key.clone(), what: "it is no serial number" };
                let serial: Serial = before.serial.parse().map_err(damaged)?;
                let checked = revocation::check_certificate(&*self.store, commit, serial).await?;
                checked.map_err(|_| AdminError::UnknownLogin)?
            }
            Some(_) => return Err(AdminError::UnknownLogin),
        };
        let actor =
            Actor { name: SpiffeId::admin(&self.trust_domain, name).to_string(), source: source.to_owned() };
        let bind = |serial: &str| -> Result<Commit, StoreError> {
            let used = Some(LoginUse { key_fingerprint, serial: serial.to_owned() });
            let bytes = document::to_bytes(&used_key, &LoginRecord { used, ..login })?;
            Ok(commit.put(used_key, bytes))
        };
        self.credential(name, record, public_key, bind, &actor, "admin.login").await
    }
}

fn used_login_key(hash: &SecretHash) -> String {
    format!("{}/used", login_key(hash))
}
