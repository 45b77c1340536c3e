//! What a control plane is shown by whoever joins: a token, or evidence of where the agent runs.

use std::io;

use zeroize::Zeroizing;

use super::Attempt;
use crate::attestation;
use crate::config::{Config, EnrollmentName, Join};
use crate::secret_file::SecretFile;
use crate::state::TokenDigest;

/// Tokens are far shorter; a larger file is some other file.
const MAX_TOKEN_LEN: u64 = 4_096;

/// What the control plane is shown.
pub(super) enum Evidence {
    Token(Zeroizing<String>),
    Machine(attestation::Evidence, EnrollmentName),
}

/// Reads it from where it was configured. Where tokens are named, another one is wanted than these.
pub(super) async fn read_evidence(config: &Config, spent: &[TokenDigest]) -> Result<Evidence, Attempt> {
    match &config.join {
        None => Err(Attempt::Nothing("neither --join-token-file nor --enrollment is configured".to_owned())),
        Some(Join::TokenFile(file)) => {
            let token = read_token(file).await?;
            if spent.contains(&TokenDigest::of(&token)) {
                return Err(Attempt::Nothing(format!(
                    "{}: it holds a token of before the revocation, and another one is needed",
                    file.path().display()
                )));
            }
            Ok(Evidence::Token(token))
        }
        Some(Join::Evidence { .. }) if !spent.is_empty() => {
            Err(Attempt::Nothing("no --join-token-file is configured".to_owned()))
        }
        Some(Join::Evidence { enrollment, evidence }) => {
            // As a token that is on its way: a machine's certificate may be written, or renewed, at this moment.
            let read = attestation::Evidence::read(evidence).await;
            let read = read.map_err(|error| Attempt::Nothing(error.to_string()))?;
            Ok(Evidence::Machine(read, enrollment.clone()))
        }
    }
}

/// The token that stands where one is looked for, if there is any.
///
/// # Errors
/// There may be one: its file is there and cannot be read, or not now.
pub(crate) async fn token_in(config: &Config) -> Result<Option<TokenDigest>, String> {
    let Some(Join::TokenFile(file)) = &config.join else { return Ok(None) };
    match file.read(MAX_TOKEN_LEN).await {
        Ok(text) => Ok(token_of(&text).map(TokenDigest::of)),
        // What is no text is no token either.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
            Ok(None)
        }
        Err(error) => Err(format!("{}: {error}", file.path().display())),
    }
}

async fn read_token(file: &SecretFile) -> Result<Zeroizing<String>, Attempt> {
    // A file that is not there yet may be on its way: whoever mints tokens need not be faster than we.
    let none =
        |problem: &dyn std::fmt::Display| Attempt::Nothing(format!("{}: {problem}", file.path().display()));
    let text = file.read(MAX_TOKEN_LEN).await.map_err(|error| none(&error))?;
    let token = token_of(&text).ok_or_else(|| none(&"the file is empty"))?;
    Ok(Zeroizing::new(token.to_owned()))
}

/// Whatever stands around it.
fn token_of(text: &str) -> Option<&str> {
    Some(text.trim()).filter(|token| !token.is_empty())
}
