//! Authorities under somebody else's root: asked for, taken in, announced.

use hauberk_identity::{TrustDomain, UnixMillis};
use hauberk_tls::{
    AuthorityCertificate, CertificateDer, IssueError, IssuingAuthority, UpstreamChain, UpstreamError,
    check_root, is_self_issued,
};

use super::{Authorities, LifecycleError, change};
use crate::audit::{Act, Actor};
use crate::authority::book::{Book, Entry, Kind, put};
use crate::authority::key_store::StoredKey;
use crate::authority::make;
use crate::authority::records::{AuthorityRecord, RequestRecord, State};
use crate::authority::steps::Instants;
use crate::authority::upstream::Signed;
use crate::authority::{AuthorityError, KeyStore};
use crate::registry::{Commit, document, keys};
use crate::server_certificate::ServerNames;

/// How many roots everybody may be told to trust before anything stands under them.
const MOST_ANNOUNCED: usize = 8;

/// A request that waits to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requested {
    /// PKCS#10, DER.
    pub csr: Vec<u8>,
    /// When it was made.
    pub created_at: UnixMillis,
}

/// What is to come of what was signed.
#[derive(Clone, Copy)]
pub(super) struct Wish {
    /// A root: under the active one it is not wanted.
    pub(super) kind: Kind,
    /// It becomes active by itself.
    pub(super) goes_on: bool,
    /// Whether nobody else signs certificates of this trust domain under its root; `None`: as it was said before.
    pub(super) exclusive: Option<bool>,
}

impl Authorities {
    /// The request for an issuing authority that waits to be signed, or a new one. `anew`: a new one in any case.
    ///
    /// # Errors
    /// It cannot be made or written.
    pub async fn request(&self, anew: bool, actor: &Actor) -> Result<Requested, LifecycleError> {
        let _one_at_a_time = self.step.lock().await;
        let book = Book::read(&*self.parts.store).await?;
        if let Some(waiting) = book.request.as_ref().filter(|_| !anew) {
            let RequestRecord { created_at, csr, .. } = waiting.record.clone();
            return Ok(Requested { csr, created_at: UnixMillis(created_at) });
        }
        let created_at = self.parts.clock.now();
        let trust_domain = self.parts.authority.trust_domain().clone();
        let former = book.request.as_ref().and_then(|former| former.record.token_key.clone());
        let (record, key) = self.make(move |keys| make::request(&trust_domain, keys, created_at)).await?;
        let commit = Commit::new()
            .unchanged(keys::AUTHORITY_REQUEST, book.request.as_ref().map(|waiting| &waiting.stored))
            .put(keys::AUTHORITY_REQUEST, document::to_bytes(keys::AUTHORITY_REQUEST, &record)?);
        let object = key.fingerprint().to_string();
        self.parts.audit.commit(commit, Act::done(actor, "authority.request", object)).await?;
        // Nobody would ever sign with it. Before the commit, a request could be left whose key is gone.
        if let Some(former) = former {
            self.destroy_former(former).await;
        }
        Ok(Requested { csr: record.csr, created_at })
    }

