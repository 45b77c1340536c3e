//! Who users are, and where requests must be made for one.

use std::collections::BTreeMap;

use hauberk_identity::Name;
use hauberk_policy::{PortScope, Referent};

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

/// What a change does to how tokens of users are taken at a port, in words; none where that stays. A port that goes may come
/// back otherwise.
pub(super) fn change(number: u16, former: &PortScope, now: Option<&PortScope>) -> Option<String> {
    let Some(now) = now else {
        let is_looked_at = former.users.is_some() || says_otherwise(former);
        return is_looked_at.then(|| format!("this removes port {number}, which takes the tokens of users"));
    };
    let is_other = former.users != now.users
        || (says_otherwise(former) || says_otherwise(now)) && for_users(former) != for_users(now);
    if !is_other {
        return None;
    }
    let (before, after) = (for_users(former), for_users(now));
    let opened: Vec<_> = before
        .iter()
        .filter(|(route, required)| **required && after.get(*route).is_some_and(|required| !required))
        .map(|(route, _)| *route)
        .collect();
    Some(match (is_for_users(former) && !is_for_users(now), opened.as_slice()) {
        (true, _) if now.users.is_none() => {
            format!("port {number} no longer requires a user, and looks at no user's token any longer")
        }
        (true, _) => format!("port {number} no longer requires a user"),
        (false, []) => format!("port {number} takes the tokens of users in another way"),
        (false, routes) => format!("port {number} no longer requires a user for {}", routes.join(", ")),
    })
}

/// Whether requests are for users alone where routes say nothing else.
fn is_for_users(port: &PortScope) -> bool {
    port.users.as_ref().is_some_and(|users| users.required)
}

/// Whether any of its routes says something else than the port.
fn says_otherwise(port: &PortScope) -> bool {
    port.routes.iter().any(|route| route.requires_user.is_some())
}

/// Each route, and whether it is for users alone: requests for one may be those of another tomorrow.
fn for_users(port: &PortScope) -> BTreeMap<&str, bool> {
    let default = is_for_users(port);
    let routes = port.routes.iter();
    routes.map(|route| (route.template.as_str(), route.requires_user.unwrap_or(default))).collect()
}

/// Whose user or group a policy names.
pub(in crate::resources::admit) fn issuer_of(referent: &Referent) -> Option<&Name> {
    match referent {
        Referent::User { issuer, .. } | Referent::UserGroup { issuer, .. } => Some(issuer),
        _ => None,
    }
}
