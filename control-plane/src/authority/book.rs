//! All authorities as they stand in the registry at one instant, and what follows from them.

use hauberk_identity::UnixMillis;
use hauberk_tls::{AuthorityCertificate, CertificateDer, names_as_issuer};

use super::records::{AuthorityRecord, Cross, RequestRecord, State, TrustRecord};
use super::steps::OUTLIVED_AFTER;
use super::{AuthorityError, view_keys};
use crate::registry::{Commit, Page, Store, StoreError, Stored, document, keys};

/// How many authorities and keys are read; there are a handful.
const MANY: usize = 1_000;

/// What an authority is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It vouches for issuing authorities, and everybody trusts it.
    Root,
    /// It signs certificates.
    Issuing,
}

impl Kind {
    /// As in answers and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Issuing => "issuing",
        }
    }

    pub(super) fn key(self, serial: &str) -> String {
        let prefix = match self {
            Self::Root => keys::ROOTS,
            Self::Issuing => keys::ISSUING,
        };
        format!("{prefix}{serial}")
    }
}

/// One authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) serial: String,
    pub(super) record: AuthorityRecord,
    pub(super) certificate: AuthorityCertificate,
}

impl Entry {
    pub(super) fn key(&self) -> String {
        self.kind.key(&self.serial)
    }

    pub(super) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from(self.record.certificate.clone())
    }

    /// The end of its certificate.
    pub(super) fn not_after(&self) -> UnixMillis {
        self.certificate.validity().not_after()
    }

    /// What stands between it and its root, where somebody else has signed it.
    pub(super) fn above(&self) -> impl Iterator<Item = AuthorityCertificate> {
        let above = self.record.intermediates.iter();
        // Each was read when it was installed.
        above.filter_map(|der| AuthorityCertificate::read(der.0.clone()).ok())
    }

    pub(super) fn is(&self, state: State) -> bool {
        self.record.state == state
    }

    /// Whether something can be signed with it here.
    pub(super) fn has_key(&self) -> bool {
        self.record.token_key.is_some() || !self.record.sealed_key.is_empty()
    }

    /// Whether another control plane has its key: who holds certificates by it is not known here, whatever it has become since.
    pub(super) fn is_anothers(&self) -> bool {
        self.is(State::Delegated) || !self.record.delegate.is_empty()
    }

    /// Its certificate by another root than its own.
    pub(super) fn cross_by(&self, root: &str) -> Option<CertificateDer<'static>> {
        let cross = self.record.crosses.iter().find(|cross| cross.root == root)?;
        Some(CertificateDer::from(cross.certificate.clone()))
    }

    /// Of a root: whether a credential, a join token or a bundle file may be good that was made while it was the latest.
    pub(super) fn may_be_known_alone(&self, surely_past: UnixMillis) -> bool {
        self.is(State::Active) || surely_past < UnixMillis(self.record.changed_at).plus(OUTLIVED_AFTER)
    }

    /// Whether what it has signed is still accepted.
    pub(super) fn is_trusted(&self) -> bool {
        !self.is(State::Retired)
    }
}

/// A request that waits, as it stands in the registry.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) record: RequestRecord,
    pub(super) stored: Stored,
}

/// All authorities at one instant, the oldest first.
#[derive(Debug, Clone)]
pub(super) struct Book {
    pub(super) trust: TrustRecord,
    stored_trust: Option<Stored>,
    /// What waits to be signed by somebody else.
    pub(super) request: Option<Waiting>,
    pub(super) entries: Vec<Entry>,
    /// What signs views, the oldest first.
    pub(super) view_keys: Vec<view_keys::Entry>,
}

impl Book {
    /// Reads all of them in one reading: in several, two states could be mixed.
    pub(super) async fn read(store: &dyn Store) -> Result<Self, AuthorityError> {
        Self::from_page(store.list(keys::AUTHORITIES, None, MANY).await?)
    }

    fn from_page(page: Page) -> Result<Self, AuthorityError> {
        let trust = TrustRecord::default();
        let (entries, view_keys) = (Vec::new(), Vec::new());
        let mut book = Self { trust, stored_trust: None, request: None, entries, view_keys };
        for (key, stored) in page.entries {
            if key == keys::TRUST {
                book.trust = document::from_stored(&key, &stored)?;
                book.stored_trust = Some(stored);
            } else if key == keys::AUTHORITY_REQUEST {
                book.request = Some(Waiting { record: document::from_stored(&key, &stored)?, stored });
            } else if let Some(serial) = key.strip_prefix(keys::ROOTS) {
                book.entries.push(Self::entry(Kind::Root, serial, &key, &stored)?);
            } else if let Some(serial) = key.strip_prefix(keys::ISSUING) {
                book.entries.push(Self::entry(Kind::Issuing, serial, &key, &stored)?);
            } else if let Some(key_id) = key.strip_prefix(keys::VIEW_KEYS) {
                let record = document::from_stored(&key, &stored)?;
                book.view_keys.push(view_keys::Entry { key_id: key_id.to_owned(), record });
            }
        }
        book.entries.sort_by(|a, b| (a.record.created_at, &a.serial).cmp(&(b.record.created_at, &b.serial)));
        book.view_keys
            .sort_by(|a, b| (a.record.created_at, &a.key_id).cmp(&(b.record.created_at, &b.key_id)));
        // A release without states had one root and did not write it down.
        let first = book.of(Kind::Root).next().map(|root| root.serial.clone()).unwrap_or_default();
        for entry in &mut book.entries {
            if entry.kind == Kind::Issuing && entry.record.root.is_empty() {
                entry.record.root.clone_from(&first);
            }
        }
        book.name_roots_of_crosses();
        Ok(book)
    }

