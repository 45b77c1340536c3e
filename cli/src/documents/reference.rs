//! What each field of a resource is for, in the words of the API's own definition.

use std::fmt::Write as _;
use std::sync::LazyLock;

use hauberk_proto::mesh::v1::Kind;
use prost_reflect::{DescriptorPool, FieldDescriptor, FileDescriptor, MessageDescriptor};

use super::description::FILE_FIELDS;
use super::resource::spec_field;
use crate::kinds;
use crate::nearest::suggestion;

/// The definitions with their comments. Made by the same build as the messages; the tests below prove that it decodes.
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(hauberk_proto::DOCUMENTED_FILE_DESCRIPTOR_SET).unwrap_or_default()
});

/// One field as a file may write it.
struct Field {
    name: String,
    type_name: String,
    comment: String,
    /// What can stand in it.
    message: Option<MessageDescriptor>,
}

/// Describes a kind, or a field of it: `fields` are the names from the top of a document inwards.
///
/// # Errors
/// There is no such field; the nearest is named.
pub(crate) fn describe(kind: Kind, fields: &[&str]) -> Result<String, String> {
    let written = kinds::written(kind);
    let mut here = format!("{} itself", kinds::said(kind));
    let mut inside = of_document(kind);
    let mut comment =
        inside.iter().find(|field| field.name == "spec").map(|spec| spec.comment.clone()).unwrap_or_default();
    let mut text = format!("KIND:     {written}\n");
    for (depth, name) in fields.iter().enumerate() {
        // As errors write the fields of lists.
        let name = name.split('[').next().unwrap_or(name);
        let names: Vec<String> = inside.iter().map(|field| field.name.clone()).collect();
        let found = inside.into_iter().find(|field| field.name == name).ok_or_else(|| {
            let nearest = suggestion(name, names.iter().map(String::as_str));
            let choice = match (nearest.is_empty(), names.is_empty()) {
                (false, _) => nearest,
                (true, false) => format!(": it has {}", names.join(", ")),
                (true, true) => ": it has no fields".to_owned(),
            };
            format!("there is no field `{name}` in {here}{choice}")
        })?;
        here = found.name;
        inside = found.message.as_ref().map(of_message).unwrap_or_default();
        comment = found.comment;
        if depth + 1 == fields.len() {
            let _infallible = writeln!(text, "FIELD:    {here} <{}>", found.type_name);
        }
    }
    let _infallible = write!(text, "\nDESCRIPTION:\n{}", indented(&comment));
    if !inside.is_empty() {
        text.push_str("\nFIELDS:\n");
    }
    for Field { name, type_name, comment, .. } in inside {
        let _infallible = write!(text, "  {name} <{type_name}>\n{}", indented(&comment));
    }
    Ok(text)
}

/// What stands at the top of a document of this kind.
fn of_document(kind: Kind) -> Vec<Field> {
    let Some(resource) = POOL.get_message_by_name("hauberk.mesh.v1.Resource") else { return Vec::new() };
    let kind_field = Field {
        name: "kind".to_owned(),
        type_name: "string".to_owned(),
        comment: kinds::written(kind).to_owned(),
        message: None,
    };
    let spec = spec_field(kinds::written(kind)).and_then(|name| resource.get_field_by_name(name));
    let spec =
        spec.map(|field| Field { name: "spec".to_owned(), comment: of_type(&field), ..of_field(&field) });
    let envelope = resource.fields().filter(|field| field.containing_oneof().is_none());
    std::iter::once(kind_field).chain(envelope.map(|field| of_field(&field))).chain(spec).collect()
}

fn of_message(message: &MessageDescriptor) -> Vec<Field> {
    let of_api = message.fields().map(|field| of_field(&field));
    let is_description = message.full_name() == "hauberk.mesh.v1.ApiDescription";
    let of_files = FILE_FIELDS.iter().filter(|_| is_description).map(|field| Field {
        name: field.name.to_owned(),
        type_name: "string".to_owned(),
        comment: field.comment.to_owned(),
        message: None,
    });
    of_api.chain(of_files).collect()
}

