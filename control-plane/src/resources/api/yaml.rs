//! YAML and JSON text as a tree, for documents in which only texts, lists and mappings matter: numbers and booleans are
//! read as the texts that they are written as.

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Value};

use super::Flaw;

/// Nesting deeper than any description needs.
pub(super) const MAX_DEPTH: usize = 64;
/// Values in one document.
pub(super) const MAX_NODES: usize = 100_000;

/// Reads the one document of `text`. Anchors and aliases are not understood: a few lines of them can stand for gigabytes.
pub(super) fn parse(text: &str) -> Result<Value, Flaw> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        match event {
            Ok((event, span)) => builder.accept(event).map_err(|message| placed(span, message))?,
            Err(error) => {
                return Err(placed(
                    Span::empty(*error.marker()),
                    format!("this is not YAML: {}", error.info()),
                ));
            }
        }
    }
    builder.document.ok_or_else(|| Flaw::at("", "it is empty"))
}

fn placed(span: Span, message: impl std::fmt::Display) -> Flaw {
    // The scanner counts lines from one and columns from nought.
    Flaw::at(format!("line {}, column {}", span.start.line(), span.start.col() + 1), message.to_string())
}

enum Open {
    List(Vec<Value>),
    Map(Map<String, Value>, Option<String>),
}

#[derive(Default)]
struct Builder {
    document: Option<Value>,
    open: Vec<Open>,
    nodes: usize,
}

impl Builder {
    fn accept(&mut self, event: Event<'_>) -> Result<(), String> {
        match event {
            Event::Scalar(text, style, anchor, _) => {
                refuse_anchor(anchor)?;
                self.count()?;
                let is_null = style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null");
                let is_key = matches!(self.open.last(), Some(Open::Map(_, None)));
                self.put(if is_null && !is_key { Value::Null } else { Value::String(text.into_owned()) })
            }
            Event::SequenceStart(anchor, _) => self.begin(anchor, Open::List(Vec::new())),
            Event::MappingStart(anchor, _) => self.begin(anchor, Open::Map(Map::new(), None)),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List(items)) => self.put(Value::Array(items)),
                Some(Open::Map(entries, _)) => self.put(Value::Object(entries)),
                None => Ok(()),
            },
            Event::Alias(_) => Err("aliases are not understood here: write the value itself".to_owned()),
            Event::DocumentStart(_) if self.document.is_some() => {
                Err("one document is expected, and here begins another".to_owned())
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
        }
    }

    fn begin(&mut self, anchor: usize, items: Open) -> Result<(), String> {
        refuse_anchor(anchor)?;
        self.count()?;
        if matches!(self.open.last(), Some(Open::Map(_, None))) {
            return Err("a key must be a text".to_owned());
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(format!("this is nested deeper than {MAX_DEPTH} levels"));
        }
        self.open.push(items);
        Ok(())
    }

    fn count(&mut self) -> Result<(), String> {
        self.nodes += 1;
        if self.nodes > MAX_NODES { Err(format!("it holds more than {MAX_NODES} values")) } else { Ok(()) }
    }

    fn put(&mut self, value: Value) -> Result<(), String> {
        match self.open.last_mut() {
            None => self.document = Some(value),
            Some(Open::List(items)) => items.push(value),
            Some(Open::Map(entries, key)) => match key.take() {
                Some(key) => {
                    entries.insert(key, value);
                }
                None => {
                    let Value::String(text) = value else { return Err("a key must be a text".to_owned()) };
                    if entries.contains_key(&text) {
                        return Err(format!("the key {text:?} stands here twice"));
                    }
                    *key = Some(text);
                }
            },
        }
        Ok(())
    }
}

fn refuse_anchor(anchor: usize) -> Result<(), String> {
    if anchor == 0 { Ok(()) } else { Err("anchors are not understood here".to_owned()) }
}
