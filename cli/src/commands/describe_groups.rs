//! `hauberk describe role`, `describe dataclass` and `describe jwtissuer`

use std::collections::{BTreeMap, BTreeSet};

use hauberk_policy::Referent;
use hauberk_proto::mesh::v1::{
    DataClassSpec, JwtIssuerSpec, Kind, RoleMember, RoleSpec, api_description::Description, resource::Spec,
    role_member::Member,
};

use crate::commands::describe::{fact, heading, none_or};
use crate::commands::describe_policies;
use crate::commands::rows::key_source;
use crate::error::CommandError;
use crate::output;
use crate::session::Session;

/// Shows who is in a role, by which of its roles, and which policies name it.
///
/// # Errors
/// What the control plane answers.
pub(super) async fn of_role(
    session: &Session,
    mesh: &str,
    name: &str,
    spec: &RoleSpec,
) -> Result<(), CommandError> {
    if let Some(description) = &spec.description {
        fact("For", description)?;
    }
    fact("Roles", &none_or(spec.roles.join(", ")))?;
    let mut roles: BTreeMap<String, RoleSpec> = BTreeMap::new();
    for resource in session.list(Kind::Role, mesh).await? {
        if let Some(Spec::Role(spec)) = resource.spec {
            roles.insert(resource.name, spec);
        }
    }
    let within: Vec<&str> = roles
        .iter()
        .filter(|(_, other)| other.roles.iter().any(|role| role == name))
        .map(|(other, _)| other.as_str())
        .collect();
    fact("Within", &none_or(within.join(", ")))?;
    heading("Members")?;
    let members = members(&roles, name);
    for (member, by) in &members {
        let by: Vec<&str> = by.iter().copied().filter(|role| *role != name).collect();
        let by = if by.is_empty() { String::new() } else { format!("  by {}", by.join(", ")) };
        output::line(format_args!("  {}{}", output::printable(member), output::printable(&by)))?;
    }
    if members.is_empty() {
        output::line("  none")?;
    }
    describe_policies::naming(
        session,
        mesh,
        |referent| matches!(referent, Referent::Role(role) if role.as_str() == name),
    )
    .await
}

/// Shows whose tokens an issuer's are, and which policies name its users or groups.
///
/// # Errors
/// What the control plane answers.
pub(super) async fn of_issuer(
    session: &Session,
    mesh: &str,
    name: &str,
    spec: &JwtIssuerSpec,
) -> Result<(), CommandError> {
    if let Some(description) = &spec.description {
        fact("For", description)?;
    }
    fact("Issuer", &spec.issuer)?;
    let claim = spec.audience_claim.as_deref().unwrap_or("aud");
    fact("Audiences", &format!("{} (in {claim})", spec.audiences.join(", ")))?;
    fact("Keys", key_source(spec))?;
    fact("Tokens in", spec.token_header.as_deref().unwrap_or("authorization: Bearer"))?;
    describe_policies::naming(session, mesh, |referent| match referent {
        Referent::User { issuer, .. } | Referent::UserGroup { issuer, .. } => issuer.as_str() == name,
        _ => false,
    })
    .await
}

