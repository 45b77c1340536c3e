//! The control plane as another one's admin: it has authorities signed there, and learns whom to trust.

use std::path::PathBuf;
use std::time::Duration;

use hauberk_identity::{TrustDomain, UnixMillis};
use hauberk_proto::admin::v1::admins_client::AdminsClient;
use hauberk_proto::admin::v1::authorities_client::AuthoritiesClient;
use hauberk_proto::admin::v1::identities_client::IdentitiesClient;
use hauberk_proto::admin::v1::{FetchBundleRequest, RenewCredentialRequest, SignAuthorityRequest};
use hauberk_tls::{
    CertificateDer, CertificateRequest, Connector, Fingerprint, KeyPair, LiveIdentity, ServerExpectation,
    Svid, TrustBundle,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::admins::{Context, ContextFileError, add_context, current_context};
use crate::clock::Clock;
use crate::private_file;

/// How long reaching it may take, a handshake, and each call.
const DEADLINE: Duration = Duration::from_secs(10);

/// Another control plane, whose admin we are by a context file.
#[derive(Debug)]
pub struct Parent {
    context_file: PathBuf,
    trust_domain: TrustDomain,
    clock: Clock,
}

/// Whom it trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Its roots, prepared ones included.
    pub roots: Vec<CertificateDer<'static>>,
    /// The one under which it issues.
    pub active: Fingerprint,
    /// The serial numbers of issuing authorities whose certificates are to be replaced.
    pub renew_issuers: Vec<String>,
}

/// Why another control plane is of no help.
#[derive(Debug, thiserror::Error)]
pub enum ParentError {
    /// There is no usable file.
    #[error(transparent)]
    File(#[from] ContextFileError),
    /// Others can read or change the file.
    #[error("{} has mode {mode:04o}: others may read the key in it. Run `chmod 600` on it", .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// What the file holds is damaged.
    #[error("the context in {} cannot be used: {reason}", .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Authorities of a trust domain sign for that one alone.
    #[error("{} is of trust domain {theirs}, not of {ours}: a Hauberk signs for its own only", .path.display())]
    TrustDomain {
        /// The file.
        path: PathBuf,
        /// What it says.
        theirs: String,
        /// What we are.
        ours: TrustDomain,
    },
    /// It was not renewed in time.
    #[error(
        "the credential in {} expired at {at}: have another written there, with `hauberk login` or, on the other control \
         plane's host, `hauberk-control-plane admin issue {admin}`",
        .path.display()
    )]
    Expired {
        /// The file.
        path: PathBuf,
        /// When.
        at: UnixMillis,
        /// Whose it is.
        admin: String,
    },
    /// Nobody answers, or somebody else.
    #[error("{server} cannot be reached: {reason}")]
    Unreachable {
        /// Where.
        server: String,
        /// Why not.
        reason: String,
    },
    /// It says no.
    #[error("{server} refuses: {}", .status.message())]
    Refused {
        /// Who.
        server: String,
        /// What it says.
        status: Box<Status>,
    },
    /// What it answers is none.
    #[error("what {server} answers cannot be used: {reason}")]
    Answer {
        /// Who.
        server: String,
        /// What is wrong.
        reason: String,
    },
}

/// A connection with the context that it was made with.
struct Reached {
    name: String,
    context: Context,
    svid: Svid,
    bundle: TrustBundle,
    channel: Channel,
}

impl Parent {
    /// The control plane of the current context in a file.
    pub fn new(context_file: PathBuf, trust_domain: TrustDomain, clock: Clock) -> Self {
        Self { context_file, trust_domain, clock }
    }

