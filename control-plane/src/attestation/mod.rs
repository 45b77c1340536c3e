//! Verifies the evidence that agents show of where they run. What they become by it is for enrollments to say.
//!
//! Whoever shows evidence is a stranger: what it may cost is bounded before anything is computed, and nothing is kept of
//! those who are refused but an audit record.

mod aws;
mod kubernetes;
mod places;
mod token_review;
mod x509pop;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hauberk_identity::{Attestor, EvidenceSelector, UnixMillis};
use hauberk_tls::cms::DocumentError;
use hauberk_tls::device::{ChannelBinding, DeviceError};
use hauberk_tls::jwt::{IssuedTokenError, JwtSvidError, MAX_TOKEN_BYTES};
use hauberk_tls::{Fingerprint, PublicKey, VerifyError};
use zeroize::Zeroizing;

use crate::resources::EvidenceSource;
pub use token_review::{ReviewCluster, ReviewError, TokenReviewers, Unreviewed};

/// What an agent shows.
#[derive(Clone)]
pub enum Evidence {
    /// A machine's certificate and proof of possession of its key.
    X509Pop {
        /// DER, the machine's own first.
        chain: Vec<Vec<u8>>,
        /// Over [`hauberk_tls::device::statement`].
        signature: Vec<u8>,
    },
    /// The token of a pod's service account.
    Kubernetes(Zeroizing<String>),
    /// An EC2 instance's identity document and its signature: CMS, in base64.
    Aws(String),
}

/// On what occasion it is shown.
#[derive(Clone, Copy)]
pub struct Occasion<'a> {
    /// The connection.
    pub channel: &'a ChannelBinding,
    /// The agent's own key, which is to be certified.
    pub agent_key: &'a PublicKey,
    /// The mesh of the enrollment.
    pub mesh: &'a str,
    /// Its name.
    pub enrollment: &'a str,
    /// Whence it came: an IPv4 address, or an IPv6 network.
    pub network: &'a str,
    /// The time.
    pub now: UnixMillis,
}

/// Evidence that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    /// By what.
    pub attestor: Attestor,
    /// Whose it is: the machine's, whatever is printed of it. Told to admins.
    pub subject: String,
    /// All that is true of it.
    pub selectors: BTreeSet<EvidenceSelector>,
    /// Who vouched for it, of those that the enrollment names: see [`still_believed`].
    pub voucher: String,
}

/// Why evidence is not believed. The caller is told that it is not, and nothing else.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// Evidence of another kind than the enrollment's.
    #[error("the enrollment takes {wanted} evidence, and {shown} was shown")]
    OtherKind {
        /// The enrollment's.
        wanted: Attestor,
        /// What was shown.
        shown: Attestor,
    },
    /// Of a machine's certificate.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A token larger than any is.
    #[error("the token has {0} bytes; {MAX_TOKEN_BYTES} are the most")]
    TokenTooLong(usize),
    /// Of a cluster's token.
    #[error(transparent)]
    Token(#[from] IssuedTokenError),
    /// Of a cluster that was asked.
    #[error(transparent)]
    Review(#[from] ReviewError),
    /// A token that is no pod's.
    #[error("the token is not that of a pod's service account, bound to the pod: use a projected volume")]
    NoPod,
    /// Not base64.
    #[error("the document is not base64")]
    NotBase64,
    /// Of an instance's document.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// What was signed is not about an instance.
    #[error("what was signed is no instance identity document")]
    NoInstance,
}

impl EvidenceError {
    /// Whether it could not be judged, as against being refused.
    pub fn is_unjudged(&self) -> bool {
        matches!(self, Self::Review(error) if error.is_unanswered())
    }

    /// Whether it will be good by itself: whoever issued it has a clock that is ahead of ours.
    pub fn is_too_early(&self) -> bool {
        matches!(
            self,
            Self::Token(IssuedTokenError::Token(JwtSvidError::NotYetValid { .. }))
                | Self::Device(DeviceError::Chain(VerifyError::NotYetValid { .. }))
        )
    }
}

impl Evidence {
    fn attestor(&self) -> Attestor {
        match self {
            Self::X509Pop { .. } => Attestor::X509Pop,
            Self::Kubernetes(_) => Attestor::Kubernetes,
            Self::Aws(_) => Attestor::Aws,
        }
    }
}

/// Verifies evidence by what its enrollment believes.
///
/// # Errors
/// The first rule that it breaks.
pub async fn verify(
    evidence: &Evidence,
    source: &EvidenceSource,
    reviewers: &TokenReviewers,
    occasion: Occasion<'_>,
) -> Result<Attested, EvidenceError> {
    match (source, evidence) {
        (EvidenceSource::X509Pop(authorities), Evidence::X509Pop { chain, signature }) => {
            x509pop::verify(chain, signature, authorities, occasion)
        }
        (EvidenceSource::Kubernetes(cluster), Evidence::Kubernetes(token)) => {
            kubernetes::verify(token, cluster, reviewers, occasion).await
        }
        (EvidenceSource::Aws(signers), Evidence::Aws(document)) => {
            let text: String =
                document.chars().filter(|character| !character.is_ascii_whitespace()).collect();
            let document = STANDARD.decode(text).map_err(|_| EvidenceError::NotBase64)?;
            aws::verify(&document, signers, occasion.now)
        }
        (source, evidence) => {
            Err(EvidenceError::OtherKind { wanted: source.attestor(), shown: evidence.attestor() })
        }
    }
}

/// Whether an enrollment, as it is now, still believes whom it believed once.
pub fn still_believed(source: &EvidenceSource, attestor: &str, voucher: &str) -> bool {
    if source.attestor().as_str() != attestor {
        return false;
    }
    match source {
        EvidenceSource::X509Pop(authorities) => {
            voucher.parse::<Fingerprint>().is_ok_and(|voucher| authorities.holds(voucher))
        }
        EvidenceSource::Kubernetes(cluster) => kubernetes::is_voucher(cluster, voucher),
        // The token is forgotten when it has expired; what its labels make of the instance is asked anew.
        EvidenceSource::JoinToken => true,
        EvidenceSource::Aws(signers) => {
            voucher.parse::<Fingerprint>().is_ok_and(|voucher| signers.holds(voucher))
        }
    }
}

/// Whether evidence of this kind counts for one key alone: whoever has seen it once could show it too, and it does not
/// expire.
pub fn counts_once(attestor: &str) -> bool {
    attestor == Attestor::Aws.as_str()
}
