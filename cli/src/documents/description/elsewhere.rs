//! What an OpenAPI document refers to in other files, below its own folder, and in what is left out of itself: taken
//! in, so that it refers to what is sent alone. Whoever writes a document has no file read that lies anywhere else.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::fs;
use std::path::{Component, Path, PathBuf};

use hauberk_policy::unescaped;
use serde_json::map::Entry;
use serde_json::{Map, Value};

use super::openapi::{Part, token, tree};
use super::{Flaw, read_file};

/// The most files that a document refers to.
const MOST_FILES: usize = 1_000;
/// The most bytes of these in all.
const MOST_BYTES: u64 = 16 << 20;
/// The most references that lead to one parameter, as the control plane follows them within a document.
pub(super) const MOST_STEPS: usize = 8;

/// Takes in what path items, operations and parameters of `document`, which lies in `folder`, refer to in other files,
/// and in what is left out of it. `whole`: its text.
pub(super) fn take_in(document: &mut Value, whole: &[u8], folder: &Path) -> Result<(), Flaw> {
    let mut elsewhere = Elsewhere {
        whole,
        folder,
        files: BTreeMap::new(),
        left: MOST_BYTES,
        known: BTreeSet::new(),
        pending: Vec::new(),
    };
    // What refers to one of these finds what it stands for.
    if let Some(Value::Object(parameters)) = document.pointer_mut("/components/parameters") {
        for (name, parameter) in parameters.iter_mut() {
            elsewhere.parameter(parameter, None, &format!("components.parameters.{name}"))?;
        }
    }
    for (items, at) in [("/paths", "paths"), ("/components/pathItems", "components.pathItems")] {
        let Some(items) = document.pointer_mut(items).and_then(Value::as_object_mut) else { continue };
        for (name, item) in items.iter_mut().filter(|(name, _)| !name.starts_with("x-")) {
            elsewhere.refer(item, None, Part::PathItem, &format!("{at}.{name}"))?;
        }
    }
    let mut taken = Map::new();
    while let Some((Place { file, pointer }, part)) = elsewhere.pending.pop() {
        let at = format!("{}#{pointer}", file.display());
        let found = elsewhere.files.get(&file).and_then(|document| document.pointer(&pointer));
        let mut found =
            found.map(|found| kept(found, part)).ok_or_else(|| Flaw::whole(format!("there is no {at}")))?;
        elsewhere.refer(&mut found, Some(&file), part, &at)?;
        match taken.entry(at) {
            Entry::Vacant(place) => {
                place.insert(found);
            }
            // It is referred to as a path item and as an operation: whoever refers to it finds what either has.
            Entry::Occupied(mut known) => {
                if let (Value::Object(known), Value::Object(found)) = (known.get_mut(), found) {
                    known.extend(found);
                }
            }
        }
    }
    if let (false, Value::Object(document)) = (taken.is_empty(), document) {
        let components = document.entry("components").or_insert(Value::Null);
        // Nothing may stand behind the key.
        if !components.is_object() {
            *components = Value::Object(Map::new());
        }
        if let Value::Object(components) = components {
            components.insert(TAKEN.to_owned(), Value::Object(taken));
        }
    }
    Ok(())
}

/// The component that holds what was taken in, by its file and place.
pub(super) const TAKEN: &str = "x-files";

/// Something within a file, which is named from the document's folder; the document itself has no name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    file: PathBuf,
    /// As RFC 6901 has it.
    pointer: String,
}

struct Elsewhere<'f> {
    /// The document's own text.
    whole: &'f [u8],
    folder: &'f Path,
    files: BTreeMap<PathBuf, Value>,
    /// How many bytes may still be read.
    left: u64,
    /// What is, or will be, taken in: of one place perhaps more than one part.
    known: BTreeSet<(Place, Part)>,
    pending: Vec<(Place, Part)>,
}

