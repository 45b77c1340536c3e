//! One workload's certificate while it is held: until it is renewed, or nobody accepts it any longer.

use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{Name, UnixMillis};
use hauberk_tls::{TrustBundle, Usage, verify_svid};
use tokio::time::Instant;

use super::entry::Certified;
use super::keeper::{Obtained, WorkloadSvid};
use crate::mesh::Denied;
use crate::random::{Backoff, fraction};
use crate::renew::Due;
use crate::state::StoredTrust;

/// For how long it is believed that this host's clock is as far ahead as it was: steady time stands still while a host
/// sleeps, so that it may seem to be so for ever.
const BELIEVED: Duration = Duration::from_secs(300);

/// One entry's certificate, or the lack of it.
pub(super) struct Held {
    pub(super) certified: Certified,
    pub(super) svid: Option<Arc<WorkloadSvid>>,
    /// When another is to be asked for.
    pub(super) due: UnixMillis,
    /// The same by steady time, where `due` follows from when the present one came.
    due_by: Option<Instant>,
    /// This host's clock is so far ahead that what is issued is of no use here.
    outlived: Option<Outlived>,
    /// `due` was brought forward because its authority signs no longer.
    is_hurried: bool,
    /// The control plane has said last that it issues none, because of the enrollment.
    pub(super) is_refused: bool,
    backoff: Backoff,
}

/// A certificate that had ended by this host's clock when it came, and has not by the control plane's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outlived {
    issued_at: UnixMillis,
    not_after: UnixMillis,
    received: Instant,
}

impl Outlived {
    /// Came just now.
    pub(super) fn new(issued_at: UnixMillis, not_after: UnixMillis) -> Self {
        Self { issued_at, not_after, received: Instant::now() }
    }

    /// Whether one that is issued now would be as little good.
    fn is_still_so(&self, now: UnixMillis) -> bool {
        let passed = self.received.elapsed();
        passed < BELIEVED && now > self.not_after.plus(passed)
    }

    /// By how much this host's clock is ahead, as far as a certificate tells that came at this time.
    pub(super) fn ahead(&self, now: UnixMillis) -> Duration {
        now.since(self.issued_at.plus(self.received.elapsed()))
    }
}

impl Held {
    /// None yet, and due.
    pub(super) fn new(certified: Certified) -> Self {
        let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        let due = UnixMillis(0);
        Self {
            certified,
            svid: None,
            due,
            due_by: None,
            outlived: None,
            is_hurried: false,
            is_refused: false,
            backoff,
        }
    }

    /// Takes over what certificates say from now on. A former one for the same id is good until there is another.
    pub(super) fn change(&mut self, certified: &Certified) {
        if self.certified == *certified {
            return;
        }
        let former = self.svid.take().filter(|_| self.certified.id == certified.id);
        *self = Self { svid: former, ..Self::new(certified.clone()) };
    }

    /// Takes a certificate in place of the former, which came just now.
    pub(super) fn take(&mut self, obtained: Obtained, now: UnixMillis) {
        let Obtained { svid, issued_at } = obtained;
        let Due { at, by } = Due::of(issued_at, svid.svid.validity().not_after(), Some(now));
        (self.due, self.due_by, self.outlived) = (at, Some(by), None);
        (self.is_hurried, self.is_refused) = (false, false);
        self.backoff.reset();
        self.svid = Some(Arc::new(svid));
    }

    /// Puts the next attempt off; gives by how much.
    pub(super) fn try_again_after(&mut self, now: UnixMillis) -> Duration {
        let wait = self.backoff.step();
        // By steady time too: a clock that is set back meanwhile makes it no longer.
        (self.due, self.due_by, self.outlived) = (now.plus(wait), Some(Instant::now() + wait), None);
        wait
    }

    /// Puts the next attempt off until the clock is set, which may be back by more than any wait; gives how long that is
    /// waited for.
    pub(super) fn wait_for_the_clock(&mut self, outlived: Outlived) -> Duration {
        (self.due, self.due_by, self.outlived) = (UnixMillis(0), None, Some(outlived));
        BELIEVED
    }

    /// Whether another is to be asked for, and would be of any use.
    pub(super) fn is_due(&self, now: UnixMillis) -> bool {
        let is_due = self.due <= now || self.due_by.is_some_and(|by| by <= Instant::now());
        is_due && !self.outlived.is_some_and(|outlived| outlived.is_still_so(now))
    }

    /// Whether the clock is waited for.
    pub(super) fn is_outlived(&self) -> bool {
        self.outlived.is_some()
    }

    /// How long it is until it is due, unless it is.
    pub(super) fn due_in(&self, now: UnixMillis) -> Option<Duration> {
        let left = self.due_by.map(|by| by.saturating_duration_since(Instant::now()));
        let by_clock = self.due.since(now);
        let left = left.map_or(by_clock, |left| left.min(by_clock));
        (!left.is_zero()).then_some(left)
    }

