//! With which certificate the listener serves: an operator's, read anew when its files change, or our own SVID.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use hauberk_tls::{Acceptor, LiveIdentity, SetupError, WebCertificate, WebCertificateError};
use zeroize::Zeroizing;

use super::HANDSHAKE_DEADLINE;
use crate::config::CertificateFiles;

/// How long reading the files may take; they may lie on a network.
const READ_DEADLINE: Duration = Duration::from_secs(5);

/// A certificate that cannot be served with.
#[derive(Debug, thiserror::Error)]
pub enum OidcCertificateError {
    /// A file cannot be read.
    #[error("{} (oidc-certificate, oidc-key) cannot be read", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What they hold cannot be used.
    #[error("oidc-certificate {} and oidc-key {} cannot be used: {source}", .files.certificate.display(), .files.key.display())]
    Unusable {
        /// Which.
        files: CertificateFiles,
        /// Why not.
        source: WebCertificateError,
    },
    /// The TLS library refuses.
    #[error("TLS cannot be set up for oidc-listen")]
    Tls(#[from] SetupError),
}

/// The certificate in use.
pub struct OidcCertificate {
    acceptor: Acceptor,
    of_operator: Option<OfOperator>,
}

struct OfOperator {
    files: CertificateFiles,
    held: Pem,
    certificate: WebCertificate,
}

#[derive(PartialEq, Eq)]
struct Pem {
    chain: String,
    key: Zeroizing<Vec<u8>>,
}

impl OidcCertificate {
    /// Reads the operator's files where there are any; otherwise serves with `own`.
    ///
    /// # Errors
    /// When the files cannot be read or used.
    pub async fn open(
        files: Option<&CertificateFiles>,
        own: &LiveIdentity,
    ) -> Result<Self, OidcCertificateError> {
        let Some(files) = files.cloned() else {
            return Ok(Self { acceptor: own.web_acceptor(HANDSHAKE_DEADLINE)?, of_operator: None });
        };
        let held = read(&files).await?;
        let certificate = WebCertificate::from_pem(&held.chain, &held.key)
            .map_err(|source| OidcCertificateError::Unusable { files: files.clone(), source })?;
        let acceptor = certificate.acceptor(HANDSHAKE_DEADLINE)?;
        Ok(Self { acceptor, of_operator: Some(OfOperator { files, held, certificate }) })
    }

    /// What accepts connections.
    pub(super) fn acceptor(&self) -> Acceptor {
        self.acceptor.clone()
    }

    /// Takes the operator's files anew where they have changed. Files that cannot be used, such as while they are being
    /// replaced, change nothing.
    pub(super) async fn look_again(&mut self) {
        let Some(of_operator) = &mut self.of_operator else { return };
        match of_operator.renew().await {
            Ok(false) => {}
            Ok(true) => tracing::info!(event = "oidc_certificate", "the renewed certificate is in use"),
            Err(error) => {
                let cause = std::error::Error::source(&error);
                tracing::warn!(event = "oidc_certificate_failed", %error, cause, "the former certificate stays in use");
            }
        }
    }
}

impl OfOperator {
    async fn renew(&mut self) -> Result<bool, OidcCertificateError> {
        let found = read(&self.files).await?;
        if found == self.held {
            return Ok(false);
        }
        self.certificate
            .replace(&found.chain, &found.key)
            .map_err(|source| OidcCertificateError::Unusable { files: self.files.clone(), source })?;
        self.held = found;
        Ok(true)
    }
}

async fn read(files: &CertificateFiles) -> Result<Pem, OidcCertificateError> {
    let chain = read_file(&files.certificate).await?;
    let key = read_file(&files.key).await?;
    Ok(Pem { chain: String::from_utf8_lossy(&chain).into_owned(), key })
}

async fn read_file(path: &std::path::Path) -> Result<Zeroizing<Vec<u8>>, OidcCertificateError> {
    let read = tokio::time::timeout(READ_DEADLINE, tokio::fs::read(path)).await;
    let read = read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    read.map(Zeroizing::new).map_err(|source| OidcCertificateError::File { path: path.to_owned(), source })
}
