//! The revocation lists for programs outside the mesh: one by each authority that has signed what it takes back, since verifiers of
//! whole chains want the list of each certificate's own issuer. Signed anew at each change, and before they become old; what was
//! signed last is kept over restarts, and published of an authority that can sign none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hauberk_identity::{BACKDATED, Serial, UnixMillis};
use hauberk_tls::{CrlEntry, CrlIssue, crl_to_pem};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::revocations::MOST_CERTIFICATES;
use super::{Revocations, kept_lists};
use crate::authority::{Authorities, AuthorityError, ListIssuer, ListIssuers};
use crate::registry::StoreError;

/// How long a list is good, and when it is made anew though nothing has changed; whoever cannot fetch another then knows nothing.
struct Life {
    good_for: Duration,
    made_anew_after: Duration,
}

/// Of issuing authorities.
const OF_ISSUING: Life =
    Life { good_for: Duration::from_secs(86_400), made_anew_after: Duration::from_secs(3_600) };

/// Of roots, whose keys are to be used seldom.
const OF_ROOTS: Life =
    Life { good_for: Duration::from_secs(7 * 86_400), made_anew_after: Duration::from_secs(86_400) };

/// The longest time between two looks: one that was signed before the clock was set back is refused by whoever reads it.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(60);

/// After a failure.
const TRIED_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The lists as they stand; none before the first are signed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RevocationLists {
    /// In DER, that of the issuing authority that signs certificates first.
    pub ders: Vec<Bytes>,
    /// The same in PEM, one after another.
    pub pem: Bytes,
    /// All of them are there, and nobody else signs certificates that are believed.
    pub is_complete: bool,
    /// The same of certificates of members.
    pub covers_leaves: bool,
    /// What is not as it should be. Whoever waits for other lists is not woken for it.
    pub trouble: Trouble,
}

/// What of the lists an admin should know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Which authority's list cannot be signed, and why.
    pub unsigned: Option<String>,
    /// What was published last is all that there is until that is signed.
    pub is_held_up: bool,
    /// Whose published list was to be followed by another one, and until when.
    pub overdue: Vec<(Serial, UnixMillis)>,
    /// Until then they covered all members, or, where they still do, were complete. Of a root that is exclusive in vain since before this
    /// control plane started: when it started.
    pub incomplete_since: Option<UnixMillis>,
    /// They are not complete, but cover all members.
    pub covers_leaves: bool,
}

/// What is kept of a list that was signed.
struct Signed {
    issuer: Serial,
    entries: Vec<CrlEntry>,
    number: u64,
    at: UnixMillis,
    /// By then the next was promised.
    until: UnixMillis,
    der: Bytes,
    /// A restart does not lose it.
    is_kept: bool,
}

/// The lists that were signed last, in the order in which they are published.
#[derive(Default)]
pub(super) struct Keeper {
    signed: Vec<Signed>,
    /// Those that are out, and when each was to be followed by the next.
    published: Vec<(Serial, UnixMillis)>,
    is_complete: bool,
    covers_leaves: bool,
    /// They were complete until then.
    incomplete_since: Option<UnixMillis>,
    /// They covered all members until then.
    uncovered_since: Option<UnixMillis>,
    /// What was kept before this control plane started was looked for.
    is_loaded: bool,
    trouble: Trouble,
    /// What was said of authorities whose list is not signed.
    said: BTreeMap<Serial, String>,
    /// It was said that a list is not kept.
    is_said_unkept: bool,
}

/// Keeps the lists up until `stop`.
pub async fn publish(
    revocations: Arc<Revocations>,
    authorities: Arc<Authorities>,
    lists: watch::Sender<Arc<RevocationLists>>,
    stop: CancellationToken,
) {
    let mut changes = revocations.subscribe();
    // Others may sign, or be taken back.
    let mut trust = revocations.authority.trust();
    let mut keeper = Keeper::default();
    loop {
        changes.mark_unchanged();
        trust.mark_unchanged();
        let again_in = match keeper.renew(&revocations, &authorities).await {
            Ok(again_in) => again_in,
            Err(error) => {
                tracing::error!(event = "crl_not_made", %error, "the former revocation lists stay");
                TRIED_AGAIN_AFTER
            }
        };
        keeper.publish(&lists);
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
            changed = trust.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(again_in.min(LOOKED_AT_EVERY)) => {}
        }
    }
}

