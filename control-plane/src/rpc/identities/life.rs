//! The whole life of an instance: what it joined by, what was issued to it, and what the audit log has of it. Of one that has been
//! forgotten, what certificates and audit records still tell.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use hauberk_identity::{InstanceId, SpiffeId, UnixMillis, renewal_at};
use hauberk_proto::admin::v1::{
    CertificateOfInstance, DescribeInstanceResponse, Instance, WorkloadOfInstance,
};
use hauberk_proto::mesh::v1::{Resource, resource::Spec};
use prost::Message as _;

use super::{certificate, evidence};
use crate::app::ControlPlane;
use crate::audit::{About, Concerns, Filter, Outcome, Record};
use crate::issuance::{Held, Holder, InstanceRecord};
use crate::registry::{StoreError, keys};
use crate::resources::{Problems, WorkloadEnrollment};
use crate::rpc::{audit, message};

/// The most certificates that are told, of the instance and of its workloads each.
const MOST_CERTIFICATES: usize = 100;

/// The most audit records that are told.
const MOST_RECORDS: usize = 200;

/// How long before an instance joined its token can have been made.
const TOKENS_LIVE: Duration = Duration::from_secs(86_400);

/// Puts together what is known of an instance: `now`, if it is there, and what is on `record`. `None` where nobody ever heard of it.
pub(super) async fn of(
    control: &ControlPlane,
    id: InstanceId,
    now: Option<Instance>,
    record: Option<InstanceRecord>,
) -> Result<Option<DescribeInstanceResponse>, StoreError> {
    let held = control.ledger.certificates_of(id).await?;
    let about = about(id, record.as_ref(), &held);
    let since = record.as_ref().map(|record| UnixMillis(record.enrolled_at).minus(TOKENS_LIVE));
    let (records, more_records) = records_of(control, &about, since).await?;
    let of_node = records.iter().filter(|record| about.concerns(record) == Some(Concerns::SomeOfItsNode));
    let records_of_node = of_node.map(|record| record.sequence).collect();
    let is_forgotten = now.is_none();
    let instance = now.or_else(|| former(id, record.as_ref(), &held, &records));
    let Some(instance) = instance else { return Ok(None) };
    let evidence = record.as_ref().and_then(|record| record.evidence.clone()).map(evidence);
    let instance = Instance { evidence, ..instance };
    // A record outlives the registry's.
    let first = records.iter().rev().find(|record| is_joining(record));
    let joined_at = record.as_ref().map(|record| record.enrolled_at).or(first.map(|first| first.at));
    let joined_from = record.as_ref().map(|record| record.joined_from.clone());
    let joined_from = joined_from.unwrap_or_else(|| first.map(|first| first.source.clone()));

    let mut not_looked_at = Vec::new();
    if held.has_more || held.has_more_nameless {
        let which = if held.has_more { "its certificates" } else { "certificates of earlier releases" };
        not_looked_at.push(format!("{which} beyond the first 10,000"));
    }
    let workloads = workloads(control, &instance.mesh, &instance.node, &held).await?;
    let is_revoked = control.revocations.denylist().is_instance_revoked(id);
    let renewal_due = record.filter(|_| !is_forgotten && !is_revoked).map(|record| {
        // Agents renew at half life, give or take a tenth of it.
        renewal_at(UnixMillis(record.issued_at), UnixMillis(record.not_after), 1.0)
    });
    let (own, of_workloads): (Vec<_>, Vec<_>) = told(control, held).into_iter().partition(is_its_own);
    Ok(Some(DescribeInstanceResponse {
        instance: Some(instance),
        joined_at: joined_at.map(|at| message::timestamp(UnixMillis(at))),
        joined_from: joined_from.unwrap_or_default(),
        more_certificates: own.len() > MOST_CERTIFICATES,
        certificates: own.into_iter().take(MOST_CERTIFICATES).collect(),
        more_workload_certificates: of_workloads.len() > MOST_CERTIFICATES,
        workload_certificates: of_workloads.into_iter().take(MOST_CERTIFICATES).collect(),
        workloads,
        records: records.into_iter().map(audit::record).collect(),
        more_records,
        records_of_node,
        renewal_due: renewal_due.map(message::timestamp),
        forgotten: is_forgotten,
        not_looked_at,
    }))
}

/// What names it in audit records: its id, its certificates, and the token that it used and others may try.
fn about(id: InstanceId, record: Option<&InstanceRecord>, held: &Held) -> About {
    let nameless = held.certificates.iter().filter(|(serial, _)| serial.instance().is_none());
    let token = record.and_then(|record| record.token.clone());
    let words: BTreeSet<String> = nameless.map(|(serial, _)| serial.to_string()).chain(token).collect();
    let spiffe_id = record.map(|record| &record.spiffe_id).or_else(|| own_spiffe_id(held));
    About { instance: id, spiffe_id: spiffe_id.cloned().unwrap_or_default(), words }
}

