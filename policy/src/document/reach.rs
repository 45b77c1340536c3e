//! Whom a statement may reach.

use cedar_policy::{Policy, PrincipalConstraint};

use super::{Mode, Reader};
use crate::compiled::permits;
use crate::statements::Extent;
use crate::vocabulary::Kind;

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
