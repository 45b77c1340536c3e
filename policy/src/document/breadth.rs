//! How many nodes a document concerns.

use cedar_policy::ResourceConstraint;

use super::{PolicyDocument, Statement};
use crate::vocabulary::Kind;

impl PolicyDocument {
    /// How many of its statements say nothing in their scopes of which resources they are, so that every node needs
    /// them.
    pub fn of_every_node(&self) -> usize {
        self.statements.iter().filter(|statement| statement.is_of_every_node()).count()
    }
}

impl Statement {
    /// Whether its scope leaves open of which node its resource is.
    pub(crate) fn is_of_every_node(&self) -> bool {
        match self.policy.resource_constraint() {
            ResourceConstraint::Any | ResourceConstraint::Is(_) => true,
            ResourceConstraint::Eq(uid) | ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid) => {
                matches!(Kind::of(&uid), Some(Kind::Mesh | Kind::TrustDomain))
            }
        }
    }
}
