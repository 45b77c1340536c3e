//! How the data path tells that live traffic obeys a change.

use std::sync::Arc;

use hauberk_tls::TrustBundle;
use tokio::sync::watch;

use super::{Inbound, NodeView};

/// The last [`Inbound`] under which every live connection, request and stream has been decided anew.
///
/// `connections.rs` publishes here after it has cut what is denied; `sync/` waits here before it acknowledges a view.
#[derive(Debug)]
pub struct Applied {
    inbound: watch::Sender<Option<Arc<Inbound>>>,
    trust: watch::Sender<Option<Arc<TrustBundle>>>,
    followed: watch::Sender<Option<u64>>,
}

impl Applied {
    /// Nothing has been applied yet.
    pub fn new() -> Self {
        Self {
            inbound: watch::Sender::new(None),
            trust: watch::Sender::new(None),
            followed: watch::Sender::new(None),
        }
    }

    /// States that live traffic now obeys `inbound`, the very value that was received.
    pub fn publish(&self, inbound: Arc<Inbound>) {
        self.inbound.send_replace(Some(inbound));
    }

    /// States that every live connection has been held against this bundle.
    pub fn publish_trust(&self, bundle: Arc<TrustBundle>) {
        self.trust.send_replace(Some(bundle));
    }

    /// What live connections have been held against, now and at each change.
    pub fn subscribe_trust(&self) -> watch::Receiver<Option<Arc<TrustBundle>>> {
        self.trust.subscribe()
    }

    /// States that no live connection rests on an authority that signs no longer, and no program's certificate, as of
    /// this version of what is to be trusted; or that this was waited for long enough.
    pub fn publish_followed(&self, version: u64) {
        self.followed.send_if_modified(|followed| followed.replace(version) != Some(version));
    }

    /// The version of what is to be trusted up to which that holds, now and at each change.
    pub fn subscribe_followed(&self) -> watch::Receiver<Option<u64>> {
        self.followed.subscribe()
    }

    /// What live traffic obeys, now and at each change.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Inbound>>> {
        self.inbound.subscribe()
    }

    /// The view in force for live traffic, unless inbound is closed.
    pub fn view(&self) -> Option<Arc<NodeView>> {
        match self.inbound.borrow().as_deref() {
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
