//! Arguments of the commands about identities, admins and contexts.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCandidates;

use super::decisions::TextFormat;
use crate::completion::{context_names, gateway_names, node_names};
use crate::output::Format;
use crate::times;

/// `token`
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a join token for agents of a virtual node or gateway, or for an enrollment by labels; it is printed once
    Create(TokenCreate),
    /// List tokens
    List {
        /// How to show them
        #[arg(long, short, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Take a token back
    Delete {
        /// As `token list` shows it
        id: String,
    },
}

/// `token create`
#[derive(Debug, Args)]
pub(crate) struct TokenCreate {
    /// The virtual node that the agents become
    #[arg(long, add = ArgValueCandidates::new(node_names), required_unless_present_any = ["gateway", "enrollment"], conflicts_with_all = ["gateway", "enrollment"])]
    pub(crate) node: Option<String>,
    /// The virtual gateway that the agents become
    #[arg(long, add = ArgValueCandidates::new(gateway_names), conflicts_with = "enrollment")]
    pub(crate) gateway: Option<String>,
    /// The enrollment that says, by the token's labels, what the agents become
    #[arg(long, value_name = "NAME", requires = "labels")]
    pub(crate) enrollment: Option<String>,
    /// What is said of the agents, for the rules of the enrollment: selector join_token:label:NAME:VALUE; may be
    /// repeated
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label, requires = "enrollment", conflicts_with_all = ["node", "gateway"])]
    pub(crate) labels: Vec<(String, String)>,
    /// How long it can be used; at most 24h
    #[arg(long, value_parser = times::duration, default_value = "10m")]
    pub(crate) ttl: Duration,
    /// How many agents can use it: a number, or unlimited
    #[arg(long, default_value = "1", value_parser = uses)]
    pub(crate) uses: Uses,
    /// Write the token to this file (0600) instead of printing it
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// How to show it
    #[arg(long, short, value_enum, default_value_t = TextFormat::Text)]
    pub(crate) output: TextFormat,
}

/// How often a token can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Uses {
    Times(u32),
    Unlimited,
}

fn uses(text: &str) -> Result<Uses, String> {
    if text == "unlimited" {
        return Ok(Uses::Unlimited);
    }
    match text.parse() {
        Ok(times) if times > 0 => Ok(Uses::Times(times)),
        _ => Err("write a number from 1, or unlimited".to_owned()),
    }
}

/// What a label may be is the control plane's to say.
fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err("write NAME=VALUE, such as env=prod".to_owned()),
    }
}

/// `admin`
#[derive(Debug, Subcommand)]
pub(crate) enum Admin {
    /// Make an admin; prints a login token for them, once
    Create {
        /// The admin's name
        name: String,
        /// What they may do; may be repeated
        #[arg(long = "role", required = true, value_enum)]
        roles: Vec<Role>,
    },
    /// List admins
    List {
        /// How to show them
        #[arg(long, short, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Remove an admin; their credential is refused from then on
    Delete {
        /// The admin's name
        name: String,
    },
}

/// What an admin may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Reads everything that is not secret, as every other role does
    Viewer,
    /// Changes meshes, nodes, gateways and services, as far as no policy names them: grants nothing
    Editor,
    /// Changes policies and what they are made of (roles, templates, data classes, issuers, external services), and
    /// what an editor does, also where a policy names it
    PolicyAdmin,
    /// Makes tokens, changes enrollments and federation, revokes, and replaces, signs and installs authorities: can be
    /// anybody
    IdentityAdmin,
    /// Changes boundaries, and nothing else but what they name together with an editor's or policy-admin's role
    BoundaryAdmin,
    /// Everything, admins and log filters included
    Owner,
}

/// `audit`
#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// List records, the latest last
    List(AuditList),
}

/// `audit list`
#[derive(Debug, Args)]
pub(crate) struct AuditList {
    /// How far back: a duration (1h) or an instant
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<String>,
    /// Only what this one did: a SPIFFE id, its path (mesh/shop/node/web), an admin's name, or control-plane
    #[arg(long)]
    pub(crate) actor: Option<String>,
    /// Only actions that begin so: token., resources.apply
    #[arg(long)]
    pub(crate) action: Option<String>,
    /// Only what was refused
    #[arg(long)]
    pub(crate) refused: bool,
    /// At most so many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
    /// How to show them
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// `login`
#[derive(Debug, Args)]
pub(crate) struct Login {
    /// The admin API
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) server: String,
    /// SHA-256 of the root's certificate, as `init` and `admin create` print it
    #[arg(long, value_name = "HEX")]
    pub(crate) root_fingerprint: String,
    /// The trust domain, where that root names none [default: the one that it names]
    #[arg(long, value_name = "NAME")]
    pub(crate) trust_domain: Option<String>,
    /// The file with the login token; - for standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(crate) token_file: PathBuf,
    /// What to call the context [default: the trust domain]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
}

/// `context`
#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// List the contexts
    List,
    /// Choose one
    Use {
        /// Its name
        #[arg(add = ArgValueCandidates::new(context_names))]
        name: String,
    },
    /// Print the chosen one
    Current,
    /// Write its credential to files for other gRPC clients: ca.pem, cert.pem, key.pem
    Export {
        /// The folder; made (0700) where there is none
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// Forget one, with its credential
    Delete {
        /// Its name
        #[arg(add = ArgValueCandidates::new(context_names))]
        name: String,
    },
}

/// `completion`
#[derive(Debug, Args)]
pub(crate) struct Completion {
    /// For which shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// Shells that completion is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}
