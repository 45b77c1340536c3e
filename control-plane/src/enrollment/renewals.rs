//! How often an instance is issued certificates, for itself and for each of its workloads: enough for whoever restarts over and
//! over, and not enough to fill disk and audit log.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hauberk_identity::{InstanceId, Name, UnixMillis};

use super::error::EnrollmentError;
use crate::allowance::Allowances;

/// How often an instance may renew its certificate at once, and how often in that certificate's life from then on. It needs two in
/// a life, and one at each change of authority; it keeps its certificate over a restart.
const AT_ONCE: u32 = 10;
const IN_A_LIFE: u32 = 10;

/// The same for each of its workloads. Their keys are kept in memory alone, so that each restart of the agent takes a certificate
/// more: thirty at once, and one every two minutes where they live for an hour.
pub(super) const OF_WORKLOAD_AT_ONCE: u32 = 30;
pub(super) const OF_WORKLOAD_IN_A_LIFE: u32 = 30;

/// What all instances may still have.
#[derive(Debug)]
pub(super) struct Renewals {
    own: Mutex<Allowances>,
    of_workloads: Mutex<Allowances>,
}

impl Renewals {
    /// Agents' own certificates live for `svid_ttl`.
    pub(super) fn new(svid_ttl: Duration) -> Self {
        let allowances = |at_once, every| Mutex::new(Allowances::new(at_once, every));
        Self {
            own: allowances(AT_ONCE, svid_ttl / IN_A_LIFE),
            of_workloads: allowances(OF_WORKLOAD_AT_ONCE, svid_ttl / OF_WORKLOAD_IN_A_LIFE),
        }
    }

    /// Counts a certificate of this life for an instance that has had one.
    ///
    /// # Errors
    /// When that is too often; nothing is used up.
    pub(super) fn take(
        &self,
        instance: InstanceId,
        life: Duration,
        now: UnixMillis,
    ) -> Result<(), EnrollmentError> {
        lock(&self.own).take_at_rate(instance.as_str(), life / IN_A_LIFE, now).map_err(too_often)
    }

    /// It came to no certificate.
    pub(super) fn give_back(&self, instance: InstanceId, life: Duration) {
        lock(&self.own).give_back_at_rate(instance.as_str(), life / IN_A_LIFE);
    }

    /// Counts a certificate of this life for a workload.
    ///
    /// # Errors
    /// When that is too often; nothing is used up.
    pub(super) fn take_for_workload(
        &self,
        (instance, enrollment): (InstanceId, &Name),
        life: Duration,
        now: UnixMillis,
    ) -> Result<(), EnrollmentError> {
        let every = life / OF_WORKLOAD_IN_A_LIFE;
        lock(&self.of_workloads)
            .take_at_rate(&format!("{instance}/{enrollment}"), every, now)
            .map_err(too_often)
    }

    /// It came to no certificate.
    pub(super) fn give_back_for_workload(&self, (instance, enrollment): (InstanceId, &Name), life: Duration) {
        let every = life / OF_WORKLOAD_IN_A_LIFE;
        lock(&self.of_workloads).give_back_at_rate(&format!("{instance}/{enrollment}"), every);
    }
}

fn lock(allowances: &Mutex<Allowances>) -> MutexGuard<'_, Allowances> {
    allowances.lock().unwrap_or_else(PoisonError::into_inner)
}

fn too_often(again_in: Duration) -> EnrollmentError {
    EnrollmentError::TooOften { again_in }
}
