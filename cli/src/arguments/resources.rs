//! Arguments of the commands about resources.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use clap_complete::engine::ArgValueCandidates;

use crate::completion::{kind_words, target_names};
use crate::output::Format;
use crate::times;

/// `apply`
#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// A file, a folder, or - for standard input; may be repeated
    #[arg(long = "filename", short = 'f', required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Change nothing: check here (client), or say what the control plane would do, and what becomes of recorded calls
    /// then (server). The exit code tells acceptance alone (0: accepted, 1: refused); for a gate take
    /// `hauberk simulate`
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "server", value_name = "WHERE")]
    pub(crate) dry_run: Option<DryRun>,
    /// Return when every agent concerned enforces the change [default when given: 30s]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "30s", value_parser = times::duration, value_name = "TIMEOUT")]
    pub(crate) wait: Option<Duration>,
}

/// Where a dry run is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DryRun {
    Server,
    Client,
}

/// `get`
#[derive(Debug, Args)]
pub(crate) struct Get {
    /// A kind (vn, vs, policies, enrollments, instances, tokens, certificates, admins, all …), or KIND/NAME
    #[arg(value_name = "KIND", add = ArgValueCandidates::new(kind_words))]
    pub(crate) kind: String,
    /// Only this one
    #[arg(add = ArgValueCandidates::new(target_names))]
    pub(crate) name: Option<String>,
    /// Only what has this label; may be repeated
    #[arg(long, short = 'l', value_name = "KEY=VALUE")]
    pub(crate) selector: Vec<String>,
    /// Of every mesh
    #[arg(long, short = 'A')]
    pub(crate) all_meshes: bool,
    /// How to show it
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// `describe`
#[derive(Debug, Args)]
pub(crate) struct Describe {
    /// A kind, or KIND/NAME
    #[arg(add = ArgValueCandidates::new(kind_words))]
    pub(crate) kind: String,
    /// Its name
    #[arg(add = ArgValueCandidates::new(target_names))]
    pub(crate) name: Option<String>,
}

/// `diff`
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// A file, a folder, or - for standard input; may be repeated
    #[arg(long = "filename", short = 'f', required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

/// `delete`
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// A kind, or KIND/NAME
    #[arg(required_unless_present = "files", conflicts_with = "files", add = ArgValueCandidates::new(kind_words))]
    pub(crate) kind: Option<String>,
    /// Names of that kind
    #[arg(add = ArgValueCandidates::new(target_names))]
    pub(crate) names: Vec<String>,
    /// Whatever these files hold
    #[arg(long = "filename", short = 'f', value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// It is no error if it is not there
    #[arg(long)]
    pub(crate) ignore_not_found: bool,
    /// Say what would be removed, and what becomes of recorded calls then, but remove nothing (exit code 0: none is
    /// known to be denied then, 1: some are, 2: it failed)
    #[arg(long, conflicts_with = "wait")]
    pub(crate) dry_run: bool,
    /// Return when every agent concerned enforces the change [default when given: 30s]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "30s", value_parser = times::duration, value_name = "TIMEOUT")]
    pub(crate) wait: Option<Duration>,
}

/// `wait`
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// The revision to wait for instead of the current one
    #[arg(long)]
    pub(crate) revision: Option<u64>,
    /// How long
    #[arg(long, value_parser = times::duration, default_value = "30s")]
    pub(crate) timeout: Duration,
}
