//! The agent's binary.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use hauberk_agent::config::{
    ApiCommand, Config, FetchFlags, Flags, RunFlags, Subcommand, ValidateFlags, WatchFlags,
};
use hauberk_agent::workloads::ApiError;
use hauberk_agent::workloads::fetch::{Answer, fetch};
use hauberk_agent::workloads::validate::validate;
use hauberk_agent::workloads::watch::watch;
use hauberk_agent::{app, health, runtime, telemetry};
use tokio::signal::unix::{SignalKind, signal};

/// What a shell takes for a mistake on the command line.
const USAGE: u8 = 2;
/// Nobody could be asked whether a token is good.
const UNKNOWN: u8 = 2;

fn main() -> ExitCode {
    match Flags::parse().subcommand {
        Subcommand::Run(flags) => match run(*flags) {
            Ok(code) => code.into(),
            Err(error) => fail(&format!("{error:#}"), 1),
        },
        Subcommand::Healthz(flags) => match health::probe(&flags.address) {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => fail(&problem, 1),
        },
        Subcommand::Api(ApiCommand::Fetch(flags)) => match ask_api(&flags) {
            Ok(Answer { data, remarks }) => {
                // A reader that is gone needs nothing.
                let _ = std::io::stderr().write_all(remarks.as_bytes());
                let _ = std::io::stdout().write_all(data.as_bytes());
                ExitCode::SUCCESS
            }
            // Their causes are in their words.
            Err(error) => fail(&error.to_string(), 1),
        },
        Subcommand::Api(ApiCommand::Watch(flags)) => match watch_api(&flags) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error.to_string(), 1),
        },
        Subcommand::Api(ApiCommand::Validate(flags)) => match validate_token(&flags) {
            Ok(told) => {
                // A reader that is gone needs nothing.
                let _ = std::io::stdout().write_all(told.as_bytes());
                ExitCode::SUCCESS
            }
            Err(error) => {
                let is_judged = matches!(error.downcast_ref(), Some(ApiError::NoProof(_)));
                fail(&error.to_string(), if is_judged { 1 } else { UNKNOWN })
            }
        },
        Subcommand::Version => {
            // A reader that is gone needs no version.
            let _ = writeln!(std::io::stdout(), "hauberk-agent {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
    }
}

fn ask_api(flags: &FetchFlags) -> anyhow::Result<Answer> {
    hauberk_tls::install_provider();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(fetch(flags))?)
}

fn validate_token(flags: &ValidateFlags) -> anyhow::Result<String> {
    hauberk_tls::install_provider();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(validate(flags))?)
}

fn watch_api(flags: &WatchFlags) -> anyhow::Result<()> {
    hauberk_tls::install_provider();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut stop = signal(SignalKind::terminate())?;
        tokio::select! {
            ended = Box::pin(watch(flags)) => Ok(ended?),
            _ = stop.recv() => Ok(()),
            stopped = tokio::signal::ctrl_c() => Ok(stopped?),
        }
    })
}

fn run(flags: RunFlags) -> anyhow::Result<u8> {
    let config = match Config::load(flags, |name| std::env::var_os(name)) {
        Ok(config) => config,
        Err(error) => {
            report(&error.to_string());
            return Ok(USAGE);
        }
    };
    hauberk_tls::install_provider();
    let log_filter = telemetry::start(&config.log_filter, config.log_format)?;
    // A process whose memory may be read serves all the same; whoever runs it learns of it.
    if let Err(error) = hauberk_tls::forbid_dumps() {
        tracing::warn!(event = "dumps_not_forbidden", %error, "a core file of this process would hold keys");
    }
    let runtime = runtime::build().context("the runtime cannot start")?;
    let outcome = runtime.block_on(Box::pin(app::run(config, log_filter)));
    // Blocking work that hangs, such as a name that does not resolve, does not keep us.
    runtime.shutdown_background();
    Ok(outcome.unwrap_or_else(|error| {
        let code = error.exit_code();
        tracing::error!(event = "failed", code, %error);
        code
    }))
}

fn fail(problem: &str, code: u8) -> ExitCode {
    report(problem);
    code.into()
}

fn report(problem: &str) {
    // Nobody is left to be told where standard error is gone.
    let _ = writeln!(std::io::stderr(), "hauberk-agent: {problem}");
}