    /// Takes in what somebody signed for the request that waits, prepared: an issuing authority, and its root with it where
    /// that is new. Or, where there is nothing but a root, that root alone. Gives the serial number of what is to be activated.
    /// `exclusive`: whether nobody else signs certificates of this trust domain under the root; `None`: as it was said before.
    ///
    /// # Errors
    /// It will not do, no request waits, or something else does.
    pub async fn install(
        &self,
        certificates: Vec<CertificateDer<'static>>,
        root: Option<CertificateDer<'static>>,
        exclusive: Option<bool>,
        actor: &Actor,
    ) -> Result<String, LifecycleError> {
        // An intermediate that everybody is to trust is a root here.
        let is_root = |der: &CertificateDer<'static>| {
            is_self_issued(der) || root.as_ref().is_some_and(|root| root == der)
        };
        let (mut roots, others): (Vec<_>, Vec<_>) = certificates.iter().cloned().partition(is_root);
        roots.extend(root.clone().filter(|root| !roots.contains(root)));
        if !others.is_empty() || roots.is_empty() {
            let signed = Signed { certificates, root };
            return self
                .take_in(signed, Wish { kind: Kind::Issuing, goes_on: false, exclusive }, actor)
                .await;
        }
        let mut announced = String::new();
        for root in roots {
            announced = self.announce(root, exclusive, actor).await?;
        }
        Ok(announced)
    }

    /// A root of our own in the place of somebody else's, prepared. Gives its serial number.
    ///
    /// # Errors
    /// The settings name who signs for us, another root waits, or it cannot be made or written.
    pub async fn prepare_own_root(&self, actor: &Actor) -> Result<String, LifecycleError> {
        if self.parts.upstream.is_some() {
            return Err(LifecycleError::UpstreamIsSet);
        }
        let _one_at_a_time = self.step.lock().await;
        let book = Book::read(&*self.parts.store).await?;
        if let Some(waiting) = book.prepared(Kind::Root) {
            return Err(LifecycleError::Waits(waiting.serial.clone()));
        }
        let trust_domain = self.parts.authority.trust_domain().clone();
        let at = Instants::of(&self.parts.clock);
        let made = self.make(move |keys| change::own_root(&book, false, &trust_domain, keys, at));
        let (serial, commit) = made.await?;
        self.commit(commit, Act::done(actor, "authority.prepare", serial.clone()).because("root")).await?;
        Ok(serial)
    }

    /// Takes in what was signed for the request that waits.
    pub(super) async fn take_in(
        &self,
        signed: Signed,
        wish: Wish,
        actor: &Actor,
    ) -> Result<String, LifecycleError> {
        let _one_at_a_time = self.step.lock().await;
        let book = Book::read(&*self.parts.store).await?;
        let at = Instants::of(&self.parts.clock);
        let waiting = book.request.clone().ok_or(LifecycleError::NoRequest)?;
        let trust_domain = self.parts.authority.trust_domain().clone();
        let names = self.parts.server_names.clone();
        let stored = waiting.stored.clone();
        let taken = self.parts.keys.run(move |keys| {
            let adopted = adopted(&book, &waiting.record, &trust_domain, signed, names, keys, at.now)?;
            if wish.kind == Kind::Root
                && let Some(root) = book.active(Kind::Root).filter(|root| root.der() == *adopted.chain.root())
            {
                return Err(LifecycleError::SameRoot(root.serial.clone()));
            }
            let (serial, commit) = taken_in(&book, &adopted, keys, wish, at)?;
            Ok((serial, commit, adopted.issuing.serial()))
        });
        let (serial, commit, issuing) = taken.await?;
        let commit = commit.unchanged(keys::AUTHORITY_REQUEST, Some(&stored)).delete(keys::AUTHORITY_REQUEST);
        let act = Act::done(actor, "authority.install", serial.clone());
        self.commit(commit, act.because(format!("issuing {issuing}"))).await?;
        self.forget_dealings();
        Ok(serial)
    }

    /// Has everybody trust a root under which nothing stands yet. Of one that is trusted already it is noted whether it is exclusive.
    /// Gives its serial number.
    pub(super) async fn announce(
        &self,
        root: CertificateDer<'static>,
        exclusive: Option<bool>,
        actor: &Actor,
    ) -> Result<String, LifecycleError> {
        let _one_at_a_time = self.step.lock().await;
        let book = Book::read(&*self.parts.store).await?;
        let now = self.parts.clock.now();
        match book.of(Kind::Root).find(|entry| entry.der() == root) {
            Some(known) if known.is_trusted() => {
                let serial = known.serial.clone();
                if let Some(commit) = saying(&book, known, exclusive)? {
                    let said =
                        if exclusive == Some(true) { "root, exclusive" } else { "root, not exclusive" };
                    let act = Act::done(actor, "authority.install", serial.clone()).because(said);
                    self.commit(commit, act).await?;
                }
                return Ok(serial);
            }
            Some(known) if known.record.was_tainted => return Err(former(known)),
            Some(_) | None => {}
        }
        // Of what is trusted already the clock says nothing new.
        check_root(self.parts.authority.trust_domain(), &root, now)?;
        if book.announced().count() >= MOST_ANNOUNCED {
            return Err(LifecycleError::TooManyRoots(MOST_ANNOUNCED));
        }
        let (serial, commit) = with_root(&book, book.change()?, &root, false, exclusive, now)?;
        let act = Act::done(actor, "authority.install", serial.clone()).because("root");
        self.commit(commit, act).await?;
        Ok(serial)
    }
}

/// What somebody else signed, once it was looked at and has signed something on trial.
struct Adopted {
    chain: UpstreamChain,
    issuing: IssuingAuthority,
    key: StoredKey,
}

fn adopted(
    book: &Book,
    request: &RequestRecord,
    trust_domain: &TrustDomain,
    signed: Signed,
    names: ServerNames,
    keys: &KeyStore,
    now: UnixMillis,
) -> Result<Adopted, LifecycleError> {
    let key = keys.open_request(request)?;
    let known: Vec<_> = book.trusted_roots().map(Entry::der).collect();
    let Signed { certificates, root } = signed;
    let public_key = key.public_key();
    let chain = UpstreamChain::find(trust_domain, &public_key, &certificates, root.as_ref(), &known, now)?;
    let ServerNames { dns_names, ip_addresses } = names;
    let issuing = IssuingAuthority::adopt(&chain, key, dns_names, ip_addresses, now).map_err(|error| {
        match error {
            // The fault is the token's, not that of what was signed.
            UpstreamError::Trial(IssueError::KeyElsewhere(reason)) => AuthorityError::TokenKey(reason).into(),
            error => LifecycleError::from(error),
        }
    })?;
    let key = keys.hand_over(request, issuing.serial())?;
    Ok(Adopted { chain, issuing, key })
}