    /// A release that kept one cross certificate did not write down by which root it was.
    fn name_roots_of_crosses(&mut self) {
        let roots: Vec<_> = self.of(Kind::Root).map(|root| (root.serial.clone(), root.der())).collect();
        for entry in &mut self.entries {
            let certificate = std::mem::take(&mut entry.record.cross);
            if certificate.is_empty() {
                continue;
            }
            let der = CertificateDer::from(certificate.clone());
            let by = roots.iter().find(|(_, root)| names_as_issuer(&der, root));
            let root = by.map(|(serial, _)| serial.clone()).unwrap_or_default();
            entry.record.crosses.push(Cross { root, certificate });
        }
    }

    fn entry(kind: Kind, serial: &str, key: &str, stored: &Stored) -> Result<Entry, AuthorityError> {
        let record: AuthorityRecord = document::from_stored(key, stored)?;
        let certificate = AuthorityCertificate::read(record.certificate.clone())?;
        Ok(Entry { kind, serial: serial.to_owned(), record, certificate })
    }

    pub(super) fn of(&self, kind: Kind) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.kind == kind)
    }

    pub(super) fn find(&self, serial: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.serial == serial)
    }

    /// The latest one that is active: what was written before there were states may hold several.
    pub(super) fn active(&self, kind: Kind) -> Option<&Entry> {
        self.of(kind).filter(|entry| entry.is(State::Active)).last()
    }

    /// One that waits to become active: an issuing authority under the active root, or a root under which one waits.
    pub(super) fn prepared(&self, kind: Kind) -> Option<&Entry> {
        let root = self.active(Kind::Root).map(|root| root.serial.as_str()).unwrap_or_default();
        self.of(kind).find(|entry| {
            let may_follow = || match kind {
                Kind::Root => self.waits_under(entry).is_some(),
                Kind::Issuing => entry.record.root == root,
            };
            entry.is(State::Prepared) && may_follow()
        })
    }

    /// The issuing authority that becomes active with a root.
    pub(super) fn waits_under<'a>(&'a self, root: &'a Entry) -> Option<&'a Entry> {
        self.under(&root.serial).find(|entry| entry.is(State::Prepared))
    }

    /// Roots that everybody is told to trust long before anything stands under them.
    pub(super) fn announced(&self) -> impl Iterator<Item = &Entry> {
        self.of(Kind::Root).filter(|root| root.is(State::Prepared) && self.waits_under(root).is_none())
    }

    /// The issuing authorities under a root.
    pub(super) fn under<'a>(&'a self, root: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.of(Kind::Issuing).filter(move |entry| entry.record.root == root)
    }

    /// Every root that has not been retired.
    pub(super) fn trusted_roots(&self) -> impl Iterator<Item = &Entry> {
        self.of(Kind::Root).filter(|entry| entry.is_trusted())
    }

    /// Roots that are trusted and are in use, or were, the oldest first.
    pub(super) fn in_use(&self) -> impl Iterator<Item = &Entry> {
        self.trusted_roots().filter(|root| !root.is(State::Prepared))
    }

    /// Those before this one.
    pub(super) fn before(&self, root: &Entry) -> impl Iterator<Item = &Entry> {
        let made = |entry: &Entry| (entry.record.created_at, entry.serial.clone());
        let until = made(root);
        self.in_use().filter(move |former| made(former) < until)
    }

    /// Roots that somebody may know alone who finds us today, and does no longer once this root is active that waits.
    pub(super) fn cut_off_by(&self, root: &Entry, surely_past: UnixMillis) -> Vec<&Entry> {
        let vouches = |by: &Entry, issuing: Option<&Entry>| {
            issuing.is_some_and(|issuing| {
                issuing.record.root == by.serial || issuing.cross_by(&by.serial).is_some()
            })
        };
        let (now, then) = (self.active(Kind::Issuing), self.waits_under(root));
        let in_use = self.in_use().filter(|by| by.may_be_known_alone(surely_past));
        in_use.filter(|by| vouches(by, now) && !vouches(by, then)).collect()
    }

    /// Issuing authorities that sign no longer: certificates by them are replaced at once.
    pub(super) fn to_renew(&self) -> impl Iterator<Item = &Entry> {
        let signs_no_longer =
            |entry: &&Entry| matches!(entry.record.state, State::Retiring | State::Tainted | State::Retired);
        self.of(Kind::Issuing).filter(signs_no_longer)
    }

    /// Issuing authorities that were tainted and are believed nothing any longer, though a root vouches for them that is believed: their
    /// own, or one before that which has signed them too.
    pub(super) fn distrusted(&self) -> impl Iterator<Item = &Entry> {
        let is_vouched_for = move |entry: &Entry| {
            !entry.record.crosses.is_empty() || self.find(&entry.record.root).is_some_and(Entry::is_trusted)
        };
        let is_distrusted = |entry: &Entry| entry.is(State::Retired) && entry.record.was_tainted;
        self.of(Kind::Issuing).filter(move |entry| is_distrusted(entry) && is_vouched_for(entry))
    }

    /// The commit that changes trust from what this book holds, and from nothing else.
    pub(super) fn change(&self) -> Result<Commit, StoreError> {
        let next = TrustRecord { version: self.trust.version + 1 };
        Ok(Commit::new()
            .unchanged(keys::TRUST, self.stored_trust.as_ref())
            .put(keys::TRUST, document::to_bytes(keys::TRUST, &next)?)
            .raising_revision())
    }
}

/// The commit with an authority in another state.
pub(super) fn put(
    commit: Commit,
    kind: Kind,
    serial: &str,
    record: &AuthorityRecord,
) -> Result<Commit, StoreError> {
    let key = kind.key(serial);
    let bytes = document::to_bytes(&key, record)?;
    Ok(commit.put(key, bytes))
}
