//! The whole life of an instance: what it joined by, what was issued to it, and what the audit log has of it.

use std::collections::BTreeSet;

use hauberk_identity::{InstanceId, Serial, SpiffeId, UnixMillis};
use hauberk_proto::admin::v1::{CertificateOfInstance, DescribeInstanceResponse, Instance};

use super::certificate;
use crate::app::ControlPlane;
use crate::audit::Filter;
use crate::issuance::{InstanceRecord, IssuedRecord};
use crate::registry::StoreError;
use crate::revocation::Denylist;
use crate::rpc::{audit, message};

/// The most certificates that are told.
const MOST_CERTIFICATES: usize = 100;

/// The most audit records that are told.
const MOST_RECORDS: usize = 50;

/// Puts together what is known of an instance.
pub(super) async fn of(
    control: &ControlPlane,
    id: &InstanceId,
    instance: Instance,
    record: Option<InstanceRecord>,
) -> Result<DescribeInstanceResponse, StoreError> {
    let denylist = control.revocations.denylist();
    let issued = control.ledger.certificates_of(id, MOST_CERTIFICATES).await?;
    // Records name an instance by its id, by a certificate of it, or by the token that it used and others may try.
    let serials = issued.certificates.iter().map(|(serial, _)| serial.clone());
    let token = record.as_ref().and_then(|record| record.token.clone());
    let words: BTreeSet<String> = serials.chain([id.to_string()]).chain(token).collect();
    let records = control.audit.list(&Filter { words, ..Filter::default() }, None, MOST_RECORDS).await?;
    Ok(DescribeInstanceResponse {
        instance: Some(instance),
        joined_at: record.as_ref().map(|record| message::timestamp(UnixMillis(record.enrolled_at))),
        joined_from: record.and_then(|record| record.joined_from).unwrap_or_default(),
        more_certificates: issued.next.is_some(),
        certificates: issued.certificates.into_iter().map(|issued| told(issued, &denylist)).collect(),
        more_records: records.next.is_some(),
        records: records.records.into_iter().map(audit::record).collect(),
    })
}

fn told((serial, record): (String, IssuedRecord), denylist: &Denylist) -> CertificateOfInstance {
    let denial = match (SpiffeId::parse(&record.spiffe_id), serial.parse::<Serial>()) {
        (Ok(id), Ok(serial)) => denylist.denial(&id, serial),
        _ => None,
    };
    CertificateOfInstance {
        authority: record.issuer.clone().unwrap_or_default(),
        denied: denial.map(|denial| denial.as_str().to_owned()).unwrap_or_default(),
        certificate: Some(certificate((serial, record))),
    }
}
