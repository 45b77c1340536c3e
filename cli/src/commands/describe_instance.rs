//! `hauberk describe instance`: the whole life of an identity.

use hauberk_identity::UnixMillis;
use hauberk_proto::admin::v1::{
    AuditOutcome, AuditRecord, CertificateOfInstance, DescribeInstanceRequest, DescribeInstanceResponse,
    Evidence, Instance,
};
use owo_colors::OwoColorize as _;

use crate::arguments::Global;
use crate::clock;
use crate::commands::rows;
use crate::error::CommandError;
use crate::output::{self, printable};
use crate::session::Session;
use crate::times::{age, instant, timestamp, until};

/// How much of an authority's serial number tells it from the others.
const AUTHORITY_DIGITS: usize = 8;

/// Shows one instance.
///
/// # Errors
/// What the control plane answers.
pub(super) async fn show(global: &Global, id: String) -> Result<(), CommandError> {
    let session = Session::open(global).await?;
    let life = session.identities().describe_instance(DescribeInstanceRequest { id }).await?.into_inner();
    output::raw(&text(&life, clock::now()))
}

/// All of it, at most 80 columns wide but for addresses and reasons.
fn text(life: &DescribeInstanceResponse, now: UnixMillis) -> String {
    let mut lines = Vec::new();
    if let Some(instance) = &life.instance {
        lines.push(fact("Instance", &instance.id));
        lines.push(fact("SPIFFE id", &none_or(instance.spiffe_id.clone(), "not recorded")));
        if life.forgotten {
            let forgotten = "forgotten: its last certificate expired more than an hour ago";
            lines.push(fact("State", forgotten));
        } else {
            present(&mut lines, instance, now);
        }
    }
    joined(&mut lines, life, now);
    if let Some(due) = &life.renewal_due {
        let at = instant(due);
        let when = if at < now {
            format!("overdue for {}: its agent should have asked by now", age(Some(due), now))
        } else {
            format!("within {}", age(Some(&timestamp(now)), at))
        };
        lines.push(fact("Renews", &when));
    }
    if let Some(evidence) = life.instance.as_ref().and_then(|instance| instance.evidence.as_ref()) {
        proved(&mut lines, evidence, now);
    }
    let text = lines.join("\n") + "\n";
    text + &certificates(life, now) + &workloads(life, now) + &records(life, now) + &not_looked_at(life)
}

fn present(lines: &mut Vec<String>, instance: &Instance, now: UnixMillis) {
    let mut fact = |name: &str, value: &str| lines.push(fact(name, value));
    let state = match (instance.connected, instance.draining) {
        (true, true) => format!("draining, connected for {}", age(instance.connected_since.as_ref(), now)),
        (true, false) => format!("connected for {}", age(instance.connected_since.as_ref(), now)),
        (false, _) if instance.last_seen.is_none() => {
            "not connected since the control plane started".to_owned()
        }
        (false, _) => format!("away, last seen {} ago", age(instance.last_seen.as_ref(), now)),
    };
    fact("State", &state);
    if !instance.hostname.is_empty() {
        fact("Host", &format!("{}, agent {}", instance.hostname, instance.version));
    }
    if !instance.peer_address.is_empty() {
        fact("Calls from", &instance.peer_address);
    }
    let ports = instance.ports.iter().map(|port| {
        let unhealthy = if port.healthy { "" } else { " (unhealthy)" };
        format!("{}@{}{unhealthy}", port.listener_port, port.address)
    });
    fact("Listens", &none_or(ports.collect::<Vec<_>>().join(", "), "nowhere"));
    fact("Enforces", &rows::enforces(instance));
    if instance.connected {
        fact("Clock", &format!("{:+} ms to the control plane's", instance.clock_skew_ms));
    }
}

fn joined(lines: &mut Vec<String>, life: &DescribeInstanceResponse, now: UnixMillis) {
    let when = life.joined_at.as_ref().map_or_else(
        || "not recorded".to_owned(),
        |at| format!("{} ago, at {}", age(Some(at), now), instant(at).floor_to_second()),
    );
    lines.push(fact("Joined", &when));
    let token = life.instance.as_ref().map(|instance| instance.token_id.as_str()).unwrap_or_default();
    let evidence = life.instance.as_ref().and_then(|instance| instance.evidence.as_ref());
    match evidence {
        None if token.is_empty() => {}
        None => lines.push(fact("By", &format!("join token {token}"))),
        Some(Evidence { enrollment, .. }) if !token.is_empty() => {
            lines.push(fact("By", &format!("join token {token}, enrollment/{enrollment}")));
        }
        Some(Evidence { attestor, enrollment, .. }) => {
            lines.push(fact("By", &format!("{attestor} evidence, enrollment/{enrollment}")));
        }
    }
    if !life.joined_from.is_empty() {
        lines.push(fact("From", &life.joined_from));
    }
}

