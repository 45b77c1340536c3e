//! How the data path tells that live traffic obeys a change.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Inbound, NodeView};

/// The last [`Inbound`] under which every live connection, request and stream has been decided anew.
///
/// `connections.rs` publishes here after it has cut what is denied; `sync/` waits here before it acknowledges a view.
#[derive(Debug)]
pub struct Applied(watch::Sender<Option<Arc<Inbound>>>);

impl Applied {
    /// Nothing has been applied yet.
    pub fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// States that live traffic now obeys `inbound`, the very value that was received.
    pub fn publish(&self, inbound: Arc<Inbound>) {
        self.0.send_replace(Some(inbound));
    }

    /// What live traffic obeys, now and at each change.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Inbound>>> {
        self.0.subscribe()
    }

    /// The view in force for live traffic, unless inbound is closed.
    pub fn view(&self) -> Option<Arc<NodeView>> {
        match self.0.borrow().as_deref() {
            Some(Inbound::Open(view)) => Some(Arc::clone(view)),
            Some(Inbound::Closed { .. }) | None => None,
        }
    }
}

impl Default for Applied {
    fn default() -> Self {
        Self::new()
    }
}
