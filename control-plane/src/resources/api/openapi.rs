//! An OpenAPI 3 document (<https://spec.openapis.org/oas/>): its path templates with their methods.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use hauberk_identity::Name;
use hauberk_policy::{DeclaredRoute, RouteTemplate};
use serde_json::Value;

use super::{Described, Flaw, MOST_FLAWS, MOST_FOUND, json, yaml};
use crate::resources::virtual_node::MOST_CLASSES;

mod joined;
mod references;
mod servers;

use joined::{Said, joined};
use references::References;

/// Fields of a path item that are methods; the last one is of OpenAPI 3.2.
const METHODS: [&str; 9] = ["get", "put", "post", "delete", "options", "head", "patch", "trace", "query"];
/// Operations by methods that have no field of their own, of OpenAPI 3.2.
const OTHER_METHODS: &str = "additionalOperations";
/// As API gateways write an operation for every method that is not said otherwise.
const ANY_METHOD: &str = "x-amazon-apigateway-any-method";
/// The path of API gateways' operation for whatever no other path is of, and what says that it is meant.
const DEFAULT_PATH: &str = "/$default";
const IS_DEFAULT: &str = "isDefaultRoute";
/// What says of a parameter of a path that it stands for several segments, as descriptions of large interfaces write it.
const SEVERAL_SEGMENTS: &str = "x-multi-segment";
/// Fields of a path item that are read with its operations, or change nothing here.
const OTHERS: [&str; 3] = ["summary", "description", "parameters"];
/// What a path or an operation says of the data that it hands out or takes in.
const CLASSES: &str = "x-hauberk-data-classes";

type Fields<'d> = BTreeMap<&'d str, &'d Value>;

/// The routes of a document, in its order: one for all methods of a path that are of the same servers' path and of the same data
/// classes. Of paths that no request tells apart it is one as well. What `is_stored` is read as it was admitted, perhaps
/// by an earlier release.
pub(super) fn routes(text: &str, is_stored: bool) -> Result<Described, Vec<Flaw>> {
    let document = read(text).map_err(|flaw| vec![flaw])?;
    let references = References::within(&document);
    let mut reader =
        Reader { references, is_stored, routes: Vec::new(), taken: HashMap::new(), flaws: Vec::new() };
    reader.read(&document);
    if reader.flaws.is_empty() { joined(reader.routes) } else { Err(reader.flaws) }
}

fn read(text: &str) -> Result<Value, Flaw> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let as_json = if text.trim_start().starts_with('{') { json::parse(text) } else { None };
    as_json.unwrap_or_else(|| yaml::parse(text))
}

struct Reader<'d> {
    references: References<'d>,
    is_stored: bool,
    routes: Vec<Said>,
    /// Each method with its path, and where that was said.
    taken: HashMap<String, String>,
    flaws: Vec<Flaw>,
}

/// What operations of one path have in common that become one route.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Alike {
    prefix: String,
    classes: BTreeSet<Name>,
    /// Of every method that no other route has.
    is_of_any_method: bool,
    /// Its last parameter is the rest of the path.
    is_of_the_rest: bool,
}

impl<'d> Reader<'d> {
    fn read(&mut self, document: &'d Value) {
        check_version(document, &mut self.flaws);
        let servers = servers::prefixes(document.get("servers"), "servers", &mut self.flaws)
            .unwrap_or_else(|| BTreeSet::from([String::new()]));
        match document.get("paths") {
            Some(Value::Object(paths)) => {
                for (path, item) in paths.iter().filter(|(path, _)| !path.starts_with("x-")) {
                    self.read_path(&servers, path, item);
                    // More than is told is not looked for: a few lines can refer to much.
                    if self.routes.len() > MOST_FOUND || self.flaws.len() > MOST_FLAWS {
                        return;
                    }
                }
            }
            Some(_) => self.flaw("paths", "it is not a mapping"),
            None => self.flaw("", "it has no paths, which are what a service is asked for"),
        }
    }

    fn flaw(&mut self, at: impl Into<String>, message: impl Into<String>) {
        self.flaws.push(Flaw::at(at, message));
    }