fn of_field(field: &FieldDescriptor) -> Field {
    let own = comment_at(&field.parent_file(), field.path());
    Field {
        name: field.json_name().to_owned(),
        type_name: type_name(field),
        comment: if own.is_empty() { of_type(field) } else { own },
        message: message_in(field),
    }
}

/// What the type of a field is for.
fn of_type(field: &FieldDescriptor) -> String {
    message_in(field).map(|message| comment_at(&message.parent_file(), message.path())).unwrap_or_default()
}

/// What can stand in a field, unless it is one value to those who write files.
fn message_in(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    let message = field.kind().as_message()?.clone();
    let is_value = field.is_map() || message.package_name() == "google.protobuf";
    if is_value { None } else { Some(message) }
}

fn type_name(field: &FieldDescriptor) -> String {
    use prost_reflect::Kind as Type;
    let one = match field.kind() {
        _ if field.is_map() => "map[string]string".to_owned(),
        Type::Message(message) if message.package_name() == "google.protobuf" => {
            message.name().to_lowercase()
        }
        Type::Message(message) => message.name().to_owned(),
        Type::Enum(values) => values.name().to_owned(),
        Type::String => "string".to_owned(),
        Type::Bool => "boolean".to_owned(),
        Type::Bytes => "base64".to_owned(),
        Type::Double | Type::Float => "number".to_owned(),
        _ => "integer".to_owned(),
    };
    if field.is_list() { format!("[]{one}") } else { one }
}

/// The comment before a definition.
fn comment_at(file: &FileDescriptor, path: &[i32]) -> String {
    let places = file.file_descriptor_proto().source_code_info.as_ref();
    let place = places.and_then(|places| places.location.iter().find(|place| place.path == path));
    place.map(|place| place.leading_comments().to_owned()).unwrap_or_default()
}

fn indented(comment: &str) -> String {
    let lines = comment.trim_end().lines().map(|line| line.strip_prefix(' ').unwrap_or(line));
    lines.map(|line| format!("    {line}").trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_described_with_what_it_holds() {
        let path = ["spec", "serviceDiscovery", "dns"];
        insta::assert_snapshot!(describe(Kind::VirtualNode, &path).unwrap());
        let listeners = describe(Kind::VirtualNode, &["spec", "listeners[0]"]).unwrap();
        assert!(listeners.contains("FIELD:    listeners <[]Listener>"), "{listeners}");
        assert!(listeners.contains("  portMapping <PortMapping>\n    "), "{listeners}");
    }

    #[test]
    fn a_kind_is_described_as_documents_write_it() {
        insta::assert_snapshot!(describe(Kind::Policy, &[]).unwrap());
    }

    #[test]
    fn fields_of_files_alone_are_described_too() {
        let api = describe(Kind::VirtualNode, &["spec", "listeners", "api"]).unwrap();
        assert!(api.contains("  openapiFile <string>\n    Instead of openapi: a file"), "{api}");
        assert!(api.contains("  protobufFile <string>\n"), "{api}");
    }

    #[test]
    fn a_wrong_field_is_answered_with_the_nearest() {
        let refused = |fields: &[&str]| describe(Kind::VirtualNode, fields).unwrap_err();
        assert_eq!(
            refused(&["spec", "listener"]),
            "there is no field `listener` in spec; did you mean `listeners`?"
        );
        assert_eq!(refused(&["spec", "listeners", "tls", "x"]), "there is no field `x` in tls: it has mode");
        assert_eq!(refused(&["name", "x"]), "there is no field `x` in name: it has no fields");
        assert!(refused(&["spek"]).contains("in virtualnode itself; did you mean `spec`?"));
    }

    #[test]
    fn every_field_says_what_it_is_for() {
        fn check(field: &Field, path: &str) {
            let path = format!("{path}.{}", field.name);
            assert!(!field.comment.trim().is_empty(), "{path} has no comment");
            for inner in field.message.iter().flat_map(of_message) {
                check(&inner, &path);
            }
        }
        for kind in &kinds::RESOURCES {
            let fields = of_document(kind.kind);
            assert!(fields.len() >= 6, "{}", kind.written);
            fields.iter().for_each(|field| check(field, kind.written));
        }
    }
}
