//! One child process: its logs in a file, killed when dropped.

use std::{
    fs::{self, File},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::eventually;

/// The path of one of the product's binaries, built in the same profile as the test.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let found = profile.join(name);
    assert!(
        found.exists(),
        "{} is missing: run `cargo build --workspace --bins --tests` first",
        found.display()
    );
    found
}

/// A command that ends by itself, with an end set to it and to all that it starts. [`finished`] tells whether it met
/// that.
pub fn bounded(program: &Path, deadline: Duration) -> Command {
    let mut command = Command::new("timeout");
    command.arg("--kill-after=5").arg(deadline.as_secs_f64().to_string()).arg(program);
    command
}

/// Waits for the end of a [`bounded`] command, and panics with what it has written so far where its end had to be made.
pub fn finished(what: &str, child: Child) -> Output {
    let output = child.wait_with_output().unwrap();
    // `timeout` kills itself with what it kills. Whoever ends by another signal has crashed, which is for the caller to see.
    let is_late = output.status.code() == Some(124) || output.status.signal() == Some(Signal::KILL.as_raw());
    let written = [&output.stdout, &output.stderr].map(|written| String::from_utf8_lossy(written));
    assert!(!is_late, "did not end in time: {what}\n{}", written.join("\n"));
    output
}

/// Gives a command a clock that is off: by this, as faketime writes it and with its library; or by what the file of an
/// absolute path says, which is read whenever the clock is.
pub(crate) fn set_clock(command: &mut Command, (offset, faketime): &(String, PathBuf)) {
    // Timers go by the steady clock, which stays as it is.
    command.env("LD_PRELOAD", faketime).env("DONT_FAKE_MONOTONIC", "1");
    match Path::new(offset).is_absolute() {
        true => command.env("FAKETIME_TIMESTAMP_FILE", offset).env("FAKETIME_NO_CACHE", "1"),
        false => command.env("FAKETIME", offset),
    };
}

/// A running child.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with standard output and error in `<folder>/<name>.log`.
    pub fn start(name: &str, folder: &Path, mut command: Command) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { child, name: name.to_owned(), log }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Ends it as loss of power would, and waits for that.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end, and waits.
    pub fn stop(&mut self, deadline: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(deadline)
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        eventually(&what, deadline, || self.child.try_wait().unwrap())
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Resident memory, KiB, as the kernel counts it.
    pub fn resident_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    /// Of that, what is its own: the pages of its program and libraries come and go by what else was read lately.
    pub fn own_kib(&self) -> u64 {
        self.status_kib("RssAnon:")
    }

    fn status_kib(&self, figure: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(figure)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Processor time used so far, user and system, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        let after_name = stat.rsplit_once(')').unwrap().1;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
        ticks / 100.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- the end of {}'s log ---", self.name);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "did not end in time: the talker\nso far")]
    fn what_does_not_end_is_ended_and_shows_what_it_has_said() {
        let mut command = bounded(Path::new("sh"), Duration::from_secs(2));
        // The pipe is held by what the shell has started, too.
        command.args(["-c", "echo so far; sleep 60 & sleep 60"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        finished("the talker", child);
    }

    #[test]
    fn whoever_crashes_is_not_late() {
        let mut command = bounded(Path::new("sh"), Duration::from_secs(60));
        command.args(["-c", "kill -SEGV $$"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        assert!(!finished("the crasher", child).status.success());
    }
}