    fn read_path(&mut self, servers: &BTreeSet<String>, path: &str, item: &'d Value) {
        let at = format!("paths.{path}");
        if path == "$ref" {
            return self.flaw(at, "paths stand in the document itself: bundle the documents into one");
        }
        let (path, cut) = without_query(path);
        if path.split('/').any(|segment| segment == "*") {
            return self.flaw(at, "a `*` would stand for all paths below, which it does not in OpenAPI");
        }
        let item = match self.references.fields(item, &at) {
            Ok(item) => item,
            Err(flaw) => return self.flaws.push(flaw),
        };
        let own_servers = self.servers(&item, &at);
        let (servers, of_path) = (own_servers.as_ref().unwrap_or(servers), self.classes(&item, &at));
        let (spelling, last) = match spelt(path) {
            Ok(spelling) => spelling,
            Err(message) => return self.flaw(at, message),
        };
        let (mut is_default, at_item) = (false, &at);
        let mut alike: BTreeMap<Alike, BTreeSet<String>> = BTreeMap::new();
        for (at, method, operation) in self.operations(&item, &at) {
            if self.flaws.len() > MOST_FLAWS {
                return;
            }
            let operation = match self.references.fields(operation, &at) {
                Ok(operation) => operation,
                Err(flaw) => {
                    self.flaws.push(flaw);
                    continue;
                }
            };
            let classes: BTreeSet<Name> =
                of_path.iter().cloned().chain(self.classes(&operation, &at)).collect();
            let own_servers = self.servers(&operation, &at);
            let is_of_any_method = method.is_none();
            if is_of_any_method && path == DEFAULT_PATH {
                let said = operation.get(IS_DEFAULT).copied();
                is_default |= self.is_true(said, || format!("{at}.{IS_DEFAULT}"));
            }
            let is_of_the_rest = match last
                .map(|last| self.is_several(last, [(&operation, &at), (&item, at_item)]))
                .transpose()
            {
                Ok(several) => several.unwrap_or_default(),
                Err(flaw) => return self.flaws.push(flaw),
            };
            for prefix in own_servers.as_ref().unwrap_or(servers) {
                let (prefix, classes) = (prefix.clone(), classes.clone());
                let alike_ones = alike.entry(Alike { prefix, classes, is_of_any_method, is_of_the_rest });
                alike_ones.or_default().extend(method.clone());
            }
        }
        for (Alike { prefix, classes, is_of_the_rest, .. }, methods) in alike {
            let path = match spelling.strip_suffix('}').filter(|_| is_of_the_rest) {
                _ if is_default => format!("{prefix}/{{default...}}"),
                Some(open) => format!("{prefix}{open}...}}"),
                None => format!("{prefix}{spelling}"),
            };
            self.add(&at, (&path, cut), &methods, classes);
        }
    }

