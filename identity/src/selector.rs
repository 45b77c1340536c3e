//! Selectors: what must be true of a program for it to get an identity.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// The longest path, in bytes (`PATH_MAX` of Linux).
const MAX_PATH: usize = 4096;

/// One thing that an agent can find out about a program on its own host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// `unix:uid:1000`: it runs as this user.
    UnixUid(u32),
    /// `unix:gid:1000`: its own group is this one.
    UnixGid(u32),
    /// `unix:supplementary_gid:27`: it is in this group besides.
    UnixSupplementaryGid(u32),
    /// `unix:path:/usr/bin/worker`: its executable is this file.
    UnixPath(Arc<str>),
    /// `unix:sha256:…`: its executable has this SHA-256.
    UnixSha256([u8; 32]),
}

/// Why a text is no [`Selector`]. The fault is whoever wrote the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SelectorError {
    /// It begins with nothing that is known.
    #[error("it begins with none of {}", Selector::KINDS.join(", "))]
    Kind,
    /// Not a user's or group's number.
    #[error("a number of a user or group is needed, such as 1000, without leading zeros")]
    Number,
    /// Not the path of a file, in its one spelling.
    #[error(
        "an absolute path is needed, without \"//\", \"/./\", \"/../\", control characters or a slash at its end"
    )]
    Path,
    /// Not a digest.
    #[error("64 hexadecimal digits in lower case are needed")]
    Digest,
}

impl Selector {
    /// How each kind of selector begins.
    pub const KINDS: [&'static str; 5] =
        ["unix:uid:", "unix:gid:", "unix:supplementary_gid:", "unix:path:", "unix:sha256:"];

    /// Parses a selector. One thing has one spelling.
    ///
    /// # Errors
    /// Says what would be right.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        if let Some(number) = text.strip_prefix("unix:uid:") {
            parse_number(number).map(Self::UnixUid)
        } else if let Some(number) = text.strip_prefix("unix:gid:") {
            parse_number(number).map(Self::UnixGid)
        } else if let Some(number) = text.strip_prefix("unix:supplementary_gid:") {
            parse_number(number).map(Self::UnixSupplementaryGid)
        } else if let Some(path) = text.strip_prefix("unix:path:") {
            if is_path(path) { Ok(Self::UnixPath(path.into())) } else { Err(SelectorError::Path) }
        } else if let Some(digest) = text.strip_prefix("unix:sha256:") {
            parse_digest(digest).map(Self::UnixSha256).ok_or(SelectorError::Digest)
        } else {
            Err(SelectorError::Kind)
        }
    }
}

fn parse_number(text: &str) -> Result<u32, SelectorError> {
    let number: u32 = text.parse().map_err(|_| SelectorError::Number)?;
    if number.to_string() == text { Ok(number) } else { Err(SelectorError::Number) }
}

fn is_path(path: &str) -> bool {
    let segments = || path.split('/').skip(1);
    path.starts_with('/')
        && path.len() <= MAX_PATH
        && !path.chars().any(char::is_control)
        && segments().all(|segment| !matches!(segment, "" | "." | ".."))
}

fn parse_digest(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    let is_lower_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != 64 || !text.bytes().all(is_lower_hex) {
        return None;
    }
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(digest)
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnixUid(uid) => write!(f, "unix:uid:{uid}"),
            Self::UnixGid(gid) => write!(f, "unix:gid:{gid}"),
            Self::UnixSupplementaryGid(gid) => write!(f, "unix:supplementary_gid:{gid}"),
            Self::UnixPath(path) => write!(f, "unix:path:{path}"),
            Self::UnixSha256(digest) => {
                f.write_str("unix:sha256:")?;
                digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_has_one_spelling() {
        let digest = format!("unix:sha256:{}", "0a".repeat(32));
        for text in
            ["unix:uid:0", "unix:gid:4294967295", "unix:supplementary_gid:27", "unix:path:/a b", &digest]
        {
            assert_eq!(Selector::parse(text).unwrap().to_string(), *text);
        }
        for (text, error) in [
            ("", SelectorError::Kind),
            ("unix:user:root", SelectorError::Kind),
            ("UNIX:uid:1", SelectorError::Kind),
            ("unix:uid:", SelectorError::Number),
            ("unix:uid:+1", SelectorError::Number),
            ("unix:uid:01", SelectorError::Number),
            ("unix:uid:-1", SelectorError::Number),
            ("unix:uid:4294967296", SelectorError::Number),
            ("unix:path:usr/bin/x", SelectorError::Path),
            ("unix:path:/", SelectorError::Path),
            ("unix:path:/usr//bin", SelectorError::Path),
            ("unix:path:/usr/../bin", SelectorError::Path),
            ("unix:path:/usr/bin/", SelectorError::Path),
            ("unix:path:/usr\n", SelectorError::Path),
            ("unix:sha256:00", SelectorError::Digest),
        ] {
            assert_eq!(Selector::parse(text), Err(error), "{text}");
        }
        assert!(Selector::parse(&digest.to_uppercase().replace("UNIX:SHA", "unix:sha")).is_err());
    }
}
