//! Who is refused before their certificates expire: revoked certificates and instances, nodes in quarantine.
//!
//! Each is a durable record. From all of them follows the [`Denylist`]: this control plane holds every call against it,
//! and it is signed and pushed to all agents.

pub mod crl;
mod denylist;
mod error;
mod kept_lists;
mod plan;
mod records;
mod revocations;
mod revoke;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use denylist::{Certificate, Listed};
pub use denylist::{Denial, Denylist, Mark};
pub use error::RevocationError;
pub use plan::Left;
pub use records::{check_certificate, check_instance, check_node, last_revoked};
pub use revocations::{Revocations, RevocationsParts, Target};
pub use revoke::Revoked;
