//! One question to the Docker Engine, over its Unix socket: what is this container?

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use hauberk_identity::Selector;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::super::cgroup::ContainerId;

/// Questions at once; others wait for theirs.
pub(in super::super) const AT_ONCE: usize = 4;

/// How long an answer may take, the wait for its turn included.
const PATIENCE: Duration = Duration::from_secs(4);

/// The largest answer, in bytes.
const LARGEST_ANSWER: usize = 1024 * 1024;

/// Where the Engine is asked.
#[derive(Debug)]
pub(super) struct Engine {
    socket: PathBuf,
    turns: Semaphore,
}

/// A container that runs.
pub(super) struct Container {
    id: String,
    pid: i32,
    plain: Vec<Selector>,
    variables: Vec<Selector>,
}

/// Why the Engine did not tell. The fault is whoever named the socket, or the Engine's.
#[derive(Debug, Error)]
pub(crate) enum EngineError {
    /// Nobody answers there.
    #[error("{socket} cannot be connected to: {source}")]
    NobodyThere {
        /// --docker-socket.
        socket: String,
        /// What the system says.
        source: io::Error,
    },
    /// The conversation broke.
    #[error("the conversation broke: {0}")]
    Broken(#[from] hyper::Error),
    /// The answer broke off, or is too large.
    #[error("the answer cannot be read: {0}")]
    Body(String),
    /// The answer says something else than what a container is.
    #[error("it answers {0}")]
    Status(StatusCode),
    /// The answer is not what the Engine's API says.
    #[error("the answer is malformed: {0}")]
    Malformed(String),
    /// It takes too long.
    #[error("no answer within {} s", PATIENCE.as_secs())]
    TimedOut,
}

/// What the Engine's API answers (`GET /containers/ID/json`), as far as it matters here.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    image: String,
    state: State,
    config: Config,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    running: bool,
    pid: i32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    image: String,
    labels: Option<BTreeMap<String, String>>,
    env: Option<Vec<String>>,
}

impl Engine {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket, turns: Semaphore::new(AT_ONCE) }
    }

    /// Asks for a container; `None` where there is none of this id that runs.
    pub(super) async fn inspect(&self, id: &ContainerId) -> Result<Option<Container>, EngineError> {
        let asked = async {
            // Nobody closes it.
            let _turn = self.turns.acquire().await;
            self.ask(id).await
        };
        timeout(PATIENCE, asked).await.map_err(|_| EngineError::TimedOut)?
    }

    async fn ask(&self, id: &ContainerId) -> Result<Option<Container>, EngineError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| EngineError::NobodyThere {
            socket: self.socket.display().to_string(),
            source,
        })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() =
            format!("/containers/{id}/json").parse::<http::Uri>().map_err(|error| malformed(&error))?;
        request.headers_mut().insert(HOST, http::HeaderValue::from_static("docker"));
        let exchange = async {
            let (head, body) = sender.send_request(request).await?.into_parts();
            match head.status {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Ok(None),
                status => return Err(EngineError::Status(status)),
            }
            let body = Limited::new(body, LARGEST_ANSWER).collect().await.map_err(|error| {
                let is_too_large = error.is::<LengthLimitError>();
                EngineError::Body(if is_too_large {
                    format!("it has more than {LARGEST_ANSWER} bytes")
                } else {
                    error.to_string()
                })
            })?;
            let inspected = serde_json::from_slice(&body.to_bytes()).map_err(|error| malformed(&error))?;
            read(inspected, id)
        };
        let driven = async {
            // However it ends, the exchange learns of it.
            let _ = connection.await;
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            outcome = exchange => outcome,
            never = driven => match never {},
        }
    }
}

impl Container {
    /// The number of its first process, in the Engine's pid namespace.
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// What is true of it; of its variables those that are asked for.
    pub(super) fn selectors(&self, asked: &BTreeSet<Selector>) -> BTreeSet<Selector> {
        let variables = self.variables.iter().filter(|variable| asked.contains(variable));
        self.plain.iter().chain(variables).cloned().collect()
    }
}

/// Its variables may be secrets.
impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Container").field("id", &self.id).field("pid", &self.pid).finish_non_exhaustive()
    }
}

fn read(inspected: Inspected, asked: &ContainerId) -> Result<Option<Container>, EngineError> {
    let Inspected { id, image, state: State { running, pid }, config } = inspected;
    if id != asked.as_str() {
        return Err(malformed(&"it is about another container"));
    }
    if !running || pid <= 0 {
        return Ok(None);
    }
    let Config { image: image_name, labels, env } = config;
    let labels = labels.unwrap_or_default();
    let labels = labels.iter().filter_map(|(name, value)| Selector::docker_label(name, value));
    let image = [Selector::docker_image_id(&image_name), Selector::docker_image_config_digest(&image)];
    let variables = env.unwrap_or_default();
    let variables = variables.iter().filter_map(|variable| Selector::docker_env(variable)).collect();
    Ok(Some(Container { id, pid, plain: labels.chain(image.into_iter().flatten()).collect(), variables }))
}

fn malformed(problem: &dyn fmt::Display) -> EngineError {
    EngineError::Malformed(problem.to_string())
}
