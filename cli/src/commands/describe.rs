//! `hauberk describe`

use hauberk_identity::{Name, NodeName, SpiffeId};
use hauberk_policy::Referent;
use hauberk_proto::admin::v1 as api;
use hauberk_proto::convert::WrittenNode;
use hauberk_proto::mesh::v1::{
    AttestEnrollment, EnrollmentSpec, FederatedTrustDomainSpec, Kind, Listener, Resource, VirtualNodeSpec,
    VirtualServiceSpec, api_description::Description, resource::Spec,
};
use owo_colors::OwoColorize as _;

use crate::arguments::{Describe, Global};
use crate::clock;
use crate::commands::describe_policies::{Asked, Stated};
use crate::commands::would_deny::Audited;
use crate::commands::{
    bundle, describe_groups, describe_instance, describe_policies, get, kind_and_name, programs_refused, rows,
};
use crate::error::CommandError;
use crate::kinds::{self, Listed};
use crate::output::{self, Format};
use crate::session::Session;
use crate::times;

/// Runs the command.
///
/// # Errors
/// There is no such resource, or what the control plane answers.
pub(crate) async fn run(global: &Global, arguments: Describe) -> Result<(), CommandError> {
    let (word, name) = kind_and_name(&arguments.kind, arguments.name.as_deref())?;
    let kind = match kinds::listed(&word).map_err(CommandError::Usage)? {
        Listed::Resource(kind) => kind,
        Listed::Instances => {
            let which = format!("which instance? Write: hauberk describe instance ID{}", global.of_context());
            return describe_instance::show(global, name.ok_or(CommandError::Usage(which))?).await;
        }
        _ => {
            return Err(CommandError::Usage(format!(
                "describe is for resources and instances; try: hauberk get {word} -o wide{}",
                global.of_context()
            )));
        }
    };
    let Some(name) = name else {
        let (said, of_context) = (kinds::said(kind), global.of_context());
        let message = format!("which {said}? Write: hauberk describe {said} NAME{of_context}");
        return Err(CommandError::Usage(message));
    };
    let session = Session::open(global).await?;
    let mesh = if kind == Kind::Mesh { name.clone() } else { session.mesh().await? };
    let resource = session.get(kind, &mesh, &name).await?;
    head(&resource)?;
    match &resource.spec {
        Some(Spec::MeshSpec(_)) => of_mesh(&session, &mesh).await,
        Some(Spec::VirtualNode(spec)) => of_node(&session, &mesh, &name, spec).await,
        Some(Spec::VirtualGateway(_)) => of_gateway(&session, &mesh, &name).await,
        Some(Spec::VirtualService(spec)) => of_service(&session, &mesh, &name, spec).await,
        Some(Spec::Policy(spec)) => describe_policies::of_policy(&session, &resource, spec).await,
        Some(Spec::PolicyTemplate(spec)) => describe_policies::of_template(&session, &resource, spec).await,
        Some(Spec::Boundary(spec)) => describe_policies::of_boundary(&session, &resource, spec),
        Some(Spec::Role(spec)) => describe_groups::of_role(&session, &mesh, &name, spec).await,
        Some(Spec::DataClass(spec)) => describe_groups::of_data_class(&session, &mesh, &name, spec).await,
        Some(Spec::Enrollment(spec)) => of_enrollment(&session, &mesh, &name, spec).await,
        Some(Spec::FederatedTrustDomain(spec)) => of_followed(&session, &mesh, &name, spec).await,
        Some(Spec::ExternalService(spec)) => {
            describe_policies::of_external(&session, &mesh, &name, spec).await
        }
        Some(Spec::JwtIssuer(spec)) => describe_groups::of_issuer(&session, &mesh, &name, spec).await,
        None => Ok(()),
    }
}

fn head(resource: &Resource) -> Result<(), CommandError> {
    let now = clock::now();
    let metadata = resource.metadata.clone().unwrap_or_default();
    fact("Kind", kinds::written(kinds::kind_of(resource)))?;
    fact("Name", &resource.name)?;
    if kinds::kind_of(resource) != Kind::Mesh {
        fact("Mesh", &resource.mesh)?;
    }
    let mut labels: Vec<String> =
        resource.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.sort();
    if !labels.is_empty() {
        fact("Labels", &labels.join(", "))?;
    }
    let changed = times::age(metadata.updated_at.as_ref(), now);
    let created = times::age(metadata.created_at.as_ref(), now);
    fact("Created", &format!("{created} ago"))?;
    fact(
        "Changed",
        &format!("{changed} ago, at revision {}, version {}", metadata.revision, metadata.resource_version),
    )
}

