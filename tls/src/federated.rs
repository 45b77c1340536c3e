//! The bundles of other trust domains, each for its own members alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use hauberk_identity::TrustDomain;

use crate::spiffe_bundle::SpiffeBundle;

/// The bundles of the trust domains that are followed. They are never pooled: an authority of one of them vouches for
/// nobody of another. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FederatedBundles(Arc<BTreeMap<TrustDomain, Arc<SpiffeBundle>>>);

impl FederatedBundles {
    /// The bundle of exactly this trust domain.
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&Arc<SpiffeBundle>> {
        self.0.get(trust_domain)
    }

    /// All of them, in the order of their trust domains.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<SpiffeBundle>> {
        self.0.values()
    }

    /// Whether no domain is followed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Of two bundles of one domain the last one counts.
impl FromIterator<Arc<SpiffeBundle>> for FederatedBundles {
    fn from_iter<I: IntoIterator<Item = Arc<SpiffeBundle>>>(bundles: I) -> Self {
        let named = bundles.into_iter().map(|bundle| (bundle.trust_domain().clone(), bundle));
        Self(Arc::new(named.collect()))
    }
}
