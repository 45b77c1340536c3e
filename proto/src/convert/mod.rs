//! Views between the wire and the domain: what a message must hold to mean anything, checked once, with the field
//! named where it does not.
//!
//! Every message is taken apart completely, so that a field added to the `.proto` files does not compile until somebody
//! has decided what becomes of it here. The control plane encodes; the same code decodes what it is about to push, and
//! again in every agent.

mod decode;
mod encode;
mod explanation;
pub mod features;
mod flow;
mod labels;
mod named_ports;
mod question;
mod view;
mod written_node;

#[cfg(test)]
mod tests;

use std::fmt;

use hauberk_identity::UnixMillis;
use prost_types::Timestamp;

pub use decode::{decode_view, listener_port};
pub use encode::{encode_node_view, encode_service_view};
pub use explanation::{asks_policies, encode_explanation, encode_policy_note, explains};
pub use flow::decode_flow;
pub use question::{Circumstances, decode_circumstances, encode_header_lines, encode_on_behalf_of};
pub use view::{
    Body, Discovery, Dns, Egress, External, ExternalPort, ExternalProtocol, FederatedBundle, IpPreference,
    JwtIssuer, NodeView, ServicePort, ServiceView, Target, View,
};
pub use written_node::WrittenNode;

/// An instant as a message.
pub fn timestamp(at: UnixMillis) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(at.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(at.0 % 1_000).unwrap_or_default() * 1_000_000,
    }
}

/// A message that means nothing. The fault is whoever made it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ConvertError {
    /// The path of the field, such as `node.ports[0].number`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl ConvertError {
    fn new(field: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self { field: field.into(), problem: problem.to_string() }
    }
}
