//! Which steps are due by themselves: a pure function of the authorities and the time.

use std::time::Duration;

use hauberk_identity::{UnixMillis, Validity};
use hauberk_tls::AuthorityCertificate;

use super::book::{Book, Entry, Kind};
use super::records::State;
use super::view_keys;
use crate::clock::Clock;

const DAY: Duration = Duration::from_secs(86_400);

/// The next authority is prepared at half life, but not earlier than this before the end.
const PREPARED_BEFORE_END: Duration = Duration::from_secs(30 * 86_400);

/// It is activated with a sixth of the life left, but not earlier than this before the end.
const ACTIVATED_BEFORE_END: Duration = Duration::from_secs(7 * 86_400);

/// Nothing that an authority has signed lives longer than this after its last signature: a day, and room for clocks. Join
/// tokens live no longer either, nor credentials of admins: whoever knows a root by a token or context that was made
/// before another followed it has had that long.
pub(super) const OUTLIVED_AFTER: Duration = Duration::from_secs(25 * 3_600);

/// How long an authority waits before it becomes active by itself: by then its revocation list, and that of the issuing authority that
/// comes with a root, are with those who refuse what no list covers.
const LIST_IS_KNOWN_AFTER: Duration = Duration::from_secs(1);

/// How long one that was prepared by a clock which is not believed yet waits at least, or a twelfth of the life of the
/// one before it: by that it signs before the former ends, however short its life is, also while no control plane has
/// run for long.
const WAITS_FOR_THE_CLOCK: Duration = Duration::from_secs(3_600);

/// How long the record of an authority is kept after its certificate has expired.
const KEPT_AFTER_EXPIRY: Duration = DAY;

/// A step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Make the next authority of a kind, or let the one that waits go on by itself.
    Prepare { kind: Kind, goes_on: bool },
    /// Make it the one that signs, once all who must do trust it.
    Activate(String),
    /// Nothing that it has signed is valid any longer.
    Retire(String),
    /// Its certificate has long expired.
    Forget(String),
    /// Another key signs views.
    RotateViewKey,
    /// A key that signs views no longer is believed no longer.
    RevokeViewKey(String),
}

/// The time, for steps of which some cannot be undone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Instants {
    pub(super) now: UnixMillis,
    /// [`Clock::surely_past`](crate::clock::Clock::surely_past): age counts by this.
    pub(super) surely_past: UnixMillis,
    /// [`Clock::likely_past`](crate::clock::Clock::likely_past): by this others are made, which takes nothing away.
    pub(super) likely_past: UnixMillis,
}

impl Instants {
    pub(super) fn of(clock: &Clock) -> Self {
        Self { now: clock.now(), surely_past: clock.surely_past(), likely_past: clock.likely_past() }
    }
}

/// What becomes of the active authority of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Succession {
    /// Nothing yet, or what waits is waited for.
    Rest,
    /// The next is made early, so that everybody has long known it once it signs.
    Prepare(Kind),
    /// The next is made, or the one that waits is told to go on by itself. Under somebody else's root it may be the next root.
    Hasten(Kind),
    /// What waits stands in the way of one that can sign now.
    MakeWay(String),
    /// What waits takes its place.
    Follow(String),
}

/// What is due, the most urgent first. `has_upstream`: the settings say who signs our issuing authorities.
pub(super) fn due(book: &Book, has_upstream: bool, at: Instants) -> Vec<Step> {
    let surely_past = at.surely_past;
    let mut steps = Vec::new();
    let root = book.active(Kind::Root);
    if has_upstream && root.is_some_and(Entry::has_key) && book.prepared(Kind::Root).is_none() {
        steps.push(Step::Prepare { kind: Kind::Root, goes_on: true });
    }
    for kind in [Kind::Root, Kind::Issuing] {
        steps.extend(match succession(kind, book, at) {
            Succession::Rest => None,
            Succession::Prepare(kind) => Some(Step::Prepare { kind, goes_on: false }),
            Succession::Hasten(kind) => Some(Step::Prepare { kind, goes_on: true }),
            Succession::MakeWay(serial) => Some(Step::Retire(serial)),
            Succession::Follow(serial) => Some(Step::Activate(serial)),
        });
    }
    for entry in &book.entries {
        let is_outlived = surely_past >= UnixMillis(entry.record.changed_at).plus(OUTLIVED_AFTER);
        let has_trusted_under = || book.under(&entry.serial).any(Entry::is_trusted);
        match entry.record.state {
            // It goes on signing where its key is.
            State::Delegated | State::Tainted if entry.is_anothers() && surely_past <= entry.not_after() => {}
            State::Delegated | State::Tainted if entry.is_anothers() => {
                steps.push(Step::Retire(entry.serial.clone()));
            }
            State::Retiring | State::Tainted if is_outlived && !has_trusted_under() => {
                steps.push(Step::Retire(entry.serial.clone()));
            }
            State::Retired if surely_past > entry.not_after().plus(KEPT_AFTER_EXPIRY) => {
                steps.push(Step::Forget(entry.serial.clone()));
            }
            _ => {}
        }
    }
    steps.extend(view_keys::due(book, surely_past));
    steps
}

