//! Templates and the policies that follow them.

use hauberk_identity::Name;
use hauberk_policy::{LinkProblem, PolicyDocument, Slot};

use super::{Step, envelope};
use crate::resources::catalog::Model;
use crate::resources::choice::did_you_mean;
use crate::resources::key::{Kind, ResourceKey};
use crate::resources::mesh_catalog::MeshCatalog;
use crate::resources::problem::{Fault, Problems};
use crate::resources::template::{LinkedPolicy, describe};

/// Checks the policies of the batch that follow a template, and those that follow a template of the batch.
pub(super) fn check(step: &Step<'_>, problems: &mut Problems, warnings: &mut Vec<String>) {
    for (key, index) in step.places {
        problems.about(*index);
        let Some(mesh) = step.after.mesh(key.mesh.as_str()) else { continue };
        match step.after.get(key).map(|entry| entry.model()) {
            Some(Model::Linked(policy)) => step.check_link(key, mesh, policy, problems),
            Some(Model::PolicyTemplate(_)) => step.check_followers(key, mesh, problems, warnings),
            _ => {}
        }
    }
}

/// The policies that follow a template, in order.
pub(super) fn followers<'a>(
    mesh: &'a MeshCatalog,
    template: &'a Name,
) -> impl Iterator<Item = (&'a Name, &'a LinkedPolicy)> {
    mesh.of_kind(Kind::Policy).iter().filter_map(move |(name, entry)| match entry.model() {
        Model::Linked(policy) if policy.template() == template => Some((name, policy)),
        _ => None,
    })
}

impl<'a> Step<'a> {
    /// What a resource of the batch will say in Cedar: its own statements, or of a template those of the policies that follow
    /// it, each with the policy.
    pub(super) fn documents(&self, key: &'a ResourceKey) -> Vec<(ResourceKey, &'a PolicyDocument)> {
        let Some(mesh) = self.after.mesh(key.mesh.as_str()) else { return Vec::new() };
        let own = self.after.get(key).and_then(|entry| entry.document());
        let own = own.into_iter().map(|document| (key.clone(), document));
        if key.kind != Kind::PolicyTemplate {
            return own.collect();
        }
        let following = followers(mesh, &key.name).filter_map(|(name, policy)| {
            let policy_key = ResourceKey { kind: Kind::Policy, mesh: key.mesh.clone(), name: name.clone() };
            // Those of the batch tell for themselves.
            let is_sent = self.places.contains_key(&policy_key);
            policy.document().filter(|_| !is_sent).map(|document| (policy_key, document))
        });
        following.collect()
    }

    fn check_link(
        &self,
        key: &ResourceKey,
        mesh: &MeshCatalog,
        policy: &LinkedPolicy,
        problems: &mut Problems,
    ) {
        let template = policy.template();
        if !self.exists(Kind::PolicyTemplate, &key.mesh, template) {
            let known = mesh.of_kind(Kind::PolicyTemplate).keys().map(Name::as_str);
            let help = did_you_mean(template.as_str(), known);
            let message = format!("policy template {template:?} does not exist");
            problems.report(Fault::Invalid, "spec.template.name", message, help);
        }
        if self.stays(key, policy) {
            return;
        }
        for problem in policy.problems() {
            match &problem {
                LinkProblem::Slot { slot, message, help } => {
                    let field = match slot {
                        Slot::Principal => "spec.template.principal",
                        Slot::Resource => "spec.template.resource",
                    };
                    problems.invalid_but(field, message, help.clone());
                }
                LinkProblem::Policy(_) => problems.invalid("spec.template", describe(&problem)),
            }
        }
    }

    /// Whether a policy that says something goes on saying what it said, since neither it nor its template changes: what only
    /// new texts are refused for is no problem then.
    fn stays(&self, key: &ResourceKey, policy: &LinkedPolicy) -> bool {
        let template = ResourceKey {
            kind: Kind::PolicyTemplate,
            mesh: key.mesh.clone(),
            name: policy.template().clone(),
        };
        let is_same = |key: &ResourceKey| match (self.before.get(key), self.after.get(key)) {
            (Some(before), Some(after)) => envelope::is_same(before.resource(), after.resource()),
            _ => false,
        };
        policy.document().is_some() && is_same(key) && is_same(&template)
    }

    fn check_followers(
        &self,
        key: &ResourceKey,
        mesh: &MeshCatalog,
        problems: &mut Problems,
        warnings: &mut Vec<String>,
    ) {
        let mut changed = Vec::new();
        for (name, policy) in followers(mesh, &key.name) {
            let own = ResourceKey { kind: Kind::Policy, mesh: key.mesh.clone(), name: name.clone() };
            if self.places.contains_key(&own) {
                continue;
            }
            let problems_of = if self.stays(&own, policy) { Vec::new() } else { policy.problems() };
            for problem in problems_of {
                let message = format!("{own} follows it, and would be wrong: {}", describe(&problem));
                problems.report(Fault::InUse, "spec.cedar", message, None);
            }
            let text = |policy: Option<&PolicyDocument>| policy.map(|policy| policy.text().to_owned());
            let former = self.before.get(&own).and_then(|entry| entry.document());
            if text(former) != text(policy.document()) {
                changed.push(name.as_str());
            }
        }
        if !changed.is_empty() {
            warnings.push(format!("{key}: this changes what follows it: {}", changed.join(", ")));
        }
    }
}

#[cfg(test)]
mod tests;
