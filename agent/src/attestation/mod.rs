//! Evidence of where the agent runs, as it is shown to the control plane.

mod aws;
mod kubernetes;
mod x509pop;

use std::net::SocketAddr;
use std::path::PathBuf;

use hauberk_proto::agent::v1::attest_request::Evidence as Shown;
use hauberk_tls::PublicKey;
use hauberk_tls::device::{ChannelBinding, DeviceKey, DeviceKeyError};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::config::{EnrollmentName, EvidenceSource};
use crate::secret_file::SecretFile;
use aws::ImdsError;

/// Certificates, keys and tokens are far shorter; a larger file is some other file.
const MAX_FILE: u64 = 128 * 1024;

/// Evidence that was found and can be shown.
pub(crate) enum Evidence {
    /// A certificate of this machine and its key.
    X509Pop(DeviceKey),
    /// The token of our pod's service account.
    Kubernetes(Zeroizing<String>),
    /// The identity document of our EC2 instance.
    Aws(String),
}

/// Why there is no evidence to show. The fault is whoever configured it.
#[derive(Debug, Error)]
pub(crate) enum EvidenceError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file with nothing in it.
    #[error("{}: the file is empty", .0.display())]
    Empty(PathBuf),
    /// The metadata service does not tell.
    #[error("the metadata service at {address}: {source}")]
    Imds {
        /// Where it is.
        address: SocketAddr,
        /// Why not.
        source: ImdsError,
    },
    /// A certificate or its key does not do.
    #[error("{} and its key: {source}", path.display())]
    Device {
        /// The certificate.
        path: PathBuf,
        /// What is wrong.
        source: DeviceKeyError,
    },
}

impl Evidence {
    /// Finds the evidence that was configured.
    ///
    /// # Errors
    /// It is not there, or is none.
    pub(crate) async fn read(source: &EvidenceSource) -> Result<Self, EvidenceError> {
        match source {
            EvidenceSource::X509Pop { certificate, key } => {
                x509pop::read(certificate, key).await.map(Self::X509Pop)
            }
            EvidenceSource::Kubernetes(token) => kubernetes::read(token).await.map(Self::Kubernetes),
            EvidenceSource::Aws { imds } => {
                let wrong = |source| EvidenceError::Imds { address: *imds, source };
                aws::identity_document(*imds).await.map(Self::Aws).map_err(wrong)
            }
        }
    }

    /// As it is shown on the connection `channel` for an agent with this key.
    ///
    /// # Errors
    /// Nothing can be proved with it.
    pub(crate) fn show(
        &self,
        channel: &ChannelBinding,
        agent_key: &PublicKey,
        enrollment: &EnrollmentName,
    ) -> Result<Shown, DeviceKeyError> {
        match self {
            Self::X509Pop(device) => {
                x509pop::show(device, channel, agent_key, enrollment).map(Shown::X509pop)
            }
            Self::Kubernetes(token) => Ok(Shown::KubernetesToken(token.to_string())),
            Self::Aws(document) => Ok(Shown::AwsIdentityDocument(document.clone())),
        }
    }
}

async fn text_of(file: &SecretFile) -> Result<Zeroizing<String>, EvidenceError> {
    let wrong = |source| EvidenceError::File { path: file.path().to_owned(), source };
    file.read(MAX_FILE).await.map_err(wrong)
}
