//! Drives the three binaries, as processes, with real clients and hostile peers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests: a failure is a panic with a reason"
)]

mod authorization;
mod child;
mod client;
mod forged;
mod grpc;
mod house;
mod live_cut;
mod load;
mod outage;
mod paths;
mod peer;
mod replicas;
mod shop;
mod spiffe_clients;
mod streaming_app;
mod tcp;
mod tcp_app;
mod third_party;
mod traffic;
