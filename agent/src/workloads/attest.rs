//! Who is at the other end of the socket: what is true of it, as selectors.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use hauberk_identity::Selector;
use tokio::net::UnixStream;

use super::looks::{Depth, LookError, Looks, Whose};
use super::process::{Executed, Hashed, Process, ProcessFacts};
use super::unmapped::without_unmapped;
use super::{docker, systemd};

/// The program at the other end of a connection.
#[derive(Debug)]
pub(crate) struct Caller {
    /// By the kernel, at the moment of connecting.
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// `None` where the process is not to be seen from here (another pid namespace).
    process: Option<Process>,
    looks: Looks,
    /// What was found out of it that takes asking others.
    pub(super) container: docker::Remembered,
    pub(super) unit_file: systemd::Remembered,
    /// Kept by the connection, not by the file: where file systems come and go, another file may look like this one
    /// some day.
    hashed: Mutex<Option<Hashed>>,
}

impl Caller {
    /// Asks the kernel who has connected, and holds on to that process. No disk is asked: whoever accepts connections
    /// waits for this, so that it is early.
    ///
    /// # Errors
    /// It has ended, or that cannot be told: whoever inherited its socket is not the user that connected.
    pub(crate) fn of(stream: &UnixStream, looks: &Looks) -> io::Result<Self> {
        let peer = stream.peer_cred()?;
        let (uid, gid) = (peer.uid(), peer.gid());
        let process = Process::hold_peer(stream, peer.pid().filter(|pid| *pid > 0))?;
        Ok(Self {
            uid,
            gid,
            process,
            looks: looks.clone(),
            container: docker::Remembered::default(),
            unit_file: systemd::Remembered::default(),
            hashed: Mutex::default(),
        })
    }

    /// Finds out something of it that may take for ever.
    ///
    /// # Errors
    /// It takes too long.
    pub(super) async fn look<T: Send + 'static>(
        self: &Arc<Self>,
        depth: Depth,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, LookError> {
        let disk = self.process.as_ref().and_then(Process::disk);
        let caller = Arc::clone(self);
        self.looks.at(Whose { uid: self.uid, disk }, depth, move || work(&caller)).await
    }

    /// The process.
    ///
    /// # Errors
    /// It is not to be seen from here.
    pub(super) fn process(&self) -> io::Result<&Process> {
        self.process
            .as_ref()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "its process is not to be seen from here"))
    }

    /// What is true of it now, as far as the kernel tells at once. Of a process that has ended, and of one that runs as
    /// somebody else than whoever connected, nothing is true.
    pub(super) fn selectors(&self) -> BTreeSet<Selector> {
        let Some(process) = &self.process else {
            let by_socket = BTreeSet::from([Selector::UnixUid(self.uid), Selector::UnixGid(self.gid)]);
            return without_unmapped(by_socket);
        };
        match process.facts() {
            Ok(facts) if (facts.uid, facts.gid) == (self.uid, self.gid) => {
                let unit = process.cgroups().ok().and_then(|groups| groups.unit());
                without_unmapped(of_facts(facts).into_iter().chain(unit).collect())
            }
            Ok(ProcessFacts { uid, gid, .. }) => {
                tracing::warn!(
                    event = "workload_changed",
                    uid = self.uid,
                    gid = self.gid,
                    now_uid = uid,
                    now_gid = gid,
                    "a program has become another user since it connected: it gets nothing until it connects again"
                );
                BTreeSet::new()
            }
            Err(error) if error.get_ref().is_some_and(|error| error.is::<Executed>()) => {
                tracing::warn!(event = "workload_changed", uid = self.uid, %error);
                BTreeSet::new()
            }
            Err(error) => {
                tracing::debug!(event = "workload_unknown", uid = self.uid, %error);
                BTreeSet::new()
            }
        }
    }

    /// Why its path is not known; `None` where it is.
    pub(super) fn path_problem(&self) -> Option<String> {
        self.process().and_then(Process::path).err().map(|error| error.to_string())
    }

    /// The SHA-256 of its executable, if we may know it. A file that stays as it was is read once.
    pub(super) fn digest(&self) -> Option<Selector> {
        let known = *self.hashed.lock().unwrap_or_else(PoisonError::into_inner);
        match self.process.as_ref()?.digest(known) {
            Ok(hashed) => {
                *self.hashed.lock().unwrap_or_else(PoisonError::into_inner) = Some(hashed);
                Some(Selector::UnixSha256(hashed.digest))
            }
            Err(error) => {
                tracing::warn!(event = "workload_not_hashed", uid = self.uid, %error,
                    "an agent reads the executables of other users' programs only with CAP_SYS_PTRACE");
                None
            }
        }
    }
}

fn of_facts(facts: ProcessFacts) -> BTreeSet<Selector> {
    let ProcessFacts { uid, gid, supplementary_gids, path } = facts;
    let mut selectors = BTreeSet::from([Selector::UnixUid(uid), Selector::UnixGid(gid)]);
    selectors.extend(supplementary_gids.into_iter().map(Selector::UnixSupplementaryGid));
    if let Some(path) = path.as_deref().and_then(std::path::Path::to_str) {
        selectors.insert(Selector::UnixPath(Arc::from(path)));
    }
    selectors
}
