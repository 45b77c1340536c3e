//! The commit of each step.

use hauberk_identity::{TrustDomain, UnixMillis};
use hauberk_tls::{IssuingAuthority, RootAuthority};

use crate::authority::book::{Book, Entry, Kind, put};
use crate::authority::records::{AuthorityRecord, Cross, State};
use crate::authority::steps::{Instants, OUTLIVED_AFTER};
use crate::authority::{AuthorityError, KeyStore, make};
use crate::random;
use crate::registry::{Commit, StoreError};

/// A new authority, prepared. With a root comes the issuing authority under it, in one commit: neither is of use alone.
pub(super) fn prepare(
    book: &Book,
    kind: Kind,
    goes_on: bool,
    trust_domain: &TrustDomain,
    keys: &KeyStore,
    at: Instants,
) -> Result<(String, Commit), AuthorityError> {
    match kind {
        Kind::Issuing => {
            let (serial, mut record) = issuing(book, keys, at)?;
            record.goes_on = goes_on;
            record.created_at = after_all(book, at.now);
            Ok((serial.clone(), put(book.change()?, Kind::Issuing, &serial, &record)?))
        }
        Kind::Root => match book.active(Kind::Root) {
            Some(active) if !active.has_key() => Err(AuthorityError::RootElsewhere(active.serial.clone())),
            _ => own_root(book, goes_on, trust_domain, keys, at),
        },
    }
}

/// A new root of our own, whoever's the active one is.
pub(super) fn own_root(
    book: &Book,
    goes_on: bool,
    trust_domain: &TrustDomain,
    keys: &KeyStore,
    at: Instants,
) -> Result<(String, Commit), AuthorityError> {
    book.active(Kind::Root).ok_or(AuthorityError::Missing("root"))?;
    let former = vouching(&all_before_another(book, 0, at)?, keys)?;
    let (root, mut record) = make::root(trust_domain, keys, at.now)?;
    record.goes_on = goes_on;
    record.created_at = after_all(book, at.now);
    record.needs_version = book.trust.version + 1;
    let (issuing, mut below) = make::issuing(&root, keys, at.now)?;
    below.crosses = crosses(&issuing, &former)?;
    let serial = root.serial().to_string();
    let commit = put(book.change()?, Kind::Root, &serial, &record)?;
    Ok((serial, put(commit, Kind::Issuing, &issuing.serial().to_string(), &below)?))
}

/// Roots that have to vouch for what stands under another that is to follow the active one: those that somebody may know alone,
/// the oldest first. None whose key is somebody else's can.
///
/// # Errors
/// There is no room for all of them in the chain of our own certificate, with so many `intermediates`.
pub(super) fn all_before_another(
    book: &Book,
    intermediates: usize,
    at: Instants,
) -> Result<Vec<&Entry>, AuthorityError> {
    let mut former: Vec<_> = book.in_use().filter(|root| may_vouch(root, at)).collect();
    let room = make::room_for_former(intermediates);
    if former.len() > room {
        // Of a clock that has only been read for an hour some may be in use that most likely are not.
        former.retain(|root| root.may_be_known_alone(at.likely_past));
    }
    let too_many = former.len().saturating_sub(room);
    let ends =
        former.iter().take(too_many).map(|root| UnixMillis(root.record.changed_at).plus(OUTLIVED_AFTER));
    match (former.first(), ends.max()) {
        (Some(oldest), Some(from)) => {
            Err(AuthorityError::RootsInUse { oldest: oldest.serial.clone(), room, from })
        }
        _ => Ok(former),
    }
}

/// The same for another authority under a root that is active, as many as there is room for.
pub(super) fn before<'a>(book: &'a Book, root: &Entry, intermediates: usize, at: Instants) -> Vec<&'a Entry> {
    let former = book.before(root).filter(|root| may_vouch(root, at));
    former.take(make::room_for_former(intermediates)).collect()
}

fn may_vouch(root: &Entry, at: Instants) -> bool {
    root.has_key() && root.may_be_known_alone(at.surely_past)
}

/// Former roots with their keys. They are opened before a key is made, which would stay in its token if there were no
/// certificate for it. One that was in use before and cannot sign any longer holds up nothing that follows: its key may
/// be gone for good, and what follows may be urgent.
pub(super) fn vouching(former: &[&Entry], keys: &KeyStore) -> Result<Vec<RootAuthority>, AuthorityError> {
    let open = |former: &&Entry| match make::open_root(former, keys) {
        Err(error) if !former.is(State::Active) => {
            tracing::warn!(
                event = "former_root_vouches_not",
                root = %former.serial,
                %error,
                "whoever knows this root alone will not find the control plane by what is made now"
            );
            None
        }
        opened => Some(opened),
    };
    former.iter().filter_map(open).collect()
}

/// An issuing authority's certificates by former roots. Of one of which there is none, whoever knows that root alone has to learn
/// the new one while it is prepared.
pub(super) fn crosses(
    issuing: &IssuingAuthority,
    former: &[RootAuthority],
) -> Result<Vec<Cross>, AuthorityError> {
    let cross = |former: &RootAuthority| {
        let certificate = issuing.cross_signed(former, random::serial()?)?.to_vec();
        Ok(Cross { root: former.serial().to_string(), certificate })
    };
    former.iter().map(cross).collect()
}

/// An issuing authority under the active root, vouched for by roots before too as long as those are trusted.
fn issuing(book: &Book, keys: &KeyStore, at: Instants) -> Result<(String, AuthorityRecord), AuthorityError> {
    let active = book.active(Kind::Root).ok_or(AuthorityError::Missing("root"))?;
    let former = vouching(&before(book, active, 0, at), keys)?;
    let (issuing, mut record) = make::issuing(&make::open_root(active, keys)?, keys, at.now)?;
    record.crosses = crosses(&issuing, &former)?;
    Ok((issuing.serial().to_string(), record))
}

