//! `kubernetes`: the token of our pod's service account.

use zeroize::Zeroizing;

use super::{EvidenceError, text_of};
use crate::secret_file::SecretFile;

pub(super) async fn read(file: &SecretFile) -> Result<Zeroizing<String>, EvidenceError> {
    let text = text_of(file).await?;
    match text.trim() {
        "" => Err(EvidenceError::Empty(file.path().to_owned())),
        token => Ok(Zeroizing::new(token.to_owned())),
    }
}
