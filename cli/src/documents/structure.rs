//! Content whose form nobody prescribes, such as what a token claims: any mapping of YAML, as JSON would have it.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde_json::Number;

use super::message::Defect;
use super::yaml::{Content, Node, Style, is_bool, is_number};

/// The largest whole number below which JSON's readers agree on every one.
const MAX_WHOLE: f64 = 9_007_199_254_740_991.0;

/// Reads a mapping; what is wrong goes to `defects`, under `path`.
pub(super) fn structure(node: &Node, path: &str, defects: &mut Vec<Defect>) -> Option<Struct> {
    let Content::Map(entries) = &node.content else {
        defects.push(Defect::of(node, path, format!("expected a mapping, found {}", node.describe())));
        return None;
    };
    let mut fields = std::collections::BTreeMap::new();
    for entry in entries {
        let path = format!("{path}.{}", entry.key);
        if let Some(value) = value(&entry.value, &path, defects)
            && fields.insert(entry.key.clone(), value).is_some()
        {
            defects.push(Defect::of_key(entry, path, format!("`{}` is set twice", entry.key)));
        }
    }
    Some(Struct { fields })
}

fn value(node: &Node, path: &str, defects: &mut Vec<Defect>) -> Option<Value> {
    let kind = match &node.content {
        _ if node.is_null() => Kind::NullValue(0),
        Content::Map(_) => Kind::StructValue(structure(node, path, defects)?),
        Content::List(items) => {
            let item = |(index, item)| value(item, &format!("{path}[{index}]"), defects);
            Kind::ListValue(ListValue { values: items.iter().enumerate().filter_map(item).collect() })
        }
        Content::Scalar { text, style: Style::Plain } if is_bool(text) => {
            Kind::BoolValue(text.eq_ignore_ascii_case("true"))
        }
        Content::Scalar { text, style: Style::Plain } if is_number(text) => match text.parse() {
            Ok(number) if f64::is_finite(number) && number.abs() <= MAX_WHOLE => Kind::NumberValue(number),
            _ => {
                let message = format!("{text} is no number of JSON: write \"{text}\" in quotes");
                defects.push(Defect::of(node, path, message));
                return None;
            }
        },
        Content::Scalar { text, .. } => Kind::StringValue(text.clone()),
    };
    Some(kind.into())
}

/// The same in JSON, whole numbers without a fraction.
pub(crate) fn json_of(content: &Struct) -> serde_json::Value {
    content.fields.iter().map(|(name, value)| (name.clone(), json_of_value(value))).collect()
}

fn json_of_value(value: &Value) -> serde_json::Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(value)) => (*value).into(),
        Some(Kind::StringValue(text)) => text.as_str().into(),
        Some(Kind::NumberValue(number)) => json_of_number(*number),
        Some(Kind::StructValue(content)) => json_of(content),
        Some(Kind::ListValue(list)) => list.values.iter().map(json_of_value).collect(),
    }
}

fn json_of_number(number: f64) -> serde_json::Value {
    let is_whole = number.fract() == 0.0 && number.abs() <= MAX_WHOLE;
    // Rust prints such a number without exponent or fraction.
    let whole = if is_whole { format!("{number}").parse::<i64>().ok() } else { None };
    match whole {
        Some(whole) => whole.into(),
        None => Number::from_f64(number).map_or(serde_json::Value::Null, Into::into),
    }
}

#[cfg(test)]
mod tests {
    use super::super::yaml;
    use super::*;

    fn read(text: &str) -> (Option<String>, Vec<String>) {
        let (nodes, faults) = yaml::parse(text);
        assert!(faults.is_empty(), "{faults:?}");
        let mut defects = Vec::new();
        let read = structure(&nodes[0], "claims", &mut defects);
        let told = defects.iter().map(|defect| format!("{}: {}", defect.path, defect.message)).collect();
        (read.map(|read| json_of(&read).to_string()), told)
    }

    #[test]
    fn any_mapping_is_read_as_json_has_it() {
        let (json, wrong) = read(
            "{groups: [support, 'on'], level: 3, share: 0.5, vip: true, none: null, realm: {roles: ['7']}}",
        );
        assert_eq!(wrong, [""; 0]);
        assert_eq!(
            json.as_deref(),
            Some(
                r#"{"groups":["support","on"],"level":3,"none":null,"realm":{"roles":["7"]},"share":0.5,"vip":true}"#
            )
        );
    }

    #[test]
    fn what_json_cannot_say_is_refused_with_its_place() {
        assert_eq!(read("[a]").1, ["claims: expected a mapping, found a list"]);
        let (_, wrong) = read("{id: 123456789012345678901, realm: {size: 0x10, top: .inf}}");
        assert_eq!(wrong.len(), 3, "{wrong:?}");
        assert_eq!(
            wrong[0],
            "claims.id: 123456789012345678901 is no number of JSON: write \"123456789012345678901\" in quotes"
        );
    }
}
