//! Which revision the content of each view got: kept in the registry, so that a restart, or another replica, gives the
//! same content the same number.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use hauberk_identity::{Name, NodeName};
use serde::{Deserialize, Serialize};

use crate::registry::{Commit, Committed, Revision, Store, StoreError, Stored, document, keys};
use crate::resources::Kind;

/// How often numbers are given anew because another replica was faster.
const ATTEMPTS: usize = 8;

/// Which view.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ViewKey {
    pub(super) mesh: Name,
    pub(super) kind: Kind,
    pub(super) name: Name,
}

impl ViewKey {
    pub(super) fn node(mesh: Name, node: &NodeName) -> Self {
        Self { mesh, kind: Kind::of_node(node), name: node.name().clone() }
    }

    pub(super) fn service(mesh: Name, name: Name) -> Self {
        Self { mesh, kind: Kind::VirtualService, name }
    }

    fn store_key(&self) -> String {
        keys::view(self.kind.as_str(), self.mesh.as_str(), self.name.as_str())
    }
}

impl fmt::Display for ViewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.noun(), self.mesh, self.name)
    }
}

/// The number of each view's content.
pub(super) type Numbers = HashMap<ViewKey, Revision>;

/// One content and its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ViewRecord {
    /// SHA-256 of the content without its number.
    #[serde(with = "document::base64_bytes")]
    digest: Vec<u8>,
    revision: u64,
}

/// All numbers that were given.
pub(super) struct ViewRecords {
    store: Arc<dyn Store>,
    stored: BTreeMap<String, Stored>,
}

impl ViewRecords {
    /// Reads them.
    pub(super) async fn load(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let stored = read(&*store).await?;
        Ok(Self { store, stored })
    }

    /// Numbers the contents of views: as they were numbered before, else by `revision`. Forgets the views that are
    /// removed.
    ///
    /// A registry that does not take the numbers is no reason to hold back views: a restart may then number the same
    /// content anew, which costs a push and nothing else.
    pub(super) async fn number(
        &mut self,
        contents: Vec<(ViewKey, [u8; 32])>,
        removed: &[ViewKey],
        revision: Revision,
    ) -> Numbers {
        for _ in 0..ATTEMPTS {
            let (numbers, writes) = self.decide(&contents, removed, revision);
            if writes.is_empty() {
                return numbers;
            }
            let mut commit = Commit::new();
            for (key, value) in &writes {
                commit = commit.unchanged(key, self.stored.get(key));
                commit = match value {
                    Some(value) => commit.put(key, value.clone()),
                    None => commit.delete(key),
                };
            }
            match self.store.commit(commit).await {
                Ok(Committed { version, .. }) => {
                    for (key, value) in writes {
                        match value {
                            Some(value) => self.stored.insert(key, Stored { version, value }),
                            None => self.stored.remove(&key),
                        };
                    }
                    return numbers;
                }
                Err(StoreError::Conflict { .. }) => match read(&*self.store).await {
                    Ok(stored) => self.stored = stored,
                    Err(error) => return not_kept(&error, numbers),
                },
                Err(error) => return not_kept(&error, numbers),
            }
        }
        self.decide(&contents, removed, revision).0
    }

    /// The number of each content, and what has to be written for it.
    fn decide(
        &self,
        contents: &[(ViewKey, [u8; 32])],
        removed: &[ViewKey],
        revision: Revision,
    ) -> (Numbers, BTreeMap<String, Option<Bytes>>) {
        let mut numbers = HashMap::new();
        let mut writes = BTreeMap::new();
        for (key, digest) in contents {
            let store_key = key.store_key();
            let former = self.stored.get(&store_key).and_then(|stored| parse(&store_key, stored));
            let number = match former.filter(|former| former.digest == digest) {
                Some(former) => Revision(former.revision),
                None => {
                    let record = ViewRecord { digest: digest.to_vec(), revision: revision.0 };
                    // Records of bytes and numbers always have a JSON.
                    writes.extend(
                        document::to_bytes(&store_key, &record).ok().map(|bytes| (store_key, Some(bytes))),
                    );
                    revision
                }
            };
            numbers.insert(key.clone(), number);
        }
        let removed = removed.iter().map(ViewKey::store_key).filter(|key| self.stored.contains_key(key));
        writes.extend(removed.map(|key| (key, None)));
        (numbers, writes)
    }
}

fn not_kept(error: &StoreError, numbers: Numbers) -> Numbers {
    tracing::warn!(event = "view_numbers_not_kept", %error, "a restart may push views again");
    numbers
}

async fn read(store: &dyn Store) -> Result<BTreeMap<String, Stored>, StoreError> {
    Ok(store.list(keys::VIEWS, None, usize::MAX).await?.entries.into_iter().collect())
}

/// A record that cannot be read counts as none: its view is numbered anew.
fn parse(key: &str, stored: &Stored) -> Option<ViewRecord> {
    document::from_stored(key, stored).ok()
}
