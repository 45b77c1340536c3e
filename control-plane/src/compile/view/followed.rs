//! Whose trust domains a mesh follows.

use std::collections::{BTreeMap, BTreeSet};

use hauberk_identity::TrustDomain;

use super::MeshViews;
use crate::resources::Kind;

impl MeshViews<'_> {
    /// The trust domains that are followed, also where their bundle is still to be fetched, or nobody understands them.
    pub fn followed(&self) -> BTreeSet<TrustDomain> {
        let names = self.resources.of_kind(Kind::FederatedTrustDomain).keys();
        names.filter_map(|name| TrustDomain::parse(name.as_str()).ok()).collect()
    }

    /// Those of which there is no bundle yet, each with the digest of what says where it comes from; `None` where
    /// nobody understands that.
    pub fn awaited(&self) -> BTreeMap<TrustDomain, Option<[u8; 32]>> {
        let mut awaited: BTreeMap<_, _> = self.followed().into_iter().map(|domain| (domain, None)).collect();
        for (_, followed, bundle) in self.resources.federated() {
            if bundle.is_some() {
                awaited.remove(followed.trust_domain());
            } else {
                awaited.insert(followed.trust_domain().clone(), Some(followed.digest()));
            }
        }
        awaited
    }
}
