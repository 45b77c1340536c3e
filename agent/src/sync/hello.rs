//! What an agent says first: who speaks, what it holds, and whom it believes.

use std::collections::BTreeMap;

use hauberk_identity::{Name, UnixMillis};
use hauberk_proto::agent::v1 as pb;
use hauberk_tls::signing::ViewVerifier;

use super::disk::Kind;
use super::held::Held;
use crate::state::Mark;

impl Held {
    /// The first message of a session.
    pub(super) fn hello(&self, now: UnixMillis, serves_workload_api: bool, keys: &ViewVerifier) -> pb::Hello {
        // What would be in force after a restart too: whoever says that it holds something is taken at its word. A view
        // counts as when it is acknowledged.
        let applied = self.mesh.applied.view().filter(|_| self.disk.has_answered(Kind::Node));
        let (denied, denylist_key) = self.disk.denylist();
        let wanted = self.mesh.services.begin_session();
        let mut services: BTreeMap<Name, Option<pb::Held>> =
            wanted.into_iter().map(|name| (name, None)).collect();
        for (name, held) in &self.services {
            services.insert(name.clone(), Some(to_proto(held.mark, held.digest, &held.signed.key_id)));
        }
        let services =
            services.into_iter().map(|(name, held)| pb::HeldService { name: name.to_string(), held });
        pb::Hello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            hostname: crate::enroll::hostname(),
            features: hauberk_proto::convert::features::ALL.map(str::to_owned).to_vec(),
            held: applied.map(|view| {
                to_proto(Mark { epoch: view.epoch, revision: view.revision }, view.digest, &self.node_key)
            }),
            services: services.collect(),
            now_unix_ms: now.0,
            highest_epoch: self.mark.epoch,
            highest_revision: self.mark.revision,
            denylist: Some(pb::HeldDenylist {
                epoch: denied.epoch,
                revision: denied.revision,
                key_id: denylist_key,
            }),
            view_key_ids: keys.key_ids().map(str::to_owned).collect(),
            serves_workload_api,
            reports_flows: true,
        }
    }
}

fn to_proto(mark: Mark, digest: [u8; 32], key_id: &str) -> pb::Held {
    let Mark { epoch, revision } = mark;
    pb::Held { epoch, revision, digest: digest.to_vec(), key_id: key_id.to_owned() }
}
