//! The control plane of Hauberk: it issues short-lived service certificates and pushes authorization rules.
#![forbid(unsafe_code)]

pub mod access;
pub mod admins;
pub mod allowance;
pub mod app;
pub mod ask;
pub mod attestation;
pub mod audit;
pub mod authority;
pub mod bulkhead;
pub mod clock;
pub mod compile;
pub mod config;
pub mod enrollment;
pub mod federation;
pub mod flows;
pub mod health;
pub mod init;
pub mod instances;
pub mod issuance;
pub mod jwt_svid;
pub mod limits;
pub mod metrics;
pub mod oidc;
pub mod private_file;
pub mod prune;
pub mod push;
pub mod random;
pub mod registry;
pub mod resources;
pub mod restored;
pub mod revocation;
pub mod room;
pub mod rpc;
pub mod secret;
pub mod server_certificate;
pub mod simulate;
pub mod telemetry;
pub mod web;

#[cfg(test)]
#[allow(dead_code, unreachable_pub, reason = "what the tests of one crate lack, those of another do not")]
#[path = "../../integration-tests/src/skipped.rs"]
mod skipped;
#[cfg(test)]
mod testing;
