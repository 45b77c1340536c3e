//! A virtual gateway, as it is accepted.

use hauberk_proto::mesh::v1 as wire;

use super::virtual_node::VirtualNode;

/// A virtual gateway. Its agents are as those of a node that only calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualGateway(VirtualNode);

impl VirtualGateway {
    /// Reads a spec, in which nothing can be wrong: what would be more than to call is no part of it.
    pub(crate) fn parse(spec: &wire::VirtualGatewaySpec) -> Self {
        let wire::VirtualGatewaySpec {} = spec;
        Self(VirtualNode::that_only_calls())
    }

    /// What its agents enforce.
    pub fn as_node(&self) -> &VirtualNode {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use hauberk_identity::Name;
    use hauberk_proto::mesh::v1::resource::Spec;
    use hauberk_proto::mesh::v1::role_member::Member;

    use super::*;
    use crate::resources::admit::{Rights, Target, admit_removal};
    use crate::resources::testing::*;
    use crate::resources::{Catalog, Kind, ResourceKey};

    fn told(catalog: &Catalog, resource: wire::Resource, rights: Rights) -> Vec<String> {
        match try_admit(catalog, &[resource], rights) {
            Ok(admission) => admission.warnings,
            Err(problems) => problems
                .iter()
                .map(|problem| format!("{}: {}", problem.field, problem.description()))
                .collect(),
        }
    }

    fn removal(catalog: &Catalog, kind: Kind, rights: Rights) -> Vec<String> {
        let name = |text| Name::parse(text).unwrap();
        let key = ResourceKey { kind, mesh: name("shop"), name: name("edge") };
        let target = Target { key, resource_version: 0, ignore_missing: false };
        let problems = admit_removal(catalog, &[target], rights, &trust_domain()).err().unwrap_or_default();
        problems.into_iter().map(|problem| problem.message).collect()
    }

    fn worker(of: &str) -> wire::Resource {
        let workload = wire::WorkloadEnrollment {
            path: "worker".into(),
            selectors: vec!["unix:uid:1000".into()],
            ..wire::WorkloadEnrollment::default()
        };
        let spec = wire::EnrollmentSpec { parent: Some(parent(of)), workload: Some(workload), attest: None };
        resource("shop", "worker", Spec::Enrollment(spec))
    }

    fn fleet(of: &str) -> wire::Resource {
        let evidence = wire::attest_enrollment::Evidence::JoinToken(wire::JoinTokenEvidence {});
        let rules = vec![attest_rule(of, &["join_token:label:env:prod"])];
        let attest = Some(wire::AttestEnrollment { rules, evidence: Some(evidence) });
        let spec = wire::EnrollmentSpec { attest, ..wire::EnrollmentSpec::default() };
        resource("shop", "fleet", Spec::Enrollment(spec))
    }

    fn entrances(member: Member) -> wire::Resource {
        let members = vec![wire::RoleMember { member: Some(member) }];
        let spec = wire::RoleSpec { members, ..wire::RoleSpec::default() };
        resource("shop", "entrances", Spec::Role(spec))
    }

    #[test]
    fn an_editor_makes_it_and_others_name_it() {
        let catalog = catalog_of(&[
            mesh("shop"),
            gateway("edge"),
            node("orders", []),
            service("orders", "orders", None),
        ]);
        let editor = Rights { policies: false, boundaries: false, identities: false, ..EVERYTHING };
        assert_eq!(told(&catalog, gateway("other"), editor), [""; 0]);
        for naming in [
            worker("gateway/edge"),
            fleet("gateway/edge"),
            entrances(Member::VirtualGateway("edge".into())),
            entrances(Member::VirtualGateway("spiffe://shop.example/mesh/shop/gateway/edge".into())),
            permit("edge-calls", "gateway/edge", "orders"),
        ] {
            assert_eq!(told(&catalog, naming, EVERYTHING), [""; 0]);
        }
    }

    #[test]
    fn a_node_of_its_name_is_not_it_and_what_is_near_is_told() {
        let nodes = catalog_of(&[mesh("shop"), node("edge", []), gateway("edges")]);
        let missing = "virtual gateway \"edge\" does not exist; did you mean \"edges\"?";
        let no_such = "there is no virtual gateway \"edge\" in mesh \"shop\"; did you mean \"edges\"?";
        for (naming, wanted) in [
            (worker("gateway/edge"), format!("spec.parent.virtualGateway: {missing}")),
            (fleet("gateway/edge"), format!("spec.attest.rules[0].virtualGateway: {missing}")),
            (
                entrances(Member::VirtualGateway("edge".into())),
                format!("spec.members[0].virtualGateway: {no_such}"),
            ),
            (
                policy("p", "permit(principal == Node::\"gateway/edge\", action, resource);"),
                format!("Policy shop/p, 1:21: Node::\"gateway/edge\" does not exist: {no_such}"),
            ),
        ] {
            assert_eq!(told(&nodes, naming, EVERYTHING), [wanted]);
        }
        let gateways = catalog_of(&[mesh("shop"), gateway("edge")]);
        for (naming, field) in [(worker("edge"), "spec.parent"), (fleet("edge"), "spec.attest.rules[0]")] {
            let wanted = format!("{field}.virtualNode: virtual node \"edge\" does not exist");
            assert_eq!(told(&gateways, naming, EVERYTHING), [wanted]);
        }
        for (member, wanted) in [
            (
                Member::VirtualNode("gateway/edge".into()),
                "virtualNode: this is a virtual gateway; write virtualGateway: edge",
            ),
            (
                Member::VirtualGateway("spiffe://shop.example/mesh/shop/node/edge".into()),
                "virtualGateway: this is a virtual node; write virtualNode: spiffe://shop.example/mesh/shop/node/edge",
            ),
        ] {
            assert_eq!(told(&nodes, entrances(member), EVERYTHING), [format!("spec.members[0].{wanted}")]);
        }
    }

    #[test]
    fn an_enrollment_says_which_of_the_two_it_means() {
        let catalog = catalog_of(&[mesh("shop"), gateway("edge")]);
        let mut neither = fleet("edge");
        let Some(Spec::Enrollment(spec)) = &mut neither.spec else { unreachable!() };
        spec.attest.as_mut().unwrap().rules[0].node = None;
        let problem = "it names neither a virtual node nor a virtual gateway; write virtualNode: or virtualGateway: and a name";
        assert_eq!(told(&catalog, neither, EVERYTHING), [format!("spec.attest.rules[0]: {problem}")]);
        let parent = wire::EnrollmentParent { node: None };
        let mut neither = worker("edge");
        let Some(Spec::Enrollment(spec)) = &mut neither.spec else { unreachable!() };
        spec.parent = Some(parent);
        assert_eq!(told(&catalog, neither, EVERYTHING), [format!("spec.parent: {problem}")]);
    }

    #[test]
    fn it_stays_while_it_is_used_and_its_neighbour_does_not() {
        for (naming, user) in [
            (worker("gateway/edge"), "enrollment \"worker\""),
            (fleet("gateway/edge"), "enrollment \"fleet\""),
            (entrances(Member::VirtualGateway("edge".into())), "role \"entrances\" of mesh \"shop\""),
        ] {
            let catalog = catalog_of(&[mesh("shop"), gateway("edge"), node("edge", []), naming]);
            let wanted = format!("VirtualGateway shop/edge is still used by {user}");
            assert_eq!(removal(&catalog, Kind::VirtualGateway, EVERYTHING), [wanted]);
            assert_eq!(removal(&catalog, Kind::VirtualNode, EVERYTHING), [""; 0]);
        }
        for naming in [worker("edge"), fleet("edge"), entrances(Member::VirtualNode("edge".into()))] {
            let catalog = catalog_of(&[mesh("shop"), gateway("edge"), node("edge", []), naming]);
            assert_eq!(removal(&catalog, Kind::VirtualGateway, EVERYTHING), [""; 0]);
            assert_eq!(removal(&catalog, Kind::VirtualNode, EVERYTHING).len(), 1);
        }
    }

    #[test]
    fn who_a_boundary_names_is_made_and_removed_by_those_who_may_change_it() {
        let kept_out = boundary("kept-out", "forbid(principal == Node::\"gateway/edge\", action, resource);");
        let catalog = catalog_of(&[mesh("shop"), gateway("edge"), kept_out.clone()]);
        let catalog = once_gone(&catalog, Kind::VirtualGateway, "edge");
        let editor = Rights { policies: true, boundaries: false, ..EVERYTHING };
        let denied = told(&catalog, gateway("edge"), editor);
        assert_eq!(denied.len(), 1);
        assert!(
            denied[0].contains("this makes virtual gateway edge, which boundary:kept-out may speak of"),
            "{denied:?}"
        );
        assert_eq!(told(&catalog, node("edge", []), editor), [""; 0]);
        let catalog = catalog_of(&[mesh("shop"), gateway("edge"), node("edge", []), kept_out]);
        let denied = removal(&catalog, Kind::VirtualGateway, editor);
        assert_eq!(denied, ["this removes virtual gateway edge, which boundary:kept-out may speak of"]);
        assert_eq!(removal(&catalog, Kind::VirtualNode, editor), [""; 0]);
    }
}
