//! What of an OpenAPI document (<https://spec.openapis.org/oas/>) routes are made of: servers, and paths with their
//! methods. Whether it is right is for the control plane to say, so that whatever it looks at is kept as it stands.

use std::collections::BTreeSet;
use std::path::Path;

use hauberk_policy::unescaped;
use serde_json::{Map, Value};

use super::elsewhere::MOST_STEPS;
use super::{Flaw, elsewhere, json, yaml};

/// What says of a parameter of a path that it stands for several segments, as descriptions of large interfaces write
/// it.
pub(super) const SEVERAL_SEGMENTS: &str = "x-multi-segment";
/// Where parameters stand that others refer to.
const OF_COMPONENTS: &str = "/components/parameters/";
/// Where else something is sent that a parameter's reference may lead to.
const SENT_BESIDE: [&str; 2] = ["/paths/", "/components/pathItems/"];

/// A part of a document, which says what is kept of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Document,
    Components,
    PathItems,
    PathItem,
    Operations,
    Operation,
    /// A list of parameters, or a mapping of them.
    Parameters,
    Parameter,
    /// All of it is kept.
    Whole,
    /// Nothing within it is: it stands where it is not understood.
    Unknown,
}

impl Part {
    /// What is under a key of this part, or nothing where that is left out.
    pub(super) fn under(self, key: &str) -> Option<Self> {
        match (self, key) {
            // It brings in what stands elsewhere, of which nobody knows here whether it matters.
            (_, "<<") => Some(Self::Whole),
            (Self::Document, "openapi" | "swagger" | "servers") => Some(Self::Whole),
            (Self::Document, "paths") => Some(Self::PathItems),
            // Path items can refer to what stands there.
            (Self::Document, "components") => Some(Self::Components),
            (Self::Components, "pathItems") => Some(Self::PathItems),
            // Of a parameter it matters whether it is several segments.
            (Self::PathItem | Self::Operation | Self::Components, "parameters") => Some(Self::Parameters),
            (Self::Parameters, _) => Some(Self::Parameter),
            (Self::Parameter, "$ref" | "name" | "in" | SEVERAL_SEGMENTS) => Some(Self::Whole),
            (Self::PathItems, key) if !key.starts_with("x-") => Some(Self::PathItem),
            (
                Self::PathItem,
                "get"
                | "put"
                | "post"
                | "delete"
                | "options"
                | "head"
                | "patch"
                | "trace"
                | "query"
                | "x-amazon-apigateway-any-method",
            ) => Some(Self::Operation),
            (Self::PathItem, "additionalOperations") => Some(Self::Operations),
            (Self::PathItem | Self::Operation, "$ref" | "servers") => Some(Self::Whole),
            (Self::PathItem | Self::Operation, key) if key.starts_with("x-hauberk-") => Some(Self::Whole),
            (Self::PathItem, "summary" | "description") => None,
            // Of an API gateway's operation: it is of all paths that no other is of.
            (Self::Operation, "isDefaultRoute") => Some(Self::Whole),
            (Self::PathItem, key) if !key.starts_with("x-") => Some(Self::Unknown),
            (Self::Operations, _) => Some(Self::Operation),
            (Self::Whole, _) => Some(Self::Whole),
            (
                Self::Document
                | Self::Components
                | Self::PathItems
                | Self::PathItem
                | Self::Operation
                | Self::Parameter
                | Self::Unknown,
                _,
            ) => None,
        }
    }

    /// What the items of a list are that stands for this part.
    pub(super) fn items(self) -> Option<Self> {
        match self {
            Self::Whole => Some(Self::Whole),
            Self::Parameters => Some(Self::Parameter),
            _ => None,
        }
    }
}

