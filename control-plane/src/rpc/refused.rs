//! The records of what admins were refused.

use std::fmt::Display;

use crate::audit::{Act, Actor, Audit};

/// Records that an admin was refused something. The caller is refused even where that cannot be written.
pub(super) async fn record(
    audit: &Audit,
    actor: &Actor,
    action: &'static str,
    object: impl Into<String>,
    why: impl Display,
) {
    audit.record_refusal(Act::refused(actor, action, object, why)).await;
}
