//! When a machine's certificate is good, by our clock and a little leeway for that of whoever issued it.

use std::time::Duration;

use hauberk_identity::UnixMillis;

use crate::certificate::Facts;

/// How far the clock of whoever issues certificates to machines may be ahead of ours: a machine shows its first as soon as it has it.
const LEEWAY: Duration = Duration::from_secs(60);

/// Now, or a little later, if a certificate begins then.
pub(super) fn begun(facts: &Facts<'_>, now: UnixMillis) -> UnixMillis {
    let begins = facts.validity.not_before();
    if begins <= now.plus(LEEWAY) { begins.max(now) } else { now }
}
