//! By what it is known who answers at an endpoint that proves a SPIFFE id, and whether that still stood when the answer was taken.

use std::sync::Arc;

use hauberk_identity::{Name, Serial, SpiffeId};
use hauberk_tls::{Refuses, TrustBundle};

use super::Federation;
use super::error::RefreshError;
use super::fetch::FetchError;
use crate::registry::{Commit, Guard, StoreError, Stored, keys};
use crate::resources::{FederatedTrustDomain, FetchedBundle, ResourceKey, Vouching, vouching};
use crate::revocation::{Denial, Denylist};

/// What was replaced where endpoints are members of our own trust domain.
const OUR_TRUST: &str = "our own trust, or the list of those who are refused";

/// Who says who answers.
pub(super) struct Voucher {
    pub(super) roots: Arc<TrustBundle>,
    /// Where that stands in the registry, as it was before it was looked at.
    stands_on: Vec<(String, Option<Stored>)>,
    /// Our own trust, where that is it, and who was refused then.
    ours: Option<(Arc<TrustBundle>, Arc<Denylist>)>,
}

impl Voucher {
    /// What is written because of an answer is written only while what the voucher stands on is as it was.
    pub(super) fn bind(&self, commit: Commit) -> Commit {
        let stands_on = self.stands_on.iter();
        stands_on.fold(commit, |commit, (key, stored)| commit.unchanged(key.clone(), stored.as_ref()))
    }

    /// What it means that something was not written.
    pub(super) fn explain(&self, error: StoreError) -> RefreshError {
        match &error {
            StoreError::Conflict { guard: Guard::Absent(key) | Guard::At(key, _) }
                if self.stands_on.iter().any(|(own, _)| own == key) =>
            {
                let what = if self.ours.is_some() { OUR_TRUST } else { "the bundle of another trust domain" };
                FetchError::VoucherReplaced(what).into()
            }
            _ => error.into(),
        }
    }
}

impl Federation {
    /// By what it is verified who answers at the endpoint of `followed`.
    ///
    /// # Errors
    /// Nobody can say who answers, or the registry failed.
    pub(super) async fn voucher(
        &self,
        key: &ResourceKey,
        followed: &FederatedTrustDomain,
        held: Option<&TrustBundle>,
    ) -> Result<Voucher, RefreshError> {
        let stands_on = self.stands_on(key, followed).await?;
        // Later than that, so that whatever is replaced from now on is seen by the commit.
        let catalog = self.catalogs.current().await?;
        let (current, denylist) = (self.identity.current(), Arc::clone(&self.denylist.borrow()));
        let ours = current.bundle();
        let mesh = catalog.mesh(key.mesh.as_str());
        let vouching = mesh.map(|mesh| vouching(mesh, followed, ours.trust_domain())).transpose();
        let (roots, ours) = match vouching.map_err(FetchError::from)? {
            Some(Vouching::Ours) => (Arc::clone(ours), Some((Arc::clone(ours), denylist))),
            Some(Vouching::Followed(by, bundle)) => {
                let roots = bundle.map(|bundle| bundle.x509()).filter(|roots| !roots.roots().is_empty());
                let roots = roots.ok_or_else(|| FetchError::NoRoots(by.clone()))?;
                (Arc::new(roots.clone()), None)
            }
            Some(Vouching::Itself) | None => {
                let none = || TrustBundle::empty(followed.trust_domain().clone());
                (Arc::new(held.cloned().unwrap_or_else(none)), None)
            }
        };
        Ok(Voucher { roots, stands_on, ours })
    }

    /// Whether our own trust is what it was, and nobody else is refused: a change that was under way when the endpoint was asked is in
    /// force here a moment after it is written.
    pub(super) fn see_unchanged(&self, voucher: &Voucher) -> Result<(), FetchError> {
        let Some((trust, denylist)) = &voucher.ours else { return Ok(()) };
        let is_same =
            **trust == **self.identity.current().bundle() && denylist.mark == self.denylist.borrow().mark;
        if is_same { Ok(()) } else { Err(FetchError::VoucherReplaced(OUR_TRUST)) }
    }

    /// Whom nobody lets in any longer, whoever vouches for it.
    pub(super) fn refuses(&self) -> Arc<Refuses> {
        let denylist = self.denylist.clone();
        Arc::new(move |id: &SpiffeId, serial: Serial| {
            let denial = denylist.borrow().denial(id, serial);
            denial.map(|denial| match denial {
                Denial::Revoked => "it was revoked",
                Denial::Quarantined => "its node is in quarantine",
            })
        })
    }

    /// Where that stands which says who answers, and what is there now.
    async fn stands_on(
        &self,
        key: &ResourceKey,
        followed: &FederatedTrustDomain,
    ) -> Result<Vec<(String, Option<Stored>)>, StoreError> {
        let Some(by) = followed.vouched_by() else { return Ok(Vec::new()) };
        let keys = if by == *self.identity.current().bundle().trust_domain() {
            [keys::TRUST.to_owned(), keys::DENYLIST_NUMBER.to_owned()]
        } else {
            // None is followed by a name that is none.
            let Ok(name) = Name::parse(by.as_str()) else { return Ok(Vec::new()) };
            let by = ResourceKey::federated_trust_domain(key.mesh.clone(), name);
            [by.store_key(), FetchedBundle::store_key(&by)]
        };
        let mut stands_on = Vec::new();
        for key in keys {
            let stored = self.store.get(&key).await?;
            stands_on.push((key, stored));
        }
        Ok(stands_on)
    }
}
