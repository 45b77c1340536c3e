//! Arguments of the commands that refuse somebody.

use std::time::Duration;

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;

use crate::completion::{gateway_names, node_names};
use crate::times;

/// `revoke`
#[derive(Debug, Subcommand)]
pub(crate) enum Revoke {
    /// One certificate
    Serial {
        /// As `get certificates` shows it
        #[arg(value_name = "SERIAL")]
        serial: String,
        #[command(flatten)]
        wait: WaitEnforced,
    },
    /// An instance: all its certificates, and it gets no further ones
    Instance {
        /// As `get instances` shows it
        #[arg(value_name = "ID")]
        id: String,
        /// Also if nothing is on record of it: for a registry that was restored from a backup older than the instance
        #[arg(long)]
        unrecorded: bool,
        #[command(flatten)]
        wait: WaitEnforced,
    },
    /// All instances that joined by a token, and the token itself
    Token {
        /// As `get tokens` shows it
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        wait: WaitEnforced,
    },
    /// All instances that a virtual node has now; new ones may join with new tokens
    Node {
        /// The virtual node
        #[arg(add = ArgValueCandidates::new(node_names))]
        name: String,
        #[command(flatten)]
        wait: WaitEnforced,
    },
    /// The same of a virtual gateway
    Gateway {
        /// The virtual gateway
        #[arg(add = ArgValueCandidates::new(gateway_names))]
        name: String,
        #[command(flatten)]
        wait: WaitEnforced,
    },
}

/// `quarantine`
#[derive(Debug, Subcommand)]
pub(crate) enum Quarantine {
    /// Refuse everything of a virtual node: its calls, its answers, its renewals, its joins
    Node {
        /// The virtual node
        #[arg(add = ArgValueCandidates::new(node_names))]
        name: String,
        /// Let it in again
        #[arg(long)]
        undo: bool,
        #[command(flatten)]
        wait: WaitEnforced,
    },
    /// Refuse everything of a virtual gateway: its calls, its renewals, its joins
    Gateway {
        /// The virtual gateway
        #[arg(add = ArgValueCandidates::new(gateway_names))]
        name: String,
        /// Let it in again
        #[arg(long)]
        undo: bool,
        #[command(flatten)]
        wait: WaitEnforced,
    },
}

/// Whether to wait.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct WaitEnforced {
    /// Return when every agent enforces it, and say how long that took [default when given: 30s]
    #[arg(long = "wait", num_args = 0..=1, require_equals = true, default_missing_value = "30s", value_parser = times::duration, value_name = "TIMEOUT")]
    pub(crate) timeout: Option<Duration>,
}
