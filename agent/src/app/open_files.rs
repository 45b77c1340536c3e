//! How many files, sockets among them, this process may have open, and how sockets share them.

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

/// The most sockets of one kind at once, wherever the system permits them.
const MAX_OF_A_KIND: u64 = 16_384;
/// The most connections of programs to the Workload API, a sixteenth of all files; and how many there are however few
/// files there are. Each takes three files: so many are, with our own, in the half of 1,024 that the mesh does not get.
const MAX_OF_PROGRAMS: u64 = 2_048;
const MIN_OF_PROGRAMS: u64 = 96;
/// What is left for ourselves, whoever calls us and whatever the app does: state, listeners, the control plane, names,
/// proofs, and the connections of probes and people (`local_http.rs`). Half of all files where there are few.
const OWN: u64 = 128;

/// The limits of this process.
#[derive(Debug)]
pub(super) struct OpenFiles {
    found: Rlimit,
    now: Rlimit,
}

/// How many sockets of each kind there may be: of whatever one kind takes, nothing is missing to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shares {
    /// Connections from the mesh.
    pub(super) from_mesh: usize,
    /// Connections to the app, on their behalf.
    pub(super) to_app: usize,
    /// Connections from the app.
    pub(super) from_app: usize,
    /// Connections to the mesh, on their behalf.
    pub(super) to_mesh: usize,
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

    /// How many connections of programs to the Workload API there may be.
    pub(super) fn of_programs(&self) -> usize {
        let of_programs = self.now.current.map_or(MAX_OF_PROGRAMS, |files| files / 16);
        usize::try_from(of_programs.clamp(MIN_OF_PROGRAMS, MAX_OF_PROGRAMS)).unwrap_or(1)
    }

    /// A quarter for each kind of what is not kept for ourselves and the Workload API.
    pub(super) fn shares(&self, for_workloads: u64) -> Shares {
        let own = OWN + for_workloads;
        let of_a_kind = self.now.current.map_or(MAX_OF_A_KIND, |files| (files - own.min(files / 2)) / 4);
        let of_a_kind = usize::try_from(of_a_kind.clamp(1, MAX_OF_A_KIND)).unwrap_or(1);
        Shares { from_mesh: of_a_kind, to_app: of_a_kind, from_app: of_a_kind, to_mesh: of_a_kind }
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
    use crate::workloads;

    #[test]
    fn leaves_files_for_all_the_rest() {
        let of = |current| {
            let now = Rlimit { current, maximum: current };
            OpenFiles { found: now, now }.shares(0)
        };
        for (files, of_a_kind) in
            [(Some(1_024), 224), (Some(256), 32), (Some(1 << 20), 16_384), (None, 16_384)]
        {
            let Shares { from_mesh, to_app, from_app, to_mesh } = of(files);
            assert_eq!([from_mesh, to_app, from_app, to_mesh], [of_a_kind; 4], "{files:?}");
            assert!(files.is_none_or(|files| 4 * of_a_kind as u64 + OWN.min(files / 2) <= files));
        }
        assert_eq!(of(Some(0)).from_mesh, 1);
        let now = Rlimit { current: Some(1_024), maximum: Some(1_024) };
        assert_eq!(OpenFiles { found: now, now }.shares(512).from_app, 128);
        // Nor do programs take what the mesh has.
        for files in [1_024, 2_048, 4_096, 1 << 20] {
            let now = Rlimit { current: Some(files), maximum: Some(files) };
            let open = OpenFiles { found: now, now };
            let of_programs = workloads::files(true, open.of_programs());
            let of_mesh = 4 * open.shares(of_programs).from_app as u64;
            assert!(OWN + of_programs + of_mesh <= files, "{files}: {of_programs} and {of_mesh}");
        }
    }

    #[test]
    fn programs_have_more_connections_where_there_are_more_files() {
        for (files, of_programs) in
            [(Some(256), 96), (Some(1_024), 96), (Some(16_384), 1_024), (Some(1 << 20), 2_048), (None, 2_048)]
        {
            let now = Rlimit { current: files, maximum: files };
            assert_eq!(OpenFiles { found: now, now }.of_programs(), of_programs, "{files:?}");
        }
    }
}
