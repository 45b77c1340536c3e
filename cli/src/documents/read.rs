//! Reads the files, folders and standard input that `-f` names.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use hauberk_proto::mesh::v1::{Resource, resource::Spec};
use hauberk_proto::refusal::first_of_twice;
use thiserror::Error;

use super::description;
use super::locate::{locate, locate_within};
use super::message::Defect;
use super::problem::{Problem, Problems, Source};
use super::resource;
use super::yaml::{self, Content, Entry, Node, Position};

/// The largest file that is read.
const MAX_BYTES: u64 = 32 << 20;

/// Everything that was read, each resource with where it came from.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    sources: Vec<Source>,
    documents: Vec<Document>,
}

#[derive(Debug)]
struct Document {
    source: usize,
    node: Node,
    resource: Resource,
}

/// Why files could not be read. The fault is the user's, or the file system's.
#[derive(Debug, Error)]
pub(crate) enum ReadError {
    /// A path cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable { path: String, source: std::io::Error },
    /// A file is too large.
    #[error("{path} is larger than {} MiB", MAX_BYTES >> 20)]
    TooLarge { path: String },
    /// A file is not text.
    #[error("{path} is not UTF-8 text")]
    NotText { path: String },
    /// A folder has no resources.
    #[error("{path} holds no *.yaml, *.yml or *.json file")]
    EmptyFolder { path: String },
    /// There is nothing in the files.
    #[error("no resource was found in {0}")]
    Nothing(String),
    /// What is in them is wrong.
    #[error(transparent)]
    Wrong(Problems),
}

/// Reads every resource of `paths`: files, folders (their `*.yaml`, `*.yml` and `*.json` in the order of names), or
/// `-` for standard input.
///
/// # Errors
/// Everything that is wrong in all of them, at once.
pub(crate) fn read(paths: &[PathBuf], default_mesh: Option<&str>) -> Result<Documents, ReadError> {
    let mut sources = Vec::new();
    for path in paths {
        collect(path, &mut sources)?;
    }
    parse(sources, default_mesh)
}

/// Reads every resource of texts that are already here.
///
/// # Errors
/// Everything that is wrong in all of them, at once.
pub(crate) fn parse(sources: Vec<Source>, default_mesh: Option<&str>) -> Result<Documents, ReadError> {
    let mut documents = Vec::new();
    let mut problems = Vec::new();
    for (source, Source { text, folder, .. }) in sources.iter().enumerate() {
        let (nodes, faults) = yaml::parse(text);
        problems.extend(faults.into_iter().map(|fault| Problem {
            source,
            at: fault.at,
            length: fault.length,
            path: String::new(),
            message: fault.message,
        }));
        // `---` at the end, or a comment alone, is no document.
        for mut node in nodes.into_iter().flat_map(items).filter(|node| !node.is_null()) {
            let mut defects = Vec::new();
            description::fill(&mut node, folder.as_deref(), &mut defects);
            let resource = resource::read(&node, default_mesh, &mut defects);
            problems.extend(defects.into_iter().map(|defect| Problem::from_defect(source, defect)));
            documents.extend(resource.map(|resource| Document { source, node, resource }));
        }
    }
    if !problems.is_empty() {
        return Err(ReadError::Wrong(Problems { sources, problems }));
    }
    if documents.is_empty() {
        let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
        return Err(ReadError::Nothing(names.join(", ")));
    }
    Ok(Documents { sources, documents })
}

/// The documents of a document that is a list of them, `items:`, as `get -o json` prints several.
fn items(document: Node) -> Vec<Node> {
    match document.content {
        Content::Map(mut entries) if entries.len() == 1 => match entries.pop() {
            Some(Entry { key, value: Node { content: Content::List(items), .. }, .. }) if key == "items" => {
                items
            }
            other => vec![Node { content: Content::Map(other.into_iter().collect()), ..document }],
        },
        content => vec![Node { content, ..document }],
    }
}

