//! Callers whom agents turn away before they ask policies, whatever these say.

use hauberk_identity::SpiffeId;
use hauberk_policy::{Caller, Origin};
use hauberk_proto::admin::v1::{CheckResponse, Outlook, Prospect};
use hauberk_proto::agent::v1::{NoPolicies, Verdict};
use hauberk_proto::turned_away::OfCaller;

use super::mesh::{Mesh, Place};
use crate::revocation::Denylist;

/// Why agents turn somebody away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TurnedAway {
    /// Whatever it asks for.
    Caller(OfCaller),
    /// One who passed the user on is in quarantine.
    ActorQuarantined,
    /// The mesh has no keys of the user's issuer.
    NoKeys,
}

/// What it is known by.
#[derive(Debug, Clone, Copy)]
pub(super) enum Known<'a> {
    /// All that holds at this moment: who is in quarantine, and which bundles and keys there are.
    Now(&'a Denylist),
    /// Resources alone, as in a draft: nobody is in quarantine, and whatever is to be fetched is taken as if it were there.
    Resources,
}

impl TurnedAway {
    /// Whether agents do so to a caller at this place: the caller's own, or those that are called.
    pub(super) fn of(mesh: &Mesh<'_>, caller: &Caller, place: Place<'_>, known: Known<'_>) -> Option<Self> {
        of_caller(mesh, caller, place, known).map(Self::Caller)
    }

    /// Whether agents refuse a user, whose token is looked at, or who was passed on.
    pub(super) fn of_user(
        mesh: &Mesh<'_>,
        origin: &Origin,
        is_looked_at: bool,
        known: Known<'_>,
    ) -> Option<Self> {
        let Origin { user, actors } = origin;
        let is_denied = |denylist: &Denylist| actors.iter().any(|actor| denylist.is_in_quarantine(actor));
        if known.quarantines().is_some_and(is_denied) {
            return Some(Self::ActorQuarantined);
        }
        // Without actors a token at a port that takes none is no more than a header field.
        let is_verified = is_looked_at || !actors.is_empty();
        let has_keys = || {
            mesh.resources
                .issuers()
                .any(|(name, _, keys)| *name == user.issuer && keys.is_some_and(|keys| !keys.is_empty()))
        };
        let lacks_keys = matches!(known, Known::Now(_)) && is_verified && !has_keys();
        lacks_keys.then_some(Self::NoKeys)
    }

