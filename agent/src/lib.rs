//! Stands beside a service: mutual TLS, routing and authorization.
//!
//! What is where:
//!
//! - `app`: what starts and stops; `config`: what it is told; `child`: the app as our child
//! - `enroll`, `attestation`, `renew`, `credentials`, `state`: who we are, how we show it, and what is kept on disk; `skew`:
//!   what our clock is off by; `secret_file`: what others keep for us on a disk that may not answer
//! - `sync`, `control_plane`: the stream from which views, endpoints and trust come
//! - `mesh`: what is known of the mesh, as snapshots that the data path reads
//! - `inbound`, `outbound`, `connections`, `wire`: the data path
//! - `users`: for whom requests are made, by the tokens of the mesh's issuers
//! - `workloads`: identities for programs beside us, by the SPIFFE Workload API and Envoy's SDS
//! - `decisions`: what becomes of each decision: ids, memory, access lines, summaries for the control plane
//! - `metrics`: what is counted of traffic
//! - `resident`: memory that is given back; `runtime`: the threads
//! - `admin`, `health`, `status`, `telemetry`: what people and probes see

mod addresses;
mod admin;
pub mod app;
mod attestation;
pub mod child;
pub mod clock;
pub mod config;
pub mod connections;
pub mod context;
pub mod control_plane;
pub mod credentials;
pub mod decisions;
pub mod enroll;
pub mod health;
pub mod inbound;
mod local_http;
pub mod mesh;
pub mod metrics;
pub mod outbound;
pub mod random;
pub mod renew;
mod resident;
pub mod runtime;
pub mod secret_file;
mod skew;
#[cfg(test)]
#[allow(dead_code, unreachable_pub, reason = "what the tests of one crate lack, those of another do not")]
#[path = "../../integration-tests/src/skipped.rs"]
mod skipped;
pub mod state;
mod status;
pub mod sync;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod users;
mod wire;
pub mod workloads;
