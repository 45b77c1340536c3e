//! `aws`: the identity document of an EC2 instance, signed by its region.
//!
//! Whoever can read the instance's metadata has the document, and it never expires: it counts for the first key that shows
//! it, and for no other.

use hauberk_identity::{Attestor, EvidenceKind, EvidenceSelector, UnixMillis};
use hauberk_tls::cms::DocumentSigners;
use serde::Deserialize;

use super::{Attested, EvidenceError};

/// What a document says of its instance, as far as it matters here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    account_id: String,
    region: String,
    instance_id: String,
    availability_zone: Option<String>,
    image_id: Option<String>,
    instance_type: Option<String>,
}

pub(super) fn verify(
    document: &[u8],
    signers: &DocumentSigners,
    now: UnixMillis,
) -> Result<Attested, EvidenceError> {
    let verified = signers.verify(document, now)?;
    // The bytes that were verified, and no others, are what is read.
    let document: Document =
        serde_json::from_slice(&verified.content).map_err(|_| EvidenceError::NoInstance)?;
    let Document { account_id, region, instance_id, availability_zone, image_id, instance_type } = document;
    let subject = format!("instance {instance_id} of account {account_id}");
    let said = [
        (EvidenceKind::AwsAccount, Some(account_id)),
        (EvidenceKind::AwsRegion, Some(region)),
        (EvidenceKind::AwsInstanceId, Some(instance_id)),
        (EvidenceKind::AwsAvailabilityZone, availability_zone),
        (EvidenceKind::AwsImageId, image_id),
        (EvidenceKind::AwsInstanceType, instance_type),
    ];
    let said = said.into_iter().filter_map(|(kind, value)| Some(EvidenceSelector::new(kind, &value?)));
    let selectors = said.collect::<Result<_, _>>().map_err(|_| EvidenceError::NoInstance)?;
    Ok(Attested { attestor: Attestor::Aws, subject, selectors, voucher: verified.signer.to_string() })
}
