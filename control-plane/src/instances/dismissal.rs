//! Instances that outlive their virtual node: they are told to deny everything, and named until they say that they do.

use hauberk_identity::UnixMillis;

use super::{Instances, Peer};

/// How far it has come with an instance whose virtual node is gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Dismissal {
    /// It has said that it denies everything.
    pub(super) is_obeyed: bool,
    is_recorded: bool,
}

impl Instances {
    /// An instance whose virtual node is gone has said that it denies everything.
    pub fn dismissed(&self, peer: &Peer, now: UnixMillis) {
        self.change(|state| {
            let instance = state.know(peer);
            instance.dismissal.is_obeyed = true;
            instance.last_seen = Some(now);
        });
    }

    /// Whether it is to be recorded that an instance was sent away because its virtual node is gone: it comes back over and
    /// over, as agents do, and the first time is worth a record.
    pub fn records_dismissal(&self, peer: &Peer) -> bool {
        let mut state = self.lock();
        !std::mem::replace(&mut state.know(peer).dismissal.is_recorded, true)
    }
}
