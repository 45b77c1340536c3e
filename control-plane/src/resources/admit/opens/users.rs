//! Who users are, and where requests must be made for one.

use std::collections::BTreeMap;

use hauberk_identity::Name;
use hauberk_policy::{PortScope, Referent, UserTokens};

use super::{Comparison, Opening, Speakers};
use crate::resources::key::Kind;
use crate::resources::mesh_catalog::MeshCatalog;

impl Comparison<'_> {
    /// Whether boundaries speak of users, who an issuer says who they are.
    pub(super) fn compare_issuers(&self, openings: &mut Vec<Opening>) {
        let changed = self.step.places.keys().filter(|key| {
            let entry = |mesh: Option<&MeshCatalog>| mesh?.of_kind(key.kind).get(&key.name).cloned();
            let spec = |mesh| entry(mesh).and_then(|entry| entry.resource().spec.clone());
            key.mesh == *self.name
                && key.kind == Kind::JwtIssuer
                && spec(self.before) != spec(Some(self.after))
        });
        for key in changed {
            let mut speakers = Speakers::default();
            let documents = self.before.into_iter().flat_map(MeshCatalog::policies);
            for document in documents.filter(|document| document.reads().are_of_users()) {
                speakers.insert(document);
            }
            if speakers.has_boundary() {
                let message =
                    format!("this changes who users of {} are, of whom {speakers} may speak", key.name);
                let (key, field, takes) = (key.clone(), "spec".to_owned(), speakers.takes());
                openings.push(Opening { key, field, message, takes });
            }
        }
    }
}

/// How tokens of users are taken at a port: there, and on which routes otherwise.
pub(super) fn users(port: &PortScope) -> (Option<&UserTokens>, BTreeMap<&str, bool>) {
    let routes = port.routes.iter();
    let otherwise = routes.filter_map(|route| Some((route.template.as_str(), route.requires_user?)));
    (port.users.as_ref(), otherwise.collect())
}

/// Whose user or group a policy names.
pub(in crate::resources::admit) fn issuer_of(referent: &Referent) -> Option<&Name> {
    match referent {
        Referent::User { issuer, .. } | Referent::UserGroup { issuer, .. } => Some(issuer),
        _ => None,
    }
}
