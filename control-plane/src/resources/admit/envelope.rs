//! What every resource has, of whatever kind.

use hauberk_identity::Name;
use hauberk_proto::mesh::v1::{Metadata, Resource, resource::Spec};
use prost::Message;

use crate::resources::catalog::Entry;
use crate::resources::choice;
use crate::resources::key::{Kind, ResourceKey};
use crate::resources::problem::{Fault, Problems};

/// App Mesh's limits of tags.
const MOST_LABELS: usize = 50;
const LONGEST_LABEL_KEY: usize = 128;
const LONGEST_LABEL_VALUE: usize = 256;

/// The largest resource, in bytes: below what the registry takes for one value.
const LARGEST: usize = 512 * 1024;

/// Reads name, mesh, kind and labels. Gives the resource as it is kept, without metadata.
pub(super) fn read(resource: &Resource, problems: &mut Problems) -> Option<(ResourceKey, Resource)> {
    let Resource { mesh, name, labels, metadata: _, spec } = resource;
    let size = resource.encoded_len();
    if size > LARGEST {
        let message = format!("it has {size} bytes; a resource has at most {LARGEST}");
        match spec {
            Some(Spec::VirtualNode(_)) => {
                let help = "a large description is named as a file, `openapiFile:` or `protobufFile:`, of which `hauberk` sends what \
                            matters";
                problems.invalid_but("", message, help);
            }
            _ => problems.invalid("", message),
        }
    }
    check_labels(resource, problems);
    let kind = spec.as_ref().map(Kind::of);
    if kind.is_none() {
        let known = Kind::ALL.map(Kind::as_str).join(", ");
        let help = format!("it is one of {known}");
        problems.invalid_but("kind", "it is missing, or not known to this release", help);
    }
    let name = choice::name(problems, "name", name);
    let kind = kind?;
    let mesh = match kind {
        Kind::Mesh if mesh.is_empty() => name.clone(),
        Kind::Mesh => {
            if *mesh != resource.name {
                let message = format!("a mesh is in itself, and this one is {:?}", resource.name);
                problems.invalid_but("mesh", message, "leave it out");
            }
            name.clone()
        }
        Kind::Boundary
        | Kind::DataClass
        | Kind::Enrollment
        | Kind::ExternalService
        | Kind::FederatedTrustDomain
        | Kind::JwtIssuer
        | Kind::Policy
        | Kind::PolicyTemplate
        | Kind::Role
        | Kind::VirtualGateway
        | Kind::VirtualNode
        | Kind::VirtualService => read_mesh(mesh, kind, problems),
    };
    let key = ResourceKey { kind, mesh: mesh?, name: name? };
    let normal = Resource {
        mesh: key.mesh.to_string(),
        name: key.name.to_string(),
        labels: labels.clone(),
        metadata: None,
        spec: spec.clone(),
    };
    Some((key, normal))
}

fn read_mesh(mesh: &str, kind: Kind, problems: &mut Problems) -> Option<Name> {
    if mesh.is_empty() {
        let message = format!("{} belongs to a mesh, and none is named", kind.with_article());
        problems.invalid_but("mesh", message, "write mesh: and its name");
        return None;
    }
    choice::name(problems, "mesh", mesh)
}

fn check_labels(resource: &Resource, problems: &mut Problems) {
    let labels = &resource.labels;
    if labels.len() > MOST_LABELS {
        problems.invalid("labels", format!("{} labels are too many: at most {MOST_LABELS}", labels.len()));
    }
    let mut sorted: Vec<_> = labels.iter().collect();
    sorted.sort();
    for (key, value) in sorted {
        let field = format!("labels.{key}");
        let length = key.chars().count();
        if length == 0 {
            problems.invalid("labels", "a label has an empty key");
        }
        if length > LONGEST_LABEL_KEY {
            problems.invalid(&field, format!("its key has {length} characters: at most {LONGEST_LABEL_KEY}"));
        }
        let length = value.chars().count();
        if length > LONGEST_LABEL_VALUE {
            problems
                .invalid(&field, format!("its value has {length} characters: at most {LONGEST_LABEL_VALUE}"));
        }
        if key.chars().chain(value.chars()).any(char::is_control) {
            problems.invalid(&field, "it holds a control character");
        }
    }
}

/// Checks the version that the author looked at, where one is given.
pub(super) fn check_version(resource: &Resource, previous: Option<&Entry>, problems: &mut Problems) {
    let read = resource.metadata.as_ref().map_or(0, |Metadata { resource_version, .. }| *resource_version);
    if let Some(message) = stale(read, previous) {
        let help = "read it again, and change what stands there now".to_owned();
        problems.report(Fault::Stale, "metadata.resourceVersion", message, Some(help));
    }
}

/// Why the version `read` (0: any) is not the stored one, if it is not.
pub(super) fn stale(read: u64, previous: Option<&Entry>) -> Option<String> {
    match previous {
        _ if read == 0 => None,
        None => Some(format!("version {read} was read, but it does not exist any longer")),
        Some(previous) if previous.resource_version() == read => None,
        Some(previous) => {
            let stored = previous.resource_version();
            Some(format!("version {read} was read, but version {stored} is stored: somebody else changed it"))
        }
    }
}

/// Whether a stored resource says just this.
pub(super) fn is_same(stored: &Resource, normal: &Resource) -> bool {
    let Resource { mesh, name, labels, metadata: _, spec } = stored;
    *mesh == normal.mesh && *name == normal.name && *labels == normal.labels && *spec == normal.spec
}
