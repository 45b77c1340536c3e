//! From a document's tree to one resource.

use hauberk_proto::mesh::v1::{Metadata, Resource};
use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};

use super::message::{Defect, build};
use super::schema;
use super::yaml::{Content, Entry, Node, Style};
use crate::kinds::{NOT_YET, RESOURCES};
use crate::nearest::suggestion;

/// Names of the field of `Resource` that holds each kind's spec.
const SPEC_FIELDS: [(&str, &str); 13] = [
    ("Mesh", "mesh_spec"),
    ("VirtualNode", "virtual_node"),
    ("VirtualGateway", "virtual_gateway"),
    ("VirtualService", "virtual_service"),
    ("Policy", "policy"),
    ("PolicyTemplate", "policy_template"),
    ("Boundary", "boundary"),
    ("Role", "role"),
    ("DataClass", "data_class"),
    ("Enrollment", "enrollment"),
    ("FederatedTrustDomain", "federated_trust_domain"),
    ("JwtIssuer", "jwt_issuer"),
    ("ExternalService", "external_service"),
];

/// What may stand at the top of a document.
const KEYS: [&str; 10] = [
    "kind",
    "mesh",
    "meshName",
    "name",
    "virtualNodeName",
    "virtualGatewayName",
    "virtualServiceName",
    "labels",
    "metadata",
    "spec",
];

/// The field of `Resource` that holds the spec of a kind, as files write that.
pub(super) fn spec_field(kind: &str) -> Option<&'static str> {
    SPEC_FIELDS.iter().find(|(name, _)| *name == kind).map(|(_, field)| *field)
}

/// Every way to write the key that errors call `mesh` or `name`.
pub(crate) fn spellings(key: &str) -> &'static [&'static str] {
    match key {
        "mesh" => &["mesh", "meshName"],
        "name" => &["name", "virtualNodeName", "virtualGatewayName", "virtualServiceName"],
        _ => &[],
    }
}

/// Reads one document. What is wrong goes to `defects`; the resource that is returned then is incomplete.
/// `default_mesh` is the mesh of documents that name none.
pub(crate) fn read(node: &Node, default_mesh: Option<&str>, defects: &mut Vec<Defect>) -> Option<Resource> {
    let Content::Map(entries) = &node.content else {
        defects.push(Defect::of(node, "", format!("expected a resource, found {}", node.describe())));
        return None;
    };
    for entry in entries.iter().filter(|entry| !KEYS.contains(&entry.key.as_str())) {
        let message = if entry.key == "apiVersion" {
            "this is a Kubernetes manifest; resources here begin with `kind`, `mesh` and `name`".to_owned()
        } else {
            format!("unknown field{}", suggestion(&entry.key, KEYS))
        };
        defects.push(Defect::of_key(entry, &entry.key, message));
    }
    let envelope = Envelope { node, entries };
    let kind = envelope.kind(defects);
    let mesh = envelope.one_text("mesh", defects);
    let name = envelope.one_text("name", defects);
    let labels = labels(envelope.entry("labels"), defects);
    let metadata = metadata(envelope.entry("metadata"), defects);
    let kind = kind?;

    let (mesh, name) = if kind == "Mesh" {
        if let (Some(mesh), Some(name)) = (&mesh, &name)
            && mesh != name
        {
            defects.push(Defect::of(
                node,
                "mesh",
                format!("a Mesh is its own mesh: `mesh` is {mesh}, `name` is {name}"),
            ));
        }
        (mesh.clone().or_else(|| name.clone()), name.or(mesh))
    } else {
        (mesh.or_else(|| default_mesh.map(str::to_owned)), name)
    };
    if name.is_none() && !defects.iter().any(|defect| defect.path == "name") {
        defects.push(Defect::of(node, "name", format!("this {kind} has no `name`")));
    }
    if mesh.is_none() && kind != "Mesh" && !defects.iter().any(|defect| defect.path == "mesh") {
        let message = format!("this {kind} says no `mesh`: add `mesh: NAME`, or give --mesh NAME");
        defects.push(Defect::of(node, "mesh", message));
    }

    let mut resource = DynamicMessage::new(schema::message("hauberk.mesh.v1.Resource")?);
    let field = resource.descriptor().get_field_by_name(spec_field(kind)?)?;
    if let prost_reflect::Kind::Message(descriptor) = field.kind() {
        let spec = match envelope.entry("spec") {
            Some(entry) => build(&descriptor, &entry.value, "spec", defects),
            None if kind == "Mesh" => DynamicMessage::new(descriptor),
            None => {
                defects.push(Defect::of(node, "spec", format!("this {kind} has no `spec`")));
                DynamicMessage::new(descriptor)
            }
        };
        resource.set_field(&field, Value::Message(spec));
    }
    let mut resource: Resource = resource.transcode_to().ok()?;
    resource.mesh = mesh.unwrap_or_default();
    resource.name = name.unwrap_or_default();
    resource.labels = labels;
    resource.metadata = metadata;
    Some(resource)
}