/// All that was true of the evidence, when it was last looked at.
fn proved(lines: &mut Vec<String>, evidence: &Evidence, now: UnixMillis) {
    let Evidence { attestor: _, enrollment: _, selectors, verified_at, source } = evidence;
    let when = format!("{} ago, from {source}", age(verified_at.as_ref(), now));
    lines.push(fact("Verified", &when));
    lines.extend(selectors.iter().map(|selector| fact("Evidence", selector)));
}

fn certificates(life: &DescribeInstanceResponse, now: UnixMillis) -> String {
    let mut text = heading("Certificates", life.certificates.len(), life.more_certificates);
    let mut rows: Vec<_> = life.certificates.iter().map(|certificate| row(certificate, now)).collect();
    let mut headers = vec!["SERIAL", "ISSUED", "EXPIRES", "BY"];
    add_dns_names(&mut headers, &mut rows, &life.certificates);
    if !life.certificates.is_empty() {
        text += &output::indented_table(&headers, rows);
    }
    text
}

/// A column with the names beside the id; few certificates have any.
fn add_dns_names(headers: &mut Vec<&str>, rows: &mut [Vec<String>], of: &[CertificateOfInstance]) {
    let names = of.iter().map(|of| of.certificate.iter().flat_map(|of| &of.dns_names));
    if names.clone().any(|mut names| names.next().is_some()) {
        headers.push("DNS NAMES");
        for (row, names) in rows.iter_mut().zip(names) {
            row.push(names.cloned().collect::<Vec<_>>().join(","));
        }
    }
}

/// What was issued for programs beside it, and what they are known by.
fn workloads(life: &DescribeInstanceResponse, now: UnixMillis) -> String {
    if life.workload_certificates.is_empty() {
        return String::new();
    }
    let (count, more) = (life.workload_certificates.len(), life.more_workload_certificates);
    let mut text = heading("Workloads' certificates", count, more);
    let rows = life.workload_certificates.iter().map(|certificate| {
        let mut row = row(certificate, now);
        let spiffe_id = certificate.certificate.as_ref().map(|issued| issued.spiffe_id.as_str());
        let spiffe_id = spiffe_id.unwrap_or_default();
        let path = spiffe_id.split_once("/workload/").map_or(spiffe_id, |(_, path)| path);
        row.push(format!("{path} by enrollment/{}", certificate.enrollment));
        row
    });
    let (mut headers, mut rows) =
        (vec!["SERIAL", "ISSUED", "EXPIRES", "BY", "FOR"], rows.collect::<Vec<_>>());
    add_dns_names(&mut headers, &mut rows, &life.workload_certificates);
    text += &output::indented_table(&headers, rows);
    text += &heading("Workloads' enrollments", life.workloads.len(), false);
    let rows = life.workloads.iter().map(|workload| {
        let known_by = if workload.gone {
            "deleted, or no longer this node's: it is issued nothing more".to_owned()
        } else {
            workload.selectors.join(", ")
        };
        vec![workload.enrollment.clone(), known_by]
    });
    text + &output::indented_table(&["ENROLLMENT", "KNOWN BY ALL OF"], rows.collect())
}

fn not_looked_at(life: &DescribeInstanceResponse) -> String {
    life.not_looked_at.iter().map(|what| format!("Not looked at: {}\n", printable(what))).collect()
}

fn row(of: &CertificateOfInstance, now: UnixMillis) -> Vec<String> {
    let certificate = of.certificate.clone().unwrap_or_default();
    let expires = match of.denied.as_str() {
        "" => until(certificate.not_after.as_ref(), now),
        denied => denied.to_owned(),
    };
    vec![
        certificate.serial,
        format!("{} ago", age(certificate.issued_at.as_ref(), now)),
        expires,
        of.authority.get(..AUTHORITY_DIGITS).unwrap_or("-").to_owned(),
    ]
}

fn records(life: &DescribeInstanceResponse, now: UnixMillis) -> String {
    let mut text = heading("Audit", life.records.len(), life.more_records);
    let rows = life.records.iter().map(|record| record_row(record, life, now)).collect();
    if !life.records.is_empty() {
        text += &output::indented_table(&["AGO", "OUTCOME", "ACTION", "FROM", "BECAUSE"], rows);
    }
    text
}