/// Shows which routes are in a data class, and which policies name it.
///
/// # Errors
/// What the control plane answers.
pub(super) async fn of_data_class(
    session: &Session,
    mesh: &str,
    name: &str,
    spec: &DataClassSpec,
) -> Result<(), CommandError> {
    if let Some(description) = &spec.description {
        fact("Means", description)?;
    }
    fact("Holds", &none_or(spec.data_classes.join(", ")))?;
    let mut classes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for resource in session.list(Kind::DataClass, mesh).await? {
        if let Some(Spec::DataClass(spec)) = resource.spec {
            classes.insert(resource.name, spec.data_classes);
        }
    }
    let inner = reached(name, |class| classes.get(class).map(Vec::as_slice).unwrap_or_default());
    heading("Routes")?;
    let mut any = false;
    for resource in session.list(Kind::VirtualNode, mesh).await? {
        let Some(Spec::VirtualNode(spec)) = &resource.spec else { continue };
        for listener in &spec.listeners {
            let port = listener.port_mapping.as_ref().and_then(|mapping| mapping.port).unwrap_or_default();
            // Which of them are in it is the control plane's to read.
            if let Some(Description::Openapi(text)) =
                listener.api.as_ref().and_then(|api| api.description.as_ref())
                && inner.iter().any(|class| says_of(text, class))
            {
                any = true;
                let told =
                    format!("{}:{port}  routes of its OpenAPI document, where that says so", resource.name);
                output::line(format_args!("  {}", output::printable(&told)))?;
            }
            for route in &listener.routes {
                let by: Vec<&str> = route
                    .data_classes
                    .iter()
                    .map(String::as_str)
                    .filter(|class| inner.contains(class))
                    .collect();
                if by.is_empty() {
                    continue;
                }
                any = true;
                let methods = route.methods.join(",");
                let path =
                    if methods.is_empty() { route.path.clone() } else { format!("{methods} {}", route.path) };
                let text = format!("{}:{port} {path}  {}", resource.name, by.join(", "));
                output::line(format_args!("  {}", output::printable(&text)))?;
            }
        }
    }
    if !any {
        output::line("  none")?;
    }
    let is_meant =
        |referent: &Referent| matches!(referent, Referent::DataClass(class) if class.as_str() == name);
    describe_policies::naming(session, mesh, is_meant).await
}

/// Whether a description seems to put some of its routes into a class.
fn says_of(description: &str, class: &str) -> bool {
    let Some((_, first)) = description.split_once("x-hauberk-data-classes") else { return false };
    let is_of_name = |character: char| character.is_ascii_alphanumeric() || character == '-';
    first.split(|character| !is_of_name(character)).any(|word| word == class)
}

/// A group and all that is within it.
fn reached<'a>(name: &'a str, within: impl Fn(&str) -> &'a [String]) -> BTreeSet<&'a str> {
    let (mut reached, mut pending) = (BTreeSet::from([name]), vec![name]);
    while let Some(group) = pending.pop() {
        pending.extend(within(group).iter().map(String::as_str).filter(|inner| reached.insert(inner)));
    }
    reached
}

/// Every member of a role, each with the roles that list it.
fn members<'a>(roles: &'a BTreeMap<String, RoleSpec>, name: &'a str) -> BTreeMap<String, BTreeSet<&'a str>> {
    let mut members: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for role in reached(name, |role| roles.get(role).map(|spec| spec.roles.as_slice()).unwrap_or_default()) {
        for member in roles.get(role).into_iter().flat_map(|spec| &spec.members) {
            members.entry(spelt(member)).or_default().insert(role);
        }
    }
    members
}

fn spelt(member: &RoleMember) -> String {
    match &member.member {
        Some(Member::VirtualNode(name)) => format!("virtualnode/{name}"),
        Some(Member::VirtualGateway(name)) => format!("virtualgateway/{name}"),
        Some(Member::Workload(name)) => format!("workload {name}"),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_told_with_the_roles_that_list_them() {
        let node = |name: &str| RoleMember { member: Some(Member::VirtualNode(name.to_owned())) };
        let role = |members: &[&str], roles: &[&str]| RoleSpec {
            members: members.iter().map(|name| node(name)).collect(),
            roles: roles.iter().map(|&role| role.to_owned()).collect(),
            ..RoleSpec::default()
        };
        let roles = BTreeMap::from([
            ("all".to_owned(), role(&["web"], &["clerks", "readers"])),
            ("clerks".to_owned(), role(&["cart"], &["readers"])),
            ("readers".to_owned(), role(&["web"], &[])),
            ("other".to_owned(), role(&["orders"], &[])),
        ]);
        let told = members(&roles, "all");
        assert_eq!(told.keys().collect::<Vec<_>>(), ["virtualnode/cart", "virtualnode/web"]);
        assert_eq!(told["virtualnode/web"], BTreeSet::from(["all", "readers"]));
        assert_eq!(told["virtualnode/cart"], BTreeSet::from(["clerks"]));
    }
}
