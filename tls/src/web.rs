//! HTTPS for clients that know no SPIFFE ids: the certificate is an operator's own, or our SVID, and clients present none.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::UnixMillis;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;
use tokio::sync::watch;

use crate::certificate::Facts;
use crate::live::LiveIdentity;
use crate::pem;
use crate::provider::{self, SetupError};
use crate::stream::Acceptor;

/// An operator's certificate and key, replaceable while the listener stays. Clones share one state.
#[derive(Clone)]
pub struct WebCertificate(watch::Sender<Arc<CertifiedKey>>);

/// Why a certificate and its key are not taken. The fault is whoever wrote the files.
#[derive(Debug, Error)]
pub enum WebCertificateError {
    /// No certificate in PEM.
    #[error("there is no certificate in PEM")]
    NoCertificate,
    /// No private key in PEM, or one that is encrypted or of an unknown kind.
    #[error("there is no unencrypted private key in PEM, of ECDSA, Ed25519 or RSA")]
    NoKey,
    /// A private key that is too small, or of a kind that is not supported.
    #[error(
        "the private key is too small, or of a kind that is not supported: ECDSA on P-256, P-384 or P-521, Ed25519, or RSA of 2048 bits \
         or more"
    )]
    UnsupportedKey,
    /// The key is another certificate's.
    #[error("the private key does not belong to the first certificate")]
    Mismatch,
    /// The certificate is none that anybody could verify.
    #[error("the first certificate cannot be used: {0}")]
    Unusable(String),
}

impl WebCertificate {
    /// Takes a chain, leaf first, and the leaf's key.
    ///
    /// # Errors
    /// They are not there, or do not belong together.
    pub fn from_pem(chain: &str, key: &[u8]) -> Result<Self, WebCertificateError> {
        Ok(Self(watch::Sender::new(Arc::new(certified(chain, key)?))))
    }

    /// Takes others in their place, from the next handshake on.
    ///
    /// # Errors
    /// As [`WebCertificate::from_pem`]; the former ones stay then.
    pub fn replace(&self, chain: &str, key: &[u8]) -> Result<(), WebCertificateError> {
        self.0.send_replace(Arc::new(certified(chain, key)?));
        Ok(())
    }

    /// The end of the certificate in use; `None` where it cannot be read.
    pub fn not_after(&self) -> Option<UnixMillis> {
        let held = Arc::clone(&self.0.borrow());
        Some(Facts::read(held.cert.first()?).ok()?.validity.not_after())
    }

    /// What accepts connections with this certificate.
    ///
    /// # Errors
    /// The TLS library refuses the configuration.
    pub fn acceptor(&self, timeout: Duration) -> Result<Acceptor, SetupError> {
        acceptor(Arc::new(self.clone()), timeout)
    }
}

impl LiveIdentity {
    /// What accepts connections of clients that know no SPIFFE ids, with the SVID of the moment: they go by the DNS names in
    /// it, and must trust our root.
    ///
    /// # Errors
    /// The TLS library refuses the configuration.
    pub fn web_acceptor(&self, timeout: Duration) -> Result<Acceptor, SetupError> {
        acceptor(Arc::new(self.clone()), timeout)
    }
}

fn acceptor(certificate: Arc<dyn ResolvesServerCert>, timeout: Duration) -> Result<Acceptor, SetupError> {
    let mut config = ServerConfig::builder_with_provider(provider::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Acceptor::new(Arc::new(config), timeout))
}

/// A chain, leaf first, and the leaf's key, which belong together.
pub(crate) fn certified(chain: &str, key: &[u8]) -> Result<CertifiedKey, WebCertificateError> {
    let chain = pem::decode_certificates(chain).map_err(|_| WebCertificateError::NoCertificate)?;
    if chain.is_empty() {
        return Err(WebCertificateError::NoCertificate);
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| WebCertificateError::NoKey)?;
    let key = any_supported_type(&key).map_err(|_| WebCertificateError::UnsupportedKey)?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err(WebCertificateError::Mismatch),
        Err(error) => {
            Err(WebCertificateError::Unusable(match certified.end_entity_cert().ok().map(Facts::read) {
                Some(Err(fault)) => fault.to_string(),
                Some(Ok(_)) | None => error.to_string(),
            }))
        }
    }
}

impl ResolvesServerCert for WebCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.borrow()))
    }
}

