//! What is true of the container in which a program runs, as the Docker Engine tells it.
//!
//! Which container that is, the kernel tells (`cgroup.rs`); and because a group may be named like a container that it
//! is not, the program must be beside the process that the Engine has started there.

mod engine;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use hauberk_identity::Selector;
use thiserror::Error;
use tokio::sync::Mutex;

use super::attest::Caller;
use super::cgroup::{Ambiguous, Cgroups, ContainerId, Membership, mounted_container};
use super::looks::{Depth, LookError};
use super::process::Process;
pub(super) use engine::AT_ONCE;
use engine::{Container, Engine, EngineError};

/// Asks for containers.
#[derive(Debug)]
pub(super) struct Docker {
    engine: Engine,
}

/// The container that a program was last found in. What is true of a container does not change while it runs.
#[derive(Debug, Default)]
pub(super) struct Remembered(Mutex<Option<(Membership, Container)>>);

/// Why nothing is known of a container.
#[derive(Debug, Error)]
pub(super) enum DockerError {
    /// See [`LookError`].
    #[error(transparent)]
    Look(#[from] LookError),
    /// /proc does not tell.
    #[error("its control groups cannot be read: {0}")]
    Proc(#[from] io::Error),
    /// See [`Ambiguous`].
    #[error(transparent)]
    Ambiguous(#[from] Ambiguous),
    /// See [`EngineError`].
    #[error("the Engine does not tell: {0}")]
    Engine(#[from] EngineError),
    /// It has no such container, or not any longer.
    #[error("the Engine has no container {0} that runs")]
    Unknown(ContainerId),
    /// It is named like a container that it is not in, or the Engine's processes are in another pid namespace than
    /// ours.
    #[error(
        "it is not beside the process that the Engine has started in container {0}: does the agent share the Engine's pid namespace?"
    )]
    Elsewhere(ContainerId),
}

/// Where a process is, as the kernel tells us.
struct Whereabouts {
    groups: Cgroups,
    membership: Option<Membership>,
    /// Only looked for where its groups name no container.
    mounted: Option<ContainerId>,
}

impl Docker {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { engine: Engine::new(socket) }
    }

    /// What is true of the container in which a program runs; nothing where that is none. Of its variables only those
    /// that are `asked` for are told, for they may be secrets.
    ///
    /// # Errors
    /// See [`DockerError`].
    pub(super) async fn selectors(
        &self,
        caller: &Arc<Caller>,
        asked: &BTreeSet<Selector>,
    ) -> Result<BTreeSet<Selector>, DockerError> {
        let here = caller.look(Depth::Surface, |caller| Whereabouts::of(caller.process()?)).await??;
        let mut last = caller.container.0.lock().await;
        if let Some((membership, container)) = &*last
            && here.membership.as_ref() == Some(membership)
        {
            return Ok(container.selectors(asked));
        }
        let Some(id) = here.container().cloned() else { return Ok(BTreeSet::new()) };
        let container = self.engine.inspect(&id).await?.ok_or_else(|| DockerError::Unknown(id.clone()))?;
        let (pid, membership) = (container.pid(), here.membership.clone());
        let is_there = caller.look(Depth::Surface, move |caller| {
            let first =
                Process::hold(pid).and_then(|first| Whereabouts::of(&first).map_err(io::Error::other));
            let is_beside = first.is_ok_and(|first| here.is_beside(&first));
            // Still the process that it was when its groups were read.
            caller.process()?.check_same()?;
            Ok::<_, io::Error>(is_beside)
        });
        if !is_there.await?? {
            return Err(DockerError::Elsewhere(id));
        }
        let selectors = container.selectors(asked);
        *last = membership.map(|membership| (membership, container));
        Ok(selectors)
    }
}

impl Whereabouts {
    fn of(process: &Process) -> Result<Self, DockerError> {
        let groups = process.cgroups()?;
        let membership = groups.container()?;
        let mounted = match membership {
            Some(_) => None,
            None => mounted_container(&process.mountinfo()?)?,
        };
        Ok(Self { groups, membership, mounted })
    }

    fn container(&self) -> Option<&ContainerId> {
        self.membership.as_ref().map(|membership| &membership.id).or(self.mounted.as_ref())
    }

    /// Whether both are in the same container. Where groups are told from within it, so that they do not name it, they
    /// must be the same, and its first process must have it mounted too: what a program has mounted itself proves
    /// nothing.
    fn is_beside(&self, first: &Self) -> bool {
        match &self.membership {
            Some(membership) => first.membership.as_ref() == Some(membership),
            None => self.groups == first.groups && self.mounted.is_some() && self.mounted == first.mounted,
        }
    }
}

#[cfg(test)]
mod tests;
