//! What the registry holds of admins.

use hauberk_identity::{IdentityKind, Name, SpiffeId};
use serde::{Deserialize, Serialize};

use super::admin_key;
use crate::registry::{Store, StoreError, document};

/// What an admin may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Reads everything that is not secret; so does every other role.
    Viewer,
    /// Changes meshes, nodes and services, as far as no policy names them: it neither grants nor lifts anything.
    Editor,
    /// Changes policies, and whatever a policy names: which ports a service is, listeners and routes.
    PolicyAdmin,
    /// Makes tokens, changes enrollments, revokes.
    IdentityAdmin,
    /// Changes the boundary, and with the other roles what it names.
    BoundaryAdmin,
    /// Everything, admins included.
    Owner,
}

impl Role {
    /// All roles, in their order.
    pub const ALL: [Self; 6] = [
        Self::Viewer,
        Self::Editor,
        Self::PolicyAdmin,
        Self::IdentityAdmin,
        Self::BoundaryAdmin,
        Self::Owner,
    ];

    /// As on the command line and in records.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Editor => "editor",
            Self::PolicyAdmin => "policy-admin",
            Self::IdentityAdmin => "identity-admin",
            Self::BoundaryAdmin => "boundary-admin",
            Self::Owner => "owner",
        }
    }

    /// Reads [`Role::as_str`] back.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }
}

/// An admin; the name is in the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminRecord {
    /// Sorted, at least one.
    pub roles: Vec<Role>,
    /// Random: tells this admin from a former one of the same name.
    pub generation: String,
    /// Unix ms.
    pub created_at: u64,
    /// Who made it.
    pub created_by: String,
    /// When the latest credential expires, Unix ms.
    pub credential_not_after: Option<u64>,
}

/// A login token; the hash of its text is in the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LoginRecord {
    pub(super) admin: String,
    pub(super) generation: String,
    pub(super) expires_at: u64,
    /// By whom it was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) used: Option<LoginUse>,
}

/// The use of a login token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LoginUse {
    /// The key that it counts for since: SHA-256, hexadecimal.
    pub(super) key_fingerprint: String,
    /// The latest certificate that was issued for it.
    pub(super) serial: String,
}

/// The admin whose credential one of this name and generation is; `None` where that one was deleted.
///
/// # Errors
/// When the store cannot be read.
pub async fn holding(
    store: &dyn Store,
    spiffe_id: &str,
    generation: &str,
) -> Result<Option<Name>, StoreError> {
    let Ok(id) = SpiffeId::parse(spiffe_id) else { return Ok(None) };
    let IdentityKind::Admin { name } = id.kind() else { return Ok(None) };
    let Ok(name) = Name::parse(name) else { return Ok(None) };
    let key = admin_key(&name);
    let Some(stored) = store.get(&key).await? else { return Ok(None) };
    let record: AdminRecord = document::from_stored(&key, &stored)?;
    Ok((record.generation == generation).then_some(name))
}