impl Documents {
    /// The resources, in the order of the files.
    pub(crate) fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.documents.iter().map(|document| &document.resource)
    }

    /// The meshes that they are of, in order.
    pub(crate) fn meshes(&self) -> Vec<String> {
        let of = |resource: &Resource| match resource.spec {
            Some(Spec::MeshSpec(_)) => resource.name.clone(),
            _ => resource.mesh.clone(),
        };
        let meshes: BTreeSet<String> = self.resources().map(of).collect();
        meshes.into_iter().collect()
    }

    /// Turns what the server found wrong, `resources[3].spec.…`, into problems of the files. `violations` are pairs
    /// of field and message; what names no document is returned as it is.
    pub(crate) fn locate(&self, violations: Vec<(String, String)>) -> (Option<Problems>, Vec<String>) {
        let mut problems = Vec::new();
        let mut elsewhere = Vec::new();
        for (field, message) in violations {
            match self.place(&field, &message) {
                Some(problem) => problems.push(problem),
                None if field.is_empty() => elsewhere.push(message),
                None => elsewhere.push(format!("{field}: {message}")),
            }
        }
        let found = (!problems.is_empty()).then(|| Problems { sources: self.sources.clone(), problems });
        (found, elsewhere)
    }

    fn place(&self, field: &str, message: &str) -> Option<Problem> {
        let (index, path) = field.strip_prefix("resources[")?.split_once(']')?;
        let path = path.strip_prefix('.').unwrap_or(path);
        let document = self.documents.get(index.parse::<usize>().ok()?)?;
        let source = document.source;
        if path == "spec.cedar"
            && let Some((inner, length, message)) = inner_position(message)
            && let Some(text) = self.sources.get(source)
        {
            let at = locate_within(&document.node, path, &text.text, inner);
            return Some(Problem { source, at, length, path: path.to_owned(), message });
        }
        let (at, length) = locate(&document.node, path);
        Some(Problem { source, at, length, path: path.to_owned(), message: self.in_files(message) })
    }

    /// A message about a resource that stands in the request twice, with the other's place in the files.
    fn in_files(&self, message: &str) -> String {
        let found = first_of_twice(message).and_then(|(what, first)| {
            let document = self.documents.get(first)?;
            let source = self.sources.get(document.source)?;
            let (at, _) = locate(&document.node, "name");
            Some(format!("{what} is already in {}, line {}", source.name, at.line))
        });
        found.unwrap_or_else(|| message.to_owned())
    }
}

impl Problem {
    pub(super) fn from_defect(source: usize, Defect { at, length, path, message }: Defect) -> Self {
        Self { source, at, length, path, message }
    }
}

/// `3:14: message` or `3:14+5: message`, as policy problems begin, where `+5` is their length.
fn inner_position(message: &str) -> Option<(Position, usize, String)> {
    let (place, text) = message.split_once(": ")?;
    let (line, rest) = place.split_once(':')?;
    let (column, length) = rest.split_once('+').unwrap_or((rest, "1"));
    let position = Position { line: line.parse().ok()?, column: column.parse().ok()? };
    (position.line > 0 && position.column > 0).then_some((position, length.parse().ok()?, text.to_owned()))
}

pub(super) fn collect(path: &Path, sources: &mut Vec<Source>) -> Result<(), ReadError> {
    let name = path.display().to_string();
    let unreadable = |source| ReadError::Unreadable { path: name.clone(), source };
    if path == Path::new("-") {
        sources.push(Source {
            text: bounded(std::io::stdin().lock(), "standard input")?,
            name: "<stdin>".to_owned(),
            folder: None,
        });
        return Ok(());
    }
    if std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        let entries =
            std::fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(unreadable)?;
        let mut files: Vec<PathBuf> = entries
            .into_iter()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json"))
            .collect();
        if files.is_empty() {
            return Err(ReadError::EmptyFolder { path: name });
        }
        files.sort();
        return files.iter().try_for_each(|file| collect(file, sources));
    }
    let text = bounded(std::fs::File::open(path).map_err(unreadable)?, &name)?;
    sources.push(Source { name, text, folder: path.parent().map(Path::to_owned) });
    Ok(())
}

fn bounded(reader: impl std::io::Read, name: &str) -> Result<String, ReadError> {
    let path = name.to_owned();
    let mut bytes = Vec::new();
    if let Err(source) = reader.take(MAX_BYTES + 1).read_to_end(&mut bytes) {
        return Err(ReadError::Unreadable { path, source });
    }
    if bytes.len() as u64 > MAX_BYTES {
        return Err(ReadError::TooLarge { path });
    }
    let text = String::from_utf8(bytes).map_err(|_| ReadError::NotText { path })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}
