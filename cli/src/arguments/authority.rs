//! Arguments of `authority`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::output::Format;
use crate::times;

/// `authority`
#[derive(Debug, Subcommand)]
pub(crate) enum AuthorityCommand {
    /// List authorities, and how many live instances hold certificates by each
    List {
        /// How to show them
        #[arg(long, short, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Make the next authority: everybody is told to trust it, and it signs nothing yet
    Prepare {
        /// Which
        #[arg(value_enum)]
        kind: AuthorityKind,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Let a prepared authority sign from now on; the one before retires
    Activate {
        /// As `authority list` shows it
        serial: String,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Prepare the next authority, and activate it as soon as all live instances trust it
    Rotate {
        /// Which
        #[arg(value_enum)]
        kind: AuthorityKind,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Have all that an authority has signed replaced at once: its key may be in other hands
    Taint {
        /// As `authority list` shows it
        serial: String,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Accept nothing any longer that an authority has signed
    Revoke {
        /// As `authority list` shows it
        serial: String,
        /// Even if live instances still hold certificates by it: they are cut off
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        waiting: Waiting,
    },
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AuthorityKind {
    /// Vouches for issuing authorities; everybody trusts it
    Root,
    /// Signs certificates, under the root
    Issuing,
}

/// Whether to wait.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Waiting {
    /// Return when every live instance trusts what is to be trusted and holds a certificate of the active authority
    /// [default when given: 2m]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "2m", value_parser = times::duration, value_name = "TIMEOUT")]
    pub(crate) wait: Option<Duration>,
}
