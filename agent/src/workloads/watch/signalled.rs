//! The process that a pid file names, held on to so that no other one under its number is signalled.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use hauberk_identity::UnixMillis;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::time::{ClockId, clock_gettime};
use thiserror::Error;

use super::super::process::read_start_time;
use crate::clock::Clock;

/// Ticks in which the kernel tells when a process has started (`USER_HZ`): the same on all machines that we run on.
const TICKS: u64 = 100;

/// How much later than the file a process may seem to have started, for clocks of files are coarse.
const SLACK: Duration = Duration::from_secs(1);

/// A process, whatever becomes of its number.
#[derive(Debug)]
pub(super) struct Signalled {
    number: i32,
    handle: OwnedFd,
    /// The file seems to be of before this boot: it was left behind, or the clock was set since it was written.
    pub(super) is_doubtful: bool,
}

/// Nobody is signalled.
#[derive(Debug, Error)]
pub(super) enum NotSignalled {
    /// The file cannot be read. The fault is whoever named it, or the program does not run yet.
    #[error("it cannot be read: {0}")]
    File(io::Error),
    /// The file is no pid file.
    #[error("it holds no number")]
    NoNumber,
    /// The process has ended, or may not be held or looked at by us.
    #[error("process {number} gets no signal: {source}")]
    Process {
        /// Its number.
        number: i32,
        /// What the system says.
        source: io::Error,
    },
    /// The file was left behind.
    #[error(
        "process {0} has started after the file was written, so it is another than the one that was meant, and gets no signal: write the \
         number of the one that runs into the file, or the same one again"
    )]
    Stranger(i32),
}

impl Signalled {
    /// Holds the process that this file names.
    ///
    /// # Errors
    /// See [`NotSignalled`].
    pub(super) fn named_by(file: &Path) -> Result<Self, NotSignalled> {
        let mut opened = File::open(file).map_err(NotSignalled::File)?;
        let text = io::read_to_string(&mut opened).map_err(NotSignalled::File)?;
        let written =
            opened.metadata().and_then(|metadata| metadata.modified()).map_err(NotSignalled::File)?;
        let written = written.duration_since(UNIX_EPOCH).unwrap_or_default();
        let number =
            text.trim().parse().ok().filter(|number: &i32| *number > 0).ok_or(NotSignalled::NoNumber)?;
        let problem = |source| NotSignalled::Process { number, source };
        let pid = Pid::from_raw(number).ok_or(NotSignalled::NoNumber)?;
        let handle = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| problem(error.into()))?;
        // If that is another one by now, the one that is held has ended and takes no signal.
        let booted = booted_at();
        let started = started_at(number, booted).map_err(problem)?;
        let written = UnixMillis(0).plus(written);
        let age = Age::of(written, started, booted);
        if age == Age::BeforeProcess {
            return Err(NotSignalled::Stranger(number));
        }
        Ok(Self { number, handle, is_doubtful: age == Age::BeforeBoot })
    }

    /// # Errors
    /// It has ended, or is not ours to signal.
    pub(super) fn send(&self, signal: Signal) -> Result<(), NotSignalled> {
        pidfd_send_signal(&self.handle, signal)
            .map_err(|error| NotSignalled::Process { number: self.number, source: error.into() })
    }
}

/// When a pid file was written, as far as that tells whom it names.
#[derive(Debug, PartialEq, Eq)]
enum Age {
    SinceProcess,
    BeforeProcess,
    /// By the clock as it goes now. Many machines have none that goes on while they are off, so that what they write
    /// before they have asked others for the time is of long ago: that tells nothing.
    BeforeBoot,
}

impl Age {
    fn of(written: UnixMillis, started: UnixMillis, booted: UnixMillis) -> Self {
        let latest = written.plus(SLACK);
        if latest < booted {
            Self::BeforeBoot
        } else if latest < started {
            Self::BeforeProcess
        } else {
            Self::SinceProcess
        }
    }
}

/// When the kernel has started, by the clock as it goes now. In containers, /proc/uptime may tell of the container
/// instead.
fn booted_at() -> UnixMillis {
    let up = Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default();
    Clock::system().now().minus(up)
}

/// When the process of this number has started.
fn started_at(number: i32, booted: UnixMillis) -> io::Result<UnixMillis> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "/proc/PID/stat is not what it should be");
    let stat = fs::read(format!("/proc/{number}/stat"))?;
    // Names of programs may hold anything.
    let ticks = read_start_time(&String::from_utf8_lossy(&stat)).ok_or_else(malformed)?;
    Ok(booted.plus(Duration::from_millis(ticks.saturating_mul(1000 / TICKS))))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn cat() -> Child {
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn a_pid_file_that_was_left_behind_hits_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let mut child = cat();
        fs::write(&file, format!("{}\n", child.id())).unwrap();
        let written_before = |span: Duration| {
            let opened = File::options().write(true).open(&file).unwrap();
            opened.set_modified(fs::metadata(&file).unwrap().modified().unwrap() - span).unwrap();
        };
        // Somebody else wrote it, a while before this process began.
        written_before(Duration::from_secs(10));
        let problem = Signalled::named_by(&file).unwrap_err();
        assert!(matches!(problem, NotSignalled::Stranger(_)), "{problem}");
        fs::write(&file, format!("{}\n", child.id())).unwrap();
        written_before(Duration::from_secs(20 * 365 * 24 * 3600));
        assert!(Signalled::named_by(&file).unwrap().is_doubtful, "the clock has been set since");
        fs::write(&file, format!("{}\n", child.id())).unwrap();
        let program = Signalled::named_by(&file).unwrap();
        assert!(!program.is_doubtful);
        assert!(child.try_wait().unwrap().is_none());
        program.send(Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(Signal::TERM.as_raw()));
        // Whoever gets the number next is not that.
        assert!(matches!(program.send(Signal::TERM), Err(NotSignalled::Process { .. })));
        assert!(matches!(
            Signalled::named_by(&file),
            Err(NotSignalled::Process { .. } | NotSignalled::Stranger(_))
        ));
        for text in ["", "0", "-1", "x", "99999999999"] {
            fs::write(&file, text).unwrap();
            assert!(matches!(Signalled::named_by(&file), Err(NotSignalled::NoNumber)), "{text}");
        }
        assert!(matches!(Signalled::named_by(folder.path()), Err(NotSignalled::File(_))));
    }

    #[test]
    fn it_is_known_when_a_process_has_started() {
        let before = Clock::system().now();
        let mut child = cat();
        let started = started_at(i32::try_from(child.id()).unwrap(), booted_at()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            started.plus(SLACK) >= before && started <= Clock::system().now().plus(SLACK),
            "{started} {before}"
        );
    }
}
