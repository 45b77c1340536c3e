//! The access table. An RPC that is missing here is answered as if it did not exist; a test holds the table against
//! the services that are served.

use crate::admins::Role;

/// Who may call an RPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Whoever connects.
    Public,
    /// An agent: a verified certificate that names a node or gateway.
    Agent,
    /// The same, and one who is revoked or in quarantine too: it is told that it is, and the stream ends.
    AgentStream,
    /// Any admin, by a verified certificate and a record.
    AnyAdmin,
    /// An admin who has one of these roles, or is an owner.
    Roles(&'static [Role]),
    /// Whoever can open the Unix socket.
    Local,
}

/// Every RPC that is served, by its path.
pub const TABLE: &[(&str, Access)] = &[
    ("/hauberk.agent.v1.Enrollment/Attest", Access::Public),
    ("/hauberk.agent.v1.Enrollment/SignCertificate", Access::Agent),
    ("/hauberk.agent.v1.Mesh/Sync", Access::AgentStream),
    ("/hauberk.agent.v1.Workloads/SignCertificate", Access::Agent),
    ("/hauberk.agent.v1.Workloads/MintToken", Access::Agent),
    ("/hauberk.agent.v1.SvidTokens/MintToken", Access::Agent),
    (
        "/hauberk.admin.v1.Resources/Apply",
        Access::Roles(&[Role::Editor, Role::PolicyAdmin, Role::IdentityAdmin, Role::BoundaryAdmin]),
    ),
    (
        "/hauberk.admin.v1.Resources/Delete",
        Access::Roles(&[Role::Editor, Role::PolicyAdmin, Role::IdentityAdmin, Role::BoundaryAdmin]),
    ),
    ("/hauberk.admin.v1.Resources/Get", Access::AnyAdmin),
    ("/hauberk.admin.v1.Resources/List", Access::AnyAdmin),
    ("/hauberk.admin.v1.Resources/Watch", Access::AnyAdmin),
    ("/hauberk.admin.v1.Policies/Check", Access::AnyAdmin),
    ("/hauberk.admin.v1.Policies/Explain", Access::AnyAdmin),
    ("/hauberk.admin.v1.Policies/WhoCan", Access::AnyAdmin),
    ("/hauberk.admin.v1.Policies/WhatCan", Access::AnyAdmin),
    ("/hauberk.admin.v1.Policies/Test", Access::AnyAdmin),
    ("/hauberk.admin.v1.Policies/Diff", Access::AnyAdmin),
    ("/hauberk.admin.v1.Record/Simulate", Access::AnyAdmin),
    ("/hauberk.admin.v1.Record/Suggest", Access::AnyAdmin),
    ("/hauberk.admin.v1.Record/ListWouldDenials", Access::AnyAdmin),
    ("/hauberk.admin.v1.Identities/CreateToken", Access::Roles(&[Role::IdentityAdmin])),
    ("/hauberk.admin.v1.Identities/DeleteToken", Access::Roles(&[Role::IdentityAdmin])),
    ("/hauberk.admin.v1.Identities/ListTokens", Access::AnyAdmin),
    ("/hauberk.admin.v1.Identities/ListInstances", Access::AnyAdmin),
    ("/hauberk.admin.v1.Identities/DescribeInstance", Access::AnyAdmin),
    ("/hauberk.admin.v1.Identities/ListCertificates", Access::AnyAdmin),
    ("/hauberk.admin.v1.Identities/FetchBundle", Access::AnyAdmin),
    ("/hauberk.admin.v1.Revocations/Revoke", Access::Roles(&[Role::IdentityAdmin])),
    ("/hauberk.admin.v1.Revocations/Quarantine", Access::Roles(&[Role::IdentityAdmin])),
    ("/hauberk.admin.v1.Authorities/ListAuthorities", Access::AnyAdmin),
    ("/hauberk.admin.v1.Authorities/PrepareAuthority", Access::Roles(&[Role::IdentityAdmin])),
    ("/hauberk.admin.v1.Authorities/ActivateAuthority", Access::Roles(&[Role::IdentityAdmin])),
    ("/hauberk.admin.v1.Authorities/TaintAuthority", Access::Roles(&[Role::IdentityAdmin])),
    ("/hauberk.admin.v1.Authorities/RevokeAuthority", Access::Roles(&[Role::IdentityAdmin])),
    ("/hauberk.admin.v1.Authorities/RotateAuthority", Access::Roles(&[Role::IdentityAdmin])),
    ("/hauberk.admin.v1.Authorities/RequestAuthority", Access::Roles(&[Role::IdentityAdmin])),
    ("/hauberk.admin.v1.Authorities/InstallAuthority", Access::Roles(&[Role::IdentityAdmin])),
    ("/hauberk.admin.v1.Authorities/SignAuthority", Access::Roles(&[Role::IdentityAdmin])),
    ("/hauberk.admin.v1.Authorities/WaitForAuthorities", Access::AnyAdmin),
    ("/hauberk.admin.v1.Federation/ListBundles", Access::AnyAdmin),
    // Of a trust domain an identity-admin's alone, which the service looks at.
    ("/hauberk.admin.v1.Federation/RefreshBundle", Access::Roles(&[Role::IdentityAdmin, Role::PolicyAdmin])),
    ("/hauberk.admin.v1.Rollout/Wait", Access::AnyAdmin),
    ("/hauberk.admin.v1.Flows/Observe", Access::AnyAdmin),
    ("/hauberk.admin.v1.Audit/List", Access::AnyAdmin),
    ("/hauberk.admin.v1.System/GetStatus", Access::AnyAdmin),
    ("/hauberk.admin.v1.System/SetLogFilter", Access::Roles(&[Role::Owner])),
    ("/hauberk.admin.v1.Admins/CreateAdmin", Access::Roles(&[Role::Owner])),
    ("/hauberk.admin.v1.Admins/DeleteAdmin", Access::Roles(&[Role::Owner])),
    ("/hauberk.admin.v1.Admins/ListAdmins", Access::AnyAdmin),
    ("/hauberk.admin.v1.Admins/Login", Access::Public),
    ("/hauberk.admin.v1.Admins/RenewCredential", Access::AnyAdmin),
    ("/hauberk.admin.v1.LocalAdmin/IssueCredential", Access::Local),
    ("/grpc.health.v1.Health/Check", Access::Public),
    ("/grpc.health.v1.Health/Watch", Access::Public),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Access::AnyAdmin),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Access::AnyAdmin),
];

/// Who may call the RPC at `path`; `None` for what does not exist.
pub fn access_to(path: &str) -> Option<Access> {
    TABLE.iter().find(|(known, _)| *known == path).map(|(_, access)| *access)
}
