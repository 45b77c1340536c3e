//! Stored resources that this release would not admit: of which the rest of the mesh can do without, and what still stands.

use hauberk_identity::Name;
use hauberk_policy::{PolicyProblem, only_permits};
use hauberk_proto::mesh::v1::{self as wire, resource::Spec};

use super::catalog::Model;
use super::key::Kind;
use super::mesh_catalog::MeshCatalog;

impl MeshCatalog {
    /// Stored resources that this release does not accept, each with the reason.
    pub fn unreadable(&self) -> impl Iterator<Item = (Kind, &Name, &str)> {
        Kind::ALL.into_iter().flat_map(|kind| {
            self.of_kind(kind).iter().filter_map(move |(name, entry)| match entry.model() {
                Model::Unreadable(reason) => Some((kind, name, reason.as_str())),
                Model::Linked(policy) => policy.reason().map(|reason| (kind, name, reason)),
                _ => None,
            })
        })
    }

    /// Those of them without which something might be let through that is forbidden: no view can be made of the mesh.
    pub fn holding_back(&self) -> impl Iterator<Item = (Kind, &Name, &str)> {
        self.unreadable().filter(|(kind, name, _)| !self.can_do_without(*kind, name))
    }

    /// The others: views are made without them, and let through no more than with them.
    pub fn left_out(&self) -> impl Iterator<Item = (Kind, &Name, &str)> {
        self.unreadable().filter(|(kind, name, _)| self.can_do_without(*kind, name))
    }

    /// Policies, boundaries and templates that are in force, with what a new text would be refused for.
    pub fn outdated(&self) -> impl Iterator<Item = (Kind, &Name, &[PolicyProblem])> {
        [Kind::Policy, Kind::Boundary, Kind::PolicyTemplate].into_iter().flat_map(|kind| {
            let of_kind = self.of_kind(kind).iter().map(move |(name, entry)| match entry.model() {
                Model::PolicyTemplate(template) => (kind, name, template.outdated()),
                _ => (kind, name, entry.document().map(|policy| policy.outdated()).unwrap_or_default()),
            });
            of_kind.filter(|(.., problems)| !problems.is_empty())
        })
    }

    /// Whether less, and never more, is let through without a resource that cannot be read.
    fn can_do_without(&self, kind: Kind, name: &Name) -> bool {
        match kind {
            // Nobody becomes what it says; nobody of that domain is let in; no host of it is called. Policies that follow a template are
            // judged themselves.
            Kind::Enrollment | Kind::ExternalService | Kind::FederatedTrustDomain | Kind::PolicyTemplate => {
                true
            }
            Kind::Policy => self.of_kind(kind).get(name).is_some_and(|entry| {
                let spec = entry.resource().spec.as_ref();
                matches!(spec, Some(Spec::Policy(spec)) if self.permits_at_most(spec))
            }),
            // A forbid may be in it, or be about it. Without an issuer users would be nobody, whom a forbid does not know, and their
            // tokens would pass to apps as they are.
            Kind::Boundary
            | Kind::DataClass
            | Kind::JwtIssuer
            | Kind::Mesh
            | Kind::Role
            | Kind::VirtualGateway
            | Kind::VirtualNode
            | Kind::VirtualService => false,
        }
    }

    /// Whether a policy decides nothing, or can only permit.
    fn permits_at_most(&self, spec: &wire::PolicySpec) -> bool {
        if spec.mode.as_deref() == Some("AUDIT") {
            return true;
        }
        let Some(link) = &spec.template else { return only_permits(&spec.cedar) };
        let template = Name::parse(&link.name).ok();
        let template = template.and_then(|name| self.of_kind(Kind::PolicyTemplate).get(&name));
        let text = template.and_then(|entry| match &entry.resource().spec {
            Some(Spec::PolicyTemplate(template)) => Some(template.cedar.as_str()),
            _ => None,
        });
        spec.cedar.is_empty() && text.is_some_and(only_permits)
    }
}
