//! What agents that serve a Workload API are told besides: the keys that verify JWT-SVIDs, and the revocation lists.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use hauberk_proto::agent::v1::{self as agent, to_agent::Message};
use hauberk_tls::jwt::KeyUse;
use tokio::sync::watch;

use super::Push;
use super::close::Close;
use crate::jwt_svid::KeySet;
use crate::revocation::crl::RevocationLists;

/// What one agent is still to be told of that. `None`: it serves no Workload API.
pub(super) struct ForWorkloadApi(Option<Changes>);

struct Changes {
    keys: watch::Receiver<Arc<KeySet>>,
    lists: watch::Receiver<Arc<RevocationLists>>,
}

impl ForWorkloadApi {
    /// Puts what there is now among the messages of the beginning: before workloads, so that a program's first answer holds
    /// all of it, and the keys before the trust that counts their change.
    pub(super) fn begin(push: &Push, serves: bool, messages: &mut VecDeque<Message>) -> Self {
        if !serves {
            return Self(None);
        }
        let mut changes = Changes { keys: push.signing_keys.clone(), lists: push.revocation_lists.clone() };
        messages.push_front(keys(&changes.keys.borrow_and_update()));
        messages.extend(lists(&changes.lists.borrow_and_update()));
        Self(Some(changes))
    }

    /// Puts the keys before everything else, unless the agent has been told them as they are: who acknowledges a version of trust
    /// has these in force too. They are published before it.
    pub(super) fn keys_first(&mut self, waiting: &mut VecDeque<Message>) {
        let Some(changes) = &mut self.0 else { return };
        let before = waiting.len();
        waiting.retain(|message| !matches!(message, Message::JwtKeys(_)));
        if waiting.len() < before || changes.keys.has_changed().unwrap_or(false) {
            waiting.push_front(keys(&changes.keys.borrow_and_update()));
        }
    }

    /// What changes next.
    pub(super) async fn next(&mut self) -> Result<Message, Close> {
        let Some(changes) = &mut self.0 else { return std::future::pending().await };
        loop {
            tokio::select! {
                changed = changes.keys.changed() => {
                    changed.map_err(|_| Close::Stopping)?;
                    return Ok(keys(&changes.keys.borrow_and_update()));
                }
                changed = changes.lists.changed() => {
                    changed.map_err(|_| Close::Stopping)?;
                    if let Some(message) = lists(&changes.lists.borrow_and_update()) {
                        return Ok(message);
                    }
                }
            }
        }
    }
}

/// Puts a message among those that wait, in place of what it follows.
pub(super) fn queue(message: Message, waiting: &mut VecDeque<Message>) {
    waiting.retain(|other| mem::discriminant(other) != mem::discriminant(&message));
    waiting.push_back(message);
}

fn keys(keys: &KeySet) -> Message {
    let tainted_key_ids = keys.tainted().map(str::to_owned).collect();
    Message::JwtKeys(agent::JwtKeys { jwks: keys.bundle().to_jwks(KeyUse::Unsaid), tainted_key_ids })
}

/// There are none before the first have been signed.
fn lists(lists: &RevocationLists) -> Option<Message> {
    let (first, others) = lists.ders.split_first()?;
    let RevocationLists { is_complete, covers_leaves, .. } = *lists;
    let (der, others) = (first.clone(), others.to_vec());
    Some(Message::RevocationList(agent::RevocationList { der, others, is_complete, covers_leaves }))
}
