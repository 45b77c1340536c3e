//! One revocation: planned and committed until nothing is left of what it is about, then told.

use std::error::Error;

use hauberk_identity::Serial;

use super::error::RevocationError;
use super::plan::Left;
use super::revocations::{ATTEMPTS, Revocations, Target};
use crate::audit::{Act, Actor};

/// What was revoked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revoked {
    /// The revision from which on it holds.
    pub revision: u64,
    /// Certificates that had not been revoked before.
    pub serials: Vec<Serial>,
    /// What stays good beside a certificate that was revoked by its serial number.
    pub left: Left,
    /// What could not be read once it was recorded, and so is not told, for a person. It is revoked all the same.
    pub unread: Vec<String>,
}

/// What came of one look and one commit.
enum Step {
    /// All is recorded already.
    Nothing,
    /// This was recorded: these are revoked, and perhaps there is no room for others.
    Recorded { revision: u64, serials: Vec<Serial>, is_too_many: bool },
}

impl Revocations {
    /// Revokes certificates. When this returns, the control plane refuses them.
    ///
    /// # Errors
    /// There is no such certificate, instance or node, or nothing could be recorded. Where there are too many certificates for
    /// the list, their instances get nothing more all the same. Where [`RevocationError::is_recorded`] says so, it is recorded.
    pub async fn revoke(&self, target: &Target, actor: &Actor) -> Result<Revoked, RevocationError> {
        let mut revoked = self.revoke_until_stable(target, actor).await?;
        if let Target::Serial(serial) = target {
            // What was issued for it meanwhile is told; by it nothing is issued any longer.
            match self.left_beside(*serial).await {
                Ok(left) => revoked.left = left,
                Err(error) => revoked.unread.push(unread(
                    "what else its holder has, which stays good, could not be read: the control plane's log says why",
                    &error,
                )),
            }
        }
        Ok(revoked)
    }

    async fn revoke_until_stable(&self, target: &Target, actor: &Actor) -> Result<Revoked, RevocationError> {
        let mut revoked = Revoked::default();
        self.record_until_stable(target, actor, &mut revoked).await?;
        // While the list lags behind, what it refuses by the instance alone is found again.
        revoked.serials.sort_unstable();
        revoked.serials.dedup();
        match self.in_force(revoked.revision > 0).await {
            Ok(list) if revoked.revision == 0 => revoked.revision = list,
            Ok(_) => {}
            Err(RevocationError::NotInForce { recorded, source, .. }) => {
                return Err(RevocationError::NotInForce { recorded, unread: revoked.unread, source });
            }
            Err(error) => return Err(error),
        }
        Ok(revoked)
    }

    async fn record_until_stable(
        &self,
        target: &Target,
        actor: &Actor,
        revoked: &mut Revoked,
    ) -> Result<(), RevocationError> {
        let (mut lack_room, mut attempt) = (false, 1);
        loop {
            match self.commit_once(target, actor).await {
                Ok(Step::Nothing) => break,
                Ok(Step::Recorded { revision, serials, is_too_many }) => {
                    revoked.revision = revision;
                    revoked.serials.extend(serials);
                    lack_room = is_too_many;
                }
                Err(error) if error.is_conflict() && attempt < ATTEMPTS => {
                    attempt += 1;
                    continue;
                }
                // The same certificates lack room still.
                Err(RevocationError::TooMany { .. }) if lack_room => break,
                Err(error) if revoked.revision > 0 => {
                    revoked.unread.push(unread(
                        "certificates that were issued at the same moment could not be revoked with it, and the control plane's log says \
                         why: revoke it once more",
                        &error,
                    ));
                    break;
                }
                Err(error) => return Err(error),
            }
            // A certificate that was issued between reading and writing is not among them. None is issued any longer: the next look
            // sees all there are.
            if matches!(target, Target::Serial(_)) || attempt >= ATTEMPTS {
                break;
            }
            attempt += 1;
        }
        if lack_room { Err(RevocationError::TooMany { recorded: true }) } else { Ok(()) }
    }

    /// Revokes what there is at this moment. A conflict means that something came between.
    async fn commit_once(&self, target: &Target, actor: &Actor) -> Result<Step, RevocationError> {
        let mut plan = self.plan(target).await?;
        let list = self.denylist();
        let mut serials: Vec<_> = plan.serials().filter(|serial| !list.is_revoked(*serial)).collect();
        // Agents know them by their instances; who goes by serial numbers alone does not.
        plan.leave_covered_without_room(&list);
        let is_too_many = plan.is_too_many(&list);
        if is_too_many {
            let left = plan.leave_certificates();
            serials.retain(|serial| !left.contains_key(serial));
        }
        let commit = plan.commit()?;
        match (commit.is_empty(), is_too_many) {
            (true, true) => return Err(RevocationError::TooMany { recorded: false }),
            (true, false) => return Ok(Step::Nothing),
            (false, _) => {}
        }
        let why = if is_too_many {
            "too many certificates for the denylist: renewals and streams are refused".to_owned()
        } else {
            in_words(&serials)
        };
        let act = Act::done(actor, plan.action, plan.object).because(why);
        let revision = self.commit(commit, act).await?;
        Ok(Step::Recorded { revision, serials, is_too_many })
    }
}

/// What is told in place of what could not be read.
fn unread(told: &str, error: &dyn Error) -> String {
    tracing::warn!(event = "revocation_not_told", %error, "{told}");
    told.to_owned()
}

/// For the audit record, which has little room.
fn in_words(serials: &[Serial]) -> String {
    match serials {
        [] => "no certificate that is still good".to_owned(),
        [only] => format!("serial {only}"),
        [first, rest @ ..] => format!("serial {first} and {} more", rest.len()),
    }
}
