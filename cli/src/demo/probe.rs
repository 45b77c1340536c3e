//! One call or one connection, for tests inside containers that have no shell.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::net::TcpStream;

use super::caller::{Caller, Target, outbound};
use super::error::DemoError;

/// What is tried.
#[derive(Debug, Args)]
pub(crate) struct ProbeArguments {
    #[command(subcommand)]
    probe: Probe,
}

#[derive(Debug, Subcommand)]
enum Probe {
    /// Call through the agent; succeeds if the answer is 200
    Call {
        /// http://SERVICE/PATH, after a METHOD where it is not GET
        target: String,
        /// The agent's outbound listener [default: $HAUBERK_OUTBOUND, else 127.0.0.1:15001]
        #[arg(long, value_name = "IP:PORT")]
        outbound: Option<SocketAddr>,
    },
    /// Open a TCP connection past every agent; succeeds if somebody accepts
    Connect {
        /// HOST:PORT
        address: String,
    },
}

const PATIENCE: Duration = Duration::from_secs(3);

/// Tries it.
pub(super) async fn run(arguments: ProbeArguments) -> Result<ExitCode, DemoError> {
    let succeeded = match arguments.probe {
        Probe::Call { target, outbound: flag } => {
            let answer = Caller::new(outbound(flag)?).call(&Target::parse(&target)?).await?;
            let id = answer.decision.map(|id| format!(" denied: {id}")).unwrap_or_default();
            println!("{}{id} {}", answer.status, answer.body.trim_end());
            answer.status == 200
        }
        Probe::Connect { address } => {
            match tokio::time::timeout(PATIENCE, TcpStream::connect(&address)).await {
                Ok(Ok(_)) => {
                    println!("{address} accepts");
                    true
                }
                Ok(Err(error)) => {
                    println!("{address}: {error}");
                    false
                }
                Err(_) => {
                    println!("{address}: no answer within {PATIENCE:?}");
                    false
                }
            }
        }
    };
    Ok(if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
