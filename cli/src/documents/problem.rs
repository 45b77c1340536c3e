//! What is wrong in files, shown with the line it stands on.

use std::fmt::{self, Write as _};
use std::path::PathBuf;

use owo_colors::OwoColorize as _;

use super::yaml::Position;
use crate::output::{printable, printable_lines};

/// How much of a line is shown.
const WIDTH: usize = 100;

/// How many problems are shown; the others are counted.
const SHOWN: usize = 50;

/// The longest path and message, in characters: both may repeat what stands in the file.
const LONGEST_TEXT: usize = 1_000;

/// A file, or standard input, as it was read.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// As the user named it; `-` for standard input.
    pub(crate) name: String,
    pub(crate) text: String,
    /// Where the file lies; standard input lies nowhere.
    pub(crate) folder: Option<PathBuf>,
}

/// One thing that is wrong at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Which source.
    pub(crate) source: usize,
    pub(crate) at: Position,
    /// How many characters the carets underline.
    pub(crate) length: usize,
    /// `spec.listeners[0].portMapping.port`; empty where the text itself is at fault.
    pub(crate) path: String,
    pub(crate) message: String,
}

/// Everything that is wrong, in the order of the files.
#[derive(Debug)]
pub(crate) struct Problems {
    pub(crate) sources: Vec<Source>,
    pub(crate) problems: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut problems: Vec<&Problem> = self.problems.iter().collect();
        problems.sort_by_key(|problem| (problem.source, problem.at));
        for problem in problems.iter().take(SHOWN) {
            let source = self.sources.get(problem.source);
            let name = source.map_or("?", |source| source.name.as_str());
            let line = source.and_then(|source| source.text.lines().nth(problem.at.line.saturating_sub(1)));
            f.write_str(&render(name, line, problem))?;
        }
        let count = problems.len();
        if count > SHOWN {
            writeln!(f, "and {} more", count - SHOWN)?;
        }
        write!(f, "{count} problem{}", if count == 1 { "" } else { "s" })
    }
}

impl std::error::Error for Problems {}

fn render(name: &str, line: Option<&str>, problem: &Problem) -> String {
    let Position { line: number, column } = problem.at;
    let place = format!("{}:{number}:{column}:", printable(name));
    let path = if problem.path.is_empty() { String::new() } else { format!("{}: ", cut(&problem.path)) };
    let mut out = format!("{} {path}{}\n", place.bold(), cut(&problem.message));
    if let Some(line) = line.filter(|line| !line.trim().is_empty()) {
        let (shown, offset) = excerpt(line, column);
        let gutter = number.to_string();
        let blank = " ".repeat(gutter.len());
        let room = shown.chars().count().saturating_sub(offset).max(1);
        let carets = "^".repeat(problem.length.clamp(1, room));
        let indent = " ".repeat(offset);
        let _infallible = writeln!(out, " {} {}", format!("{gutter} |").dimmed(), shown.trim_end());
        let _infallible = writeln!(out, " {} {indent}{}", format!("{blank} |").dimmed(), carets.red().bold());
    }
    out
}

/// A text that may hold anything, as it can be shown.
fn cut(text: &str) -> String {
    match text.char_indices().nth(LONGEST_TEXT) {
        Some((end, _)) => format!("{}…", printable_lines(text.get(..end).unwrap_or_default())),
        None => printable_lines(text),
    }
}

/// The part of a line around a column, without what would command a terminal; and where the column is in it.
fn excerpt(line: &str, column: usize) -> (String, usize) {
    let offset = column.saturating_sub(1);
    let start = if offset < WIDTH { 0 } else { offset - WIDTH / 2 };
    let mut shown: String =
        printable(&line.chars().skip(start).take(WIDTH).collect::<String>()).replace('\u{fffd}', " ");
    if line.chars().nth(start + WIDTH).is_some() {
        shown.push('…');
    }
    if start == 0 { (shown, offset) } else { (format!("…{shown}"), offset - start + 1) }
}
