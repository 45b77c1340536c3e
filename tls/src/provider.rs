//! The one cryptographic provider, aws-lc-rs, and what it may be used for.

use std::sync::{Arc, LazyLock};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::{DigitallySignedStruct, PeerIncompatible, SignatureScheme};
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm};
use thiserror::Error;
use webpki::aws_lc_rs as algorithms;

/// The TLS library refuses a configuration of ours. The fault is ours.
#[derive(Debug, Error)]
#[error("TLS cannot be set up")]
pub struct SetupError(#[from] rustls::Error);

/// Makes aws-lc-rs the process's default provider, for libraries that ask for one. Once is enough; more do no harm.
pub fn install_provider() {
    // An error says that another call was first.
    let _ = aws_lc_rs::default_provider().install_default();
}

/// The provider that every configuration of this crate names explicitly but that of clients of the web: TLS 1.3 suites
/// alone, X25519MLKEM768 first.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = aws_lc_rs::default_provider();
        provider.signature_verification_algorithms = HANDSHAKE_ALGORITHMS;
        provider.cipher_suites.retain(|suite| suite.tls13().is_some());
        Arc::new(provider)
    });
    Arc::clone(&PROVIDER)
}

/// That of clients of web servers which are not ours, and may know no more than TLS 1.2: of its suites those with ephemeral
/// keys and authenticated encryption, which are all that the library has.
pub(crate) fn web_provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}

/// What may sign a certificate: the keys of [`crate::key`]'s allow-list, those of authorities too, with SHA-2.
pub(crate) static CERTIFICATE_ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P256_SHA512,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ECDSA_P384_SHA512,
    algorithms::ECDSA_P521_SHA256,
    algorithms::ECDSA_P521_SHA384,
    algorithms::ECDSA_P521_SHA512,
    algorithms::ED25519,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
    algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];

/// What signs hops of identity tokens: the keys of our own SVIDs.
pub(crate) static HOP_ALGORITHM: &dyn SignatureVerificationAlgorithm = algorithms::ECDSA_P256_SHA256;

/// What may sign a TLS 1.3 handshake (RFC 8446 §4.2.3).
static HANDSHAKE_ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: CERTIFICATE_ALGORITHMS,
    mapping: &[
        (SignatureScheme::ECDSA_NISTP256_SHA256, &[algorithms::ECDSA_P256_SHA256]),
        (SignatureScheme::ECDSA_NISTP384_SHA384, &[algorithms::ECDSA_P384_SHA384]),
        (SignatureScheme::ED25519, &[algorithms::ED25519]),
        (SignatureScheme::RSA_PSS_SHA256, &[algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY]),
        (SignatureScheme::RSA_PSS_SHA384, &[algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY]),
        (SignatureScheme::RSA_PSS_SHA512, &[algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY]),
    ],
};

/// The schemes that a peer may sign its handshake with.
pub(crate) fn handshake_schemes() -> Vec<SignatureScheme> {
    HANDSHAKE_ALGORITHMS.supported_schemes()
}

/// Verifies the peer's signature over the handshake transcript.
pub(crate) fn verify_handshake_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    rustls::crypto::verify_tls13_signature(message, certificate, signature, &HANDSHAKE_ALGORITHMS)
}

/// The answer to any TLS 1.2 signature, which no configuration of ours can ask for.
pub(crate) fn refuse_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(PeerIncompatible::Tls12NotOffered.into())
}
