//! What of an OpenAPI document (<https://spec.openapis.org/oas/>) routes are made of: servers, and paths with their
//! methods. Whether it is right is for the control plane to say, so that whatever it looks at is kept as it stands.

use std::path::Path;

use serde_json::Value;

use super::{Flaw, elsewhere, json, parameters, yaml};

/// What says of a parameter of a path that it stands for several segments, as descriptions of large interfaces write
/// it.
pub(super) const SEVERAL_SEGMENTS: &str = "x-multi-segment";

/// A part of a document, which says what is kept of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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

    /// The part that stands at a place of a document (RFC 6901), or nothing where that is left out.
    pub(super) fn at(pointer: &str) -> Option<Self> {
        pointer.split('/').skip(1).try_fold(Self::Document, |part, token| part.under(&name(token)))
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
            elsewhere::take_in(&mut document, bytes, folder)?;
            parameters::without_others(&mut document);
            Ok(document.to_string())
        }
        _ => Err(Flaw::whole("this is no OpenAPI document: it is not a mapping")),
    }
}

/// A name as a pointer has it (RFC 6901 §3).
pub(super) fn token(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn name(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

/// A pointer in the one spelling that [`token`] has.
pub(super) fn spelt(pointer: &str) -> String {
    pointer.split('/').map(|part| token(&name(part))).collect::<Vec<_>>().join("/")
}