    /// A stable name.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Caller(why) => why.as_str(),
            // As agents call it.
            Self::ActorQuarantined => "identity_revoked",
            Self::NoKeys => "user_token_unknown_key",
        }
    }

    /// What becomes of an answer.
    pub(super) fn settle(self, answer: &mut CheckResponse) {
        answer.prospects.iter_mut().for_each(|prospect| self.settle_prospect(prospect));
        for detail in &mut answer.decisions {
            detail.policies.clear();
            detail.suggestion.clear();
            detail.for_users.clear();
            detail.conditional.clear();
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

/// What tells of such a caller whatever it asks for knows these reasons: any other would be taken for one of a single request.
fn of_caller(mesh: &Mesh<'_>, caller: &Caller, place: Place<'_>, known: Known<'_>) -> Option<OfCaller> {
    let Caller::Peer(id) = caller else { return Some(OfCaller::Anonymous) };
    let denylist = known.quarantines();
    if denylist.is_some_and(|denylist| mesh.is_shut_out(id, denylist)) {
        return Some(OfCaller::Quarantined);
    }
    // What leaves the mesh is decided by the caller's own agents.
    let Place::Node(called, _) = place else { return None };
    if !known.vouches_for(mesh, id) {
        return Some(OfCaller::Unfederated);
    }
    let is_called = |denylist: &Denylist| denylist.is_in_quarantine(&mesh.id_of(called));
    denylist.is_some_and(is_called).then_some(OfCaller::CalledQuarantined)
}

impl<'a> Known<'a> {
    /// Who is in quarantine, where somebody is.
    fn quarantines(self) -> Option<&'a Denylist> {
        match self {
            Self::Now(denylist) => Some(denylist).filter(|denylist| denylist.has_quarantines()),
            Self::Resources => None,
        }
    }

    /// Whether the mesh has, or will fetch, a bundle that vouches for somebody.
    pub(super) fn vouches_for(self, mesh: &Mesh<'_>, id: &SpiffeId) -> bool {
        id.is_member_of(mesh.trust_domain)
            || mesh.resources.federated().any(|(_, followed, bundle)| {
                let is_there = || bundle.is_some_and(|bundle| !bundle.is_empty());
                let is_to_come = matches!(self, Self::Resources) && followed.endpoint().is_some();
                id.is_member_of(followed.trust_domain()) && (is_to_come || is_there())
            })
    }
}

impl Mesh<'_> {
    /// Whether somebody is in quarantine, or a workload for which only such nodes vouch.
    fn is_shut_out(&self, id: &SpiffeId, denylist: &Denylist) -> bool {
        let of_workload = || {
            let parents = self.parents_of(id);
            !parents.is_empty() && parents.iter().all(|parent| denylist.is_in_quarantine(parent))
        };
        denylist.is_in_quarantine(id) || of_workload()
    }

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
    use hauberk_proto::mesh::v1::{ExternalPort, ExternalServiceSpec, JwtIssuerSpec, resource::Spec};

    use super::super::cells::{Position, Spoken, Wanted, survey};
    use super::super::check::Check;
    use super::*;
    use crate::resources::Catalog;
    use crate::resources::testing::{
        catalog_of, enrolled, for_users, issuer, listener, node, policy, resource, service, shop,
        trust_domain,
    };
    use crate::revocation::Listed;

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
        let quarantined = quarantined("web");
        let asked = |caller: &str, denylist: &Denylist| {
            let request = CheckRequest {
                mesh: "shop".to_owned(),
                caller: caller.to_owned(),
                target: "orders".to_owned(),
                method: "GET".to_owned(),
                path: "/orders/1".to_owned(),
                ..CheckRequest::default()
            };
            let answer =
                Check::new(&mesh, &request, UnixMillis(2)).unwrap().answer_of(Known::Now(denylist)).unwrap();
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
            let found = survey(
                &mesh,
                &[called.place],
                &everybody,
                Known::Now(denylist),
                &wanted,
                Position::default(),
            );
            found.unwrap().found.into_iter().map(|one| one.caller).collect()
        };
        let others = workload("");
        assert_eq!(
            who(&nobody),
            ["spiffe://shop.example/mesh/shop/node/web", &workload("batch"), &workload("shared"), &others]
        );
        assert_eq!(who(&quarantined), [workload("shared"), others]);
    }

    /// A shop whose orders look for users, with an issuer without keys, and what is outside.
    fn open_shop() -> Catalog {
        let mut resources = shop();
        resources[2] =
            node("orders", [for_users(listener(8080, "http"), "OPTIONAL", &[]), listener(8081, "http")]);
        resources[3] = service("orders", "orders", None);
        let ports = [(443, "tcp"), (80, "http")]
            .map(|(port, protocol)| ExternalPort { port: Some(port), protocol: protocol.to_owned() });
        let external = ExternalServiceSpec {
            hosts: vec!["api.example".to_owned()],
            ports: ports.into(),
            ..Default::default()
        };
        let to_come = |spec: &mut JwtIssuerSpec| {
            (spec.jwks, spec.jwks_url) = (String::new(), "https://later.example/keys".to_owned());
        };
        resources.extend([
            resource("shop", "stripe", Spec::ExternalService(external)),
            issuer("login", |_| {}),
            issuer("later", to_come),
            policy(
                "anybody",
                "permit(principal is Node, action, resource in Node::\"orders\"); \
                 permit(principal is Node, action, resource in External::\"stripe\");",
            ),
        ]);
        catalog_of(&resources)
    }

    fn quarantined(node: &str) -> Denylist {
        let id = SpiffeId::parse(&format!("spiffe://shop.example/mesh/shop/node/{node}")).unwrap();
        Denylist::of(Listed { nodes: HashMap::from([(id, UnixMillis(1))]), ..Listed::default() })
    }

    fn reason_of(catalog: &Catalog, request: CheckRequest, known: Known<'_>) -> String {
        let (domain, shop) = (trust_domain(), Name::parse("shop").unwrap());
        let mesh = Mesh::of(catalog, &domain, &shop).unwrap();
        let request = CheckRequest { mesh: "shop".to_owned(), ..request };
        let answer = Check::new(&mesh, &request, UnixMillis(2)).unwrap().answer_of(known).unwrap();
        let decided = answer.decisions[0].decision.as_ref().unwrap();
        assert_eq!(decided.reason, answer.prospects[0].reason);
        decided.reason.clone()
    }

    #[test]
    fn quarantine_shuts_out_who_calls_who_is_called_and_who_passes_users_on() {
        let catalog = open_shop();
        let request = |caller: &str, target: &str| CheckRequest {
            caller: caller.to_owned(),
            target: target.to_owned(),
            port: if target == "orders" { 8080 } else { 443 },
            ..CheckRequest::default()
        };
        let passed_on = || CheckRequest {
            user: "alice@login".to_owned(),
            actors: vec!["web".to_owned()],
            ..request("orders", "orders")
        };
        for (asked, in_quarantine, reason) in [
            (request("web", "external/stripe"), "", "permitted"),
            (request("web", "external/stripe"), "web", "quarantined"),
            (request("web", "external/stripe"), "orders", "permitted"),
            (request("web", "orders"), "", "permitted"),
            (request("web", "orders"), "web", "quarantined"),
            (request("web", "orders"), "orders", "called_quarantined"),
            (request("anonymous", "external/stripe"), "", "anonymous_not_taken"),
            (passed_on(), "", "permitted"),
            (passed_on(), "web", "identity_revoked"),
        ] {
            let denylist =
                if in_quarantine.is_empty() { Denylist::default() } else { quarantined(in_quarantine) };
            let told = reason_of(&catalog, asked.clone(), Known::Now(&denylist));
            assert_eq!(told, reason, "{asked:?} while {in_quarantine} is in quarantine");
        }
        // Nobody can call it, and what only resources say knows nothing of that.
        let (domain, shop) = (trust_domain(), Name::parse("shop").unwrap());
        let mesh = Mesh::of(&catalog, &domain, &shop).unwrap();
        let orders = mesh.called("orders", 8080).unwrap();
        let denylist = quarantined("orders");
        let count = |known: Known<'_>| {
            let wanted = Wanted {
                ports: Some(vec![8080]),
                spoken: Spoken::Anything,
                method: Some("GET"),
                path: None,
                include_never: false,
            };
            let everybody = mesh.everybody();
            survey(&mesh, &[orders.place], &everybody, known, &wanted, Position::default())
                .unwrap()
                .found
                .len()
        };
        assert_eq!((count(Known::Now(&denylist)), count(Known::Resources)), (0, 2));
    }

    #[test]
    fn whose_issuer_has_no_keys_is_no_user_where_tokens_are_looked_at() {
        let catalog = open_shop();
        let request = |user: &str, port: u32| CheckRequest {
            caller: "web".to_owned(),
            target: if matches!(port, 80 | 443) { "external/stripe" } else { "orders" }.to_owned(),
            port,
            user: user.to_owned(),
            ..CheckRequest::default()
        };
        let nobody = Denylist::default();
        for (user, port, now, drafted) in [
            ("alice@login", 8080, "permitted", "permitted"),
            ("alice@later", 8080, "user_token_unknown_key", "permitted"),
            // Nobody looks at it there.
            ("alice@later", 8081, "permitted", "permitted"),
            // Out of the mesh a user goes whose token was verified.
            ("alice@login", 80, "permitted", "permitted"),
            ("alice@later", 80, "user_token_unknown_key", "permitted"),
            // Nobody sees one in a stream.
            ("alice@later", 443, "permitted", "permitted"),
            ("", 8080, "permitted", "permitted"),
        ] {
            let told = [Known::Now(&nobody), Known::Resources]
                .map(|known| reason_of(&catalog, request(user, port), known));
            assert_eq!(told, [now, drafted], "{user} {port}");
        }
    }
}
