//! Why a control plane does not start, or stops badly, by whose fault it is.

use std::net::SocketAddr;
use std::path::PathBuf;

use hauberk_tls::SetupError;

use crate::authority::{AuthorityError, SealError, TokenError};
use crate::jwt_svid::SigningKeyError;
use crate::registry::{OpenError, StoreError};
use crate::revocation::RevocationError;
use crate::rpc;
use crate::server_certificate::ServerCertificateError;
use crate::web::WebCertificateFault;

/// A control plane that does not start, or stops badly.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// `init` was killed.
    #[error("`init` did not finish in {}: remove that directory and run `init` again", .0.display())]
    Unfinished(PathBuf),
    /// The registry is missing, in use, damaged or too new.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The key-encryption key is missing or wrong.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The token is missing, or does not do what is needed.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The authorities cannot be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The keys that sign tokens cannot be read.
    #[error(transparent)]
    SigningKeys(#[from] SigningKeyError),
    /// The registry failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is not known who is refused.
    #[error(transparent)]
    Revocations(#[from] RevocationError),
    /// Our own certificate cannot be had.
    #[error(transparent)]
    ServerCertificate(#[from] ServerCertificateError),
    /// The TLS library refuses.
    #[error("TLS cannot be set up")]
    Tls(#[from] SetupError),
    /// A port is taken or not ours to take.
    #[error("cannot listen on {address} ({setting}): free it, or choose another")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Which setting says so.
        setting: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// A file for other programs cannot be written.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The certificate for `oidc-listen` or `bundle-listen` cannot be used.
    #[error(transparent)]
    WebCertificate(#[from] WebCertificateFault),
    /// Reflection cannot read our own descriptors.
    #[error("reflection cannot be set up")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The local administration cannot listen.
    #[error(transparent)]
    Local(#[from] rpc::LocalError),
    /// A listener ended although nobody asked it to.
    #[error("the {0} listener failed")]
    ListenerFailed(&'static str),
}
