//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCandidates;

use crate::completion::{context_names, kind_words, node_names, target_names};
use crate::output::Format;
use crate::times;

/// Zero-trust for services: who is who, who may call whom, and why not.
#[derive(Debug, Parser)]
#[command(
    name = "hauberk",
    version,
    disable_help_subcommand = true,
    arg_required_else_help = true,
    after_help = "\
Examples:
  hauberk demo up                          a small shop on this machine, in less than a minute
  hauberk check                            what is wrong, and how to mend it
  hauberk apply -f shop.yaml --wait        change the mesh, return when every agent enforces it
  hauberk can web orders GET /orders/1     yes or no, and which policy says so
  hauberk tap --denied                     watch what is refused, as it happens
  hauberk explain DECISION                 why it was refused, and what would allow it"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// The context to use instead of the current one
    #[arg(long, global = true, env = "HAUBERK_CONTEXT", value_name = "NAME", add = ArgValueCandidates::new(context_names))]
    pub(crate) context: Option<String>,
    /// The mesh; may be left out where there is only one
    #[arg(long, short, global = true, env = "HAUBERK_MESH", value_name = "MESH")]
    pub(crate) mesh: Option<String>,
    /// When to use colours
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN", hide_short_help = true)]
    pub(crate) color: Color,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    Always,
    Never,
}

/// The commands, in the order of help.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create or change resources from files
    Apply(Apply),
    /// List resources, instances, tokens, certificates, admins
    Get(Get),
    /// Show one resource with all that concerns it
    Describe(Describe),
    /// Show what apply would change (exit code 0: nothing, 1: something, 2: it failed)
    Diff(Diff),
    /// Remove resources
    Delete(Delete),
    /// Wait until every agent enforces the configuration
    Wait(Wait),
    /// Permit calls: writes a policy, shows it, applies it
    Allow(Grant),
    /// Forbid calls, whatever else permits them
    Deny(Grant),
    /// Ask whether a call would be permitted (exit code 0: yes, 1: no)
    Can(Can),
    /// Say why a decision was made
    Explain(Explain),
    /// Watch decisions as they are made
    Tap(Tap),
    /// Diagnose the installation
    Check(Check),
    /// Join tokens, with which agents get their identity
    #[command(subcommand)]
    Token(Token),
    /// Who may administer
    #[command(subcommand)]
    Admin(Admin),
    /// Who did what
    #[command(subcommand)]
    Audit(Audit),
    /// Exchange a login token for a credential
    Login(Login),
    /// Which control plane is meant
    #[command(subcommand)]
    Context(ContextCommand),
    /// A shop on this machine, to look around
    #[command(subcommand)]
    Demo(crate::demo::DemoCommand),
    /// Print a completion script
    Completion(Completion),
    /// Print the version
    Version,
}

/// `apply`
#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// A file, a folder, or - for standard input; may be repeated
    #[arg(long = "filename", short = 'f', required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Change nothing: check here (client), or say what the control plane would do (server)
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
    /// A kind (vn, vs, policies, instances, tokens, certificates, admins, all …), or KIND/NAME
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
    /// Say what would be removed, but remove nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `wait`
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// The revision to wait for instead of the current one
    #[arg(long)]
    pub(crate) revision: Option<u64>,
    /// What to wait for
    #[arg(long = "for", value_parser = ["enforced"], default_value = "enforced")]
    pub(crate) goal: String,
    /// How long
    #[arg(long, value_parser = times::duration, default_value = "30s")]
    pub(crate) timeout: Duration,
}

