//! Two data paths, or more, over loopback: real TLS, real policies, no control plane.

#![allow(clippy::indexing_slicing, reason = "in a test a panic is a failure, as it should be")]

mod apps;
mod clients;
mod http;
mod live;
mod tcp;
mod world;
