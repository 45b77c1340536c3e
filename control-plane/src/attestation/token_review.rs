//! Asks a Kubernetes cluster whose a token is (TokenReview, authentication.k8s.io/v1).
//!
//! Which clusters are asked, and where they are, only the operator of the control plane says (`--token-review`): a resource
//! names one of them. Otherwise whoever may write enrollments could have the control plane send its credentials anywhere.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hauberk_identity::{Name, UnixMillis};
use hauberk_tls::{EndpointConnector, WebRoots, WebRootsError};
use http::{Request, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::places::{Places, WAITS};
use crate::allowance::Allowances;
use crate::ask::{Unanswered, ask, within};

/// How long one question may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// How often it is logged that a cluster cannot be asked.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// The largest answer, in bytes.
const MAX_ANSWER: usize = 256 * 1024;

/// Where it is asked.
const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// A cluster that can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReviewCluster {
    /// As enrollments name it.
    pub name: Name,
    /// Its API server, by DNS name or IP address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The directory with `ca.crt`, which the API server is known by, and `token`, which we are: as pods have it.
    pub credentials: PathBuf,
}

/// The clusters that can be asked.
#[derive(Debug)]
pub struct TokenReviewers(BTreeMap<Name, Reviewer>);

/// A cluster, and what is under way there.
#[derive(Debug)]
struct Reviewer {
    cluster: ReviewCluster,
    places: Places,
    told: Mutex<Told>,
}

/// How often it was said in the log that it cannot be asked: as often as it is asked would bury everything else.
#[derive(Debug)]
struct Told {
    allowance: Allowances,
    left_out: u64,
}

/// Why there is no answer to act on.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// The enrollment names one that the control plane was not told of. The fault is the administrator's.
    #[error(
        "the control plane was told of no cluster {0}: start it with --token-review {0}=HOST:PORT=DIRECTORY"
    )]
    UnknownCluster(Name),
    /// Too many ask at once.
    #[error(
        "cluster {0} is asked about as many tokens as it may be at once, and no place came free within {waited} seconds",
        waited = WAITS.as_secs()
    )]
    Busy(Name),
    /// The cluster does not know the token, or not for this audience.
    #[error("cluster {cluster} does not vouch for the token: {why}")]
    Refused {
        /// The cluster.
        cluster: Name,
        /// What it says.
        why: String,
    },
    /// Nobody answers, or not as they should.
    #[error("cluster {cluster} cannot be asked: {source}")]
    Unanswered {
        /// The cluster.
        cluster: Name,
        /// Why not.
        source: Box<Unreviewed>,
    },
}

/// Why a cluster cannot be asked. The fault is its, or its administrator's.
#[derive(Debug, thiserror::Error)]
pub enum Unreviewed {
    /// A file of ours, or the network.
    #[error("{what}: {source}")]
    Io {
        /// Which.
        what: String,
        /// What the system says.
        source: io::Error,
    },
    /// The certificates to know it by are none.
    #[error("ca.crt: {0}")]
    Authority(#[from] WebRootsError),
    /// There is no answer.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
    /// It will not be asked by us.
    #[error("it answers with status {0}: does the account of `token` have the role system:auth-delegator?")]
    Status(StatusCode),
    /// Its answer is something else.
    #[error("its answer is no TokenReview")]
    Answer,
}

impl TokenReviewers {
    /// These clusters.
    pub fn new(clusters: impl IntoIterator<Item = ReviewCluster>) -> Self {
        Self(clusters.into_iter().map(|cluster| (cluster.name.clone(), Reviewer::new(cluster))).collect())
    }

    /// The user whose token it is (`status.user`), if it is one for this audience. `network`: whence it was shown.
    ///
    /// # Errors
    /// It is not, or nobody says so.
    pub(super) async fn ask(
        &self,
        cluster: &Name,
        token: &str,
        audience: &str,
        (network, now): (&str, UnixMillis),
    ) -> Result<Value, ReviewError> {
        let known = self.0.get(cluster).ok_or_else(|| ReviewError::UnknownCluster(cluster.clone()))?;
        let answer = known.ask(token, audience, network).await;
        if let Err(error) = &answer
            && error.is_unanswered()
        {
            known.tell(error, now);
        }
        answer
    }
}

impl Reviewer {
    fn new(cluster: ReviewCluster) -> Self {
        let told = Told { allowance: Allowances::new(1, TOLD_EVERY), left_out: 0 };
        Self { cluster, places: Places::new(), told: Mutex::new(told) }
    }

    async fn ask(&self, token: &str, audience: &str, network: &str) -> Result<Value, ReviewError> {
        let cluster = &self.cluster.name;
        let refused = |why: &str| ReviewError::Refused { cluster: cluster.clone(), why: why.to_owned() };
        let busy = || ReviewError::Busy(cluster.clone());
        // Whoever asks through us has proved nothing yet.
        let _place = self.places.take(network).await.ok_or_else(busy)?;
        let asked = within(DEADLINE, self.cluster.post(token, audience)).await;
        let unanswered =
            |source| ReviewError::Unanswered { cluster: cluster.clone(), source: Box::new(source) };
        let answer = asked.map_err(unanswered)?;
        let status = answer.get("status").ok_or_else(|| unanswered(Unreviewed::Answer))?;
        let said = status.get("error").and_then(Value::as_str).filter(|error| !error.is_empty());
        if status.get("authenticated") != Some(&Value::Bool(true)) || said.is_some() {
            return Err(refused(said.unwrap_or("it is not authentic, or has expired")));
        }
        // A cluster that says nothing of audiences has not looked at them.
        let audiences = status.get("audiences").and_then(Value::as_array);
        if !audiences.is_some_and(|audiences| audiences.iter().any(|named| named == audience)) {
            return Err(refused("it is not for this audience"));
        }
        status.get("user").cloned().ok_or_else(|| unanswered(Unreviewed::Answer))
    }

