//! Patterns of paths, as command lines write them.

use std::fmt::{self, Write};

use crate::grant::GrantError;
use crate::path_set::{Glob, Step};
use crate::pattern_work::{PatternWork, following_problem};
use crate::qualify::why_not_part_of_canonical;

/// A pattern of canonical paths: literal, except that `*` stands for any characters, **slashes included**, none too.
/// A literal asterisk is written `\*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Wildcard,
}

impl PathPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// No canonical path could match: see [`CanonicalPath`](crate::CanonicalPath).
    pub fn parse(text: &str) -> Result<Self, GrantError> {
        let bad = |reason: String| GrantError::Path { text: text.to_owned(), reason };
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut chars = text.chars();
        while let Some(char) = chars.next() {
            match char {
                '*' => {
                    pieces.extend(Self::literal_piece(&mut literal));
                    pieces.push(Piece::Wildcard);
                }
                '\\' if chars.next() == Some('*') => literal.push('*'),
                '\\' => return Err(bad("write \\* for an asterisk; no path holds a backslash".to_owned())),
                char => literal.push(char),
            }
        }
        pieces.extend(Self::literal_piece(&mut literal));
        if pieces.is_empty() {
            return Err(bad("it is empty".to_owned()));
        }
        let work = PatternWork::of(pieces.iter().map(|piece| match piece {
            Piece::Literal(literal) => Some(literal.as_str()),
            Piece::Wildcard => None,
        }));
        if let Some(problem) = work.problem().or_else(|| following_problem(work.following)) {
            return Err(bad(problem));
        }
        // What `OPTIONS *` asks for is no path, and only that is an asterisk alone.
        let is_of_server = matches!(&pieces[..], [Piece::Literal(literal)] if literal == "*");
        for (index, piece) in pieces.iter().enumerate().filter(|_| !is_of_server) {
            if let Piece::Literal(literal) = piece
                && let Some(reason) = why_not_part_of_canonical(literal, index == 0)
            {
                return Err(bad(reason));
            }
        }
        Ok(Self(pieces))
    }

    /// The pattern that matches this canonical path alone.
    pub fn exactly(path: &str) -> Self {
        Self(vec![Piece::Literal(path.to_owned())])
    }

    /// The one path that it matches, if it is one.
    pub fn as_exact(&self) -> Option<&str> {
        match self.0.as_slice() {
            [Piece::Literal(path)] => Some(path),
            _ => None,
        }
    }

    fn literal_piece(literal: &mut String) -> Option<Piece> {
        (!literal.is_empty()).then(|| Piece::Literal(std::mem::take(literal)))
    }

    /// The paths that it matches.
    pub(crate) fn glob(&self) -> Glob {
        let mut glob = Glob::new(Vec::new());
        for piece in &self.0 {
            match piece {
                Piece::Literal(literal) => glob.push(literal),
                Piece::Wildcard => glob.extend([Step::Any]),
            }
        }
        glob
    }

    /// The comparison, to stand after `context.path`.
    pub(crate) fn to_cedar(&self) -> String {
        if let [Piece::Literal(literal)] = self.0.as_slice() {
            return format!("== {}", quote(literal));
        }
        let parts = self.0.iter().map(|piece| match piece {
            Piece::Literal(literal) => escape(literal).replace('*', "\\*"),
            Piece::Wildcard => "*".to_owned(),
        });
        format!("like \"{}\"", parts.collect::<String>())
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| match piece {
            Piece::Literal(literal) => f.write_str(&literal.replace('*', "\\*")),
            Piece::Wildcard => f.write_char('*'),
        })
    }
}

/// Quotes text for Cedar.
pub(crate) fn quote(text: &str) -> String {
    format!("\"{}\"", escape(text))
}

/// Escapes for a Cedar string.
fn escape(text: &str) -> String {
    text.escape_debug().to_string().replace("\\'", "'")
}
