//! Whose trust domains a mesh follows.

use std::collections::BTreeSet;

use hauberk_identity::TrustDomain;

use super::MeshViews;
use crate::resources::Kind;

impl MeshViews<'_> {
    /// The trust domains that are followed, also where their bundle is still to be fetched, or nobody understands them.
    pub fn followed(&self) -> BTreeSet<TrustDomain> {
        let names = self.resources.of_kind(Kind::FederatedTrustDomain).keys();
        names.filter_map(|name| TrustDomain::parse(name.as_str()).ok()).collect()
    }
}
