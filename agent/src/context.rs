//! What every part of the data path shares.

use std::sync::Arc;

use hauberk_tls::LiveIdentity;

use crate::clock::Clock;
use crate::decisions::Decisions;
use crate::mesh::Mesh;
use crate::metrics::Metrics;

/// Handed to every listener. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Context {
    /// The time of day.
    pub clock: Clock,
    /// Our certificate, key and bundle.
    pub identity: LiveIdentity,
    /// What is known of the mesh.
    pub mesh: Mesh,
    /// Where decisions go.
    pub decisions: Arc<Decisions>,
    /// Where traffic is counted.
    pub metrics: Arc<Metrics>,
}