    /// Whether a path's parameter stands for several segments, by its operation or else by its item.
    fn is_several(&mut self, parameter: &str, places: [(&Fields<'d>, &String); 2]) -> Result<bool, Flaw> {
        for (of, at) in places {
            let Some(Value::Array(parameters)) = of.get("parameters") else { continue };
            self.references.look_at(parameters.len(), at)?;
            for (index, said) in parameters.iter().enumerate() {
                // Of what cannot be followed nothing else is asked either.
                let Some(said) = self.references.within_reach(said, at)? else { continue };
                let text = |field| said.get(field).and_then(|value| value.as_str());
                if text("in") == Some("path") && text("name") == Some(parameter) {
                    let said = said.get(SEVERAL_SEGMENTS).copied();
                    return Ok(self.is_true(said, || format!("{at}.parameters[{index}].{SEVERAL_SEGMENTS}")));
                }
            }
        }
        Ok(false)
    }

    /// Whether it is said that something is so; of what is stored `true` alone says it. A new value that is neither true
    /// nor false may have been meant for either, and is refused: a route that is narrower than was meant leaves requests
    /// to what is said of others. So is `True`, which would be false once it is stored.
    fn is_true(&mut self, said: Option<&Value>, at: impl Fn() -> String) -> bool {
        match said {
            None => false,
            Some(Value::Bool(is_true)) => *is_true,
            // Values of YAML are read as the texts that they are written as.
            Some(Value::String(text)) if text == "true" => true,
            Some(_) if self.is_stored => false,
            Some(Value::String(text)) if matches!(text.as_str(), "false" | "False" | "FALSE") => false,
            Some(_) => {
                self.flaw(at(), "it is neither true nor false: write one of these");
                false
            }
        }
    }

    /// The operations of a path, each with its place and its method; none stands for every method that is not said otherwise.
    fn operations(&mut self, item: &Fields<'d>, at: &str) -> Vec<(String, Option<String>, &'d Value)> {
        let mut operations = Vec::new();
        for (field, value) in item {
            let at = format!("{at}.{field}");
            match *field {
                ANY_METHOD => operations.push((at, None, *value)),
                method if METHODS.contains(&method) => {
                    operations.push((at, Some(method.to_ascii_uppercase()), *value));
                }
                OTHER_METHODS => match value {
                    Value::Object(others) => {
                        let other = |(method, operation): (&String, &'d Value)| {
                            (format!("{at}.{method}"), Some(method.clone()), operation)
                        };
                        operations.extend(others.iter().map(other));
                    }
                    _ => self.flaw(at, "it is not a mapping"),
                },
                "servers" => {}
                field if OTHERS.contains(&field) || field.starts_with("x-") => {}
                _ => self.flaw(at, "this is not understood here"),
            }
        }
        operations
    }

    /// Adds the route of a path, of which a query or fragment was cut.
    fn add(
        &mut self,
        at: &str,
        (path, cut): (&str, &str),
        methods: &BTreeSet<String>,
        classes: BTreeSet<Name>,
    ) {
        let listed = methods.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        let text = if methods.is_empty() { path.to_owned() } else { format!("{listed} {path}") };
        let template = match RouteTemplate::parse(&text) {
            Ok(template) if !template.is_rpc() => template,
            Ok(_) => return self.flaw(at, "a path begins with a slash"),
            Err(error) => return self.flaw(at, error.to_string()),
        };
        let any = methods.is_empty().then_some("any method of");
        for method in methods.iter().map(String::as_str).chain(any) {
            if let Some(other) = self.taken.insert(format!("{method} {path}{cut}"), at.to_owned()) {
                self.flaw(at, format!("{method} {path} is what {other} says already"));
            }
        }
        let classes = classes.into_iter().collect();
        let route = DeclaredRoute { classes, ..DeclaredRoute::from(template) };
        self.routes.push(Said { at: at.to_owned(), route });
    }

    /// The paths of an object's own servers, which replace those around it.
    fn servers(&mut self, of: &Fields<'_>, at: &str) -> Option<BTreeSet<String>> {
        let (at, servers) = (format!("{at}.servers"), of.get("servers").copied());
        if servers.and_then(Value::as_array).is_some_and(Vec::is_empty) {
            self.flaw(at, "it says none, and not whose are meant instead: leave it out");
            return None;
        }
        let listed = servers.and_then(Value::as_array).map_or(0, Vec::len);
        if let Err(flaw) = self.references.look_at(listed, &at) {
            self.flaws.push(flaw);
            return None;
        }
        servers::prefixes(servers, &at, &mut self.flaws)
    }

    fn classes(&mut self, of: &Fields<'_>, at: &str) -> BTreeSet<Name> {
        for field in of.keys().filter(|field| field.starts_with("x-hauberk-") && **field != CLASSES) {
            self.flaws.push(Flaw::at(format!("{at}.{field}"), format!("did you mean {CLASSES}?")));
        }
        let at = format!("{at}.{CLASSES}");
        let names = match of.get(CLASSES) {
            None => return BTreeSet::new(),
            Some(Value::Array(names)) if names.len() <= MOST_CLASSES => names,
            Some(Value::Array(_)) => {
                self.flaw(at, format!("it has more than {MOST_CLASSES} names"));
                return BTreeSet::new();
            }
            Some(_) => {
                self.flaw(at, "it is not a list of names");
                return BTreeSet::new();
            }
        };
        let mut classes = BTreeSet::new();
        for (index, name) in names.iter().enumerate() {
            match name.as_str().map(Name::parse) {
                Some(Ok(name)) => {
                    classes.insert(name);
                }
                Some(Err(error)) => self.flaw(format!("{at}[{index}]"), error.to_string()),
                None => self.flaw(format!("{at}[{index}]"), "it is not a name"),
            }
        }
        classes
    }
}

fn check_version(document: &Value, flaws: &mut Vec<Flaw>) {
    let version = document.get("openapi").and_then(Value::as_str);
    if version.is_some_and(|version| version.starts_with("3.")) {
        return;
    }
    let message = match (version, document.get("swagger").and_then(Value::as_str)) {
        (Some(version), _) => format!("version {version:?} is not known: 3.x is"),
        (None, Some(_)) => "this is Swagger; convert it to OpenAPI 3".to_owned(),
        (None, None) => "this is no OpenAPI document: its version is missing".to_owned(),
    };
    flaws.push(Flaw::at("openapi", message));
}

/// A path, and the query or fragment behind it: descriptions tell operations apart by these, and routes do not.
fn without_query(path: &str) -> (&str, &str) {
    let mut is_within_braces = false;
    let begin = path.find(|char| {
        is_within_braces = (is_within_braces || char == '{') && char != '}';
        !is_within_braces && matches!(char, '?' | '#')
    });
    begin.and_then(|begin| path.split_at_checked(begin)).unwrap_or((path, ""))
}

/// A path with the names of its parameters as routes spell them, and of API gateways' `{proxy+}` as the rest, which it is there. With
/// it the name, as it was written, of the parameter that is its whole last segment.
fn spelt(path: &str) -> Result<(String, Option<&str>), String> {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || char == '_' || char == '-';
    let mut spelt = String::new();
    let mut left = path;
    while let Some((before, (name, after))) =
        left.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
    {
        if name.contains('/') {
            return Err(format!(
                "{{{name}}} would be several segments, which no parameter of OpenAPI is: write a parameter for each"
            ));
        }
        let greedy =
            name.strip_suffix('+').filter(|name| name.chars().all(|char| is_plain(char) || char == '.'));
        let name = greedy.unwrap_or(name).replace(|char| !is_plain(char), "_");
        let rest = if greedy.is_some() { "..." } else { "" };
        spelt.extend([before, "{", &name, rest, "}"]);
        left = after;
    }
    let last = path.rsplit('/').next().and_then(|last| last.strip_prefix('{')?.strip_suffix('}'));
    Ok((spelt + left, last.filter(|name| !name.contains(['{', '}']) && !name.ends_with('+'))))
}
