//! An enrollment, as it is accepted.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use hauberk_identity::{NodeName, Selector, SelectorError, SpiffeId, TrustDomain};
use hauberk_proto::convert::WrittenNode;
use hauberk_proto::mesh::v1 as wire;

use super::attest::AttestEnrollment;
use super::choice::{self, did_you_mean};
use super::problem::Problems;
use super::svid_terms;
use crate::jwt_svid::LONGEST_TOKEN_LIFE;

/// What a workload's tokens may live.
const TOKEN_LIVES: RangeInclusive<Duration> = Duration::from_secs(60)..=LONGEST_TOKEN_LIFE;

/// The most selectors of one enrollment.
const MOST_SELECTORS: usize = 32;

/// The longest hint, in bytes (SPIFFE Workload API §5.2.1).
const LONGEST_HINT: usize = 1_024;

/// An enrollment that is well-formed, in one of its two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enrollment {
    /// Of a program beside an agent.
    Workload(WorkloadEnrollment),
    /// Of agents that show evidence.
    Attest(AttestEnrollment),
}

impl Enrollment {
    /// Reads a spec, and reports everything that is wrong with it.
    pub(crate) fn parse(
        spec: &wire::EnrollmentSpec,
        trust_domain: &TrustDomain,
        problems: &mut Problems,
    ) -> Option<Self> {
        let wire::EnrollmentSpec { parent, workload, attest } = spec;
        let Some(attest) = attest else {
            return WorkloadEnrollment::parse(spec, trust_domain, problems).map(Self::Workload);
        };
        let mixed = [("spec.parent", parent.is_some()), ("spec.workload", workload.is_some())];
        for (field, _) in mixed.into_iter().filter(|(_, is_there)| *is_there) {
            let message = "an enrollment is either of a program beside an agent or, by attest, of agents";
            problems.invalid_but(field, message, "write two enrollments");
        }
        let is_mixed = parent.is_some() || workload.is_some();
        AttestEnrollment::parse(attest, problems).filter(|_| !is_mixed).map(Self::Attest)
    }

    /// The virtual nodes and gateways that it cannot do without.
    pub fn nodes(&self) -> Vec<&NodeName> {
        match self {
            Self::Workload(workload) => vec![workload.parent()],
            Self::Attest(attest) => attest.nodes().collect(),
        }
    }

    /// Whether it is of a program that is to know this trust domain.
    pub fn federates_with(&self, trust_domain: &str) -> bool {
        match self {
            Self::Workload(workload) => {
                workload.federates_with().iter().any(|named| named.as_str() == trust_domain)
            }
            Self::Attest(_) => false,
        }
    }
}

/// A program beside the agents of a node gets an identity of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadEnrollment {
    parent: NodeName,
    id: SpiffeId,
    selectors: BTreeSet<Selector>,
    ttl: Option<Duration>,
    token_ttl: Option<Duration>,
    dns_names: Vec<String>,
    hint: Option<String>,
    federates_with: BTreeSet<TrustDomain>,
}

impl WorkloadEnrollment {
    /// Reads a spec, and reports everything that is wrong with it.
    pub(crate) fn parse(
        spec: &wire::EnrollmentSpec,
        trust_domain: &TrustDomain,
        problems: &mut Problems,
    ) -> Option<Self> {
        let before = problems.count();
        let wire::EnrollmentSpec { parent, workload, attest: _ } = spec;
        let parent = match parent {
            Some(parent) => choice::node(problems, "spec.parent", WrittenNode::of_parent(parent)),
            None => {
                let help =
                    "write parent: {virtualNode: …}; or attest: {…} instead, for agents that show evidence";
                problems.invalid_but("spec.parent", "whose agents vouch for it is missing", help);
                None
            }
        };
        let Some(workload) = workload else {
            let help = "write workload: {path: …, selectors: […]}";
            problems.invalid_but("spec.workload", "what it becomes is missing", help);
            return None;
        };
        let wire::WorkloadEnrollment { path, selectors, x509_ttl, dns_names, hint, jwt_ttl, federates_with } =
            workload;
        let id = read_path(path, trust_domain, problems);
        let selectors = read_selectors(selectors, problems);
        let ttl = svid_terms::read_ttl("spec.workload.x509Ttl", x509_ttl.as_ref(), problems);
        let (field, rule) = ("spec.workload.jwtTtl", "tokens live from 1 minute to 1 hour");
        let token_ttl = svid_terms::read_life(field, jwt_ttl.as_ref(), &TOKEN_LIVES, rule, problems);
        svid_terms::check_dns_names("spec.workload.dnsNames", dns_names, problems);
        if hint.as_ref().is_some_and(|hint| hint.is_empty() || hint.len() > LONGEST_HINT) {
            problems.invalid("spec.workload.hint", format!("a hint has 1 to {LONGEST_HINT} bytes"));
        }
        let has_control = |hint: &String| hint.chars().any(char::is_control);
        if hint.as_ref().is_some_and(has_control) && !problems.are_of_stored() {
            problems.invalid("spec.workload.hint", "a hint has no control characters");
        }
        let federates_with = read_trust_domains(federates_with, trust_domain, problems);
        let (dns_names, hint) = (dns_names.clone(), hint.clone());
        let (parent, id) = (parent?, id?);
        let enrollment = Self { parent, id, selectors, ttl, token_ttl, dns_names, hint, federates_with };
        (problems.count() == before).then_some(enrollment)
    }

