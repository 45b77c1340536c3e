//! What the system lets this process do.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Lets the process open as many files as the system permits. What the system refuses is logged: the control plane
/// serves all the same, fewer agents.
pub fn raise_open_files() {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, files) {
        tracing::warn!(event = "limit_not_set", %error, "the system keeps its limit of open files");
    }
}
