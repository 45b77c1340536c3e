//! With which certificate a listener serves: an operator's, read anew when its files change, or our own SVID.

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
pub enum WebCertificateFault {
    /// A file cannot be read.
    #[error("{} ({listener}-certificate, {listener}-key) cannot be read", .path.display())]
    File {
        /// Whose.
        listener: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What they hold cannot be used.
    #[error("{listener}-certificate {} and {listener}-key {} cannot be used: {source}", .files.certificate.display(), .files.key.display())]
    Unusable {
        /// Whose.
        listener: &'static str,
        /// Which.
        files: CertificateFiles,
        /// Why not.
        source: WebCertificateError,
    },
    /// The TLS library refuses.
    #[error("TLS cannot be set up for a listener of the web")]
    Tls(#[from] SetupError),
}

/// The certificate in use.
pub struct ServedCertificate {
    listener: &'static str,
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

impl ServedCertificate {
    /// Reads the operator's files where there are any; otherwise serves with `own`. `listener` names the settings.
    ///
    /// # Errors
    /// When the files cannot be read or used.
    pub async fn open(
        listener: &'static str,
        files: Option<&CertificateFiles>,
        own: &LiveIdentity,
    ) -> Result<Self, WebCertificateFault> {
        let Some(files) = files.cloned() else {
            let acceptor = own.web_acceptor(HANDSHAKE_DEADLINE)?;
            return Ok(Self { listener, acceptor, of_operator: None });
        };
        let held = read(listener, &files).await?;
        let certificate = WebCertificate::from_pem(&held.chain, &held.key)
            .map_err(|source| WebCertificateFault::Unusable { listener, files: files.clone(), source })?;
        let acceptor = certificate.acceptor(HANDSHAKE_DEADLINE)?;
        Ok(Self { listener, acceptor, of_operator: Some(OfOperator { files, held, certificate }) })
    }

    /// Whose it is.
    pub(super) fn listener(&self) -> &'static str {
        self.listener
    }

    /// What accepts connections.
    pub(super) fn acceptor(&self) -> Acceptor {
        self.acceptor.clone()
    }

    /// Takes the operator's files anew where they have changed. Files that cannot be used, such as while they are being
    /// replaced, change nothing.
    pub(super) async fn look_again(&mut self) {
        let listener = self.listener;
        let Some(of_operator) = &mut self.of_operator else { return };
        match of_operator.renew(listener).await {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!(event = "web_certificate", listener, "the renewed certificate is in use")
            }
            Err(error) => {
                let cause = std::error::Error::source(&error);
                tracing::warn!(event = "web_certificate_failed", listener, %error, cause, "the former certificate stays in use");
            }
        }
    }
}

impl OfOperator {
    async fn renew(&mut self, listener: &'static str) -> Result<bool, WebCertificateFault> {
        let found = read(listener, &self.files).await?;
        if found == self.held {
            return Ok(false);
        }
        self.certificate.replace(&found.chain, &found.key).map_err(|source| {
            WebCertificateFault::Unusable { listener, files: self.files.clone(), source }
        })?;
        self.held = found;
        Ok(true)
    }
}

async fn read(listener: &'static str, files: &CertificateFiles) -> Result<Pem, WebCertificateFault> {
    let chain = read_file(listener, &files.certificate).await?;
    let key = read_file(listener, &files.key).await?;
    Ok(Pem { chain: String::from_utf8_lossy(&chain).into_owned(), key })
}

async fn read_file(
    listener: &'static str,
    path: &std::path::Path,
) -> Result<Zeroizing<Vec<u8>>, WebCertificateFault> {
    let read = tokio::time::timeout(READ_DEADLINE, tokio::fs::read(path)).await;
    let read = read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let failed = |source| WebCertificateFault::File { listener, path: path.to_owned(), source };
    read.map(Zeroizing::new).map_err(failed)
}
