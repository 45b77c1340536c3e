//! Messages that several services answer with, made of what the control plane knows.

use hauberk_proto::admin::v1 as admin;
use hauberk_proto::agent::v1 as agent;
pub use hauberk_proto::convert::timestamp;

use crate::admins::{Credential, Role};
use crate::authority::Authority;
use crate::issuance::Issued;
use crate::jwt_svid::Minted;

/// A certificate for an agent.
pub fn certificate(issued: &Issued) -> agent::Certificate {
    agent::Certificate {
        chain: issued.svid.chain().iter().map(|der| der.to_vec()).collect(),
        spiffe_id: issued.svid.id().to_string(),
        issued_at_unix_ms: issued.issued_at.0,
        not_after_unix_ms: issued.svid.validity().not_after().0,
    }
}

/// A token for an agent or a workload.
pub fn token(minted: &Minted) -> agent::MintTokenResponse {
    agent::MintTokenResponse {
        token: minted.token.to_string(),
        spiffe_id: minted.id.to_string(),
        issued_at_unix_ms: minted.issued_at.0,
        expires_at_unix_ms: minted.expires_at.0,
    }
}

/// What agents are to trust.
pub fn trust(authority: &Authority) -> agent::Trust {
    agent::Trust::clone(&authority.trust().borrow())
}

/// What has to be told beside the active root's fingerprint: the trust domain, where that root does not name it.
pub fn unnamed_trust_domain(authority: &Authority) -> String {
    let names_none = authority.root().is_some_and(|root| !root.names_trust_domain());
    if names_none { authority.trust_domain().to_string() } else { String::new() }
}

/// A credential for an admin. `server` is where the admin API is, as far as is known.
pub fn credential(credential: &Credential, authority: &Authority, server: String) -> admin::Credential {
    let Credential { issued, admin } = credential;
    admin::Credential {
        name: admin.name.to_string(),
        roles: roles(&admin.record.roles),
        chain: issued.svid.chain().iter().map(|der| der.to_vec()).collect(),
        roots: authority.bundle().roots().iter().map(|root| root.der().to_vec()).collect(),
        trust_domain: authority.trust_domain().to_string(),
        issued_at_unix_ms: issued.issued_at.0,
        not_after_unix_ms: issued.svid.validity().not_after().0,
        server,
    }
}

/// Roles as they travel.
pub fn roles(roles: &[Role]) -> Vec<i32> {
    let travel = |role: &Role| match role {
        Role::Viewer => admin::Role::Viewer,
        Role::Editor => admin::Role::Editor,
        Role::PolicyAdmin => admin::Role::PolicyAdmin,
        Role::IdentityAdmin => admin::Role::IdentityAdmin,
        Role::BoundaryAdmin => admin::Role::BoundaryAdmin,
        Role::Owner => admin::Role::Owner,
    };
    roles.iter().map(|role| travel(role).into()).collect()
}

/// Roles that came with a request.
///
/// # Errors
/// The first number that is no role.
pub fn parse_roles(numbers: &[i32]) -> Result<Vec<Role>, i32> {
    let parse = |number: &i32| match admin::Role::try_from(*number) {
        Ok(admin::Role::Viewer) => Ok(Role::Viewer),
        Ok(admin::Role::Editor) => Ok(Role::Editor),
        Ok(admin::Role::PolicyAdmin) => Ok(Role::PolicyAdmin),
        Ok(admin::Role::IdentityAdmin) => Ok(Role::IdentityAdmin),
        Ok(admin::Role::BoundaryAdmin) => Ok(Role::BoundaryAdmin),
        Ok(admin::Role::Owner) => Ok(Role::Owner),
        Ok(admin::Role::Unspecified) | Err(_) => Err(*number),
    };
    numbers.iter().map(parse).collect()
}
