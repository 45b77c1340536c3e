//! Which virtual node or gateway tokens and instances belong to: one that is made anew under a former name is another.

use hauberk_identity::{Name, NodeName};
use hauberk_proto::mesh::v1::Resource;
use prost::Message;

use crate::registry::{Commit, Store, StoreError, Version};
use crate::resources::ResourceKey;

/// A virtual node or gateway as it was read.
#[derive(Debug)]
pub(super) struct StoredNode {
    /// The id that it got when it was made.
    pub(super) uid: String,
    /// Where it stands in the registry.
    pub(super) key: String,
    version: Version,
}

impl StoredNode {
    /// Reads a node or gateway; `None` where there is none of that name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) async fn read(
        store: &dyn Store,
        mesh: &Name,
        node: &NodeName,
    ) -> Result<Option<Self>, StoreError> {
        let key = ResourceKey::node(mesh, node).store_key();
        let Some(stored) = store.get(&key).await? else { return Ok(None) };
        let version = stored.version;
        match Resource::decode(stored.value) {
            Ok(resource) => {
                let uid = resource.metadata.map(|metadata| metadata.uid).unwrap_or_default();
                Ok(Some(Self { uid, key, version }))
            }
            Err(_) => Err(StoreError::Damaged { key, what: "it is no resource" }),
        }
    }

    /// Lets a commit happen only while the node is the very one that was read. One that was merely changed makes it fail
    /// too: the caller reads again.
    pub(super) fn guard(&self, commit: Commit) -> Commit {
        commit.at(self.key.clone(), self.version)
    }
}
