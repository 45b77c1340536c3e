//! Whether what policies name is there: what permits name may come later, and what forbids name may not. Roles, data classes, issuers and external services are looked at in `membership`, and what
//! issuers say in `declared`.

use hauberk_identity::{Name, NodeName, SpiffeId};
use hauberk_policy::{Effect, PolicyDocument, Reference, Referent, UNDECLARED};

use super::Step;
use crate::resources::did_you_mean;
use crate::resources::idle_forbids::of_same_path;
use crate::resources::key::{Kind, ResourceKey};
use crate::resources::problem::Problems;

/// How many of a port's routes are listed where none is near to what was meant.
const MOST_LISTED: usize = 5;

impl Step<'_> {
    /// Whether what the document of `of` names is there, by a change of `key`.
    pub(super) fn check_names(
        &self,
        key: &ResourceKey,
        of: &ResourceKey,
        document: &PolicyDocument,
        problems: &mut Problems,
        warnings: &mut Vec<String>,
    ) {
        for reference in document.references() {
            let Some(why) = self.dangles(&of.mesh, reference) else { continue };
            let Reference { referent, text, line, column, .. } = reference;
            if is_refused(reference) {
                let message =
                    format!("{text} does not exist, and a forbid that names it may stop nothing: {why}");
                let help = "apply it with the forbid, or before".to_owned();
                self.report_mention(key, of, reference, message, Some(help), problems);
            } else if let Referent::Text { asked, .. } = referent {
                let how = match self.may_be_undeclared(&of.mesh, *asked) {
                    true => "is declared by none, and met where `undeclared` is DECIDE alone",
                    false => "is never met",
                };
                warnings.push(format!("{of}, {line}:{column}: {text} {how}: {why}"));
            } else {
                warnings.push(format!("{of}, {line}:{column}: {text} does not exist: {why}"));
            }
        }
    }

    /// Why a name in a policy stands for nothing, if it does.
    fn dangles(&self, mesh: &Name, reference: &Reference) -> Option<String> {
        let missing = |kind: Kind, mesh: &Name, name: &Name| {
            if self.exists(kind, mesh, name) {
                return None;
            }
            let known =
                self.after.mesh(mesh.as_str()).map(|mesh| mesh.of_kind(kind).keys().map(Name::as_str));
            let hint = self.nearest(name.as_str(), known.into_iter().flatten());
            let why = format!("there is no {} {name:?} in mesh {mesh:?}", kind.noun());
            Some(hint.map_or(why.clone(), |hint| format!("{why}; {hint}")))
        };
        match &reference.referent {
            Referent::Mesh(name) => missing(Kind::Mesh, name, name),
            Referent::Node { mesh, node } => missing(Kind::of_node(node), mesh, node.name()),
            Referent::Service(service) => missing(Kind::VirtualService, mesh, service),
            Referent::Port { node, number } => {
                let (_, node) = node.mesh_and_node()?;
                missing(Kind::of_node(&node), mesh, node.name())
                    .or_else(|| self.missing_port(mesh, &node, *number))
            }
            Referent::Route { node, port, template } => {
                let (_, node) = node.mesh_and_node()?;
                missing(Kind::of_node(&node), mesh, node.name())
                    .or_else(|| self.missing_port(mesh, &node, *port))
                    .or_else(|| self.missing_route(mesh, &node, *port, template))
            }
            Referent::TrustDomain(trust_domain) => self.unfollowed(mesh, trust_domain),
            Referent::Workload(id) => {
                let why = || self.unenrolled(id);
                self.unfollowed(mesh, &id.trust_domain()).or_else(why)
            }
            Referent::Text { asked, text } => self.never_met(mesh, *asked, text),
            // Roles, data classes, issuers and external services that do not exist are refused, not warned of; what issuers say,
            // and labels, are looked at in `declared`.
            Referent::Role(_)
            | Referent::External(_)
            | Referent::DataClass(_)
            | Referent::User { .. }
            | Referent::UserGroup { .. }
            | Referent::Claim(_)
            | Referent::Label(_)
            | Referent::Anonymous => None,
        }
    }

    /// Why nobody is a workload of our own trust domain.
    fn unenrolled(&self, id: &SpiffeId) -> Option<String> {
        let is_ours = id.trust_domain() == *self.trust_domain;
        if !is_ours || self.enrolled().any(|enrolled| enrolled == *id) {
            return None;
        }
        let known: Vec<_> = self.enrolled().map(|enrolled| enrolled.to_string()).collect();
        let hint = self.nearest(id.as_str(), known.iter().map(String::as_str));
        let why = "no Enrollment gives anybody this identity".to_owned();
        Some(hint.map_or(why.clone(), |hint| format!("{why}; {hint}")))
    }

    fn missing_port(&self, mesh: &Name, node: &NodeName, port: u16) -> Option<String> {
        let found = self.after.mesh(mesh.as_str())?.node_or_gateway(node)?;
        if found.listener(port).is_some() {
            return None;
        }
        let ports: Vec<_> = found.listeners().iter().map(|listener| listener.port().to_string()).collect();
        let hint = match &ports[..] {
            [] => "it has no listeners at all".to_owned(),
            [only] => format!("its only listener is {only}"),
            _ => format!("its listeners are {}", ports.join(", ")),
        };
        let (kind, name) = (Kind::of_node(node).noun(), node.name());
        Some(format!("{kind} {name:?} has no listener with port {port}; {hint}"))
    }

    fn missing_route(&self, mesh: &Name, node: &NodeName, port: u16, template: &str) -> Option<String> {
        let listener = self.after.mesh(mesh.as_str())?.node_or_gateway(node)?.listener(port)?;
        let declared = || listener.routes().iter().map(|route| route.template.as_str());
        if template == UNDECLARED || declared().any(|route| route == template) {
            return None;
        }
        let why = format!("port {port} of virtual node {:?} declares no such route", node.name());
        let hint = self.hint(|| {
            let same_path = of_same_path(template, declared());
            same_path
                .map(|route| format!("did you mean {route:?}?"))
                .or_else(|| did_you_mean(template, declared()))
        });
        let hint = hint.unwrap_or_else(|| match declared().next() {
            None => "it declares none: match context.path, or declare it".to_owned(),
            Some(_) => {
                let more = if declared().count() > MOST_LISTED { ", …" } else { "" };
                let some: Vec<_> = declared().take(MOST_LISTED).map(|route| format!("{route:?}")).collect();
                format!("it declares {}{more}", some.join(", "))
            }
        });
        Some(format!("{why}; {hint}"))
    }
}

/// Whether a forbid names what must be there. Members of other trust domains, and workloads, come and go without the mesh.
fn is_refused(reference: &Reference) -> bool {
    let is_of_mesh = matches!(
        reference.referent,
        Referent::Mesh(_)
            | Referent::Node { .. }
            | Referent::Service(_)
            | Referent::Port { .. }
            | Referent::Route { .. }
    );
    is_of_mesh && reference.effect == Effect::Deny
}
