//! Why a part of the demo does not go on.

use std::error::Error as _;
use std::io;
use std::net::AddrParseError;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use thiserror::Error;

use crate::context::ContextError;

/// Why a part of the demo does not go on. Causes are in `source`; [`DemoError::in_full`] tells them.
#[derive(Debug, Error)]
pub(crate) enum DemoError {
    /// A target's URL is none. The fault is the user's, as with the next four.
    #[error("`{url}` is no URL")]
    Url { url: String, source: http::uri::InvalidUri },
    /// It is a URL that the demo does not call.
    #[error("`{0}` is not of the form http://SERVICE/PATH")]
    NotHttp(String),
    /// A target's method is none.
    #[error("`{method}` is no HTTP method")]
    Method { method: String, source: http::method::InvalidMethod },
    /// The agent's outbound listener is no address.
    #[error("HAUBERK_OUTBOUND is `{told}`, which is no http://IP:PORT")]
    Outbound { told: String, source: AddrParseError },
    /// A node without a folder.
    #[error("--node takes NODE=FOLDER, not `{0}`")]
    NodeArgument(String),
    /// A program that is not where it should be.
    #[error("{name} is not in {}: build it (make build) or give --bin-dir", .folder.display())]
    Missing { name: &'static str, folder: PathBuf },
    /// Nor is it known where that is.
    #[error("where this program lies is not known: give --bin-dir")]
    Nowhere,
    /// Two demos at once.
    #[error("the context `{context}` is in use at {server}: another demo runs; stop that one first")]
    InUse { context: &'static str, server: String },
    /// The contexts cannot be read or written.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The system refuses something that can be named.
    #[error("{what}")]
    Io { what: String, source: io::Error },
    /// The system refuses something small.
    #[error(transparent)]
    System(#[from] io::Error),
    /// A command that the demo gives refuses; in its own words.
    #[error("{command}: {said}")]
    Command { command: String, said: String },
    /// A process did not even begin.
    #[error("a process ended as it began")]
    EndedAtOnce,
    /// A process ended while it was waited for.
    #[error("{name} ended with {status}:\n{log}")]
    EndedEarly { name: String, status: ExitStatus, log: String },
    /// A process ended that the demo cannot do without; the account has told how.
    #[error("{0} ended")]
    Ended(String),
    /// A process is still not ready.
    #[error("{} is not ready after {patience:?}", .state.display())]
    NotReady { state: PathBuf, patience: Duration },
    /// A process has not told where it listens.
    #[error("no address for {0}")]
    NoAddress(String),
    /// What it told cannot be read.
    #[error(transparent)]
    Addresses(#[from] serde_json::Error),
    /// What it told is no address.
    #[error(transparent)]
    Address(#[from] AddrParseError),
    /// The issuer of the shop's users does not work, or is not known.
    #[error("the shop's issuer: {0}")]
    Issuer(Box<dyn std::error::Error + Send + Sync>),
    /// It signs nobody in of that name.
    #[error("{person} cannot sign in: {said}")]
    NotSignedIn { person: String, said: String },
    /// No demo runs that a person could call.
    #[error("no demo works in {}: start one with `make demo`", .0.display())]
    NoShop(PathBuf),
    /// Nobody knows which one is meant.
    #[error("several demos work in {}: say with --folder which is meant", .0.display())]
    ManyShops(PathBuf),
    /// A call was not answered in time.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// A call was answered in part.
    #[error("the answer broke off: {0}")]
    BrokeOff(String),
    /// A call cannot be made.
    #[error(transparent)]
    Request(#[from] http::Error),
    /// A call failed.
    #[error(transparent)]
    Call(#[from] hyper::Error),
}

impl DemoError {
    /// For what the system refused: with words for what it was.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// The message and those of its causes.
    pub(crate) fn in_full(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let words = error.to_string();
            // A message may end with its cause's already.
            if !text.ends_with(&words) {
                text.push_str(": ");
                text.push_str(&words);
            }
            cause = error.source();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let io = || io::Error::other("no room");
        assert_eq!(DemoError::io("cannot make /x")(io()).in_full(), "cannot make /x: no room");
        let context = ContextError::Io { verb: "read", path: "/x".into(), source: io() };
        assert_eq!(DemoError::from(context).in_full(), "cannot read /x: no room");
    }
}
