//! prepared → active → retiring → retired, or tainted: how one authority follows another.
//!
//! Each step is one commit, guarded by the number of the last, with its audit record in it. What is to happen next is read
//! from the registry alone: after a crash at any point the steps go on from the last one that was written.

mod begin;
mod change;
mod dealings;
mod delegate;
mod error;
mod jwt_keys;
mod key_named;
mod keys;
mod progress;
mod revocation_lists;
mod upstream;
mod view;
mod view_keys;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use hauberk_identity::SpiffeId;
use hauberk_tls::LiveIdentity;
use tokio::sync::Mutex;

use super::book::{Book, Entry, Kind};
use super::in_force::InForce;
use super::records::State;
use super::steps::{self, Instants, Step};
use super::{Authority, KeyStore, Upstream};
use crate::allowance::Allowances;
use crate::audit::{Act, Actor, Audit};
use crate::clock::Clock;
use crate::instances::Instances;
use crate::issuance::Ledger;
use crate::jwt_svid::SigningKeys;
use crate::metrics::Metrics;
use crate::registry::{Commit, Store};
use crate::server_certificate::ServerNames;
use dealings::Dealings;
pub use dealings::Need;
pub use error::LifecycleError;
pub use key_named::KeyNamed;
pub use progress::{Progress, Unsettled};
pub use revocation_lists::{ListError, ListIssuer, ListIssuers};
pub use upstream::Requested;
pub use view::AuthorityView;
use view::view;

/// How many of those who are in the way are named.
const NAMED: usize = 5;

/// What [`Authorities`] is made of.
pub struct AuthoritiesParts {
    /// The registry.
    pub store: Arc<dyn Store>,
    /// Every step is recorded here.
    pub audit: Arc<Audit>,
    /// Told of each change.
    pub authority: Arc<Authority>,
    /// What our own listeners trust; told of each change before anybody else.
    pub identity: LiveIdentity,
    /// Who is to acknowledge.
    pub instances: Arc<Instances>,
    /// Who holds whose certificate.
    pub ledger: Arc<Ledger>,
    /// The time.
    pub clock: Clock,
    /// Where keys are made.
    pub keys: KeyStore,
    /// What signs JWT-SVIDs.
    pub signing_keys: Arc<SigningKeys>,
    /// Who signs our issuing authorities, if that is not a root of our own.
    pub upstream: Option<Upstream>,
    /// What our own certificate says beside our SPIFFE id: whoever signs our authorities must permit it.
    pub server_names: ServerNames,
    /// Figures.
    pub metrics: Arc<Metrics>,
}

/// Changes the authorities.
pub struct Authorities {
    parts: AuthoritiesParts,
    /// Held from a step's reading to its publication, so that nothing older is published after something newer.
    step: Mutex<()>,
    /// Held while somebody else is asked to sign, and taken before `step`: two at once would have two signed for one place.
    asking: Mutex<()>,
    /// How it stands with whoever else has to sign.
    dealings: std::sync::Mutex<Dealings>,
    /// How often each admin may have authorities signed for other control planes.
    signed: std::sync::Mutex<Allowances>,
}

impl Authorities {
    /// Puts the parts together.
    pub fn new(parts: AuthoritiesParts) -> Self {
        let authorities = Self {
            parts,
            step: Mutex::new(()),
            asking: Mutex::new(()),
            dealings: Default::default(),
            signed: delegate::allowances(),
        };
        authorities.show_ends();
        authorities
    }

