//! How old the view in force may become (`maxViewAge`).

use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::UnixMillis;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::mesh::InboundGate;

/// The longest sleep without looking at the clock, which may be set meanwhile.
const LOOK: Duration = Duration::from_secs(5);

/// When the view was last known to be the newest, and how long that is good for.
#[derive(Debug)]
pub struct ViewAge(watch::Sender<Facts>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts {
    limit: Option<Duration>,
    /// `None`: at this moment, since the control plane is there and has nothing newer.
    confirmed_at: Option<UnixMillis>,
}

impl ViewAge {
    /// Without limit, and never confirmed.
    pub fn new() -> Self {
        Self(watch::Sender::new(Facts { limit: None, confirmed_at: Some(UnixMillis(0)) }))
    }

    /// Sets how old the view may become.
    pub fn set_limit(&self, limit: Option<Duration>) {
        self.0.send_modify(|facts| facts.limit = limit);
    }

    /// Notes when the view was last known to be the newest.
    pub fn confirmed_until(&self, instant: UnixMillis) {
        self.0.send_modify(|facts| facts.confirmed_at = Some(instant));
    }

    /// Notes that the view is the newest, until [`ViewAge::confirmed_until`] says otherwise.
    pub fn confirmed_for_now(&self) {
        self.0.send_modify(|facts| facts.confirmed_at = None);
    }

    /// Whether there is a limit, so that the last confirmation must outlive a restart.
    pub fn is_limited(&self) -> bool {
        self.0.borrow().limit.is_some()
    }

    /// Whether the view is known to be the newest at this moment.
    pub fn is_confirmed_for_now(&self) -> bool {
        self.0.borrow().confirmed_at.is_none()
    }

    /// Closes inbound while the view is too old, until `stop`.
    pub async fn watch(self: Arc<Self>, gate: Arc<InboundGate>, clock: Clock, stop: CancellationToken) {
        let mut facts = self.0.subscribe();
        loop {
            let now = clock.now();
            let due = facts.borrow_and_update().due();
            gate.set_too_old(due.is_some_and(|due| now > due));
            let wait = match due {
                Some(due) if now <= due => due.since(now).clamp(Duration::from_millis(1), LOOK),
                Some(_) | None => LOOK,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = facts.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait), if due.is_some() => {}
            }
        }
    }
}

impl Default for ViewAge {
    fn default() -> Self {
        Self::new()
    }
}

impl Facts {
    /// After this instant the view is too old.
    fn due(&self) -> Option<UnixMillis> {
        Some(self.confirmed_at?.plus(self.limit?))
    }
}
