//! A role, as it is accepted.

use std::collections::BTreeSet;

use hauberk_identity::{IdentityKind, Name, SpiffeId, TrustDomain};
use hauberk_policy::{BadName, node_named, workload_named};
use hauberk_proto::mesh::v1 as wire;
use wire::role_member::Member;

use super::choice;
use super::key::ResourceKey;
use super::problem::{Fault, Problems};

/// The most members that one role lists.
const MOST_MEMBERS: usize = 1_000;
/// The most roles that one role lists.
const MOST_ROLES: usize = 100;

/// A role that is well-formed. That what it names exists is checked where it is admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    members: BTreeSet<SpiffeId>,
    roles: Vec<Name>,
}

impl Role {
    /// Reads the spec of the role `key`, and reports everything that is wrong with it.
    pub(crate) fn parse(
        spec: &wire::RoleSpec,
        key: &ResourceKey,
        trust_domain: &TrustDomain,
        problems: &mut Problems,
    ) -> Option<Self> {
        let before = problems.count();
        let wire::RoleSpec { members, roles, description } = spec;
        choice::description(problems, description.as_deref());
        if members.len() > MOST_MEMBERS {
            let message =
                format!("{} members are too many: a role lists at most {MOST_MEMBERS}", members.len());
            problems.invalid_but("spec.members", message, "put some of them into roles of their own");
        }
        let mut parsed = BTreeSet::new();
        for (index, member) in members.iter().enumerate().take(MOST_MEMBERS) {
            let field = format!("spec.members[{index}]");
            match member_id(member, trust_domain, &key.mesh) {
                Ok(id) if !parsed.insert(id.clone()) => {
                    problems.invalid(field, format!("{id} stands here twice"))
                }
                Ok(_) => {}
                Err((part, BadName { message, help })) => {
                    let field = if part.is_empty() { field } else { format!("{field}.{part}") };
                    problems.report(Fault::Invalid, field, message, (!help.is_empty()).then_some(help));
                }
            }
        }
        let roles = choice::names(problems, "spec.roles", roles, MOST_ROLES);
        (problems.count() == before).then_some(Self { members: parsed, roles })
    }

    /// Those that it lists itself, in order.
    pub fn members(&self) -> &BTreeSet<SpiffeId> {
        &self.members
    }

    /// The roles that it lists, in order.
    pub fn roles(&self) -> &[Name] {
        &self.roles
    }
}

/// Who a member is, or the field of it that is wrong, and why.
pub(crate) fn member_id(
    member: &wire::RoleMember,
    trust_domain: &TrustDomain,
    mesh: &Name,
) -> Result<SpiffeId, (&'static str, BadName)> {
    match &member.member {
        Some(Member::VirtualNode(name)) => {
            let named = node_named(trust_domain, mesh, name).map_err(|bad| ("virtualNode", bad))?;
            if matches!(named.kind(), IdentityKind::Node { .. }) {
                return Ok(named);
            }
            let gateway = name.strip_prefix("gateway/").unwrap_or(name);
            Err(("virtualNode", other_kind("virtual gateway", format!("virtualGateway: {gateway}"))))
        }
        Some(Member::VirtualGateway(name)) => {
            let written = match name.starts_with("spiffe:") {
                true => name.clone(),
                false => format!("gateway/{name}"),
            };
            let named = node_named(trust_domain, mesh, &written).map_err(|bad| ("virtualGateway", bad))?;
            if matches!(named.kind(), IdentityKind::Gateway { .. }) {
                return Ok(named);
            }
            Err(("virtualGateway", other_kind("virtual node", format!("virtualNode: {name}"))))
        }
        Some(Member::Workload(name)) => {
            workload_named(trust_domain, mesh, name).map_err(|bad| ("workload", bad))
        }
        None => {
            let help =
                "write virtualNode: or virtualGateway: and a name, or workload: and a path or SPIFFE id";
            Err(("", BadName { message: "it names nobody".to_owned(), help: help.to_owned() }))
        }
    }
}

fn other_kind(is: &str, write: String) -> BadName {
    BadName { message: format!("this is a {is}"), help: format!("write {write}") }
}
