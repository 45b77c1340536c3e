//! Data to standard output, messages to standard error.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};

use crate::documents::{Tree, to_json, to_yaml};
use crate::error::CommandError;

/// The cells of a progress bar.
const BAR: u64 = 20;

/// How data is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people
    Table,
    /// More columns
    Wide,
    /// JSON for programs
    Json,
    /// YAML, readable by `apply -f`
    Yaml,
    /// KIND/NAME, one a line
    Name,
}

/// Writes a line of data for a person; what would command a terminal, other than by our colours, is not passed on.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn line(text: impl Display) -> Result<(), CommandError> {
    raw(&harmless(&format!("{text}\n")))
}

/// Writes data as it is: for programs, or made harmless already.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn raw(text: &str) -> Result<(), CommandError> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CommandError::Output)
}

/// Writes a message for a person. Where nobody can read it, nothing is lost.
pub(crate) fn note(text: impl Display) {
    let _unread = writeln!(anstream::stderr().lock(), "{}", harmless(&text.to_string()));
}

/// Shows how far something has come, in a line that the next one replaces; only on a terminal.
pub(crate) fn progress(done: u32, all: u32, text: &str) {
    replace_line(&format!("{} {text}", bar(done, all)));
}

/// Removes the line that [`progress`] wrote.
pub(crate) fn end_progress() {
    replace_line("");
}

fn replace_line(text: &str) {
    if is_interactive() {
        let mut err = anstream::stderr().lock();
        let _unread = write!(err, "\r\x1b[2K{text}").and_then(|()| err.flush());
    }
}

/// It is full only when all is done.
fn bar(done: u32, all: u32) -> String {
    let full = u64::from(done.min(all)) * BAR / u64::from(all.max(1));
    (0..BAR).map(|cell| if cell < full { '█' } else { '░' }).collect()
}

/// Whether a person watches the messages.
pub(crate) fn is_interactive() -> bool {
    std::io::stderr().is_terminal()
}

/// Writes one or several things as JSON or YAML: several as a `List` in JSON, as documents in YAML.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn trees(format: Format, trees: Vec<Tree>, single: bool) -> Result<(), CommandError> {
    let text = match (format, trees.as_slice()) {
        (Format::Json, [tree]) if single => to_json(tree),
        (Format::Json, _) => to_json(&Tree::map([("items", Tree::List(trees))])),
        (_, trees) => trees.iter().map(to_yaml).collect::<Vec<_>>().join("---\n"),
    };
    raw(&text)
}

/// Columns as kubectl lays them out.
pub(crate) fn table(headers: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headers.iter().copied());
    for row in rows {
        // What a hostile agent or file calls itself must not reach the terminal as commands.
        table.add_row(row.into_iter().map(|cell| printable(&cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The text without control characters, and without those that change the direction of what follows. It stays on its
/// line, and cannot pass for ours.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if commands(c) { '\u{fffd}' } else { c }).collect()
}

/// The same for texts that may have several lines.
pub(crate) fn printable_lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}

/// The text with lines, tabs and colours, which are ours, and no other command to a terminal.
fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let taken = match (c, colour(rest)) {
            (_, Some(colour)) => colour,
            (c, None) => rest.get(..c.len_utf8()).unwrap_or_default(),
        };
        if commands(c) && !matches!(c, '\n' | '\t') && taken.len() == c.len_utf8() {
            out.push('\u{fffd}');
        } else {
            out.push_str(taken);
        }
        rest = rest.get(taken.len()..).unwrap_or_default();
    }
    out
}

/// The sequence that sets colours, if the text begins with one.
fn colour(text: &str) -> Option<&str> {
    let parameters = text.strip_prefix("\x1b[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    parameters.get(end..)?.starts_with('m').then(|| text.get(..end + 3))?
}

/// Whether a character does something to a terminal other than standing there.
fn commands(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_full_only_when_all_is_done() {
        let full = |done, all| bar(done, all).chars().filter(|cell| *cell == '█').count();
        assert_eq!((full(0, 10), full(5, 10), full(999, 1_000), full(10, 10)), (0, 10, 19, 20));
        assert_eq!((full(0, 0), full(u32::MAX, 1), full(u32::MAX, u32::MAX)), (0, 20, 20));
        assert_eq!(bar(1, 3).chars().count(), 20);
    }

    #[test]
    fn only_colours_command_a_terminal() {
        assert_eq!(harmless("\x1b[1;32mok\x1b[0m\tx\ny"), "\x1b[1;32mok\x1b[0m\tx\ny");
        assert_eq!(harmless("a\x1b]0;t\x07b"), "a\u{fffd}]0;t\u{fffd}b");
        assert_eq!(
            harmless("\x1b[2J\x1b[1;1H\r\u{9b}31m\x1b["),
            "\u{fffd}[2J\u{fffd}[1;1H\u{fffd}\u{fffd}31m\u{fffd}["
        );
        assert_eq!(harmless("é\u{202e}evil"), "é\u{fffd}evil");
        assert_eq!(printable("\x1b[32mALLOWED\u{2066}\n"), "\u{fffd}[32mALLOWED\u{fffd}\u{fffd}");
        assert_eq!(printable_lines("a\n\x1bb\n"), "a\n\u{fffd}b");
    }

    #[test]
    fn tables_look_like_kubectls() {
        let rows = vec![
            vec!["web".to_owned(), "8080/http".to_owned()],
            vec!["orders\x1b[2J".to_owned(), "-".to_owned()],
        ];
        insta::assert_snapshot!(table(&["NAME", "LISTENERS"], rows));
    }
}
