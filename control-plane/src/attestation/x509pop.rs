//! `x509pop`: a machine's certificate, and proof that its agent has the key.

use std::collections::BTreeSet;

use hauberk_identity::{Attestor, EvidenceKind, EvidenceSelector};
use hauberk_tls::CertificateDer;
use hauberk_tls::device::{Device, DeviceAuthorities, DeviceError, statement};

use super::{Attested, EvidenceError, Occasion};

pub(super) fn verify(
    chain: &[Vec<u8>],
    signature: &[u8],
    authorities: &DeviceAuthorities,
    occasion: Occasion<'_>,
) -> Result<Attested, EvidenceError> {
    let Occasion { channel, agent_key, mesh, enrollment, network: _, now } = occasion;
    let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let device = authorities.verify(&chain, now)?;
    device.check_proof(&statement(channel, agent_key, mesh, enrollment), signature)?;
    let voucher = device.authorities().last().ok_or(DeviceError::Proof)?.to_string();
    Ok(Attested {
        attestor: Attestor::X509Pop,
        subject: format!("key {}", device.facts().key_fingerprint),
        selectors: selectors(&device),
        voucher,
    })
}

/// What a selector cannot say, such as a name with control characters, is not said.
fn selectors(device: &Device) -> BTreeSet<EvidenceSelector> {
    let facts = device.facts();
    let said = |kind, value: &str| EvidenceSelector::new(kind, value).ok();
    let names = facts.common_names.iter().filter_map(|name| said(EvidenceKind::X509PopSubjectCn, name));
    let dns = facts.dns_names.iter().filter_map(|name| said(EvidenceKind::X509PopSanDns, name));
    let uris = facts.uris.iter().filter_map(|uri| said(EvidenceKind::X509PopSanUri, uri));
    let ips = facts.ip_addresses.iter().filter_map(|ip| said(EvidenceKind::X509PopSanIp, &ip.to_string()));
    let authorities = device.authorities().iter();
    let authorities =
        authorities.filter_map(|own| said(EvidenceKind::X509PopCaFingerprint, &own.to_string()));
    let serial = said(EvidenceKind::X509PopSerialNumber, &facts.serial.to_string());
    names.chain(dns).chain(uris).chain(ips).chain(authorities).chain(serial).collect()
}
