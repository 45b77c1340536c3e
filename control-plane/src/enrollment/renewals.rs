//! How often an instance is issued certificates, for itself and for each of its workloads: enough for whoever restarts over and
//! over, and not enough to fill disk and audit log. What a change of authority asks of everybody is not counted.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hauberk_identity::{InstanceId, Name, Serial, UnixMillis};

use super::error::EnrollmentError;
use crate::allowance::Allowances;

/// How often an instance may renew its certificate at once, and how often in that certificate's life from then on. It needs two in
/// a life; it keeps its certificate over a restart.
const AT_ONCE: u32 = 10;
const IN_A_LIFE: u32 = 10;

/// The same for each of its workloads. Their keys are kept in memory alone, so that each restart of the agent takes a certificate
/// more: thirty at once, and one every two minutes where they live for an hour.
pub(super) const OF_WORKLOAD_AT_ONCE: u32 = 30;
pub(super) const OF_WORKLOAD_IN_A_LIFE: u32 = 30;

/// From how many on those are forgotten whose latest certificate has expired.
const FORGET_FROM: usize = 1_024;

/// What all instances may still have.
#[derive(Debug)]
pub(super) struct Renewals {
    own: Mutex<Counts>,
    of_workloads: Mutex<Counts>,
}

/// The certificates of one sort.
#[derive(Debug)]
struct Counts {
    allowances: Allowances,
    in_a_life: u32,
    /// By which authority each had its latest certificate here, and until when that is good at the most.
    latest: HashMap<String, (Serial, UnixMillis)>,
    forget_at: usize,
}

/// What a certificate has used up.
#[derive(Debug)]
#[must_use = "it is given back where no certificate comes of it"]
pub(super) enum Used {
    /// One time of those that there are in a life.
    Time,
    /// Nothing but that this authority's certificate is followed by another's, which happens once.
    Succession {
        /// The one that signs no longer.
        former: (Serial, UnixMillis),
    },
}

impl Renewals {
    /// Agents' own certificates live for `svid_ttl`.
    pub(super) fn new(svid_ttl: Duration) -> Self {
        let counts = |at_once, in_a_life| Mutex::new(Counts::new(at_once, in_a_life, svid_ttl));
        Self {
            own: counts(AT_ONCE, IN_A_LIFE),
            of_workloads: counts(OF_WORKLOAD_AT_ONCE, OF_WORKLOAD_IN_A_LIFE),
        }
    }

    /// Counts a certificate of this life, by the authority that signs now, for an instance that has had one.
    ///
    /// # Errors
    /// When that is too often; nothing is used up.
    pub(super) fn take(
        &self,
        instance: InstanceId,
        life: Duration,
        signer: Serial,
        now: UnixMillis,
    ) -> Result<Used, EnrollmentError> {
        lock(&self.own).take(instance.as_str(), life, signer, now)
    }

    /// It came to no certificate.
    pub(super) fn give_back(&self, instance: InstanceId, life: Duration, used: Used) {
        lock(&self.own).give_back(instance.as_str(), life, used);
    }

    /// Counts a certificate of this life, by the authority that signs now, for a workload.
    ///
    /// # Errors
    /// When that is too often; nothing is used up.
    pub(super) fn take_for_workload(
        &self,
        of: (InstanceId, &Name),
        life: Duration,
        signer: Serial,
        now: UnixMillis,
    ) -> Result<Used, EnrollmentError> {
        lock(&self.of_workloads).take(&workload(of), life, signer, now)
    }

    /// It came to no certificate.
    pub(super) fn give_back_for_workload(&self, of: (InstanceId, &Name), life: Duration, used: Used) {
        lock(&self.of_workloads).give_back(&workload(of), life, used);
    }
}

impl Counts {
    fn new(at_once: u32, in_a_life: u32, svid_ttl: Duration) -> Self {
        let allowances = Allowances::new(at_once, svid_ttl / in_a_life);
        Self { allowances, in_a_life, latest: HashMap::new(), forget_at: FORGET_FROM }
    }

    /// Where the latest certificate is by an authority that signs no longer nothing is used up: whoever rotates authorities has
    /// everybody renew, as often as that is. What was issued by another replica, or before a restart, is not known here and counts.
    fn take(
        &mut self,
        who: &str,
        life: Duration,
        signer: Serial,
        now: UnixMillis,
    ) -> Result<Used, EnrollmentError> {
        let former = self.latest.get(who).copied().filter(|(by, _)| *by != signer);
        let used = match former {
            Some(former) => Used::Succession { former },
            None => {
                let taken = self.allowances.take_at_rate(who, life / self.in_a_life, now);
                taken.map_err(|again_in| EnrollmentError::TooOften { again_in })?;
                Used::Time
            }
        };
        if self.latest.len() >= self.forget_at {
            self.latest.retain(|_, (_, until)| *until > now);
            self.forget_at = (self.latest.len() * 2).max(FORGET_FROM);
        }
        self.latest.insert(who.to_owned(), (signer, now.plus(life)));
        Ok(used)
    }

    fn give_back(&mut self, who: &str, life: Duration, used: Used) {
        match used {
            Used::Time => self.allowances.give_back_at_rate(who, life / self.in_a_life),
            Used::Succession { former } => {
                self.latest.insert(who.to_owned(), former);
            }
        }
    }
}

fn workload((instance, enrollment): (InstanceId, &Name)) -> String {
    format!("{instance}/{enrollment}")
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}
