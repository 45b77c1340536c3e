//! Who signs our issuing authorities where that is no root of our own: an operator's authority in files, or another Hauberk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{BACKDATED, TrustDomain, UnixMillis, Validity, ValidityError};
use hauberk_tls::{
    AuthorityError as CertificateError, CertificateDer, CertificateRequest, CsrError, OperatorAuthority,
    OperatorAuthorityError, certificates_from_pem,
};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::LifecycleError;
use super::lifecycle::Authorities;
use super::make::ISSUING_LIFE;
use crate::audit::Actor;
use crate::clock::Clock;
use crate::config::{CertificateFiles, UpstreamSettings};
use crate::private_file;
use crate::random::{self, NoRandomness};
use crate::rpc::{Parent, ParentError};

/// How often another Hauberk is asked whom it trusts.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(15);

/// Who signs our issuing authorities.
#[derive(Debug)]
pub enum Upstream {
    /// An operator's authority, read anew each time.
    Files {
        /// Its certificate, with those between it and the root behind it, and its key.
        files: CertificateFiles,
        /// The root's certificate, where it is not a self-signed one among those.
        root: Option<PathBuf>,
    },
    /// Another Hauberk of the same trust domain.
    Hauberk(Parent),
}

/// What somebody signed.
pub(super) struct Signed {
    /// In any order.
    pub(super) certificates: Vec<CertificateDer<'static>>,
    /// Where it is not a self-signed one of those, nor known.
    pub(super) root: Option<CertificateDer<'static>>,
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamFault {
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others can read or change the key.
    #[error(
        "{} has mode {mode:04o}: others may read or change that key. Run `chmod 600` on it, and ask yourself who has read it",
        .path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Certificate or key cannot be used.
    #[error("{}: {source}", .path.display())]
    Operator {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong.
        source: OperatorAuthorityError,
    },
    /// There must be one root.
    #[error("{} holds {found} certificates; the root is one", .path.display())]
    NotOneRoot {
        /// The file.
        path: PathBuf,
        /// How many.
        found: usize,
    },
    /// The request that waits is damaged.
    #[error("the request that waits cannot be read")]
    Request(#[from] CsrError),
    /// The operator's authority has expired, or cannot sign.
    #[error("the operator's authority cannot sign: {0}")]
    Certify(#[from] CertificateError),
    /// The clock stands before the epoch.
    #[error("the clock is wrong")]
    Clock(#[from] ValidityError),
    /// No serial number can be made.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The other Hauberk does not answer, or refuses.
    #[error(transparent)]
    Parent(#[from] ParentError),
}

impl Upstream {
    /// Who that is by the settings.
    pub fn of(settings: &UpstreamSettings, trust_domain: &TrustDomain, clock: &Clock) -> Self {
        match settings.clone() {
            UpstreamSettings::Files { files, root } => Self::Files { files, root },
            UpstreamSettings::Context(file) => {
                Self::Hauberk(Parent::new(file, trust_domain.clone(), clock.clone()))
            }
        }
    }

    /// Has the request signed.
    pub(super) async fn sign(
        &self,
        trust_domain: &TrustDomain,
        csr: &[u8],
        now: UnixMillis,
    ) -> Result<Signed, UpstreamFault> {
        match self {
            Self::Files { files, root } => sign_with_files(files, root.as_deref(), trust_domain, csr, now),
            Self::Hauberk(parent) => Ok(Signed { certificates: parent.sign(csr).await?, root: None }),
        }
    }
}

fn sign_with_files(
    files: &CertificateFiles,
    root: Option<&Path>,
    trust_domain: &TrustDomain,
    csr: &[u8],
    now: UnixMillis,
) -> Result<Signed, UpstreamFault> {
    let CertificateFiles { certificate, key } = files;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| UpstreamFault::File { path, source }
    };
    let root = root.map(|path| {
        let found = certificates_from_pem(&std::fs::read_to_string(path).map_err(failed(path))?);
        match found.unwrap_or_default().as_slice() {
            [root] => Ok(root.clone()),
            several => Err(UpstreamFault::NotOneRoot { path: path.to_owned(), found: several.len() }),
        }
    });
    if let Some(mode) = private_file::exposed(key).map_err(failed(key))? {
        return Err(UpstreamFault::Exposed { path: key.clone(), mode });
    }
    let chain = std::fs::read_to_string(certificate).map_err(failed(certificate))?;
    let secret = Zeroizing::new(std::fs::read(key).map_err(failed(key))?);
    let operator = OperatorAuthority::from_pem(&chain, &secret)
        .map_err(|source| UpstreamFault::Operator { path: certificate.clone(), source })?;
    let validity = Validity::new(now.minus(BACKDATED), now.plus(ISSUING_LIFE))?;
    let key = CertificateRequest::parse(csr)?;
    let certificates = operator.certify(trust_domain, &key, validity, random::serial()?)?;
    Ok(Signed { certificates, root: root.transpose()? })
}

/// Trusts what another Hauberk trusts, for as long as the control plane runs; nothing to do without one.
pub async fn follow(authorities: Arc<Authorities>, stop: CancellationToken) {
    let Some(parent) = authorities.parent() else { return };
    let actor = Actor { name: "control-plane".to_owned(), source: "local".to_owned() };
    let mut said = None;
    loop {
        let look = async {
            let told = parent.look().await.map_err(UpstreamFault::from)?;
            authorities.follow(&told.roots, told.active, &told.renew_issuers, &actor).await
        };
        let outcome: Result<(), LifecycleError> = tokio::select! {
            () = stop.cancelled() => return,
            outcome = look => outcome,
        };
        let problem = outcome.err().map(|error| error.to_string());
        match &problem {
            Some(problem) if said.as_ref() != Some(problem) => {
                tracing::warn!(
                    event = "upstream_not_followed",
                    problem,
                    "the roots that were told last stay in force"
                );
            }
            None if said.is_some() => {
                tracing::info!(event = "upstream_followed", "whom to trust is told again")
            }
            _ => {}
        }
        authorities.not_followed(problem.clone());
        said = problem;
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOKED_AT_EVERY) => {}
        }
    }
}
