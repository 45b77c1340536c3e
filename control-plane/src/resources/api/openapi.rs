//! An OpenAPI 3 document (<https://spec.openapis.org/oas/>): its path templates with their methods.

use std::collections::{BTreeMap, BTreeSet};

use hauberk_identity::Name;
use hauberk_policy::{DeclaredRoute, RouteTemplate};
use serde_json::{Map, Value};

use super::{Flaw, yaml};

/// Fields of a path item that are methods; the last one is of OpenAPI 3.2.
const METHODS: [&str; 9] = ["get", "put", "post", "delete", "options", "head", "patch", "trace", "query"];
/// Fields of a path item that change nothing here.
const OTHERS: [&str; 3] = ["summary", "description", "parameters"];
/// What a path or an operation says of the data that it hands out or takes in.
const CLASSES: &str = "x-hauberk-data-classes";

/// The routes of a document, in its order: one for all methods of a path that are of the same data classes.
pub(super) fn routes(text: &str) -> Result<Vec<DeclaredRoute>, Vec<Flaw>> {
    let document = yaml::parse(text).map_err(|flaw| vec![flaw])?;
    let mut flaws = Vec::new();
    check_version(&document, &mut flaws);
    let prefix = prefix(&document, &mut flaws);
    let mut routes = Vec::new();
    match document.get("paths") {
        Some(Value::Object(paths)) => {
            for (path, item) in paths.iter().filter(|(path, _)| !path.starts_with("x-")) {
                read_path(&prefix, path, item, &mut routes, &mut flaws);
            }
        }
        Some(_) => flaws.push(Flaw::at("paths", "it is not a mapping")),
        None => flaws.push(Flaw::at("", "it has no paths")),
    }
    if flaws.is_empty() { Ok(routes) } else { Err(flaws) }
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

/// The path of the servers' URLs, before all others.
fn prefix(document: &Value, flaws: &mut Vec<Flaw>) -> String {
    let servers = match document.get("servers") {
        None | Some(Value::Null) => return String::new(),
        Some(Value::Array(servers)) => servers,
        Some(_) => {
            flaws.push(Flaw::at("servers", "it is not a list"));
            return String::new();
        }
    };
    let mut prefixes = BTreeSet::new();
    for (index, server) in servers.iter().enumerate() {
        match server.get("url").and_then(Value::as_str) {
            Some(url) => match with_variables(url, server.get("variables")) {
                Ok(url) => {
                    prefixes.insert(path_of(&url).trim_end_matches('/').to_owned());
                }
                Err((field, message)) => flaws.push(Flaw::at(format!("servers[{index}].{field}"), message)),
            },
            None => flaws.push(Flaw::at(format!("servers[{index}].url"), "it is missing")),
        }
    }
    if prefixes.len() > 1 {
        let all = prefixes.iter().map(|prefix| format!("{prefix:?}")).collect::<Vec<_>>().join(", ");
        flaws.push(Flaw::at("servers", format!("their URLs have several paths, {all}: leave one")));
    }
    prefixes.pop_first().unwrap_or_default()
}

/// A server's URL with the defaults of its variables, or the field that is wrong, and why: an unknown path in front of all routes
/// would make them match what nobody meant.
fn with_variables(url: &str, variables: Option<&Value>) -> Result<String, (String, String)> {
    let mut filled = url.to_owned();
    for piece in url.split('{').skip(1) {
        let Some((name, _)) = piece.split_once('}') else {
            return Err(("url".to_owned(), "a brace is not closed".to_owned()));
        };
        let Some(variable) = variables.and_then(|variables| variables.get(name)) else {
            let message =
                format!("{{{name}}} is none of the server's variables: say there what it stands for");
            return Err(("url".to_owned(), message));
        };
        let Some(default) = variable.get("default").and_then(Value::as_str) else {
            return Err((format!("variables.{name}.default"), "it is missing".to_owned()));
        };
        filled = filled.replace(&format!("{{{name}}}"), default);
    }
    Ok(filled)
}

fn path_of(url: &str) -> &str {
    let url = url.split(['?', '#']).next().unwrap_or(url);
    match url.split_once("://") {
        Some((_, rest)) => rest.find('/').and_then(|slash| rest.get(slash..)).unwrap_or_default(),
        None => url,
    }
}

fn read_path(prefix: &str, path: &str, item: &Value, routes: &mut Vec<DeclaredRoute>, flaws: &mut Vec<Flaw>) {
    let at = format!("paths.{path}");
    let Value::Object(item) = item else {
        flaws.push(Flaw::at(at, "it is not a mapping"));
        return;
    };
    if path.split('/').any(|segment| segment == "*") {
        flaws.push(Flaw::at(at, "a `*` would stand for all paths below, which it does not in OpenAPI"));
        return;
    }
    let of_path = classes(item, &at, flaws);
    let mut by_classes: BTreeMap<BTreeSet<Name>, Vec<String>> = BTreeMap::new();
    for (field, value) in item {
        let at = format!("{at}.{field}");
        if METHODS.contains(&field.as_str()) {
            let Value::Object(operation) = value else {
                flaws.push(Flaw::at(at, "it is not a mapping"));
                continue;
            };
            if operation.contains_key("servers") {
                flaws.push(Flaw::at(format!("{at}.servers"), "servers are understood at the top only"));
            }
            let all = of_path.iter().cloned().chain(classes(operation, &at, flaws)).collect();
            by_classes.entry(all).or_default().push(field.to_ascii_uppercase());
        } else if !OTHERS.contains(&field.as_str()) && !field.starts_with("x-") {
            flaws.push(Flaw::at(at, "this is not understood here"));
        }
    }
    for (classes, mut methods) in by_classes {
        methods.sort_unstable();
        let text = format!("{} {prefix}{}", methods.join(","), spelt(path));
        match RouteTemplate::parse(&text) {
            Ok(template) if !template.is_rpc() => {
                routes.push(DeclaredRoute {
                    classes: classes.into_iter().collect(),
                    ..DeclaredRoute::from(template)
                });
            }
            Ok(_) => flaws.push(Flaw::at(&at, "a path begins with a slash")),
            Err(error) => flaws.push(Flaw::at(&at, error.to_string())),
        }
    }
}

/// A path with the names of its parameters as routes spell them.
fn spelt(path: &str) -> String {
    let segment = |segment: &str| match segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        Some(name) => {
            let name = name.replace(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'), "_");
            format!("{{{name}}}")
        }
        None => segment.to_owned(),
    };
    path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

fn classes(of: &Map<String, Value>, at: &str, flaws: &mut Vec<Flaw>) -> BTreeSet<Name> {
    for field in of.keys().filter(|field| field.starts_with("x-hauberk-") && *field != CLASSES) {
        flaws.push(Flaw::at(format!("{at}.{field}"), format!("did you mean {CLASSES}?")));
    }
    let at = format!("{at}.{CLASSES}");
    let names = match of.get(CLASSES) {
        None => return BTreeSet::new(),
        Some(Value::Array(names)) => names,
        Some(_) => {
            flaws.push(Flaw::at(at, "it is not a list of names"));
            return BTreeSet::new();
        }
    };
    let mut classes = BTreeSet::new();
    for (index, name) in names.iter().enumerate() {
        match name.as_str().map(Name::parse) {
            Some(Ok(name)) => {
                classes.insert(name);
            }
            Some(Err(error)) => flaws.push(Flaw::at(format!("{at}[{index}]"), error.to_string())),
            None => flaws.push(Flaw::at(format!("{at}[{index}]"), "it is not a name")),
        }
    }
    classes
}
