//! Servers of a document, a path or an operation: what their URLs put before a path.

use std::collections::BTreeSet;

use hauberk_policy::RouteTemplate;
use serde_json::Value;

use super::Flaw;

/// The most paths that the servers of one place have.
const MOST_PREFIXES: usize = 32;
/// The most servers of one place.
const MOST_SERVERS: usize = 256;
/// The longest URL with its variables, in bytes.
const LONGEST_URL: usize = 2_048;

/// The paths of the servers' URLs; none where no servers are said, or what is said is wrong.
pub(super) fn prefixes(servers: Option<&Value>, at: &str, flaws: &mut Vec<Flaw>) -> Option<BTreeSet<String>> {
    let servers = match servers {
        None | Some(Value::Null) => return None,
        Some(Value::Array(servers)) => servers,
        Some(_) => {
            flaws.push(Flaw::at(at, "it is not a list"));
            return None;
        }
    };
    if servers.len() > MOST_SERVERS {
        flaws.push(Flaw::at(at, format!("it lists {} servers: at most {MOST_SERVERS}", servers.len())));
        return None;
    }
    let mut prefixes = BTreeSet::new();
    for (index, server) in servers.iter().enumerate() {
        match prefix(server) {
            Ok(prefix) => drop(prefixes.insert(prefix)),
            Err((field, message)) => flaws.push(Flaw::at(format!("{at}[{index}].{field}"), message)),
        }
    }
    if prefixes.len() > MOST_PREFIXES {
        let message = format!("their URLs have {} paths: at most {MOST_PREFIXES}", prefixes.len());
        flaws.push(Flaw::at(at, message));
        return None;
    }
    Some(prefixes).filter(|prefixes| !prefixes.is_empty())
}

/// The path of a server's URL without its last slash; or the field that is wrong, and why.
fn prefix(server: &Value) -> Result<String, (String, String)> {
    let wrong = |message: &str| ("url".to_owned(), message.to_owned());
    let url = server.get("url").and_then(Value::as_str).ok_or_else(|| wrong("it is missing"))?;
    let url = with_variables(url, server.get("variables"))?;
    let path = path_of(&url);
    if path.trim_matches('/').is_empty() {
        return Ok(String::new());
    }
    if !path.starts_with('/') {
        let message = "it begins where the document lies, and nobody knows where that is: begin it with a slash or a scheme";
        return Err(wrong(message));
    }
    if path.contains(['{', '*', ' ']) {
        return Err(wrong("its path must be one that requests have"));
    }
    // Exports of API gateways write `/{basePath}` where its default is `/prod`; requests' slashes are one as well.
    let path: String =
        path.split('/').filter(|segment| !segment.is_empty()).flat_map(|segment| ["/", segment]).collect();
    RouteTemplate::parse(&path).map_err(|error| wrong(&error.to_string()))?;
    Ok(path)
}

/// A server's URL with the defaults of its variables: an unknown path in front of all routes would make them match what nobody meant.
fn with_variables(url: &str, variables: Option<&Value>) -> Result<String, (String, String)> {
    let mut filled = String::new();
    let mut left = url;
    while let Some((before, after)) = left.split_once('{') {
        let Some((name, after)) = after.split_once('}') else {
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
        filled.extend([before, default]);
        if filled.len() > LONGEST_URL {
            let message = format!("with its variables it has more than {LONGEST_URL} bytes");
            return Err(("url".to_owned(), message));
        }
        left = after;
    }
    Ok(filled + left)
}

fn path_of(url: &str) -> &str {
    let url = url.split(['?', '#']).next().unwrap_or(url);
    match url.split_once("://").map(|(_, rest)| rest).or_else(|| url.strip_prefix("//")) {
        Some(rest) => rest.find('/').and_then(|slash| rest.get(slash..)).unwrap_or_default(),
        None => url,
    }
}
