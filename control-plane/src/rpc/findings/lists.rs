//! Revocation lists that do not say what they should.

use hauberk_proto::admin::v1::Finding;

use super::{error, warning};
use crate::revocation::crl::Trouble;

/// What programs that read revocation lists do not learn, or soon will not.
pub(super) fn of(trouble: &Trouble) -> Vec<Finding> {
    let Trouble { unsigned, is_held_up, overdue, incomplete_since, covers_leaves } = trouble;
    let unsigned = unsigned.as_ref().map(|unsigned| {
        let held_up = if *is_held_up { "; no list is published before it is" } else { "" };
        error(
            format!("the revocation list of an authority cannot be signed: {unsigned}{held_up}"),
            "mend that key, or the token that has it: once its former list is old, programs that read lists refuse all that it has \
             signed; it is tried again every few seconds",
        )
    });
    let incomplete = incomplete_since.map(|since| {
        warning(
            match covers_leaves {
                false => format!(
                    "since {since} Envoys are given no revocation lists: an authority of somebody else's is believed"
                ),
                true => format!(
                    "since {since} Envoys that ask for the roots of ALL are given no revocation lists: a root of somebody else's is believed"
                ),
            },
            match covers_leaves {
                false => {
                    "nothing, if that authority is meant to be there (`hauberk authority list`): let certificates of programs behind \
                     Envoys live for minutes (`x509Ttl`), or, if it is a root under which nobody else signs members, say so (`hauberk \
                     authority install ROOT --exclusive`)"
                }
                true => "have them ask for ROOTCA, or for the trust domain by its name, which come with lists",
            },
        )
    });
    let overdue = overdue.iter().map(|(authority, until)| {
        error(
            format!("the revocation list of authority {authority} should have been followed by another at {until}"),
            "programs that read lists refuse all that it has signed: mend what keeps it from being signed, or put another authority in \
             its place (`hauberk authority rotate`) and revoke it",
        )
    });
    unsigned.into_iter().chain(overdue).chain(incomplete).collect()
}
