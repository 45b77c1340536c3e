//! What policies and boundaries say, and which of them speak of something.

use std::collections::BTreeMap;

use hauberk_identity::{Name, NodeName, SpiffeId, TrustDomain};
use hauberk_policy::{Mode, PolicyDocument, PolicyTemplate, Referent, Slot};
use hauberk_proto::mesh::v1::{
    BoundarySpec, ExternalServiceSpec, Kind, PolicySpec, PolicyTemplateSpec, Resource, TemplateLink,
    resource::Spec,
};

use crate::clock;
use crate::commands::describe::{fact, heading, none_or};
use crate::commands::rows;
use crate::commands::would_deny::Audited;
use crate::error::CommandError;
use crate::output;
use crate::session::Session;

/// A policy or boundary that reads well.
pub(super) struct Stated {
    /// As decisions name it.
    pub(super) label: String,
    pub(super) document: PolicyDocument,
}

/// All policies and boundaries of a mesh.
///
/// # Errors
/// What the control plane answers.
pub(super) async fn stated(session: &Session, mesh: &str) -> Result<Vec<Stated>, CommandError> {
    let (trust_domain, _) = session.names(mesh)?;
    let templates = templates(session, mesh, &trust_domain).await?;
    let mut found = session.list(Kind::Boundary, mesh).await?;
    found.extend(session.list(Kind::Policy, mesh).await?);
    Ok(found.iter().filter_map(|resource| read(resource, &trust_domain, &templates)).collect())
}

type Templates = BTreeMap<String, PolicyTemplate>;

async fn templates(
    session: &Session,
    mesh: &str,
    trust_domain: &TrustDomain,
) -> Result<Templates, CommandError> {
    let found = session.list(Kind::PolicyTemplate, mesh).await?;
    let read = found.into_iter().filter_map(|resource| match &resource.spec {
        Some(Spec::PolicyTemplate(spec)) => {
            let mesh = Name::parse(&resource.mesh).ok()?;
            Some((resource.name, PolicyTemplate::parse_stored(mesh, trust_domain, &spec.cedar).ok()?))
        }
        _ => None,
    });
    Ok(read.collect())
}

fn read(resource: &Resource, trust_domain: &TrustDomain, templates: &Templates) -> Option<Stated> {
    let (mesh, name) = (Name::parse(&resource.mesh).ok()?, Name::parse(&resource.name).ok()?);
    let document = match &resource.spec {
        Some(Spec::Boundary(spec)) => {
            PolicyDocument::parse_stored(mesh, trust_domain, name, Mode::Boundary, &spec.cedar).ok()?
        }
        Some(Spec::Policy(spec)) => {
            let mode = if spec.mode.as_deref() == Some("AUDIT") { Mode::Audit } else { Mode::Enforce };
            match &spec.template {
                Some(link) => templates.get(&link.name)?.link_stored(name, mode, &fillings(link)).ok()?,
                None => PolicyDocument::parse_stored(mesh, trust_domain, name, mode, &spec.cedar).ok()?,
            }
        }
        _ => return None,
    };
    Some(Stated { label: document.label(), document })
}

fn fillings(link: &TemplateLink) -> Vec<(Slot, &str)> {
    let given = [(Slot::Principal, &link.principal), (Slot::Resource, &link.resource)];
    given.into_iter().filter_map(|(slot, name)| Some((slot, name.as_deref()?))).collect()
}

/// Shows a policy.
///
/// # Errors
/// What the control plane answers.
pub(super) async fn of_policy(
    session: &Session,
    resource: &Resource,
    spec: &PolicySpec,
) -> Result<(), CommandError> {
    fact("Mode", spec.mode.as_deref().unwrap_or("ENFORCE"))?;
    if spec.mode.as_deref() == Some("AUDIT") {
        let audited = Audited::of(session, &resource.mesh).await?;
        fact("Would deny", &audited.of_policy(&resource.name, clock::now()))?;
    }
    let (trust_domain, _) = session.names(&resource.mesh)?;
    let mut known = Templates::new();
    if let Some(link) = &spec.template {
        fact("Follows", &format!("policytemplate/{}", link.name))?;
        for (slot, name) in fillings(link) {
            fact(slot.as_str(), name)?;
        }
        known = templates(session, &resource.mesh, &trust_domain).await?;
    }
    let stated = read(resource, &trust_domain, &known);
    text(stated.as_ref(), spec.description.as_deref(), &spec.cedar)
}

/// Shows a template.
///
/// # Errors
/// What the control plane answers.
pub(super) async fn of_template(
    session: &Session,
    resource: &Resource,
    spec: &PolicyTemplateSpec,
) -> Result<(), CommandError> {
    text(None, spec.description.as_deref(), &spec.cedar)?;
    heading("Policies that follow it")?;
    let mut any = false;
    for policy in session.list(Kind::Policy, &resource.mesh).await? {
        let Some(Spec::Policy(PolicySpec { template: Some(link), .. })) = &policy.spec else { continue };
        if link.name == resource.name {
            any = true;
            let filled: Vec<&str> = fillings(link).into_iter().map(|(_, name)| name).collect();
            let line = format!("{}  {}", policy.name, filled.join(", "));
            output::line(format_args!("  {}", output::printable(&line)))?;
        }
    }
    if any { Ok(()) } else { output::line("  none") }
}

