//! Why the agent could not run, and the exit codes that say so.

use std::io;

use thiserror::Error;

use super::listeners::ListenerError;
use super::sockets::SocketsError;
use crate::child::ChildError;
use crate::credentials::CredentialsError;
use crate::enroll::EnrollError;
use crate::random::NoRandomness;
use crate::state::StateError;

/// What a shell takes for a mistake in the configuration (`EX_CONFIG` of sysexits.h).
const EX_CONFIG: u8 = 78;

/// What a shell takes for a fault that a new start may mend (`EX_TEMPFAIL` of sysexits.h).
const EX_TEMPFAIL: u8 = 75;

/// Why the agent could not run.
#[derive(Debug, Error)]
pub enum AppError {
    /// There is no certificate to be had.
    #[error(transparent)]
    Enroll(#[from] EnrollError),
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// A socket cannot be bound.
    #[error(transparent)]
    Sockets(#[from] SocketsError),
    /// A listener of the node cannot be bound.
    #[error(transparent)]
    Listener(#[from] ListenerError),
    /// What was issued cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The child cannot be run.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// The system refuses signals or threads.
    #[error("the system refuses: {0}")]
    System(#[from] io::Error),
    /// The container whose network we shared has ended. A new start joins the network of its successor.
    #[error(
        "the network is gone: this network namespace has no interface left but loopback, since the container that it \
         belonged to has ended; the agent ends, so that its restart joins the new one"
    )]
    NetworkGone,
    /// The system has no random bytes.
    #[error(transparent)]
    Random(#[from] NoRandomness),
    /// A task of ours has panicked. The fault is ours.
    #[error("a part of the agent has failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl AppError {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Enroll(error) if error.is_for_the_administrator() => EX_CONFIG,
            Self::Child(error) => error.exit_code(),
            Self::NetworkGone => EX_TEMPFAIL,
            _ => 1,
        }
    }
}
