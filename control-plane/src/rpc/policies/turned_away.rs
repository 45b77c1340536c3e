//! Callers whom agents turn away before they ask policies, whatever these say.

use hauberk_identity::SpiffeId;
use hauberk_policy::Caller;
use hauberk_proto::admin::v1::{CheckResponse, Outlook, Prospect};
use hauberk_proto::agent::v1::{NoPolicies, Verdict};

use super::mesh::{Mesh, Place};
use crate::revocation::Denylist;

/// Why agents turn somebody away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TurnedAway {
    /// It shows no certificate, and no listener takes such callers.
    Anonymous,
    /// The mesh has no bundle of its trust domain.
    Unfederated,
    /// Its node is in quarantine, or of a workload each that vouches for it.
    Quarantined,
}

impl TurnedAway {
    /// Whether agents that are called at this place do so to a caller. What leaves the mesh is decided by the caller's own.
    pub(super) fn of(
        mesh: &Mesh<'_>,
        caller: &Caller,
        place: Place<'_>,
        denylist: &Denylist,
    ) -> Option<Self> {
        if let Place::External(_) = place {
            return None;
        }
        let Caller::Peer(id) = caller else { return Some(Self::Anonymous) };
        if !id.is_member_of(mesh.trust_domain) {
            let is_known = mesh.resources.federated().any(|(_, followed, bundle)| {
                id.is_member_of(followed.trust_domain()) && bundle.is_some_and(|bundle| !bundle.is_empty())
            });
            return (!is_known).then_some(Self::Unfederated);
        }
        if !denylist.has_quarantines() {
            return None;
        }
        let of_workload = || {
            let parents = mesh.parents_of(id);
            !parents.is_empty() && parents.iter().all(|parent| denylist.is_in_quarantine(parent))
        };
        (denylist.is_in_quarantine(id) || of_workload()).then_some(Self::Quarantined)
    }

    /// A stable name.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous_not_taken",
            Self::Unfederated => "trust_domain_not_federated",
            Self::Quarantined => "quarantined",
        }
    }

    /// What becomes of an answer.
    pub(super) fn settle(self, answer: &mut CheckResponse) {
        answer.prospects.iter_mut().for_each(|prospect| self.settle_prospect(prospect));
        for detail in &mut answer.decisions {
            detail.policies.clear();
            detail.suggestion.clear();
            detail.for_users.clear();
            detail.no_policies = NoPolicies::NotAsked.into();
            if let Some(decision) = &mut detail.decision {
                decision.verdict = Verdict::Deny.into();
                decision.audit_verdict = Verdict::Unspecified.into();
                decision.reason = self.as_str().to_owned();
                decision.policies.clear();
            }
        }
    }

    /// The same of one thing that could be done.
    pub(super) fn settle_prospect(self, prospect: &mut Prospect) {
        prospect.outlook = Outlook::Never.into();
        prospect.reason = self.as_str().to_owned();
        prospect.policies.clear();
        prospect.permits.clear();
        prospect.forbids.clear();
        prospect.denied_where.clear();
    }
}

impl Mesh<'_> {
    /// The nodes and gateways whose agents vouch for a workload, of all meshes.
    fn parents_of(&self, id: &SpiffeId) -> Vec<SpiffeId> {
        let meshes = self.catalog.meshes().iter();
        let enrolled = meshes
            .flat_map(|(mesh, resources)| resources.workloads().map(move |(_, workload)| (mesh, workload)));
        let own = enrolled.filter(|(_, workload)| workload.id() == id);
        own.map(|(mesh, workload)| workload.parent().spiffe_id(self.trust_domain, mesh)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use hauberk_identity::{Name, UnixMillis};
    use hauberk_proto::admin::v1::CheckRequest;
    use hauberk_proto::mesh::v1::{EnrollmentSpec, WorkloadEnrollment, resource::Spec};

    use super::super::cells::{Position, Spoken, Wanted, survey};
    use super::super::check::Check;
    use super::*;
    use crate::resources::testing::{catalog_of, parent, policy, resource, shop, trust_domain};
    use crate::revocation::Listed;

    fn enrolled(name: &str, node: &str, path: &str) -> hauberk_proto::mesh::v1::Resource {
        let workload = WorkloadEnrollment {
            path: path.to_owned(),
            selectors: vec!["unix:uid:1000".to_owned()],
            ..WorkloadEnrollment::default()
        };
        let spec = EnrollmentSpec { parent: Some(parent(node)), workload: Some(workload), attest: None };
        resource("shop", name, Spec::Enrollment(spec))
    }

    #[test]
    fn whoever_is_turned_away_whatever_policies_say_cannot() {
        let mut resources = shop();
        resources.extend([
            policy(
                "strangers",
                "permit(principal is Anonymous, action, resource in Service::\"orders\"); \
                 permit(principal is Workload, action, resource in Service::\"orders\");",
            ),
            enrolled("one", "web", "batch"),
            enrolled("two", "web", "shared"),
            enrolled("three", "orders", "shared"),
        ]);
        let catalog = catalog_of(&resources);
        let (domain, shop) = (trust_domain(), Name::parse("shop").unwrap());
        let mesh = Mesh::of(&catalog, &domain, &shop).unwrap();
        let web = SpiffeId::parse("spiffe://shop.example/mesh/shop/node/web").unwrap();
        let nodes = HashMap::from([(web, UnixMillis(1))]);
        let quarantined = Denylist::of(Listed { nodes, ..Listed::default() });
        let asked = |caller: &str, denylist: &Denylist| {
            let request = CheckRequest {
                mesh: "shop".to_owned(),
                caller: caller.to_owned(),
                target: "orders".to_owned(),
                method: "GET".to_owned(),
                path: "/orders/1".to_owned(),
                ..CheckRequest::default()
            };
            let answer = Check::new(&mesh, &request, UnixMillis(2)).unwrap().answer_of(denylist).unwrap();
            let detail = &answer.decisions[0];
            let decided = detail.decision.as_ref().unwrap();
            assert_eq!(decided.verdict() == Verdict::Allow, answer.prospects[0].outlook() == Outlook::Always);
            assert_eq!(decided.reason, answer.prospects[0].reason);
            decided.reason.clone()
        };
        let nobody = Denylist::default();
        let workload = |path: &str| format!("spiffe://shop.example/workload/{path}");
        for (caller, free, held) in [
            ("web", "permitted", "quarantined"),
            (&workload("batch"), "permitted", "quarantined"),
            (&workload("shared"), "permitted", "permitted"),
            ("orders", "no_policy_matched", "no_policy_matched"),
            ("spiffe://partner.example/billing", "trust_domain_not_federated", "trust_domain_not_federated"),
            ("anonymous", "anonymous_not_taken", "anonymous_not_taken"),
        ] {
            assert_eq!((&*asked(caller, &nobody), &*asked(caller, &quarantined)), (free, held), "{caller}");
        }
        let called = mesh.called("orders", 0).unwrap();
        let who = |denylist: &Denylist| -> Vec<String> {
            let wanted = Wanted {
                ports: Some(vec![8080]),
                spoken: Spoken::Anything,
                method: Some("GET"),
                path: None,
                include_never: false,
            };
            let everybody = mesh.everybody();
            let found = survey(&mesh, &[called.place], &everybody, denylist, &wanted, Position::default());
            found.unwrap().found.into_iter().map(|one| one.caller).collect()
        };
        let others = workload("");
        assert_eq!(
            who(&nobody),
            ["spiffe://shop.example/mesh/shop/node/web", &workload("batch"), &workload("shared"), &others]
        );
        assert_eq!(who(&quarantined), [workload("shared"), others]);
    }
}
