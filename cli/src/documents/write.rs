//! Writes messages as YAML or JSON: fields in a fixed order, camelCase, readable again by this folder's reader.

use std::fmt::Write as _;

use base64::Engine as _;
use hauberk_proto::mesh::v1::{Resource, resource::Spec};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage as _, Value};

use super::schema;
use super::yaml::{is_bool, is_number};
use crate::kinds;

/// What is written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Tree {
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Tree>),
    Map(Vec<(String, Tree)>),
}

/// Whether fields that have no presence are written when they are nought or empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Defaults {
    Omit,
    Show,
}

impl Tree {
    /// A text.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A mapping.
    pub(crate) fn map<K: Into<String>>(entries: impl IntoIterator<Item = (K, Tree)>) -> Self {
        Self::Map(entries.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }
}

/// A resource as files write it: `kind`, `mesh`, `name`, `labels`, `metadata`, `spec`.
pub(crate) fn resource_tree(resource: &Resource) -> Tree {
    let mut entries = vec![("kind".to_owned(), Tree::text(kinds::written(kinds::kind_of(resource))))];
    if !resource.mesh.is_empty() && !matches!(resource.spec, Some(Spec::MeshSpec(_))) {
        entries.push(("mesh".to_owned(), Tree::text(&resource.mesh)));
    }
    entries.push(("name".to_owned(), Tree::text(&resource.name)));
    if !resource.labels.is_empty() {
        let mut labels: Vec<(String, Tree)> =
            resource.labels.iter().map(|(key, value)| (key.clone(), Tree::text(value))).collect();
        labels.sort_by(|left, right| left.0.cmp(&right.0));
        entries.push(("labels".to_owned(), Tree::Map(labels)));
    }
    if let Some(metadata) = &resource.metadata {
        entries.push(("metadata".to_owned(), tree_of("hauberk.mesh.v1.Metadata", metadata, Defaults::Omit)));
    }
    let spec = match &resource.spec {
        Some(Spec::MeshSpec(spec)) => tree_of("hauberk.mesh.v1.MeshSpec", spec, Defaults::Omit),
        Some(Spec::VirtualNode(spec)) => tree_of("hauberk.mesh.v1.VirtualNodeSpec", spec, Defaults::Omit),
        Some(Spec::VirtualGateway(spec)) => {
            tree_of("hauberk.mesh.v1.VirtualGatewaySpec", spec, Defaults::Omit)
        }
        Some(Spec::VirtualService(spec)) => {
            tree_of("hauberk.mesh.v1.VirtualServiceSpec", spec, Defaults::Omit)
        }
        Some(Spec::Enrollment(spec)) => tree_of("hauberk.mesh.v1.EnrollmentSpec", spec, Defaults::Omit),
        Some(Spec::FederatedTrustDomain(spec)) => {
            tree_of("hauberk.mesh.v1.FederatedTrustDomainSpec", spec, Defaults::Omit)
        }
        Some(Spec::ExternalService(spec)) => {
            tree_of("hauberk.mesh.v1.ExternalServiceSpec", spec, Defaults::Omit)
        }
        Some(Spec::JwtIssuer(spec)) => tree_of("hauberk.mesh.v1.JwtIssuerSpec", spec, Defaults::Omit),
        Some(Spec::Policy(spec)) => tree_of("hauberk.mesh.v1.PolicySpec", spec, Defaults::Omit),
        Some(Spec::Role(spec)) => tree_of("hauberk.mesh.v1.RoleSpec", spec, Defaults::Omit),
        Some(Spec::DataClass(spec)) => tree_of("hauberk.mesh.v1.DataClassSpec", spec, Defaults::Omit),
        Some(Spec::Boundary(spec)) => tree_of("hauberk.mesh.v1.BoundarySpec", spec, Defaults::Omit),
        Some(Spec::PolicyTemplate(spec)) => {
            tree_of("hauberk.mesh.v1.PolicyTemplateSpec", spec, Defaults::Omit)
        }
        None => Tree::Map(Vec::new()),
    };
    entries.push(("spec".to_owned(), spec));
    Tree::Map(entries)
}

/// Any message of the API, named in full; instants as RFC 3339, values of enums in lower case without their prefix.
pub(crate) fn tree_of(full_name: &str, message: &impl prost::Message, defaults: Defaults) -> Tree {
    match schema::reflect(full_name, message) {
        Some(message) => message_tree(&message, defaults),
        None => Tree::Map(Vec::new()),
    }
}

fn message_tree(message: &DynamicMessage, defaults: Defaults) -> Tree {
    let descriptor = message.descriptor();
    if descriptor.full_name() == "google.protobuf.Timestamp" {
        return Tree::Text(instant(message));
    }
    let entries = descriptor.fields().filter_map(|field| {
        let set = message.has_field(&field);
        if !set && (defaults == Defaults::Omit || field.supports_presence()) {
            return None;
        }
        Some((field.json_name().to_owned(), field_tree(&field, &message.get_field(&field), defaults)))
    });
    Tree::Map(entries.collect())
}

fn field_tree(field: &FieldDescriptor, value: &Value, defaults: Defaults) -> Tree {
    match value {
        Value::Bool(value) => Tree::Bool(*value),
        Value::I32(number) => Tree::Number(number.to_string()),
        Value::I64(number) => Tree::Number(number.to_string()),
        Value::U32(number) => Tree::Number(number.to_string()),
        Value::U64(number) => Tree::Number(number.to_string()),
        Value::F32(number) => Tree::Number(number.to_string()),
        Value::F64(number) => Tree::Number(number.to_string()),
        Value::String(text) => Tree::text(text),
        Value::Bytes(bytes) => Tree::Text(base64::engine::general_purpose::STANDARD.encode(bytes)),
        Value::EnumNumber(number) => Tree::Text(enum_name(&field.kind(), *number)),
        Value::Message(message) => message_tree(message, defaults),
        Value::List(items) => {
            Tree::List(items.iter().map(|item| field_tree(field, item, defaults)).collect())
        }
        Value::Map(map) => {
            let mut entries: Vec<(String, Tree)> = map
                .iter()
                .map(|(key, value)| {
                    (key.as_str().unwrap_or_default().to_owned(), field_tree(field, value, defaults))
                })
                .collect();
            entries.sort_by(|left, right| left.0.cmp(&right.0));
            Tree::Map(entries)
        }
    }
}

/// `VERDICT_AUDIT_ALLOW` as `audit_allow`.
fn enum_name(kind: &Kind, number: i32) -> String {
    let Some(descriptor) = kind.as_enum() else { return number.to_string() };
    let Some(value) = descriptor.get_value(number) else { return number.to_string() };
    let mut prefix = String::new();
    for letter in descriptor.name().chars() {
        if letter.is_uppercase() && !prefix.is_empty() {
            prefix.push('_');
        }
        prefix.push(letter.to_ascii_uppercase());
    }
    prefix.push('_');
    value.name().strip_prefix(prefix.as_str()).unwrap_or(value.name()).to_lowercase()
}

fn instant(message: &DynamicMessage) -> String {
    let seconds = message.get_field_by_name("seconds").and_then(|value| value.as_i64()).unwrap_or_default();
    let nanos = message.get_field_by_name("nanos").and_then(|value| value.as_i32()).unwrap_or_default();
    jiff::Timestamp::new(seconds, nanos).map(|instant| instant.to_string()).unwrap_or_default()
}

/// As JSON, indented by two, with a newline at the end.
pub(crate) fn to_json(tree: &Tree) -> String {
    let mut out = String::new();
    json(tree, 0, &mut out);
    out.push('\n');
    out
}

fn json(tree: &Tree, depth: usize, out: &mut String) {
    let inner = "  ".repeat(depth + 1);
    let outer = "  ".repeat(depth);
    match tree {
        Tree::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Tree::Number(number) => out.push_str(number),
        Tree::Text(text) => out.push_str(&quoted(text)),
        Tree::List(items) if items.is_empty() => out.push_str("[]"),
        Tree::Map(entries) if entries.is_empty() => out.push_str("{}"),
        Tree::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                let _infallible = write!(out, "{}\n{inner}", if index > 0 { "," } else { "" });
                json(item, depth + 1, out);
            }
            let _infallible = write!(out, "\n{outer}]");
        }
        Tree::Map(entries) => {
            out.push('{');
            for (index, (key, value)) in entries.iter().enumerate() {
                let _infallible =
                    write!(out, "{}\n{inner}{}: ", if index > 0 { "," } else { "" }, quoted(key));
                json(value, depth + 1, out);
            }
            let _infallible = write!(out, "\n{outer}}}");
        }
    }
}

