//! The demo: a small shop behind real agents, as local processes or in containers.

mod account;
mod call;
mod caller;
mod error;
mod guard;
mod issuer;
mod listen;
mod load;
mod prepare;
mod probe;
mod processes;
mod serve;
mod story;
mod up;

use std::process::ExitCode;

use clap::Subcommand;
use error::DemoError;

use crate::arguments::Global;

/// The shop's resources, the same ones as in containers.
const MESH: &str = include_str!("../../../deploy/demo/mesh.yaml");

/// What its people may do, once somebody says who they are.
const PEOPLE: &str = include_str!("../../../deploy/demo/people.yaml");

/// The parts of the demo.
#[derive(Debug, Subcommand)]
pub(crate) enum DemoCommand {
    /// Run the shop as local processes until Ctrl-C
    Up(up::UpArguments),
    /// One of the shop's services: answers every request and says whom it called
    Serve(serve::ServeArguments),
    /// A caller that never tires
    Load(load::LoadArguments),
    /// One call or one connection; exit status 0 if it succeeds, 1 if not
    Probe(probe::ProbeArguments),
    /// Apply the shop's resources and write a join token for each node
    Prepare(prepare::PrepareArguments),
    /// Come in as one of the shop's people, and call
    Call(call::CallArguments),
    /// The issuer that the shop's people sign in with
    #[command(hide = true)]
    Issuer(issuer::IssuerArguments),
    /// Tell what happens in a shop of containers
    Story,
    /// Ends processes that their starter left behind
    #[command(hide = true)]
    Guard,
}

/// Runs one part.
///
/// # Errors
/// It could not be started, or ended by a fault.
pub(crate) async fn run(global: &Global, command: DemoCommand) -> Result<ExitCode, DemoError> {
    match command {
        DemoCommand::Up(arguments) => up::run(arguments).await,
        DemoCommand::Serve(arguments) => serve::run(arguments).await,
        DemoCommand::Load(arguments) => load::run(arguments).await,
        DemoCommand::Probe(arguments) => probe::run(arguments).await,
        DemoCommand::Prepare(arguments) => prepare::run(&arguments).await,
        DemoCommand::Call(arguments) => call::run(arguments).await,
        DemoCommand::Issuer(arguments) => issuer::run(arguments).await,
        DemoCommand::Story => story::run(global).await,
        DemoCommand::Guard => guard::run().await,
    }
}
