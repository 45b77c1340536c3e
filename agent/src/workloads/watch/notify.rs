//! Tells a program that its files have changed: by a signal, by a command, or both.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::time::timeout;

use crate::config::WatchFlags;

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(60);

const SIGNALS: [(&str, Signal); 7] = [
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("TERM", Signal::TERM),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("WINCH", Signal::WINCH),
];

/// Whom to tell, and how.
pub(super) struct Notify {
    signal: Option<(Signal, PathBuf)>,
    command: Vec<OsString>,
}

impl Notify {
    /// # Errors
    /// There is no such signal.
    pub(super) fn new(flags: &WatchFlags) -> Result<Self, String> {
        let signal = match (&flags.signal, &flags.pid_file) {
            (Some(name), Some(file)) => Some((signal(name)?, file.clone())),
            _ => None,
        };
        Ok(Self { signal, command: flags.command.clone() })
    }

    /// # Errors
    /// What went wrong; the program finds its new files when it looks for them.
    pub(super) async fn all(&self) -> Result<(), String> {
        self.send_signal()?;
        self.run_command().await
    }

    fn send_signal(&self) -> Result<(), String> {
        let Some((signal, file)) = &self.signal else { return Ok(()) };
        let shown = file.display();
        let text = std::fs::read_to_string(file).map_err(|error| format!("--pid-file: {shown}: {error}"))?;
        let number = text.trim().parse().ok().filter(|number: &i32| *number > 0);
        let pid =
            number.and_then(Pid::from_raw).ok_or_else(|| format!("--pid-file: {shown} holds no number"))?;
        kill_process(pid, *signal)
            .map_err(|error| format!("process {} gets no signal: {error}", pid.as_raw_nonzero()))
    }

    async fn run_command(&self) -> Result<(), String> {
        let Some((program, arguments)) = self.command.split_first() else { return Ok(()) };
        let shown = program.display();
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| format!("{shown} cannot be run: {error}"))?;
        match timeout(PATIENCE, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("{shown} failed: {status}")),
            Ok(Err(error)) => Err(format!("{shown} cannot be waited for: {error}")),
            Err(_) => Err(format!("{shown} had not ended after {} s and was killed", PATIENCE.as_secs())),
        }
    }
}

fn signal(name: &str) -> Result<Signal, String> {
    let bare = name.strip_prefix("SIG").unwrap_or(name);
    let found = SIGNALS.iter().find(|(known, _)| *known == bare).map(|(_, signal)| *signal);
    let known = || SIGNALS.map(|(name, _)| name).join(", ");
    found.ok_or_else(|| format!("--signal: {name:?} is none of {}", known()))
}
