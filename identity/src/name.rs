//! Names of resources: meshes, virtual nodes, policies and so on.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// The longest name, in bytes.
const MAX_LEN: usize = 255;

/// The name of one resource: 1 to 255 bytes of `[A-Za-z0-9._-]`, and neither `.` nor `..`.
///
/// Exactly what may stand as one path segment of a SPIFFE id. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Why a text is not a [`Name`]. The fault is whoever wrote the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("a name must not be empty")]
    Empty,
    /// More than 255 bytes were given.
    #[error("a name has at most 255 bytes, this one has {0}")]
    TooLong(usize),
    /// `.` or `..` was given.
    #[error("a name must not be \".\" or \"..\"")]
    Dots,
    /// A character outside `[A-Za-z0-9._-]` was given.
    #[error("a name consists of A-Z a-z 0-9 . _ - and must not contain {0:?}")]
    Character(char),
}

impl Name {
    /// Parses a name.
    ///
    /// # Errors
    /// Says which rule of [`Name`] the text breaks.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check_segment(text)?;
        if text.len() > MAX_LEN {
            return Err(NameError::TooLong(text.len()));
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Checks the characters of one path segment, whose length only the whole SPIFFE id limits.
pub(crate) fn check_segment(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text == "." || text == ".." {
        return Err(NameError::Dots);
    }
    match text.chars().find(|c| !matches!(c, 'A'..='Z' | 'a'..='z' | '0'..='9' | '.' | '_' | '-')) {
        Some(c) => Err(NameError::Character(c)),
        None => Ok(()),
    }
}

/// Whether `segment`, already known to be well-formed, is short enough to be a [`Name`].
pub(crate) fn fits(segment: &str) -> bool {
    segment.len() <= MAX_LEN
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_with_the_rule_that_is_broken() {
        assert_eq!(Name::parse(""), Err(NameError::Empty));
        assert_eq!(Name::parse("."), Err(NameError::Dots));
        assert_eq!(Name::parse(".."), Err(NameError::Dots));
        assert_eq!(Name::parse("a/b"), Err(NameError::Character('/')));
        assert_eq!(Name::parse("é"), Err(NameError::Character('é')));
        assert_eq!(Name::parse(&"a".repeat(256)), Err(NameError::TooLong(256)));
        assert!(Name::parse(&"a".repeat(255)).is_ok());
        assert!(Name::parse("...").is_ok());
    }

    #[test]
    fn is_found_in_a_map_by_its_text() {
        let map = BTreeMap::from([(Name::parse("orders").unwrap(), 1)]);
        assert_eq!(map.get("orders"), Some(&1));
        assert_eq!(Name::parse("orders").unwrap(), "orders");
    }

    proptest! {
        #[test]
        fn prints_what_it_parsed(text in "[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}") {
            prop_assert_eq!(Name::parse(&text).unwrap().to_string(), text);
        }

        #[test]
        fn never_panics(text in ".*") {
            if let Ok(name) = Name::parse(&text) {
                prop_assert!(name.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)));
            }
        }
    }
}
