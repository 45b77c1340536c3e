//! From a tree to a protobuf message, led by the message's descriptor, so that every field that the API knows can be
//! written and none that it does not know is passed over.

use std::collections::HashMap;

use base64::Engine as _;
use prost_reflect::{
    DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};

use super::structure::structure;
use super::yaml::{Content, Entry, Node, Position, Style, is_bool, is_number};
use crate::nearest::suggestion;

/// Fields of AWS App Mesh's virtual nodes and services that this version does not act on. They are refused by name:
/// dropping them would silently change what a mesh does.
pub(super) const APP_MESH_ONLY: [&str; 19] = [
    "attributes",
    "awsCloudMap",
    "backendDefaults",
    "certificate",
    "clientPolicy",
    "connectionPool",
    "enforce",
    "healthCheck",
    "logging",
    "outlierDetection",
    "podSelector",
    "ports",
    "serviceDiscoveryType",
    "subjectAlternativeNames",
    "timeout",
    "validation",
    "virtualNodeRef",
    "virtualRouter",
    "virtualServiceRef",
];

/// Something wrong with a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Defect {
    pub(crate) at: Position,
    pub(crate) length: usize,
    pub(crate) path: String,
    pub(crate) message: String,
}

impl Defect {
    /// At a value.
    pub(crate) fn of(node: &Node, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { at: node.at, length: node.length, path: path.into(), message: message.into() }
    }

    /// At a key.
    pub(crate) fn of_key(entry: &Entry, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { at: entry.at, length: entry.key.chars().count(), path: path.into(), message: message.into() }
    }
}

/// Builds a message of this type from a tree; what is wrong goes to `defects`, under `path`.
pub(crate) fn build(
    descriptor: &MessageDescriptor,
    node: &Node,
    path: &str,
    defects: &mut Vec<Defect>,
) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    if node.is_null() {
        return message;
    }
    let Content::Map(entries) = &node.content else {
        defects.push(Defect::of(node, path, format!("expected a mapping, found {}", node.describe())));
        return message;
    };
    let mut chosen: HashMap<String, String> = HashMap::new();
    for entry in entries {
        let path = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
        let Some(field) = find_field(descriptor, &entry.key) else {
            defects.push(Defect::of_key(entry, path, unknown_field(descriptor, &entry.key)));
            continue;
        };
        if entry.value.is_null() {
            continue;
        }
        if message.has_field(&field) {
            defects.push(Defect::of_key(entry, path, format!("`{}` is set twice", field.json_name())));
            continue;
        }
        if let Some(oneof) = field.containing_oneof().filter(|oneof| !oneof.is_synthetic())
            && let Some(other) = chosen.insert(oneof.name().to_owned(), entry.key.clone())
        {
            defects.push(Defect::of_key(
                entry,
                path,
                format!("only one of `{other}` and `{}` can be set", entry.key),
            ));
            continue;
        }
        if let Some(value) = field_value(&field, &entry.value, &path, defects) {
            message.set_field(&field, value);
        }
    }
    message
}

/// The field of that name, as files write it or as the `.proto` file does.
pub(crate) fn find_field(descriptor: &MessageDescriptor, key: &str) -> Option<FieldDescriptor> {
    descriptor.get_field_by_json_name(key).or_else(|| descriptor.get_field_by_name(key))
}

fn unknown_field(descriptor: &MessageDescriptor, key: &str) -> String {
    if key == "<<" {
        return "merge keys are not understood: write the fields out".to_owned();
    }
    // Virtual nodes have a field of this name.
    if descriptor.full_name() == "hauberk.mesh.v1.VirtualGatewaySpec" && key == "listeners" {
        return "`listeners` of a virtual gateway are not supported by this version: remove them, and put an ingress that you have \
                beside its agent, which calls for it"
            .to_owned();
    }
    if APP_MESH_ONLY.contains(&key) {
        return format!("App Mesh's `{key}` is not supported by this version: remove it to go on without it");
    }
    // What is said of a port is said of one of them.
    let of_ports = (descriptor.full_name() == "hauberk.mesh.v1.VirtualNodeSpec")
        .then(|| descriptor.get_field_by_name("listeners")?.kind().as_message().cloned())
        .flatten();
    if of_ports.is_some_and(|listener| find_field(&listener, key).is_some()) {
        return format!("unknown field; it stands in each listener, spec.listeners[].{key}");
    }
    let names: Vec<String> = descriptor.fields().map(|field| field.json_name().to_owned()).collect();
    if names.is_empty() {
        return "unknown field; nothing can stand here".to_owned();
    }
    let nearest = suggestion(key, names.iter().map(String::as_str));
    if nearest.is_empty() {
        return format!("unknown field; here can stand {}", list(&names));
    }
    format!("unknown field{nearest}")
}

