//! Data to standard output, messages to standard error.

use std::fmt::Display;
use std::io::{IsTerminal, Write as _};
use std::os::fd::AsFd;

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

/// To how little a column of sentences is narrowed.
const NARROWEST: usize = 12;

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

/// Shows how far something has come, in a line that the next one replaces; only on a terminal, and cut to its width:
/// of a line that wraps only the last row would be replaced.
pub(crate) fn progress(done: u32, all: u32, text: &str) {
    if is_interactive() {
        let line = format!("{} {text}", bar(done, all));
        // In the last column some terminals go on to the next row.
        let width = width_of(std::io::stderr()).map(|width| width.saturating_sub(1));
        replace_line(&width.map_or_else(|| line.clone(), |width| cut(&line, width)));
    }
}

/// Removes the line that [`progress`] wrote.
pub(crate) fn end_progress() {
    if is_interactive() {
        replace_line("");
    }
}

fn replace_line(text: &str) {
    let mut err = anstream::stderr().lock();
    let _unread = write!(err, "\r\x1b[2K{text}").and_then(|()| err.flush());
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
/// sentences stands below each row, sentences and lists are wrapped within their columns, and what is still too wide
/// stands below each row as well. Nothing is cut: ids and names are there to be copied.
pub(crate) fn table(headers: &[&str], rows: Vec<Vec<String>>) -> String {
    laid_out(headers, rows, terminal_width())
}

/// The same, two characters further right.
pub(crate) fn indented_table(headers: &[&str], rows: Vec<Vec<String>>) -> String {
    let width = terminal_width().map(|width| width.saturating_sub(2));
    laid_out(headers, rows, width).lines().map(|line| format!("  {line}\n")).collect()
}

/// The same for who asked for all that there is: each row in one line.
pub(crate) fn wide_table(headers: &[&str], rows: Vec<Vec<String>>) -> String {
    laid_out(headers, rows, None)
}

/// How many columns the terminal has that data goes to, if it goes to one.
fn terminal_width() -> Option<usize> {
    // Tests compare tables, from wherever they are run.
    if cfg!(test) { None } else { width_of(std::io::stdout()) }
}

fn width_of(stream: impl IsTerminal + AsFd) -> Option<usize> {
    let size = if stream.is_terminal() { rustix::termios::tcgetwinsize(&stream).ok() } else { None };
    size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

fn laid_out(headers: &[&str], mut rows: Vec<Vec<String>>, width: Option<usize>) -> String {
    // What a hostile agent or file calls itself must not reach the terminal as commands.
    rows.iter_mut().flatten().for_each(|cell| *cell = printable(cell));
    let whole = columns(headers, rows.clone());
    let is_too_wide = |text: &str, width: usize| text.lines().any(|line| length(line) > width);
    let Some(width) = width.filter(|width| is_too_wide(&whole, *width)) else { return whole };
    let all = (0..headers.len()).map(|index| Column::new(headers, &rows, index));
    let (mut beside, mut below): (Vec<Column>, Vec<Column>) = (all.collect(), Vec::new());
    if beside.len() > 1 && beside.last().is_some_and(|last| last.whole > LONGEST_WORD) {
        below.extend(beside.pop());
    }
    let excess = |columns: &[Column], of: fn(&Column) -> usize| {
        (columns.iter().map(of).sum::<usize>() + GAP * columns.len().saturating_sub(1)).saturating_sub(width)
    };
    while beside.len() > 1 {
        let excess = excess(&beside, |column| column.narrowest);
        if excess == 0 {
            break;
        }
        let leaves = leaves(&beside, excess, width);
        below.push(beside.remove(leaves));
    }
    below.sort_by_key(|column| column.index);
    while excess(&beside, |column| column.width) > 0 {
        let widest = beside.iter_mut().filter(|column| column.width > column.narrowest);
        let Some(widest) = widest.max_by_key(|column| column.width) else { break };
        widest.width -= 1;
    }
    let shown: Vec<Vec<Vec<String>>> = rows.iter().map(|row| wrapped_cells(row, &beside)).collect();
    let heights = shown.iter().map(|row| row.iter().map(Vec::len).max().unwrap_or_default().max(1));
    let heights: Vec<usize> = std::iter::once(1).chain(heights).collect();
    let names: Vec<&str> = beside.iter().filter_map(|column| headers.get(column.index).copied()).collect();
    let cells = shown.into_iter().map(|row| row.into_iter().map(|lines| lines.join("\n")).collect());
    let text = columns(&names, cells.collect());
    let mut lines = text.lines();
    let mut out = String::new();
    for (row, height) in std::iter::once(None).chain(rows.iter().map(Some)).zip(heights) {
        lines.by_ref().take(height).for_each(|line| out.push_str(&format!("{line}\n")));
        for column in &below {
            let header = headers.get(column.index).copied().unwrap_or_default();
            let text = match (row, below.len()) {
                (None, 1) => header.to_owned(),
                // Of several, each says in its own line what it is.
                (None, _) => continue,
                (Some(row), several) => match row.get(column.index).map(String::as_str) {
                    None | Some("-") => continue,
                    Some(text) if several > 1 => format!("{header}: {text}"),
                    Some(text) => text.to_owned(),
                },
            };
            let lines = wrapped(&text, width.saturating_sub(MARGIN.len()).max(NARROWEST));
            lines.iter().for_each(|line| out.push_str(&format!("{MARGIN}{line}\n")));
        }
    }
    out
}

/// Which of several columns stands below, where they are too wide by so much: sentences before words, and of those one that
/// makes room enough. The first says what each row is about, and stays unless it takes half the width alone.
fn leaves(columns: &[Column], excess: usize, width: usize) -> usize {
    let is_long = columns.first().is_some_and(|first| first.narrowest > width / 2);
    let others = || columns.iter().enumerate().skip(usize::from(!is_long));
    let sentence = others().filter(|(_, column)| column.narrowest * 2 < column.whole);
    let sentence = sentence.max_by_key(|(_, column)| column.whole);
    let enough = || others().filter(|(_, column)| column.narrowest + GAP >= excess);
    let chosen = sentence.or_else(|| enough().min_by_key(|(_, column)| column.narrowest));
    let chosen = chosen.or_else(|| others().max_by_key(|(_, column)| column.narrowest));
    chosen.map_or(columns.len().saturating_sub(1), |(at, _)| at)
}

/// A column of a table that is too wide.
struct Column {
    /// Which, counted from zero.
    index: usize,
    /// How wide its cells are, the header left aside.
    whole: usize,
    /// How wide it is made.
    width: usize,
    /// How narrow it may be made: a word is never broken.
    narrowest: usize,
}

impl Column {
    fn new(headers: &[&str], rows: &[Vec<String>], index: usize) -> Self {
        let header = headers.get(index).map_or(0, |header| length(header));
        let cells = rows.iter().filter_map(|row| row.get(index));
        let whole = cells.clone().map(|cell| length(cell)).max().unwrap_or_default();
        let least = |cell: &String| {
            let longest = parts(cell).map(|part| length(part.trim_end())).max().unwrap_or_default();
            longest.max(length(cell).min(NARROWEST))
        };
        let narrowest = cells.map(least).max().unwrap_or_default().max(header);
        Self { index, whole, width: whole.max(header), narrowest }
    }
}

fn wrapped_cells(row: &[String], columns: &[Column]) -> Vec<Vec<String>> {
    let cell = |column: &Column| row.get(column.index).map(|cell| wrapped(cell, column.width));
    columns.iter().map(|column| cell(column).unwrap_or_default()).collect()
}

fn length(text: &str) -> usize {
    text.chars().count()
}

/// The text, or its beginning with a sign that it goes on.
fn cut(text: &str, width: usize) -> String {
    if length(text) <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// The words of a text and the items of its lists, each with what divides it from the next.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive([' ', ','])
}

/// The text in lines of so many characters; a longer word has a line of its own.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in parts(text) {
        let word = part.trim_end();
        match lines.last_mut() {
            Some(line) if word.is_empty() || length(line) + length(word) <= width => line.push_str(part),
            _ if word.is_empty() => {}
            _ => lines.push(part.to_owned()),
        }
    }
    lines.iter().map(|line| line.trim_end().to_owned()).collect()
}

