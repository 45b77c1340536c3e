//! From a field path, as the server writes it, back to a place in a file.

use super::resource::spellings;
use super::yaml::{Content, Entry, Node, Position, Style};

/// Where `path` stands in a document, and how many characters it has there; the nearest thing above where it does
/// not stand at all.
pub(crate) fn locate(document: &Node, path: &str) -> (Position, usize) {
    let mut here = (document.at, 1);
    let mut node = document;
    let mut rest = path;
    while !rest.is_empty() {
        match &node.content {
            Content::Map(entries) => {
                let Some((entry, after)) = step(entries, rest) else { break };
                here = (entry.at, entry.key.chars().count());
                node = &entry.value;
                rest = after;
            }
            Content::List(items) => {
                let Some((index, after)) = rest.strip_prefix('[').and_then(|inner| inner.split_once(']'))
                else {
                    break;
                };
                let Some(item) = index.parse().ok().and_then(|index: usize| items.get(index)) else { break };
                here = (item.at, item.length);
                node = item;
                rest = after.strip_prefix('.').unwrap_or(after);
            }
            Content::Scalar { .. } => break,
        }
    }
    if rest.is_empty() && matches!(node.content, Content::Scalar { .. }) && !node.is_null() {
        return (node.at, node.length);
    }
    here
}

/// Where the line and column of a text, both counted from one, stand in the file that holds the text at `path`.
/// `source` is the file's text.
pub(crate) fn locate_within(document: &Node, path: &str, source: &str, inner: Position) -> Position {
    let (at, _) = locate(document, path);
    let Some(entry) = entry(document, path) else { return at };
    match &entry.value.content {
        Content::Scalar { style: Style::Literal, .. } => {
            // The block's first line is the one below `key: |`.
            let header = entry.at.line;
            let indent = source
                .lines()
                .skip(header)
                .find(|line| !line.trim().is_empty())
                .map_or(0, |line| line.len() - line.trim_start_matches(' ').len());
            Position { line: header + inner.line, column: indent + inner.column }
        }
        Content::Scalar { style, text } if !text.contains('\n') && *style != Style::Folded => {
            let quote = usize::from(*style == Style::Quoted);
            Position { line: at.line, column: at.column + quote + inner.column - 1 }
        }
        _ => at,
    }
}

fn entry<'a>(document: &'a Node, path: &str) -> Option<&'a Entry> {
    let mut node = document;
    let mut found = None;
    for key in path.split('.') {
        let Content::Map(entries) = &node.content else { return None };
        let entry = entries.iter().find(|entry| entry.key == key)?;
        node = &entry.value;
        found = Some(entry);
    }
    found
}

/// The entry that the path goes through, and what of the path comes after it. Keys of labels may hold dots, so the
/// longest key that fits is the one.
fn step<'a, 'p>(entries: &'a [Entry], rest: &'p str) -> Option<(&'a Entry, &'p str)> {
    let fits = |entry: &&Entry, key: &str| {
        rest.strip_prefix(key).is_some_and(|after| after.is_empty() || after.starts_with(['.', '[']))
            || spellings(rest).contains(&entry.key.as_str())
    };
    let entry = entries
        .iter()
        .filter(|entry| fits(entry, &entry.key) || fits(entry, &camel_case(&entry.key)))
        .max_by_key(|entry| entry.key.len())?;
    let after =
        rest.strip_prefix(entry.key.as_str()).or_else(|| rest.strip_prefix(camel_case(&entry.key).as_str()));
    let after = if spellings(rest).contains(&entry.key.as_str()) { "" } else { after.unwrap_or_default() };
    Some((entry, after.strip_prefix('.').unwrap_or(after)))
}

/// `port_mapping` as files usually write it.
fn camel_case(key: &str) -> String {
    let mut words = key.split('_');
    let mut out = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        out.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        out.push_str(letters.as_str());
    }
    out
}
