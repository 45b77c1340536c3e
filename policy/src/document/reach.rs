//! Whom a statement may reach.

use std::collections::BTreeSet;

use cedar_policy::{Policy, PrincipalConstraint, ResourceConstraint};

use super::{Mode, PolicyDocument, Reader};
use crate::compiled::permits;
use crate::statements::Extent;
use crate::vocabulary::Kind;

impl PolicyDocument {
    /// Its permits that are of calls of external services alone, and read for which users these are made: the statements' names.
    pub fn permits_outside_by_user(&self) -> BTreeSet<&str> {
        let is_outside = |policy: &Policy| match policy.resource_constraint() {
            ResourceConstraint::Eq(uid) | ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid) => {
                Kind::of(&uid) == Some(Kind::External)
            }
            ResourceConstraint::Any | ResourceConstraint::Is(_) => false,
        };
        let dead = self.statements.iter().filter(|statement| {
            statement.reads.are_of_users() && permits(&statement.policy) && is_outside(&statement.policy)
        });
        dead.map(|statement| statement.name.as_str()).collect()
    }
}

impl Reader<'_> {
    /// Refuses a permit that workloads or anonymous callers would benefit from unnoticed, and any in a boundary.
    pub(super) fn check_reach(&mut self, policy: &Policy, mode: Mode, extent: Extent) {
        if mode == Mode::Boundary && permits(policy) {
            let help = "write what is permitted into a Policy; a boundary says what no policy permits";
            return self.report_at(extent, "a boundary only forbids", Some(help.to_owned()));
        }
        let reaches = match policy.principal_constraint() {
            PrincipalConstraint::Any => "anonymous callers and workloads",
            PrincipalConstraint::In(uid) if Kind::of(&uid) == Some(Kind::TrustDomain) => "workloads",
            _ => return,
        };
        if permits(policy) {
            let place = self.place_of(extent, "principal");
            let message = format!("this permit also reaches {reaches} without naming them");
            let help = "write `principal is Node` for all nodes and gateways, or `principal == Node::\"web\"`, or \
                        `principal is Workload` or `principal is Anonymous` in a permit of their own";
            self.report(place.0, place.1, message, Some(help.to_owned()));
        }
    }
}