/// Which root came before which is told by these instants, whatever the clock does.
pub(super) fn after_all(book: &Book, now: UnixMillis) -> u64 {
    book.entries.iter().map(|entry| entry.record.created_at + 1).fold(now.0, u64::max)
}

/// The authority that waits goes on by itself.
pub(super) fn go_on(book: &Book, waiting: &Entry) -> Result<Commit, StoreError> {
    let record = AuthorityRecord { goes_on: true, ..waiting.record.clone() };
    put(book.change()?, waiting.kind, &waiting.serial, &record)
}

/// A prepared authority signs, and what signed before retires. With a root all under it come and go. `latest`: what signed before may have
/// signed until then, though the clock is behind.
pub(super) fn activate(book: &Book, entry: &Entry, latest: UnixMillis) -> Result<Commit, StoreError> {
    let mut commit = book.change()?;
    let moved = book.entries.iter().filter_map(|other| {
        let comes = match (entry.kind, other.kind) {
            (Kind::Root, Kind::Issuing) => other.record.root == entry.serial && other.is(State::Prepared),
            _ => other == entry,
        };
        let goes = other.is(State::Active) && (other.kind == entry.kind || entry.kind == Kind::Root);
        // Prepared under a root that goes: it will never sign.
        let is_left = entry.kind == Kind::Root && other.kind == Kind::Issuing && other.is(State::Prepared);
        let state = match (comes, goes, is_left) {
            (true, _, _) => State::Active,
            (_, true, _) => State::Retiring,
            (_, _, true) => State::Retired,
            _ => return None,
        };
        Some((other, state))
    });
    for (other, state) in moved {
        commit = move_to(commit, book, other, state, latest)?;
    }
    Ok(commit)
}

/// Whether what waits can sign in the place of what is tainted: now, or once a clock is right that was just set.
pub(super) fn may_follow_at_once(waiting: &Entry, at: Instants) -> bool {
    let validity = waiting.certificate.validity();
    validity.contains(at.now) || validity.contains(at.likely_past)
}

/// An authority is tainted, and all under it. The active issuing authority is followed by another at once: by the one that
/// waits, if that can sign.
pub(super) fn taint(
    book: &Book,
    entry: &Entry,
    keys: &KeyStore,
    (at, latest): (Instants, UnixMillis),
) -> Result<Commit, AuthorityError> {
    let mut commit = book.change()?;
    if entry.is(State::Active) {
        let waiting = book.prepared(Kind::Issuing);
        let (serial, mut record) = match waiting.filter(|waiting| may_follow_at_once(waiting, at)) {
            Some(waiting) => {
                // Afterwards there would be no other that signs.
                keys.open(waiting)?;
                (waiting.serial.clone(), waiting.record.clone())
            }
            None => {
                let made = issuing(book, keys, at)?;
                if let Some(useless) = waiting {
                    commit = move_to(commit, book, useless, State::Retired, latest)?;
                }
                made
            }
        };
        (record.state, record.changed_at) = (State::Active, latest.0);
        commit = put(commit, Kind::Issuing, &serial, &record)?;
    }
    for tainted in with_all_under(book, entry) {
        let record = AuthorityRecord { was_tainted: true, ..tainted.record.clone() };
        let tainted = Entry { record, ..tainted.clone() };
        commit = move_to(commit, book, &tainted, State::Tainted, latest)?;
    }
    Ok(commit)
}

/// Nothing that an authority has signed is good any longer, nor what was signed by those under it.
pub(super) fn retire(book: &Book, entry: &Entry, now: UnixMillis) -> Result<Commit, StoreError> {
    with_all_under(book, entry)
        .try_fold(book.change()?, |commit, entry| move_to(commit, book, entry, State::Retired, now))
}

/// The same by hand, while certificates by it may still be valid: it is distrusted by its key too, for its root may go on
/// vouching for it.
pub(super) fn revoke(book: &Book, entry: &Entry, now: UnixMillis) -> Result<Commit, StoreError> {
    with_all_under(book, entry).try_fold(book.change()?, |commit, entry| {
        let record = AuthorityRecord { was_tainted: true, ..entry.record.clone() };
        move_to(commit, book, &Entry { record, ..entry.clone() }, State::Retired, now)
    })
}

fn with_all_under<'a>(book: &'a Book, entry: &'a Entry) -> impl Iterator<Item = &'a Entry> {
    let under = book.under(&entry.serial).filter(|under| !under.is(State::Retired));
    std::iter::once(entry).chain(under)
}

fn move_to(
    commit: Commit,
    book: &Book,
    entry: &Entry,
    state: State,
    latest: UnixMillis,
) -> Result<Commit, StoreError> {
    let (needs_version, changed_at) = match state {
        State::Retiring | State::Tainted => (book.trust.version + 1, ages_from(book, entry, latest).0),
        State::Prepared | State::Active | State::Retired | State::Delegated => {
            (entry.record.needs_version, latest.0)
        }
    };
    let record = AuthorityRecord { state, changed_at, needs_version, goes_on: false, ..entry.record.clone() };
    put(commit, entry.kind, &entry.serial, &record)
}

/// From when on an authority counts as outlived that signs no longer. A clock that is behind since before this process started is told by
/// what a right one has made and done.
fn ages_from(book: &Book, entry: &Entry, latest: UnixMillis) -> UnixMillis {
    let may_sign = book.entries.iter().filter(|other| other.is(State::Active) || other.is(State::Prepared));
    let begins = may_sign.map(|other| other.certificate.validity().not_before());
    begins.fold(latest.max(UnixMillis(entry.record.changed_at)), UnixMillis::max)
}
