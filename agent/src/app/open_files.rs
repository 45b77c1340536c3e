//! How many files, sockets among them, this process may have open.

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

/// The most connections from the mesh at once, wherever the system permits them.
const MAX_CONNECTIONS: u64 = 16_384;
/// The part of all files that connections from the mesh may take. Each may need another one to the app, and a quarter is
/// left for what must go on whoever calls us: outbound traffic, the control plane, probes, and our own state.
const SHARE_OF_CONNECTIONS: (u64, u64) = (3, 8);

/// The limits of this process.
#[derive(Debug)]
pub(super) struct OpenFiles {
    found: Rlimit,
    now: Rlimit,
}

impl OpenFiles {
    /// Raises the limit as far as the system permits. Where it does not, it is logged, and fewer connections are taken.
    pub(super) fn raise() -> Self {
        let found = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: found.maximum, maximum: found.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(event = "limit_not_set", %error, "the system keeps its limit of open files");
        }
        Self { found, now: getrlimit(Resource::Nofile) }
    }

    /// How many connections from the mesh there may be.
    pub(super) fn connections(&self) -> usize {
        let (share, of) = SHARE_OF_CONNECTIONS;
        let connections = self.now.current.map_or(MAX_CONNECTIONS, |files| files / of * share);
        usize::try_from(connections.clamp(1, MAX_CONNECTIONS)).unwrap_or(1)
    }

    /// Gives a child the limit that we found: programs are known that cannot deal with a higher one.
    pub(super) fn restore(&self, child: Pid) {
        if self.found.current != self.now.current
            && let Err(error) = prlimit(Some(child), Resource::Nofile, self.found)
        {
            // It may have ended already, or be another user by now.
            tracing::debug!(event = "limit_not_restored", %error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_files_for_all_the_rest() {
        let connections = |current| {
            let now = Rlimit { current, maximum: current };
            OpenFiles { found: now, now }.connections()
        };
        assert_eq!(connections(Some(0)), 1);
        assert_eq!(connections(Some(1_024)), 384);
        assert_eq!(connections(Some(1 << 20)), 16_384);
        assert_eq!(connections(None), 16_384);
    }
}
