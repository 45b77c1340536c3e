//! What control planes leave out of answers that would be too large to be received: of a change of many megabytes first
//! what stood before, then all bodies. Those of former releases do not say so, but none answers otherwise without what
//! is looked for here.

use hauberk_proto::admin::v1::{ApplyResponse, Outcome};
use hauberk_proto::mesh::v1::Resource;
use prost::Message as _;

use crate::error::CommandError;
use crate::kinds;
use crate::session::Session;

/// The most bytes that a resource has with nothing but an empty spec of its kind.
const EMPTY_SPEC: usize = 3;

/// Puts back labels and specs from what was sent: what is applied stands as it was sent.
pub(crate) fn put_back(sent: &[Resource], answer: &mut ApplyResponse) {
    for (sent, applied) in sent.iter().zip(&mut answer.resources) {
        let is_changed = applied.outcome() != Outcome::Unchanged;
        if let Some(resource) = applied.resource.as_mut().filter(|resource| is_changed && is_bare(resource))
            && (resource.name == sent.name && kinds::kind_of(resource) == kinds::kind_of(sent))
        {
            resource.labels.clone_from(&sent.labels);
            resource.spec.clone_from(&sent.spec);
        }
    }
}

/// What stands in the place of a resource that would be another one, of which the answer does not tell.
///
/// # Errors
/// It is not what was compared any longer; what the control plane answers.
pub(crate) async fn previous(session: &Session, resource: &Resource) -> Result<Resource, CommandError> {
    let kind = kinds::kind_of(resource);
    let found = session.find(kind, &resource.mesh, &resource.name).await?;
    found.filter(|found| is_followed_by(found, resource)).ok_or_else(|| {
        CommandError::advised(
            format!("somebody has changed {} since the control plane compared it", kinds::label(resource)),
            "ask again",
        )
    })
}

/// Whether the other one is the next version of a resource.
fn is_followed_by(resource: &Resource, next: &Resource) -> bool {
    let of = |resource: &Resource| resource.metadata.clone().unwrap_or_default();
    let (now, next) = (of(resource), of(next));
    now.uid == next.uid && now.resource_version.saturating_add(1) == next.resource_version
}

fn is_bare(resource: &Resource) -> bool {
    let spec = Resource { spec: resource.spec.clone(), ..Resource::default() };
    resource.labels.is_empty() && spec.encoded_len() <= EMPTY_SPEC
}

#[cfg(test)]
mod tests {
    use hauberk_proto::admin::v1::Applied;
    use hauberk_proto::mesh::v1::{JwtIssuerSpec, Metadata, VirtualNodeSpec, resource::Spec};

    use super::*;

    fn named(name: &str, spec: Spec) -> Resource {
        Resource { mesh: "shop".to_owned(), name: name.to_owned(), spec: Some(spec), ..Resource::default() }
    }

    #[test]
    fn what_was_left_out_is_what_was_sent() {
        let issuer =
            |jwks: &str| Spec::JwtIssuer(JwtIssuerSpec { jwks: jwks.to_owned(), ..JwtIssuerSpec::default() });
        let mut node = named("web", Spec::VirtualNode(VirtualNodeSpec::default()));
        node.labels.insert("team".to_owned(), "shop".to_owned());
        let sent = [node.clone(), named("login", issuer("{}")), named("other", issuer("{}"))];
        let outcomes = [Outcome::Configured, Outcome::Created, Outcome::Unchanged];
        let applied = |resource: &Resource, outcome: Outcome| Applied {
            outcome: outcome.into(),
            resource: Some(resource.clone()),
            previous: None,
        };
        let whole = sent.iter().zip(outcomes).map(|(sent, outcome)| applied(sent, outcome)).collect();
        let whole = ApplyResponse { resources: whole, ..ApplyResponse::default() };
        let mut told = whole.clone();
        put_back(&[], &mut told);
        put_back(&sent.clone().map(|other| named(&other.name, issuer("{\"keys\": []}"))), &mut told);
        assert_eq!(told, whole, "what is told is not altered");

        let bare = [named("web", Spec::VirtualNode(VirtualNodeSpec::default())), named("login", issuer(""))];
        for (applied, bare) in told.resources.iter_mut().zip(bare) {
            applied.resource = Some(bare);
        }
        put_back(&sent, &mut told);
        assert_eq!(told, whole);
    }

    #[test]
    fn only_the_version_before_is_compared() {
        let version = |uid: &str, resource_version: u64| {
            let metadata = Metadata { uid: uid.to_owned(), resource_version, ..Metadata::default() };
            let spec = Spec::VirtualNode(VirtualNodeSpec::default());
            Resource { metadata: Some(metadata), ..named("web", spec) }
        };
        let next = version("a", 5);
        assert!(is_followed_by(&version("a", 4), &next));
        for other in [version("a", 5), version("a", 3), version("b", 4)] {
            assert!(!is_followed_by(&other, &next));
        }
    }
}
