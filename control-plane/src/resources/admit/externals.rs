//! External services: whether each host leads to one of them alone, and what policies already permit of them.

use std::collections::BTreeSet;

use hauberk_identity::Name;
use hauberk_policy::{EgressIndex, Mode, PolicyDocument, Referent};

use super::{Rights, Step};
use crate::resources::catalog::Model;
use crate::resources::external_service::ExternalService;
use crate::resources::key::{Kind, ResourceKey};
use crate::resources::mesh_catalog::MeshCatalog;
use crate::resources::problem::{Fault, Problems};

/// The most external services of a mesh: they travel in every view of its nodes.
const MOST_EXTERNALS: usize = 256;

/// Checks the external services of the batch, and virtual services that would be called like one of their hosts.
pub(super) fn check(step: &Step<'_>, rights: Rights, problems: &mut Problems, warnings: &mut Vec<String>) {
    for (key, index) in step.places {
        problems.about(*index);
        let Some(mesh) = step.after.mesh(key.mesh.as_str()) else { continue };
        match step.after.get(key).map(|entry| entry.model()) {
            Some(Model::ExternalService(external)) => {
                let count = mesh.of_kind(Kind::ExternalService).len();
                if count > MOST_EXTERNALS {
                    problems.invalid(
                        "kind",
                        format!("{count} external services: at most {MOST_EXTERNALS} in a mesh"),
                    );
                }
                check_hosts(key, mesh, external, problems);
                step.check_unreadable(key, mesh, external, problems);
                step.check_bounds(key, mesh, external, rights, problems);
                step.tell_permits(key, mesh, external, warnings);
                for host in external.unreachable() {
                    warnings.push(format!(
                        "{key}: {host} is never called: it is no public address; allowedAddresses says which others may be"
                    ));
                }
            }
            Some(Model::VirtualService(_)) => check_service(&key.name, mesh, problems),
            _ => {}
        }
    }
}

impl Step<'_> {
    /// What cannot be read may have any host, and the mesh does without it: who gives its host to another external service has called what
    /// a policy forbids by the name of the first. Hosts that a service has already stay its own.
    fn check_unreadable(
        &self,
        key: &ResourceKey,
        mesh: &MeshCatalog,
        external: &ExternalService,
        problems: &mut Problems,
    ) {
        let former = match self.before.get(key).map(|entry| entry.model()) {
            Some(Model::ExternalService(former)) => former.hosts(),
            _ => &[],
        };
        let Some(host) = external.hosts().iter().find(|host| !former.contains(host)) else { return };
        if let Some((_, other, reason)) = mesh.unreadable().find(|(kind, ..)| *kind == Kind::ExternalService)
        {
            let message = format!(
                "external service {other:?} cannot be read by this release ({reason}): {host} may be a host of it"
            );
            problems.invalid_but(
                "spec.hosts",
                message,
                "mend that one in the same apply, or delete it, first",
            );
        }
    }

    /// Which hosts the boundary forbids is for those to say who may change the boundary.
    fn check_bounds(
        &self,
        key: &ResourceKey,
        mesh: &MeshCatalog,
        external: &ExternalService,
        rights: Rights,
        problems: &mut Problems,
    ) {
        let former = self.before.get(key).map(|entry| entry.model());
        let is_same = matches!(former, Some(Model::ExternalService(former)) if former == external);
        let named = Referent::External(key.name.clone());
        let names = |policy: &&PolicyDocument| {
            policy.mode() == Mode::Boundary
                && policy.references().iter().any(|reference| reference.referent == named)
        };
        if is_same || rights.boundaries {
            return;
        }
        if let Some(boundary) = mesh.policies().find(names) {
            let message = format!("boundary {:?} names it", boundary.name());
            let help = "that changes what the boundary reaches, and takes the role boundary-admin".to_owned();
            problems.report(Fault::Denied, "spec", message, Some(help));
        }
    }

    /// What there is of permits opens as soon as the service is named.
    fn tell_permits(
        &self,
        key: &ResourceKey,
        mesh: &MeshCatalog,
        external: &ExternalService,
        warnings: &mut Vec<String>,
    ) {
        let is_new = self.before.get(key).is_none();
        let scope = external.of_view(&key.name).scope(self.trust_domain, &key.mesh);
        let index = EgressIndex::new(&[scope], mesh.policies());
        let permits: BTreeSet<&str> = index.permits().collect();
        if is_new && !permits.is_empty() {
            let permits = permits.into_iter().collect::<Vec<_>>().join(", ");
            warnings.push(format!("{key}: calls of it are permitted at once, as far as {permits} say"));
        }
    }
}

