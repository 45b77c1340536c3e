//! A file whose disk does not answer: whoever opens it to write waits.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

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
