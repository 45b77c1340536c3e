//! Who signs revocation lists, and which authorities roots have taken back.

use std::sync::Arc;

use hauberk_identity::{Serial, UnixMillis};
use hauberk_tls::{AuthorityCertificate, CrlEntry, CrlError, CrlIssue, KeptCrlError, verify_kept_crl};

use super::Authorities;
use crate::authority::AuthorityError;
use crate::authority::book::{Book, Entry, Kind};
use crate::authority::make;
use crate::authority::records::State;

/// Everybody who is to sign a list.
pub struct ListIssuers {
    /// The issuing authority that signs certificates first.
    pub all: Vec<ListIssuer>,
    /// Nobody else signs certificates that are believed here: no root is somebody else's, and none has signed an authority for
    /// another control plane.
    pub is_complete: bool,
    /// Nobody else signs certificates of members that are believed here: that of an authority may be on no list, that of a member is on
    /// one of these. Where it is not complete, whoever installed the roots that are somebody else's says so.
    pub covers_leaves: bool,
    /// A root is said to be exclusive, and others may sign members all the same: under another root, or where one was signed here for
    /// another control plane.
    pub exclusive_in_vain: bool,
}

/// An authority that is to sign a list.
pub struct ListIssuer {
    /// Its serial number.
    pub serial: Serial,
    /// What a root's list names: revoked authorities under it. `None` of an issuing authority.
    pub revoked: Option<Vec<CrlEntry>>,
    /// Nothing that it has signed is in use yet: nobody needs its list.
    pub is_prepared: bool,
    entry: Entry,
    book: Arc<Book>,
}

impl ListIssuer {
    /// Where the authority stands in the registry.
    pub fn record(&self) -> String {
        self.entry.key()
    }

    /// Sees that a list that was kept is this authority's. Gives what it says of itself.
    ///
    /// # Errors
    /// It is not.
    pub fn verify(&self, list: &[u8]) -> Result<CrlIssue, KeptCrlError> {
        verify_kept_crl(list, &self.entry.der())
    }
}

/// Why a list is not signed.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The authority's key cannot be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The list could not be built.
    #[error(transparent)]
    List(#[from] CrlError),
}

impl Authorities {
    /// Everybody whose list somebody needs who verifies whole chains: the issuing authorities whose certificates are or will be
    /// accepted, and the roots, as far as their keys are here. Of one whose certificates are
    /// accepted no longer there is no list: whoever wants one refuses them for want of it too.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn list_issuers(&self) -> Result<ListIssuers, AuthorityError> {
        let book = Arc::new(Book::read(&*self.parts.store).await?);
        let signs = |entry: &&Entry| entry.is_trusted() && entry.has_key();
        let mut issuing: Vec<_> = book.of(Kind::Issuing).filter(signs).collect();
        issuing.sort_by_key(|entry| Some(*entry) != book.active(Kind::Issuing));
        let issuing = issuing.into_iter().map(|entry| (entry, None));
        let roots = book.of(Kind::Root).filter(signs).map(|root| (root, Some(revoked_under(&book, root))));
        let issuer = |(entry, revoked): (&Entry, _)| ListIssuer {
            serial: entry.certificate.serial(),
            revoked,
            is_prepared: entry.is(State::Prepared),
            entry: entry.clone(),
            book: Arc::clone(&book),
        };
        let others = || book.entries.iter().filter(|entry| entry.is_trusted() && !entry.has_key());
        let is_complete = others().next().is_none();
        // What was signed for another control plane is no root: with its key that one signs members.
        let is_exclusive = |entry: &Entry| entry.kind == Kind::Root && entry.record.is_exclusive;
        let covers_leaves = others().all(is_exclusive);
        let exclusive_in_vain = !covers_leaves && others().any(is_exclusive);
        let all = issuing.chain(roots).map(issuer).collect();
        Ok(ListIssuers { all, is_complete, covers_leaves, exclusive_in_vain })
    }

    /// Signs the list of one of them.
    ///
    /// # Errors
    /// Its key cannot be used, or the list cannot be built.
    pub async fn sign_list(
        &self,
        issuer: &ListIssuer,
        entries: Vec<CrlEntry>,
        issue: CrlIssue,
    ) -> Result<Vec<u8>, ListError> {
        let ListIssuer { entry, book, .. } = issuer;
        let authority = &self.parts.authority;
        let signed = match entry.kind {
            Kind::Issuing => {
                let issuing = make::load_issuing(book, entry, &self.parts.keys)?;
                let turn = authority.turn(issuing.key()).await.map_err(AuthorityError::from)?;
                turn.sign(move || issuing.sign_crl(&entries, issue)).await
            }
            Kind::Root => {
                let root = make::load_root(entry, &self.parts.keys)?;
                let turn = authority.turn(root.key()).await.map_err(AuthorityError::from)?;
                turn.sign(move || root.sign_crl(&entries, issue)).await
            }
        };
        Ok(signed.map_err(AuthorityError::from)??)
    }
}

/// What a root vouches for and is believed no longer: issuing authorities under it, and those under another root for which it
/// vouches too.
fn revoked_under(book: &Book, root: &Entry) -> Vec<CrlEntry> {
    let revoked = book.of(Kind::Issuing).filter(|entry| entry.is(State::Retired) && entry.record.was_tainted);
    revoked
        .filter_map(|entry| {
            let serial = if entry.record.root == root.serial {
                entry.certificate.serial()
            } else {
                AuthorityCertificate::read(entry.cross_by(&root.serial)?).ok()?.serial()
            };
            let revoked_at = UnixMillis(entry.record.changed_at);
            Some(CrlEntry { serial, revoked_at, is_on_hold: false })
        })
        .collect()
}