impl Keeper {
    /// Signs what has changed or become old, and gives after which time to look again. Where one cannot be signed its former one
    /// stays, and the others are signed all the same.
    pub(super) async fn renew(
        &mut self,
        revocations: &Revocations,
        authorities: &Authorities,
    ) -> Result<Duration, AuthorityError> {
        let now = revocations.clock.now();
        let refused = refused(revocations, revocations.clock.surely_past()).await?;
        let issuers = authorities.list_issuers().await?;
        self.load(revocations, &issuers.all).await?;
        self.note(&issuers, now);
        let ListIssuers { all, is_complete, .. } = issuers;
        let mut former = std::mem::take(&mut self.signed);
        let mut unsigned = BTreeMap::new();
        let mut again_in = OF_ISSUING.made_anew_after;
        for issuer in all {
            let kept = former.iter().position(|kept| kept.issuer == issuer.serial);
            let kept = kept.map(|index| former.swap_remove(index));
            let (entries, life) = wanted(&issuer, &refused);
            let left = |at: UnixMillis| {
                life.made_anew_after.checked_sub(now.since(at)).filter(|left| !left.is_zero())
            };
            // One from the future, which a clock made that was set back since, is refused by everybody.
            let is_good = |kept: &&Signed| kept.entries == entries && kept.at <= now;
            let good_for_now = kept.as_ref().filter(is_good).and_then(|kept| left(kept.at));
            let mut current = if let Some(left) = good_for_now {
                again_in = again_in.min(left);
                kept
            } else {
                // Backdated as certificates are: a program whose clock is behind would refuse a list from the future.
                let (this_update, until) = (now.minus(BACKDATED), now.plus(life.good_for));
                let number = number_after(kept.as_ref(), this_update);
                let issue = CrlIssue { number, this_update, next_update: until };
                match authorities.sign_list(&issuer, entries.clone(), issue).await {
                    Ok(der) => {
                        let (issuer, der) = (issuer.serial, der.into());
                        Some(Signed { issuer, entries, number, at: now, until, der, is_kept: false })
                    }
                    Err(error) => {
                        again_in = TRIED_AGAIN_AFTER;
                        unsigned.insert(issuer.serial, error.to_string());
                        // Where somebody else's lists are wanted beside ours, that of a root is not waited for.
                        let is_needed = !issuer.is_prepared && (is_complete || issuer.revoked.is_none());
                        self.trouble.is_held_up |= is_needed && kept.is_none();
                        kept
                    }
                }
            };
            if let Some(unkept) = current.as_mut().filter(|current| !current.is_kept) {
                // Before it is published: after a restart none is that is older than what programs have.
                unkept.is_kept = self.keep(revocations, &issuer, &unkept.der).await;
                again_in = if unkept.is_kept { again_in } else { TRIED_AGAIN_AFTER };
            }
            self.signed.extend(current);
        }
        let gone = former.into_iter().map(|former| former.issuer);
        if let Err(error) = kept_lists::forget(&*revocations.store, gone).await {
            tracing::warn!(event = "crl_not_forgotten", %error, "lists of authorities that are gone stay until the next start; nobody is given them");
        }
        self.say_unsigned(unsigned);
        self.note_overdue(now);
        Ok(again_in)
    }

    /// Takes what was signed before this control plane started, of those who still are to sign. It is signed anew as soon as it can be.
    async fn load(&mut self, revocations: &Revocations, all: &[ListIssuer]) -> Result<(), StoreError> {
        if self.is_loaded {
            return Ok(());
        }
        let mut kept = match kept_lists::load(&*revocations.store).await {
            Ok(kept) => kept,
            // What is signed anew takes its place; only whoever cannot sign is without one.
            Err(error @ StoreError::Damaged { .. }) => {
                tracing::error!(event = "crl_unusable", %error, "the revocation lists that the registry keeps are not published");
                BTreeMap::new()
            }
            Err(error) => return Err(error),
        };
        self.is_loaded = true;
        for issuer in all {
            let Some(der) = kept.remove(&issuer.serial) else { continue };
            match issuer.verify(&der) {
                Ok(CrlIssue { number, next_update: until, .. }) => {
                    let (issuer, entries, at) = (issuer.serial, Vec::new(), UnixMillis(0));
                    self.signed.push(Signed { issuer, entries, number, at, until, der, is_kept: true });
                }
                Err(error) => {
                    let authority = issuer.serial;
                    tracing::error!(event = "crl_unusable", %authority, %error, "the revocation list that the registry keeps is not published");
                }
            }
        }
        if let Err(error) = kept_lists::forget(&*revocations.store, kept.into_keys()).await {
            tracing::warn!(event = "crl_not_forgotten", %error, "lists of authorities that are gone stay until the next start; nobody is given them");
        }
        Ok(())
    }

