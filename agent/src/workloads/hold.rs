//! One workload's certificate while it is held: until it is renewed, or nobody accepts it any longer.

use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{Name, UnixMillis, renewal_at};
use hauberk_tls::{TrustBundle, Usage, verify_svid};

use super::entry::Certified;
use super::keeper::{Obtained, WorkloadSvid};
use crate::mesh::Denied;
use crate::random::{Backoff, fraction};
use crate::state::StoredTrust;

/// One entry's certificate, or the lack of it.
pub(super) struct Held {
    pub(super) certified: Certified,
    pub(super) svid: Option<Arc<WorkloadSvid>>,
    /// When another is to be asked for.
    pub(super) due: UnixMillis,
    /// `due` was brought forward because its authority signs no longer.
    is_hurried: bool,
    /// The control plane has said last that it issues none, because of the enrollment.
    pub(super) is_refused: bool,
    backoff: Backoff,
}

impl Held {
    /// None yet, and due.
    pub(super) fn new(certified: Certified) -> Self {
        let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        Self { certified, svid: None, due: UnixMillis(0), is_hurried: false, is_refused: false, backoff }
    }

    /// Takes over what certificates say from now on. A former one for the same id is good until there is another.
    pub(super) fn change(&mut self, certified: &Certified) {
        if self.certified == *certified {
            return;
        }
        let former = self.svid.take().filter(|_| self.certified.id == certified.id);
        *self = Self { svid: former, ..Self::new(certified.clone()) };
    }

    /// Takes a certificate in place of the former.
    pub(super) fn take(&mut self, obtained: Obtained) {
        let Obtained { svid, issued_at } = obtained;
        self.due = renewal_at(issued_at, svid.svid.validity().not_after(), fraction());
        (self.is_hurried, self.is_refused) = (false, false);
        self.backoff.reset();
        self.svid = Some(Arc::new(svid));
    }

    /// Puts the next attempt off; gives by how much.
    pub(super) fn try_again_after(&mut self, now: UnixMillis) -> Duration {
        let wait = self.backoff.step();
        self.due = now.plus(wait);
        wait
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
        held.take(Obtained { svid: WorkloadSvid { svid, key }, issued_at: now() });
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
}
