//! Whether it could be known who answers at the endpoint of a trust domain that is followed.

use hauberk_identity::Name;

use super::Step;
use crate::resources::federated_trust_domain::{FederatedTrustDomain, Unvouched, vouching};
use crate::resources::key::{Kind, ResourceKey};
use crate::resources::mesh_catalog::MeshCatalog;
use crate::resources::problem::Problems;

impl Step<'_> {
    pub(super) fn check_vouched(
        &self,
        key: &ResourceKey,
        mesh: &MeshCatalog,
        followed: &FederatedTrustDomain,
        problems: &mut Problems,
    ) {
        let Err(error) = vouching(mesh, followed, self.trust_domain) else { return };
        let is_there = |name: &Name| self.exists(Kind::FederatedTrustDomain, &key.mesh, name);
        match &error {
            // What is wrong with that one is told there.
            Unvouched::NotFollowed { by, .. } if Name::parse(by.as_str()).is_ok_and(|by| is_there(&by)) => {}
            _ => problems.invalid("spec.bundleEndpointProfile.endpointSpiffeId", error),
        }
    }
}