    /// The virtual node or gateway whose agents vouch for it.
    pub fn parent(&self) -> &NodeName {
        &self.parent
    }

    /// What it becomes.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// What must hold, all of it.
    pub fn selectors(&self) -> &BTreeSet<Selector> {
        &self.selectors
    }

    /// The life of its certificates; `None`: as agents' own.
    pub fn ttl(&self) -> Option<Duration> {
        self.ttl
    }

    /// The life of its tokens; `None`: as agents' own.
    pub fn token_ttl(&self) -> Option<Duration> {
        self.token_ttl
    }

    /// DNS names in its certificates.
    pub fn dns_names(&self) -> &[String] {
        &self.dns_names
    }

    /// Other trust domains whose bundles it is given.
    pub fn federates_with(&self) -> &BTreeSet<TrustDomain> {
        &self.federates_with
    }

    /// How a program with several identities tells them apart.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

fn read_path(path: &str, trust_domain: &TrustDomain, problems: &mut Problems) -> Option<SpiffeId> {
    let field = "spec.workload.path";
    if path.is_empty() {
        problems.invalid_but(field, "it is empty", "write one such as billing/worker");
        return None;
    }
    let help = "write what follows /workload/ in the SPIFFE id, such as billing/worker";
    SpiffeId::workload(trust_domain, path).map_err(|error| problems.invalid_but(field, error, help)).ok()
}

fn read_selectors(texts: &[String], problems: &mut Problems) -> BTreeSet<Selector> {
    let field = "spec.workload.selectors";
    if texts.is_empty() {
        let help = "write at least one, such as unix:uid:1000";
        problems.invalid_but(field, "without selectors every program of the host would get it", help);
    }
    if texts.len() > MOST_SELECTORS {
        problems.invalid(field, format!("{} are too many: at most {MOST_SELECTORS}", texts.len()));
    }
    let mut selectors = BTreeSet::new();
    for (index, text) in texts.iter().enumerate() {
        let field = format!("{field}[{index}]");
        match Selector::parse(text) {
            Ok(selector) => {
                if !selectors.insert(selector) {
                    problems.invalid(field, format!("{text} stands there twice"));
                }
            }
            Err(SelectorError::Kind) => {
                // Values may hold colons, so that the kind ends at the second one.
                let kind: Vec<&str> = text.splitn(3, ':').take(2).collect();
                let help = did_you_mean(&format!("{}:", kind.join(":")), Selector::KINDS);
                let help = help.unwrap_or_else(|| format!("it begins with {}", Selector::KINDS.join(", ")));
                problems.invalid_but(field, format!("{text:?} is no selector that is known"), help);
            }
            Err(error) => problems.invalid(field, format!("{text:?}: {error}")),
        }
    }
    selectors
}

fn read_trust_domains(names: &[String], own: &TrustDomain, problems: &mut Problems) -> BTreeSet<TrustDomain> {
    let mut found = BTreeSet::new();
    for (index, name) in names.iter().enumerate() {
        let field = format!("spec.workload.federatesWith[{index}]");
        match TrustDomain::parse(name) {
            Ok(trust_domain) if trust_domain == *own => {
                problems.invalid(field, format!("{own} is our own: its bundle is given in any case"));
            }
            Ok(trust_domain) if !found.insert(trust_domain.clone()) => {
                problems.invalid(field, format!("{trust_domain} stands there twice"));
            }
            Ok(_) => {}
            Err(error) => problems.invalid(field, error),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use hauberk_identity::Name;
    use hauberk_proto::mesh::v1::resource::Spec;

    use super::*;
    use crate::resources::admit::{Rights, Target, admit_removal};
    use crate::resources::catalog::{Entry, Model};
    use crate::resources::testing::*;
    use crate::resources::{Kind, ResourceKey};

    fn enrollment(change: impl FnOnce(&mut wire::WorkloadEnrollment)) -> wire::Resource {
        let mut workload = wire::WorkloadEnrollment {
            path: "billing/worker".into(),
            selectors: vec!["unix:uid:1000".into(), "unix:path:/usr/bin/worker".into()],
            ..wire::WorkloadEnrollment::default()
        };
        change(&mut workload);
        let parent = Some(parent("orders"));
        let spec = wire::EnrollmentSpec { parent, workload: Some(workload), attest: None };
        resource("shop", "worker", Spec::Enrollment(spec))
    }

    fn problems(resource: wire::Resource, rights: Rights) -> Vec<String> {
        let catalog = catalog_of(&[mesh("shop"), node("orders", [])]);
        let problems = try_admit(&catalog, &[resource], rights).err().unwrap_or_default();
        problems.iter().map(|problem| format!("{}: {}", problem.field, problem.description())).collect()
    }

    #[test]
    fn a_whole_one_is_accepted() {
        let whole = enrollment(|workload| {
            workload.x509_ttl = Some(wire::Duration { value: Some(60), unit: "s".into() });
            workload.jwt_ttl = Some(wire::Duration { value: Some(3_600), unit: "s".into() });
            workload.dns_names = vec!["worker.internal".into()];
            workload.hint = Some("internal".into());
        });
        assert_eq!(problems(whole, EVERYTHING), [""; 0]);
    }

    #[test]
    fn every_mistake_is_told_with_its_place() {
        let found = problems(
            enrollment(|workload| {
                workload.path = "billing//worker".into();
                let selectors = ["unix:uids:1", "unix:uid:x", "unix:gid:1", "unix:gid:1", "moon:full"];
                workload.selectors = selectors.map(Into::into).into();
                workload.x509_ttl = Some(wire::Duration { value: Some(59), unit: "s".into() });
                workload.jwt_ttl = Some(wire::Duration { value: Some(3_601), unit: "s".into() });
                workload.dns_names = vec!["*.internal".into()];
                workload.hint = Some(String::new());
            }),
            EVERYTHING,
        );
        let begin = [
            "spec.workload.path: segment 2 of the path is wrong: a name must not be empty; write what follows",
            "spec.workload.selectors[0]: \"unix:uids:1\" is no selector that is known; did you mean \"unix:uid:\"?",
            "spec.workload.selectors[1]: \"unix:uid:x\": a number of a user or group is needed",
            "spec.workload.selectors[3]: unix:gid:1 stands there twice",
            "spec.workload.selectors[4]: \"moon:full\" is no selector that is known; it begins with unix:uid:",
            "spec.workload.x509Ttl: certificates live from 1 minute to 24 hours",
            "spec.workload.jwtTtl: tokens live from 1 minute to 1 hour",
            "spec.workload.dnsNames[0]: \"*.internal\" is no DNS name in lower case; wildcards are none",
            "spec.workload.hint: a hint has 1 to 1024 bytes",
        ];
        assert_eq!(found.len(), begin.len(), "{found:#?}");
        for (found, begin) in found.iter().zip(begin) {
            assert!(found.starts_with(begin), "{found}\n{begin}");
        }
        let found = problems(enrollment(|workload| workload.selectors.clear()), EVERYTHING);
        assert!(found[0].contains("every program of the host would get it"), "{found:?}");
        let empty = resource("shop", "worker", Spec::Enrollment(wire::EnrollmentSpec::default()));
        let found = problems(empty, EVERYTHING);
        assert!(
            found[0].starts_with("spec.parent: ") && found[1].starts_with("spec.workload: "),
            "{found:?}"
        );
    }

    #[test]
    fn what_only_new_ones_are_refused_for_stays() {
        for name in ["1.2.3.4", "0x7f.1", "127.1", "worker.0x7f", "host.10"] {
            let named = || {
                enrollment(|workload| {
                    workload.dns_names = vec![name.into()];
                    workload.hint = Some("a\nb".into());
                })
            };
            let found = problems(named(), EVERYTHING);
            assert_eq!(found.len(), 2, "{found:?}");
            assert!(found[0].contains("dnsNames[0]") && found[0].contains("address of IPv4"), "{found:?}");
            assert!(found[1].ends_with("a hint has no control characters"), "{found:?}");
            // As an earlier release has let it in: it is read, and may be sent along as it is.
            let mut catalog = catalog_of(&[mesh("shop"), node("orders", [])]);
            let stored = named();
            let (mesh, name) = (Name::parse("shop").unwrap(), Name::parse("worker").unwrap());
            let key = ResourceKey { kind: Kind::Enrollment, mesh, name };
            let spec = stored.spec.as_ref().unwrap();
            let model = Model::parse(spec, &key, &trust_domain(), &mut Problems::of_stored()).unwrap();
            catalog.set(&key, Entry::new(stored, model));
            assert_eq!(catalog.mesh("shop").unwrap().enrollments().count(), 1);
            assert!(try_admit(&catalog, &[named()], EVERYTHING).is_ok());
        }
        let good = enrollment(|workload| workload.dns_names = vec!["0x.example".into(), "10.example".into()]);
        assert_eq!(problems(good, EVERYTHING), [""; 0]);
    }

    #[test]
    fn it_takes_a_role_of_its_own() {
        let editor = Rights { identities: false, ..EVERYTHING };
        let found = problems(enrollment(|_| {}), editor);
        assert_eq!(found, ["kind: to change an enrollment takes the role identity-admin"]);
        let identities = Rights { identities: true, resources: false, policies: false, boundaries: false };
        assert_eq!(problems(enrollment(|_| {}), identities), [""; 0]);
    }

    #[test]
    fn a_file_that_anybody_may_execute_is_worth_a_warning() {
        let catalog = catalog_of(&[mesh("shop"), node("orders", [])]);
        let digest = format!("unix:sha256:{}", "0".repeat(64));
        for (selectors, warns) in [
            (&["unix:path:/usr/bin/worker"][..], true),
            (&["unix:path:/usr/bin/worker", &digest], true),
            (&["unix:path:/usr/bin/worker", "unix:uid:1000"], false),
            (&["unix:path:/usr/bin/worker", "systemd:id:worker.service"], false),
            (&[&digest, "docker:label:app:worker"], false),
        ] {
            let selectors = selectors.iter().map(|text| (*text).to_owned()).collect();
            let enrollment = enrollment(|workload| workload.selectors = selectors);
            let warnings = try_admit(&catalog, &[enrollment], EVERYTHING).unwrap().warnings;
            assert_eq!(warnings.iter().any(|warning| warning.contains("unix:uid:")), warns, "{warnings:?}");
        }
    }

    #[test]
    fn its_parent_is_there_and_stays() {
        let mut of_nobody = enrollment(|_| {});
        let Some(Spec::Enrollment(spec)) = &mut of_nobody.spec else { unreachable!() };
        spec.parent = Some(parent("order"));
        let wanted =
            "spec.parent.virtualNode: virtual node \"order\" does not exist; did you mean \"orders\"?";
        assert_eq!(problems(of_nobody, EVERYTHING), [wanted]);
        let catalog = catalog_of(&[mesh("shop"), node("orders", []), enrollment(|_| {})]);
        let name = |text| Name::parse(text).unwrap();
        let key = ResourceKey { kind: Kind::VirtualNode, mesh: name("shop"), name: name("orders") };
        let target = Target { key, resource_version: 0, ignore_missing: false };
        let problems = admit_removal(&catalog, &[target], EVERYTHING, &trust_domain()).unwrap_err();
        assert!(problems[0].message.contains("still used by enrollment \"worker\""), "{problems:?}");
    }
}
