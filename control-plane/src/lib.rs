//! The control plane of Hauberk: it issues short-lived service certificates and pushes authorization rules.

pub mod registry;
