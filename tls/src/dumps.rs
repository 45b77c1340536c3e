//! Keys stay in the memory of the process that holds them.

use std::io;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// Forbids what would carry the memory of this process elsewhere, and the keys in it: core files, those among them that
/// the system hands to a program, and other processes of the same user that would read it or trace us. To be called by
/// programs that hold keys, before they have any. Programs that they start are not concerned.
///
/// A limit of zero on core files would do less: a program that `core_pattern` names gets them all the same, and apps
/// started by an agent would inherit it.
///
/// # Errors
/// The system refuses.
pub fn forbid_dumps() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(io::Error::from)
}
