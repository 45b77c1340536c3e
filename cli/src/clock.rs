//! The one place that reads the wall clock.

use std::time::UNIX_EPOCH;

use hauberk_identity::UnixMillis;

/// The present instant.
#[allow(clippy::disallowed_methods, reason = "this is the command line's clock")]
pub(crate) fn now() -> UnixMillis {
    let since = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
