//! Which parameters of an OpenAPI document are sent: those that are several segments, and whatever could be taken for
//! one of them.

use std::collections::BTreeSet;

use hauberk_policy::unescaped;
use serde_json::{Map, Value};

use super::elsewhere::{MOST_STEPS, TAKEN};
use super::openapi::{SEVERAL_SEGMENTS, spelt, token};

/// Leaves out parameters that change no route, of most documents all, and those of components to which nothing refers
/// any longer. References count the items of a list: what stands before one that is sent is left empty.
pub(super) fn without_others(document: &mut Value) {
    let holders = holders(document);
    let wanted = wanted(document, &holders);
    for holder in &holders {
        let Some(of) = document.pointer_mut(holder).and_then(Value::as_object_mut) else { continue };
        let Some(Value::Array(parameters)) = of.get_mut("parameters") else { continue };
        let mut sent = 0;
        for (index, parameter) in parameters.iter_mut().enumerate() {
            if wanted.contains(&format!("{holder}/parameters/{index}")) {
                sent = index + 1;
            } else {
                *parameter = Value::Object(Map::new());
            }
        }
        parameters.truncate(sent);
        if parameters.is_empty() {
            of.remove("parameters");
        }
    }
    if let Some(Value::Object(components)) = document.get_mut("components")
        && let Some(Value::Object(parameters)) = components.get_mut("parameters")
    {
        parameters.retain(|name, _| wanted.contains(&format!("/components/parameters/{}", token(name))));
        if parameters.is_empty() {
            components.remove("parameters");
        }
    }
}

/// The places of path items and operations, whether or not they have any.
fn holders(document: &Value) -> Vec<String> {
    let mut holders = Vec::new();
    for items in ["/paths", "/components/pathItems", &format!("/components/{TAKEN}")] {
        let found = document.pointer(items).and_then(Value::as_object);
        for (name, item) in found.into_iter().flatten() {
            let at = format!("{items}/{}", token(name));
            for (field, operation) in item.as_object().into_iter().flatten() {
                let at = format!("{at}/{}", token(field));
                match operation {
                    Value::Object(others) if field == "additionalOperations" => {
                        holders.extend(others.keys().map(|method| format!("{at}/{}", token(method))));
                    }
                    Value::Object(_) => holders.push(at),
                    _ => {}
                }
            }
            holders.push(at);
        }
    }
    holders
}

/// The places of those that are sent. One that has the name of another that is several segments, and is not itself, is
/// among them: it can stand in that one's place, since an operation's count before those of its path item, whatever
/// refers to either.
fn wanted(document: &Value, holders: &[String]) -> BTreeSet<String> {
    let listed = holders.iter().flat_map(|holder| {
        let at = format!("{holder}/parameters");
        let parameters = document.pointer(&at).and_then(Value::as_array).into_iter().flatten();
        parameters.enumerate().map(move |(index, parameter)| (format!("{at}/{index}"), parameter))
    });
    let found: Vec<(String, Found<'_>)> =
        listed.filter_map(|(at, parameter)| Some((at, Found::of(document, parameter)?))).collect();
    let several: BTreeSet<&str> =
        found.iter().filter(|(_, one)| one.is_several).filter_map(|(_, one)| one.of_path()).collect();
    let is_wanted =
        |one: &Found<'_>| one.is_several || one.of_path().is_some_and(|name| several.contains(name));
    let wanted = found.into_iter().filter(|(_, one)| is_wanted(one));
    wanted.flat_map(|(at, one)| one.through.into_iter().chain([at])).collect()
}

/// What a parameter says, with what it refers to.
#[derive(Default)]
struct Found<'d> {
    name: Option<&'d str>,
    place: Option<&'d str>,
    /// It may be several segments.
    is_several: bool,
    /// The places that its references lead through.
    through: Vec<String>,
}

impl<'d> Found<'d> {
    /// Follows references as the control plane does: nothing where they lead nowhere, or too far.
    fn of(document: &'d Value, parameter: &'d Value) -> Option<Self> {
        let mut found = Self::default();
        let mut at = parameter;
        for _ in 0..=MOST_STEPS {
            let text = |field| at.get(field).and_then(Value::as_str);
            // What stands beside a reference counts too.
            found.is_several |= at.get(SEVERAL_SEGMENTS).is_some();
            found.name = text("name").or(found.name);
            found.place = text("in").or(found.place);
            let Some(reference) = at.get("$ref") else { return Some(found) };
            let pointer = unescaped(reference.as_str()?.strip_prefix('#')?)?;
            at = document.pointer(&pointer)?;
            found.through.push(spelt(&pointer));
        }
        None
    }

    /// Its name, if it is one of the path.
    fn of_path(&self) -> Option<&'d str> {
        self.name.filter(|_| self.place == Some("path"))
    }
}
