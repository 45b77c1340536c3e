//! Arguments of the commands about what was recorded.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use clap_complete::engine::ArgValueCandidates;

use crate::completion::caller_names;
use crate::output::Format;

/// `simulate`
#[derive(Debug, Args)]
pub(crate) struct Simulate {
    /// A file, a folder, or - for standard input; may be repeated
    #[arg(long = "filename", short = 'f', required_unless_present = "deleted", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Take this away too, after what the files hold is applied; may be repeated
    #[arg(long = "delete", value_name = "KIND/NAME")]
    pub(crate) deleted: Vec<String>,
    /// How to show it
    #[arg(long, short, value_enum, default_value_t = RecordFormat::Text)]
    pub(crate) output: RecordFormat,
}

/// `suggest`
#[derive(Debug, Args)]
pub(crate) struct Suggest {
    /// Only for what this virtual node was asked; or for what left the mesh from it, or from gateway/NAME
    #[arg(long, value_name = "NODE", add = ArgValueCandidates::new(caller_names))]
    pub(crate) node: Option<String>,
    /// How to show it: text is YAML for apply -f, with figures beside it
    #[arg(long, short, value_enum, default_value_t = RecordFormat::Text)]
    pub(crate) output: RecordFormat,
}

/// How what was recorded is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RecordFormat {
    Text,
    Json,
    Yaml,
}

impl RecordFormat {
    /// The same for programs, if it is for those.
    pub(crate) fn for_programs(self) -> Option<Format> {
        match self {
            Self::Text => None,
            Self::Json => Some(Format::Json),
            Self::Yaml => Some(Format::Yaml),
        }
    }
}
