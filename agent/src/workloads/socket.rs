//! The Unix socket of the Workload API.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use thiserror::Error;
use tokio::net::UnixListener;

use super::directory;

/// Bound. Its file goes when it is dropped.
#[derive(Debug)]
pub struct ApiSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
}

/// There is no socket. The fault is whoever configured it, or another program's.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Another agent serves there.
    #[error("--workload-api-socket: another program answers on {}: choose another path, or stop it", .0.display())]
    Taken(PathBuf),
    /// Something else is there.
    #[error("--workload-api-socket: {} is there and no socket: choose another path, or remove it", .0.display())]
    NoSocket(PathBuf),
    /// Somebody has put something else there since it was made.
    #[error(
        "--workload-api-socket: {} was replaced while it was made: others may write its directory, choose another or chmod 755 it",
        .0.display()
    )]
    Replaced(PathBuf),
    /// The system refuses.
    #[error("--workload-api-socket: {} cannot be made: {source}", .path.display())]
    Make {
        /// What.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl ApiSocket {
    /// Binds the socket: 0777, for every program of the host may ask who it is (SPIFFE Workload Endpoint §3). Its
    /// directory is made, 0755, where it is missing.
    pub(crate) fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |source| SocketError::Make { path: path.to_owned(), source };
        if let Some(directory) = path.parent().filter(|directory| !directory.exists()) {
            directory::make(directory).map_err(failed)?;
        }
        remove_dead(path)?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        let socket = Self { listener, path: path.to_owned() };
        open_to_all(path)?;
        warn_of_writable_directory(path);
        Ok(socket)
    }
}

impl Drop for ApiSocket {
    fn drop(&mut self) {
        // It may be gone with its directory.
        let _gone = std::fs::remove_file(&self.path);
    }
}

/// What a process that was killed has left behind.
fn remove_dead(path: &Path) -> Result<(), SocketError> {
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(SocketError::NoSocket(path.to_owned()));
    }
    if UnixStream::connect(path).is_ok() {
        return Err(SocketError::Taken(path.to_owned()));
    }
    std::fs::remove_file(path).map_err(|source| SocketError::Make { path: path.to_owned(), source })
}

/// Lets every program connect. What others may have put in the socket's place keeps its mode, and so does what a link
/// of theirs leads to: of what is opened here nothing can be changed by exchanging names.
fn open_to_all(path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::Make { path: path.to_owned(), source };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let socket = File::from(open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?);
    let found = socket.metadata().map_err(failed)?;
    if !found.file_type().is_socket() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(SocketError::Replaced(path.to_owned()));
    }
    // The kernel changes no mode by a descriptor of this sort itself.
    let by_descriptor = format!("/proc/self/fd/{}", socket.as_raw_fd());
    std::fs::set_permissions(by_descriptor, Permissions::from_mode(0o777)).map_err(failed)
}

fn warn_of_writable_directory(path: &Path) {
    let Some(directory) = path.parent() else { return };
    let Ok(found) = std::fs::metadata(directory) else { return };
    let mode = found.permissions().mode();
    if mode & 0o022 != 0 && mode & 0o1000 == 0 {
        tracing::warn!(event = "workload_api_directory_open", directory = %directory.display(),
            "others may put a socket of theirs in this one's place, and give programs false identities: chmod 755");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made").join("api.sock");
        let socket = ApiSocket::bind(&path).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o777, 0o755));
        assert!(matches!(ApiSocket::bind(&path), Err(SocketError::Taken(_))));
        drop(socket);
        assert!(!path.exists());
        // As a process that is killed leaves it.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(ApiSocket::bind(&path).unwrap());
        std::fs::write(&path, "text").unwrap();
        assert!(matches!(ApiSocket::bind(&path), Err(SocketError::NoSocket(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "text");
    }

    #[tokio::test]
    async fn what_was_put_in_its_place_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let (path, secret) = (folder.path().join("api.sock"), folder.path().join("secret"));
        std::fs::write(&secret, "text").unwrap();
        std::fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
        let other = std::os::unix::net::UnixListener::bind(folder.path().join("other.sock")).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let before = mode(&folder.path().join("other.sock"));
        // As whoever may write the directory does right after the socket was made.
        for target in ["secret", "other.sock"] {
            std::os::unix::fs::symlink(folder.path().join(target), &path).unwrap();
            assert!(matches!(open_to_all(&path), Err(SocketError::Replaced(_))), "{target}");
            std::fs::remove_file(&path).unwrap();
        }
        std::fs::hard_link(&secret, &path).unwrap();
        assert!(matches!(open_to_all(&path), Err(SocketError::Replaced(_))));
        assert_eq!((mode(&secret), mode(&folder.path().join("other.sock"))), (0o600, before));
        drop(other);
    }
}
