//! Arguments of the commands that look at policies as a whole.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCandidates;

use crate::completion::{caller_names, target_names};

/// `who-can`
#[derive(Debug, Args)]
pub(crate) struct WhoCan {
    /// What is called: a virtual service, else a virtual node; or external/NAME
    #[arg(add = ArgValueCandidates::new(target_names))]
    pub(crate) target: String,
    /// An HTTP method, or `upgrade` for WebSockets; left out: each
    pub(crate) method: Option<String>,
    /// A path or package.Service/Method; * stands for anything, slashes included [default: all]
    #[arg(value_name = "'/PATH/*'")]
    pub(crate) path: Option<String>,
    /// Only this port of the target
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// Show those too who never can
    #[arg(long)]
    pub(crate) all: bool,
    /// How to show it
    #[arg(long, short, value_enum, default_value_t = TableFormat::Table)]
    pub(crate) output: TableFormat,
}

/// `what-can`
#[derive(Debug, Args)]
pub(crate) struct WhatCan {
    /// Who calls: a virtual node, gateway/NAME, a SPIFFE id, or anonymous
    #[arg(add = ArgValueCandidates::new(caller_names))]
    pub(crate) caller: String,
    /// Show also what it never can
    #[arg(long)]
    pub(crate) all: bool,
    /// How to show it
    #[arg(long, short, value_enum, default_value_t = TableFormat::Table)]
    pub(crate) output: TableFormat,
}

/// How a table is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TableFormat {
    Table,
    Json,
    Yaml,
}

/// `policy`
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Run assertions from files (exit code 0: all hold, 1: some do not, 2: they could not be run)
    Test(PolicyTest),
    /// Print the schema that policies are checked against, as Cedar's own tools take it; its first line says its
    /// version
    Schema,
    /// Show for whom a draft would change what (exit code 0: for nobody, 1: for somebody, or it is not compared, 2: it
    /// failed)
    Diff(PolicyDiff),
}

/// `policy test`
#[derive(Debug, Args)]
pub(crate) struct PolicyTest {
    /// Files of assertions
    #[arg(required = true, value_name = "FILE")]
    pub(crate) tests: Vec<PathBuf>,
    /// Resources to ask instead of the control plane's, which then is not needed: a file, a folder, or - for standard
    /// input; may be repeated
    #[arg(long = "filename", short = 'f', value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

/// `policy diff`
#[derive(Debug, Args)]
pub(crate) struct PolicyDiff {
    /// The draft: a file, a folder, or - for standard input; may be repeated
    #[arg(long = "filename", short = 'f', required_unless_present = "deleted", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Take this away too, after what the files hold is applied; may be repeated
    #[arg(long = "delete", value_name = "KIND/NAME")]
    pub(crate) deleted: Vec<String>,
    /// How to show it
    #[arg(long, short, value_enum, default_value_t = TableFormat::Table)]
    pub(crate) output: TableFormat,
}