fn succession(kind: Kind, book: &Book, at: Instants) -> Succession {
    let own = book.prepared(kind);
    let may_sign =
        |waiting: &&Entry| waiting.record.goes_on && waiting.certificate.validity().contains(at.now);
    if let Some(next) = own.filter(may_sign).filter(|next| is_known(book, next, at)) {
        return Succession::Follow(next.serial.clone());
    }
    let Some(active) = book.active(kind) else { return Succession::Rest };
    let is_signed_here = book.active(Kind::Root).is_some_and(Entry::has_key);
    // Under somebody else's root a successor may have been signed by that root's own successor.
    let waiting = own.or_else(|| book.prepared(Kind::Root).filter(|_| !is_signed_here));
    let is_urgent = is_of_no_use(active, book, at) || ends_soon(active, waiting, at);
    match waiting {
        Some(waiting) if is_urgent && is_signed_here && is_from_the_future(waiting, at) => {
            Succession::MakeWay(waiting.serial.clone())
        }
        Some(waiting) if is_urgent && !waiting.record.goes_on => Succession::Hasten(waiting.kind),
        Some(_) => Succession::Rest,
        None if is_urgent => Succession::Hasten(kind),
        None if at.likely_past >= before_end(active.certificate.validity(), 2, PREPARED_BEFORE_END) => {
            Succession::Prepare(kind)
        }
        None => Succession::Rest,
    }
}

/// Made by a clock that was set back since, or ended while nobody was there: nothing is signed until another follows. One that only a
/// clock ends which was just set ahead is good as soon as that is set right, which is waited for a while; and under a root that is not
/// valid either, none can be.
fn is_of_no_use(active: &Entry, book: &Book, at: Instants) -> bool {
    let validity = active.certificate.validity();
    active.kind == Kind::Issuing
        && !validity.contains(at.now)
        && !validity.contains(at.likely_past)
        && book.active(Kind::Root).is_some_and(|root| root.certificate.validity().contains(at.now))
}

/// One that was made at once by a clock that is wrong never signs: what waits does so until it can be told that the clock goes on.
fn ends_soon(active: &Entry, waiting: Option<&Entry>, at: Instants) -> bool {
    let last_part = before_end(active.certificate.validity(), 6, ACTIVATED_BEFORE_END);
    let waits = (life(active.certificate.validity()) / 12).min(WAITS_FOR_THE_CLOCK);
    let has_waited = |waiting: &Entry| at.likely_past >= UnixMillis(waiting.record.changed_at).plus(waits);
    at.surely_past >= last_part || (at.likely_past >= last_part && waiting.is_some_and(has_waited))
}

fn is_from_the_future(waiting: &Entry, at: Instants) -> bool {
    at.now < waiting.certificate.validity().not_before()
}

/// Of what stands between our latest issuing authority and its root, what ends first, once that is near: nothing that is
/// signed under it lives longer, our next authorities included.
pub(super) fn ends_above(book: &Book, now: UnixMillis) -> Option<(&Entry, AuthorityCertificate)> {
    let next = book.prepared(Kind::Root).and_then(|root| book.waits_under(root));
    let latest = next.or_else(|| book.prepared(Kind::Issuing)).or_else(|| book.active(Kind::Issuing))?;
    let first = latest.above().min_by_key(|above| above.validity().not_after())?;
    (now >= before_end(first.validity(), 2, PREPARED_BEFORE_END)).then_some((latest, first))
}

/// Whether those who have to know it have had the time to learn of it. Those who know a former root alone need not, where its issuing authority is
/// vouched for by that root too, or the former authorities end before.
fn is_known(book: &Book, waiting: &Entry, at: Instants) -> bool {
    let is_crossed = || book.cut_off_by(waiting, at.surely_past).is_empty();
    // Somebody else's root may have been announced long before anything was signed under it.
    let came_last = [Some(waiting), book.waits_under(waiting)].into_iter().flatten();
    let came_last = came_last.map(|entry| UnixMillis(entry.record.changed_at)).max();
    if came_last.is_some_and(|came_last| at.now < came_last.plus(LIST_IS_KNOWN_AFTER)) {
        return false;
    }
    if waiting.kind == Kind::Issuing {
        return true;
    }
    let known = UnixMillis(waiting.record.changed_at).plus(OUTLIVED_AFTER);
    let ends_before = || {
        let ends = |kind| book.active(kind).is_none_or(|active| active.not_after() < known.plus(DAY));
        ends(Kind::Root) || ends(Kind::Issuing)
    };
    is_crossed() || at.surely_past >= known || ends_before()
}

/// The instant at which a part of the life is left, or the most time before the end.
fn before_end(validity: Validity, part: u32, most: Duration) -> UnixMillis {
    validity.not_after().minus((life(validity) / part).min(most))
}

fn life(validity: Validity) -> Duration {
    validity.not_after().since(validity.not_before())
}
