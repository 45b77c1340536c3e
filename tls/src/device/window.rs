//! When a machine's certificate is good, by our clock and a little leeway for that of whoever issued it.

use std::time::Duration;

use hauberk_identity::UnixMillis;

use crate::certificate::Facts;
use crate::verifier::VerifyError;

/// How far the clock of whoever issues certificates to machines may be ahead of ours: a machine shows its first as soon as it has it.
const LEEWAY: Duration = Duration::from_secs(60);

/// Now, or a little later, if a certificate begins then.
pub(super) fn begun(facts: &Facts<'_>, now: UnixMillis) -> UnixMillis {
    let begins = facts.validity.not_before();
    if begins <= now.plus(LEEWAY) { begins.max(now) } else { now }
}

pub(super) fn check_window(facts: &Facts<'_>, now: UnixMillis) -> Result<(), VerifyError> {
    let (not_before, not_after) = (facts.validity.not_before(), facts.validity.not_after());
    if now.floor_to_second() > not_after {
        return Err(VerifyError::Expired { not_after, now });
    }
    if now < not_before {
        return Err(VerifyError::NotYetValid { not_before, now });
    }
    Ok(())
}
