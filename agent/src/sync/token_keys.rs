//! The keys that verify tokens: in force at once, and acknowledged, with the trust that counts them, only once the disk
//! has them.

use hauberk_proto::agent::v1 as pb;

use super::Sync;
use super::disk::{Kind, Write};
use super::held::Held;

/// How it stands with those that were told last.
#[derive(Default)]
pub(super) struct TokenKeys {
    /// They cannot be read, and the former are in force.
    are_refused: bool,
}

impl TokenKeys {
    pub(super) fn take(&mut self, keys: pb::JwtKeys, sync: &Sync, held: &Held) {
        let taken = sync.workloads.take_jwt_keys(&keys, &sync.recipient.trust_domain);
        self.are_refused = taken.is_err();
        match taken {
            Ok(()) => held.disk.keep(Write::TokenKeys(keys)),
            Err(error) => tracing::error!(event = "jwt_keys_refused", %error, "the former stay in force"),
        }
    }

    /// Whether a restart would go on with them.
    pub(super) fn are_kept(&self, held: &Held) -> bool {
        held.disk.has(Kind::TokenKeys) && !self.are_refused
    }
}
