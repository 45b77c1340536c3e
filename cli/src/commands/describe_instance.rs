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
use crate::times::{age, instant, until};

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
        present(&mut lines, instance, now);
    }
    joined(&mut lines, life, now);
    if let Some(evidence) = life.instance.as_ref().and_then(|instance| instance.evidence.as_ref()) {
        proved(&mut lines, evidence, now);
    }
    let text = lines.join("\n") + "\n";
    text + &certificates(life, now) + &records(life, now)
}

fn present(lines: &mut Vec<String>, instance: &Instance, now: UnixMillis) {
    let mut fact = |name: &str, value: &str| lines.push(fact(name, value));
    fact("Instance", &instance.id);
    fact("SPIFFE id", &instance.spiffe_id);
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
    fact("Listens", &none_or(ports.collect::<Vec<_>>().join(", ")));
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
    let own = life.instance.as_ref().map(|instance| instance.spiffe_id.as_str()).unwrap_or_default();
    let mut rows: Vec<_> = life.certificates.iter().map(|certificate| row(certificate, own, now)).collect();
    let mut headers = vec!["SERIAL", "ISSUED", "EXPIRES", "BY", "FOR"];
    let names = life.certificates.iter().map(|of| of.certificate.iter().flat_map(|of| &of.dns_names));
    // Few have any.
    if names.clone().any(|mut names| names.next().is_some()) {
        headers.push("DNS NAMES");
        for (row, names) in rows.iter_mut().zip(names) {
            row.push(names.cloned().collect::<Vec<_>>().join(","));
        }
    }
    if !life.certificates.is_empty() {
        text += &indented(&output::table(&headers, rows));
    }
    text
}

fn row(of: &CertificateOfInstance, own: &str, now: UnixMillis) -> Vec<String> {
    let certificate = of.certificate.clone().unwrap_or_default();
    let expires = match of.denied.as_str() {
        "" => until(certificate.not_after.as_ref(), now),
        denied => denied.to_owned(),
    };
    let path = certificate
        .spiffe_id
        .split_once("/workload/")
        .map_or(certificate.spiffe_id.as_str(), |(_, path)| path);
    vec![
        certificate.serial,
        format!("{} ago", age(certificate.issued_at.as_ref(), now)),
        expires,
        of.authority.get(..AUTHORITY_DIGITS).unwrap_or("-").to_owned(),
        if certificate.spiffe_id == own { "itself".to_owned() } else { format!("workload {path}") },
    ]
}

fn records(life: &DescribeInstanceResponse, now: UnixMillis) -> String {
    let mut text = heading("Audit", life.records.len(), life.more_records);
    let rows = life.records.iter().map(|record| record_row(record, now)).collect();
    if !life.records.is_empty() {
        text += &indented(&output::table(&["AGO", "OUTCOME", "ACTION", "FROM", "BECAUSE"], rows));
    }
    text
}

fn record_row(record: &AuditRecord, now: UnixMillis) -> Vec<String> {
    let is_refused = record.outcome() == AuditOutcome::Refused;
    // The certificate's row has the rest of its number.
    let reason = match record.reason.strip_prefix("serial ").filter(|_| !is_refused) {
        Some(serial) => format!("serial {}", serial.get(..8).unwrap_or(serial)),
        None => record.reason.clone(),
    };
    // Of the instance's own acts it is clear whose they are.
    let admin = record.actor.split_once("/admin/").map(|(_, name)| format!("admin {name}"));
    let because: Vec<String> =
        admin.into_iter().chain(Some(reason).filter(|reason| !reason.is_empty())).collect();
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

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

fn fact(name: &str, value: &str) -> String {
    format!("{:<12}{}", format!("{name}:"), printable(value))
}

fn none_or(text: String) -> String {
    if text.is_empty() { "nowhere".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use hauberk_proto::admin::v1::{InstancePort, IssuedCertificate};

    use super::*;
    use crate::times::timestamp;

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
            certificates: vec![
                certificate("a", ID, 1_700, ""),
                certificate("b", "spiffe://shop.example/workload/billing/worker", 2_000, ""),
                certificate("c", ID, 3_500, "revoked"),
            ],
            more_certificates: false,
            records: vec![
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
            "itself   orders.example,o.example",
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
