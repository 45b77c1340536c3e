//! The revocation list for programs outside the mesh: signed anew at each change, and before it becomes old.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hauberk_tls::{CrlEntry, CrlError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Revocations;
use super::revocations::MOST_CERTIFICATES;
use crate::authority::{BACKDATED, TokenError};
use crate::registry::StoreError;

/// How long a list is good; whoever cannot fetch another then knows nothing.
const GOOD_FOR: Duration = Duration::from_secs(86_400);

/// How old a list becomes.
const MADE_ANEW_AFTER: Duration = Duration::from_secs(3_600);

/// After a failure.
const TRIED_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The list as it stands, in DER; empty before the first.
#[derive(Debug, Clone)]
pub struct Crl(watch::Receiver<Bytes>);

impl Crl {
    /// The list, and where it is put.
    pub fn new() -> (watch::Sender<Bytes>, Self) {
        let (sender, receiver) = watch::channel(Bytes::new());
        (sender, Self(receiver))
    }

    /// The list, once there is one.
    pub fn der(&self) -> Option<Bytes> {
        Some(self.0.borrow().clone()).filter(|der| !der.is_empty())
    }
}

/// Why there is no newer list.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoCrl {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Sign(#[from] CrlError),
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// Keeps the list up until `stop`.
pub async fn publish(revocations: Arc<Revocations>, list: watch::Sender<Bytes>, stop: CancellationToken) {
    let mut changes = revocations.subscribe();
    // Another authority may sign.
    let mut authorities = revocations.authority.trust();
    loop {
        changes.mark_unchanged();
        authorities.mark_unchanged();
        let again_in = match sign(&revocations).await {
            Ok(der) => {
                list.send_replace(der);
                MADE_ANEW_AFTER
            }
            Err(error) => {
                tracing::error!(event = "crl_not_made", %error, "the former revocation list stays");
                TRIED_AGAIN_AFTER
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
            changed = authorities.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(again_in) => {}
        }
    }
}

pub(super) async fn sign(revocations: &Revocations) -> Result<Bytes, NoCrl> {
    let now = revocations.clock.now();
    let list = revocations.denylist();
    let mut entries: Vec<_> = list
        .serials()
        .map(|(serial, revoked)| CrlEntry { serial, revoked_at: revoked.at, is_on_hold: false })
        .collect();
    entries.extend(list.on_hold().map(|(serial, held)| CrlEntry {
        serial,
        revoked_at: held.at,
        is_on_hold: true,
    }));
    if list.has_quarantines() {
        let on_record = revocations.ledger.instances().await?.into_iter();
        let in_quarantine = on_record.filter(|(_, it)| list.quarantine(&it.spiffe_id).is_some());
        let on_hold = revocations.ledger.unexpired_of(in_quarantine.map(|(id, _)| id), now);
        for (serial, record) in on_hold.await? {
            if let Some(revoked_at) = list.quarantine(&record.spiffe_id)
                && !list.is_listed(serial)
                && entries.len() < MOST_CERTIFICATES
            {
                entries.push(CrlEntry { serial, revoked_at, is_on_hold: true });
            }
        }
    }
    entries.sort_by_key(|entry| entry.serial);
    let issuing = revocations.authority.issuing();
    let turn = revocations.authority.turn(&issuing).await?;
    // Backdated as certificates are: a program whose clock is behind would refuse a list from the future.
    let (since, until) = (now.minus(BACKDATED), now.plus(GOOD_FOR));
    Ok(turn.sign(move || issuing.sign_crl(&entries, since, until)).await??.into())
}
