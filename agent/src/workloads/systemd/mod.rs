//! Which file the systemd unit was read from in which a program runs. The unit is what the kernel tells (`cgroup.rs`);
//! its file only systemd knows, for it depends on what lay where when systemd last looked.

mod bus;
mod message;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::Selector;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;

use super::attest::Caller;
use super::looks::Depth;
use bus::Bus;
pub(super) use bus::BusError;

/// Where the system's message bus is (D-Bus Specification, "Well-known Message Bus Instances").
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";

/// Questions at once.
pub(super) const AT_ONCE: usize = 2;

/// How long an answer may take, the wait for its turn included.
const PATIENCE: Duration = Duration::from_secs(4);

/// Asks systemd.
#[derive(Debug)]
pub(super) struct Systemd {
    bus: PathBuf,
    turns: Semaphore,
}

/// The unit that a program was last found in, and its file. What systemd reads later is of no concern to what runs.
#[derive(Debug, Default)]
pub(super) struct Remembered(Mutex<Option<(Selector, Option<Selector>)>>);

impl Systemd {
    pub(super) fn new() -> Self {
        Self { bus: SYSTEM_BUS.into(), turns: Semaphore::new(AT_ONCE) }
    }

    /// The file of the caller's unit; `None` where it is in none, or that was made without a file.
    ///
    /// # Errors
    /// systemd does not tell.
    pub(super) async fn unit_file(&self, caller: &Arc<Caller>) -> Result<Option<Selector>, BusError> {
        let groups = caller.look(Depth::Surface, |caller| caller.process()?.cgroups()).await?;
        let unit = groups.map_err(BusError::Proc)?.unit();
        let Some(unit) = unit else { return Ok(None) };
        let mut last = caller.unit_file.0.lock().await;
        if let Some((known, file)) = &*last
            && *known == unit
        {
            return Ok(file.clone());
        }
        let Selector::SystemdId(name) = &unit else { return Ok(None) };
        let asking = async {
            // Nobody closes it.
            let _turn = self.turns.acquire().await;
            Bus::connect(&self.bus).await?.fragment_path(name.as_str()).await
        };
        let path = timeout(PATIENCE, asking).await.map_err(|_| BusError::TimedOut)??;
        let file = Selector::systemd_fragment_path(&path);
        *last = Some((unit, file.clone()));
        Ok(file)
    }
}

#[cfg(test)]
mod tests;
