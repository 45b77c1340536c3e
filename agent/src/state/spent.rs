//! Which token does not let a revoked agent in again: the one that lay there already when the agent heard that it is
//! revoked. Nobody has made it because of that.

use std::fmt;
use std::str::FromStr;

use hauberk_identity::{Serial, SerialError};
use thiserror::Error;

use super::token::{NoDigest, TokenDigest};
use super::{SPENT_TOKEN, State, StateError};

/// What lay there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpentToken {
    /// The certificate that was revoked: of another one this says nothing.
    pub certificate: Serial,
    /// The token that was found, if there was any.
    pub found: Option<TokenDigest>,
}

/// What is to say so does not.
#[derive(Debug, Error)]
pub enum NoSpentToken {
    /// It names no certificate.
    #[error("it names no certificate: {0}")]
    Certificate(#[from] SerialError),
    /// It names no token.
    #[error("it names no token: {0}")]
    Token(#[from] NoDigest),
}

impl State {
    /// Which token does not let us in again, if we were revoked.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn spent_token(&self) -> Result<Option<SpentToken>, StateError> {
        self.read_text(SPENT_TOKEN)
    }

    /// Keeps that no longer.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn forget_spent_token(&self) -> Result<(), StateError> {
        self.remove(SPENT_TOKEN)
    }
}

impl fmt::Display for SpentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { certificate, found } = self;
        write!(f, "{certificate}")?;
        found.map_or(Ok(()), |token| write!(f, " {token}"))
    }
}

impl FromStr for SpentToken {
    type Err = NoSpentToken;

    fn from_str(text: &str) -> Result<Self, NoSpentToken> {
        let (certificate, token) =
            text.split_once(' ').map_or((text, None), |(certificate, token)| (certificate, Some(token)));
        Ok(Self { certificate: certificate.parse()?, found: token.map(str::parse).transpose()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_is_written() {
        let certificate = Serial::from_random([7; 16]);
        for found in [None, Some(TokenDigest::of("hbk1-one"))] {
            let spent = SpentToken { certificate, found };
            assert_eq!(spent.to_string().parse::<SpentToken>().unwrap(), spent);
        }
        for bad in [String::new(), format!("{certificate} "), format!("{certificate} x"), "x".to_owned()] {
            assert!(bad.parse::<SpentToken>().is_err(), "{bad:?}");
        }
    }
}
