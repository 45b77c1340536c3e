//! Random bytes from the system's generator, by way of the cryptographic library.

use aws_lc_rs::rand;
use hauberk_identity::{InstanceId, Serial};

/// The generator gave nothing: nothing that needs it may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system's random generator fails")]
pub struct NoRandomness;

/// Fresh random bytes.
///
/// # Errors
/// When the system has none to give.
pub fn bytes<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

/// A new serial number.
///
/// # Errors
/// As [`bytes()`].
pub fn serial() -> Result<Serial, NoRandomness> {
    bytes().map(Serial::from_random)
}

/// A new serial number that says which instance answers for the certificate.
///
/// # Errors
/// As [`bytes()`].
pub fn serial_of(instance: InstanceId) -> Result<Serial, NoRandomness> {
    Ok(Serial::of_instance(instance, bytes()?))
}

/// The id of a new instance.
///
/// # Errors
/// As [`bytes()`].
pub fn instance_id() -> Result<InstanceId, NoRandomness> {
    bytes().map(InstanceId::from_random)
}

/// A number between 0 and 1, for spreading things in time.
pub fn fraction() -> f64 {
    // Without randomness things happen together, which is no reason to stop.
    let [high, low] = bytes::<2>().unwrap_or([128, 0]);
    f64::from(u16::from_be_bytes([high, low])) / f64::from(u16::MAX)
}
