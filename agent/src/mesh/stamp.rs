//! What stays known of a view that has been replaced.

use std::sync::{Arc, Weak};

use hauberk_identity::SpiffeId;

use super::NodeView;

/// Names a view, and holds on to none: what was decided by it may go on for days.
#[derive(Debug, Clone)]
pub struct ViewStamp {
    /// The control plane's epoch.
    pub epoch: u64,
    /// The revision at which the view's content last changed.
    pub revision: u64,
    /// Our own id.
    pub spiffe_id: SpiffeId,
    view: Weak<NodeView>,
}

impl ViewStamp {
    /// That of this view.
    pub fn of(view: &Arc<NodeView>) -> Self {
        let NodeView { epoch, revision, spiffe_id, .. } = &**view;
        let view = Arc::downgrade(view);
        Self { epoch: *epoch, revision: *revision, spiffe_id: spiffe_id.clone(), view }
    }

    /// The view, if anybody holds it still.
    pub fn view(&self) -> Option<Arc<NodeView>> {
        self.view.upgrade()
    }
}
