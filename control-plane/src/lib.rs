//! The control plane of Hauberk: it issues short-lived service certificates and pushes authorization rules.

pub mod audit;
pub mod authority;
pub mod clock;
pub mod config;
pub mod enrollment;
pub mod health;
pub mod issuance;
pub mod metrics;
pub mod private_file;
pub mod random;
pub mod registry;
pub mod secret;
pub mod telemetry;