    fn tell(&self, error: &ReviewError, now: UnixMillis) {
        let left_out = self.told.lock().unwrap_or_else(PoisonError::into_inner).admit(now);
        match left_out {
            Some(left_out) => {
                tracing::warn!(event = "evidence_unjudged", %error, left_out, "agents cannot be let in");
            }
            None => tracing::debug!(event = "evidence_unjudged", %error, "an agent cannot be let in"),
        }
    }
}

impl Told {
    /// Whether it is said again; how often it was not since the last time, then.
    fn admit(&mut self, now: UnixMillis) -> Option<u64> {
        if self.allowance.take("", now).is_ok() {
            return Some(std::mem::take(&mut self.left_out));
        }
        self.left_out += 1;
        None
    }
}

impl ReviewError {
    /// Whether the token was not judged, as against being refused.
    pub(super) fn is_unanswered(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::Unanswered { .. })
    }
}

impl ReviewCluster {
    async fn post(&self, token: &str, audience: &str) -> Result<Value, Unreviewed> {
        // Read each time: both are replaced while we run.
        let own = Zeroizing::new(self.read("token").await?);
        let authority = WebRoots::from_pem(&self.read("ca.crt").await?)?;
        let connector = EndpointConnector::web(authority, DEADLINE).map_err(Unanswered::from)?;
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = stream.map_err(|source| Unreviewed::Io { what: "connecting".to_owned(), source })?;
        let request = self.question(&own, token, audience)?;
        let (status, answer) = ask(&connector, &self.host, stream, request, MAX_ANSWER).await?;
        if ![StatusCode::OK, StatusCode::CREATED].contains(&status) {
            return Err(Unreviewed::Status(status));
        }
        serde_json::from_slice(&answer).map_err(|_| Unreviewed::Answer)
    }

    fn question(&self, own: &str, token: &str, audience: &str) -> Result<Request<Full<Bytes>>, Unreviewed> {
        let unusable =
            |_| Unreviewed::Io { what: "token".to_owned(), source: io::ErrorKind::InvalidData.into() };
        let bearer = Zeroizing::new(format!("Bearer {}", own.trim()));
        let mut bearer = header::HeaderValue::from_str(&bearer).map_err(unusable)?;
        bearer.set_sensitive(true);
        let asked = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": { "token": token, "audiences": [audience] },
        });
        let request = Request::post(PATH)
            .header(header::HOST, self.authority())
            .header(header::AUTHORIZATION, bearer)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .header(header::CONNECTION, "close")
            .body(Full::new(Bytes::from(asked.to_string())))
            .map_err(Unanswered::from)?;
        Ok(request)
    }

    /// As HTTP names it: an address of IPv6 stands in brackets (RFC 9110 §7.2).
    fn authority(&self) -> String {
        match self.host.parse() {
            Ok(address) => SocketAddr::new(address, self.port).to_string(),
            Err(_) => format!("{}:{}", self.host, self.port),
        }
    }

    async fn read(&self, name: &str) -> Result<String, Unreviewed> {
        let path = self.credentials.join(name);
        let text = tokio::fs::read_to_string(&path).await;
        text.map_err(|source| Unreviewed::Io { what: path.display().to_string(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_ipv6_stands_in_brackets_in_the_host_header() {
        for (host, expected) in [
            ("2001:db8::1", "[2001:db8::1]:6443"),
            ("192.0.2.7", "192.0.2.7:6443"),
            ("kubernetes.default.svc", "kubernetes.default.svc:6443"),
        ] {
            let cluster = ReviewCluster {
                name: Name::parse("prod").unwrap(),
                host: host.to_owned(),
                port: 6443,
                credentials: PathBuf::new(),
            };
            let asked = cluster.question("own", "token", "hauberk").unwrap();
            assert_eq!(asked.headers()[header::HOST].as_bytes(), expected.as_bytes());
        }
    }

    #[test]
    fn that_a_cluster_cannot_be_asked_is_said_once_a_minute_and_how_often_it_was_not() {
        let mut told = Told { allowance: Allowances::new(1, TOLD_EVERY), left_out: 0 };
        let now = UnixMillis(1_000_000);
        assert_eq!(told.admit(now), Some(0));
        for _ in 0..1_000 {
            assert_eq!(told.admit(now.plus(TOLD_EVERY / 2)), None);
        }
        assert_eq!(told.admit(now.plus(TOLD_EVERY)), Some(1_000));
        assert_eq!(told.admit(now.plus(TOLD_EVERY)), None);
    }
}