/// The commit that prepares an issuing authority which somebody else signed, and the serial number of what is to be
/// activated: its root's, unless that is active already.
fn taken_in(
    book: &Book,
    adopted: &Adopted,
    keys: &KeyStore,
    Wish { kind: _, goes_on, exclusive }: Wish,
    at: Instants,
) -> Result<(String, Commit), LifecycleError> {
    let now = at.now;
    let Adopted { chain, issuing, key } = adopted;
    let serial = issuing.serial().to_string();
    // Side by side in one commit, neither would be told from the other afterwards.
    if book.find(&serial).is_some() || serial_of(chain.root())? == serial {
        return Err(LifecycleError::SerialTaken(serial));
    }
    let root = book.of(Kind::Root).find(|entry| entry.der() == *chain.root());
    let is_active = root.is_some_and(|root| root.is(State::Active));
    let kind = if is_active { Kind::Issuing } else { Kind::Root };
    if let Some(waiting) = book.prepared(kind) {
        return Err(LifecycleError::Waits(waiting.serial.clone()));
    }
    let between = chain.intermediates().len();
    let before = match root {
        Some(active) if is_active => change::before(book, active, between, at),
        _ => change::all_before_another(book, between, at)?,
    };
    let (commit, root_serial) = match root {
        Some(root) if root.is(State::Retired) && root.record.was_tainted => return Err(former(root)),
        root if root.is_none_or(|root| root.is(State::Retired)) => {
            let (root, commit) = with_root(book, book.change()?, chain.root(), goes_on, exclusive, now)?;
            (commit, root)
        }
        Some(root) if is_active => {
            let commit = saying(book, root, exclusive)?.map_or_else(|| book.change(), Ok)?;
            (commit, root.serial.clone())
        }
        Some(root) if root.is(State::Prepared) => {
            let created_at = change::after_all(book, now);
            let is_exclusive = exclusive.unwrap_or(root.record.is_exclusive);
            let record = AuthorityRecord { goes_on, created_at, is_exclusive, ..root.record.clone() };
            let commit = put(book.change()?, Kind::Root, &root.serial, &record)?;
            (commit, root.serial.clone())
        }
        Some(root) => return Err(former(root)),
        None => return Err(AuthorityError::Missing("root").into()),
    };
    let record = AuthorityRecord {
        goes_on: goes_on && is_active,
        created_at: change::after_all(book, now),
        crosses: change::crosses(issuing, &change::vouching(&before, keys)?)?,
        ..make::adopted(issuing, chain.intermediates(), key.clone(), root_serial.clone(), now)
    };
    let commit = put(commit, Kind::Issuing, &serial, &record)?;
    Ok((if is_active { serial } else { root_serial }, commit))
}

/// The commit that notes of a root whether it is exclusive, where that is not on record already.
fn saying(book: &Book, root: &Entry, exclusive: Option<bool>) -> Result<Option<Commit>, LifecycleError> {
    let Some(is_exclusive) = exclusive.filter(|exclusive| *exclusive != root.record.is_exclusive) else {
        return Ok(None);
    };
    if root.has_key() {
        return Err(LifecycleError::OwnRoot(root.serial.clone()));
    }
    let record = AuthorityRecord { is_exclusive, ..root.record.clone() };
    Ok(Some(put(book.change()?, Kind::Root, &root.serial, &record)?))
}

/// The commit with somebody else's root, prepared.
fn with_root(
    book: &Book,
    commit: Commit,
    root: &CertificateDer<'static>,
    goes_on: bool,
    exclusive: Option<bool>,
    now: UnixMillis,
) -> Result<(String, Commit), LifecycleError> {
    let serial = serial_of(root)?;
    if book.find(&serial).is_some_and(|known| known.der() != *root) {
        return Err(LifecycleError::SerialTaken(serial));
    }
    let record = AuthorityRecord {
        goes_on,
        created_at: change::after_all(book, now),
        needs_version: book.trust.version + 1,
        is_exclusive: exclusive.unwrap_or_default(),
        ..make::upstream_root(root, now)
    };
    let commit = put(commit, Kind::Root, &serial, &record)?;
    Ok((serial, commit))
}

fn serial_of(root: &CertificateDer<'static>) -> Result<String, LifecycleError> {
    Ok(AuthorityCertificate::read(root.clone()).map_err(AuthorityError::from)?.serial().to_string())
}

fn former(root: &Entry) -> LifecycleError {
    LifecycleError::FormerRoot { serial: root.serial.clone(), state: root.record.state }
}