fn record_row(record: &AuditRecord, life: &DescribeInstanceResponse, now: UnixMillis) -> Vec<String> {
    let is_refused = record.outcome() == AuditOutcome::Refused;
    let reason = record.reason.clone();
    // Of the instance's own acts it is clear whose they are.
    let admin = record.actor.split_once("/admin/").map(|(_, name)| format!("admin {name}"));
    let is_any_of_node = life.records_of_node.contains(&record.sequence);
    let any_of_node = is_any_of_node.then(|| "an instance of its node, it is not recorded which".to_owned());
    let because: Vec<String> = admin
        .into_iter()
        .chain(any_of_node)
        .chain(Some(reason).filter(|reason| !reason.is_empty()))
        .collect();
    vec![
        age(record.at.as_ref(), now),
        if is_refused { "refused" } else { "ok" }.to_owned(),
        record.action.clone(),
        record.source.clone(),
        because.join(": "),
    ]
}

fn heading(name: &str, count: usize, more: bool) -> String {
    let what = match (count, more) {
        (0, false) => " none recorded any longer".to_owned(),
        (_, false) => String::new(),
        (count, true) => format!(" (the latest {count})"),
    };
    format!("{}{what}\n", format!("{name}:").bold())
}

fn fact(name: &str, value: &str) -> String {
    format!("{:<12}{}", format!("{name}:"), printable(value))
}