impl Elsewhere<'_> {
    /// Has a path item or an operation of `file` refer to what is taken in; of none: of the document itself.
    fn refer(&mut self, of: &mut Value, file: Option<&Path>, part: Part, at: &str) -> Result<(), Flaw> {
        let Value::Object(fields) = of else { return Ok(()) };
        if let Some(Value::String(reference)) = fields.get_mut("$ref") {
            let place = self
                .elsewhere(reference, file, part)
                .map_err(|message| Flaw::whole(format!("{at}.$ref: {reference:?} {message}")))?;
            if let Some(place) = place {
                let name = format!("{}#{}", place.file.display(), place.pointer);
                *reference = format!("#/components/{TAKEN}/{}", token(&name).replace('%', "%25"));
                if self.known.insert((place.clone(), part)) {
                    self.pending.push((place, part));
                }
            }
        }
        if let Some(Value::Array(parameters)) = fields.get_mut("parameters") {
            for (index, parameter) in parameters.iter_mut().enumerate() {
                self.parameter(parameter, file, &format!("{at}.parameters[{index}]"))?;
            }
        }
        if part != Part::PathItem {
            return Ok(());
        }
        for (name, value) in fields.iter_mut() {
            let at = format!("{at}.{name}");
            match (part.under(name), value) {
                (Some(Part::Operation), operation) => self.refer(operation, file, Part::Operation, &at)?,
                (Some(Part::Operations), Value::Object(others)) => {
                    for (method, operation) in others.iter_mut() {
                        self.refer(operation, file, Part::Operation, &format!("{at}.{method}"))?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Puts a parameter of another file in the place of its reference: a route that lost its rest would not be what
    /// forbids are about.
    fn parameter(&mut self, parameter: &mut Value, file: Option<&Path>, at: &str) -> Result<(), Flaw> {
        let mut of = file.map(Path::to_owned);
        for _ in 0..=MOST_STEPS {
            let Some(reference) = parameter.get("$ref").and_then(Value::as_str) else { return Ok(()) };
            let place = self
                .elsewhere(reference, of.as_deref(), Part::Parameter)
                .map_err(|message| Flaw::whole(format!("{at}.$ref: {reference:?} {message}")))?;
            let Some(Place { file, pointer }) = place else { return Ok(()) };
            let found = self.files.get(&file).and_then(|document| document.pointer(&pointer));
            let found = found.map(|found| kept(found, Part::Parameter));
            let mut found = found
                .ok_or_else(|| Flaw::whole(format!("{at}.$ref: there is no {}#{pointer}", file.display())))?;
            // What stands beside a reference counts, as in references that the control plane follows.
            if let (Value::Object(own), Value::Object(found)) = (std::mem::take(parameter), &mut found) {
                found.extend(
                    own.into_iter()
                        .filter(|(name, _)| name != "$ref" && Part::Parameter.under(name).is_some()),
                );
            }
            *parameter = found;
            of = Some(file);
        }
        Err(Flaw::whole(format!("{at}.$ref: it leads through more than {MOST_STEPS} references")))
    }

    /// What a reference within `file` refers to, once that was read; nothing where the document itself has it as this
    /// part.
    fn elsewhere(
        &mut self,
        reference: &str,
        file: Option<&Path>,
        part: Part,
    ) -> Result<Option<Place>, String> {
        let Some(fragment) = reference.strip_prefix('#').filter(|_| file.is_none()) else {
            return self.place(reference, file).map(Some);
        };
        // Of what is no place, or leads nowhere, the control plane tells.
        let Some(pointer) = unescaped(fragment).filter(|pointer| pointer.starts_with('/')) else {
            return Ok(None);
        };
        if Part::at(&pointer) == Some(part) {
            return Ok(None);
        }
        let is_there = self.itself()?.pointer(&pointer).is_some();
        Ok(is_there.then(|| Place { file: PathBuf::new(), pointer }))
    }

    /// The document with all that is left out of it.
    fn itself(&mut self) -> Result<&Value, String> {
        match self.files.entry(PathBuf::new()) {
            btree_map::Entry::Occupied(known) => Ok(known.into_mut()),
            btree_map::Entry::Vacant(place) => {
                let length = self.whole.len() as u64;
                self.left = self.left.checked_sub(length).ok_or_else(|| {
                    format!("leads to what is read only of documents of at most {} MiB", MOST_BYTES >> 20)
                })?;
                let read = tree(self.whole, Part::Whole).map_err(|Flaw { at, message }| {
                    let at = at.map(|at| format!("{}:{}: ", at.line, at.column)).unwrap_or_default();
                    format!("leads to what is left out of the document otherwise, and cannot be read: {at}{message}")
                })?;
                Ok(place.insert(read))
            }
        }
    }

    /// What a reference within `file` refers to, once its file was read.
    fn place(&mut self, reference: &str, file: Option<&Path>) -> Result<Place, String> {
        let (name, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let decoded = |text: &str| {
            unescaped(text).ok_or_else(|| "has an escape with % that stands for nothing".to_owned())
        };
        let (name, pointer) = (decoded(name)?, decoded(fragment)?);
        if !pointer.is_empty() && !pointer.starts_with('/') {
            return Err("is not understood: write a place such as users.yaml#/list".to_owned());
        }
        let file = match file {
            Some(file) if name.is_empty() => file.to_owned(),
            file => below(file.and_then(Path::parent).unwrap_or(Path::new("")), &name)?,
        };
        self.read(&file)?;
        Ok(Place { file, pointer })
    }

    fn read(&mut self, file: &Path) -> Result<(), String> {
        if self.files.contains_key(file) {
            return Ok(());
        }
        if self.files.len() >= MOST_FILES {
            return Err(format!(
                "would be one file more than {MOST_FILES}, which are the most: bundle them into one"
            ));
        }
        let path = self.folder.join(file);
        let cannot = |error| format!("cannot be read: {}: {error}", path.display());
        // A link may lead anywhere.
        let folder = if self.folder.as_os_str().is_empty() { Path::new(".") } else { self.folder };
        let (real, folder) =
            (fs::canonicalize(&path).map_err(cannot)?, fs::canonicalize(folder).map_err(cannot)?);
        if !real.starts_with(folder) {
            return Err(
                "leads out of the document's folder by a link, and only what lies below is read".to_owned()
            );
        }
        if !fs::metadata(&real).map_err(cannot)?.is_file() {
            return Err("is no file".to_owned());
        }
        let bytes = read_file(&real, self.left).map_err(cannot)?.ok_or_else(|| {
            format!("and those before it are more than {} MiB, which are the most", MOST_BYTES >> 20)
        })?;
        self.left = self.left.saturating_sub(bytes.len() as u64);
        let document = tree(&bytes, Part::Whole).map_err(|Flaw { at, message }| match at {
            Some(at) => format!("cannot be read: {}:{}:{}: {message}", path.display(), at.line, at.column),
            None => format!("cannot be read: {}: {message}", path.display()),
        })?;
        self.files.insert(file.to_owned(), document);
        Ok(())
    }
}

/// A file by the name that another one in `folder` gives it; both are below the document's.
fn below(folder: &Path, name: &str) -> Result<PathBuf, String> {
    if name.contains(':') {
        return Err("is a URL, and nothing is fetched: write the file beside the document".to_owned());
    }
    let mut file = folder.to_owned();
    for component in Path::new(name).components() {
        let is_below = match component {
            Component::Normal(name) => {
                file.push(name);
                true
            }
            Component::CurDir => true,
            Component::ParentDir => file.pop(),
            Component::RootDir | Component::Prefix(_) => false,
        };
        if !is_below {
            return Err("leads out of the document's folder, and only what lies below is read".to_owned());
        }
    }
    Ok(file)
}

/// What of a part is sent.
fn kept(value: &Value, part: Part) -> Value {
    match value {
        Value::Object(fields) => {
            let field =
                |(name, value): (&String, &Value)| Some((name.clone(), kept(value, part.under(name)?)));
            fields.iter().filter_map(field).collect()
        }
        Value::Array(items) => match part.items() {
            Some(part) => items.iter().map(|item| kept(item, part)).collect(),
            None => Value::Array(Vec::new()),
        },
        scalar => scalar.clone(),
    }
}
