//! What is kept of the head of a request while it is under way: it may last for days, and rules that come meanwhile may
//! read what those that let it in did not.
//!
//! It is kept from the first moment on: nobody sees from a head how long the answer will take, and once it is passed on
//! it is gone. One allocation, which is dropped with the request.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use hauberk_policy::{CanonicalPath, Gathered, Wanted};
use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE, HeaderName};

use super::rules::Rules;
use crate::mesh::NodeView;

/// The most bytes of one request. Of larger ones nothing is kept, and what is then not known is denied.
const MOST: usize = 8 * 1024;
/// The most bytes of all requests on one connection.
pub(super) const MOST_OF_CONNECTION: usize = 256 * 1024;
/// The most bytes of all requests together.
const MOST_OF_ALL: usize = 16 * 1024 * 1024;
/// Policies cannot name these, and secrets are kept no longer than they must be.
const NEVER_READ: [HeaderName; 2] = [AUTHORIZATION, COOKIE];
/// In the place of a token, which may be no longer secret by the rules that come: no text.
const UNREADABLE: &[u8] = b"\xff";
/// Whose all calls are that leave the mesh.
pub(super) const OUR_OWN: &str = "";

/// The head of a request that is being decided.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head<'a> {
    /// Its path, if it has been parsed already.
    pub(crate) path: Option<&'a CanonicalPath<'a>>,
    /// Its host, as it was sent.
    pub(crate) host: &'a str,
    /// Its header fields, as its server gets them.
    pub(crate) fields: &'a HeaderMap,
}

/// The host of a request as it was sent, and its header fields as its server got them: the host first, then name and
/// value of each field, each with its length before it.
pub(super) struct Kept {
    head: Box<[u8]>,
    /// The view by which it was gathered last.
    gathered_by: Weak<NodeView>,
}

impl Kept {
    /// Of a request with this head, if it is not too much; whoever keeps it takes room for it. It is gathered by these
    /// rules, which say which fields hold tokens.
    pub(super) fn of(head: &Head<'_>, rules: &Rules) -> Option<Self> {
        let (Head { host, fields, .. }, view) = (head, rules.view().ok());
        let is_secret = |name: &str| view.is_some_and(|view| view.is_token_field(name));
        let parts = || {
            let fields = fields.iter().filter(|(name, _)| !NEVER_READ.contains(name));
            let of_fields = fields.flat_map(|(name, value)| {
                let value = if is_secret(name.as_str()) { UNREADABLE } else { value.as_bytes() };
                [name.as_str().as_bytes(), value]
            });
            [host.as_bytes()].into_iter().chain(of_fields)
        };
        let size = parts().map(|part| size_of::<u16>() + part.len()).sum::<usize>();
        if size > MOST {
            return None;
        }
        let mut kept = Vec::with_capacity(size);
        for part in parts() {
            // None is longer than all together.
            kept.extend_from_slice(&u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
            kept.extend_from_slice(part);
        }
        let gathered_by = view.map(Arc::downgrade).unwrap_or_default();
        Some(Self { head: kept.into_boxed_slice(), gathered_by })
    }

    /// How much room it takes.
    pub(super) fn size(&self) -> usize {
        self.head.len()
    }

    /// What the rules of this view want of it; nothing where it was gathered by the same view, as at each second of a
    /// request that is decided by the time. A host is the same in every spelling, and with every port: a request that
    /// is still to come is decided so too.
    pub(super) fn gather(&mut self, view: &Arc<NodeView>, wanted: &Wanted) -> Option<Gathered> {
        if std::ptr::eq(self.gathered_by.as_ptr(), Arc::as_ptr(view)) {
            return None;
        }
        self.gathered_by = Arc::downgrade(view);
        let mut parts = Parts(&self.head);
        let host = parts.text();
        let fields = std::iter::from_fn(|| Some((parts.text()?, parts.next()?)));
        let fields = fields.filter(|(name, _)| !view.is_token_field(name));
        Some(wanted.gather(host.unwrap_or_default(), fields))
    }
}

impl fmt::Debug for Kept {
    /// What callers send may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("size", &self.size()).finish_non_exhaustive()
    }
}

struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.next()?).ok()
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk()?;
        let (part, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        self.0 = rest;
        Some(part)
    }
}

/// The room for all heads that are kept. Whoever holds some leaves as much free for others: one identity has half of it
/// at the most, two a third each.
#[derive(Debug, Default)]
pub(super) struct Room {
    taken: AtomicUsize,
    /// How much each identity has taken of it.
    by_identity: Mutex<HashMap<Box<str>, Weak<AtomicUsize>>>,
}

/// What one connection has taken of the room, or all that leaves the mesh; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    room: Arc<Room>,
    of_identity: Arc<AtomicUsize>,
    taken: usize,
    most: usize,
}

impl Room {
    /// Nothing yet, of what there is for an identity; `most` bytes at the most.
    pub(super) fn of(self: &Arc<Self>, identity: &str, most: usize) -> Held {
        let mut known = self.by_identity.lock().unwrap_or_else(PoisonError::into_inner);
        let of_identity = known.get(identity).and_then(Weak::upgrade).unwrap_or_else(|| {
            known.retain(|_, taken| taken.strong_count() > 0);
            let taken = Arc::default();
            known.insert(identity.into(), Arc::downgrade(&taken));
            taken
        });
        Held { room: Arc::clone(self), of_identity, taken: 0, most }
    }

    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Held {
    /// Takes so much of it, if it is there.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        if bytes > self.most.saturating_sub(self.taken) {
            return false;
        }
        self.taken += bytes;
        let of_identity = self.of_identity.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let of_all = self.room.taken.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let is_fair = MOST_OF_ALL.checked_sub(of_all).is_some_and(|left| of_identity <= left);
        if !is_fair {
            self.give(bytes);
        }
        is_fair
    }

    /// Gives some of it back.
    pub(super) fn give(&mut self, bytes: usize) {
        let bytes = bytes.min(self.taken);
        self.taken -= bytes;
        self.of_identity.fetch_sub(bytes, Ordering::Relaxed);
        self.room.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give(self.taken);
    }
}