fn none_or(text: String, nothing: &str) -> String {
    if text.is_empty() { nothing.to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use hauberk_proto::admin::v1::{InstancePort, IssuedCertificate, WorkloadOfInstance};

    use super::*;

    const NOW: UnixMillis = UnixMillis::from_secs(1_800_000_000);
    const ID: &str = "spiffe://shop.example/mesh/shop/node/orders";

    /// Without colours, as where it is no terminal that reads it.
    fn plain(life: &DescribeInstanceResponse) -> String {
        anstream::adapter::strip_str(&text(life, NOW)).to_string()
    }

    fn ago(seconds: u64) -> Option<prost_types::Timestamp> {
        Some(timestamp(UnixMillis::from_secs(NOW.as_secs() - seconds)))
    }

    fn certificate(digit: &str, spiffe_id: &str, issued: u64, denied: &str) -> CertificateOfInstance {
        let not_after = Some(timestamp(UnixMillis::from_secs(NOW.as_secs() + 3_600 - issued)));
        CertificateOfInstance {
            certificate: Some(IssuedCertificate {
                serial: digit.repeat(32),
                spiffe_id: spiffe_id.to_owned(),
                instance_id: "vj85pstwk8".to_owned(),
                not_before: ago(issued + 300),
                not_after,
                issued_at: ago(issued),
                dns_names: Vec::new(),
            }),
            authority: "0a1b2c3d4e5f60718293a4b5c6d7e8f9".to_owned(),
            denied: denied.to_owned(),
            enrollment: String::new(),
        }
    }

    fn record(action: &str, seconds: u64, outcome: AuditOutcome, reason: &str) -> AuditRecord {
        AuditRecord {
            at: ago(seconds),
            action: action.to_owned(),
            source: "10.0.0.5:41234".to_owned(),
            outcome: outcome.into(),
            reason: reason.to_owned(),
            ..AuditRecord::default()
        }
    }

    #[test]
    fn a_life_from_token_to_revocation() {
        let life = DescribeInstanceResponse {
            instance: Some(Instance {
                id: "vj85pstwk8".to_owned(),
                spiffe_id: ID.to_owned(),
                connected: true,
                connected_since: ago(1_700),
                peer_address: "10.0.0.5:41234".to_owned(),
                version: "0.1.0".to_owned(),
                hostname: "host\x1b[2J-1".to_owned(),
                latest_revision: 12,
                enforced_revision: 12,
                ports: vec![InstancePort {
                    listener_port: 8080,
                    address: "10.0.0.5:8080".to_owned(),
                    healthy: true,
                }],
                clock_skew_ms: -14,
                token_id: "51318d570d44".to_owned(),
                ..Instance::default()
            }),
            joined_at: ago(3_500),
            joined_from: "10.0.0.5:41200".to_owned(),
            certificates: vec![certificate("a", ID, 1_700, ""), certificate("c", ID, 3_500, "revoked")],
            workload_certificates: vec![CertificateOfInstance {
                enrollment: "worker".to_owned(),
                ..certificate("b", "spiffe://shop.example/workload/billing/worker", 2_000, "")
            }],
            workloads: vec![
                WorkloadOfInstance { enrollment: "former".to_owned(), gone: true, ..Default::default() },
                WorkloadOfInstance {
                    enrollment: "worker".to_owned(),
                    selectors: vec!["unix:uid:1000".to_owned(), "docker:label:app:billing".to_owned()],
                    gone: false,
                },
            ],
            renewal_due: Some(timestamp(UnixMillis::from_secs(NOW.as_secs() + 300))),
            records_of_node: vec![7],
            not_looked_at: vec!["certificates of earlier releases beyond the first 10,000".to_owned()],
            records: vec![
                AuditRecord {
                    sequence: 7,
                    ..record("access.check", 1_600, AuditOutcome::Refused, "it may not")
                },
                record(
                    "certificate.renew",
                    1_700,
                    AuditOutcome::Ok,
                    "serial aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                ),
                record("enrollment.attest", 3_000, AuditOutcome::Refused, "the join token is used up"),
                record(
                    "enrollment.attest",
                    3_500,
                    AuditOutcome::Ok,
                    "serial cccccccccccccccccccccccccccccccc",
                ),
                AuditRecord {
                    actor: "spiffe://shop.example/admin/anna".to_owned(),
                    ..record("token.create", 3_560, AuditOutcome::Ok, "")
                },
            ],
            more_records: true,
            ..DescribeInstanceResponse::default()
        };
        insta::assert_snapshot!(plain(&life));
    }

    #[test]
    fn evidence_stands_in_the_place_of_a_token() {
        let evidence = Evidence {
            attestor: "x509pop".to_owned(),
            enrollment: "machines".to_owned(),
            selectors: vec!["x509pop:subject:cn:vm\x1b[2J-1".to_owned()],
            verified_at: ago(3_500),
            source: "10.0.0.5:41200".to_owned(),
        };
        let instance = Instance { evidence: Some(evidence), ..Instance::default() };
        let shown = plain(&DescribeInstanceResponse { instance: Some(instance), ..Default::default() });
        for part in
            ["x509pop evidence, enrollment/machines", "58m ago, from 10.0.0.5:41200", "x509pop:subject:cn:vm"]
        {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(!shown.contains('\x1b'), "{shown}");
    }

    #[test]
    fn one_that_is_forgotten_is_told_from_the_log() {
        let instance = Instance { id: "vj85pstwk8".to_owned(), ..Instance::default() };
        let life = DescribeInstanceResponse {
            instance: Some(instance),
            forgotten: true,
            joined_at: ago(90_000),
            records: vec![record("enrollment.attest", 90_000, AuditOutcome::Ok, "serial cc")],
            ..Default::default()
        };
        let shown = plain(&life);
        for part in
            ["State:      forgotten", "SPIFFE id:  not recorded", "Certificates: none recorded", "serial cc"]
        {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(!shown.contains("Listens") && !shown.contains("Renews"), "{shown}");
        let overdue = DescribeInstanceResponse { renewal_due: ago(120), ..life };
        assert!(plain(&overdue).contains("overdue for 2m"), "{}", plain(&overdue));
    }

    #[test]
    fn a_token_of_an_enrollment_is_shown_with_its_labels_and_names_with_their_certificates() {
        let evidence = Evidence {
            attestor: "join_token".to_owned(),
            enrollment: "fleet".to_owned(),
            selectors: vec!["join_token:label:env:prod".to_owned()],
            verified_at: ago(3_500),
            source: "10.0.0.5:41200".to_owned(),
        };
        let token_id = "51318d570d44".to_owned();
        let instance =
            Instance { spiffe_id: ID.to_owned(), evidence: Some(evidence), token_id, ..Instance::default() };
        let mut named = certificate("a", ID, 1_700, "");
        named.certificate.as_mut().unwrap().dns_names =
            vec!["orders.example".to_owned(), "o.example".to_owned()];
        let life = DescribeInstanceResponse {
            instance: Some(instance),
            certificates: vec![named, certificate("c", ID, 3_500, "")],
            ..Default::default()
        };
        let shown = plain(&life);
        for part in [
            "join token 51318d570d44, enrollment/fleet",
            "join_token:label:env:prod",
            "orders.example,o.example",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }

    #[test]
    fn what_is_not_recorded_is_said_to_be_so() {
        let instance = Instance {
            id: "vj85pstwk8".to_owned(),
            spiffe_id: ID.to_owned(),
            last_seen: ago(90),
            ..Instance::default()
        };
        let life = DescribeInstanceResponse { instance: Some(instance), ..Default::default() };
        insta::assert_snapshot!(plain(&life));
    }
}
