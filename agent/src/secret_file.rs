//! A file that somebody else keeps for us: a join token, evidence of where we run. Its disk may not answer, as one in
//! the network or a mount of secrets, and nothing of ours stands still for that.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

/// How long to wait for the text, and for the turn to read it, before it is tried again.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How long one who reads may keep all others out: its disk may be gone for good, and another one be there since.
const HUNG: Duration = Duration::from_secs(60);

/// The file. Clones take turns at reading it.
#[derive(Debug, Clone)]
pub struct SecretFile {
    path: PathBuf,
    turns: Arc<Turns>,
}

/// While the disk does not answer the one that reads nobody else asks, but for one more where it seems to be hung. So
/// no more than two threads wait.
#[derive(Debug)]
struct Turns {
    first: Arc<Semaphore>,
    /// Who has the first has it since then.
    since: Mutex<Instant>,
    second: Arc<Semaphore>,
}

impl Turns {
    async fn take(&self) -> io::Result<OwnedSemaphorePermit> {
        let is_hung = self.first.available_permits() == 0 && self.since().elapsed() >= HUNG;
        let one = if is_hung { &self.second } else { &self.first };
        let turn = Arc::clone(one).acquire_owned().await.map_err(io::Error::other)?;
        if !is_hung {
            *self.since() = Instant::now();
        }
        Ok(turn)
    }

    fn since(&self) -> MutexGuard<'_, Instant> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SecretFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its first `most` bytes, read off the runtime's threads.
    ///
    /// # Errors
    /// As the system says; `InvalidData` where that is no text, and `TimedOut` where nothing answers for [`PATIENCE`].
    pub(crate) async fn read(&self, most: u64) -> io::Result<Zeroizing<String>> {
        let reading = async {
            let turn = self.turns.take().await?;
            let path = self.path.clone();
            let read = tokio::task::spawn_blocking(move || {
                // Kept by whoever reads, also when nobody waits for it any longer.
                let _turn = turn;
                read_text(&path, most)
            });
            read.await.unwrap_or_else(|error| Err(io::Error::other(error)))
        };
        timeout(PATIENCE, reading).await.unwrap_or_else(|_| Err(silent()))
    }
}

impl From<PathBuf> for SecretFile {
    fn from(path: PathBuf) -> Self {
        let one = || Arc::new(Semaphore::new(1));
        Self {
            path,
            turns: Arc::new(Turns { first: one(), since: Mutex::new(Instant::now()), second: one() }),
        }
    }
}

impl PartialEq for SecretFile {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for SecretFile {}

/// A FIFO, as a shell's `<(…)` makes one, is read to its end; one that nobody writes to is empty.
fn read_text(path: &Path, most: u64) -> io::Result<Zeroizing<String>> {
    let until = now() + PATIENCE;
    // Otherwise whoever opens a FIFO that nobody writes to waits for a writer.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    // Never made larger, which would leave copies of what it holds behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(most).unwrap_or_default()));
    let mut file = file.take(most);
    loop {
        match file.read_to_end(&mut bytes) {
            Ok(_) => break,
            // Its writer has not written all of it yet.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(file.get_ref(), until)?,
            Err(error) => return Err(error),
        }
    }
    let text =
        std::str::from_utf8(&bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, NO_TEXT))?;
    Ok(Zeroizing::new(text.to_owned()))
}

const NO_TEXT: &str = "it is no text in UTF-8";

/// Waits until there is more to read, or the end.
fn wait(file: &File, until: std::time::Instant) -> io::Result<()> {
    let left = until.saturating_duration_since(now());
    let left = Timespec::try_from(left).map_err(io::Error::other)?;
    let mut awaited = [PollFd::new(file, PollFlags::IN)];
    match poll(&mut awaited, Some(&left)) {
        Ok(0) => Err(silent()),
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[expect(clippy::disallowed_methods, reason = "the kernel waits by no clock that a test can pause")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

fn silent() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "it does not answer")
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;
    use crate::testing::SilentFile;

    const MOST: u64 = 64;

    #[tokio::test]
    async fn what_does_not_answer_is_given_up_and_asked_once_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let silent = SilentFile::at(path.clone());
        let file = SecretFile::from(path);
        tokio::time::pause();
        for _ in 0..2 {
            // The second waits for its turn: the thread of the first has it still.
            let (read, ()) = tokio::join!(file.read(MOST), tokio::time::advance(2 * PATIENCE));
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert_eq!(file.turns.first.available_permits(), 0);
            assert_eq!(file.turns.second.available_permits(), 1);
        }
        tokio::time::resume();
        drop(silent);
        std::fs::write(file.path(), "hbk1-secret").unwrap();
        assert_eq!(*file.read(MOST).await.unwrap(), "hbk1-secret");
    }

    #[tokio::test]
    async fn one_who_is_hung_does_not_keep_all_others_out() {
        let directory = tempfile::tempdir().unwrap();
        let file = SecretFile::from(directory.path().join("token"));
        std::fs::write(file.path(), "hbk1-secret").unwrap();
        tokio::time::pause();
        let hung = file.turns.take().await.unwrap();
        let (read, ()) = tokio::join!(file.read(MOST), tokio::time::advance(PATIENCE));
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
        tokio::time::advance(HUNG).await;
        tokio::time::resume();
        assert_eq!(*file.read(MOST).await.unwrap(), "hbk1-secret");
        // Nobody else goes after the second.
        let second = file.turns.take().await.unwrap();
        tokio::time::pause();
        let (read, ()) = tokio::join!(file.read(MOST), tokio::time::advance(PATIENCE));
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop((hung, second));
    }

    #[tokio::test]
    async fn a_pipe_is_read_to_its_end_and_one_without_a_writer_is_empty() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let mut pipe = SilentFile::at(path.clone());
        pipe.say("hbk1-");
        let the_rest = async move {
            while !pipe.is_heard() {
                tokio::task::yield_now().await;
            }
            pipe.say("secret\n");
        };
        let file = SecretFile::from(path);
        let (read, ()) = tokio::join!(file.read(MOST), the_rest);
        assert_eq!(*read.unwrap(), "hbk1-secret\n");
        let nobody = directory.path().join("nobody");
        mknodat(CWD, &nobody, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert_eq!(*SecretFile::from(nobody).read(MOST).await.unwrap(), "");
    }

    #[tokio::test]
    async fn what_is_no_text_or_not_there_is_told_as_that() {
        let directory = tempfile::tempdir().unwrap();
        let file = SecretFile::from(directory.path().join("token"));
        assert_eq!(file.read(MOST).await.unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::write(file.path(), [0xff]).unwrap();
        assert_eq!(file.read(MOST).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        std::fs::write(file.path(), "x".repeat(100)).unwrap();
        assert_eq!(file.read(MOST).await.unwrap().len(), 64);
        assert!(SecretFile::from(directory.path().to_owned()).read(MOST).await.is_err());
    }
}
