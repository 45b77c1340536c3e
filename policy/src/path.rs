//! The one spelling of a request's path: what is matched is what is forwarded.

use std::borrow::Cow;
use std::fmt;

use thiserror::Error;

use crate::escapes::hex_value;

/// The path of a request in its only accepted spelling, and the query beside it.
///
/// Policies and routes are matched against [`path`](Self::path), and the same bytes are forwarded, so that no server
/// behind can read another path than the one that was decided. Made by these rules:
///
/// - escapes of characters that may stand raw in a path (RFC 3986 §3.3 `pchar`) are decoded, except `+`, which some
///   servers read as a space when raw; all other escapes are upper-cased; raw ``"<>[]^`{|}`` are escaped;
/// - runs of slashes become one. Merging rather than refusing, because joined URLs such as `base/` + `/orders` are a
///   common and harmless mistake, and the merged path is what the server receives;
/// - whatever servers are known to read in different ways is refused, see [`AmbiguousPath`].
///
/// Case is kept, and so is a trailing slash: a server that ignores either needs its forbids written by prefix.
/// Borrows from the request unless something had to be rewritten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalPath<'a> {
    path: Cow<'a, str>,
    query: Option<&'a str>,
    /// Its other reading, where it holds escaped slashes that were let stand.
    with_slashes: Option<String>,
}

/// What becomes of a path with an escaped slash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EscapedSlashes {
    /// It is refused as ambiguous.
    #[default]
    Reject,
    /// The escape stands, in capitals, and is part of its segment. The path then has a second reading, with slashes in
    /// their place, which must be as canonical, and be let through as well: servers are known that take the one for the
    /// other.
    Keep,
}

/// Why a request target has no single reading. The fault is the caller's: answer 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AmbiguousPath {
    /// It does not begin with a slash, and is not the `*` of `OPTIONS`.
    #[error("the path does not begin with \"/\"")]
    NotAbsolute,
    /// A space or a control character stands in it unescaped, or in the path a character outside ASCII. One in the
    /// query is for whoever knows its listener to refuse.
    #[error("the request target holds a character that must be escaped")]
    RawCharacter,
    /// A control character is hidden in an escape.
    #[error("the path holds an escaped control character")]
    Control,
    /// A `%` without two hexadecimal digits after it.
    #[error("the path holds \"%\" without two hexadecimal digits")]
    Escape,
    /// An escaped percent sign that begins another escape, which some servers decode twice.
    #[error("the path is escaped twice")]
    DoubleEscape,
    /// Escapes that are not UTF-8, overlong dots and slashes among them.
    #[error("the path's escapes are not UTF-8")]
    NotUtf8,
    /// An escaped slash: a separator for some servers, a character for others.
    #[error("the path holds an escaped slash")]
    EscapedSlash,
    /// A backslash, raw or escaped, which some servers take for a slash.
    #[error("the path holds a backslash")]
    Backslash,
    /// A semicolon, raw or escaped: some servers cut the path parameter off and so read `/..;/` or `/admin;x`
    /// otherwise.
    #[error("the path holds a semicolon")]
    Parameter,
    /// A segment `.` or `..`, raw or escaped.
    #[error("the path holds a dot segment")]
    DotSegment,
    /// A `#`, which never belongs in a request.
    #[error("the request target holds a fragment")]
    Fragment,
}

impl<'a> CanonicalPath<'a> {
    /// Canonicalises the target of a request with this method: origin form, `path` or `path?query`; or `*`, which
    /// only `OPTIONS` may have (RFC 9112 §3.2).
    ///
    /// # Errors
    /// The target has no single reading.
    pub fn parse(method: &str, target: &'a str) -> Result<Self, AmbiguousPath> {
        Self::parse_with(method, target, EscapedSlashes::Reject)
    }

