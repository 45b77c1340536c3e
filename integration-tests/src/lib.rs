//! A real mesh in a box: the three binaries as processes on free ports of the loopback, in a
//! temporary folder, stopped when the box is dropped. The tests in `tests/it` and the benchmark in
//! `benches/mesh` drive it; nothing else depends on it.
//!
//! Everything here panics when something does not come about: it is test code.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test code: a failure is a panic with a reason, and processes are timed by the real clock"
)]

mod agent;
mod app;
mod control_plane;
pub mod dial;
mod process;
mod skipped;
mod wait;

pub use agent::{Agent, AgentOptions};
pub use app::{App, Response, get, request};
pub use control_plane::{CommandOutput, MeshBox, MeshOptions};
pub use process::{Process, binary, bounded, finished};
pub use skipped::{Excuse, excuse, shared, skip, wants_long_tests, wants_longest_tests};
pub use wait::{eventually, eventually_async, free_port};
