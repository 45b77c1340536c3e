//! Traffic from the mesh to the app beside us.
//!
//! Each listener terminates mutual TLS, decides every connection, request and stream (`admit.rs`), and passes on what
//! is allowed to the app on loopback.

mod admit;
mod app;
mod app_failure;
mod http;
mod limits;
mod listener;
mod prove;
mod tcp;
mod tunnel;
mod turned_away;
mod unanswered;

pub use limits::Limits;
pub use listener::{Listener, serve};
