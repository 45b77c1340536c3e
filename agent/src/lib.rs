//! Stands beside a service: mutual TLS, routing and authorization.
//!
//! - `mesh`: what is known of the mesh, as snapshots that the data path reads
//! - `decisions`: what becomes of each decision: ids, memory, access lines, summaries for the control plane

pub mod clock;
pub mod context;
pub mod decisions;
pub mod mesh;
