//! What issuers declare that their tokens say, and which labels nodes have: a policy that asks for anything else never meets it, and a
//! forbid would be none.

use std::collections::BTreeSet;

use hauberk_identity::Name;
use hauberk_policy::{Effect, Mode, PolicyDocument, Reference, Referent};

use super::Step;
use crate::resources::catalog::Model;
use crate::resources::key::{Kind, ResourceKey};
use crate::resources::mesh_catalog::MeshCatalog;
use crate::resources::problem::{Fault, Problems};

/// Claims that any token may have (RFC 7519, OpenID Connect Core §2).
const REGISTERED: [&str; 12] =
    ["acr", "amr", "aud", "auth_time", "azp", "exp", "iat", "iss", "jti", "nbf", "nonce", "sub"];

/// The most policies that are told of a change of an issuer.
const MOST_TOLD: usize = 20;

/// What is wrong with a name that an issuer does not declare, or a label that nobody has.
struct Unknown {
    message: String,
    help: Option<String>,
    /// It may be a claim of an issuer that declares none, or a label of nodes to come.
    is_sure: bool,
}

/// Checks the policies of the batch, and tells of those that a change of an issuer leaves behind.
pub(super) fn check(step: &Step<'_>, problems: &mut Problems, warnings: &mut Vec<String>) {
    for (key, index) in step.places {
        problems.about(*index);
        let Some(mesh) = step.after.mesh(key.mesh.as_str()) else { continue };
        if key.kind == Kind::JwtIssuer {
            step.tell_left_behind(key, mesh, warnings);
        }
        for (of, document) in step.documents(key) {
            for (reference, unknown) in step.unknown(mesh, document) {
                if unknown.is_sure {
                    let Unknown { message, help, .. } = unknown;
                    step.report_mention(key, &of, reference, message, help, problems);
                } else {
                    warnings.push(told(&of, reference, &unknown));
                }
            }
        }
    }
}

