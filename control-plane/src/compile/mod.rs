//! From resources to what agents get: computed once for each change, encoded and signed once, shared by all.
//!
//! [`view`] says what a node's and a service's view holds; [`start`] keeps them up with the registry, and publishes a
//! [`Compilation`] for each revision.

mod checked;
mod compilation;
mod compiler;
mod content;
mod draft;
mod fit;
mod former;
mod patterns;
mod policy_changes;
pub mod view;
mod view_records;
mod workloads;

pub use compilation::{Compilation, CompileFinding, CompiledView, Unmade};
pub use compiler::start;
pub use fit::Oversized;
pub(crate) use fit::oversized;
pub use former::FormerViews;
pub use patterns::HeavyPatterns;
pub(crate) use patterns::heavy_patterns;
