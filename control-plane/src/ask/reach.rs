//! Reaches what others publish in the web: at no other address than the resource allows, and known by the web's authorities.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use hauberk_tls::{EndpointConnector, HandshakeError, WebRoots, WebRootsError};
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use tokio::net::TcpStream;

use super::{Unanswered, ask};
use crate::resources::{EndpointUrl, WebEndpoint};

/// How long one address may take to answer, and a handshake.
pub const STEP_DEADLINE: Duration = Duration::from_secs(10);

/// How many addresses of a name are tried.
const MOST_ADDRESSES: usize = 4;

/// Where operating systems keep the roots of the web, in the order in which they are looked for.
const SYSTEM_ROOTS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why something that others publish was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum Unreached {
    /// The name has no address.
    #[error("{host} cannot be resolved: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// The name leads to where nothing is asked.
    #[error("{}", not_asked(host, *address, *is_never))]
    Address {
        /// The name, or the address itself.
        host: String,
        /// One of its addresses.
        address: IpAddr,
        /// Whether that one is not asked whatever the resource says.
        is_never: bool,
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
    /// No root of the web vouches for it. The fault is its operator's, or of whoever has not told us of their authority.
    #[error(
        "who answers at {host} is not believed: no root of the web vouches for its certificate; see --web-roots"
    )]
    NoWebRoot {
        /// Whom we asked.
        host: String,
    },
    /// There is no answer.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
    /// It answers something else. Redirects are not followed: an admin says where things come from.
    #[error("it answers with status {0}; only 200 is taken, and no redirect followed")]
    Status(StatusCode),
}

fn not_asked(host: &str, address: IpAddr, is_never: bool) -> String {
    let why = if is_never {
        "link-local addresses, and such that are nobody's, are never asked"
    } else {
        "loopback and private addresses take allowPrivateAddresses"
    };
    match host.parse::<IpAddr>() {
        Ok(own) if address == own => format!("{address} is no address that is asked: {why}"),
        _ => format!("{host} has only addresses that are not asked, such as {address}: {why}"),
    }
}

/// What knows servers by the web's authorities: those of `web_roots`, or the system's.
///
/// # Errors
/// There are none, or TLS cannot be set up.
pub async fn web_connector(web_roots: Option<&Path>) -> Result<EndpointConnector, Unreached> {
    let roots = read_roots(web_roots).await?;
    Ok(EndpointConnector::web(roots, STEP_DEADLINE).map_err(Unanswered::from)?)
}

/// What is served at an endpoint, of at most `most` bytes.
///
/// # Errors
/// It is not to be had.
pub async fn get(
    connector: &EndpointConnector,
    endpoint: &WebEndpoint,
    most: usize,
) -> Result<Bytes, Unreached> {
    let stream = connect(endpoint).await?;
    let url = endpoint.url();
    let asked = ask(connector, url.host(), stream, question(url)?, most).await;
    let (status, document) = asked.map_err(|error| match error {
        Unanswered::Handshake(HandshakeError::UnknownRoot) => {
            Unreached::NoWebRoot { host: url.host().to_owned() }
        }
        error => error.into(),
    })?;
    if status == StatusCode::OK { Ok(document) } else { Err(Unreached::Status(status)) }
}

/// Reads the roots of the web anew each time: systems replace the file when authorities are dismissed.
async fn read_roots(configured: Option<&Path>) -> Result<WebRoots, Unreached> {
    let found = configured.or_else(|| SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.exists()));
    let path = found.unwrap_or(Path::new("/etc/ssl/certs/ca-certificates.crt")).to_owned();
    let unusable = |path: PathBuf, reason: String| Unreached::WebRoots { path, reason };
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

async fn connect(endpoint: &WebEndpoint) -> Result<TcpStream, Unreached> {
    let (host, port) = (endpoint.url().host(), endpoint.url().port());
    let failed = |source| Unreached::Resolve { host: host.to_owned(), source };
    let resolved: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await.map_err(failed)?.collect();
    let Some((address, is_never)) = to_be_named(endpoint, &resolved) else {
        return Err(failed(io::ErrorKind::NotFound.into()));
    };
    let mut error = None;
    // The address that was looked at is the one that is asked: nothing resolves the name again.
    let allowed = resolved.into_iter().filter(|address| endpoint.may_be_at(address.ip()));
    for address in allowed.take(MOST_ADDRESSES) {
        let connected = tokio::time::timeout(STEP_DEADLINE, TcpStream::connect(address)).await;
        match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => return Ok(stream),
            Err(source) => error = Some(Unreached::Connect { address, source }),
        }
    }
    Err(error.unwrap_or_else(|| Unreached::Address { host: host.to_owned(), address, is_never }))
}

/// The address that is named where none is asked, and whether that one is not asked whatever the resource says: one that would be asked
/// if the resource allowed it, where there is one, since that tells what can be done.
fn to_be_named(endpoint: &WebEndpoint, resolved: &[SocketAddr]) -> Option<(IpAddr, bool)> {
    let mut addresses = resolved.iter().map(SocketAddr::ip);
    let would_be = addresses.clone().find(|address| !endpoint.is_never_at(*address));
    would_be.map(|address| (address, false)).or_else(|| addresses.next().map(|address| (address, true)))
}

fn question(url: &EndpointUrl) -> Result<Request<Empty<Bytes>>, Unanswered> {
    let request = Request::get(url.target())
        .header(header::HOST, url.authority())
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, concat!("hauberk/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::new())?;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_could_be_allowed_is_named_before_one_that_could_not() {
        let endpoint = WebEndpoint::parse("https://keys.example/", false).unwrap();
        let named = |addresses: &[&str]| {
            let resolved = addresses.iter().map(|address| SocketAddr::new(address.parse().unwrap(), 443));
            to_be_named(&endpoint, &resolved.collect::<Vec<_>>())
                .map(|(address, never)| (address.to_string(), never))
        };
        assert_eq!(named(&["169.254.1.1", "10.0.0.1"]), Some(("10.0.0.1".to_owned(), false)));
        assert_eq!(named(&["10.0.0.1", "169.254.1.1"]), Some(("10.0.0.1".to_owned(), false)));
        assert_eq!(named(&["169.254.1.1", "fe80::1"]), Some(("169.254.1.1".to_owned(), true)));
        assert_eq!(named(&[]), None);
    }
}
