//! Certificates of those who pass users on. All users of one agent come with the same: its chain is verified once, not
//! once for each of them.
//!
//! What is remembered is what verifying the very same bytes would find. Trust that changes ends all of it; that a
//! certificate has ended or has yet to begin is looked at on each use, and by the denylist whoever uses it holds what
//! it finds each time.

use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use hauberk_identity::UnixMillis;
use hauberk_tls::{CertificateDer, TrustBundle, Usage, VerifyError, VouchedChain};

use super::kept::{Hash, Kept};

/// Chains of clients that were verified.
#[derive(Default)]
pub(super) struct Vouched(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// What all of them were verified by.
    by: Option<Arc<TrustBundle>>,
    chains: Kept<VouchedChain>,
}

impl Vouched {
    /// Verifies a chain, leaf first, where it is not known that this would find no fault with it.
    pub(super) fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        trusted: &Arc<TrustBundle>,
        now: UnixMillis,
    ) -> Result<Arc<VouchedChain>, VerifyError> {
        let hash = hash_of(chain);
        let known = self.of(trusted, |chains| chains.get(&hash));
        if let Some(known) = known.filter(|known| known.stands(trusted, now, Usage::Client)) {
            return Ok(known);
        }
        let verified = Arc::new(VouchedChain::verify(chain, trusted, now, Usage::Client)?);
        let bytes = size_of::<VouchedChain>() + chain.iter().map(|der| der.len()).sum::<usize>();
        self.of(trusted, |chains| chains.insert(hash, Arc::clone(&verified), bytes));
        Ok(verified)
    }

    /// What is known by this bundle: nothing of what another one vouched for.
    fn of<R>(&self, trusted: &Arc<TrustBundle>, then: impl FnOnce(&mut Kept<VouchedChain>) -> R) -> R {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.by.as_ref().is_some_and(|by| Arc::ptr_eq(by, trusted)) {
            *known = Known { by: Some(Arc::clone(trusted)), chains: Kept::default() };
        }
        then(&mut known.chains)
    }
}

/// One hash for one chain: where one certificate ends and the next begins is part of it.
fn hash_of(chain: &[CertificateDer<'_>]) -> Hash {
    let mut context = Context::new(&SHA256);
    for der in chain {
        context.update(&(der.len() as u64).to_be_bytes());
        context.update(der);
    }
    let mut hash = Hash::default();
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

#[cfg(test)]
mod tests;
