//! Authorities that are signed here for other control planes of the same trust domain.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hauberk_tls::{CertificateDer, CertificateRequest};

use super::{Authorities, LifecycleError, change};
use crate::allowance::Allowances;
use crate::audit::{Act, Actor};
use crate::authority::AuthorityError;
use crate::authority::book::{Book, Entry, Kind, put};
use crate::authority::make;
use crate::authority::records::{AuthorityRecord, State};
use crate::clock::Clock;

/// How many authorities may sign for other control planes.
const MOST_DELEGATED: usize = 32;

/// How often an admin may have authorities signed at once, and how often from then on.
const SIGNED_AT_ONCE: u32 = 10;
const SIGNED_EVERY: Duration = Duration::from_secs(3_600);

pub(super) fn allowances() -> Mutex<Allowances> {
    Mutex::new(Allowances::new(SIGNED_AT_ONCE, SIGNED_EVERY))
}

/// Whether an authority, and all under it, sign for no other control plane any longer, tainted ones included.
pub(super) fn signs_no_longer(book: &Book, entry: &Entry, clock: &Clock) -> Result<(), LifecycleError> {
    let (now, surely_past) = (clock.now(), clock.surely_past());
    let all = std::iter::once(entry).chain(book.under(&entry.serial));
    let signs =
        all.filter(|entry| entry.is_anothers() && entry.is_trusted() && entry.not_after() >= surely_past);
    // Of those that have ended none says what is to be done as long as another signs.
    let Some(signs) = signs.max_by_key(|entry| entry.not_after()) else { return Ok(()) };
    let (serial, delegate, ends) = (signs.serial.clone(), signs.record.delegate.clone(), signs.not_after());
    Err(match now > ends {
        true => {
            LifecycleError::MaybeDelegated { serial, delegate, ended: ends, believed_in: clock.believed_in() }
        }
        false => LifecycleError::StillDelegated { serial, delegate, ends },
    })
}

impl Authorities {
    /// Signs an issuing authority of our trust domain for another control plane, under the active root, and gives both
    /// certificates. The same one again for the same key.
    ///
    /// # Errors
    /// The request is no good, the root's key is not here, or there are too many already.
    pub async fn sign(
        &self,
        csr: &[u8],
        actor: &Actor,
    ) -> Result<[CertificateDer<'static>; 2], LifecycleError> {
        let key = CertificateRequest::parse(csr)?;
        let now = self.parts.clock.now();
        let _one_at_a_time = self.step.lock().await;
        let book = Book::read(&*self.parts.store).await?;
        let root = book.active(Kind::Root).ok_or(AuthorityError::Missing("root"))?;
        // Signed again, a key that was taken back would be believed again once its first authority is forgotten.
        let has_key = |entry: &&Entry| entry.certificate.key_fingerprint() == key.fingerprint();
        let used = book.entries.iter().filter(has_key).find(|entry| !entry.is(State::Delegated));
        if let Some(used) = used {
            return Err(LifecycleError::KeyUsed { serial: used.serial.clone(), state: used.record.state });
        }
        let delegated = || book.of(Kind::Issuing).filter(|entry| entry.is(State::Delegated));
        let again = delegated().find(|entry| {
            let validity = entry.certificate.validity();
            let is_young = validity.remaining(now) > validity.not_after().since(validity.not_before()) / 2;
            has_key(entry) && is_young && entry.record.root == root.serial
        });
        if let Some(again) = again {
            return Ok([again.der(), root.der()]);
        }
        if delegated().count() >= MOST_DELEGATED {
            return Err(LifecycleError::TooManyDelegated(MOST_DELEGATED));
        }
        let taken = self.signed.lock().unwrap_or_else(PoisonError::into_inner).take(&actor.name, now);
        taken.map_err(|again_in| LifecycleError::TooOften { again_in })?;
        let (signer, for_key, delegate) = (root.clone(), key.clone(), actor.name.clone());
        let signed = self.parts.keys.run_with(root, move |keys| {
            make::delegated(&make::open_root(&signer, keys)?, &for_key, delegate, now)
        });
        let (certificate, serial, record) = signed.await?;
        let record = AuthorityRecord { created_at: change::after_all(&book, now), ..record };
        let commit = put(book.change()?, Kind::Issuing, &serial, &record)?;
        let act = Act::done(actor, "authority.sign", serial).because(format!("key {}", key.fingerprint()));
        self.commit(commit, act).await?;
        Ok([certificate, root.der()])
    }
}
