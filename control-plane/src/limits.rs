//! What the system lets this process do.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets the process open as many files as the system permits, and forbids core files, which would hold keys. What the
/// system refuses is logged: the control plane serves all the same, fewer agents.
pub fn prepare_process() {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    let no_core = Rlimit { current: Some(0), maximum: Some(0) };
    for (resource, limit) in [(Resource::Nofile, files), (Resource::Core, no_core)] {
        if let Err(error) = setrlimit(resource, limit) {
            tracing::warn!(event = "limit_not_set", ?resource, %error, "the system keeps its limit");
        }
    }
}
