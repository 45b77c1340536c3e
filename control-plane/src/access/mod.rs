//! Who may call what: a closed table of all RPCs, and the layer before all services that holds callers against it.

mod caller;
mod layer;
mod table;

#[cfg(test)]
mod tests;

pub use caller::{CallContext, Caller, ConnectionInfo};
pub use layer::{AccessLayer, AccessService};
pub use table::{Access, TABLE, access_to};
