//! With which certificate a listener serves: an operator's, read anew when its files change, or our own SVID.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use hauberk_identity::UnixMillis;
use hauberk_tls::{Acceptor, LiveIdentity, SetupError, WebCertificate, WebCertificateError};
use zeroize::Zeroizing;

use super::HANDSHAKE_DEADLINE;
use crate::clock::Clock;
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
    clock: Clock,
    of_operator: Option<OfOperator>,
}

struct OfOperator {
    files: CertificateFiles,
    held: Pem,
    certificate: WebCertificate,
    /// That it has ended was told.
    is_end_told: bool,
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
        clock: Clock,
    ) -> Result<Self, WebCertificateFault> {
        let Some(files) = files.cloned() else {
            let acceptor = own.web_acceptor(HANDSHAKE_DEADLINE)?;
            return Ok(Self { listener, acceptor, clock, of_operator: None });
        };
        let held = read(listener, &files).await?;
        let certificate = WebCertificate::from_pem(&held.chain, &held.key)
            .map_err(|source| WebCertificateFault::Unusable { listener, files: files.clone(), source })?;
        let acceptor = certificate.acceptor(HANDSHAKE_DEADLINE)?;
        let of_operator = OfOperator { files, held, certificate, is_end_told: false };
        Ok(Self { listener, acceptor, clock, of_operator: Some(of_operator) })
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
        if let Some(not_after) = of_operator.has_ended(self.clock.now()) {
            tracing::warn!(event = "web_certificate_ended", listener, %not_after,
                "the certificate in use has ended, so that clients refuse it: replace its files");
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
        self.is_end_told = false;
        Ok(true)
    }

    /// When the certificate in use has ended, if that is so; said once of each.
    fn has_ended(&mut self, now: UnixMillis) -> Option<UnixMillis> {
        let not_after = self.certificate.not_after().filter(|not_after| *not_after < now)?;
        (!std::mem::replace(&mut self.is_end_told, true)).then_some(not_after)
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

#[cfg(test)]
mod tests {
    use hauberk_tls::TrustBundle;

    use super::*;

    #[tokio::test]
    async fn a_certificate_that_has_ended_is_told_once_and_its_successor_again() {
        let folder = tempfile::tempdir().unwrap();
        let files = CertificateFiles {
            certificate: folder.path().join("certificate"),
            key: folder.path().join("key"),
        };
        let write = || {
            let made = rcgen::generate_simple_self_signed(["oidc.shop.test".to_owned()]).unwrap();
            std::fs::write(&files.certificate, made.cert.pem()).unwrap();
            std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        };
        write();
        let own = LiveIdentity::new(TrustBundle::empty("shop.local".parse().unwrap()));
        let served = ServedCertificate::open("oidc", Some(&files), &own, Clock::system()).await.unwrap();
        let mut of_operator = served.of_operator.unwrap();
        let (good, late) = (Clock::system().now(), UnixMillis::from_secs(1 << 40));
        assert_eq!(of_operator.has_ended(good), None);
        assert!(of_operator.has_ended(late).is_some());
        assert_eq!(of_operator.has_ended(late), None);
        write();
        assert!(of_operator.renew("oidc").await.unwrap());
        assert!(of_operator.has_ended(late).is_some());
    }
}