    /// Has an issuing authority signed: its certificate, and all that leads to a root.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub async fn sign(&self, csr: &[u8]) -> Result<Vec<CertificateDer<'static>>, ParentError> {
        let Reached { context, channel, .. } = self.reach().await?;
        let request = SignAuthorityRequest { csr: csr.to_vec() };
        let answer = AuthoritiesClient::new(channel).sign_authority(request).await;
        let answer = answer.map_err(|status| refused(&context.server, status))?;
        Ok(answer.into_inner().certificates.into_iter().map(CertificateDer::from).collect())
    }

    /// Asks whom it trusts, and keeps the credential good: it is renewed past half of its life, or as soon as its own
    /// authority signs no longer.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub async fn look(&self) -> Result<Told, ParentError> {
        let Reached { name, mut context, svid, bundle, channel } = self.reach().await?;
        let answer = IdentitiesClient::new(channel.clone()).fetch_bundle(FetchBundleRequest {}).await;
        let answer = answer.map_err(|status| refused(&context.server, status))?.into_inner();
        let unusable = |reason: String| ParentError::Answer { server: context.server.clone(), reason };
        let theirs = TrustBundle::from_pem(self.trust_domain.clone(), &answer.pem)
            .map_err(|error| unusable(error.to_string()))?;
        let active: Fingerprint =
            answer.active_root.parse().map_err(|_| unusable("it names no active root".to_owned()))?;
        if theirs.root(active).is_none() {
            return Err(unusable("its active root is not among those that it trusts".to_owned()));
        }
        let is_by_former =
            svid.issuer_serial().is_some_and(|issuer| answer.renew_issuers.contains(&issuer.to_string()));
        let validity = svid.validity();
        let life = validity.not_after().since(validity.not_before());
        let is_due = is_by_former || validity.remaining(self.clock.now()) < life / 2;
        if theirs != bundle || is_due {
            context.bundle_pem = theirs.to_pem();
            if is_due {
                context = self.renew(context, channel).await?;
            }
            add_context(&self.context_file, &name, &context)?;
        }
        let roots = theirs.roots().iter().map(|root| root.der().clone()).collect();
        Ok(Told { roots, active, renew_issuers: answer.renew_issuers })
    }

    async fn renew(&self, context: Context, channel: Channel) -> Result<Context, ParentError> {
        let unusable = |reason: String| ParentError::Answer { server: context.server.clone(), reason };
        let key = KeyPair::generate().map_err(|error| unusable(error.to_string()))?;
        let csr = CertificateRequest::create(&key).map_err(|error| unusable(error.to_string()))?;
        let answer = AdminsClient::new(channel).renew_credential(RenewCredentialRequest { csr }).await;
        let answer = answer.map_err(|status| refused(&context.server, status))?.into_inner();
        let svid = Svid::from_der(answer.chain).map_err(|error| unusable(error.to_string()))?;
        if svid.key_fingerprint() != key.public_key().fingerprint() {
            return Err(unusable("it is for another key".to_owned()));
        }
        tracing::info!(event = "upstream_credential_renewed", not_after = %svid.validity().not_after());
        Ok(Context {
            certificate_pem: svid.to_pem(),
            key_pem: key.to_pkcs8_pem().to_string(),
            ..context.clone()
        })
    }

    async fn reach(&self) -> Result<Reached, ParentError> {
        let path = &self.context_file;
        let exposed = private_file::exposed(path).map_err(|source| ContextFileError::read(path, source))?;
        if let Some(mode) = exposed {
            return Err(ParentError::Exposed { path: path.clone(), mode });
        }
        let (name, context) = current_context(path)?;
        if context.trust_domain != self.trust_domain.as_str() {
            let (theirs, ours) = (context.trust_domain.clone(), self.trust_domain.clone());
            return Err(ParentError::TrustDomain { path: path.clone(), theirs, ours });
        }
        let unusable = |reason: String| ParentError::Unusable { path: path.clone(), reason };
        let bundle = TrustBundle::from_pem(self.trust_domain.clone(), &context.bundle_pem)
            .map_err(|error| unusable(error.to_string()))?;
        let svid = Svid::from_pem(&context.certificate_pem).map_err(|error| unusable(error.to_string()))?;
        let key = KeyPair::from_pkcs8_pem(&context.key_pem).map_err(|error| unusable(error.to_string()))?;
        let at = svid.validity().not_after();
        if at < self.clock.now() {
            return Err(ParentError::Expired { path: path.clone(), at, admin: context.admin.clone() });
        }
        let identity = LiveIdentity::new(bundle.clone());
        identity.publish(svid.clone(), &key).map_err(|error| unusable(error.to_string()))?;
        let connector = identity.connector(ServerExpectation::ControlPlane, &[b"h2"], true, DEADLINE);
        let connector = connector.map_err(|error| unusable(error.to_string()))?;
        let channel = dial(&context.server, connector).await?;
        Ok(Reached { name, context, svid, bundle, channel })
    }
}

async fn dial(server: &str, connector: Connector) -> Result<Channel, ParentError> {
    let unreachable = |reason: String| ParentError::Unreachable { server: server.to_owned(), reason };
    let uri: Uri =
        format!("http://{server}").parse().map_err(|_| unreachable("it is no HOST:PORT".to_owned()))?;
    let address = server.to_owned();
    let connect = service_fn(move |_: Uri| {
        let (address, connector) = (address.clone(), connector.clone());
        async move {
            let stream = TcpStream::connect(address).await?;
            let connection = connector.connect(stream).await.map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(TokioIo::new(connection.into_parts().0))
        }
    });
    let endpoint = Endpoint::from(uri).timeout(DEADLINE);
    match tokio::time::timeout(DEADLINE, endpoint.connect_with_connector(connect)).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(unreachable(innermost(&error))),
        Err(_) => Err(unreachable(format!("nothing answers within {} s", DEADLINE.as_secs()))),
    }
}

/// The transport's own words say nothing; those of the connector stand at the bottom.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn refused(server: &str, status: Status) -> ParentError {
    ParentError::Refused { server: server.to_owned(), status: Box::new(status) }
}
