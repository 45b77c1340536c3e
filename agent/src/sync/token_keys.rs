//! The keys that verify tokens: in force at once, and acknowledged, with the trust that counts them, only once the disk has them.

use hauberk_proto::agent::v1 as pb;

use super::Sync;
use super::held::Held;

/// How it stands with those that were told last.
#[derive(Default)]
pub(super) struct TokenKeys {
    /// The disk has not taken them yet.
    unkept: Option<pb::JwtKeys>,
    /// They cannot be read, and the former are in force.
    are_refused: bool,
}

impl TokenKeys {
    pub(super) async fn take(&mut self, keys: pb::JwtKeys, sync: &Sync, held: &Held) {
        let taken = sync.workloads.take_jwt_keys(&keys, &sync.recipient.trust_domain);
        self.are_refused = taken.is_err();
        match taken {
            Ok(()) => {
                self.unkept = Some(keys);
                self.save(held).await;
            }
            Err(error) => tracing::error!(event = "jwt_keys_refused", %error, "the former stay in force"),
        }
    }

    /// Brings them to the disk, unless it has them.
    pub(super) async fn save(&mut self, held: &Held) {
        if let Some(keys) = self.unkept.clone()
            && held.on_disk(move |state| state.save_jwt_keys(&keys)).await
        {
            self.unkept = None;
        }
    }

    /// Whether a restart would go on with them.
    pub(super) fn are_kept(&self) -> bool {
        self.unkept.is_none() && !self.are_refused
    }
}
