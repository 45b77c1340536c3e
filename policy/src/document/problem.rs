//! What is wrong with a policy's text, and where.

use std::fmt;

use thiserror::Error;

/// One mistake in a policy's text. The fault is the author's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct PolicyProblem {
    /// One-based line.
    pub line: usize,
    /// One-based column, in characters.
    pub column: usize,
    /// How many characters are concerned, at least 1.
    pub length: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it, where that is known.
    pub help: Option<String>,
}

impl fmt::Display for PolicyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}