async fn of_mesh(session: &Session, mesh: &str) -> Result<(), CommandError> {
    let found = session.list(Kind::Unspecified, mesh).await?;
    heading("Holds")?;
    for kind in kinds::RESOURCES.iter().map(|name| name.kind).filter(|kind| *kind != Kind::Mesh) {
        let names: Vec<String> = found
            .iter()
            .filter(|resource| kinds::kind_of(resource) == kind)
            .map(|resource| resource.name.clone())
            .collect();
        fact(&format!("  {}", kinds::written(kind)), &none_or(names.join(", ")))?;
    }
    heading("Instances")?;
    get::instances(session, Format::Table, mesh, None).await
}

async fn of_node(
    session: &Session,
    mesh: &str,
    name: &str,
    spec: &VirtualNodeSpec,
) -> Result<(), CommandError> {
    let node = kinds::node_named(name, NodeName::Node)?;
    spiffe_id(session, mesh, &node)?;
    fact("Discovery", &rows::discovery(spec))?;
    fact("Backends", &rows::backends(spec))?;
    let services: Vec<Resource> = session.list(Kind::VirtualService, mesh).await?;
    let provided = services.iter().filter_map(|service| match &service.spec {
        Some(Spec::VirtualService(spec)) => match rows::provider(spec) {
            (Some(node), port) if node == name => Some(format!("{} (port {port})", service.name)),
            _ => None,
        },
        _ => None,
    });
    let provided: Vec<String> = provided.collect();
    fact("Provides", &none_or(provided.join(", ")))?;
    heading("Listeners")?;
    let (audited, now) = (Audited::of(session, mesh).await?, clock::now());
    for listener in &spec.listeners {
        let authorization = listener.authorization.as_ref().or(spec.authorization.as_ref());
        let loud =
            authorization.filter(|mode| *mode != "ENFORCE").map(|mode| format!("  {}", mode.yellow().bold()));
        output::line(format_args!("  {}{}", rows::listener(listener), loud.unwrap_or_default()))?;
        let port = listener.port_mapping.as_ref().and_then(|mapping| mapping.port).unwrap_or_default();
        if let Some(told) = audited.of_listener(name, port, now) {
            output::line(format_args!("    let through what no policy permits: {told}"))?;
        }
        for (name, value) in asks(listener) {
            output::line(format_args!("    {name}: {}", output::printable(&value)))?;
        }
        if let Some(description) = listener.api.as_ref().and_then(|api| api.description.as_ref()) {
            let (what, bytes) = match description {
                Description::Openapi(text) => ("an OpenAPI document", text.len()),
                Description::Protobuf(set) => ("a protobuf descriptor set", set.len()),
            };
            output::line(format_args!("    routes of {what} ({bytes} bytes)"))?;
        }
        for route in &listener.routes {
            let methods =
                if route.methods.is_empty() { "any method".to_owned() } else { route.methods.join(",") };
            let classes = if route.data_classes.is_empty() {
                String::new()
            } else {
                format!("  {}", route.data_classes.join(", "))
            };
            let access = route.access.as_ref().map(|access| format!("  {access}")).unwrap_or_default();
            output::line(format_args!("    {}  {methods}{classes}{access}", route.path))?;
        }
    }
    // A service comes before a node of its name, and may be another one, or at one of its ports.
    let asked = match services.iter().any(|service| service.name == name) {
        _ if spec.listeners.is_empty() => Some(Asked::WhatCan(name.to_owned())),
        false => Some(Asked::WhoCan(name.to_owned())),
        true => None,
    };
    describe_policies::about(session, mesh, Some(&node), &service_names(&provided), asked).await?;
    instances_of(session, mesh, &node).await
}

