//! What of an OpenAPI document (<https://spec.openapis.org/oas/>) routes are made of: servers, and paths with their methods. Whether it is
//! right is for the control plane to say, so that whatever it looks at is kept as it stands.

use serde_json::Value;

use super::{Flaw, json, yaml};

/// A part of a document, which says what is kept of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Document,
    Components,
    PathItems,
    PathItem,
    Operations,
    Operation,
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
            (Self::PathItem, "summary" | "description" | "parameters") => None,
            (Self::PathItem, key) if !key.starts_with("x-") => Some(Self::Unknown),
            (Self::Operations, _) => Some(Self::Operation),
            (Self::Whole, _) => Some(Self::Whole),
            (
                Self::Document
                | Self::Components
                | Self::PathItems
                | Self::PathItem
                | Self::Operation
                | Self::Unknown,
                _,
            ) => None,
        }
    }

    /// What the items of a list are that stands for this part.
    pub(super) fn items(self) -> Option<Self> {
        (self == Self::Whole).then_some(Self::Whole)
    }
}

/// The reduced document, as JSON.
pub(super) fn reduced(bytes: &[u8]) -> Result<String, Flaw> {
    let text = std::str::from_utf8(bytes).map_err(|_| Flaw::whole("it is not UTF-8 text"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // What begins with a brace can be either: most of JSON is YAML, but not all.
    let document = match text.trim_start().starts_with('{').then(|| json::reduced(text)) {
        Some(Ok(document)) => document,
        Some(Err(as_json)) => yaml::reduced(text).map_err(|_| as_json)?,
        None => yaml::reduced(text)?,
    };
    match document {
        Value::Object(_) => Ok(document.to_string()),
        _ => Err(Flaw::whole("this is no OpenAPI document: it is not a mapping")),
    }
}
