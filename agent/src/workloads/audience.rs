//! For whom a token is.

use std::sync::Arc;

use thiserror::Error;

/// As the control plane has them: what fits into a header.
const MOST: usize = 32;
const MOST_BYTES: usize = 4 * 1024;

/// At least one name, none empty, in order, each once. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Audience(Arc<[String]>);

/// An audience that cannot be. The fault is whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum AudienceError {
    /// A token for anybody would be good anywhere.
    #[error("a token needs an audience: at least one, and none of them empty")]
    Empty,
    /// More than fits.
    #[error("a token is for at most {MOST} audiences of {MOST_BYTES} bytes together: ask for several")]
    TooLarge,
}

impl Audience {
    pub(super) fn new(mut names: Vec<String>) -> Result<Self, AudienceError> {
        if names.is_empty() || names.iter().any(String::is_empty) {
            return Err(AudienceError::Empty);
        }
        if names.len() > MOST || names.iter().map(String::len).sum::<usize>() > MOST_BYTES {
            return Err(AudienceError::TooLarge);
        }
        names.sort();
        names.dedup();
        Ok(Self(names.into()))
    }

    pub(super) fn names(&self) -> &[String] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_repetition_make_no_other() {
        let audience = |names: &[&str]| Audience::new(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(audience(&["b", "a", "b"]), audience(&["a", "b"]));
        assert_ne!(audience(&["a"]), audience(&["a", "b"]));
        assert_eq!(audience(&[]), Err(AudienceError::Empty));
        assert_eq!(audience(&["a", ""]), Err(AudienceError::Empty));
        assert_eq!(audience(&["a"; 33]), Err(AudienceError::TooLarge));
        assert_eq!(audience(&["x".repeat(4_097).as_str()]), Err(AudienceError::TooLarge));
    }
}
