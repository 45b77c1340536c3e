//! What a draft changes that no comparison of cells shows.

use std::collections::{BTreeMap, BTreeSet};

use hauberk_identity::Name;
use hauberk_policy::UserTokens;

use super::mesh::Mesh;
use crate::resources::{Enrollment, Kind, Listener, MeshCatalog};

/// How many changes one answer tells of.
const MOST_TOLD: usize = 1_000;

/// What changes besides cells, each with its resource: by cells alone one would believe that all are let in as before.
pub(super) fn not_compared(before: Option<&Mesh<'_>>, after: &Mesh<'_>) -> Vec<String> {
    let Some(before) = before else { return Vec::new() };
    let mut found = Vec::new();
    let mut tell =
        |kind: Kind, name: &Name, what: &str| found.push(format!("{} {name}: {what}", kind.noun()));
    let (former, latter) = (before.resources, after.resources);
    if latter.spec().is_some()
        && former.spec().map(|mesh| mesh.max_view_age()) != latter.spec().map(|mesh| mesh.max_view_age())
    {
        tell(Kind::Mesh, after.name, "for how long agents decide without news (maxViewAge)");
    }
    let known = before.issuers();
    for issuer in after.issuers().iter().filter(|issuer| takes_users(latter) && !known.contains(issuer)) {
        tell(Kind::JwtIssuer, &issuer.name, "which tokens are good, and whose they are");
    }
    let [issuers_before, issuers] = [former, latter].map(|mesh| mesh.issuers().map(|(name, ..)| (name, ())));
    // Where a listener takes users of all issuers nothing refers to one that goes.
    for (issuer, ()) in gone(issuers_before, issuers).into_iter().filter(|_| takes_users(former)) {
        tell(Kind::JwtIssuer, issuer, "which tokens are good, and whose they are");
    }
    let [domains_before, domains] =
        [former, latter].map(|mesh| mesh.federated().map(|(domain, followed, _)| (domain, followed)));
    for (domain, _) in changed(domains_before, domains) {
        tell(Kind::FederatedTrustDomain, domain, "what its members are verified by");
    }
    let known: BTreeMap<_, _> = former.enrollments().collect();
    let (residents, residents_after) = (before.residents(), after.residents());
    for (name, enrollment) in latter.enrollments().filter(|(name, one)| known.get(name) != Some(one)) {
        match enrollment {
            // Cells show that it comes.
            Enrollment::Workload(workload) if !residents.contains(workload.id()) => {}
            Enrollment::Workload(_) => tell(Kind::Enrollment, name, "which programs are given the identity"),
            Enrollment::Attest(_) => tell(Kind::Enrollment, name, "which agents may join without a token"),
        }
    }
    for (name, enrollment) in gone(former.enrollments(), latter.enrollments()) {
        match enrollment {
            // Cells show that it goes.
            Enrollment::Workload(workload) if !residents_after.contains(workload.id()) => {}
            Enrollment::Workload(_) => tell(Kind::Enrollment, name, "which programs are given the identity"),
            Enrollment::Attest(_) => tell(Kind::Enrollment, name, "which agents may join without a token"),
        }
    }
    for (name, _) in gone(former.services(), latter.services()) {
        tell(Kind::VirtualService, name, "which node it is that callers reach");
    }
    for (name, _) in changed(former.externals(), latter.externals()) {
        tell(Kind::ExternalService, name, "which hosts and addresses are meant");
    }
    for (name, service) in changed(former.services(), latter.services()) {
        if former.service(name.as_str()).is_some_and(|known| known.provider() != service.provider()) {
            tell(Kind::VirtualService, name, "which node it is that callers reach");
        }
    }
    for (name, node) in changed(former.nodes(), latter.nodes()) {
        for listener in node.listeners() {
            let known = former.node(name.as_str()).and_then(|known| known.listener(listener.port()));
            for what in known.map(|known| of_listener(known, listener)).unwrap_or_default() {
                tell(Kind::VirtualNode, name, &format!("{what} at port {}", listener.port()));
            }
        }
    }
    at_most(found)
}

