//! Who is on the denylist, and who enforces it.

use std::sync::Arc;

use hauberk_identity::UnixMillis;
use hauberk_proto::convert::features;
use tokio::time::Instant;

use super::{Instance, Instances, IssuedTo, Lag, State};
use crate::revocation::{Denial, Denylist, Mark};

/// How far the denylist has come with an instance.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DenylistProgress {
    /// What it enforces, for all that is known.
    pub(super) in_force: Option<Mark>,
    /// What is on its way, and since when.
    pub(super) pushed: Option<(Mark, Instant)>,
}

impl Instances {
    /// From now on, whoever holds nothing but what is on this list does not count as live.
    pub fn deny(&self, denylist: Arc<Denylist>) {
        self.change(|state| state.denylist = denylist);
    }

    /// So far are revocations recorded: before the denylist is of that number, nobody enforces all of them.
    pub fn expect_denylist(&self, revision: u64) {
        let is_news = {
            let mut state = self.lock();
            let is_news = revision > state.recorded_denylist.max(state.denylist.mark.revision);
            state.recorded_denylist = revision.max(state.recorded_denylist);
            is_news
        };
        if is_news {
            self.change(|_| {});
        }
    }
}

impl State {
    /// Whether the denylist may lack what was revoked by `revision`. Where more is recorded than is on it, some of that may be of before.
    pub(super) fn lacks_revocations(&self, revision: u64) -> bool {
        self.denylist.mark.revision < self.recorded_denylist.min(revision)
    }

    /// Whether it holds a certificate that is neither expired nor revoked.
    pub(super) fn is_live(&self, instance: &Instance, now: UnixMillis) -> bool {
        let (certificate, denial) = self.standing(instance);
        now <= certificate.not_after && denial.is_none()
    }

    /// The certificate that an instance goes by, and why everybody refuses it, if so. Where its last one was revoked by the
    /// serial number alone, others of it are good: by those it counts, unless it was told of that over a stream of the last
    /// one, and denies everything since.
    pub(super) fn standing(&self, instance: &Instance) -> (IssuedTo, Option<Denial>) {
        let denial = |certificate: &IssuedTo| self.denylist.denial(&instance.spiffe_id, certificate.serial);
        let last = instance.certificate;
        let of_last = denial(&last);
        if of_last.is_none() || instance.dismissal.is_obeyed {
            return (last, of_last);
        }
        let good = instance.others.iter().filter(|other| denial(other).is_none());
        let good = good.max_by_key(|other| other.not_after);
        good.map_or((last, of_last), |good| (*good, None))
    }
}

impl Instance {
    /// Why it does not enforce what the denylist had become by `revision`, if it does not.
    pub(super) fn denylist_lag(&self, denylist: &Denylist, revision: u64, now: UnixMillis) -> Option<Lag> {
        let wanted = denylist.mark;
        if wanted.revision == 0 {
            return None;
        }
        let DenylistProgress { in_force, pushed } = self.denylist;
        let enforced = in_force
            .is_some_and(|held| held == wanted || (held.epoch == wanted.epoch && held.revision >= revision));
        if enforced {
            let knows_instances =
                self.hello.as_ref().is_some_and(|hello| hello.features.contains(features::DENIED_INSTANCES));
            let until = denylist.rests_on_instances(now).filter(|_| !knows_instances);
            return until.map(|until| Lag::KnowsNoInstances { until });
        }
        Some(if pushed.is_some() { Lag::NotAcknowledged } else { Lag::NotPushed })
    }
}