    /// Whether a restart does not lose a list from now on. One that is not kept is published all the same: what it names must be known.
    async fn keep(&mut self, revocations: &Revocations, issuer: &ListIssuer, der: &Bytes) -> bool {
        let kept = kept_lists::keep(&*revocations.store, issuer, der).await;
        if let Err(error) = &kept
            && !std::mem::replace(&mut self.is_said_unkept, true)
        {
            tracing::warn!(event = "crl_not_kept", authority = %issuer.serial, %error, "it is published, and lost with a restart; it is tried again");
        }
        self.is_said_unkept &= kept.is_err();
        kept.is_ok()
    }

    /// Says once of each authority, and for each reason, that its list is not signed.
    fn say_unsigned(&mut self, unsigned: BTreeMap<Serial, String>) {
        for (authority, error) in &unsigned {
            if self.said.get(authority) == Some(error) {
                continue;
            }
            let has_former = self.signed.iter().any(|signed| signed.issuer == *authority);
            let what = if has_former { "its former revocation list stays" } else { "it has none" };
            tracing::error!(event = "crl_not_made", %authority, error, "{what}; it is tried again every few seconds");
        }
        self.trouble.unsigned =
            unsigned.iter().next().map(|(authority, error)| format!("{authority}: {error}"));
        self.said = unsigned;
    }

    /// Which lists that are out were to be followed by others, and were not: said once of each.
    fn note_overdue(&mut self, now: UnixMillis) {
        let out = |signed: &Signed| (signed.issuer, signed.until);
        let out = if self.trouble.is_held_up {
            self.published.clone()
        } else {
            self.signed.iter().map(out).collect()
        };
        let overdue: Vec<_> = out.into_iter().filter(|(_, until)| *until < now).collect();
        for (authority, until) in overdue.iter().filter(|one| !self.trouble.overdue.contains(one)) {
            tracing::error!(event = "crl_overdue", %authority, %until,
                "its revocation list is old: programs that read lists refuse all that it has signed");
        }
        self.trouble.overdue = overdue;
    }

    /// Whether the lists cover everything that is believed, or at least all members, from now on.
    fn note(&mut self, issuers: &ListIssuers, now: UnixMillis) {
        let ListIssuers { all: _, is_complete, covers_leaves, exclusive_in_vain } = *issuers;
        let since = |was: bool, is: bool, known: Option<UnixMillis>| match (was, is) {
            (_, true) => None,
            (true, false) => Some(now),
            (false, false) => known,
        };
        let former = (self.incomplete_since, self.uncovered_since);
        self.incomplete_since = since(self.is_complete, is_complete, former.0);
        self.uncovered_since = since(self.covers_leaves, covers_leaves, former.1);
        if exclusive_in_vain {
            // Whoever said it counts on lists, also after a restart.
            self.uncovered_since = self.uncovered_since.or(Some(now));
        }
        if self.uncovered_since.is_some() && self.uncovered_since != former.1 {
            tracing::warn!(
                event = "crl_incomplete",
                covers_leaves,
                "others may sign members, under a root that is not said to be exclusive or for another control plane: Envoys are given no \
                 revocation lists"
            );
        } else if covers_leaves && self.incomplete_since.is_some() && self.incomplete_since != former.0 {
            tracing::warn!(
                event = "crl_incomplete",
                covers_leaves,
                "a root of somebody else's is believed from now on: Envoys that ask for the roots of ALL are given no revocation lists any \
                 longer; those that ask for ROOTCA or by the trust domain's name are"
            );
        }
        (self.is_complete, self.covers_leaves) = (is_complete, covers_leaves);
        let overdue = std::mem::take(&mut self.trouble.overdue);
        self.trouble = Trouble {
            incomplete_since: if covers_leaves { self.incomplete_since } else { self.uncovered_since },
            covers_leaves: covers_leaves && !is_complete,
            overdue,
            ..Trouble::default()
        };
    }

