//! The hauberk command line.
#![forbid(unsafe_code)]

mod arguments;
mod client;
mod clock;
mod commands;
mod completion;
mod context;
mod demo;
mod documents;
mod error;
mod kinds;
mod nearest;
mod output;
mod session;
#[cfg(test)]
#[allow(dead_code, unreachable_pub, reason = "what the tests of one crate lack, those of another do not")]
#[path = "../../integration-tests/src/skipped.rs"]
mod skipped;
mod times;

use std::process::ExitCode;

use arguments::{Arguments, Color, Command, PolicyCommand};
use clap::parser::ValueSource;
use clap::{CommandFactory as _, FromArgMatches as _};
use clap_complete::CompleteEnv;
use error::CommandError;
use hauberk_policy::{SCHEMA, Verb};

fn main() -> ExitCode {
    hauberk_tls::install_provider();
    CompleteEnv::with_factory(Arguments::command).var(completion::VARIABLE).complete();
    let matches = Arguments::command().get_matches();
    let mut arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    arguments.global.is_mesh_of_variable = matches.value_source("mesh") == Some(ValueSource::EnvVariable);
    match arguments.global.color {
        Color::Auto => {}
        Color::Always => anstream::ColorChoice::Always.write_global(),
        Color::Never => anstream::ColorChoice::Never.write_global(),
    }
    let of_context = arguments.global.of_context();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return CommandError::failed(format!("the runtime cannot start: {error}")).finish(&of_context);
        }
    };
    match runtime.block_on(Box::pin(run(arguments))) {
        Ok(code) => code,
        Err(error) => error.finish(&of_context),
    }
}

async fn run(Arguments { global, command }: Arguments) -> Result<ExitCode, CommandError> {
    match command {
        Command::Demo(command) => {
            return demo::run(&global, command).await.map_err(|error| CommandError::failed(error.in_full()));
        }
        Command::Apply(arguments) => commands::apply::run(&global, arguments).await,
        Command::Get(arguments) => commands::get::run(&global, arguments).await,
        Command::Describe(arguments) => commands::describe::run(&global, arguments).await,
        Command::Diff(arguments) => commands::diff::run(&global, arguments).await,
        Command::Delete(arguments) => commands::delete::run(&global, arguments).await,
        Command::Wait(arguments) => commands::wait::run(&global, arguments).await,
        Command::Allow(arguments) => commands::grant::run(&global, Verb::Allow, arguments).await,
        Command::Deny(arguments) => commands::grant::run(&global, Verb::Deny, arguments).await,
        Command::Can(arguments) => commands::can::run(&global, arguments).await,
        Command::WhoCan(arguments) => commands::who_can::who_can(&global, arguments).await,
        Command::WhatCan(arguments) => commands::who_can::what_can(&global, arguments).await,
        Command::Policy(PolicyCommand::Test(arguments)) => {
            commands::policy_test::run(&global, arguments).await
        }
        Command::Policy(PolicyCommand::Schema) => output::raw(SCHEMA),
        Command::Policy(PolicyCommand::Diff(arguments)) => {
            commands::policy_diff::run(&global, arguments).await
        }
        Command::Simulate(arguments) => commands::simulate::run(&global, arguments).await,
        Command::Suggest(arguments) => commands::suggest::run(&global, arguments).await,
        Command::Explain(arguments) => commands::explain::run(&global, arguments).await,
        Command::Tap(arguments) => commands::tap::run(&global, arguments).await,
        Command::Check(arguments) => commands::check::run(&global, arguments).await,
        Command::Token(command) => commands::token::run(&global, command).await,
        Command::Revoke(command) => commands::revoke::revoke(&global, command).await,
        Command::Quarantine(command) => commands::revoke::quarantine(&global, command).await,
        Command::Authority(command) => commands::authority::run(&global, command).await,
        Command::Bundle(command) => commands::bundle::run(&global, command).await,
        Command::Admin(command) => commands::admin::run(&global, command).await,
        Command::Audit(command) => commands::audit::run(&global, command).await,
        Command::Login(arguments) => commands::login::run(&global, arguments).await,
        Command::Context(command) => commands::context::run(&global, command),
        Command::Completion(arguments) => completion::print(&arguments),
        Command::Version => output::line(format_args!("hauberk {}", env!("CARGO_PKG_VERSION"))),
    }?;
    Ok(ExitCode::SUCCESS)
}
