//! `kubernetes`: the token of our pod's service account.

use std::path::Path;

use zeroize::Zeroizing;

use super::{EvidenceError, text_of};

pub(super) fn read(path: &Path) -> Result<Zeroizing<String>, EvidenceError> {
    let text = text_of(path)?;
    match text.trim() {
        "" => Err(EvidenceError::Empty(path.to_owned())),
        token => Ok(Zeroizing::new(token.to_owned())),
    }
}
