//! Everybody who is refused, at one moment.

use std::collections::{HashMap, HashSet};
use std::fmt;

use bytes::Bytes;
use hauberk_identity::{InstanceId, Serial, SpiffeId, TrustDomain, UnixMillis};
use hauberk_proto::agent::v1 as agent;
use hauberk_tls::signing::{Purpose, SigningError, ViewSigner};
use prost::Message;

/// The number of a denylist. Greater is newer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// Unix ms at `init` or at the last restore.
    pub epoch: u64,
    /// The revision at which the list last changed; 0: nobody has ever been on it.
    pub revision: u64,
}

/// Why somebody with a good certificate is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// The certificate was revoked.
    Revoked,
    /// The node is in quarantine.
    Quarantined,
}

impl Denial {
    /// The stable name of the refusal, for callers and metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Revoked => "REVOKED",
            Self::Quarantined => "QUARANTINED",
        }
    }

    /// A stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Quarantined => "quarantined",
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Revoked => "this certificate was revoked: join anew with a new token, if an admin makes you one",
            Self::Quarantined => {
                "this node or gateway is in quarantine: it is let in again once an admin runs `hauberk quarantine node NAME --undo`, or \
                 `hauberk quarantine gateway NAME --undo`"
            }
        })
    }
}

/// Everybody who is refused.
#[derive(Debug, Clone, Default)]
pub struct Denylist {
    /// Its number.
    pub mark: Mark,
    /// The same for agents.
    pub signed: agent::SignedDenylist,
    listed: Listed,
}

/// Whom it names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listed {
    /// Revoked certificates.
    pub(crate) serials: HashMap<Serial, Certificate>,
    /// Certificates of workloads whose nodes are in quarantine, as many as there is room for.
    pub(crate) on_hold: HashMap<Serial, Certificate>,
    /// The instances that vouched for such certificates.
    pub(crate) held_instances: HashSet<InstanceId>,
    /// Nodes in quarantine, with the instant at which they were put there.
    pub(crate) nodes: HashMap<SpiffeId, UnixMillis>,
    /// Revoked instances. Their certificates say whose they are, but for those of earlier releases.
    pub(crate) instances: HashSet<InstanceId>,
    /// The end of the last certificate that is refused by its instance alone.
    pub(crate) unlisted_until: UnixMillis,
}

/// A certificate that is refused.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Certificate {
    pub(crate) not_after: UnixMillis,
    /// Since when it is.
    pub(crate) at: UnixMillis,
    /// The serial number of the authority that signed it, where that is known.
    pub(crate) issuer: Option<Serial>,
}

impl Denylist {
    /// Puts a list together and signs it.
    ///
    /// # Errors
    /// When the system's random source fails.
    pub(crate) fn new(
        mark: Mark,
        trust_domain: &TrustDomain,
        mut listed: Listed,
        signer: &ViewSigner,
    ) -> Result<Self, SigningError> {
        let Listed { serials, on_hold, held_instances, nodes, instances, unlisted_until: _ } = &mut listed;
        on_hold.retain(|serial, _| !serials.contains_key(serial));
        let certificate = |(serial, refused): (&Serial, &Certificate), on_hold| agent::RevokedCertificate {
            serial: serial.as_bytes().to_vec(),
            not_after_unix_ms: refused.not_after.0,
            on_hold,
        };
        let revoked = serials.iter().map(|entry| certificate(entry, false));
        let mut certificates: Vec<_> =
            revoked.chain(on_hold.iter().map(|entry| certificate(entry, true))).collect();
        certificates.sort_by(|a, b| a.serial.cmp(&b.serial));
        let mut spiffe_ids: Vec<_> = nodes.keys().map(ToString::to_string).collect();
        spiffe_ids.sort();
        let Mark { epoch, revision } = mark;
        let list = agent::Denylist {
            epoch,
            revision,
            trust_domain: trust_domain.to_string(),
            certificates,
            spiffe_ids,
            instance_ids: sorted(instances),
            held_instance_ids: sorted(held_instances),
        };
        let denylist = Bytes::from(list.encode_to_vec());
        let signature = Bytes::from(signer.sign(Purpose::Denylist, &denylist)?);
        let key_id = signer.key_id().to_owned();
        let signed = agent::SignedDenylist { denylist, signature, key_id };
        Ok(Self { mark, signed, listed })
    }

    /// Why whoever proves this is refused, if so.
    pub fn denial(&self, id: &SpiffeId, serial: Serial) -> Option<Denial> {
        if self.is_revoked(serial) {
            return Some(Denial::Revoked);
        }
        let Listed { nodes, on_hold, held_instances, .. } = &self.listed;
        let is_of_held = || serial.instance().is_some_and(|instance| held_instances.contains(&instance));
        let is_held = nodes.contains_key(id) || on_hold.contains_key(&serial) || is_of_held();
        is_held.then_some(Denial::Quarantined)
    }

    /// Whether this instance was revoked, perhaps with certificates of an earlier release for which the list had no room.
    pub fn is_instance_revoked(&self, instance: InstanceId) -> bool {
        self.listed.instances.contains(&instance)
    }

    /// Whether this certificate was revoked, by itself or with its instance.
    pub(super) fn is_revoked(&self, serial: Serial) -> bool {
        self.is_listed(serial) || serial.instance().is_some_and(|instance| self.is_instance_revoked(instance))
    }

    /// Whether it stands on the list by itself.
    pub(super) fn is_listed(&self, serial: Serial) -> bool {
        self.listed.serials.contains_key(&serial)
    }

    /// Whether any node or gateway is in quarantine.
    pub fn has_quarantines(&self) -> bool {
        !self.listed.nodes.is_empty()
    }

    /// Whether a node or gateway is in quarantine.
    pub fn is_in_quarantine(&self, id: &SpiffeId) -> bool {
        self.listed.nodes.contains_key(id)
    }

    /// A list that nobody signed.
    #[cfg(test)]
    pub(crate) fn of(listed: Listed) -> Self {
        Self { listed, ..Self::default() }
    }

    /// Since when a node is in quarantine, if it is.
    pub(super) fn quarantine(&self, id: &str) -> Option<UnixMillis> {
        self.listed.nodes.get(&SpiffeId::parse(id).ok()?).copied()
    }

    /// The revoked certificates.
    pub(super) fn serials(&self) -> impl Iterator<Item = (Serial, Certificate)> {
        self.listed.serials.iter().map(|(serial, revoked)| (*serial, *revoked))
    }

    /// The certificates of workloads whose nodes are in quarantine, but for those that are revoked.
    pub(super) fn on_hold(&self) -> impl Iterator<Item = (Serial, Certificate)> {
        self.listed.on_hold.iter().map(|(serial, held)| (*serial, *held))
    }

    /// Until when there may be certificates that only those refuse who know revoked instances; `None` where there are none.
    pub fn rests_on_instances(&self, now: UnixMillis) -> Option<UnixMillis> {
        Some(self.listed.unlisted_until).filter(|until| now <= *until)
    }

    /// How many revoked certificates are on it.
    pub fn certificates(&self) -> usize {
        self.listed.serials.len()
    }
}

fn sorted(instances: &HashSet<InstanceId>) -> Vec<String> {
    let mut ids: Vec<_> = instances.iter().map(ToString::to_string).collect();
    ids.sort();
    ids
}
