//! YAML and JSON text as a tree in which every key and value knows where it stands.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

/// Nesting deeper than any resource needs.
const MAX_DEPTH: usize = 64;
/// Values in one file, with each alias counted as often as it is used, so that aliases of aliases cannot explode.
const MAX_NODES: usize = 1_000_000;

/// Bytes of text in one file, counted in the same way: no file has as many by itself.
const MAX_TEXT: usize = 64 << 20;

/// A place in a file, both counted from one, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// One value and where it begins.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) at: Position,
    /// How many characters it has, where that is on one line; else 1.
    pub(crate) length: usize,
    pub(crate) content: Content,
}

/// What a value is.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    Scalar { text: String, style: Style },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// How a scalar is written, which says whether `8080` is a number or a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Quoted,
    /// A `|` block, whose lines are the text's own.
    Literal,
    /// A `>` block, whose lines are not.
    Folded,
}

/// A key with its value.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) at: Position,
    pub(crate) value: Node,
}

/// Something that is wrong with the text itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) at: Position,
    pub(crate) length: usize,
    pub(crate) message: String,
}

impl Node {
    /// Whether it is YAML's null: nothing, `~` or `null`.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar { text, style: Style::Plain }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// What it is, for a person: `a list`, `the number 8080`.
    pub(crate) fn describe(&self) -> String {
        match &self.content {
            _ if self.is_null() => "nothing".to_owned(),
            Content::List(_) => "a list".to_owned(),
            Content::Map(_) => "a mapping".to_owned(),
            Content::Scalar { text, style: Style::Plain } if is_bool(text) => format!("the boolean {text}"),
            Content::Scalar { text, style: Style::Plain } if is_number(text) => format!("the number {text}"),
            Content::Scalar { .. } => "a text".to_owned(),
        }
    }
}

/// Whether YAML's core schema reads the plain scalar as a boolean.
pub(crate) fn is_bool(text: &str) -> bool {
    matches!(text, "true" | "True" | "TRUE" | "false" | "False" | "FALSE")
}

/// Whether YAML's core schema reads the plain scalar as a number.
pub(crate) fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let digits = |rest: &str, radix: u32| !rest.is_empty() && rest.chars().all(|c| c.is_digit(radix));
    unsigned.strip_prefix("0x").is_some_and(|rest| digits(rest, 16))
        || unsigned.strip_prefix("0o").is_some_and(|rest| digits(rest, 8))
        || matches!(unsigned.to_ascii_lowercase().as_str(), ".inf" | ".nan")
        || (unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') && unsigned.parse::<f64>().is_ok())
}

/// Reads every document of `text`. What could be read is returned beside what is wrong, so that both are reported
/// at once; after a fault of syntax the rest of the file is unread.
pub(crate) fn parse(text: &str) -> (Vec<Node>, Vec<Fault>) {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        match event {
            Ok((event, span)) => {
                if builder.accept(event, span).is_err() {
                    break;
                }
            }
            Err(error) => {
                let at = position(Span::empty(*error.marker()));
                builder.fault(at, 1, format!("this is not YAML: {}", error.info()));
                break;
            }
        }
    }
    (builder.documents, builder.faults)
}

/// The limits were exceeded; nothing more is read.
struct Exhausted;

/// A finished value with what it costs.
#[derive(Clone)]
struct Weighed {
    node: Node,
    weight: Weight,
    depth: usize,
}

/// How much a value holds.
#[derive(Debug, Clone, Copy, Default)]
struct Weight {
    nodes: usize,
    bytes: usize,
}