/// As JSON on one line, for streams.
pub(crate) fn to_json_line(tree: &Tree) -> String {
    match tree {
        Tree::List(items) => format!("[{}]", items.iter().map(to_json_line).collect::<Vec<_>>().join(",")),
        Tree::Map(entries) => {
            let entries =
                entries.iter().map(|(key, value)| format!("{}:{}", quoted(key), to_json_line(value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
        }
        scalar => {
            let mut out = String::new();
            json(scalar, 0, &mut out);
            out
        }
    }
}

/// As one YAML document.
pub(crate) fn to_yaml(tree: &Tree) -> String {
    let mut out = String::new();
    yaml(tree, 0, &mut out);
    out
}

/// Writes `tree` as lines indented by `indent`, each ending in a newline.
fn yaml(tree: &Tree, indent: usize, out: &mut String) {
    let margin = " ".repeat(indent);
    match tree {
        Tree::Map(entries) if !entries.is_empty() => {
            for (key, value) in entries {
                let _infallible = write!(out, "{margin}{}:", yaml_text(key));
                yaml_value(value, indent, out);
            }
        }
        Tree::List(items) if !items.is_empty() => {
            for item in items {
                match item {
                    Tree::Map(entries) if !entries.is_empty() => {
                        let mut lines = String::new();
                        yaml(item, indent + 2, &mut lines);
                        let first = lines.get(indent + 2..).unwrap_or_default();
                        let _infallible = write!(out, "{margin}- {first}");
                    }
                    _ => {
                        let _infallible = write!(out, "{margin}-");
                        yaml_value(item, indent, out);
                    }
                }
            }
        }
        scalar => {
            out.push_str(margin.as_str());
            out.push_str(yaml_scalar(scalar).as_str());
            out.push('\n');
        }
    }
}

/// Writes what comes after `key:` or `-`.
fn yaml_value(value: &Tree, indent: usize, out: &mut String) {
    match value {
        Tree::Map(entries) if !entries.is_empty() => {
            out.push('\n');
            yaml(value, indent + 2, out);
        }
        Tree::List(items) if !items.is_empty() => {
            out.push('\n');
            yaml(value, indent + 2, out);
        }
        Tree::Text(text) if text.contains('\n') && is_block(text) => block(text, indent + 2, out),
        scalar => {
            let _infallible = writeln!(out, " {}", yaml_scalar(scalar));
        }
    }
}

fn yaml_scalar(tree: &Tree) -> String {
    match tree {
        Tree::Bool(value) => value.to_string(),
        Tree::Number(number) => number.clone(),
        Tree::Text(text) => yaml_text(text),
        Tree::List(_) => "[]".to_owned(),
        Tree::Map(_) => "{}".to_owned(),
    }
}

/// Whether a text can stand in a literal block and be read back the same.
fn is_block(text: &str) -> bool {
    text.chars().all(|c| c == '\n' || c == '\t' || is_printable(c))
        && text.chars().any(|c| !c.is_whitespace())
}

fn block(text: &str, indent: usize, out: &mut String) {
    // Where the first line is blank or indented, the reader cannot tell the block's indentation from it.
    let indicator = if text.starts_with([' ', '\n', '\t']) { "2" } else { "" };
    let (chomping, body) = match text.strip_suffix('\n') {
        None => ("-", text),
        Some(body) if body.ends_with('\n') => ("+", body),
        Some(body) => ("", body),
    };
    let _infallible = writeln!(out, " |{indicator}{chomping}");
    let margin = " ".repeat(indent);
    for line in body.split('\n') {
        if !line.is_empty() {
            out.push_str(&margin);
            out.push_str(line);
        }
        out.push('\n');
    }
}

/// A text on one line: plain where no reader can take it for something else, else in double quotes.
fn yaml_text(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { quoted(text) }
}

fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 9] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    let Some(first) = text.chars().next() else { return false };
    (first.is_ascii_alphabetic() || first == '/' || first == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_./:@+=(),'<> -".contains(c))
        && !text.contains(": ")
        && !text.ends_with([' ', ':'])
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
        && !is_bool(text)
        && !is_number(text)
}

/// In double quotes, with escapes that JSON and YAML share.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_printable(c) => out.push(c),
            c => {
                let _infallible = write!(out, "\\u{:04x}", u32::from(c));
            }
        }
    }
    out.push('"');
    out
}

/// Whether a character may stand as itself. The others are all below U+10000, so that one escape writes them.
fn is_printable(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}