/// What a listener asks of requests besides policies, where that was set.
fn asks(listener: &Listener) -> Vec<(&'static str, String)> {
    let users = listener.users.as_ref().map(|users| {
        let mode = users.mode.as_deref().unwrap_or("OPTIONAL");
        let issuers =
            if users.issuers.is_empty() { "any issuer".to_owned() } else { users.issuers.join(", ") };
        format!("{mode}, {issuers}")
    });
    let set = [
        ("undeclared", listener.undeclared.clone()),
        ("pathWithEscapedSlashesAction", listener.path_with_escaped_slashes_action.clone()),
        ("obsText", listener.obs_text.clone()),
        ("users", users),
    ];
    set.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

async fn of_gateway(session: &Session, mesh: &str, name: &str) -> Result<(), CommandError> {
    let gateway = kinds::node_named(name, NodeName::Gateway)?;
    spiffe_id(session, mesh, &gateway)?;
    fact("In policies", &format!("Node::\"{gateway}\""))?;
    let asked = Some(Asked::WhatCan(gateway.to_string()));
    describe_policies::about(session, mesh, Some(&gateway), &[], asked).await?;
    instances_of(session, mesh, &gateway).await
}

fn spiffe_id(session: &Session, mesh: &str, node: &NodeName) -> Result<(), CommandError> {
    let (trust_domain, mesh) = session.names(mesh)?;
    fact("SPIFFE id", node.spiffe_id(&trust_domain, &mesh).as_str())
}

async fn instances_of(session: &Session, mesh: &str, node: &NodeName) -> Result<(), CommandError> {
    heading("Instances")?;
    let request = api::ListInstancesRequest { mesh: mesh.to_owned(), node: node.to_string() };
    let found = session.identities().list_instances(request).await?.into_inner().instances;
    if found.is_empty() {
        output::line("  none; make a token for one:")?;
        return output::line(format_args!("  {}", token_for(node, mesh, session.of_context())));
    }
    let now = clock::now();
    let rows = found.iter().map(|instance| rows::instance(instance, false, now)).collect();
    output::raw(&output::table(&rows::instance_headers(false), rows))
}

/// The command that makes a token for a node or gateway.
fn token_for(node: &NodeName, mesh: &str, of_context: &str) -> String {
    let option = match node {
        NodeName::Node(name) => format!("--node {name}"),
        NodeName::Gateway(name) => format!("--gateway {name}"),
    };
    format!("hauberk token create --mesh {mesh} {option}{of_context}")
}

fn service_names(provided: &[String]) -> Vec<String> {
    provided.iter().filter_map(|text| text.split(' ').next()).map(str::to_owned).collect()
}

async fn of_service(
    session: &Session,
    mesh: &str,
    name: &str,
    spec: &VirtualServiceSpec,
) -> Result<(), CommandError> {
    let (node, port) = rows::provider(spec);
    fact(
        "Provider",
        &node.map_or_else(|| "none".to_owned(), |node| format!("virtualnode/{node}, port {port}")),
    )?;
    let nodes = session.list(Kind::VirtualNode, mesh).await?;
    let callers: Vec<String> = nodes
        .iter()
        .filter(|resource| match &resource.spec {
            Some(Spec::VirtualNode(spec)) => rows::backends(spec).split(',').any(|backend| backend == name),
            _ => false,
        })
        .map(|resource| resource.name.clone())
        .collect();
    fact("Backend of", &none_or(callers.join(", ")))?;
    let asked = node.map(|_| Asked::WhoCan(name.to_owned()));
    let node = node.and_then(|node| Name::parse(node).ok()).map(NodeName::Node);
    describe_policies::about(session, mesh, node.as_ref(), &[name.to_owned()], asked).await?;
    match &node {
        Some(node) => instances_of(session, mesh, node).await,
        None => Ok(()),
    }
}

fn of_attest(attest: &AttestEnrollment) -> Result<(), CommandError> {
    fact("Evidence", rows::evidence(attest))?;
    for rule in &attest.rules {
        let becomes = rows::node_or_dash(WrittenNode::of_rule(rule));
        heading(&format!("{becomes}, for evidence of which all this is true"))?;
        for selector in &rule.selectors {
            output::line(format_args!("  {}", output::printable(selector)))?;
        }
        let life = match &rule.x509_ttl {
            None => "as the control plane's --svid-ttl says".to_owned(),
            ttl => rows::life(ttl.as_ref()),
        };
        fact("  Life", &life)?;
        fact("  DNS names", &none_or(rule.dns_names.join(", ")))?;
    }
    Ok(())
}

async fn of_enrollment(
    session: &Session,
    mesh: &str,
    name: &str,
    spec: &EnrollmentSpec,
) -> Result<(), CommandError> {
    if let Some(attest) = &spec.attest {
        return of_attest(attest);
    }
    let workload = spec.workload.clone().unwrap_or_default();
    let (trust_domain, _) = session.names(mesh)?;
    let id = SpiffeId::workload(&trust_domain, &workload.path).ok();
    fact("SPIFFE id", &none_or(id.as_ref().map(ToString::to_string).unwrap_or_default()))?;
    fact("Life", &rows::life(workload.x509_ttl.as_ref()))?;
    fact("Token life", &rows::life(workload.jwt_ttl.as_ref()))?;
    fact("DNS names", &none_or(workload.dns_names.join(", ")))?;
    if let Some(hint) = &workload.hint {
        fact("Hint", hint)?;
    }
    heading("Selectors, all of which must hold")?;
    for selector in &workload.selectors {
        output::line(format_args!("  {}", output::printable(selector)))?;
    }
    if !workload.federates_with.is_empty() {
        fact("Federates with", &workload.federates_with.join(", "))?;
    }
    let parent = spec.parent.as_ref().and_then(WrittenNode::of_parent);
    fact("Vouched for by", &format!("agents of {}", rows::node_or_dash(parent)))?;
    let Some(Ok(parent)) = parent.map(WrittenNode::named) else { return Ok(()) };
    programs_refused::show(session, mesh, &parent, name).await?;
    instances_of(session, mesh, &parent).await
}

async fn of_followed(
    session: &Session,
    mesh: &str,
    name: &str,
    spec: &FederatedTrustDomainSpec,
) -> Result<(), CommandError> {
    let profile = spec.bundle_endpoint_profile.clone().unwrap_or_default();
    fact("Endpoint", &none_or(spec.bundle_endpoint_url.clone()))?;
    if !profile.r#type.is_empty() {
        fact("Profile", &format!("{} {}", profile.r#type, profile.endpoint_spiffe_id))?;
    }
    let request = api::ListBundlesRequest { mesh: mesh.to_owned() };
    let bundles = session.federation().list_bundles(request).await?.into_inner().bundles;
    if let Some(bundle) = bundles.iter().find(|bundle| bundle.mesh == mesh && bundle.trust_domain == name) {
        bundle::facts(bundle)?;
    }
    heading("Policies that name it")?;
    let names_it = |referent: &Referent| match referent {
        Referent::TrustDomain(named) => named.as_str() == name,
        Referent::Workload(id) => id.trust_domain().as_str() == name,
        _ => false,
    };
    let mut any = false;
    for Stated { label, document } in describe_policies::stated(session, mesh).await? {
        let named = document.references().iter().filter(|reference| names_it(&reference.referent));
        let mut texts: Vec<&str> = named.map(|reference| reference.text.as_str()).collect();
        texts.dedup();
        if !texts.is_empty() || document.permits_some_workloads() {
            any = true;
            let about = match (texts.is_empty(), document.permits_all_workloads()) {
                (false, _) => texts.join(", "),
                (true, true) => "all workloads".to_owned(),
                // Which those are its conditions say, and may well say of others.
                (true, false) => "workloads, by its conditions".to_owned(),
            };
            output::line(format_args!("  {label}  {about}"))?;
        }
    }
    if !any {
        output::line("  none: nobody of it may do anything")?;
    }
    Ok(())
}

pub(super) fn heading(text: &str) -> Result<(), CommandError> {
    output::line(format_args!("{}", format!("{text}:").bold()))
}

pub(crate) fn fact(name: &str, value: &str) -> Result<(), CommandError> {
    output::line(format_args!("{:<17} {}", format!("{name}:"), output::printable(value)))
}

pub(super) fn none_or(text: String) -> String {
    if text.is_empty() { "none".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_listener_asks_besides_policies_is_shown_where_it_was_set() {
        use hauberk_proto::mesh::v1::UserTokens;

        assert!(asks(&Listener::default()).is_empty());
        let users = UserTokens { issuers: vec!["login".to_owned()], ..UserTokens::default() };
        let listener =
            Listener { undeclared: Some("DENY".to_owned()), users: Some(users), ..Listener::default() };
        let expected = [("undeclared", "DENY"), ("users", "OPTIONAL, login")];
        assert_eq!(asks(&listener), expected.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn a_token_is_made_in_the_context_that_was_named() {
        let edge = NodeName::parse("gateway/edge").unwrap();
        assert_eq!(
            token_for(&edge, "shop", " --context prod"),
            "hauberk token create --mesh shop --gateway edge --context prod"
        );
    }
}
