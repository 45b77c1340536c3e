//! How it stands with whoever else has to sign: asked again, followed, and named in time where it is a person.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use hauberk_identity::UnixMillis;
use hauberk_tls::{CertificateDer, Fingerprint};

use super::upstream::Wish;
use super::{Authorities, LifecycleError, change, find};
use crate::audit::Actor;
use crate::authority::book::{Book, Entry, Kind};
use crate::authority::records::State;
use crate::authority::steps::{self, Instants, Step};
use crate::authority::{AuthorityError, Upstream, UpstreamFault};
use crate::metrics::AuthorityLabel;
use crate::rpc::Parent;

/// Before whoever signs for us is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// How often it is said that somebody has to sign.
const SAY_AGAIN: Duration = Duration::from_secs(3_600);

/// From when on it is urgent.
const URGENT_BEFORE_END: Duration = Duration::from_secs(7 * 86_400);

/// How it stands with whoever else has to sign.
#[derive(Debug, Clone, Default)]
pub(super) struct Dealings {
    /// Nobody is asked or told before.
    not_before: UnixMillis,
    /// Before that it is not said again that something ends above our authorities.
    said_until: UnixMillis,
    /// What went wrong, and since when.
    problem: Option<(String, UnixMillis)>,
    /// The same of learning whom to trust.
    not_followed: Option<(String, UnixMillis)>,
    /// The issuing authority of ours that they have tainted or revoked.
    disowned: Option<String>,
}

/// What somebody has to do so that the next authority comes in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// What is the matter.
    pub what: String,
    /// What to do.
    pub fix: String,
    /// Whether there is little time left.
    pub is_urgent: bool,
}

