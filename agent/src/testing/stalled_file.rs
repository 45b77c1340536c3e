//! Files whose disks do not answer: whoever opens the one to write waits, and whoever reads the other.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, mknodat};

/// A FIFO that nobody reads, until it is dropped.
pub(crate) struct StalledFile(PathBuf);

impl StalledFile {
    pub(crate) fn at(path: PathBuf) -> Self {
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        Self(path)
    }
}

impl Drop for StalledFile {
    /// Whoever waits is told that it went wrong, and whoever comes later finds nothing in the way.
    fn drop(&mut self) {
        let waiting: Option<File> =
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&self.0).ok();
        // Nobody new comes by its name, and those who came before it went have a reader.
        let _gone = std::fs::remove_file(&self.0);
        drop(waiting);
    }
}

/// A file that can be opened to read and then says nothing more than it is told to, until it is dropped.
pub(crate) struct SilentFile {
    path: PathBuf,
    /// Writes, and reads as well so that it need not wait for a reader.
    end: File,
}

impl SilentFile {
    pub(crate) fn at(path: PathBuf) -> Self {
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let end = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        Self { path, end }
    }

    pub(crate) fn say(&mut self, text: &str) {
        self.end.write_all(text.as_bytes()).unwrap();
    }

    /// Whether somebody has read all of what was said.
    pub(crate) fn is_heard(&self) -> bool {
        let mut left = [PollFd::new(&self.end, PollFlags::IN)];
        poll(&mut left, Some(&Timespec::default())).unwrap() == 0
    }
}

impl Drop for SilentFile {
    /// Whoever reads finds its end, and whoever comes later nothing in the way.
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.path);
    }
}
