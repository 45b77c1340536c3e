//! An OpenAPI document in YAML. What is left out is never in memory as a tree.

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Value};

use super::Flaw;
use super::openapi::Part;

/// Nesting of what is kept, deeper than it needs.
const MAX_DEPTH: usize = 64;

/// Reads the one document of `text`, which is this part.
pub(super) fn reduced(text: &str, part: Part) -> Result<Value, Flaw> {
    let mut builder = Builder { part, document: None, open: Vec::new(), left_out: 0 };
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
    builder.document.ok_or_else(|| Flaw::whole("it is empty"))
}

fn placed(span: Span, message: String) -> Flaw {
    // The scanner counts lines from one and columns from nought.
    Flaw::at(span.start.line(), span.start.col() + 1, message)
}

struct Open {
    part: Part,
    items: Items,
}

enum Items {
    List(Vec<Value>),
    Map(Map<String, Value>, Key),
}

enum Key {
    Awaited,
    Kept(String, Part),
    LeftOut,
}

struct Builder {
    part: Part,
    document: Option<Value>,
    open: Vec<Open>,
    /// How deep we are in something that is left out.
    left_out: usize,
}

impl Builder {
    fn accept(&mut self, event: Event<'_>) -> Result<(), String> {
        if self.left_out > 0 {
            match event {
                Event::SequenceStart(..) | Event::MappingStart(..) => self.left_out += 1,
                Event::SequenceEnd | Event::MappingEnd => {
                    self.left_out -= 1;
                    if self.left_out == 0 {
                        self.passed_over();
                    }
                }
                _ => {}
            }
            return Ok(());
        }
        match event {
            Event::Scalar(text, style, ..) => {
                if let Some(Open { part, items: Items::Map(entries, key @ Key::Awaited) }) =
                    self.open.last_mut()
                {
                    return expect(*part, entries, key, text.into_owned());
                }
                let is_null = style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null");
                match self.expected()? {
                    Some(_) => self.put(if is_null { Value::Null } else { Value::String(text.into_owned()) }),
                    None => self.passed_over(),
                }
            }
            Event::SequenceStart(..) => self.begin(Items::List(Vec::new()))?,
            Event::MappingStart(..) => self.begin(Items::Map(Map::new(), Key::Awaited))?,
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop().map(|open| open.items) {
                Some(Items::List(items)) => self.put(Value::Array(items)),
                Some(Items::Map(entries, _)) => self.put(Value::Object(entries)),
                None => {}
            },
            Event::Alias(_) => match self.expected()? {
                // Those of most documents say nothing of routes. References count the items of a list.
                Some(Part::Parameter) if self.is_in_list() => self.put(Value::Null),
                Some(Part::Parameters | Part::Parameter) => self.passed_over(),
                Some(_) => return Err("aliases are not understood here: write the value itself".to_owned()),
                None => self.passed_over(),
            },
            Event::DocumentStart(_) if self.document.is_some() => {
                return Err("one document is expected, and here begins another".to_owned());
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => {}
        }
        Ok(())
    }

    /// What the next value is, or nothing where it is left out.
    fn expected(&self) -> Result<Option<Part>, String> {
        match self.open.last() {
            None => Ok(Some(self.part)),
            Some(Open { part, items: Items::List(_) }) => Ok(part.items()),
            Some(Open { items: Items::Map(_, Key::Kept(_, part)), .. }) => Ok(Some(*part)),
            Some(Open { items: Items::Map(_, Key::LeftOut), .. }) => Ok(None),
            Some(Open { items: Items::Map(_, Key::Awaited), .. }) => Err("a key must be a text".to_owned()),
        }
    }

    fn begin(&mut self, items: Items) -> Result<(), String> {
        match self.expected()? {
            Some(_) if self.open.len() >= MAX_DEPTH => {
                Err(format!("this is nested deeper than {MAX_DEPTH} levels"))
            }
            Some(part) => {
                self.open.push(Open { part, items });
                Ok(())
            }
            None => {
                self.left_out = 1;
                Ok(())
            }
        }
    }

    fn is_in_list(&self) -> bool {
        matches!(self.open.last(), Some(Open { items: Items::List(_), .. }))
    }

    /// A value that is left out has ended.
    fn passed_over(&mut self) {
        if let Some(Open { items: Items::Map(_, key), .. }) = self.open.last_mut() {
            *key = Key::Awaited;
        }
    }

    fn put(&mut self, value: Value) {
        match self.open.last_mut().map(|open| &mut open.items) {
            None => self.document = Some(value),
            Some(Items::List(items)) => items.push(value),
            Some(Items::Map(entries, key)) => {
                if let Key::Kept(key, _) = std::mem::replace(key, Key::Awaited) {
                    entries.insert(key, value);
                }
            }
        }
    }
}

/// Takes the key of an entry.
fn expect(part: Part, entries: &Map<String, Value>, key: &mut Key, text: String) -> Result<(), String> {
    *key = match part.under(&text) {
        Some(_) if entries.contains_key(&text) => return Err(format!("the key {text:?} stands here twice")),
        Some(part) => Key::Kept(text, part),
        None => Key::LeftOut,
    };
    Ok(())
}
