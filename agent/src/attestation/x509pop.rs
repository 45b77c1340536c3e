//! `x509pop`: a certificate of this machine, and proof that we have its key.

use hauberk_proto::agent::v1::X509PopProof;
use hauberk_tls::PublicKey;
use hauberk_tls::device::{ChannelBinding, DeviceKey, DeviceKeyError, statement};

use super::{EvidenceError, text_of};
use crate::config::EnrollmentName;
use crate::secret_file::SecretFile;

pub(super) async fn read(certificate: &SecretFile, key: &SecretFile) -> Result<DeviceKey, EvidenceError> {
    let chain = text_of(certificate).await?;
    let key = text_of(key).await?;
    let wrong = |source| EvidenceError::Device { path: certificate.path().to_owned(), source };
    DeviceKey::from_pem(&chain, key.as_bytes()).map_err(wrong)
}

pub(super) fn show(
    device: &DeviceKey,
    channel: &ChannelBinding,
    agent_key: &PublicKey,
    enrollment: &EnrollmentName,
) -> Result<X509PopProof, DeviceKeyError> {
    let EnrollmentName { mesh, name } = enrollment;
    let signature = device.prove(&statement(channel, agent_key, mesh.as_str(), name.as_str()))?;
    let chain = device.chain().iter().map(|certificate| certificate.to_vec()).collect();
    Ok(X509PopProof { chain, signature })
}