fn own_spiffe_id(held: &Held) -> Option<&String> {
    let own = held.certificates.iter().find(|(_, issued)| matches!(issued.holder, Holder::Instance(_)));
    own.map(|(_, issued)| &issued.spiffe_id)
}

/// What the audit log has of it, and whether there may be more: since then, or all of it.
async fn records_of(
    control: &ControlPlane,
    about: &About,
    since: Option<UnixMillis>,
) -> Result<(Vec<Record>, bool), StoreError> {
    let filter = Filter { about: Some(about.clone()), since, ..Filter::default() };
    let (mut records, mut from) = (Vec::new(), None);
    loop {
        let page = control.audit.list(&filter, from, MOST_RECORDS - records.len()).await?;
        records.extend(page.records);
        match page.next {
            None => return Ok((records, false)),
            Some(_) if records.len() >= MOST_RECORDS => return Ok((records, true)),
            next => from = next,
        }
        tokio::task::yield_now().await;
    }
}

/// Who it was that is there no longer; `None` where nothing says so.
fn former(
    id: InstanceId,
    record: Option<&InstanceRecord>,
    held: &Held,
    records: &[Record],
) -> Option<Instance> {
    let issued = records.iter().find(|record| is_joining(record) || is_done(record, "certificate.renew"));
    let spiffe_id = record
        .map(|record| &record.spiffe_id)
        .or(own_spiffe_id(held))
        .or(issued.map(|record| &record.object));
    // That somebody was refused something about an id does not say that it ever was one.
    let is_known = record.is_some()
        || !held.certificates.is_empty()
        || records.iter().any(|record| record.outcome == Outcome::Ok);
    if !is_known {
        return None;
    }
    let parsed = spiffe_id.and_then(|id| SpiffeId::parse(id).ok());
    let (mesh, node) = match parsed.and_then(|id| id.mesh_and_node()) {
        Some((mesh, node)) => (mesh.to_string(), node.to_string()),
        None => Default::default(),
    };
    let token = record.and_then(|record| record.token.clone());
    Some(Instance {
        id: id.to_string(),
        spiffe_id: spiffe_id.cloned().unwrap_or_default(),
        mesh,
        node,
        token_id: token.unwrap_or_default(),
        ..Instance::default()
    })
}

fn is_done(record: &Record, action: &str) -> bool {
    record.outcome == Outcome::Ok && record.action == action
}

fn is_joining(record: &Record) -> bool {
    is_done(record, "enrollment.attest")
}

fn is_its_own(told: &CertificateOfInstance) -> bool {
    told.enrollment.is_empty()
}

fn told(control: &ControlPlane, held: Held) -> Vec<CertificateOfInstance> {
    let denylist = control.revocations.denylist();
    let told = held.certificates.into_iter().map(|(serial, record)| {
        let id = SpiffeId::parse(&record.spiffe_id).ok();
        let denial = id.and_then(|id| denylist.denial(&id, serial));
        let enrollment = match &record.holder {
            Holder::Workload { enrollment, .. } => enrollment.clone(),
            Holder::Instance(_) | Holder::Admin(_) | Holder::ControlPlane => String::new(),
        };
        CertificateOfInstance {
            authority: record.issuer.clone().unwrap_or_default(),
            denied: denial.map(|denial| denial.as_str().to_owned()).unwrap_or_default(),
            certificate: Some(certificate((serial.to_string(), record))),
            enrollment,
        }
    });
    told.collect()
}

/// What the workloads are known by that it has vouched for.
async fn workloads(
    control: &ControlPlane,
    mesh: &str,
    node: &str,
    held: &Held,
) -> Result<Vec<WorkloadOfInstance>, StoreError> {
    let names = held.certificates.iter().filter_map(|(_, record)| match &record.holder {
        Holder::Workload { enrollment, .. } => Some(enrollment.clone()),
        Holder::Instance(_) | Holder::Admin(_) | Holder::ControlPlane => None,
    });
    let mut workloads = Vec::new();
    for enrollment in names.collect::<BTreeSet<_>>() {
        let key = keys::resource("Enrollment", mesh, &enrollment);
        let stored = control.store.get(&key).await?;
        let resource = stored.and_then(|stored| Resource::decode(stored.value).ok());
        let parsed = resource.and_then(|resource| match resource.spec? {
            Spec::Enrollment(spec) => {
                WorkloadEnrollment::parse(&spec, control.authority.trust_domain(), &mut Problems::default())
            }
            _ => None,
        });
        let parsed = parsed.filter(|workload| workload.parent().to_string() == node);
        let selectors = parsed.iter().flat_map(|workload| workload.selectors()).map(ToString::to_string);
        let selectors = selectors.collect();
        workloads.push(WorkloadOfInstance { enrollment, selectors, gone: parsed.is_none() });
    }
    Ok(workloads)
}
