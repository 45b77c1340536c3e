//! Tells a program that its files have changed: by a signal, by a command, or both, each for itself.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::say;
use super::signalled::Signalled;
use crate::config::WatchFlags;
use crate::random::Backoff;

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Before what has failed is tried again, the first time and at the most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MOST_PAUSE: Duration = Duration::from_secs(60);

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

    /// Tells of each change, until there are no more. What has failed is tried again until it succeeds, or the next
    /// change is what there is to be told.
    pub(super) async fn follow(&self, changes: watch::Receiver<()>) {
        tokio::join!(
            tell_of(changes.clone(), async || self.send_signal()),
            tell_of(changes, async || self.run_command().await),
        );
    }

    /// Tells once. The program finds its files also where that fails.
    pub(super) async fn once(&self) {
        for outcome in [self.send_signal(), self.run_command().await] {
            if let Err(problem) = outcome {
                say(&problem);
            }
        }
    }

    fn send_signal(&self) -> Result<(), String> {
        let Some((signal, file)) = &self.signal else { return Ok(()) };
        let program =
            Signalled::named_by(file).map_err(|error| format!("--pid-file: {}: {error}", file.display()))?;
        if program.is_doubtful {
            say(&format!(
                "--pid-file: {}: it seems to be older than this boot, and who it names is signalled all the same: write it again if \
                 the clock was set since, or remove it if it was left behind",
                file.display()
            ));
        }
        program.send(*signal).map_err(|error| error.to_string())
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

async fn tell_of(mut changes: watch::Receiver<()>, tell: impl AsyncFn() -> Result<(), String>) {
    let mut backoff = Backoff::new(FIRST_PAUSE, MOST_PAUSE);
    while changes.changed().await.is_ok() {
        backoff.reset();
        let mut said = String::new();
        while let Err(problem) = tell().await {
            if said != problem {
                say(&format!("{problem}; it is tried again"));
                said = problem;
            }
            tokio::select! {
                () = sleep(backoff.step()) => {}
                changed = changes.changed() => match changed {
                    Ok(()) => backoff.reset(),
                    Err(_) => return,
                },
            }
        }
        if !said.is_empty() {
            say("that has succeeded now");
        }
    }
}

fn signal(name: &str) -> Result<Signal, String> {
    let bare = name.strip_prefix("SIG").unwrap_or(name);
    let found = SIGNALS.iter().find(|(known, _)| *known == bare).map(|(_, signal)| *signal);
    let known = || SIGNALS.map(|(name, _)| name).join(", ");
    found.ok_or_else(|| format!("--signal: {name:?} is none of {}", known()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use tokio::signal::unix::{SignalKind, signal as signals};

    use super::*;

    /// Appends a line to the second file, once the first one is there.
    const COMMAND: &str = r#"[ -e "$1" ] && echo told >> "$2""#;

    async fn until(what: &str, is_so: impl Fn() -> bool) {
        let waiting = async {
            while !is_so() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(Duration::from_secs(20), waiting).await.is_ok(), "waited in vain until {what}");
    }

    #[tokio::test]
    async fn what_fails_is_tried_again_and_holds_nothing_else_up() {
        let folder = tempfile::tempdir().unwrap();
        let [pid_file, ready, told] = ["pid", "ready", "told"].map(|name| folder.path().join(name));
        let command = ["sh", "-c", COMMAND, "sh"].map(OsString::from).into_iter();
        let command = command.chain([ready.clone().into(), told.clone().into()]).collect();
        // Nobody minds that one.
        let notify = Notify { signal: Some((Signal::WINCH, pid_file.clone())), command };
        let (change, changes) = watch::channel(());
        let mut signalled = signals(SignalKind::window_change()).unwrap();
        let lines = |path: &Path| fs::read_to_string(path).unwrap_or_default().lines().count();
        let pid = std::process::id().to_string();

        let changing = async {
            // There is nobody to be signalled: the command is run all the same.
            fs::write(&ready, "").unwrap();
            change.send_replace(());
            until("the command has run", || lines(&told) == 1).await;
            // The same change, and nothing has told of another.
            fs::write(&pid_file, &pid).unwrap();
            timeout(PATIENCE, signalled.recv()).await.expect("it is tried again").unwrap();
            assert_eq!(lines(&told), 1, "what has succeeded is not done again");

            fs::remove_file(&ready).unwrap();
            change.send_replace(());
            timeout(PATIENCE, signalled.recv()).await.expect("whatever the command does").unwrap();
            assert_eq!(lines(&told), 1);
            fs::write(&ready, "").unwrap();
            until("the command has run again", || lines(&told) == 2).await;
        };
        tokio::select! {
            biased;
            () = notify.follow(changes) => {}
            () = changing => {}
        }
    }
}