    /// What is to be published; `None`: what is there stays. Where one is lacking that is needed, the others alone would have good
    /// certificates refused by whoever wants all, and Envoys would be given none.
    pub(super) fn lists(&self) -> Option<RevocationLists> {
        if self.trouble.is_held_up {
            return None;
        }
        let ders: Vec<_> = self.signed.iter().map(|signed| signed.der.clone()).collect();
        let pem: String = ders.iter().map(|der| crl_to_pem(der)).collect();
        let Self { is_complete, covers_leaves, ref trouble, .. } = *self;
        let trouble = trouble.clone();
        Some(RevocationLists { ders, pem: pem.into(), is_complete, covers_leaves, trouble })
    }

    /// Wakes those who wait for other lists only where these are others.
    pub(super) fn publish(&mut self, lists: &watch::Sender<Arc<RevocationLists>>) {
        if !self.trouble.is_held_up {
            self.published = self.signed.iter().map(|signed| (signed.issuer, signed.until)).collect();
        }
        lists.send_if_modified(|published| {
            let trouble = self.trouble.clone();
            let former = || RevocationLists { trouble, ..(**published).clone() };
            let now = self.lists().unwrap_or_else(former);
            let covers = |lists: &RevocationLists| (lists.is_complete, lists.covers_leaves);
            let is_new = covers(published) != covers(&now) || published.ders != now.ders;
            if is_new || published.trouble != now.trouble {
                *published = Arc::new(now);
            }
            is_new
        });
    }
}

/// The number of an authority's next list. Where the clock was set back since the last was signed, the time alone would give a smaller one,
/// and who keeps the list with the greatest (RFC 5280 §5.2.3) would never learn of what was revoked since.
fn number_after(last: Option<&Signed>, this_update: UnixMillis) -> u64 {
    last.map_or(0, |last| last.number.saturating_add(1)).max(this_update.0)
}

/// What the list of an authority is to name, and how long it is good. A certificate of which it is not on record who has signed it
/// stands on those of all issuing authorities.
fn wanted(issuer: &ListIssuer, refused: &[(Option<Serial>, CrlEntry)]) -> (Vec<CrlEntry>, Life) {
    if let Some(revoked) = &issuer.revoked {
        return (revoked.clone(), OF_ROOTS);
    }
    let is_its = |by: &Option<Serial>| by.is_none_or(|by| by == issuer.serial);
    let its = refused.iter().filter(|(by, _)| is_its(by)).map(|(_, entry)| *entry);
    (its.collect(), OF_ISSUING)
}

/// All certificates that are refused, in the order of their serial numbers, and who has signed each, where that is on record.
async fn refused(
    revocations: &Revocations,
    now: UnixMillis,
) -> Result<Vec<(Option<Serial>, CrlEntry)>, StoreError> {
    let list = revocations.denylist();
    let entry = |serial, revoked_at, is_on_hold| CrlEntry { serial, revoked_at, is_on_hold };
    let mut entries: Vec<_> =
        list.serials().map(|(serial, it)| (it.issuer, entry(serial, it.at, false))).collect();
    entries.extend(list.on_hold().map(|(serial, it)| (it.issuer, entry(serial, it.at, true))));
    if list.has_quarantines() {
        let on_record = revocations.ledger.instances().await?.into_iter();
        let in_quarantine = on_record.filter(|(_, it)| list.quarantine(&it.spiffe_id).is_some());
        let on_hold = revocations.ledger.unexpired_of(in_quarantine.map(|(id, _)| id), now);
        for (serial, record) in on_hold.await? {
            if let Some(revoked_at) = list.quarantine(&record.spiffe_id)
                && !list.is_listed(serial)
                && entries.len() < MOST_CERTIFICATES
            {
                let issuer = record.issuer.and_then(|issuer| issuer.parse().ok());
                entries.push((issuer, entry(serial, revoked_at, true)));
            }
        }
    }
    entries.sort_by_key(|(_, entry)| entry.serial);
    Ok(entries)
}
