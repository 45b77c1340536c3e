//! A virtual node or gateway as enrollments write it, each under a key of its own.

use hauberk_identity::{Name, NameError, NodeName};

use crate::mesh::v1::{AttestRule, EnrollmentParent, attest_rule, enrollment_parent};

/// One of the two, by a name that nobody has looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrittenNode<'a> {
    /// Under `virtualNode`.
    Node(&'a str),
    /// Under `virtualGateway`.
    Gateway(&'a str),
}

impl<'a> WrittenNode<'a> {
    /// What agents become by a rule; `None` where it says neither.
    pub fn of_rule(rule: &'a AttestRule) -> Option<Self> {
        Some(match rule.node.as_ref()? {
            attest_rule::Node::VirtualNode(name) => Self::Node(name),
            attest_rule::Node::VirtualGateway(name) => Self::Gateway(name),
        })
    }

    /// Whose agents vouch; `None` where it says neither.
    pub fn of_parent(parent: &'a EnrollmentParent) -> Option<Self> {
        Some(match parent.node.as_ref()? {
            enrollment_parent::Node::VirtualNode(name) => Self::Node(name),
            enrollment_parent::Node::VirtualGateway(name) => Self::Gateway(name),
        })
    }

    /// The key that it stands under.
    pub fn key(self) -> &'static str {
        match self {
            Self::Node(_) => "virtualNode",
            Self::Gateway(_) => "virtualGateway",
        }
    }

    /// Which one it is.
    ///
    /// # Errors
    /// What is written is no name.
    pub fn named(self) -> Result<NodeName, NameError> {
        match self {
            Self::Node(name) => Name::parse(name).map(NodeName::Node),
            Self::Gateway(name) => Name::parse(name).map(NodeName::Gateway),
        }
    }
}