/// Shows a boundary.
///
/// # Errors
/// The output cannot be written.
pub(super) fn of_boundary(
    session: &Session,
    resource: &Resource,
    spec: &BoundarySpec,
) -> Result<(), CommandError> {
    let (trust_domain, _) = session.names(&resource.mesh)?;
    let stated = read(resource, &trust_domain, &Templates::new());
    text(stated.as_ref(), spec.description.as_deref(), &spec.cedar)
}

/// Shows what it mentions and says; of what follows a template, with its slots filled.
fn text(stated: Option<&Stated>, description: Option<&str>, cedar: &str) -> Result<(), CommandError> {
    if let Some(description) = description {
        fact("For", description)?;
    }
    let document = stated.map(|stated| &stated.document);
    if let Some(document) = document {
        let mut mentioned: Vec<String> =
            document.references().iter().map(|reference| reference.text.clone()).collect();
        mentioned.sort();
        mentioned.dedup();
        fact("Mentions", &none_or(mentioned.join(", ")))?;
    }
    heading("Cedar")?;
    for line in document.map_or(cedar, PolicyDocument::text).lines() {
        output::line(format_args!("  {}", output::printable(line)))?;
    }
    Ok(())
}

/// Shows the policies that mention one of the nodes or services, or that are about everything.
///
/// # Errors
/// What the control plane answers.
pub(super) async fn about(
    session: &Session,
    mesh: &str,
    node: Option<&NodeName>,
    services: &[String],
    asked: Option<Asked>,
) -> Result<(), CommandError> {
    heading("Policies")?;
    let mut any = false;
    for Stated { label, document } in stated(session, mesh).await? {
        let texts: Vec<&str> = document
            .references()
            .iter()
            .filter(|reference| concerns(&document, &reference.referent, node, services))
            .map(|reference| reference.text.as_str())
            .collect();
        let about = match texts.as_slice() {
            [] if document.references().is_empty() => "everything".to_owned(),
            [] => continue,
            texts => texts.join(", "),
        };
        any = true;
        output::line(format_args!("  {label}  mentions {about}{}", audit(&document)))?;
    }
    // Roles, labels, data classes, the whole mesh or a listener in audit may let calls through all the same.
    let whose = if any { "with those that do not name it" } else { "none names it" };
    match asked {
        Some(asked) => {
            let asks = asked.command(mesh, session.of_context());
            output::line(format_args!("  {whose}: `{asks}` tells what all of them permit"))
        }
        // Nobody can call it yet.
        None if any => Ok(()),
        None => output::line("  none names it"),
    }
}

/// What is asked about all policies together.
pub(super) enum Asked {
    /// Who may call this.
    WhoCan(String),
    /// What this may call.
    WhatCan(String),
}

impl Asked {
    fn command(&self, mesh: &str, of_context: &str) -> String {
        match self {
            Self::WhoCan(target) => format!("hauberk who-can {target} --mesh {mesh}{of_context}"),
            Self::WhatCan(caller) => format!("hauberk what-can {caller} --mesh {mesh}{of_context}"),
        }
    }
}

/// Shows what an external service is, and which policies name it.
///
/// # Errors
/// What the control plane answers.
pub(super) async fn of_external(
    session: &Session,
    mesh: &str,
    name: &str,
    spec: &ExternalServiceSpec,
) -> Result<(), CommandError> {
    if let Some(description) = &spec.description {
        fact("Is", description)?;
    }
    fact("Hosts", &spec.hosts.join(", "))?;
    fact("Ports", &rows::external_ports(spec))?;
    fact("Besides public", &none_or(spec.allowed_addresses.join(", ")))?;
    let is_meant =
        |referent: &Referent| matches!(referent, Referent::External(external) if external.as_str() == name);
    naming(session, mesh, is_meant).await
}

/// Lists the policies that mention something.
///
/// # Errors
/// What the control plane answers.
pub(super) async fn naming(
    session: &Session,
    mesh: &str,
    is_meant: impl Fn(&Referent) -> bool,
) -> Result<(), CommandError> {
    heading("Policies that name it")?;
    let mut any = false;
    for Stated { label, document } in stated(session, mesh).await? {
        if document.references().iter().any(|reference| is_meant(&reference.referent)) {
            any = true;
            output::line(format_args!("  {label}{}", audit(&document)))?;
        }
    }
    if any { Ok(()) } else { output::line("  none") }
}

fn audit(document: &PolicyDocument) -> &'static str {
    if document.mode() == Mode::Audit { "  AUDIT" } else { "" }
}

fn concerns(
    document: &PolicyDocument,
    referent: &Referent,
    node: Option<&NodeName>,
    services: &[String],
) -> bool {
    let is_meant = |mesh: &Name, named: &NodeName| mesh == document.mesh() && Some(named) == node;
    let of_node = |id: &SpiffeId| id.mesh_and_node().is_some_and(|(mesh, named)| is_meant(&mesh, &named));
    match referent {
        Referent::Node { mesh, node } => is_meant(mesh, node),
        Referent::Service(service) => services.iter().any(|name| service.as_str() == name),
        Referent::Port { node, .. } | Referent::Route { node, .. } => of_node(node),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_policies_permit_is_asked_in_the_same_context() {
        assert_eq!(Asked::WhoCan("api".to_owned()).command("shop", ""), "hauberk who-can api --mesh shop");
        assert_eq!(
            Asked::WhatCan("gateway/edge".to_owned()).command("shop", " --context prod"),
            "hauberk what-can gateway/edge --mesh shop --context prod"
        );
    }
}