/// What is kept of a file that holds this part.
pub(super) fn tree(bytes: &[u8], part: Part) -> Result<Value, Flaw> {
    let text = std::str::from_utf8(bytes).map_err(|_| Flaw::whole("it is not UTF-8 text"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // What begins with a brace can be either: most of JSON is YAML, but not all.
    match text.trim_start().starts_with('{').then(|| json::reduced(text, part)) {
        Some(Ok(document)) => Ok(document),
        Some(Err(as_json)) => yaml::reduced(text, part).map_err(|_| as_json),
        None => yaml::reduced(text, part),
    }
}

/// The reduced document, as JSON, with what it refers to below the folder in which it lies.
pub(super) fn reduced(bytes: &[u8], folder: &Path) -> Result<String, Flaw> {
    let mut document = tree(bytes, Part::Document)?;
    match document {
        Value::Object(_) => {
            elsewhere::take_in(&mut document, folder)?;
            without_others_parameters(&mut document);
            Ok(document.to_string())
        }
        _ => Err(Flaw::whole("this is no OpenAPI document: it is not a mapping")),
    }
}

/// Leaves out parameters that are one segment, or none, of most documents all; and with them what refers to such, so that nothing
/// that is sent refers to what is not.
fn without_others_parameters(document: &mut Value) {
    let components = match document.pointer_mut("/components/parameters") {
        Some(Value::Object(components)) => std::mem::take(components),
        _ => Map::new(),
    };
    let mut referred = BTreeSet::new();
    for items in ["/paths", "/components/pathItems"] {
        let items = document.pointer_mut(items).and_then(Value::as_object_mut);
        for item in items.into_iter().flat_map(|items| items.values_mut()).filter_map(Value::as_object_mut) {
            without_parameters(item, &components, &mut referred);
            for (name, operation) in item.iter_mut() {
                let operations = match operation {
                    Value::Object(others) if name == "additionalOperations" => others.values_mut().collect(),
                    operation => vec![operation],
                };
                for operation in operations.into_iter().filter_map(Value::as_object_mut) {
                    without_parameters(operation, &components, &mut referred);
                }
            }
        }
    }
    if let Some(Value::Object(all)) = document.get_mut("components")
        && let Some(Value::Object(parameters)) = all.get_mut("parameters")
    {
        parameters.extend(components.into_iter().filter(|(name, _)| referred.contains(name)));
        if parameters.is_empty() {
            all.remove("parameters");
        }
    }
}

fn without_parameters(
    of: &mut Map<String, Value>,
    components: &Map<String, Value>,
    referred: &mut BTreeSet<String>,
) {
    if let Some(Value::Array(parameters)) = of.get_mut("parameters") {
        parameters.retain(|parameter| matters(parameter, components, referred));
        if parameters.is_empty() {
            of.remove("parameters");
        }
    }
}

/// Whether it is, or refers to, a parameter that may be several segments. The components that it refers to are noted then.
fn matters(parameter: &Value, components: &Map<String, Value>, referred: &mut BTreeSet<String>) -> bool {
    let (mut at, mut is_several, mut through) = (parameter, false, Vec::new());
    for _ in 0..=MOST_STEPS {
        // What stands beside a reference counts too.
        is_several |= at.get(SEVERAL_SEGMENTS).is_some();
        let Some(reference) = at.get("$ref").and_then(Value::as_str) else {
            if is_several {
                referred.extend(through);
            }
            return is_several;
        };
        let Some(pointer) = reference.strip_prefix('#').and_then(unescaped) else { return false };
        let Some(token) = pointer.strip_prefix(OF_COMPONENTS) else {
            // Who knows what it is that stands there.
            let is_sent = SENT_BESIDE.iter().any(|place| pointer.starts_with(place));
            if is_sent {
                referred.extend(through);
            }
            return is_sent;
        };
        let name = token.replace("~1", "/").replace("~0", "~");
        // What lies within a parameter is none.
        let Some(found) = components.get(&name).filter(|_| !token.contains('/')) else { return false };
        at = found;
        through.push(name);
    }
    // The control plane follows it no further either.
    false
}