    /// All authorities, the oldest first, and how often they have changed.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn list(&self) -> Result<(Vec<AuthorityView>, u64), LifecycleError> {
        let book = Book::read(&*self.parts.store).await?;
        let holders = self.holders(&book).await?;
        let views = book.entries.iter().map(|entry| view(entry, &holders)).collect();
        Ok((views, book.trust.version))
    }

    /// One authority.
    ///
    /// # Errors
    /// There is none, or the registry cannot be read.
    pub async fn get(&self, serial: &str) -> Result<AuthorityView, LifecycleError> {
        let book = Book::read(&*self.parts.store).await?;
        let entry = find(&book, serial)?;
        Ok(view(entry, &self.holders(&book).await?))
    }

    /// Makes an authority that everybody is told to trust. Where one waits already, that one; `goes_on`: it becomes active
    /// by itself. Gives its serial number.
    ///
    /// # Errors
    /// It cannot be made or written.
    pub async fn prepare(&self, kind: Kind, goes_on: bool, actor: &Actor) -> Result<String, LifecycleError> {
        let _asks = self.may_ask().await;
        let one_at_a_time = self.step.lock().await;
        let book = Book::read(&*self.parts.store).await?;
        let at = Instants::of(&self.parts.clock);
        let (serial, commit) = match book.prepared(kind) {
            Some(waiting) if waiting.record.goes_on || !goes_on => return Ok(waiting.serial.clone()),
            Some(waiting) => (waiting.serial.clone(), change::go_on(&book, waiting)?),
            None if self.parts.upstream.is_some() => {
                drop(one_at_a_time);
                return self.prepare_upstream(kind, goes_on, actor).await;
            }
            None => {
                let trust_domain = self.parts.authority.trust_domain().clone();
                self.make(move |keys| change::prepare(&book, kind, goes_on, &trust_domain, keys, at)).await?
            }
        };
        let action = if goes_on { "authority.rotate" } else { "authority.prepare" };
        self.commit(commit, Act::done(actor, action, serial.clone()).because(kind.as_str())).await?;
        self.forget_dealings();
        Ok(serial)
    }

    /// Makes a prepared authority the one that signs.
    ///
    /// # Errors
    /// It is not prepared, not valid now, or somebody does not trust it yet.
    pub async fn activate(&self, serial: &str, actor: &Actor) -> Result<(), LifecycleError> {
        let _one_at_a_time = self.step.lock().await;
        let book = Book::read(&*self.parts.store).await?;
        let entry = find(&book, serial)?;
        if !entry.is(State::Prepared) {
            let needed = "only a prepared one is activated";
            return Err(wrong_state(entry, needed));
        }
        if entry.kind == Kind::Issuing && book.prepared(Kind::Issuing) != Some(entry) {
            let (serial, root) = (entry.serial.clone(), entry.record.root.clone());
            return Err(LifecycleError::UnderPreparedRoot { serial, root });
        }
        if entry.kind == Kind::Root && book.waits_under(entry).is_none() {
            return Err(LifecycleError::NothingUnder(entry.serial.clone()));
        }
        let late = self.not_trusting(entry.record.needs_version);
        if !late.is_empty() {
            let named = named(late.iter().map(|late| (&late.spiffe_id, late.instance.to_string())));
            return Err(LifecycleError::NotTrustedYet { count: late.len(), named });
        }
        self.see_to_sign(&book, entry).await?;
        let commit = change::activate(&book, entry, self.parts.clock.latest())?;
        let act = Act::done(actor, "authority.activate", serial).because(entry.kind.as_str());
        self.commit(commit, act).await?;
        self.forget_dealings();
        Ok(())
    }

    /// Has everything that an authority has signed replaced. Where it is the active issuing authority, another takes its
    /// place in the same commit.
    ///
    /// # Errors
    /// It is the active root, or retired already.
    pub async fn taint(&self, serial: &str, actor: &Actor) -> Result<(), LifecycleError> {
        self.have_successor(serial, actor).await?;
        let _one_at_a_time = self.step.lock().await;
        let book = Book::read(&*self.parts.store).await?;
        let entry = find(&book, serial)?;
        let commit = match (entry.kind, entry.record.state) {
            (_, State::Tainted) => return Ok(()),
            (_, State::Retired) => {
                return Err(wrong_state(entry, "nothing that it has signed is accepted"));
            }
            (Kind::Root, State::Active) => {
                let needed = "put another in its place first, with `hauberk authority rotate root --wait`";
                return Err(wrong_state(entry, needed));
            }
            _ => {
                let (book, entry, clock) = (book.clone(), entry.clone(), self.parts.clock.clone());
                self.make(move |keys| {
                    change::taint(&book, &entry, keys, (Instants::of(&clock), clock.latest()))
                })
                .await?
            }
        };
        self.commit(commit, Act::done(actor, "authority.taint", serial).because(entry.kind.as_str())).await
    }

    /// Takes trust away from what an authority has signed. `now`: even from what live instances hold, or have proved on
    /// connections that are open.
    ///
    /// # Errors
    /// It signs still, here or for another control plane, or live instances hold certificates by it, or have not said that none of their connections rests on it.
    pub async fn revoke(&self, serial: &str, now: bool, actor: &Actor) -> Result<(), LifecycleError> {
        let _one_at_a_time = self.step.lock().await;
        let book = Book::read(&*self.parts.store).await?;
        let entry = find(&book, serial)?;
        match entry.record.state {
            State::Retired => return Ok(()),
            State::Active => {
                let needed = "put another in its place first, with `hauberk authority rotate`";
                return Err(wrong_state(entry, needed));
            }
            State::Prepared | State::Retiring | State::Tainted | State::Delegated => {}
        }
        if !now {
            delegate::signs_no_longer(&book, entry, &self.parts.clock)?;
            let held: Vec<_> =
                self.holders(&book).await?.into_iter().filter(|held| held.is_by(entry)).collect();
            if !held.is_empty() {
                let named = named(held.iter().map(|held| (&held.spiffe_id, held.instance.to_string())));
                return Err(LifecycleError::StillHeld { count: held.len(), named });
            }
            if !entry.is(State::Prepared) && !entry.is(State::Delegated) {
                let late = self.resting_on(&book, entry).await?;
                if !late.is_empty() {
                    return Err(error::still_proved(&late));
                }
            }
        }
        let now = self.parts.clock.now();
        let commit = if entry.is(State::Prepared) && entry.kind == Kind::Root && !entry.has_key() {
            // It has never been used here, and may come again.
            change::retire(&book, entry, now)?
        } else {
            change::revoke(&book, entry, now)?
        };
        self.commit(commit, Act::done(actor, "authority.revoke", serial).because(entry.kind.as_str())).await
    }

    /// Takes the next steps that are due by themselves. Whether one was taken.
    ///
    /// # Errors
    /// The registry refuses, or an authority cannot be made; it is tried again later.
    pub async fn advance(&self, actor: &Actor) -> Result<bool, LifecycleError> {
        let book = Book::read(&*self.parts.store).await?;
        if book.trust.version != self.parts.authority.version() {
            // Another process has changed them, or a caller has gone between commit and publication.
            let _one_at_a_time = self.step.lock().await;
            self.publish().await?;
            return Ok(true);
        }
        self.say_what_ends_above(&book);
        let has_upstream = self.parts.upstream.is_some();
        let mut failed = None;
        for step in steps::due(&book, has_upstream, Instants::of(&self.parts.clock)) {
            match self.take(&book, &step, actor).await {
                // Told all the same: whoever signs for us is not asked again at once.
                Ok(true) => return failed.map_or(Ok(true), Err),
                Ok(false) => {}
                // A token that is away keeps nothing from happening that takes no key.
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(false), Err)
    }

    async fn take(&self, book: &Book, step: &Step, actor: &Actor) -> Result<bool, LifecycleError> {
        match step {
            Step::Prepare { kind, goes_on } => self.prepare_when_due(book, *kind, *goes_on, actor).await,
            Step::Activate(serial) => match self.activate(serial, actor).await {
                Ok(()) => Ok(true),
                Err(LifecycleError::NotTrustedYet { .. }) => Ok(false),
                Err(error) => Err(error),
            },
            Step::Retire(serial) => {
                let _one_at_a_time = self.step.lock().await;
                let commit = change::retire(book, find(book, serial)?, self.parts.clock.now())?;
                let act = Act::done(actor, "authority.retire", serial).because("by age");
                self.commit(commit, act).await.map(|()| true)
            }
            Step::Forget(serial) => {
                let _one_at_a_time = self.step.lock().await;
                let entry = find(book, serial)?;
                let commit = book.change()?.delete(entry.key());
                let because = self.destroy_key(entry).await?;
                let act = Act::done(actor, "authority.forget", serial).because(because);
                self.commit(commit, act).await.map(|()| true)
            }
            Step::RotateViewKey => self.rotate_view_key(actor).await.map(|_| true),
            Step::RevokeViewKey(key_id) => self.revoke_view_key(key_id, actor).await.map(|()| true),
        }
    }

    /// Writes a step and puts it in force. The caller holds the lock.
    async fn commit(&self, commit: Commit, act: Act) -> Result<(), LifecycleError> {
        self.parts.audit.commit(commit, act).await?;
        self.publish().await
    }

    async fn publish(&self) -> Result<(), LifecycleError> {
        let AuthoritiesParts { store, authority, identity, signing_keys, .. } = &self.parts;
        let book = Book::read(&**store).await?;
        let before = Arc::clone(&authority.in_force.borrow());
        let in_force = InForce::after(&book, authority.trust_domain(), &before, &self.parts.keys)?;
        // We accept what is new before anybody can be told to use it.
        identity.publish_bundle((*in_force.bundle).clone())?;
        // Who is told the version has been told these.
        signing_keys.reload().await?;
        authority.publish(in_force);
        self.show_ends();
        tracing::info!(event = "trust_changed", version = book.trust.version);
        Ok(())
    }
}

fn find<'a>(book: &'a Book, serial: &str) -> Result<&'a Entry, LifecycleError> {
    book.find(serial).ok_or_else(|| LifecycleError::Unknown(serial.to_owned()))
}

fn wrong_state(entry: &Entry, needed: &'static str) -> LifecycleError {
    LifecycleError::WrongState { serial: entry.serial.clone(), state: entry.record.state, needed }
}

fn named<'a>(all: impl Iterator<Item = (&'a SpiffeId, String)>) -> Vec<String> {
    all.take(NAMED).map(|(spiffe_id, instance)| format!("{instance} of {spiffe_id}")).collect()
}