impl Authorities {
    /// Trusts the roots that whoever signs for us trusts, as far as it tells, and moves under its active one. `renew`: the
    /// serial numbers of issuing authorities whose certificates it has replaced; another takes the place of ours.
    ///
    /// # Errors
    /// One of them cannot be a root here, or a step fails.
    pub async fn follow(
        &self,
        theirs: &[CertificateDer<'static>],
        active: Fingerprint,
        renew: &[String],
        actor: &Actor,
    ) -> Result<(), LifecycleError> {
        let book = Book::read(&*self.parts.store).await?;
        let is_theirs = |entry: &Entry| theirs.contains(&entry.der());
        let is_known = |root: &CertificateDer<'_>| {
            let mut known = book.of(Kind::Root).filter(|entry| entry.der() == *root);
            known.any(|entry| entry.is_trusted() || entry.record.was_tainted)
        };
        for root in theirs.iter().filter(|root| !is_known(root)) {
            self.announce(root.clone(), None, actor).await?;
        }
        let gone = book.of(Kind::Root).filter(|root| !root.has_key() && !is_theirs(root));
        for root in gone {
            let is_announced = book.announced().any(|announced| announced == root);
            if is_announced || root.is(State::Retiring) || root.is(State::Tainted) {
                match self.revoke(&root.serial, false, actor).await {
                    // Looked at again the next time.
                    Err(LifecycleError::StillHeld { .. } | LifecycleError::StillProved { .. }) | Ok(()) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        // An own root is left by itself; under another of theirs we are asked in.
        let Some(ours) = book.active(Kind::Root).filter(|ours| !ours.has_key()) else { return Ok(()) };
        let is_disowned = self.note_disowned(&book, renew);
        if ours.certificate.fingerprint() == active {
            if is_disowned {
                self.replace_disowned(&book, renew, actor).await?;
            }
            return Ok(());
        }
        match book.prepared(Kind::Root) {
            None => {
                self.prepare_when_due(&book, Kind::Root, true, actor).await?;
            }
            // Nobody of theirs believes what we sign any longer: there is nothing to wait for.
            Some(waiting) if !is_theirs(ours) => match self.activate(&waiting.serial, actor).await {
                Err(LifecycleError::NotTrustedYet { .. }) | Ok(()) => {}
                Err(error) => return Err(error),
            },
            Some(_) => {}
        }
        Ok(())
    }

    /// Whether whoever signs for us has tainted or revoked the issuing authority that signs here; it is said once.
    fn note_disowned(&self, book: &Book, renew: &[String]) -> bool {
        let active = book.active(Kind::Issuing).map(|active| active.serial.clone());
        let disowned = active.filter(|serial| renew.contains(serial));
        let mut dealings = self.dealings();
        if let Some(serial) = disowned.as_ref().filter(|serial| dealings.disowned.as_ref() != Some(*serial)) {
            tracing::error!(
                event = "authority_disowned",
                serial,
                "whoever signed this issuing authority has tainted or revoked it: another takes its place"
            );
        }
        dealings.disowned = disowned;
        dealings.disowned.is_some()
    }

    async fn replace_disowned(
        &self,
        book: &Book,
        renew: &[String],
        actor: &Actor,
    ) -> Result<(), LifecycleError> {
        if let Some(waiting) = book.prepared(Kind::Issuing).filter(|waiting| renew.contains(&waiting.serial))
        {
            // Nothing that it signed would be believed there either.
            self.revoke(&waiting.serial, false, actor).await?;
        }
        let book = Book::read(&*self.parts.store).await?;
        self.prepare_when_due(&book, Kind::Issuing, true, actor).await.map(drop)
    }

    /// What somebody has to do so that the next authority comes in time.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn need(&self) -> Result<Option<Need>, LifecycleError> {
        let book = Book::read(&*self.parts.store).await?;
        let now = self.parts.clock.now();
        if self.parts.upstream.is_some() {
            let Dealings { problem, not_followed, disowned, .. } = self.dealings().clone();
            if let Some(active) =
                book.active(Kind::Issuing).filter(|active| Some(&active.serial) == disowned.as_ref())
            {
                let hindered = problem.map(|(problem, since)| format!(", but since {since}: {problem}"));
                return Ok(Some(Need {
                    what: format!(
                        "who signed issuing authority {} has tainted or revoked it: what it signs is believed no longer there",
                        active.serial
                    ),
                    fix: format!(
                        "another is signed by itself, and becomes active once all agents trust it{}",
                        hindered.unwrap_or_default()
                    ),
                    is_urgent: true,
                }));
            }
            let ends = book.active(Kind::Issuing).map(Entry::not_after).unwrap_or(now);
            let of_no_help = problem.or(not_followed).map(|(problem, since)| Need {
                what: format!("who signs the authorities of this installation is of no help since {since}: {problem}"),
                fix: format!(
                    "mend that before the present issuing authority ends, at {ends}: it is tried again every minute"
                ),
                is_urgent: ends.since(now) < URGENT_BEFORE_END,
            });
            return Ok(of_no_help.or_else(|| self.ends_above(&book, now)));
        }
        let has_key = book.active(Kind::Root).is_none_or(Entry::has_key);
        let due =
            steps::due(&book, false, Instants::of(&self.parts.clock)).into_iter().find_map(
                |step| match step {
                    Step::Prepare { kind, .. } if !has_key && book.prepared(kind).is_none() => Some(kind),
                    _ => None,
                },
            );
        let due = due.and_then(|kind| Some(need(kind, book.active(kind)?, book.request.is_some(), now)));
        // Whoever signs the next one under the same would have to sign another soon.
        Ok(match (due, self.ends_above(&book, now)) {
            (Some(due), Some(above)) => {
                Some(Need { what: format!("{}; and {}", due.what, above.what), ..due })
            }
            (due, above) => due.or(above),
        })
    }

    /// That a certificate of an operator's ends which stands above our latest issuing authority, and what helps.
    fn ends_above(&self, book: &Book, now: UnixMillis) -> Option<Need> {
        let (latest, above) = steps::ends_above(book, now)?;
        let ends = above.validity().not_after();
        let fix = match &self.parts.upstream {
            Some(Upstream::Files { .. }) => {
                "have it renewed, or take another authority, and put that into the files of --upstream-certificate and                  --upstream-key: what follows is signed with those by itself"
                    .to_owned()
            }
            Some(Upstream::Hauberk(_)) => {
                "have whoever signs for this installation put another in its place, then run `hauberk authority rotate                  issuing`"
                    .to_owned()
            }
            None => {
                let first = match latest.is(State::Prepared) {
                    true => format!("`hauberk authority activate {}`, then ", latest.serial),
                    false => String::new(),
                };
                format!(
                    "have it renewed, or take another; {first}`hauberk authority csr --out request.pem`, have that request                      signed under it, and `hauberk authority install FILE...` with the new intermediate"
                )
            }
        };
        Some(Need {
            what: format!(
                "the intermediate certificate {} above issuing authority {} ends at {ends}, and nothing under it lives longer",
                above.serial(),
                latest.serial
            ),
            fix,
            is_urgent: ends.since(now) < URGENT_BEFORE_END,
        })
    }

    /// Says it as often as that somebody has to sign.
    pub(super) fn say_what_ends_above(&self, book: &Book) {
        let now = self.parts.clock.now();
        if now < self.dealings().said_until {
            return;
        }
        let Some(Need { what, fix, is_urgent }) = self.ends_above(book, now) else { return };
        tracing::warn!(event = "authority_needed", is_urgent, "{what}: {fix}");
        self.dealings().said_until = now.plus(SAY_AGAIN);
        self.parts.metrics.authority_needed.set(1);
    }

    /// Waits until nobody else asks whoever signs for us; nobody is in the way where there is none.
    pub(super) async fn may_ask(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        match self.parts.upstream {
            Some(_) => Some(self.asking.lock().await),
            None => None,
        }
    }

    /// Has an authority signed by whoever does that for us, and takes it in. The caller holds what
    /// [`Authorities::may_ask`] gives, and has read since that none waits.
    pub(super) async fn prepare_upstream(
        &self,
        kind: Kind,
        goes_on: bool,
        actor: &Actor,
    ) -> Result<String, LifecycleError> {
        let Some(upstream) = &self.parts.upstream else { return Err(LifecycleError::NoRequest) };
        if let (Kind::Root, Upstream::Hauberk(parent)) = (kind, upstream) {
            // Asked before anything is signed in vain, which would be one of the few that it signs.
            let active = parent.look().await.map_err(UpstreamFault::from)?.active;
            let book = Book::read(&*self.parts.store).await?;
            let ours = book.active(Kind::Root).filter(|ours| ours.certificate.fingerprint() == active);
            if let Some(ours) = ours {
                return Err(LifecycleError::SameRoot(ours.serial.clone()));
            }
        }
        // Nobody has been given what waits; its key is to be where keys are made now.
        let waits = Book::read(&*self.parts.store).await?.request;
        let in_token = self.parts.keys.token().is_some();
        let anew = waits.is_some_and(|waits| waits.record.token_key.is_some() != in_token);
        let requested = self.request(anew, actor).await?;
        let trust_domain = self.parts.authority.trust_domain();
        let signed = upstream.sign(trust_domain, &requested.csr, self.parts.clock.now()).await?;
        self.take_in(signed, Wish { kind, goes_on, exclusive: None }, actor).await
    }

    /// Prepares what is due, or says that somebody else has to; whether a step was taken.
    pub(super) async fn prepare_when_due(
        &self,
        book: &Book,
        kind: Kind,
        goes_on: bool,
        actor: &Actor,
    ) -> Result<bool, LifecycleError> {
        let now = self.parts.clock.now();
        let waits = book.prepared(kind).is_some();
        let not_before = self.dealings().not_before;
        // A clock that was set back since may have meant an instant far ahead.
        if !waits && now < not_before && not_before.since(now) <= SAY_AGAIN {
            return Ok(false);
        }
        let error = match self.prepare(kind, goes_on, actor).await {
            Ok(_) => return Ok(true),
            Err(error) => error,
        };
        match error {
            LifecycleError::Authority(AuthorityError::RootElsewhere(_)) => {
                if let Some(Need { what, fix, is_urgent }) = self.need().await? {
                    tracing::warn!(event = "authority_needed", is_urgent, "{what}: {fix}");
                }
                self.dealings().not_before = now.plus(SAY_AGAIN);
                self.parts.metrics.authority_needed.set(1);
                Ok(false)
            }
            error if self.parts.upstream.is_some() => {
                let is_unchanged = matches!(error, LifecycleError::SameRoot(_));
                let mut dealings = self.dealings();
                dealings.not_before = now.plus(if is_unchanged { SAY_AGAIN } else { ASK_AGAIN });
                let since = dealings.problem.take().map_or(now, |(_, since)| since);
                dealings.problem = Some((error.to_string(), since));
                self.parts.metrics.authority_needed.set(1);
                Err(error)
            }
            error => Err(error),
        }
    }

    /// Before the authority that signs is tainted, another has to be there where only somebody else can sign it.
    pub(super) async fn have_successor(&self, serial: &str, actor: &Actor) -> Result<(), LifecycleError> {
        let _asks = self.may_ask().await;
        let book = Book::read(&*self.parts.store).await?;
        let entry = find(&book, serial)?;
        if entry.kind != Kind::Issuing || !entry.is(State::Active) {
            return Ok(());
        }
        let at = Instants::of(&self.parts.clock);
        let is_signed_here = book.active(Kind::Root).is_some_and(Entry::has_key);
        match book.prepared(Kind::Issuing) {
            // In its place another can be made here, and nowhere else without somebody's hand.
            Some(waiting) if !is_signed_here && !change::may_follow_at_once(waiting, at) => {
                let (serial, validity) = (waiting.serial.clone(), waiting.certificate.validity());
                Err(LifecycleError::NotValidNow { serial, validity, now: at.now })
            }
            // Where that can, nobody else has to, who may be away or have no room for another root.
            None if self.parts.upstream.is_some() && !is_signed_here => {
                self.prepare_upstream(Kind::Issuing, false, actor).await.map(drop)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The other Hauberk that signs for us.
    pub fn parent(&self) -> Option<&Parent> {
        match &self.parts.upstream {
            Some(Upstream::Hauberk(parent)) => Some(parent),
            Some(Upstream::Files { .. }) | None => None,
        }
    }

    /// Whether it said whom to trust, or why not.
    pub fn not_followed(&self, problem: Option<String>) {
        let now = self.parts.clock.now();
        let mut dealings = self.dealings();
        let since = dealings.not_followed.take().map_or(now, |(_, since)| since);
        dealings.not_followed = problem.map(|problem| (problem, since));
    }

    /// Another authority changes how it stands with those who have to sign.
    pub(super) fn forget_dealings(&self) {
        let mut dealings = self.dealings();
        (dealings.not_before, dealings.said_until, dealings.problem) = (UnixMillis(0), UnixMillis(0), None);
        self.parts.metrics.authority_needed.set(0);
    }

    /// Shows among the figures when the active authorities end.
    pub(super) fn show_ends(&self) {
        let authority = &self.parts.authority;
        let root = authority.root().map(|root| root.validity());
        for (kind, validity) in [(Kind::Root, root), (Kind::Issuing, Some(authority.issuing().validity()))] {
            let end = validity.map_or(0, |validity| validity.not_after().as_secs());
            let label = AuthorityLabel { kind: kind.as_str() };
            let gauge = self.parts.metrics.authority_not_after.get_or_create(&label);
            gauge.set(i64::try_from(end).unwrap_or(i64::MAX));
        }
    }

    fn dealings(&self) -> MutexGuard<'_, Dealings> {
        self.dealings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn need(kind: Kind, active: &Entry, is_requested: bool, now: UnixMillis) -> Need {
    let (ends, waits) = (active.not_after(), if is_requested { ", which waits," } else { "" });
    let (what, signed_by) = match kind {
        Kind::Root => ("root", "its successor"),
        Kind::Issuing => ("issuing authority", "whoever holds the root's key"),
    };
    Need {
        what: format!("the {what} ends at {ends}, and what follows it has to be signed elsewhere"),
        fix: format!(
            "`hauberk authority csr --out request.pem`: have that request{waits} signed by {signed_by}, then `hauberk authority \
             install FILE...`; what was installed becomes active by itself in time"
        ),
        is_urgent: ends.since(now) < URGENT_BEFORE_END,
    }
}