fn list(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

fn field_value(field: &FieldDescriptor, node: &Node, path: &str, defects: &mut Vec<Defect>) -> Option<Value> {
    if field.is_map() {
        return map_value(field, node, path, defects);
    }
    if !field.is_list() {
        return single(&field.kind(), node, path, defects);
    }
    let Content::List(items) = &node.content else {
        defects.push(Defect::of(node, path, format!("expected a list, found {}", node.describe())));
        return None;
    };
    let values = items.iter().enumerate().filter_map(|(index, item)| {
        let path = format!("{path}[{index}]");
        if item.is_null() {
            defects.push(Defect::of(item, path, "expected a value, found nothing"));
            return None;
        }
        single(&field.kind(), item, &path, defects)
    });
    Some(Value::List(values.collect()))
}

fn map_value(field: &FieldDescriptor, node: &Node, path: &str, defects: &mut Vec<Defect>) -> Option<Value> {
    let Content::Map(entries) = &node.content else {
        defects.push(Defect::of(node, path, format!("expected a mapping, found {}", node.describe())));
        return None;
    };
    let Kind::Message(entry_type) = field.kind() else { return None };
    let kind = entry_type.map_entry_value_field().kind();
    let mut map = HashMap::new();
    for entry in entries {
        let path = format!("{path}.{}", entry.key);
        if let Some(value) = single(&kind, &entry.value, &path, defects) {
            map.insert(MapKey::String(entry.key.clone()), value);
        }
    }
    Some(Value::Map(map))
}

fn single(kind: &Kind, node: &Node, path: &str, defects: &mut Vec<Defect>) -> Option<Value> {
    if let Kind::Message(descriptor) = kind {
        if descriptor.full_name() == "google.protobuf.Struct" {
            let mut message = DynamicMessage::new(descriptor.clone());
            message.transcode_from(&structure(node, path, defects)?).ok()?;
            return Some(Value::Message(message));
        }
        return Some(Value::Message(build(descriptor, node, path, defects)));
    }
    match scalar(kind, node) {
        Ok(value) => Some(value),
        Err(message) => {
            defects.push(Defect::of(node, path, message));
            None
        }
    }
}

fn scalar(kind: &Kind, node: &Node) -> Result<Value, String> {
    let Content::Scalar { text, style } = &node.content else {
        return Err(format!("expected {}, found {}", expected(kind), node.describe()));
    };
    let plain = *style == Style::Plain;
    let wrong = || format!("expected {}, found {}", expected(kind), node.describe());
    match kind {
        Kind::String if node.is_null() => Err(wrong()),
        Kind::String if plain && (is_bool(text) || is_number(text)) => {
            Err(format!("{}: write \"{text}\" in quotes", wrong()))
        }
        Kind::String => Ok(Value::String(text.clone())),
        Kind::Bool if plain && is_bool(text) => Ok(Value::Bool(text.eq_ignore_ascii_case("true"))),
        Kind::Uint32 | Kind::Fixed32 if plain => integer(text, 0, u32::MAX.into(), wrong)
            .and_then(|number| u32::try_from(number).map(Value::U32).map_err(|_| wrong())),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 if plain => {
            integer(text, i32::MIN.into(), i32::MAX.into(), wrong)
                .and_then(|number| i32::try_from(number).map(Value::I32).map_err(|_| wrong()))
        }
        Kind::Uint64 | Kind::Fixed64 if plain => integer(text, 0, u64::MAX.into(), wrong)
            .and_then(|number| u64::try_from(number).map(Value::U64).map_err(|_| wrong())),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 if plain => {
            integer(text, i64::MIN.into(), i64::MAX.into(), wrong)
                .and_then(|number| i64::try_from(number).map(Value::I64).map_err(|_| wrong()))
        }
        Kind::Double if plain => text.parse().map(Value::F64).map_err(|_| wrong()),
        Kind::Float if plain => text.parse().map(Value::F32).map_err(|_| wrong()),
        // In lines, as `base64` writes it.
        Kind::Bytes => base64::engine::general_purpose::STANDARD
            .decode(text.replace(|c: char| c.is_ascii_whitespace(), ""))
            .map(|bytes| Value::Bytes(bytes.into()))
            .map_err(|_| "expected bytes in base64".to_owned()),
        Kind::Enum(descriptor) => enumeration(descriptor, text),
        _ => Err(wrong()),
    }
}

/// A whole number as YAML's core schema writes it, within bounds.
fn integer(text: &str, least: i128, most: i128, wrong: impl Fn() -> String) -> Result<i128, String> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let parsed = if let Some(hexadecimal) = digits.strip_prefix("0x") {
        i128::from_str_radix(hexadecimal, 16)
    } else if let Some(octal) = digits.strip_prefix("0o") {
        i128::from_str_radix(octal, 8)
    } else if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        digits.parse()
    } else {
        return Err(wrong());
    };
    let magnitude = parsed.map_err(|_| wrong())?;
    let number = if negative { -magnitude } else { magnitude };
    if (least..=most).contains(&number) {
        return Ok(number);
    }
    Err(format!("{text} is out of range: {least} to {most}"))
}

fn enumeration(descriptor: &EnumDescriptor, text: &str) -> Result<Value, String> {
    if let Some(value) = descriptor.get_value_by_name(text) {
        return Ok(Value::EnumNumber(value.number()));
    }
    let names: Vec<String> = descriptor.values().map(|value| value.name().to_owned()).collect();
    Err(format!("`{text}` is none of {}{}", list(&names), suggestion(text, names.iter().map(String::as_str))))
}

fn expected(kind: &Kind) -> &'static str {
    match kind {
        Kind::String | Kind::Enum(_) => "a text",
        Kind::Bool => "true or false",
        Kind::Double | Kind::Float => "a number",
        Kind::Bytes => "bytes in base64",
        Kind::Message(_) => "a mapping",
        _ => "a whole number",
    }
}
