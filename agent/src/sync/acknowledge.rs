//! What a session has put in force and not yet acknowledged: live traffic may not obey it yet, or the disk not have it.

use std::sync::Arc;

use hauberk_proto::agent::v1 as pb;
use hauberk_proto::agent::v1::from_agent::Message as Up;
use tokio::time::Instant;

use super::disk::Kind;
use super::session::{End, Session, Uplink};
use crate::mesh::{Inbound, NodeView};
use crate::state::{Mark, StoredTrust};

/// What is to be acknowledged.
#[derive(Default)]
pub(super) struct NotYet {
    pub(super) ours: Option<Ours>,
    pub(super) denylist: Option<Mark>,
    pub(super) trust: Option<Arc<StoredTrust>>,
}

/// What the control plane says of our own node.
pub(super) enum Ours {
    /// Its view, which came at this instant.
    View(Arc<NodeView>, Instant),
    /// It is gone, as of here.
    NodeGone(Mark),
}

impl Session<'_> {
    /// Acknowledges all for which it is time.
    pub(super) async fn acknowledge_all(&mut self, up: &Uplink) -> Result<(), End> {
        self.acknowledge(up).await?;
        self.acknowledge_denylist(up).await?;
        self.acknowledge_trust(up).await
    }

    /// Acknowledges our own view once live traffic obeys it and the disk has taken it, or refused: a full disk holds up
    /// nobody's change. Or that we have none, once live traffic obeys that, and the disk has forgotten the one before.
    pub(super) async fn acknowledge(&mut self, up: &Uplink) -> Result<(), End> {
        let applied = self.sync.mesh.applied.subscribe().borrow().clone();
        let Some(applied) = applied.as_deref() else { return Ok(()) };
        let disk = &self.held.disk;
        let Mark { epoch, revision } = match (&self.not_yet.ours, applied) {
            (Some(Ours::View(view, came)), Inbound::Open(applied))
                if Arc::ptr_eq(view, applied) && disk.has_answered(Kind::Node) =>
            {
                self.sync.metrics.view_applied(came.elapsed());
                Mark { epoch: view.epoch, revision: view.revision }
            }
            (Some(Ours::NodeGone(at)), applied)
                if applied.ends_outbound().is_some() && disk.has(Kind::Node) =>
            {
                *at
            }
            _ => return Ok(()),
        };
        self.not_yet.ours = None;
        up.send(Up::Acknowledge(pb::Acknowledge { epoch, revision, service: String::new() })).await
    }

    /// Acknowledges the denylist once live traffic obeys it, and the disk has it.
    pub(super) async fn acknowledge_denylist(&mut self, up: &Uplink) -> Result<(), End> {
        let applied = *self.sync.mesh.denied.applied().borrow();
        let obeyed = self.not_yet.denylist.filter(|mark| *mark <= applied);
        let Some(Mark { epoch, revision }) = obeyed.filter(|_| self.held.disk.has(Kind::Denylist)) else {
            return Ok(());
        };
        self.not_yet.denylist = None;
        up.send(Up::AcknowledgeDenylist(pb::AcknowledgeDenylist { epoch, revision })).await
    }

    /// Acknowledges what is to be trusted, the keys of tokens included, once the disk has it, every live connection has
    /// been held against it, and none rests on an authority that signs no longer, nor does what programs are given.
    pub(super) async fn acknowledge_trust(&mut self, up: &Uplink) -> Result<(), End> {
        let applied = self.sync.mesh.applied.subscribe_trust().borrow().clone();
        let followed = *self.sync.mesh.applied.subscribe_followed().borrow();
        if !self.sync.credentials.is_trust_kept() || !self.token_keys.are_kept(self.held) {
            return Ok(());
        }
        let version = match (&self.not_yet.trust, applied) {
            (Some(wanted), Some(applied))
                if wanted.bundle == *applied && followed == Some(wanted.version()) =>
            {
                wanted.version()
            }
            _ => return Ok(()),
        };
        self.not_yet.trust = None;
        // A control plane that counts no versions does not know the answer.
        if version == 0 {
            return Ok(());
        }
        up.send(Up::TrustInForce(pb::TrustInForce { version })).await
    }
}
