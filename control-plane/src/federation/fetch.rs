//! One question to a bundle endpoint (SPIFFE Federation §5.2): bounded in time and size, straight to where the resource
//! says, and believed only after who answers has been authenticated.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hauberk_tls::{
    EndpointConnector, MAX_BUNDLE_BYTES, SpiffeBundle, SpiffeBundleError, WebRoots, WebRootsError,
};
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use tokio::net::TcpStream;

use crate::ask::{Unanswered, ask, within};
use crate::resources::{BundleEndpoint, EndpointProfile, EndpointUrl, FederatedTrustDomain};

/// How long all of it may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// How long one address may take to answer, and a handshake.
const STEP_DEADLINE: Duration = Duration::from_secs(10);

/// How many addresses of a name are tried.
const MOST_ADDRESSES: usize = 4;

/// Where operating systems keep the roots of the web, in the order in which they are looked for.
const SYSTEM_ROOTS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why a bundle was not fetched. What was held before stays.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The name has no address.
    #[error("{host} cannot be resolved: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// The name leads to where nothing is asked.
    #[error(
        "{host} has only addresses that are not asked, such as {address}: loopback and private ones take \
         allowPrivateAddresses, link-local ones are never asked"
    )]
    Address {
        /// The name.
        host: String,
        /// One of its addresses.
        address: IpAddr,
    },
    /// Nobody answers.
    #[error("no connection to {address}: {source}")]
    Connect {
        /// The last address that was tried.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// There are no roots of the web to verify by.
    #[error("the roots of the web ({}) cannot be read: {reason}; see --web-roots", .path.display())]
    WebRoots {
        /// Where they were looked for.
        path: PathBuf,
        /// Why they are of no use.
        reason: String,
    },
    /// There is no answer.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
    /// It answers something else than the bundle. Redirects are not followed: an admin says where bundles come from.
    #[error("it answers with status {0}; only 200 is taken, and no redirect followed")]
    Status(StatusCode),
    /// The answer is no bundle of this trust domain.
    #[error("its answer is no bundle of the trust domain: {0}")]
    Bundle(#[from] SpiffeBundleError),
    /// The bundle is older than one that was seen.
    #[error("its bundle has number {offered}, and number {seen} was seen before: is an old copy served?")]
    Older {
        /// Its number.
        offered: u64,
        /// The highest that was seen.
        seen: u64,
    },
}

/// Asks for the bundle of `followed`. A self-serving endpoint is known by the bundle that is held, `held`.
///
/// # Errors
/// It is not to be had, or not to be believed.
pub(super) async fn fetch(
    followed: &FederatedTrustDomain,
    endpoint: &BundleEndpoint,
    held: Option<&SpiffeBundle>,
    web_roots: Option<&Path>,
) -> Result<SpiffeBundle, FetchError> {
    let asked = async {
        let connector = connector(followed, endpoint, held, web_roots).await?;
        let stream = connect(endpoint).await?;
        let url = endpoint.url();
        let (status, document) =
            ask(&connector, url.host(), stream, question(url)?, MAX_BUNDLE_BYTES).await?;
        if status != StatusCode::OK {
            return Err(FetchError::Status(status));
        }
        Ok(SpiffeBundle::parse(followed.trust_domain(), &document)?)
    };
    within(DEADLINE, asked).await
}

async fn connector(
    followed: &FederatedTrustDomain,
    endpoint: &BundleEndpoint,
    held: Option<&SpiffeBundle>,
    web_roots: Option<&Path>,
) -> Result<EndpointConnector, FetchError> {
    match endpoint.profile() {
        EndpointProfile::Spiffe(id) => {
            let none = || hauberk_tls::TrustBundle::empty(followed.trust_domain().clone());
            let bundle = held.map_or_else(none, |held| held.x509().clone());
            Ok(EndpointConnector::spiffe(Arc::new(bundle), id.clone(), STEP_DEADLINE)
                .map_err(Unanswered::from)?)
        }
        EndpointProfile::Web => {
            let roots = read_roots(web_roots).await?;
            Ok(EndpointConnector::web(roots, STEP_DEADLINE).map_err(Unanswered::from)?)
        }
    }
}

/// Reads the roots of the web anew each time: systems replace the file when authorities are dismissed.
async fn read_roots(configured: Option<&Path>) -> Result<WebRoots, FetchError> {
    let found = configured.or_else(|| SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.exists()));
    let path = found.unwrap_or(Path::new("/etc/ssl/certs/ca-certificates.crt")).to_owned();
    let unusable = |path: PathBuf, reason: String| FetchError::WebRoots { path, reason };
    let text = match tokio::fs::read_to_string(&path).await {
        Ok(text) => text,
        Err(error) => return Err(unusable(path, error.to_string())),
    };
    let parsed = tokio::task::spawn_blocking(move || WebRoots::from_pem(&text)).await;
    match parsed {
        Ok(Ok(roots)) => Ok(roots),
        Ok(Err(error @ (WebRootsError::Pem | WebRootsError::Empty))) => {
            Err(unusable(path, error.to_string()))
        }
        Err(error) => Err(unusable(path, error.to_string())),
    }
}

async fn connect(endpoint: &BundleEndpoint) -> Result<TcpStream, FetchError> {
    let (host, port) = (endpoint.url().host(), endpoint.url().port());
    let failed = |source| FetchError::Resolve { host: host.to_owned(), source };
    let resolved: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await.map_err(failed)?.collect();
    let Some(first) = resolved.first() else {
        return Err(failed(io::ErrorKind::NotFound.into()));
    };
    let (address, mut error) = (first.ip(), None);
    // The address that was looked at is the one that is asked: nothing resolves the name again.
    let allowed = resolved.into_iter().filter(|address| endpoint.may_be_at(address.ip()));
    for address in allowed.take(MOST_ADDRESSES) {
        let connected = tokio::time::timeout(STEP_DEADLINE, TcpStream::connect(address)).await;
        match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => return Ok(stream),
            Err(source) => error = Some(FetchError::Connect { address, source }),
        }
    }
    Err(error.unwrap_or_else(|| FetchError::Address { host: host.to_owned(), address }))
}

fn question(url: &EndpointUrl) -> Result<Request<Empty<Bytes>>, Unanswered> {
    let request = Request::get(url.path())
        .header(header::HOST, url.authority())
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, concat!("hauberk/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::new())?;
    Ok(request)
}
