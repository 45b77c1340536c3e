//! Directories that other programs read in, whatever umask this one was started with.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

/// Who owns it writes there, and everybody reads.
const READABLE: u32 = 0o755;

/// Makes one, 0755. What others have put in its place meanwhile keeps its mode, if they may write beside it: no link is
/// followed.
///
/// # Errors
/// Something is there, or the system refuses.
pub(super) fn make(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(READABLE).create(path)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    File::from(open(path, flags, Mode::empty())?).set_permissions(Permissions::from_mode(READABLE))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tells the test that it is the one with another umask.
    const PART: &str = "HAUBERK_TEST_UNDER_UMASK";

    /// A umask is the whole process's, so that another one does it.
    #[test]
    fn others_read_it_whatever_umask_it_is_made_under() {
        if std::env::var_os(PART).is_some() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("made");
            make(&path).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o755);
            assert_eq!(make(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            return;
        }
        let name = "workloads::directory::tests::others_read_it_whatever_umask_it_is_made_under";
        let output = std::process::Command::new("sh")
            .args(["-c", "umask 077 && exec \"$0\" --exact \"$1\""])
            .arg(std::env::current_exe().unwrap())
            .arg(name)
            .env(PART, "1")
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && told.contains("1 passed"), "{told}");
    }
}
