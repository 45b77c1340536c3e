//! Descriptions of interfaces in files of their own, `openapiFile:` and `protobufFile:`. Public ones have many
//! megabytes, of which routes need little: the rest stays here.

mod elsewhere;
mod json;
mod openapi;
mod parameters;
mod protobuf;
mod yaml;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use base64::Engine as _;

use super::message::Defect;
use super::yaml::{Content, Entry, Node, Position, Style};

/// The largest description that is read, in bytes.
const LARGEST: u64 = 64 << 20;

/// A field that files may have and the API does not.
pub(super) struct FileField {
    pub(super) name: &'static str,
    pub(super) comment: &'static str,
    /// The field of the API that it is read into.
    stands_for: &'static str,
    /// Takes what the file holds, and the folder in which it lies.
    read: fn(&[u8], &Path) -> Result<String, Flaw>,
}

/// Those of an `ApiDescription`.
pub(super) const FILE_FIELDS: [FileField; 2] = [
    FileField {
        name: "openapiFile",
        comment: " Instead of openapi: a file with an OpenAPI document, beside the one that says this. Only what routes are made of is\n \
                  sent. What path items, operations and parameters refer to in files below its folder is taken in.",
        stands_for: "openapi",
        read: openapi::reduced,
    },
    FileField {
        name: "protobufFile",
        comment: " Instead of protobuf: a file with a FileDescriptorSet, not in base64, beside the one that says this. Only its\n services \
                  are sent.",
        stands_for: "protobuf",
        read: |bytes, _| {
            protobuf::reduced(bytes).map(|set| base64::engine::general_purpose::STANDARD.encode(set))
        },
    },
];

/// Why a description cannot be read.
#[derive(Debug, PartialEq, Eq)]
struct Flaw {
    at: Option<Position>,
    message: String,
}

impl Flaw {
    fn whole(message: impl Into<String>) -> Self {
        Self { at: None, message: message.into() }
    }

    fn at(line: usize, column: usize, message: impl Into<String>) -> Self {
        Self { at: Some(Position { line, column }), message: message.into() }
    }
}

/// Puts what files describe into the document that names them. `folder` is where the document's own file lies; standard
/// input lies nowhere.
pub(super) fn fill(document: &mut Node, folder: Option<&Path>, defects: &mut Vec<Defect>) {
    let listeners = field(document, "spec").and_then(|spec| field(spec, "listeners"));
    let Some(Content::List(listeners)) = listeners.map(|listeners| &mut listeners.content) else { return };
    for (index, listener) in listeners.iter_mut().enumerate() {
        let Some(Content::Map(entries)) = field(listener, "api").map(|api| &mut api.content) else {
            continue;
        };
        entries.retain_mut(|entry| {
            let Some(known) = FILE_FIELDS.iter().find(|known| known.name == entry.key) else { return true };
            match text(entry, folder, known) {
                Ok(text) => {
                    entry.key = known.stands_for.to_owned();
                    entry.value.content = Content::Scalar { text, style: Style::Quoted };
                    true
                }
                Err(message) => {
                    let path = format!("spec.listeners[{index}].api.{}", known.name);
                    defects.push(Defect::of(&entry.value, path, message));
                    false
                }
            }
        });
    }
}

fn field<'n>(node: &'n mut Node, key: &str) -> Option<&'n mut Node> {
    let Content::Map(entries) = &mut node.content else { return None };
    entries.iter_mut().find(|entry| entry.key == key).map(|entry| &mut entry.value)
}

/// What stands for the file that an entry names.
fn text(entry: &Entry, folder: Option<&Path>, known: &FileField) -> Result<String, String> {
    let name = match &entry.value.content {
        Content::Scalar { text, .. } if !text.is_empty() && !entry.value.is_null() => text,
        _ => return Err(format!("expected the name of a file, found {}", entry.value.describe())),
    };
    let folder = folder.ok_or_else(|| {
        format!(
            "a file is named from where this text lies, and standard input lies nowhere: write {}: here, or give the text as a file",
            known.stands_for
        )
    })?;
    let path = folder.join(name);
    let bytes = bytes(&path)?;
    (known.read)(&bytes, path.parent().unwrap_or(Path::new(""))).map_err(|Flaw { at, message }| match at {
        Some(Position { line, column }) => format!("{}:{line}:{column}: {message}", path.display()),
        None => format!("{}: {message}", path.display()),
    })
}

fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    let read =
        read_file(path, LARGEST).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    read.ok_or_else(|| format!("{} is larger than {} MiB", path.display(), LARGEST >> 20))
}

/// A file's bytes; nothing where there are more than `most`.
fn read_file(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}
