//! The descriptors of the API's messages.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

/// Made by the same build as the messages themselves; the tests of this folder prove that it decodes. Were it empty,
/// every look-up below would say that the message is missing.
static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(hauberk_proto::FILE_DESCRIPTOR_SET).unwrap_or_default());

/// The descriptor of `hauberk.mesh.v1.Resource` and the like.
pub(crate) fn message(full_name: &str) -> Option<MessageDescriptor> {
    POOL.get_message_by_name(full_name)
}

/// A generated message seen through its descriptor.
pub(crate) fn reflect(full_name: &str, message: &impl prost::Message) -> Option<DynamicMessage> {
    let mut dynamic = DynamicMessage::new(self::message(full_name)?);
    dynamic.transcode_from(message).ok()?;
    Some(dynamic)
}