fn columns(headers: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headers.iter().copied());
    for row in rows {
        table.add_row(row);
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

    /// The words of a table's cells, without the headers: those above it, and one before what is below a row, if that
    /// is several things.
    fn words(headers: &[&str], table: &str) -> Vec<String> {
        let mut lines = table.lines().skip(1).peekable();
        let is_header = |line: &&str| line.strip_prefix(MARGIN).is_some_and(|below| headers.contains(&below));
        let is_one_thing = lines.next_if(is_header).is_some();
        let cells = lines.map(|line| match line.strip_prefix(MARGIN) {
            Some(below) if !is_one_thing => {
                let named = headers.iter().find_map(|header| below.strip_prefix(&format!("{header}:")));
                named.unwrap_or(below)
            }
            _ => line,
        });
        let mut words: Vec<String> = cells.flat_map(str::split_whitespace).map(str::to_owned).collect();
        words.retain(|word| word != "-");
        words.sort();
        words
    }

    #[test]
    fn what_is_wider_than_the_terminal_is_wrapped_or_goes_below_and_nothing_is_cut() {
        let because = "no policy permits it any longer; web-reads-orders, which permitted it until now, says nothing of it";
        let row = |caller: &str, because: &str| {
            let cells = [caller, "orders:8080", "GET", "/orders/1 and 1 more", "allow", "deny", "3", because];
            cells.map(str::to_owned).to_vec()
        };
        let headers = ["CALLER", "CALLEE", "ACTION", "ROUTE", "NOW", "DRAFT", "COUNT", "BECAUSE"];
        let long = "spiffe://partner.example/some/path";
        let rows = vec![row("web", because), row(long, "-")];
        let whole = laid_out(&headers, rows.clone(), None);
        assert!(whole.lines().any(|line| line.ends_with(because)));
        assert_eq!(laid_out(&headers, rows.clone(), Some(500)), whole);
        // One that is called as a column is.
        let with_its_like = [rows.clone(), vec![row("COUNT", "NOW: DRAFT")]].concat();
        let whole = words(&headers, &laid_out(&headers, with_its_like.clone(), None));
        for width in [40, 80, 120] {
            let narrow = laid_out(&headers, with_its_like.clone(), Some(width));
            assert!(narrow.lines().all(|line| length(line) <= width), "{narrow}");
            assert_eq!(words(&headers, &narrow), whole, "{narrow}");
            for other in [row("-", "NOW: DRAFT"), row("COUNT", "NOW:")] {
                let lacking = [rows.clone(), vec![other]].concat();
                let lacking = laid_out(&headers, lacking, Some(width));
                assert_ne!(words(&headers, &lacking), whole, "{lacking}");
            }
        }
        insta::assert_snapshot!(laid_out(&headers, rows, Some(80)));
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("abcdefgh ij", 5), ["abcdefgh", "ij"]);
        assert_eq!(wrapped("8080/http,9090/grpc,7", 11), ["8080/http,", "9090/grpc,7"]);
        assert_eq!(wrapped("one, two", 20), ["one, two"]);
        assert_eq!(wrapped(" - ", 5), ["-"]);
    }

    #[test]
    fn a_name_is_never_cut_beside_text_that_can_be_wrapped() {
        let name = "allow-web-to-orders-get-orders-and-a-hash-0123456789abcdef";
        let row =
            [name, "ENFORCE", "-", "1 permit", "The web shop reads the orders that its people made", "3s"];
        let headers = ["NAME", "MODE", "WOULD DENY", "STATEMENTS", "DESCRIPTION", "AGE"];
        insta::assert_snapshot!(laid_out(&headers, vec![row.map(str::to_owned).to_vec()], Some(100)));
        // What fits nowhere beside the first column stands below.
        let serial = "0123456789abcdef0123456789abcdef";
        let id = "spiffe://shop.example/mesh/shop/node/orders";
        let row = [serial, id, "vj85pstwk8", "in 59m", "1s ago"].map(str::to_owned).to_vec();
        let headers = ["SERIAL", "SPIFFE-ID", "INSTANCE", "EXPIRES", "ISSUED"];
        insta::assert_snapshot!(laid_out(&headers, vec![row], Some(100)));
        let row =
            [&serial.repeat(2), "view-key", "active", "25s", "in 89d", "5", "sealed", &serial.repeat(2)];
        let headers = ["SERIAL", "KIND", "STATE", "SINCE", "EXPIRES", "HOLDERS", "KEY", "FINGERPRINT"];
        insta::assert_snapshot!(laid_out(&headers, vec![row.map(str::to_owned).to_vec()], Some(100)));
        let row = ["2026-11-30T00:00:01Z", "token:bf227f0e108c", "127.0.0.1:46094", "enrollment.attest"];
        let row = row.into_iter().chain(["mesh/shop/node/intruder", "ok"]).map(str::to_owned).collect();
        let headers = ["AT", "WHO", "FROM", "DID", "TO", "OUTCOME"];
        insta::assert_snapshot!(laid_out(&headers, vec![row], Some(100)));
    }

    #[test]
    fn a_line_of_progress_is_cut_to_the_terminal() {
        assert_eq!(cut("waiting for web, orders", 12), "waiting for…");
        assert_eq!(cut("short", 5), "short");
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