    /// The same where escaped slashes may perhaps stand.
    ///
    /// # Errors
    /// The target has no single reading, or of the two that escaped slashes give it one is no canonical path.
    pub fn parse_with(method: &str, target: &'a str, escaped: EscapedSlashes) -> Result<Self, AmbiguousPath> {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        check_query(query.unwrap_or_default())?;
        if target == "*" && method == "OPTIONS" {
            return Ok(Self { path: Cow::Borrowed(path), query, with_slashes: None });
        }
        if !path.starts_with('/') {
            return Err(AmbiguousPath::NotAbsolute);
        }
        let path = match rewrite_unless_plain(path, escaped)? {
            Some(rewritten) if rewritten != path => Cow::Owned(rewritten),
            _ => Cow::Borrowed(path),
        };
        if has_dot_segment(&path) {
            return Err(AmbiguousPath::DotSegment);
        }
        let with_slashes = match escaped {
            EscapedSlashes::Reject => None,
            EscapedSlashes::Keep => with_slashes(&path)?,
        };
        Ok(Self { path, query, with_slashes })
    }

    /// The path, without the query.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The query, untouched, without its question mark.
    pub fn query(&self) -> Option<&str> {
        self.query
    }

    /// The reading in which escaped slashes are slashes, if it has any: as a path of its own, with the same query.
    pub fn with_slashes(&self) -> Option<CanonicalPath<'_>> {
        let path = Cow::Borrowed(self.with_slashes.as_deref()?);
        Some(CanonicalPath { path, query: self.query, with_slashes: None })
    }

    /// The one reading of it in which escaped slashes are what they are.
    #[cfg(test)]
    pub(crate) fn as_it_stands(&self) -> CanonicalPath<'_> {
        CanonicalPath { path: Cow::Borrowed(&self.path), query: self.query, with_slashes: None }
    }

    /// Whether it holds escaped slashes, and so has another reading.
    pub fn has_two_readings(&self) -> bool {
        self.with_slashes.is_some()
    }

    /// Whether what must be forwarded differs from what came.
    pub fn was_rewritten(&self) -> bool {
        matches!(self.path, Cow::Owned(_))
    }

    /// The request target to forward.
    pub fn target(&self) -> Cow<'_, str> {
        match self.query {
            None => Cow::Borrowed(&*self.path),
            Some(query) => Cow::Owned(format!("{}?{query}", self.path)),
        }
    }
}

impl fmt::Display for CanonicalPath<'_> {
    /// Writes the path without the query, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

/// As canonical paths spell an escaped slash.
pub(crate) const ESCAPED_SLASH: &str = "%2F";

/// Whether `byte` may stand in a canonical path as itself (a slash included, the escape sign not).
pub(crate) fn stands_raw(byte: u8) -> bool {
    byte.is_ascii() && RAW & 1 << byte != 0
}

/// A bit for each character that may.
const RAW: u128 = {
    let mut bits = 0;
    let mut byte = 0;
    while byte < 128_u8 {
        let may = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'-' | b'.'
                    | b'_'
                    | b'~'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b','
                    | b'='
                    | b':'
                    | b'@'
                    | b'/'
            );
        if may {
            bits |= 1 << byte;
        }
        byte += 1;
    }
    bits
};

fn check_query(query: &str) -> Result<(), AmbiguousPath> {
    for byte in query.bytes() {
        match byte {
            b'#' => return Err(AmbiguousPath::Fragment),
            0..=b' ' | 0x7f => return Err(AmbiguousPath::RawCharacter),
            _ => {}
        }
    }
    Ok(())
}

/// Whether a path, which begins with a slash, holds a segment `.` or `..`.
fn has_dot_segment(path: &str) -> bool {
    let bytes = path.as_bytes();
    bytes.windows(2).enumerate().any(|(at, pair)| {
        let is_end = |after: &[u8]| matches!(after, [] | [b'/', ..]);
        let after = || bytes.get(at + 2..).unwrap_or_default();
        pair == b"/." && (is_end(after()) || after().strip_prefix(b".").is_some_and(is_end))
    })
}

