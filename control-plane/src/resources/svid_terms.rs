//! What enrollments say of certificates beside whom they name: how long they live, and which DNS names are in them.

use std::ops::RangeInclusive;
use std::time::Duration;

use hauberk_proto::mesh::v1 as wire;
use hauberk_proto::mesh::v1::resource::Spec;
use hauberk_tls::is_dns_name;

use super::choice;
use super::external_service::is_number;
use super::problem::{Problem, Problems};
use crate::server_certificate::ServerNames;

/// What certificates may live.
const LIVES: RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(24 * 3_600);

/// The most DNS names of one certificate.
const MOST_DNS_NAMES: usize = 32;

/// The life of certificates, where one is given.
pub(super) fn read_ttl(
    field: &str,
    ttl: Option<&wire::Duration>,
    problems: &mut Problems,
) -> Option<Duration> {
    read_life(field, ttl, &LIVES, "certificates live from 1 minute to 24 hours", problems)
}

/// The life of anything that is issued; `rule` says which lives it may have.
pub(super) fn read_life(
    field: &str,
    ttl: Option<&wire::Duration>,
    lives: &RangeInclusive<Duration>,
    rule: &str,
    problems: &mut Problems,
) -> Option<Duration> {
    let ttl = choice::duration(problems, field, ttl?)?;
    if !lives.contains(&ttl) {
        problems.invalid(field, rule);
    }
    Some(ttl)
}

/// Reports names that cannot stand in a certificate.
pub(super) fn check_dns_names(field: &str, names: &[String], problems: &mut Problems) {
    if names.len() > MOST_DNS_NAMES {
        problems.invalid(field, format!("{} are too many: at most {MOST_DNS_NAMES}", names.len()));
    }
    for (index, name) in names.iter().enumerate() {
        let field = format!("{field}[{index}]");
        if !is_dns_name(name) || name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            problems.invalid(field, format!("{name:?} is no DNS name in lower case; wildcards are none"));
        } else if is_number(name.rsplit('.').next().unwrap_or_default()) && !problems.are_of_stored() {
            let message =
                format!("{name} is no DNS name: what ends in a number is taken for an address of IPv4");
            problems.invalid_but(field, message, "whoever had it would be taken for that host: leave it out");
        } else if names.iter().take(index).any(|other| other == name) {
            problems.invalid(field, format!("{name} stands there twice"));
        }
    }
}

/// The names in a batch that the control plane is called by: whoever had one in a certificate would be taken for it by clients
/// that know names alone.
pub(super) fn names_of_the_control_plane(batch: &[wire::Resource], own: &ServerNames) -> Vec<Problem> {
    let mut problems = Problems::default();
    for (index, resource) in batch.iter().enumerate() {
        problems.about(index);
        let Some(Spec::Enrollment(spec)) = &resource.spec else { continue };
        let wire::EnrollmentSpec { parent: _, workload, attest } = spec;
        let of_workload = workload.iter().map(|of| ("spec.workload".to_owned(), &of.dns_names));
        let rules = attest.iter().flat_map(|attest| attest.rules.iter().enumerate());
        let of_rules = rules.map(|(index, rule)| (format!("spec.attest.rules[{index}]"), &rule.dns_names));
        for (field, names) in of_workload.chain(of_rules) {
            for (index, name) in names.iter().enumerate().filter(|(_, name)| own.hold(name)) {
                let message = format!("{name} is a name of the control plane's own certificate (--san)");
                problems.invalid_but(
                    format!("{field}.dnsNames[{index}]"),
                    message,
                    "whoever had it would be taken for the control plane: leave it out",
                );
            }
        }
    }
    problems.into_sorted()
}
