//! The process that has connected, by a handle that no other process under its number has a part in.
#![allow(unsafe_code, reason = "no library that the agent has asks the kernel for this")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The process that has connected a Unix socket, whatever has become of it.
#[derive(Debug)]
pub(super) struct PeerHandle(OwnedFd);

impl PeerHandle {
    /// `None` where the kernel does not tell: Linux does from 6.5 on.
    ///
    /// # Errors
    /// The process has gone, or there is no room for its handle.
    pub(super) fn of(stream: impl AsFd) -> io::Result<Option<Self>> {
        let mut handle: libc::c_int = -1;
        let mut length = size_of_val(&handle) as libc::socklen_t;
        // SAFETY: both places that are written to live until the call returns, and `length` is the size of the first.
        let outcome = unsafe {
            libc::getsockopt(
                stream.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERPIDFD,
                (&raw mut handle).cast(),
                &raw mut length,
            )
        };
        if outcome != 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::ENOPROTOOPT) => Ok(None),
                // Until Linux 6.15 there is no handle to whom nobody waits for any longer.
                Some(libc::EINVAL | libc::ESRCH) => Err(ended()),
                _ => Err(error),
            };
        }
        // SAFETY: the kernel has just opened it for us; nobody else has this number.
        Ok(Some(Self(unsafe { OwnedFd::from_raw_fd(handle) })))
    }

    /// Whether the process has ended, so that another one may have its number.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub(super) fn has_ended(&self) -> io::Result<bool> {
        let mut asked = [PollFd::new(&self.0, PollFlags::IN)];
        Ok(poll(&mut asked, Some(&Timespec::default()))? > 0)
    }
}

/// Why whoever has the socket of such a process gets nothing.
pub(super) fn ended() -> io::Error {
    io::Error::other("the program that connected has ended: whoever has its socket now gets nothing")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn whoever_lives_has_not_ended() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let Some(handle) = PeerHandle::of(&ours).unwrap() else { return };
        assert!(!handle.has_ended().unwrap());
    }
}
