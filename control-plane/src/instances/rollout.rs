//! How far a revision has come.

use hauberk_identity::{InstanceId, Name, SpiffeId, UnixMillis};

use super::wanted::{self, Standing};
use super::{Instance, Instances, Lag, State, ViewMark};
use crate::compile::{Compilation, CompileFinding};
use crate::revocation::Denylist;

/// How many of the live instances concerned enforce a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    /// The revision asked for.
    pub revision: u64,
    /// All live instances whose views are looked at.
    pub concerned: usize,
    /// Those that do not enforce it, in the order of their nodes.
    pub laggards: Vec<Laggard>,
    /// Whether the views of that revision are there to be pushed.
    pub compiled: bool,
    /// Whether all that was revoked by that revision is on the denylist that is pushed.
    pub denies_all: bool,
}

/// What to do about an instance that is not connected, whatever is still to reach it.
pub fn fix_of_absence(instance: InstanceId, certificate_not_after: UnixMillis) -> String {
    format!(
        "start it again with its state directory; one that does not come back, `hauberk revoke instance {instance}`, or wait: until its \
         certificate expires at {certificate_not_after} it may act on what it holds"
    )
}

impl Rollout {
    /// Whether all concerned enforce it.
    pub fn is_done(&self) -> bool {
        self.compiled && self.denies_all && self.laggards.is_empty()
    }
}

/// A live instance that does not enforce a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Laggard {
    /// Which.
    pub instance: InstanceId,
    /// What it proves to be.
    pub spiffe_id: SpiffeId,
    /// Why.
    pub lag: Lag,
    /// Until then it may act on what it holds.
    pub certificate_not_after: UnixMillis,
    /// The view of its node that it is known to hold.
    pub in_force: Option<ViewMark>,
}

impl Instances {
    /// Counts the live instances of `mesh`, or of all meshes, that enforce `revision`. Those whose virtual node is gone
    /// are among them: they enforce its deletion once they have said that they deny everything.
    pub fn rollout(
        &self,
        compilation: &Compilation,
        revision: u64,
        mesh: Option<&Name>,
        now: UnixMillis,
    ) -> Rollout {
        let lag = |instance: &Instance, state: &State| {
            let lag = instance.lag(compilation, &state.denylist, revision, now);
            lag.or_else(|| state.lacks_revocations(revision).then_some(Lag::NoDenylist))
        };
        self.count(compilation, revision, mesh, now, lag)
    }

    /// The live instances of `mesh` that do not act on what was in every view of it from `revision` on, such as the keys of issuers.
    /// That another node's view could not be made does not matter to them, nor what was revoked meanwhile.
    pub fn without_views_of(
        &self,
        compilation: &Compilation,
        revision: u64,
        mesh: &Name,
        now: UnixMillis,
    ) -> Vec<Laggard> {
        let lag = |instance: &Instance, state: &State| {
            instance.lag_of_own(compilation, &state.denylist, revision, now)
        };
        self.count(compilation, revision, Some(mesh), now, lag).laggards
    }

    fn count(
        &self,
        compilation: &Compilation,
        revision: u64,
        mesh: Option<&Name>,
        now: UnixMillis,
        lag: impl Fn(&Instance, &State) -> Option<Lag>,
    ) -> Rollout {
        let state = self.lock();
        let compiled = compilation.revision >= revision;
        let denies_all = !state.lacks_revocations(revision);
        let mut rollout = Rollout { revision, concerned: 0, laggards: Vec::new(), compiled, denies_all };
        for (spiffe_id, ids) in &state.by_node {
            for (id, instance) in ids.iter().filter_map(|id| Some((id, state.by_id.get(id)?))) {
                if !state.is_live(instance, now) || mesh.is_some_and(|mesh| *mesh != instance.mesh) {
                    continue;
                }
                rollout.concerned += 1;
                if let Some(lag) = lag(instance, &state) {
                    rollout.laggards.push(Laggard {
                        instance: *id,
                        spiffe_id: spiffe_id.clone(),
                        lag,
                        certificate_not_after: state.standing(instance).0.not_after,
                        in_force: instance.enforcement.in_force(),
                    });
                }
            }
        }
        rollout
    }