    /// Whether the certificate was dropped because no peer accepts it.
    pub(super) fn judge(
        &mut self,
        name: &Name,
        denied: &Denied,
        bundle: &TrustBundle,
        trust: &StoredTrust,
        now: UnixMillis,
    ) -> bool {
        let Some(workload) = &self.svid else { return false };
        let svid = &workload.svid;
        let refusal = match denied.denial(svid.id(), svid.serial()) {
            Some(denial) => Some(denial.as_str().to_owned()),
            None => {
                verify_svid(svid.chain(), bundle, now, Usage::Client).err().map(|error| error.to_string())
            }
        };
        if let Some(reason) = refusal {
            tracing::warn!(event = "workload_certificate_dropped", enrollment = %name, serial = %svid.serial(), reason);
            self.svid = None;
            self.due = self.due.min(now);
            return true;
        }
        if !self.is_hurried
            && let Some(within) = trust.renewal_within(svid)
        {
            self.is_hurried = true;
            self.due = self.due.min(now.plus(within.mul_f64(fraction())));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use hauberk_identity::SpiffeId;
    use hauberk_tls::KeyPair;

    use super::*;
    use crate::mesh::Denylist;
    use crate::testing::{Authorities, HOUR, around, now};

    const ID: &str = "spiffe://shop.local/workload/a";

    fn held(authorities: &Authorities) -> Held {
        let key = KeyPair::generate().unwrap();
        let svid = authorities.sign("workload/a", key.public_key(), around(HOUR));
        let mut held =
            Held::new(Certified { id: SpiffeId::parse(ID).unwrap(), dns_names: Vec::new(), ttl: None });
        held.take(Obtained { svid: WorkloadSvid { svid, key }, issued_at: now() }, now());
        held
    }

    #[test]
    fn what_no_peer_accepts_is_dropped_and_asked_for_at_once() {
        let authorities = Authorities::new();
        let (bundle, name) = (authorities.issuing.root_bundle(), Name::parse("a").unwrap());
        let trust = StoredTrust::new(authorities.trust()).unwrap();
        let (good, denied) = (Denied::new(), Denied::new());
        let mut revoked = held(&authorities);
        assert!(!revoked.judge(&name, &good, bundle, &trust, now()), "it is good");
        assert!(revoked.svid.is_some() && revoked.due > now());
        let serial = revoked.svid.as_ref().unwrap().svid.serial();
        denied.replace(Denylist { serials: [serial].into(), ..Denylist::default() });
        assert!(revoked.judge(&name, &denied, bundle, &trust, now()));
        assert!(revoked.svid.is_none() && revoked.due <= now());
        assert!(!revoked.judge(&name, &denied, bundle, &trust, now()), "there is nothing left to drop");

        // The same for what its authority was revoked with, and for what has expired.
        let mut untrusted = held(&authorities);
        let other = Authorities::new();
        assert!(untrusted.judge(&name, &good, other.issuing.root_bundle(), &trust, now()));
        assert!(untrusted.due <= now());
        let mut expired = held(&authorities);
        assert!(expired.judge(&name, &good, bundle, &trust, now().plus(2 * HOUR)));
        assert!(expired.due <= now().plus(2 * HOUR));
    }

    #[test]
    fn it_is_renewed_once_its_authority_signs_no_longer() {
        let authorities = Authorities::new();
        let (bundle, name) = (authorities.issuing.root_bundle(), Name::parse("a").unwrap());
        let mut held = held(&authorities);
        let issuer = held.svid.as_ref().unwrap().svid.issuer_serial().unwrap().to_string();
        let mut message = authorities.trust();
        message.renew_issuers = vec![issuer];
        message.renew_within_ms = 5_000;
        let trust = StoredTrust::new(message).unwrap();
        assert!(
            !held.judge(&name, &Denied::new(), bundle, &trust, now()),
            "it is good until there is another"
        );
        let due = held.due;
        assert!(held.svid.is_some() && due <= now().plus(Duration::from_secs(6)), "{due}");
        held.judge(&name, &Denied::new(), bundle, &trust, now());
        assert_eq!(held.due, due, "told again, the wait does not begin anew");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_renewed_by_steady_time_where_the_clock_is_behind() {
        let authorities = Authorities::new();
        let held = held(&authorities);
        // Of the life of an hour nothing passes by this clock.
        let stands_still = now();
        assert!(!held.is_due(stands_still));
        assert!(held.due_in(stands_still).unwrap() <= HOUR);
        tokio::time::advance(HOUR).await;
        assert!(held.is_due(stands_still));
    }

    #[tokio::test(start_paused = true)]
    async fn what_would_be_of_no_use_is_not_asked_for_until_the_clock_is_set_or_a_while_has_passed() {
        let mut held =
            Held::new(Certified { id: SpiffeId::parse(ID).unwrap(), dns_names: Vec::new(), ttl: None });
        let (issued_at, second) = (now(), Duration::from_secs(1));
        let ahead = issued_at.plus(90 * second);
        held.try_again_after(ahead);
        let outlived = Outlived::new(issued_at, issued_at.plus(60 * second));
        assert_eq!((outlived.ahead(ahead), held.wait_for_the_clock(outlived)), (90 * second, BELIEVED));
        tokio::time::advance(40 * second).await;
        assert!(!held.is_due(ahead.plus(40 * second)));
        // It is set right.
        assert!(held.is_due(issued_at.plus(40 * second)));
        tokio::time::advance(BELIEVED).await;
        assert!(held.is_due(ahead.plus(BELIEVED + 40 * second)));
    }
}
