//! Who somebody is and for how long: SPIFFE ids, resource names, selectors, validity windows, serials.
//!
//! Every type here is parsed once at the door and cannot hold an invalid value afterwards. The crate is pure: no
//! I/O, no clock (instants and random bytes are arguments), no serialisation framework.
#![forbid(unsafe_code)]

mod evidence;
mod name;
mod network;
mod node_name;
mod selector;
mod serial;
#[cfg(test)]
#[allow(dead_code, unreachable_pub, reason = "what the tests of one crate lack, those of another do not")]
#[path = "../../integration-tests/src/skipped.rs"]
mod skipped;
mod spiffe_id;
mod time;

pub use evidence::{Attestor, EvidenceKind, EvidenceSelector, EvidenceSelectorError};
pub use name::{Name, NameError};
pub use network::network_of;
pub use node_name::NodeName;
pub use selector::{Image, Pair, Selector, SelectorError, Unit};
pub use serial::{InstanceId, InstanceIdError, Serial, SerialError};
pub use spiffe_id::{IdentityKind, SpiffeId, SpiffeIdError, TrustDomain, TrustDomainError};
pub use time::{BACKDATED, UnixMillis, Validity, ValidityError, renewal_at};
