//! The demo's processes: started with their output in files, ended in order.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use super::error::DemoError;

/// How long a process has between being asked and being killed.
const GRACE: Duration = Duration::from_secs(8);

/// Resolves when this process is asked to stop: SIGINT, SIGTERM or SIGHUP.
///
/// # Errors
/// The handlers cannot be installed.
pub(super) fn told_to_stop() -> Result<impl Future<Output = ()>, DemoError> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

/// One of them.
#[derive(Debug)]
struct Running {
    name: String,
    pid: u32,
    child: Child,
    log: PathBuf,
}

/// All of them, the guard that ends them if we cannot, and the folder they work in.
#[derive(Debug)]
pub(super) struct Processes {
    binaries: PathBuf,
    folder: PathBuf,
    running: Vec<Running>,
    guard: Child,
    to_guard: Option<std::process::ChildStdin>,
}

impl Processes {
    /// Starts the guard. The binaries lie beside our own, unless told otherwise.
    ///
    /// # Errors
    /// A binary is missing, or the guard does not start.
    pub(super) fn new(binaries: Option<PathBuf>, folder: &Path) -> Result<Self, DemoError> {
        let own = std::env::current_exe().map_err(DemoError::io("where this program lies is not known"))?;
        let binaries = match binaries.or_else(|| own.parent().map(Path::to_owned)) {
            Some(binaries) => binaries,
            None => return Err(DemoError::Nowhere),
        };
        for name in ["hauberk-control-plane", "hauberk-agent"] {
            if !binaries.join(name).is_file() {
                return Err(DemoError::Missing { name, folder: binaries });
            }
        }
        let mut guard = std::process::Command::new(&own);
        guard.args(["demo", "guard"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // Ctrl-C goes to our group; the guard must outlive us.
        std::os::unix::process::CommandExt::process_group(&mut guard, 0);
        let mut guard = Command::from(guard);
        let mut guard = guard.spawn().map_err(DemoError::io("the demo's guard does not start"))?;
        let to_guard = guard.stdin.take().map(tokio::process::ChildStdin::into_owned_fd).transpose()?;
        let to_guard = to_guard.map(std::process::ChildStdin::from);
        let mut processes =
            Self { binaries, folder: folder.to_owned(), running: Vec::new(), guard, to_guard };
        processes.tell_guard(&format!("folder {}", folder.display()));
        Ok(processes)
    }

    /// Where a binary lies.
    pub(super) fn binary(&self, name: &str) -> PathBuf {
        self.binaries.join(name)
    }

    /// Starts one, with its output in `<folder>/<name>.log`.
    ///
    /// # Errors
    /// It does not start.
    pub(super) fn start(&mut self, name: &str, binary: &str, arguments: &[String]) -> Result<(), DemoError> {
        let log = self.folder.join(format!("{name}.log"));
        let output = File::create(&log).map_err(DemoError::io(format!("cannot write {}", log.display())))?;
        let child = Command::new(self.binary(binary))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .map_err(DemoError::io(format!("{name} does not start")))?;
        let pid = child.id().ok_or(DemoError::EndedAtOnce)?;
        self.tell_guard(&format!("start {pid}"));
        self.running.push(Running { name: name.to_owned(), pid, child, log });
        Ok(())
    }

    /// The process id of one.
    pub(super) fn pid(&self, name: &str) -> Option<u32> {
        self.running.iter().find(|running| running.name == name).map(|running| running.pid)
    }

    /// Those that ended by themselves since the last time: name, status, and the end of the log.
    pub(super) fn ended(&mut self) -> Vec<(String, ExitStatus, String)> {
        let mut ended = Vec::new();
        self.running.retain_mut(|running| match running.child.try_wait() {
            Ok(Some(status)) => {
                ended.push((running.name.clone(), status, tail(&running.log), running.pid));
                false
            }
            _ => true,
        });
        ended
            .into_iter()
            .map(|(name, status, log, pid)| {
                self.tell_guard(&format!("ended {pid}"));
                (name, status, log)
            })
            .collect()
    }

    /// Has the guard restore the current context if we cannot.
    pub(super) fn guard_context(&mut self, name: &str, previous: &str) {
        self.tell_guard(&format!("context {name} {previous}"));
    }

    /// Asks them to stop, the latest first, and then the guard to finish.
    pub(super) async fn stop(mut self) {
        for running in self.running.iter_mut().rev() {
            // It may have ended by itself.
            if let Some(pid) = i32::try_from(running.pid).ok().and_then(Pid::from_raw) {
                let _gone = kill_process(pid, Signal::TERM);
            }
        }
        for mut running in self.running.drain(..).rev() {
            if timeout(GRACE, running.child.wait()).await.is_err() {
                drop(running.child.kill().await);
            }
        }
        self.to_guard = None;
        drop(timeout(GRACE, self.guard.wait()).await);
    }

    fn tell_guard(&mut self, line: &str) {
        if let Some(guard) = &mut self.to_guard {
            // A guard that is gone guards no more; the demo goes on.
            drop(writeln!(guard, "{line}"));
        }
    }
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let mut lines: Vec<&str> = text.lines().rev().take(8).collect();
    lines.reverse();
    lines.join("\n")
}
