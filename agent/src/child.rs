//! The app as our child: started when the agent is ready, sent the signals that we get, and waited for.
//!
//! As process 1 of a container we also inherit orphans; they are reaped along with the child.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::process::Command;

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};

/// A running child.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    ended: tokio::signal::unix::Signal,
}

/// Why the app was not started.
#[derive(Debug, Error)]
pub enum ChildError {
    /// There is no such program. The fault is whoever wrote the command.
    #[error("the command {0:?} was not found")]
    NotFound(OsString),
    /// It cannot be run.
    #[error("the command {command:?} cannot be run: {source}")]
    NotRunnable {
        /// The program.
        command: OsString,
        /// What the system says.
        source: io::Error,
    },
    /// The system tells nothing of children. The fault is the system's.
    #[error("children cannot be waited for: {0}")]
    Wait(#[from] io::Error),
}

impl ChildError {
    /// The exit code that a shell gives here.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound(_) => 127,
            Self::NotRunnable { .. } => 126,
            Self::Wait(_) => 1,
        }
    }
}

impl Child {
    /// Starts a command with our own standard streams. It learns of the outbound listener by `HAUBERK_OUTBOUND`.
    ///
    /// # Errors
    /// The command cannot be run.
    pub fn start(command: &[OsString], outbound: SocketAddr) -> Result<Self, ChildError> {
        let Some((program, arguments)) = command.split_first() else {
            return Err(ChildError::NotFound(OsString::new()));
        };
        // Before the child is there, so that its end is not missed.
        let ended = signal(SignalKind::child())?;
        let started = Command::new(program)
            .args(arguments)
            .env("HAUBERK_OUTBOUND", format!("http://{outbound}"))
            .spawn();
        let child = started.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ChildError::NotFound(program.clone()),
            _ => ChildError::NotRunnable { command: program.clone(), source },
        })?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("the child has no process id"))?;
        tracing::info!(event = "child_started", pid = pid.as_raw_nonzero().get());
        Ok(Self { pid, ended })
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits for the child's end and gives its exit code: its status, or 128 and the signal that killed it.
    ///
    /// # Errors
    /// The system has lost the child.
    pub async fn wait(&mut self) -> Result<u8, ChildError> {
        loop {
            // Every child that has ended: ours, and orphans that came to us.
            loop {
                match wait(WaitOptions::NOHANG) {
                    Ok(Some((pid, status))) if pid == self.pid => {
                        if let Some(code) = exit_code(status) {
                            tracing::info!(event = "child_ended", code);
                            return Ok(code);
                        }
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(ChildError::Wait(error.into())),
                }
            }
            self.ended.recv().await;
        }
    }

    /// Sends a signal. A child that has ended already is no error.
    pub fn send(&self, signal: Signal) {
        // At a terminal the kernel has sent these to the whole group, the child included.
        let is_from_keyboard = matches!(signal, Signal::INT | Signal::QUIT) && io::stdin().is_terminal();
        if !is_from_keyboard && let Err(error) = kill_process(self.pid, signal) {
            tracing::debug!(event = "signal_not_sent", %error);
        }
    }
}

fn exit_code(status: WaitStatus) -> Option<u8> {
    let code = status.exit_status().or_else(|| Some(128 + status.terminating_signal()?))?;
    Some(u8::try_from(code).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Mutex;

    use super::*;

    /// `wait` takes any child's end, so that the tests must not run children at the same time.
    static ONE_AT_A_TIME: std::sync::LazyLock<Arc<Mutex<()>>> = std::sync::LazyLock::new(Arc::default);

    fn start(command: &[&str]) -> Result<Child, ChildError> {
        let command: Vec<OsString> = command.iter().map(Into::into).collect();
        Child::start(&command, "127.0.0.1:1".parse().unwrap())
    }

    #[tokio::test]
    async fn exits_as_the_child_does() {
        let _alone = ONE_AT_A_TIME.lock().await;
        for (script, code) in [
            ("exit 0", 0),
            ("exit 7", 7),
            ("kill -TERM $$", 143),
            ("test \"$HAUBERK_OUTBOUND\" = http://127.0.0.1:1", 0),
        ] {
            assert_eq!(start(&["sh", "-c", script]).unwrap().wait().await.unwrap(), code, "{script}");
        }
    }

    #[tokio::test]
    async fn passes_signals_on() {
        let _alone = ONE_AT_A_TIME.lock().await;
        let mut child = start(&["sh", "-c", "trap 'exit 9' USR1; while :; do sleep 0.01; done"]).unwrap();
        // Sent again and again, for the trap may not be set yet, and its default is to end with 138.
        child.send(Signal::CONT);
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(50));
        tick.tick().await;
        tick.tick().await;
        child.send(Signal::USR1);
        let code = child.wait().await.unwrap();
        assert!(code == 9 || code == 138, "{code}");
    }

    #[tokio::test]
    async fn says_what_cannot_be_run() {
        let missing = start(&["/nonexistent/command"]).unwrap_err();
        assert_eq!(missing.exit_code(), 127);
        let directory = start(&["/"]).unwrap_err();
        assert_eq!(directory.exit_code(), 126);
    }
}
