//! Which virtual node tokens and instances belong to: one that is made anew under a former name is another.

use hauberk_proto::mesh::v1::Resource;
use prost::Message;

use crate::registry::{Store, StoreError, keys};

/// The id that a virtual node got when it was made; `None` where there is no such node.
///
/// # Errors
/// When the store cannot be read.
pub(super) async fn uid_of(store: &dyn Store, mesh: &str, node: &str) -> Result<Option<String>, StoreError> {
    let key = keys::resource("VirtualNode", mesh, node);
    let Some(stored) = store.get(&key).await? else { return Ok(None) };
    match Resource::decode(stored.value) {
        Ok(resource) => Ok(Some(resource.metadata.map(|metadata| metadata.uid).unwrap_or_default())),
        Err(_) => Err(StoreError::Damaged { key, what: "it is no resource" }),
    }
}
