//! Data to standard output, messages to standard error.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};

use crate::documents::{Tree, to_json, to_yaml};
use crate::error::CommandError;

/// The cells of a progress bar.
const BAR: u64 = 20;

/// What lies between two columns of a table, in characters.
const GAP: usize = 3;

/// What is longer in the last column of a table is a sentence.
const LONGEST_WORD: usize = 15;

/// To how little a column is cut where a terminal is narrow.
const NARROWEST: usize = 8;

/// Before what stands below a row.
const MARGIN: &str = "    ";

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

/// Columns as kubectl lays them out. Where standard output is a terminal and they are wider than it, a last column of
/// sentences stands below each row, and what is still too wide is cut; what goes to programs is whole.
pub(crate) fn table(headers: &[&str], rows: Vec<Vec<String>>) -> String {
    laid_out(headers, rows, terminal_width())
}

/// The same, two characters further right.
pub(crate) fn indented_table(headers: &[&str], rows: Vec<Vec<String>>) -> String {
    let width = terminal_width().map(|width| width.saturating_sub(2));
    laid_out(headers, rows, width).lines().map(|line| format!("  {line}\n")).collect()
}

/// The same for who asked for all that there is: nothing is cut.
pub(crate) fn wide_table(headers: &[&str], rows: Vec<Vec<String>>) -> String {
    laid_out(headers, rows, None)
}

/// How many columns the terminal has that data goes to, if it goes to one.
fn terminal_width() -> Option<usize> {
    // Tests compare tables, from wherever they are run.
    if cfg!(test) {
        return None;
    }
    let out = std::io::stdout();
    let size = if out.is_terminal() { rustix::termios::tcgetwinsize(&out).ok() } else { None };
    size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

fn laid_out(headers: &[&str], mut rows: Vec<Vec<String>>, width: Option<usize>) -> String {
    let whole = columns(headers, rows.clone());
    let is_too_wide = |text: &str, width: usize| text.lines().any(|line| line.chars().count() > width);
    let Some(width) = width.filter(|width| is_too_wide(&whole, *width)) else { return whole };
    let (mut headers, mut below) = (headers.to_vec(), Vec::new());
    let last = headers.len().saturating_sub(1);
    let widest = rows.iter().filter_map(|row| row.get(last)).map(|cell| cell.chars().count()).max();
    if last > 0 && widest.is_some_and(|widest| widest > LONGEST_WORD) {
        below = headers.pop().map(str::to_owned).into_iter().collect();
        below.extend(rows.iter_mut().map(|row| row.pop().unwrap_or_default()));
    }
    let mut widths: Vec<usize> = headers.iter().map(|header| header.chars().count()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    while widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1) > width {
        match widths.iter_mut().max() {
            Some(widest) if *widest > NARROWEST => *widest -= 1,
            _ => break,
        }
    }
    for row in &mut rows {
        row.iter_mut().zip(&widths).for_each(|(cell, width)| *cell = cut(cell, *width));
    }
    let mut below = below.iter();
    let mut out = String::new();
    for line in columns(&headers, rows).lines() {
        out.push_str(&format!("{}\n", cut(line, width)));
        if let Some(text) = below.next().filter(|text| *text != "-") {
            let lines = wrapped(&printable(text), width.saturating_sub(MARGIN.len()).max(NARROWEST));
            lines.iter().for_each(|line| out.push_str(&format!("{MARGIN}{line}\n")));
        }
    }
    out
}

/// The text, or its beginning with a sign that it goes on.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// The text in lines of so many characters; a longer word is broken.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let length = word.chars().count();
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + length <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => {
                let chars: Vec<char> = word.chars().collect();
                lines.extend(chars.chunks(width.max(1)).map(|part| part.iter().collect::<String>()));
            }
        }
    }
    lines
}

fn columns(headers: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headers.iter().copied());
    for row in rows {
        // What a hostile agent or file calls itself must not reach the terminal as commands.
        table.add_row(row.into_iter().map(|cell| printable(&cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, u16::try_from(GAP).unwrap_or_default()));
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
        || matches!(c, '\u{2028}' | '\u{2029}')
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
    fn what_is_wider_than_the_terminal_goes_below_or_is_cut() {
        let because = "no policy permits it any longer; web-reads-orders, which permitted it until now, says nothing of it";
        let row = |caller: &str, because: &str| {
            let cells = [caller, "orders:8080", "GET", "/orders/1 and 1 more", "allow", "deny", "3", because];
            cells.map(str::to_owned).to_vec()
        };
        let headers = ["CALLER", "CALLEE", "ACTION", "ROUTE", "NOW", "DRAFT", "COUNT", "BECAUSE"];
        let long = "others: spiffe://partner.example/some/long/path";
        let rows = vec![row("web", because), row(long, "-")];
        let whole = laid_out(&headers, rows.clone(), None);
        assert!(whole.lines().any(|line| line.ends_with(because)));
        assert_eq!(laid_out(&headers, rows.clone(), Some(500)), whole);
        for width in [40, 80, 120] {
            let narrow = laid_out(&headers, rows.clone(), Some(width));
            assert!(narrow.lines().all(|line| line.chars().count() <= width), "{narrow}");
        }
        insta::assert_snapshot!(laid_out(&headers, rows, Some(80)));
        // What is short stays beside the rest.
        let few = vec![vec!["a".repeat(90), "4s".to_owned()]];
        assert_eq!(
            laid_out(&["NAME", "AGE"], few, Some(40)),
            format!("NAME{}AGE\n{}…   4s\n", " ".repeat(33), "a".repeat(33))
        );
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("abcdefgh ij", 5), ["abcde", "fgh", "ij"]);
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
