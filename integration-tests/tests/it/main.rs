//! Drives the three binaries, as processes, with real clients and hostile peers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests: a failure is a panic with a reason"
)]

mod admin_access;
mod attestation;
mod attestors;
mod authorities;
mod authority_kills;
mod authorization;
mod back_ends;
mod boundaries;
mod certificates;
mod child;
mod client;
mod clocks;
mod compose;
mod compromised;
mod compromised_ports;
mod compromised_ways_out;
mod context;
mod context_facts;
mod cookbook;
mod crowd;
mod data_classes;
mod data_directory;
mod deleted_nodes;
mod described_routes;
mod dumps;
mod durability;
mod egress;
mod enrollment;
mod envoy;
mod federation;
mod forged;
mod framing;
mod framing_cases;
mod gateways;
mod grpc;
mod hostile;
mod house;
mod http2_frames;
mod identity_tokens;
mod impostors;
mod instance_life;
mod jwt_key_rotation;
mod jwt_keys;
mod jwt_svids;
mod labelled_tokens;
mod live_cut;
mod live_matrix;
mod load;
mod login;
mod marked_app;
mod mistakes;
mod node_labels;
mod operations;
mod outage;
mod overreach;
mod partner;
mod paths;
mod peer;
mod pkcs11;
mod policy_templates;
mod prospects;
mod python;
mod record;
mod refused_policies;
mod renewal;
mod replayed;
mod replicas;
mod resources;
mod restored;
mod revocation;
mod revocation_lists;
mod revoked_agents;
mod roles;
mod rollout;
mod sds;
mod shop;
mod spiffe_clients;
mod streaming_app;
mod svid_names;
mod tcp;
mod tcp_app;
mod third_party;
mod three_together;
mod token_revocations;
mod traffic;
mod upstream;
mod users;
mod users_outside;
mod workload_api;
mod workload_clients;
mod workload_files;
mod workload_revocations;
mod workload_tokens;
