//! Two data paths, or more, over loopback: real TLS, real policies, no control plane.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "all of this is test code, where a panic is a failure, as it should be"
)]

mod answers;
mod apps;
mod clients;
mod content;
mod crowd;
mod http;
mod interim;
mod live;
mod observed;
mod renewal;
mod tcp;
mod world;