impl Step<'_> {
    /// Reports a name in the document of `of` that is wrong by a change of `key`.
    pub(super) fn report_mention(
        &self,
        key: &ResourceKey,
        of: &ResourceKey,
        reference: &Reference,
        message: String,
        help: Option<String>,
        problems: &mut Problems,
    ) {
        let is_linked = matches!(self.after.get(of).map(|of| of.model()), Some(Model::Linked(_)));
        let (field, message) = match (of == key, is_linked) {
            (true, true) => ("spec.template", message),
            (true, false) => {
                let (line, column) = (reference.line, reference.column);
                let length = reference.text.chars().count();
                ("spec.cedar", format!("{line}:{column}+{length}: {message}"))
            }
            (false, _) => ("spec.cedar", format!("{of} follows it, and would be wrong: {message}")),
        };
        problems.report(Fault::Invalid, field, message, help);
    }

    fn tell_left_behind(&self, key: &ResourceKey, mesh: &MeshCatalog, warnings: &mut Vec<String>) {
        let is_sent = |key: &ResourceKey| self.places.contains_key(key);
        let mut left = MOST_TOLD;
        for document in mesh.policies() {
            let kind = if document.mode() == Mode::Boundary { Kind::Boundary } else { Kind::Policy };
            let of = ResourceKey { kind, mesh: key.mesh.clone(), name: document.name().clone() };
            if is_sent(&of) {
                continue;
            }
            for (reference, unknown) in
                self.unknown(mesh, document).into_iter().filter(|(_, found)| found.is_sure)
            {
                let warning = told(&of, reference, &unknown);
                if left > 0 && !warnings.contains(&warning) {
                    warnings.push(warning);
                    left -= 1;
                }
            }
        }
    }

    /// The claims and groups of a policy that no issuer declares, and the labels that no node has.
    fn unknown<'d>(&self, mesh: &MeshCatalog, document: &'d PolicyDocument) -> Vec<(&'d Reference, Unknown)> {
        let find = |reference: &'d Reference| {
            let unknown = match &reference.referent {
                Referent::Claim(claim) => self.unknown_claim(mesh, claim, reference.effect),
                Referent::Label(label) => self.unknown_label(mesh, label),
                Referent::UserGroup { issuer, group } => self.unknown_group(mesh, issuer, group),
                _ => None,
            };
            Some((reference, unknown?))
        };
        document.references().iter().filter_map(find).collect()
    }

    fn unknown_claim(&self, mesh: &MeshCatalog, claim: &str, effect: Effect) -> Option<Unknown> {
        let mut known: BTreeSet<&str> = BTreeSet::new();
        let mut are_all_told = true;
        for (_, issuer, _) in mesh.issuers() {
            let declared = &issuer.declared().claims;
            are_all_told &= !declared.is_empty();
            let mapped = issuer.claims();
            known.extend(declared.iter().map(String::as_str));
            known.insert(&mapped.user);
            let mapped = mapped.groups.iter().chain(&mapped.scopes).chain(&mapped.roles);
            known.extend(mapped.map(String::as_str));
        }
        let is_within = |outer: &&str| claim.strip_prefix(*outer).is_some_and(|rest| rest.starts_with('.'));
        // Where there is no issuer at all, that is told instead.
        if known.is_empty()
            || known.contains(claim)
            || REGISTERED.contains(&claim)
            || known.iter().any(is_within)
        {
            return None;
        }
        let nearest = self.nearest(claim, known.iter().copied());
        if are_all_told {
            let help = nearest.or_else(|| Some("write it to declares.claims of the JwtIssuer".to_owned()));
            let message = format!("no issuer declares the claim {claim:?}");
            return Some(Unknown { message, help, is_sure: true });
        }
        let message = format!("the claim {claim:?} is none that an issuer declares or maps");
        // A permit on a claim that no token has lets nobody in, and is missed; a forbid is not. Nor is a permit's exception (`unless`,
        // or `!`), of which a reference does not tell: where a name is near it is warned of all the same.
        let help = nearest.or_else(|| {
            let help = "where no token has it nothing is forbidden: write it to declares.claims of the JwtIssuer whose tokens have it";
            (effect == Effect::Deny).then(|| help.to_owned())
        });
        help.map(|help| Unknown { message, help: Some(help), is_sure: false })
    }

    fn unknown_label(&self, mesh: &MeshCatalog, label: &str) -> Option<Unknown> {
        let nodes = [Kind::VirtualNode, Kind::VirtualGateway].map(|kind| mesh.of_kind(kind).values());
        let nodes = nodes.into_iter().flatten();
        let known: BTreeSet<&str> =
            nodes.flat_map(|node| node.resource().labels.keys()).map(String::as_str).collect();
        if known.contains(label) {
            return None;
        }
        let message = format!("no virtual node or gateway has the label {label:?}");
        Some(Unknown { message, help: self.nearest(label, known), is_sure: false })
    }

    fn unknown_group(&self, mesh: &MeshCatalog, issuer: &Name, group: &str) -> Option<Unknown> {
        let (_, found, _) = mesh.issuers().find(|(name, ..)| *name == issuer)?;
        let declared = &found.declared().groups;
        if declared.is_empty() || declared.iter().any(|known| known == group) {
            return None;
        }
        let help = self.nearest(group, declared.iter().map(String::as_str));
        let help = help.or_else(|| Some(format!("write it to declares.groups of the JwtIssuer {issuer}")));
        let message = format!("issuer {issuer:?} declares no group {group:?}");
        Some(Unknown { message, help, is_sure: true })
    }
}

fn told(of: &ResourceKey, reference: &Reference, unknown: &Unknown) -> String {
    let Reference { line, column, .. } = reference;
    let Unknown { message, help, .. } = unknown;
    let help = help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
    format!("{of}, {line}:{column}: {message}{help}")
}

#[cfg(test)]
mod tests;
