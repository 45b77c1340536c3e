//! How agents come by their identities: join tokens, the first certificate, and its renewals.

mod join;
mod node;
mod token;

#[cfg(test)]
mod tests;

pub use join::{AgentInfo, Enrolled, Enrollment, EnrollmentError, EnrollmentParts};
pub use token::{IssuedToken, TokenError, TokenRecord, TokenRequest, TokenUse, TokenView, Tokens, Uses};
