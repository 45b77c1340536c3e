//! The list that each authority signed last, as the registry keeps it: what is published of one that can sign none at the moment.
//!
//! A list may be larger than a value: it stands there in parts, which are written in one commit. It is believed by its signature alone, so
//! that parts of two lists would not be taken for one.

use std::collections::BTreeMap;

use bytes::Bytes;
use hauberk_identity::Serial;

use crate::authority::ListIssuer;
use crate::registry::{Commit, Store, StoreError, keys};

/// The bytes of a part: half of what a value may have.
const PART_BYTES: usize = 512 * 1024;

/// All lists that are kept, whatever they hold, by the serial numbers of their authorities.
pub(super) async fn load(store: &dyn Store) -> Result<BTreeMap<Serial, Bytes>, StoreError> {
    let mut lists: BTreeMap<Serial, Vec<u8>> = BTreeMap::new();
    for (key, stored) in store.list(keys::REVOCATION_LISTS, None, usize::MAX).await?.entries {
        let serial = key.strip_prefix(keys::REVOCATION_LISTS).and_then(|rest| rest.split_once('/'));
        if let Some(serial) = serial.and_then(|(serial, _)| serial.parse().ok()) {
            lists.entry(serial).or_default().extend_from_slice(&stored.value);
        }
    }
    Ok(lists.into_iter().map(|(serial, list)| (serial, list.into())).collect())
}

/// Keeps a list in place of the former one of its authority, as long as there is that authority.
pub(super) async fn keep(store: &dyn Store, issuer: &ListIssuer, list: &[u8]) -> Result<(), StoreError> {
    let prefix = prefix(issuer.serial);
    let mut commit = without(Commit::new().present(issuer.record()), store, &prefix).await?;
    for (number, part) in list.chunks(PART_BYTES).enumerate() {
        // Parts are read in the order of their keys.
        commit = commit.put(format!("{prefix}{number:04}"), part.to_vec());
    }
    store.commit(commit).await.map(drop)
}

/// Forgets the lists of authorities that are believed no longer.
pub(super) async fn forget(
    store: &dyn Store,
    serials: impl IntoIterator<Item = Serial>,
) -> Result<(), StoreError> {
    let mut commit = Commit::new().using_reserve();
    for serial in serials {
        commit = without(commit, store, &prefix(serial)).await?;
    }
    if commit.is_empty() {
        return Ok(());
    }
    store.commit(commit).await.map(drop)
}

async fn without(commit: Commit, store: &dyn Store, prefix: &str) -> Result<Commit, StoreError> {
    let former = store.list(prefix, None, usize::MAX).await?.entries;
    Ok(former.into_iter().fold(commit, |commit, (key, _)| commit.delete(key)))
}

fn prefix(issuer: Serial) -> String {
    format!("{}{issuer}/", keys::REVOCATION_LISTS)
}
