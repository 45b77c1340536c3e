//! Where an agent accepts a denylist: it must be the control plane's, and not older than the one that is held.

use std::collections::HashSet;

use hauberk_identity::{InstanceId, Serial, SpiffeId};
use hauberk_proto::agent::v1 as pb;
use hauberk_tls::signing::{Purpose, SignatureError, ViewVerifier};
use prost::Message;
use thiserror::Error;

use super::apply::Recipient;
use super::disk::Write;
use super::held::Held;
use crate::mesh::Denylist;
use crate::state::{Mark, State};

/// Why a denylist is not accepted; the former stays in force. The fault is whoever sent it, or the disk's.
#[derive(Debug, Error)]
pub enum BadDenylist {
    /// It is not signed by a key that we trust.
    #[error("the denylist is not the control plane's: {0}")]
    BadSignature(#[from] SignatureError),
    /// It is older than what was accepted before.
    #[error("the denylist ({offered:?}) is older than the one that was accepted before ({held:?})")]
    Older {
        /// Its number.
        offered: Mark,
        /// The number of ours.
        held: Mark,
    },
    /// It is another trust domain's.
    #[error("the denylist is that of {0}")]
    OtherTrustDomain(String),
    /// It is no denylist.
    #[error("the denylist cannot be read: {0}")]
    Undecodable(#[from] prost::DecodeError),
    /// It names what cannot be.
    #[error("the denylist names {0}, which cannot be")]
    Impossible(String),
}

impl Held {
    /// Puts a denylist in force for whatever begins from now on, and has it written: without that, a restart would let
    /// in whoever was refused since. Live traffic follows.
    pub(super) fn take_denylist(
        &mut self,
        signed: pb::SignedDenylist,
        keys: &ViewVerifier,
    ) -> Result<Mark, BadDenylist> {
        let denylist = accept(&signed, keys, &self.recipient, self.mesh.denied.mark())?;
        let mark = denylist.mark;
        tracing::info!(
            event = "denylist_accepted",
            epoch = mark.epoch,
            revision = mark.revision,
            certificates = denylist.serials.len(),
            instances = denylist.instances.len(),
            identities = denylist.identities.len()
        );
        self.mesh.denied.replace(denylist);
        self.mesh.gate.set_denylist_known(true);
        self.disk.keep(Write::Denylist(signed, mark));
        Ok(mark)
    }

    /// Where what is kept cannot be read, nobody is let in or called until the control plane has said who is to be
    /// refused.
    pub(super) fn reload_denylist(&mut self, keys: &ViewVerifier) {
        match kept(self.disk.state(), keys, &self.recipient) {
            Ok(None) => {}
            Ok(Some((denylist, key))) => {
                self.disk.has_denylist(denylist.mark, key);
                self.mesh.denied.replace(denylist);
            }
            Err(error) => {
                tracing::error!(
                    event = "stored_denylist_discarded",
                    error,
                    "nobody is let in or called until the control plane has said who is revoked"
                );
                self.mesh.gate.set_denylist_known(false);
                self.mesh.denied.lose();
            }
        }
    }
}

/// The denylist that is on disk, and the key that signed it.
///
/// # Errors
/// It cannot be read, or is not good.
fn kept(
    state: &State,
    keys: &ViewVerifier,
    recipient: &Recipient,
) -> Result<Option<(Denylist, String)>, String> {
    let Some(signed) = state.denylist().map_err(|error| error.to_string())? else { return Ok(None) };
    let denylist = accept(&signed, keys, recipient, Mark::default()).map_err(|error| error.to_string())?;
    Ok(Some((denylist, signed.key_id)))
}

/// Reads a denylist.
///
/// # Errors
/// It is not the control plane's, not ours, older than `held`, or names somebody who cannot be: none is taken in part.
fn accept(
    signed: &pb::SignedDenylist,
    keys: &ViewVerifier,
    recipient: &Recipient,
    held: Mark,
) -> Result<Denylist, BadDenylist> {
    let pb::SignedDenylist { denylist: encoded, signature, key_id } = signed;
    keys.verify(Purpose::Denylist, key_id, encoded, signature)?;
    let pb::Denylist {
        epoch,
        revision,
        trust_domain,
        certificates,
        spiffe_ids,
        instance_ids,
        held_instance_ids,
    } = pb::Denylist::decode(&**encoded)?;
    if trust_domain != recipient.trust_domain.as_str() {
        return Err(BadDenylist::OtherTrustDomain(trust_domain));
    }
    let mark = Mark { epoch, revision };
    if mark < held {
        return Err(BadDenylist::Older { offered: mark, held });
    }
    let serial = |certificate: &pb::RevokedCertificate| {
        Serial::from_be_bytes(&certificate.serial)
            .map_err(|error| BadDenylist::Impossible(format!("a serial number: {error}")))
    };
    let identity = |id: &String| {
        SpiffeId::parse(id).map_err(|error| BadDenylist::Impossible(format!("{id:?}: {error}")))
    };
    let instances = |ids: &[String]| {
        let parsed = ids.iter().map(|id| {
            InstanceId::parse(id).map_err(|error| BadDenylist::Impossible(format!("{id:?}: {error}")))
        });
        parsed.collect::<Result<HashSet<_>, _>>()
    };
    let (on_hold, revoked): (Vec<_>, Vec<_>) =
        certificates.into_iter().partition(|certificate| certificate.on_hold);
    Ok(Denylist {
        mark,
        serials: revoked.iter().map(serial).collect::<Result<HashSet<_>, _>>()?,
        on_hold: on_hold.iter().map(serial).collect::<Result<HashSet<_>, _>>()?,
        instances: instances(&instance_ids)?,
        held_instances: instances(&held_instance_ids)?,
        identities: spiffe_ids.iter().map(identity).collect::<Result<HashSet<_>, _>>()?,
    })
}