struct Envelope<'a> {
    node: &'a Node,
    entries: &'a [Entry],
}

impl<'a> Envelope<'a> {
    fn entry(&self, key: &str) -> Option<&'a Entry> {
        self.entries.iter().find(|entry| entry.key == key && !entry.value.is_null())
    }

    /// The kind as files write it: what `kind` says, else what App Mesh's own spellings imply.
    fn kind(&self, defects: &mut Vec<Defect>) -> Option<&'static str> {
        if let Some(entry) = self.entry("kind") {
            let said = text(entry, "kind", defects)?;
            let known = RESOURCES.iter().map(|name| name.written);
            return match known.clone().find(|name| *name == said) {
                Some(kind) => Some(kind),
                None if NOT_YET.contains(&said.as_str()) => {
                    let message = format!("App Mesh's {said} is not supported by this version");
                    defects.push(Defect::of(&entry.value, "kind", message));
                    None
                }
                None => {
                    let nearest = suggestion(&said, known.clone());
                    let nearest = if nearest.is_empty() {
                        format!("; it can be {}", known.collect::<Vec<_>>().join(", "))
                    } else {
                        nearest
                    };
                    defects.push(Defect::of(
                        &entry.value,
                        "kind",
                        format!("there is no kind `{said}`{nearest}"),
                    ));
                    None
                }
            };
        }
        let own = [
            ("virtualNodeName", "VirtualNode"),
            ("virtualGatewayName", "VirtualGateway"),
            ("virtualServiceName", "VirtualService"),
        ];
        let mut named = own.into_iter().filter(|(key, _)| self.entry(key).is_some()).map(|(_, kind)| kind);
        let is_of_mesh = self.entry("name").is_none() && self.entry("mesh").is_none();
        match (named.next(), named.next()) {
            (Some(kind), None) => Some(kind),
            (None, _) if self.entry("meshName").is_some() && is_of_mesh => Some("Mesh"),
            _ => {
                defects.push(Defect::of(self.node, "kind", "this document does not say its `kind`"));
                None
            }
        }
    }

    /// The text that stands under any one of a key's spellings.
    fn one_text(&self, key: &str, defects: &mut Vec<Defect>) -> Option<String> {
        let mut found: Option<(&str, String)> = None;
        for entry in spellings(key).iter().filter_map(|spelling| self.entry(spelling)) {
            let Some(text) = text(entry, key, defects) else { continue };
            match &found {
                Some((first, earlier)) if *earlier != text => {
                    let message = format!("`{}` and `{first}` say different things", entry.key);
                    defects.push(Defect::of_key(entry, key, message));
                }
                _ => found = Some((&entry.key, text)),
            }
        }
        found.map(|(_, text)| text)
    }
}

fn text(entry: &Entry, path: &str, defects: &mut Vec<Defect>) -> Option<String> {
    match &entry.value.content {
        Content::Scalar { text, style } => {
            let read_otherwise = super::yaml::is_bool(text) || super::yaml::is_number(text);
            if *style == Style::Plain && read_otherwise {
                let message =
                    format!("expected a text, found {}: write \"{text}\" in quotes", entry.value.describe());
                defects.push(Defect::of(&entry.value, path, message));
                return None;
            }
            Some(text.clone())
        }
        Content::List(_) | Content::Map(_) => {
            let message = format!("expected a text, found {}", entry.value.describe());
            defects.push(Defect::of(&entry.value, path, message));
            None
        }
    }
}

fn labels(entry: Option<&Entry>, defects: &mut Vec<Defect>) -> std::collections::HashMap<String, String> {
    let Some(entry) = entry else { return Default::default() };
    let Content::Map(entries) = &entry.value.content else {
        let message = format!("expected a mapping, found {}", entry.value.describe());
        defects.push(Defect::of(&entry.value, "labels", message));
        return Default::default();
    };
    entries
        .iter()
        .filter_map(|label| {
            let path = format!("labels.{}", label.key);
            if label.value.is_null() {
                defects.push(Defect::of(&label.value, path, "expected a text, found nothing"));
                return None;
            }
            Some((label.key.clone(), text(label, &path, defects)?))
        })
        .collect()
}

/// Of the metadata that `get -o yaml` prints only the resource version is read back.
fn metadata(entry: Option<&Entry>, defects: &mut Vec<Defect>) -> Option<Metadata> {
    let entry = entry?;
    let Content::Map(entries) = &entry.value.content else {
        let message = format!("expected a mapping, found {}", entry.value.describe());
        defects.push(Defect::of(&entry.value, "metadata", message));
        return None;
    };
    let version = entries.iter().find(|entry| entry.key == "resourceVersion")?;
    match &version.value.content {
        Content::Scalar { text, .. } if text.parse::<u64>().is_ok() => {
            let resource_version = text.parse().unwrap_or_default();
            Some(Metadata { resource_version, ..Metadata::default() })
        }
        _ => {
            let message = format!("expected a whole number, found {}", version.value.describe());
            defects.push(Defect::of(&version.value, "metadata.resourceVersion", message));
            None
        }
    }
}
