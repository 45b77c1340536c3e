//! Why a step is not taken.

use std::time::Duration;

use hauberk_identity::{UnixMillis, Validity};
use hauberk_tls::{CsrError, LiveIdentityError, UpstreamError};

use super::{NAMED, named};
use crate::authority::records::State;
use crate::authority::{AuthorityError, TokenError, UpstreamFault};
use crate::instances::Trusting;
use crate::jwt_svid::SigningKeyError;
use crate::registry::StoreError;

/// A step that was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    /// The authorities cannot be read, or a new one cannot be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The registry refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was decided cannot be put in force here.
    #[error("the new trust bundle cannot be used")]
    Publish(#[from] LiveIdentityError),
    /// A key that signs tokens cannot be read or made.
    #[error(transparent)]
    SigningKey(#[from] SigningKeyError),
    /// The caller names none.
    #[error("there is no authority {0}: `hauberk authority list` shows those there are")]
    Unknown(String),
    /// It signs every view.
    #[error(
        "the key {0} signs views: put another in its place first, with `hauberk authority rotate view-key`"
    )]
    ViewKeySigns(String),
    /// The step does not follow from where the authority is.
    #[error("authority {serial} is {}: {needed}", .state.as_str())]
    WrongState {
        /// Which.
        serial: String,
        /// What it is.
        state: State,
        /// What can be done.
        needed: &'static str,
    },
    /// An issuing authority becomes active with its root.
    #[error(
        "issuing authority {serial} stands under root {root}, which is not active: activate that, both become active then"
    )]
    UnderPreparedRoot {
        /// Which.
        serial: String,
        /// Its root.
        root: String,
    },
    /// Nothing could be signed once it is active.
    #[error(
        "authority {serial} is valid from {} to {}, and it is {now}: see to the clock, or take it away with `hauberk authority \
         revoke {serial}` and prepare another",
        .validity.not_before(),
        .validity.not_after()
    )]
    NotValidNow {
        /// Which.
        serial: String,
        /// When it is.
        validity: Validity,
        /// The time.
        now: UnixMillis,
    },
    /// Nothing could be signed once this root is active.
    #[error(
        "no issuing authority stands under root {0} yet: have one signed, with `hauberk authority csr`, then `hauberk \
         authority install`"
    )]
    NothingUnder(String),
    /// Another one would wait beside it.
    #[error(
        "authority {0} is prepared already: activate it, or take it away with `hauberk authority revoke`"
    )]
    Waits(String),
    /// Nobody asked for it.
    #[error("no request waits: `hauberk authority csr` makes one")]
    NoRequest,
    /// The caller's request cannot be signed.
    #[error(transparent)]
    Request(#[from] CsrError),
    /// A key that was taken back would come again.
    #[error(
        "the key of this request is that of authority {serial}, which is {}: make another request, with `hauberk authority \
         csr --new`",
        .state.as_str()
    )]
    KeyUsed {
        /// Whose key it is.
        serial: String,
        /// What that is.
        state: State,
    },
    /// What was signed elsewhere will not do.
    #[error(transparent)]
    Unacceptable(#[from] UpstreamError),
    /// Authorities are told apart by their serial numbers.
    #[error("there is an authority {0} already: have it signed again, with a random serial number")]
    SerialTaken(String),
    /// It was retired, or is about to be.
    #[error("root {serial} was in use before and is {}: choose another", .state.as_str())]
    FormerRoot {
        /// Which.
        serial: String,
        /// What it is.
        state: State,
    },
    /// What it has signed is known here.
    #[error("root {0} is this installation's own: `--exclusive` is said of somebody else's")]
    OwnRoot(String),
    /// Everybody verifies with every one of them.
    #[error("{0} roots are announced already: take one away with `hauberk authority revoke`")]
    TooManyRoots(usize),
    /// Another root was asked for.
    #[error(
        "root {0} is still the one by which authorities are signed for us: that one has to be replaced first"
    )]
    SameRoot(String),
    /// An installation has one source of authorities.
    #[error("the settings say who signs the authorities of this installation: take those away first")]
    UpstreamIsSet,
    /// Who signs for us did not.
    #[error(transparent)]
    Upstream(#[from] UpstreamFault),
    /// There is one for each control plane, and one of its successors.
    #[error(
        "{0} authorities are delegated already: take away those that sign no longer, with `hauberk authority revoke SERIAL \
         --now`"
    )]
    TooManyDelegated(usize),
    /// Agents would have to know too many.
    #[error(
        "there are {0} keys of tokens already: wait until those that retire have gone, or take some away with \
         `hauberk authority revoke KEY-ID`"
    )]
    TooManyJwtKeys(usize),
    /// Another control plane needs one in months.
    #[error("you have had authorities signed too often: again in {} minutes", .again_in.as_secs().div_ceil(60))]
    TooOften {
        /// When it may be.
        again_in: Duration,
    },
    /// Somebody would meet certificates that they do not trust yet.
    #[error(
        "{count} live instances do not trust it yet ({}): wait for them, or until their certificates expire",
        .named.join(", ")
    )]
    NotTrustedYet {
        /// How many.
        count: usize,
        /// The first of them.
        named: Vec<String>,
    },
    /// Somebody would be cut off.
    #[error(
        "{count} live instances hold certificates by it ({}): wait until they have renewed, or cut them off with --now",
        .named.join(", ")
    )]
    StillHeld {
        /// How many.
        count: usize,
        /// The first of them.
        named: Vec<String>,
    },
    /// Who shows such a token would be refused.
    #[error(
        "tokens that key {key_id} has signed may be in use until {until}: wait until then; where the key may be in other hands \
         have them replaced, with `hauberk authority taint`, or take them all back with --now"
    )]
    TokensInUse {
        /// Which.
        key_id: String,
        /// When the last of them ends.
        until: UnixMillis,
    },
    /// The same.
    #[error(
        "{count} live instances may still hand out tokens that it has signed ({}): wait some seconds, or take them all back with \
         --now",
        .named.join(", ")
    )]
    TokensKept {
        /// How many.
        count: usize,
        /// The first of them.
        named: Vec<String>,
    },
    /// Another control plane would be cut off.
    #[error(
        "authority {serial} signs for another control plane until {ends} (asked for by {delegate}), whose instances are not \
         known here: have that one signed for anew first, or cut off what it has signed with --now"
    )]
    StillDelegated {
        /// Which.
        serial: String,
        /// Who had it signed.
        delegate: String,
        /// The end of its certificate.
        ends: UnixMillis,
    },
    /// The same, where the clock is wrong.
    #[error(
        "authority {serial} signed for another control plane until {ended} (asked for by {delegate}), which is past if the clock is \
         right, and that is believed in {} minutes, unless it is set before: revoke it then, or now with --now",
        .believed_in.as_secs().div_ceil(60)
    )]
    MaybeDelegated {
        /// Which.
        serial: String,
        /// Who had it signed.
        delegate: String,
        /// The end of its certificate.
        ended: UnixMillis,
        /// How long it takes until the clock is believed.
        believed_in: Duration,
    },
    /// A key that signs views has no such step.
    #[error(
        "{key_id} is a key that signs views, and such keys are not {step}: `hauberk authority rotate view-key` puts another in its \
         place at once, and `hauberk authority revoke {key_id}` takes trust away from it then"
    )]
    NotOfViewKeys {
        /// Which.
        key_id: String,
        /// What was to be done with it.
        step: &'static str,
    },
    /// Calls that are under way would be cut.
    #[error(
        "{count} live instances may have connections on which nothing newer is proved ({}): {}, or cut those connections with --now",
        .named.join(", "),
        what_of_those_away(away)
    )]
    StillProved {
        /// How many.
        count: usize,
        /// The first of them.
        named: Vec<String>,
        /// The ids of those that are away.
        away: Vec<String>,
    },
}

/// Live instances may have connections that rest on what is to be revoked.
pub(super) fn still_proved(late: &[Trusting]) -> LifecycleError {
    let named = named(late.iter().map(|late| (&late.spiffe_id, late.instance.to_string())));
    let away = late.iter().filter(|late| !late.is_connected).map(|late| late.instance.to_string()).collect();
    LifecycleError::StillProved { count: late.len(), named, away }
}

fn what_of_those_away(away: &[String]) -> String {
    if away.is_empty() {
        return "wait some seconds, see `hauberk authority list`".to_owned();
    }
    let commands: Vec<_> =
        away.iter().take(NAMED).map(|id| format!("`hauberk revoke instance {id}`")).collect();
    let more = match away.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(", and so of {more} more"),
    };
    format!(
        "of them {} are away: start those again, or have those that do not come back refused by everybody, with {}{more}",
        away.len(),
        commands.join(", ")
    )
}

impl From<TokenError> for LifecycleError {
    fn from(error: TokenError) -> Self {
        Self::Authority(error.into())
    }
}