/// What an app asks for by a host must be one thing.
fn check_hosts(key: &ResourceKey, mesh: &MeshCatalog, external: &ExternalService, problems: &mut Problems) {
    for host in external.hosts() {
        let of_other =
            |(name, other): &(&Name, &ExternalService)| **name != key.name && other.hosts().contains(host);
        if let Some((other, _)) = mesh.externals().find(of_other) {
            problems.invalid("spec.hosts", format!("{host} is already a host of external service {other:?}"));
        }
        if let Some(service) = service_called(mesh, host) {
            let message = format!("{host} is the name of virtual service {service:?}");
            problems.invalid_but("spec.hosts", message, "give that another name first");
        }
    }
}

fn check_service(service: &Name, mesh: &MeshCatalog, problems: &mut Problems) {
    let is_called = |host: &String| service.as_str().eq_ignore_ascii_case(host);
    let same = mesh.externals().find(|(_, external)| external.hosts().iter().any(is_called));
    if let Some((external, _)) = same {
        let message = format!("{service} is a host of external service {external:?}");
        problems.invalid_but("name", message, "give it another name, or take the host out there first");
    }
}

fn service_called<'a>(mesh: &'a MeshCatalog, host: &str) -> Option<&'a Name> {
    mesh.services().map(|(name, _)| name).find(|name| name.as_str().eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use hauberk_proto::mesh::v1::{self as wire, ExternalPort, ExternalServiceSpec, resource::Spec};

    use super::*;
    use crate::resources::catalog::{Catalog, Entry};
    use crate::resources::testing::{EVERYTHING, catalog_of, resource, shop, try_admit};

    fn external(name: &str, host: &str, port: u32) -> wire::Resource {
        let ports = vec![ExternalPort { port: Some(port), protocol: "http".to_owned() }];
        let spec =
            ExternalServiceSpec { hosts: vec![host.to_owned()], ports, ..ExternalServiceSpec::default() };
        resource("shop", name, Spec::ExternalService(spec))
    }

    #[test]
    fn while_one_cannot_be_read_no_host_is_given_to_another() {
        let mut resources = shop();
        resources
            .extend([external("stripe", "api.stripe.example", 80), external("mail", "mail.example", 80)]);
        let mut catalog = catalog_of(&resources);
        let problems = |catalog: &Catalog, batch: &[wire::Resource]| {
            let found = try_admit(catalog, batch, EVERYTHING).err().unwrap_or_default();
            found.iter().map(|problem| problem.description()).collect::<Vec<_>>()
        };
        let taken = external("payments", "api.stripe.example", 80);
        assert_eq!(problems(&catalog, &[external("maps", "maps.example", 80)]), [""; 0]);
        let name = |name: &str| Name::parse(name).unwrap();
        let key = ResourceKey { kind: Kind::ExternalService, mesh: name("shop"), name: name("stripe") };
        let stored = external("stripe", "api.stripe.example", 80);
        catalog.set(&key, Entry::new(stored, Model::Unreadable("from the future".to_owned())));
        for batch in [taken, external("maps", "maps.example", 80), external("mail", "post.example", 80)] {
            let found = problems(&catalog, &[batch]);
            assert!(
                found.len() == 1 && found[0].contains("\"stripe\" cannot be read by this release"),
                "{found:?}"
            );
        }
        // What has its hosts already goes on, and so does whoever mends the one.
        assert_eq!(problems(&catalog, &[external("mail", "mail.example", 8080)]), [""; 0]);
        let mended = [external("stripe", "api.stripe.example", 443), external("maps", "maps.example", 80)];
        assert_eq!(problems(&catalog, &mended), [""; 0]);
        // Of two neither is mended alone, and both are together.
        let key = ResourceKey { name: name("mail"), ..key };
        let stored = external("mail", "mail.example", 80);
        catalog.set(&key, Entry::new(stored.clone(), Model::Unreadable("from the future".to_owned())));
        let [stripe, _] = mended;
        for one in [&stripe, &stored] {
            let found = problems(&catalog, std::slice::from_ref(one));
            assert!(
                found.len() == 1
                    && found[0].ends_with("mend that one in the same apply, or delete it, first"),
                "{found:?}"
            );
        }
        assert_eq!(problems(&catalog, &[stripe, stored]), [""; 0]);
    }
}