impl Weight {
    fn add(&mut self, other: Self) {
        self.nodes = self.nodes.saturating_add(other.nodes);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

enum Items {
    List(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        key: Option<(String, Position)>,
        /// Each key that has come, with its line.
        lines: HashMap<String, usize>,
    },
}

struct Frame {
    at: Position,
    anchor: usize,
    weight: Weight,
    depth: usize,
    items: Items,
}

#[derive(Default)]
struct Builder {
    documents: Vec<Node>,
    faults: Vec<Fault>,
    open: Vec<Frame>,
    anchors: HashMap<usize, Weighed>,
    weight: Weight,
}

impl Builder {
    fn accept(&mut self, event: Event<'_>, span: Span) -> Result<(), Exhausted> {
        let at = position(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let weight = Weight { nodes: 1, bytes: text.len() };
                self.count(at, weight)?;
                let style = self.style(style, tag.as_deref(), at);
                let length = if span.start.line() == span.end.line() { span.len().max(1) } else { 1 };
                let content = Content::Scalar { text: text.into_owned(), style };
                self.finish(Weighed { node: Node { at, length, content }, weight, depth: 1 }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), at);
                self.begin(at, anchor, Items::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), at);
                self.begin(at, anchor, Items::Map { entries: Vec::new(), key: None, lines: HashMap::new() })
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            // It is copied only once it is known to fit.
            Event::Alias(anchor) => match self.anchors.get(&anchor).map(|value| value.weight) {
                Some(weight) => {
                    self.count(at, weight)?;
                    match self.anchors.get(&anchor).cloned() {
                        Some(value) => self.finish(value, 0),
                        None => Err(Exhausted),
                    }
                }
                None => {
                    self.fault(at, 1, "this alias stands within its own anchor".to_owned());
                    Err(Exhausted)
                }
            },
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn begin(&mut self, at: Position, anchor: usize, items: Items) -> Result<(), Exhausted> {
        let weight = Weight { nodes: 1, bytes: 0 };
        self.count(at, weight)?;
        self.open.push(Frame { at, anchor, weight, depth: 1, items });
        self.check_depth(at, 0)
    }

    fn count(&mut self, at: Position, weight: Weight) -> Result<(), Exhausted> {
        self.weight.add(weight);
        let too_much = if self.weight.nodes > MAX_NODES {
            format!("{MAX_NODES} values")
        } else if self.weight.bytes > MAX_TEXT {
            format!("{} MiB of text", MAX_TEXT >> 20)
        } else {
            return Ok(());
        };
        self.fault(at, 1, format!("this file holds more than {too_much}, aliases counted at each use"));
        Err(Exhausted)
    }

    fn end(&mut self) -> Result<(), Exhausted> {
        let Some(frame) = self.open.pop() else { return Err(Exhausted) };
        let content = match frame.items {
            Items::List(items) => Content::List(items),
            Items::Map { entries, .. } => Content::Map(entries),
        };
        let node = Node { at: frame.at, length: 1, content };
        self.finish(Weighed { node, weight: frame.weight, depth: frame.depth }, frame.anchor)
    }

    /// Puts a value where it belongs.
    fn finish(&mut self, value: Weighed, anchor: usize) -> Result<(), Exhausted> {
        self.check_depth(value.node.at, value.depth)?;
        if anchor != 0 {
            self.anchors.insert(anchor, value.clone());
        }
        let Some(frame) = self.open.last_mut() else {
            self.documents.push(value.node);
            return Ok(());
        };
        frame.weight.add(value.weight);
        frame.depth = frame.depth.max(value.depth + 1);
        match &mut frame.items {
            Items::List(items) => items.push(value.node),
            Items::Map { entries, key, lines } => match key.take() {
                Some((key, at)) => entries.push(Entry { key, at, value: value.node }),
                None => {
                    let at = value.node.at;
                    let length = value.node.length;
                    match value.node.content {
                        Content::Scalar { text, .. } => {
                            *key = Some((text.clone(), at));
                            let first = lines.get(&text).copied();
                            if first.is_none() {
                                lines.insert(text.clone(), at.line);
                            }
                            if let Some(first) = first {
                                let message =
                                    format!("the key `{text}` stands here twice, first on line {first}");
                                self.fault(at, length, message);
                            }
                        }
                        Content::List(_) | Content::Map(_) => {
                            *key = Some((String::new(), at));
                            self.fault(at, 1, "a key must be a text".to_owned());
                        }
                    }
                }
            },
        }
        Ok(())
    }

    fn check_depth(&mut self, at: Position, below: usize) -> Result<(), Exhausted> {
        if self.open.len() + below > MAX_DEPTH {
            self.fault(at, 1, format!("this is nested deeper than {MAX_DEPTH} levels"));
            return Err(Exhausted);
        }
        Ok(())
    }

    fn style(&mut self, style: ScalarStyle, tag: Option<&Tag>, at: Position) -> Style {
        if tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str") {
            return Style::Quoted;
        }
        self.refuse_tag(tag, at);
        match style {
            ScalarStyle::Plain => Style::Plain,
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => Style::Quoted,
            ScalarStyle::Literal => Style::Literal,
            ScalarStyle::Folded => Style::Folded,
        }
    }

    fn refuse_tag(&mut self, tag: Option<&Tag>, at: Position) {
        if let Some(tag) = tag {
            let message = format!(
                "the tag `{}{}` is not understood here: write the value itself",
                tag.handle, tag.suffix
            );
            self.fault(at, 1, message);
        }
    }

    fn fault(&mut self, at: Position, length: usize, message: String) {
        self.faults.push(Fault { at, length, message });
    }
}

fn position(span: Span) -> Position {
    // The scanner counts lines from one and columns from nought.
    Position { line: span.start.line(), column: span.start.col() + 1 }
}
