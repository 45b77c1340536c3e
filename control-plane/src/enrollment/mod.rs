//! How agents come by their identities: join tokens and evidence, the first certificate, and its renewals.

mod arrivals;
mod attest;
mod bearer;
mod error;
mod first;
mod former;
mod instance;
mod join;
mod node;
mod renew;
mod renewals;
mod token;
mod workload;

#[cfg(test)]
mod tests;

pub(crate) use arrivals::AT_ONCE as JOINS_AT_ONCE;
pub use attest::{NotAttested, Shown};
pub use error::EnrollmentError;
pub use former::Former;
pub use instance::AgentInfo;
pub(crate) use join::MOST_INSTANCES;
pub use join::{Enrolled, Enrollment, EnrollmentParts};
pub use token::{
    EnrollmentOfToken, IssuedToken, TokenError, TokenFor, TokenRecord, TokenRequest, TokenUse, TokenView,
    Tokens, Uses,
};
pub(crate) use workload::{EntitledWorkload, object as workload_object};