impl fmt::Debug for WebCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebCertificate").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of 1024 bits.
    const SMALL_RSA_KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
        MIICdwIBADANBgkqhkiG9w0BAQEFAASCAmEwggJdAgEAAoGBAK5clG1O8JnCJ5KE\n\
        4EB/wFxEud5Oo7u31yGxpUAChPh1OvSMhwkZOJrNCqJYX5OC+k/V0fdgZSGVEwEp\n\
        GdpeiM94YgFTUWKzglO6gFLkPoPxBih2T6TEWAxk+Yk1IvPpTwgKoDttJkURhP2w\n\
        ObrOt5HK1kzjiwGab2HxftwQ83BvAgMBAAECgYBk4Y/HBqtSavE2ZsbQypljSSg5\n\
        JUq6a41/Iyc3N73zevBXWY8vhnYnqoaCk5sI3/kvg8jt1cntejD6tOsOWy/P1ZTd\n\
        +TDa/pWfq4l21B8KZn1bhIUiMAsKtMC9nP8z53tTSia29TTfrC5fWk4NlszXyvFS\n\
        tVGzEH33mcQwa3G0MQJBANb+NrmIfnBWUnc8shUv8OAAQQrtjPxtd9IVNSTvhXtF\n\
        BPsTlNwZmD1g9cPKKs2bj/T93cpVXsFfNdnVPQ0NLVUCQQDPnmWLkvy0zrZT5852\n\
        86/Up1EQ/arpyV8y0rRoXmsTlsKaD7OY7DxDFGJjTh3i36i32R/+nqUddiUZingI\n\
        +cazAkBD5++pEm+9U8agWs902bufRPVGWlnZsUnTVVd/3xeuI9K66yhtjLgFSwbV\n\
        XJnAb448t6LCMczIDyaXMz8hTDQxAkEAt65+Tk6bjmc3feIekrSjgfMJUIvsMuu6\n\
        cp9hhtjJyMnfnyd3EDsoUXxuU0cgP8D6ZrUMjlrS387PodoUunQo6wJBANEoa4Gx\n\
        tyiswxVL7Hqs+gQMJILf/tkQbJVO3/oFO+9fftIbuDlQST1YIehHdKIqKhAxMqlf\n\
        wpkJNPXzQni5Y8M=\n\
        -----END PRIVATE KEY-----\n";

    fn made() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["oidc.shop.test".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    /// As `openssl x509 -req` makes it where it is given no extensions; with its key, of no use elsewhere.
    const VERSION_1: [&str; 2] = [
        "-----BEGIN CERTIFICATE-----\n\
         MIIBFTCBvAIUVa2VMGzar/RdQprBb1UVeIf5DIswCgYIKoZIzj0EAwIwDTELMAkG\n\
         A1UEAwwCY2EwIBcNMjYxMTI5MjMzODI4WhgPMjEyNjExMDUyMzM4MjhaMAwxCjAI\n\
         BgNVBAMMAW0wWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAR7stWiSagXCGnUpAWG\n\
         lwxbLStxO9C5TBDJxr7BrEVB++DdvGMix+iUfisZOUlXb7mhpyeFrxSezqKV/Cg2\n\
         N06aMAoGCCqGSM49BAMCA0gAMEUCIH5zXLJymnKiyL3mn/qu0JM3vM5knYtw8lL5\n\
         TcELtbRfAiEA0XMp5oIJz9UWB5pQSq/hLlNIfU4aR9JRFqZGw2DurLQ=\n\
         -----END CERTIFICATE-----\n",
        "-----BEGIN PRIVATE KEY-----\n\
         MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgNoJhcion5jZeDmvJ\n\
         ZneKwG5cB27znWklLgcStFdNusChRANCAAR7stWiSagXCGnUpAWGlwxbLStxO9C5\n\
         TBDJxr7BrEVB++DdvGMix+iUfisZOUlXb7mhpyeFrxSezqKV/Cg2N06a\n\
         -----END PRIVATE KEY-----\n",
    ];

    #[test]
    fn a_certificate_of_version_1_is_not_said_to_be_for_another_key() {
        let [chain, key] = VERSION_1;
        let refused = WebCertificate::from_pem(chain, key.as_bytes()).unwrap_err();
        assert!(refused.to_string().contains("is not of X.509 version 3"), "{refused}");
    }

    #[test]
    fn what_does_not_belong_together_changes_nothing() {
        let ((chain, key), (other_chain, other_key)) = (made(), made());
        let served = WebCertificate::from_pem(&chain, key.as_bytes()).unwrap();
        let first = served.0.borrow().cert.clone();
        let refused = served.replace(&chain, other_key.as_bytes()).unwrap_err();
        assert!(matches!(refused, WebCertificateError::Mismatch), "{refused}");
        let refused = served.replace("", key.as_bytes()).unwrap_err();
        assert!(matches!(refused, WebCertificateError::NoCertificate), "{refused}");
        let refused = served.replace(&chain, chain.as_bytes()).unwrap_err();
        assert!(matches!(refused, WebCertificateError::NoKey), "{refused}");
        let refused = served.replace(&chain, SMALL_RSA_KEY.as_bytes()).unwrap_err();
        assert!(matches!(refused, WebCertificateError::UnsupportedKey), "{refused}");
        assert_eq!(served.0.borrow().cert, first);
        served.replace(&other_chain, other_key.as_bytes()).unwrap();
        assert_ne!(served.0.borrow().cert, first);
    }
}
