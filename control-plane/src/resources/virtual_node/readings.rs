//! What a listener says of requests that servers read in more than one way.

use hauberk_policy::{EscapedSlashes, ObsText, Protocol};

use crate::resources::choice;
use crate::resources::problem::Problems;

/// What becomes of paths with escaped slashes.
pub(super) fn escaped_slashes(
    action: Option<&str>,
    protocol: Protocol,
    field: &str,
    problems: &mut Problems,
) -> EscapedSlashes {
    let field = format!("{field}.pathWithEscapedSlashesAction");
    let known = [
        ("REJECT_REQUEST", Some(EscapedSlashes::Reject)),
        ("KEEP_UNCHANGED", Some(EscapedSlashes::Keep)),
        ("UNESCAPE_AND_FORWARD", None),
        ("UNESCAPE_AND_REDIRECT", None),
    ];
    let Some(action) = action else { return EscapedSlashes::Reject };
    let Some(chosen) = choice::choose(problems, &field, action, &known) else {
        return EscapedSlashes::Reject;
    };
    let Some(chosen) = chosen else {
        let message = format!("{action} would pass on another path than the one that was asked for");
        problems.invalid_but(field, message, "write KEEP_UNCHANGED, or leave it out");
        return EscapedSlashes::Reject;
    };
    if chosen == EscapedSlashes::Keep && !matches!(protocol, Protocol::Http | Protocol::Http2) {
        problems.invalid(field, "only http and http2 listeners have paths that could hold slashes");
    }
    chosen
}

/// What becomes of header fields with bytes beyond ASCII.
pub(super) fn obs_text(
    word: Option<&str>,
    protocol: Protocol,
    field: &str,
    problems: &mut Problems,
) -> ObsText {
    let field = format!("{field}.obsText");
    let known = [("REJECT", ObsText::Reject), ("FORWARD", ObsText::Forward)];
    let chosen = word.and_then(|word| choice::choose(problems, &field, word, &known)).unwrap_or_default();
    if chosen == ObsText::Forward && protocol == Protocol::Tcp {
        problems.invalid(field, "on tcp there are no requests, and so no header fields");
    }
    chosen
}
