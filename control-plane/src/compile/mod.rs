//! From resources to what agents get: computed once for each change, encoded and signed once, shared by all.
//!
//! [`view`] says what a node's and a service's view holds; the [`Compiler`] keeps them up with the registry, and
//! publishes a [`Compilation`] for each revision.

mod compilation;

pub use compilation::{Compilation, CompileFinding, CompiledView};
