//! The command line.

mod access;
mod authority;
mod bundle;
mod decisions;
mod policy;
mod record;
mod resources;
mod revocation;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCandidates;
use hauberk_policy::shell_quote;

pub(crate) use access::{
    Admin, Audit, AuditList, Completion, ContextCommand, Login, Role, Shell, Token, TokenCreate, Uses,
};
pub(crate) use authority::{AuthorityCommand, AuthorityKind, Waiting};
pub(crate) use bundle::{BundleCommand, BundleFormat};
pub(crate) use decisions::{Can, Check, Explain, Grant, Tap, TextFormat};
pub(crate) use policy::{PolicyCommand, PolicyDiff, PolicyTest, TableFormat, WhatCan, WhoCan};
pub(crate) use record::{Simulate, Suggest};
pub(crate) use resources::{Apply, Delete, Describe, Diff, DryRun, Get, Wait};
pub(crate) use revocation::{Quarantine, Revoke, WaitEnforced};

use crate::completion::context_names;

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
  hauberk who-can orders POST '/orders/*'  everybody who could, and under what conditions
  hauberk simulate -f draft.yaml           what a change would make of recorded calls
  hauberk tap --denied                     watch what is refused, as it happens
  hauberk explain DECISION                 why it was refused, and what would allow it
  hauberk explain virtualnode.spec         what can be written there"
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
    #[arg(long, global = true, help_heading = "Global options", env = "HAUBERK_CONTEXT", value_name = "NAME", add = ArgValueCandidates::new(context_names))]
    pub(crate) context: Option<String>,
    /// The mesh; may be left out where there is only one
    #[arg(
        long,
        short,
        global = true,
        help_heading = "Global options",
        env = "HAUBERK_MESH",
        value_name = "MESH"
    )]
    pub(crate) mesh: Option<String>,
    /// Whether nobody but the variable says so.
    #[arg(skip)]
    pub(crate) is_mesh_of_variable: bool,
    /// When to use colours: auto, always or never
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_enum,
        default_value_t = Color::Auto,
        value_name = "WHEN",
        hide_possible_values = true
    )]
    pub(crate) color: Color,
}

impl Global {
    /// What stands behind a command that is told to the user, so that it means the same control plane.
    pub(crate) fn of_context(&self) -> String {
        self.context.as_deref().map(of_context).unwrap_or_default()
    }
}

/// The same of a context of this name.
pub(crate) fn of_context(name: &str) -> String {
    format!(" --context {}", shell_quote(name))
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
    /// Ask whether a call would be permitted (exit code 0: yes, 1: no, 2: it failed, 3: it depends)
    Can(Can),
    /// List who could call something, and under what conditions
    WhoCan(WhoCan),
    /// List what somebody could call, and under what conditions
    WhatCan(WhatCan),
    /// Try policies out before they hold
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Say what a draft would change for recorded calls (exit code 0: nothing denied, 1: something, 2: it failed)
    Simulate(Simulate),
    /// Write the policies that let through what was recorded, and no more
    Suggest(Suggest),
    /// Say why a decision was made, or what the fields of a kind of resource are for
    Explain(Explain),
    /// Watch decisions as they are made
    Tap(Tap),
    /// Diagnose the installation
    Check(Check),
    /// Join tokens, with which agents get their identity
    #[command(subcommand)]
    Token(Token),
    /// Take certificates back, for good
    #[command(subcommand)]
    Revoke(Revoke),
    /// Refuse a virtual node or gateway until further notice
    #[command(subcommand)]
    Quarantine(Quarantine),
    /// Who signs certificates, and who is trusted
    #[command(subcommand)]
    Authority(AuthorityCommand),
    /// What members of trust domains are verified by: ours, and those that are followed
    #[command(subcommand)]
    Bundle(BundleCommand),
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn told_commands_mean_the_context_that_was_named() {
        let told = |context: Option<&str>| {
            let (context, color) = (context.map(str::to_owned), Color::Auto);
            Global { context, mesh: None, is_mesh_of_variable: false, color }.of_context()
        };
        assert_eq!(told(None), "");
        assert_eq!(told(Some("test")), " --context test");
        assert_eq!(told(Some("my test")), " --context 'my test'");
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

    #[test]
    fn nothing_is_waited_for_where_nothing_is_removed() {
        let parsed = |more: &str| {
            let words =
                ["hauberk", "delete", "policy", "p", "--dry-run"].into_iter().chain(more.split_whitespace());
            Arguments::try_parse_from(words).is_ok()
        };
        assert!(parsed("") && !parsed("--wait"));
    }
}
