//! Data to standard output, messages to standard error.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};

use crate::documents::{Tree, to_json, to_yaml};
use crate::error::CommandError;

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

/// Writes a line of data.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn line(text: impl Display) -> Result<(), CommandError> {
    raw(&format!("{text}\n"))
}

/// Writes data as it is.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn raw(text: &str) -> Result<(), CommandError> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CommandError::Output)
}

/// Writes a message for a person. Where nobody can read it, nothing is lost.
pub(crate) fn note(text: impl Display) {
    let _unread = writeln!(anstream::stderr().lock(), "{text}");
}

/// Writes a line that the next one replaces; only on a terminal.
pub(crate) fn progress(text: &str) {
    if is_interactive() {
        let mut err = anstream::stderr().lock();
        let _unread = write!(err, "\r\x1b[2K{text}").and_then(|()| err.flush());
    }
}

/// Removes the line that [`progress`] wrote.
pub(crate) fn end_progress() {
    progress("");
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

/// The text without control characters.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_look_like_kubectls() {
        let rows = vec![
            vec!["web".to_owned(), "8080/http".to_owned()],
            vec!["orders\x1b[2J".to_owned(), "-".to_owned()],
        ];
        insta::assert_snapshot!(table(&["NAME", "LISTENERS"], rows));
    }
}