/// The first of them, and how many more there are: they stand in one answer, beside a page of differences.
fn at_most(mut found: Vec<String>) -> Vec<String> {
    let more = found.len().saturating_sub(MOST_TOLD);
    if more > 0 {
        found.truncate(MOST_TOLD);
        found.push(format!("and {more} more that are not told here"));
    }
    found
}

/// Those that there were before, and that are others now.
fn changed<'n, T: PartialEq>(
    before: impl Iterator<Item = (&'n Name, T)>,
    after: impl Iterator<Item = (&'n Name, T)>,
) -> Vec<(&'n Name, T)> {
    let before: BTreeMap<_, _> = before.collect();
    after.filter(|(name, one)| before.get(name).is_some_and(|known| known != one)).collect()
}

/// Those that there were before, and that are there no longer.
fn gone<'n, T>(
    before: impl Iterator<Item = (&'n Name, T)>,
    after: impl Iterator<Item = (&'n Name, T)>,
) -> Vec<(&'n Name, T)> {
    let after: BTreeSet<&Name> = after.map(|(name, _)| name).collect();
    before.filter(|(name, _)| !after.contains(name)).collect()
}

fn takes_users(mesh: &MeshCatalog) -> bool {
    mesh.nodes().any(|(_, node)| node.listeners().iter().any(|listener| listener.users().is_some()))
}

/// What of a listener decides on requests before its policies do, and changes.
fn of_listener(before: &Listener, after: &Listener) -> Vec<&'static str> {
    // Whether there must be a user is told of each cell.
    let tokens =
        |listener: &Listener| listener.users().map(|users| UserTokens { required: false, ..users.clone() });
    let compared = [
        // Of http and http2 cells are the same.
        (before.protocol() != after.protocol(), "which protocol is spoken"),
        (tokens(before) != tokens(after), "whose tokens are looked at, and whether the app gets them"),
        (before.escaped_slashes() != after.escaped_slashes(), "what becomes of escaped slashes"),
        (before.obs_text() != after.obs_text(), "what becomes of header fields beyond ASCII"),
    ];
    compared.into_iter().filter(|(is_other, _)| *is_other).map(|(_, what)| what).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::testing::{catalog_of, listener, mesh, node, service, trust_domain};

    #[test]
    fn which_protocol_a_port_speaks_is_told() {
        let of = |protocol| catalog_of(&[mesh("shop"), node("orders", [listener(8080, protocol)])]);
        let (trust_domain, name) = (trust_domain(), Name::parse("shop").unwrap());
        let mesh_of = |catalog| Mesh::of(catalog, &trust_domain, &name).unwrap();
        let (before, after) = (of("http"), of("http2"));
        let told = not_compared(Some(&mesh_of(&before)), &mesh_of(&after));
        assert_eq!(told, ["virtual node orders: which protocol is spoken at port 8080"]);
        assert_eq!(not_compared(Some(&mesh_of(&before)), &mesh_of(&of("http"))), [""; 0]);
    }

    #[test]
    fn an_answer_tells_of_so_many_and_counts_the_rest() {
        let providers = [node("old", [listener(1, "http")]), node("new", [listener(1, "http")])];
        let by = |provider: &str, count: usize| {
            let services = (0..count).map(|number| service(&format!("s{number}"), provider, None));
            let batch: Vec<_> = [mesh("shop")].into_iter().chain(providers.clone()).chain(services).collect();
            catalog_of(&batch)
        };
        let (trust_domain, name) = (trust_domain(), Name::parse("shop").unwrap());
        let told = |count: usize| {
            let (before, after) = (by("old", count), by("new", count));
            let of = |catalog| Mesh::of(catalog, &trust_domain, &name).unwrap();
            not_compared(Some(&of(&before)), &of(&after))
        };
        assert_eq!(
            told(2),
            ["s0", "s1"].map(|one| format!("virtual service {one}: which node it is that callers reach"))
        );
        let told = told(MOST_TOLD + 7);
        assert_eq!(told.len(), MOST_TOLD + 1);
        assert_eq!(told.last().unwrap(), "and 7 more that are not told here");
    }
}
