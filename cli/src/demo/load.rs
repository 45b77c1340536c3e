//! A caller that never tires and says when what it is answered changes.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::time::{MissedTickBehavior, interval};

use super::caller::{Answer, Caller, Target, outbound};
use super::error::DemoError;

/// What it calls and how often.
#[derive(Debug, Args)]
pub(crate) struct LoadArguments {
    /// Its name, in what it prints
    #[arg(long)]
    name: String,
    /// What it calls: http://SERVICE/PATH, after a METHOD where it is not GET
    #[arg(long, value_name = "TARGET")]
    target: String,
    /// Milliseconds from one call to the next
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    every_ms: u64,
    /// The agent's outbound listener [default: $HAUBERK_OUTBOUND, else 127.0.0.1:15001]
    #[arg(long, value_name = "IP:PORT")]
    outbound: Option<SocketAddr>,
}

/// Calls until it is told to stop.
pub(super) async fn run(arguments: LoadArguments) -> Result<ExitCode, DemoError> {
    let target = Target::parse(&arguments.target)?;
    let mut caller = Caller::new(outbound(arguments.outbound)?);
    let mut ticks = interval(Duration::from_millis(arguments.every_ms));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stop = std::pin::pin!(super::processes::told_to_stop()?);
    let mut last = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = &mut stop => return Ok(ExitCode::SUCCESS),
        }
        let outcome = describe(&caller.call(&target).await);
        if last.as_ref() != Some(&outcome.0) {
            println!("{}: {target}: {}", arguments.name, outcome.1);
            last = Some(outcome.0);
        }
    }
}

/// What counts as a change, and what is printed then.
fn describe(answer: &Result<Answer, DemoError>) -> (Option<u16>, String) {
    match answer {
        Ok(Answer { status, decision: Some(id), .. }) => (Some(*status), format!("{status}, denied: {id}")),
        Ok(Answer { status, .. }) => (Some(*status), status.to_string()),
        Err(error) => (None, error.in_full()),
    }
}
