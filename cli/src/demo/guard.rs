//! Cleans up after a starter that was killed.
//!
//! The starter holds the other end of our standard input, and writes there what to end and to
//! remove. However it ends, that input ends with it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::time::{Instant, sleep};

use super::error::DemoError;

/// How long a process has between being asked and being killed.
const GRACE: Duration = Duration::from_secs(8);
const POLL: Duration = Duration::from_millis(50);

/// Reads `start PID`, `ended PID`, `folder PATH` and `context NAME PREVIOUS`; acts when there is no more to read.
pub(super) async fn run() -> Result<ExitCode, DemoError> {
    let (mut running, mut folder) = (BTreeSet::new(), None);
    let mut context: Option<(String, String)> = None;
    // Nothing else runs in this process, so the wait may hold the thread.
    for line in std::io::stdin().lines().map_while(Result::ok) {
        match line.split_once(' ') {
            Some(("start", pid)) => drop(pid.parse::<i32>().map(|pid| running.insert(pid))),
            Some(("ended", pid)) => drop(pid.parse::<i32>().map(|pid| running.remove(&pid))),
            Some(("folder", path)) => folder = Some(PathBuf::from(path)),
            Some(("context", names)) => {
                context = names.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()))
            }
            _ => {}
        }
    }
    let mut running: Vec<Pid> = running.into_iter().filter_map(Pid::from_raw).collect();
    signal(&running, Signal::TERM);
    let deadline = Instant::now() + GRACE;
    while Instant::now() < deadline && !running.is_empty() {
        sleep(POLL).await;
        running.retain(|pid| test_kill_process(*pid).is_ok());
    }
    signal(&running, Signal::KILL);
    if let Some(folder) = folder {
        // Nothing is left to tell if this fails.
        drop(std::fs::remove_dir_all(folder));
    }
    if let Some((name, previous)) = context {
        drop(super::up::forget_context(&name, &previous).await);
    }
    Ok(ExitCode::SUCCESS)
}

fn signal(processes: &[Pid], signal: Signal) {
    for pid in processes {
        // It may have ended by itself.
        let _gone = kill_process(*pid, signal);
    }
}
