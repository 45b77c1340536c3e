//! Why a command failed, what the user can do about it, and the exit code.

use std::fmt::Write as _;
use std::process::ExitCode;

use owo_colors::OwoColorize as _;
use thiserror::Error;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::client::ClientError;
use crate::context::ContextError;
use crate::documents::{Problems, ReadError};
use crate::output;

/// Stands in help for the context that the user named, which whoever writes the help may not know.
const OF_CONTEXT: &str = "<context>";

/// Why a command did not do what was asked.
#[derive(Debug, Error)]
pub(crate) enum CommandError {
    /// There is no usable context. The fault is the user's configuration.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The control plane cannot be reached, or is not trusted.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Files cannot be read, or are wrong.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The control plane found the files wrong.
    #[error(transparent)]
    Wrong(Problems),
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// It did not work; the second part says what to do.
    #[error("{0}")]
    Failed(String, Vec<String>),
    /// Everything was said already.
    #[error("exit with {0}")]
    Exit(u8),
    /// Standard output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(std::io::Error),
}

impl CommandError {
    /// A failure with nothing to advise.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into(), Vec::new())
    }

    /// A failure with one piece of advice.
    pub(crate) fn advised(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Failed(message.into(), vec![help.into()])
    }

    /// The same failure of a command that never changes anything, ending with another exit code. A reader that has gone is
    /// one too: success would say what was never told, as that nothing would be denied. `of_context`: what stands behind
    /// commands that are told.
    pub(crate) fn exiting(self, code: u8, of_context: &str) -> Self {
        self.report("", of_context);
        Self::Exit(code)
    }

    /// Tells the user, and gives the exit code: 1 for a failure, 2 for a wrong command line. `of_context`: as in [`Self::exiting`].
    pub(crate) fn finish(self, of_context: &str) -> ExitCode {
        // Whoever read our output has seen enough: `hauberk tap | head`.
        if matches!(&self, Self::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS;
        }
        self.report("; nothing was changed", of_context);
        match self {
            Self::Exit(code) => code.into(),
            Self::Usage(_) => 2.into(),
            _ => 1.into(),
        }
    }

    /// `of_files`: what else is said where files are wrong.
    fn report(&self, of_files: &str, of_context: &str) {
        match self {
            Self::Exit(_) => return,
            Self::Read(ReadError::Wrong(problems)) | Self::Wrong(problems) => {
                output::note(format_args!("{problems}{of_files}"));
            }
            _ => output::note(format_args!("{} {self}", "error:".red().bold())),
        }
        for line in self.help(of_context) {
            output::note(format_args!("  {line}"));
        }
    }

    /// What the user can do.
    fn help(&self, of_context: &str) -> Vec<String> {
        match self {
            Self::Context(error) => error.help(),
            Self::Client(error) => error.help(),
            Self::Failed(_, help) => help.iter().map(|line| line.replace(OF_CONTEXT, of_context)).collect(),
            _ => Vec::new(),
        }
    }
}

impl From<Status> for CommandError {
    fn from(status: Status) -> Self {
        let mut message = output::printable_lines(status.message().trim());
        let mut help = Vec::new();
        if let Some(violations) = status.get_details_bad_request() {
            for violation in violations.field_violations {
                let field = violation.field;
                let field = output::printable(&field);
                let text = output::printable_lines(&violation.description);
                // The message often is the only violation, or the first.
                if !message.contains(&text) {
                    let line = if field.is_empty() { text } else { format!("{field}: {text}") };
                    let _infallible = write!(message, "\n  {line}");
                }
            }
        }
        if let Some(details) = status.get_details_help() {
            help.extend(details.links.into_iter().map(|link| link.description));
        }
        match status.code() {
            Code::Unavailable | Code::Unknown | Code::Internal if is_of_the_connection(&message) => {
                let cause = root_cause(&status);
                message = format!("the connection to the control plane broke: {cause}");
                help.push(format!("is it running? `hauberk check{OF_CONTEXT}` tells more"));
            }
            Code::DeadlineExceeded | Code::Cancelled if message.is_empty() || message.contains("Timeout") => {
                message = "the control plane did not answer in time".to_owned();
                help.push(format!("`hauberk check{OF_CONTEXT}` tells more"));
            }
            Code::Unimplemented => {
                message =
                    format!("this control plane does not know the request {message}").trim_end().to_owned();
                help.push(format!("`hauberk check{OF_CONTEXT}` compares versions"));
            }
            Code::Unauthenticated => {
                help.push("on the control plane's host: hauberk-control-plane admin issue NAME".to_owned());
            }
            Code::Aborted => {
                help.push(format!(
                    "somebody else changed it: look with `hauberk get KIND NAME -o yaml{OF_CONTEXT}`, then apply again"
                ));
            }
            _ => {}
        }
        if message.is_empty() {
            message = format!("the control plane answered {}", status.code());
        }
        Self::Failed(message, help)
    }
}

/// Whether a status was made up here because the connection broke: the control plane's own have other words.
fn is_of_the_connection(message: &str) -> bool {
    message.is_empty() || message.contains("transport") || message.starts_with("h2 protocol error")
}

/// The innermost error, which says most.
fn root_cause(status: &Status) -> String {
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(status);
    let mut text = status.message().to_owned();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_breaks_is_told_alike_wherever_it_breaks() {
        for status in [
            Status::internal("h2 protocol error: error reading a body from connection"),
            Status::unavailable("transport error"),
            Status::unknown("h2 protocol error: http2 error"),
        ] {
            let error = CommandError::from(status);
            let message = error.to_string();
            assert!(message.starts_with("the connection to the control plane broke: "), "{message}");
            assert_eq!(error.help(""), ["is it running? `hauberk check` tells more"]);
            assert_eq!(
                error.help(" --context prod"),
                ["is it running? `hauberk check --context prod` tells more"]
            );
        }
        let CommandError::Failed(message, _) = CommandError::from(Status::internal("a defect")) else {
            panic!("it has failed")
        };
        assert_eq!(message, "a defect");
    }
}
