//! Policies that are made from templates, as they are accepted.

use std::sync::Arc;

use hauberk_identity::{Name, TrustDomain};
use hauberk_policy::{LinkProblem, Mode, PolicyDocument, PolicyTemplate, Slot};
use hauberk_proto::mesh::v1 as wire;

use super::choice;
use super::key::ResourceKey;
use super::policy;
use super::problem::Problems;

/// A policy that follows a template: it is made anew whenever that changes.
#[derive(Debug, Clone)]
pub struct LinkedPolicy {
    name: Name,
    mode: Mode,
    template: Name,
    fillings: Vec<(Slot, String)>,
    made: Result<Arc<PolicyDocument>, Vec<LinkProblem>>,
    /// Why it is not made; empty where it is.
    reason: String,
}

impl LinkedPolicy {
    /// Reads how the policy `key` follows a template. What it is by that is not known before it is [`made_from`](Self::made_from) it.
    pub(crate) fn parse(
        link: &wire::TemplateLink,
        mode: Mode,
        key: &ResourceKey,
        problems: &mut Problems,
    ) -> Option<Self> {
        let wire::TemplateLink { name, principal, resource } = link;
        let template = choice::name(problems, "spec.template.name", name)?;
        let given = [(Slot::Principal, principal), (Slot::Resource, resource)];
        let fillings = given.into_iter().filter_map(|(slot, name)| Some((slot, name.clone()?))).collect();
        let name = key.name.clone();
        Some(Self { name, mode, template, fillings, made: Err(Vec::new()), reason: String::new() })
    }

    /// The same policy as it follows from a template; from none where that does not exist. What is refused of new texts alone is told by
    /// the document, since it may follow for long.
    pub(crate) fn made_from(&self, template: Option<&PolicyTemplate>) -> Self {
        let fillings: Vec<_> = self.fillings.iter().map(|(slot, name)| (*slot, name.as_str())).collect();
        let (made, reason) =
            match template.map(|template| template.link_stored(self.name.clone(), self.mode, &fillings)) {
                Some(Ok(document)) => (Ok(Arc::new(document)), String::new()),
                Some(Err(problems)) => {
                    let first = problems.first().map(describe).unwrap_or_default();
                    (
                        Err(problems),
                        format!("it does not follow from policy template {:?}: {first}", self.template),
                    )
                }
                None => (Err(Vec::new()), format!("policy template {:?} does not exist", self.template)),
            };
        Self { made, reason, ..self.clone() }
    }

    /// The template.
    pub fn template(&self) -> &Name {
        &self.template
    }

    /// What it says, where it can be made.
    pub fn document(&self) -> Option<&PolicyDocument> {
        self.made.as_ref().ok().map(|document| &**document)
    }

    /// Everything that is wrong with it, where it is new or follows a new text.
    pub(crate) fn problems(&self) -> Vec<LinkProblem> {
        match &self.made {
            Ok(document) => document.outdated().iter().cloned().map(LinkProblem::Policy).collect(),
            Err(problems) => problems.clone(),
        }
    }

    /// Why it says nothing, if so.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.made.is_err().then_some(&self.reason)
    }
}

/// A problem in one line.
pub(crate) fn describe(problem: &LinkProblem) -> String {
    match problem {
        LinkProblem::Slot { message, help, .. } => format!("{message}; {help}"),
        LinkProblem::Policy(problem) => format!("with its slots filled, {problem}"),
    }
}

/// Reads the spec of the template `key`, and reports everything that is wrong with it.
pub(crate) fn parse(
    spec: &wire::PolicyTemplateSpec,
    key: &ResourceKey,
    trust_domain: &TrustDomain,
    problems: &mut Problems,
) -> Option<Arc<PolicyTemplate>> {
    let before = problems.count();
    let wire::PolicyTemplateSpec { cedar, description } = spec;
    choice::description(problems, description.as_deref());
    let read = if problems.are_of_stored() { PolicyTemplate::parse_stored } else { PolicyTemplate::parse };
    let template = policy::report(read(key.mesh.clone(), trust_domain, cedar), problems)?;
    (problems.count() == before).then(|| Arc::new(template))
}