/// `allow` and `deny`
#[derive(Debug, Args)]
pub(crate) struct Grant {
    /// Who calls: a virtual node, a SPIFFE id, gateway/NAME, role/NAME; several with commas
    #[arg(value_delimiter = ',', required = true, add = ArgValueCandidates::new(node_names))]
    pub(crate) callers: Vec<String>,
    /// What is called: a virtual service, else a virtual node
    #[arg(add = ArgValueCandidates::new(target_names))]
    pub(crate) target: String,
    /// Only these HTTP methods
    #[arg(long, value_delimiter = ',', value_name = "GET,HEAD")]
    pub(crate) methods: Vec<String>,
    /// Only these paths; * stands for anything, slashes included
    #[arg(long, value_name = "'/orders/*'")]
    pub(crate) path: Option<String>,
    /// Only this port of the target
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// Only this gRPC method; * stands for all of a service
    #[arg(long, value_name = "package.Service/Method", conflicts_with_all = ["methods", "path"])]
    pub(crate) rpc: Option<String>,
    /// Show the policy, but apply nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Return when every agent concerned enforces it [default when given: 30s]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "30s", value_parser = times::duration, value_name = "TIMEOUT")]
    pub(crate) wait: Option<Duration>,
}

/// `can`
#[derive(Debug, Args)]
pub(crate) struct Can {
    /// Who calls: a virtual node or a SPIFFE id
    #[arg(add = ArgValueCandidates::new(node_names))]
    pub(crate) caller: String,
    /// What is called: a virtual service, else a virtual node
    #[arg(add = ArgValueCandidates::new(target_names))]
    pub(crate) target: String,
    /// An HTTP method (left out on gRPC and TCP ports), or package.Service/Method
    pub(crate) method: Option<String>,
    /// A path
    pub(crate) path: Option<String>,
    /// The port, where the target has several
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// How to show it
    #[arg(long, short, value_enum, default_value_t = TextFormat::Text)]
    pub(crate) output: TextFormat,
}

/// How an answer is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TextFormat {
    Text,
    Json,
}

/// `explain`
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// What the denied caller was given: the `hauberk-decision` header, or what tap shows
    pub(crate) decision: String,
    /// How to show it
    #[arg(long, short, value_enum, default_value_t = TextFormat::Text)]
    pub(crate) output: TextFormat,
}

/// `tap`
#[derive(Debug, Args)]
pub(crate) struct Tap {
    /// Only calls from this virtual node or SPIFFE id
    #[arg(long, value_name = "CALLER", add = ArgValueCandidates::new(node_names))]
    pub(crate) from: Option<String>,
    /// Only calls to this virtual node or SPIFFE id
    #[arg(long, value_name = "TARGET", add = ArgValueCandidates::new(node_names))]
    pub(crate) to: Option<String>,
    /// Only what is denied
    #[arg(long)]
    pub(crate) denied: bool,
    /// Only this HTTP method, or call, connect
    #[arg(long)]
    pub(crate) method: Option<String>,
    /// Only paths that begin so
    #[arg(long, value_name = "PREFIX")]
    pub(crate) path: Option<String>,
    /// How to show it: JSON is one object a line
    #[arg(long, short, value_enum, default_value_t = TextFormat::Text)]
    pub(crate) output: TextFormat,
}

/// `check`
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// How to show it
    #[arg(long, short, value_enum, default_value_t = TextFormat::Text)]
    pub(crate) output: TextFormat,
}

/// `token`
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a join token for agents of a virtual node; it is printed once
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
    #[arg(long, add = ArgValueCandidates::new(node_names))]
    pub(crate) node: String,
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
    /// Reads everything that is not secret
    Viewer,
    /// Changes meshes, nodes and services, but grants nothing
    Editor,
    /// Changes policies
    PolicyAdmin,
    /// Makes tokens, revokes
    IdentityAdmin,
    /// Changes the boundary
    BoundaryAdmin,
    /// Everything, admins included
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
    /// Only what this one did: a SPIFFE id, or an admin's name
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn options_stand_where_kubectl_users_put_them() {
        let parsed = Arguments::try_parse_from(["hauberk", "get", "vn", "-m", "shop", "-o", "wide"]).unwrap();
        assert_eq!(parsed.global.mesh.as_deref(), Some("shop"));
        let parsed =
            Arguments::try_parse_from(["hauberk", "apply", "-f", "-", "--dry-run", "--wait=5s"]).unwrap();
        let Command::Apply(apply) = parsed.command else { panic!() };
        assert_eq!((apply.dry_run, apply.wait), (Some(DryRun::Server), Some(Duration::from_secs(5))));
    }
}
