//! What every part of the data path shares.

use std::sync::Arc;

use hauberk_tls::LiveIdentity;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::decisions::Decisions;
use crate::mesh::Mesh;
use crate::metrics::Metrics;
use crate::state::StoredTrust;

/// Handed to every listener. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Context {
    /// The time of day.
    pub clock: Clock,
    /// Our certificate, key and bundle.
    pub identity: LiveIdentity,
    /// What the control plane says is to be trusted, of which the bundle is a part.
    pub trust: watch::Receiver<Arc<StoredTrust>>,
    /// What is known of the mesh.
    pub mesh: Mesh,
    /// Where decisions go.
    pub decisions: Arc<Decisions>,
    /// Where traffic is counted.
    pub metrics: Arc<Metrics>,
}