    /// Whether an instance that was late still is.
    pub fn is_late(
        &self,
        instance: &InstanceId,
        compilation: &Compilation,
        revision: u64,
        now: UnixMillis,
    ) -> bool {
        let state = self.lock();
        state.by_id.get(instance).is_some_and(|instance| {
            state.is_live(instance, now)
                && (state.lacks_revocations(revision)
                    || instance.lag(compilation, &state.denylist, revision, now).is_some())
        })
    }
}

impl Instance {
    /// Why it does not enforce `revision`, if it does not.
    fn lag(
        &self,
        compilation: &Compilation,
        denylist: &Denylist,
        revision: u64,
        now: UnixMillis,
    ) -> Option<Lag> {
        if compilation.revision < revision {
            return Some(Lag::NotCompiled);
        }
        if let Some(finding) = wanted::obstacle(compilation, &self.mesh, &self.spiffe_id) {
            return Some(obstructed(finding));
        }
        if !wanted::is_complete(compilation, &self.mesh) {
            return Some(Lag::NotCompiled);
        }
        self.lag_of_views(compilation, denylist, revision, now)
    }

    /// Why its node's own view is not at `revision`, if it is not.
    fn lag_of_own(
        &self,
        compilation: &Compilation,
        denylist: &Denylist,
        revision: u64,
        now: UnixMillis,
    ) -> Option<Lag> {
        if compilation.revision < revision {
            return Some(Lag::NotCompiled);
        }
        let Some(finding) = wanted::obstacle(compilation, &self.mesh, &self.spiffe_id) else {
            return self.lag_of_views(compilation, denylist, revision, now);
        };
        // What stands instead may be of any time: only the number of what it holds tells.
        let held = self.enforcement.in_force();
        let is_enough = held.is_some_and(|held| held.epoch == compilation.epoch && held.revision >= revision);
        (!is_enough).then(|| obstructed(finding))
    }

    fn lag_of_views(
        &self,
        compilation: &Compilation,
        denylist: &Denylist,
        revision: u64,
        now: UnixMillis,
    ) -> Option<Lag> {
        let standing = wanted::standing(compilation, &self.spiffe_id, self.node_uid.as_deref());
        let view = match standing {
            Standing::Here(view) => view,
            Standing::NotMade => return Some(Lag::NotCompiled),
            Standing::Unknown => return Some(Lag::NodeUnknown),
            Standing::Deleted | Standing::MadeAnew => {
                // Of an earlier revision its view may have told it everything.
                let held = self.enforcement.in_force();
                let is_enough = held
                    .is_some_and(|held| held.epoch == compilation.epoch && held.revision >= revision)
                    || self.dismissal.is_obeyed;
                return if is_enough { None } else { Some(Lag::NotDismissed) };
            }
        };
        let lag = if let Some((epoch, revision)) = self.hello.as_ref().and_then(|hello| hello.ahead) {
            Some(Lag::Ahead { epoch, revision })
        } else {
            let enforcement = &self.enforcement;
            let of_node = || enforcement.node_lag(wanted::mark(compilation, view), revision);
            self.denylist_lag(denylist, revision, now).or_else(of_node).or_else(|| {
                let held = enforcement.services();
                held.chain(&view.backends).find_map(|name| {
                    // A service that is gone has no view to wait for.
                    let view = wanted::service(compilation, &self.mesh, name)?;
                    enforcement.service_lag(name.as_str(), wanted::mark(compilation, view), revision)
                })
            })
        };
        // An instance that is away may be pushed nothing: say that rather than what it has not acknowledged.
        lag.map(|lag| if self.session.is_some() { lag } else { Lag::NotConnected })
    }
}

fn obstructed(finding: &CompileFinding) -> Lag {
    Lag::Obstructed { why: finding.summary.clone(), fix: finding.fix.clone() }
}