/// The other reading of a canonical path with escaped slashes. It must be as it stands what a canonical path is.
fn with_slashes(path: &str) -> Result<Option<String>, AmbiguousPath> {
    if !path.contains(ESCAPED_SLASH) {
        return Ok(None);
    }
    let read = path.replace(ESCAPED_SLASH, "/");
    let canonical = CanonicalPath::parse("GET", &read)?;
    // Merged slashes: some servers would see an empty segment, and cut it out or not.
    if canonical.was_rewritten() {
        return Err(AmbiguousPath::EscapedSlash);
    }
    Ok(Some(read))
}

fn rewrite_unless_plain(path: &str, escaped: EscapedSlashes) -> Result<Option<String>, AmbiguousPath> {
    // As nearly all paths are.
    let mut former = 0;
    let is_plain = path.bytes().all(|byte| {
        let is_double = former == b'/' && byte == b'/';
        former = byte;
        stands_raw(byte) && !is_double
    });
    if is_plain {
        return Ok(None);
    }
    let decoded = decode(path, escaped)?;
    let mut out = String::with_capacity(path.len() + 8);
    for unit in &decoded {
        match *unit {
            Unit::Escaped(byte) if b"+/".contains(&byte) || !stands_raw(byte) => push_escape(&mut out, byte),
            Unit::Raw(b'/') if out.ends_with('/') => {}
            Unit::Raw(byte) | Unit::Escaped(byte) if stands_raw(byte) => out.push(char::from(byte)),
            Unit::Raw(byte) | Unit::Escaped(byte) => push_escape(&mut out, byte),
        }
    }
    // Looked for in the result, since "%25%32e" only becomes "%252e" when its digit is decoded.
    let mut rest = out.as_str();
    while let Some((_, after)) = rest.split_once("%25") {
        if matches!(after.as_bytes(), [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit()) {
            return Err(AmbiguousPath::DoubleEscape);
        }
        rest = after;
    }
    Ok(Some(out))
}

#[derive(Clone, Copy)]
enum Unit {
    Raw(u8),
    Escaped(u8),
}

impl Unit {
    fn byte(self) -> u8 {
        match self {
            Self::Raw(byte) | Self::Escaped(byte) => byte,
        }
    }
}

fn decode(path: &str, escaped: EscapedSlashes) -> Result<Vec<Unit>, AmbiguousPath> {
    let mut units = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        units.push(match byte {
            b'%' => {
                let high = bytes.next().and_then(hex_value).ok_or(AmbiguousPath::Escape)?;
                let low = bytes.next().and_then(hex_value).ok_or(AmbiguousPath::Escape)?;
                Unit::Escaped(high << 4 | low)
            }
            b'#' => return Err(AmbiguousPath::Fragment),
            0..=b' ' | 0x7f.. => return Err(AmbiguousPath::RawCharacter),
            _ => Unit::Raw(byte),
        });
    }
    for unit in &units {
        match unit {
            Unit::Escaped(b'/') if escaped == EscapedSlashes::Reject => {
                return Err(AmbiguousPath::EscapedSlash);
            }
            Unit::Raw(b'\\') | Unit::Escaped(b'\\') => return Err(AmbiguousPath::Backslash),
            Unit::Raw(b';') | Unit::Escaped(b';') => return Err(AmbiguousPath::Parameter),
            _ => {}
        }
    }
    let bytes: Vec<u8> = units.iter().map(|unit| unit.byte()).collect();
    let text = std::str::from_utf8(&bytes).map_err(|_| AmbiguousPath::NotUtf8)?;
    if text.chars().any(char::is_control) {
        return Err(AmbiguousPath::Control);
    }
    Ok(units)
}

fn push_escape(out: &mut String, byte: u8) {
    out.push('%');
    for nibble in [byte >> 4, byte & 15] {
        out.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0').to_ascii_uppercase());
    }
}

#[cfg(test)]
mod tests;
