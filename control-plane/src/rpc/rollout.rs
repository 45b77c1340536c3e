//! The admin API's `Rollout` service: when is a change enforced, and who is late?

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use hauberk_identity::{InstanceId, Name};
use hauberk_proto::admin::v1::rollout_server::{Rollout, RolloutServer};
use hauberk_proto::admin::v1::{Laggard, WaitRequest, WaitResponse};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::{Code, Request, Response, Status};

use super::{findings, message, status};
use crate::app::ControlPlane;
use crate::compile::Compilation;
use crate::instances;
use crate::push::Push;
use crate::resources::{Resources, did_you_mean};

/// Progress is not told more often than this; the end is told at once.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// How often certificates are looked at: an instance whose last one expires is waited for no longer.
const EXPIRY_LOOKED_AT_EVERY: Duration = Duration::from_secs(1);

/// The service, ready to be mounted.
pub(super) fn service(
    control: &Arc<ControlPlane>,
    resources: &Arc<Resources>,
    push: &Arc<Push>,
) -> RolloutServer<RolloutService> {
    let (control, resources, push) = (Arc::clone(control), Arc::clone(resources), Arc::clone(push));
    let service = RolloutService { control, resources, push };
    RolloutServer::new(service).max_decoding_message_size(super::LARGEST_REQUEST)
}

pub(super) struct RolloutService {
    control: Arc<ControlPlane>,
    resources: Arc<Resources>,
    push: Arc<Push>,
}

#[tonic::async_trait]
impl Rollout for RolloutService {
    type WaitStream = Pin<Box<dyn Stream<Item = Result<WaitResponse, Status>> + Send>>;

    async fn wait(&self, request: Request<WaitRequest>) -> Result<Response<Self::WaitStream>, Status> {
        let WaitRequest { revision, mesh } = request.into_inner();
        let current = self.control.store.revision().await.map_err(|error| status::of_store(&error))?.0;
        if revision > current {
            let message = format!("revision {revision} is in the future: the current one is {current}");
            return Err(status::refusal(Code::FailedPrecondition, "REVISION_IN_FUTURE", message));
        }
        // What is durable may not be on the denylist yet.
        self.control.revocations.recorded().await.map_err(|error| status::of_store(&error))?;
        let mesh = match mesh.as_str() {
            "" => None,
            mesh => Some(Name::parse(mesh).map_err(|error| status::bad_field("mesh", error))?),
        };
        if let Some(mesh) = &mesh {
            self.check(mesh).await?;
        }
        let waiting = Waiting {
            control: Arc::clone(&self.control),
            compilation: self.push.compilation(),
            instances: self.push.instances().changes(),
            push: Arc::clone(&self.push),
            revision: if revision == 0 { current } else { revision },
            mesh,
            told: None,
            counted: None,
        };
        let progress = stream::unfold(Some(waiting), |waiting| async move {
            let mut waiting = waiting?;
            let progress = waiting.next().await;
            let is_over = progress.as_ref().map_or(true, |progress| progress.done);
            Some((progress, if is_over { None } else { Some(waiting) }))
        });
        Ok(Response::new(Box::pin(progress)))
    }
}

impl RolloutService {
    /// Fails for a mesh in which nobody can be late: that all of nobody enforce something would be said of any misspelt
    /// name. One that was deleted is waited for as long as instances of it live.
    async fn check(&self, mesh: &Name) -> Result<(), Status> {
        let catalog = self.resources.catalogs().current().await.map_err(|error| status::of_store(&error))?;
        if catalog.mesh(mesh.as_str()).is_some() {
            return Ok(());
        }
        let compilation = Arc::clone(&self.push.compilation().borrow());
        let today = self.control.clock.now();
        let live = self.push.instances().rollout(&compilation, compilation.revision, Some(mesh), today);
        if live.concerned > 0 {
            return Ok(());
        }
        let hint = did_you_mean(mesh.as_str(), catalog.meshes().keys().map(Name::as_str));
        Err(status::missing(&format!("mesh {mesh} does not exist, and has no live instances"), hint))
    }
}

struct Waiting {
    control: Arc<ControlPlane>,
    push: Arc<Push>,
    compilation: watch::Receiver<Arc<Compilation>>,
    instances: watch::Receiver<u64>,
    revision: u64,
    mesh: Option<Name>,
    told: Option<(instances::Rollout, Instant)>,
    counted: Option<Counted>,
}

/// That all instances were counted.
struct Counted {
    at: Instant,
    /// One that was late then.
    late: Option<InstanceId>,
    /// When they are counted again, though that one still is.
    again_at: Instant,
}

impl Waiting {
    /// The next state worth telling: any at first, then one that differs, then the end.
    async fn next(&mut self) -> Result<WaitResponse, Status> {
        loop {
            let now = Instant::now();
            self.instances.mark_unchanged();
            let compilation = Arc::clone(&self.compilation.borrow_and_update());
            if let Some(response) = self.look(&compilation, now) {
                return Ok(response);
            }
            let again_at = self.counted.as_ref().map_or(now, |counted| counted.again_at);
            tokio::select! {
                () = self.push.stopping().cancelled() => return Err(status::stopping()),
                changed = self.instances.changed() => changed.map_err(|_| status::stopping())?,
                changed = self.compilation.changed() => changed.map_err(|_| status::stopping())?,
                () = sleep_until(again_at) => {}
            }
        }
    }

    /// What is to be told now, if anything is. To count a thousand instances at each acknowledgement of one of them would take
    /// the time from those that are still to come: as long as one is known to be late, the others are counted rarely.
    fn look(&mut self, compilation: &Compilation, now: Instant) -> Option<WaitResponse> {
        let (instances, today) = (self.push.instances(), self.control.clock.now());
        if let Some(Counted { at, late: Some(late), again_at }) = &mut self.counted
            && now < *again_at
            && instances.is_late(late, compilation, self.revision, today)
        {
            *again_at = (*again_at).min(*at + PROGRESS_EVERY);
            return None;
        }
        let rollout = instances.rollout(compilation, self.revision, self.mesh.as_ref(), today);
        let (differs, next_telling) = match &self.told {
            None => (true, now),
            Some((told, at)) => (*told != rollout, *at + PROGRESS_EVERY),
        };
        let late = rollout.laggards.last().map(|laggard| laggard.instance);
        let again_at = now + EXPIRY_LOOKED_AT_EVERY;
        let again_at = if differs { again_at.min(next_telling) } else { again_at };
        self.counted = Some(Counted { at: now, late, again_at });
        if !differs || (next_telling > now && !rollout.is_done()) {
            return None;
        }
        let response = describe(&rollout);
        self.told = Some((rollout, now));
        Some(response)
    }
}

fn describe(rollout: &instances::Rollout) -> WaitResponse {
    let enforced = rollout.concerned.saturating_sub(rollout.laggards.len());
    let (lacking, lacking_fix) = match (rollout.compiled, rollout.denies_all) {
        (false, _) => ("the views of that revision are not compiled yet", ""),
        (_, false) => ("what was revoked last is not on the denylist yet", findings::FIX_OF_DENYLIST),
        (true, true) => ("", ""),
    };
    WaitResponse {
        lacking: lacking.to_owned(),
        lacking_fix: lacking_fix.to_owned(),
        revision: rollout.revision,
        enforced: u32::try_from(enforced).unwrap_or(u32::MAX),
        concerned: u32::try_from(rollout.concerned).unwrap_or(u32::MAX),
        laggards: rollout.laggards.iter().map(laggard).collect(),
        done: rollout.is_done(),
    }
}

/// A live instance that does not enforce a revision, as it is told.
pub(super) fn laggard(laggard: &instances::Laggard) -> Laggard {
    Laggard {
        instance_id: laggard.instance.to_string(),
        spiffe_id: laggard.spiffe_id.to_string(),
        reason: laggard.lag.to_string(),
        certificate_not_after: Some(message::timestamp(laggard.certificate_not_after)),
        acknowledged_revision: laggard.in_force.map_or(0, |view| view.revision),
        fix: findings::fix_of(laggard),
        obstructed: matches!(laggard.lag, instances::Lag::Obstructed { .. }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use futures_util::StreamExt;

    use super::*;
    use crate::app::start_push;
    use crate::registry::{Commit, document, keys};
    use crate::revocation::crl::RevocationLists;
    use crate::testing::{NODE, Scratch, joined, scratch};

    async fn service(scratch: &Scratch) -> RolloutService {
        let control = &scratch.control;
        let lists = watch::Sender::<Arc<RevocationLists>>::default();
        let (wanted, _nobody_fetches) = tokio::sync::mpsc::channel(1);
        let (resources, push) = start_push(control, lists.subscribe(), wanted).await.unwrap();
        RolloutService { control: Arc::clone(control), resources, push }
    }

    #[tokio::test]
    async fn in_a_mesh_that_is_not_there_only_those_it_left_behind_are_waited_for() {
        for is_left_behind in [false, true] {
            let scratch = scratch().await;
            let service = service(&scratch).await;
            let wait = async |mesh: &str| {
                let request = WaitRequest { mesh: mesh.to_owned(), ..WaitRequest::default() };
                service.wait(Request::new(request)).await.map(drop)
            };
            let refused = wait("shpo").await.unwrap_err();
            assert_eq!(refused.code(), Code::NotFound);
            let said = "mesh shpo does not exist, and has no live instances; did you mean \"shop\"?";
            assert_eq!(refused.message(), said);
            wait("shop").await.unwrap();
            wait("").await.unwrap();
            if is_left_behind {
                joined(&scratch).await;
            }
            let node = keys::resource("VirtualNode", NODE.0, NODE.1);
            let gone = Commit::new().delete(node).raising_revision();
            scratch.control.store.commit(gone).await.unwrap();
            assert_eq!(wait("shop").await.is_ok(), is_left_behind);
            wait("").await.unwrap();
            scratch.control.stop.cancel();
        }
    }

    #[tokio::test]
    async fn no_rollout_is_done_before_what_is_revoked_is_in_force() {
        let scratch = scratch().await;
        let control = &scratch.control;
        let service = service(&scratch).await;
        let mut waiting = service.wait(Request::new(WaitRequest::default())).await.unwrap().into_inner();
        let in_time = async |waiting: &mut <RolloutService as Rollout>::WaitStream| {
            let told = tokio::time::timeout(Duration::from_secs(30), waiting.next()).await;
            told.expect("something is told").unwrap().unwrap()
        };
        while !in_time(&mut waiting).await.done {}

        // A revocation that is durable, of which the list does not know.
        let revision = control.store.revision().await.unwrap().0 + 1;
        let number = document::to_bytes("number", &BTreeMap::from([("revision", revision)])).unwrap();
        let commit = Commit::new().put(keys::DENYLIST_NUMBER, number).raising_revision();
        control.store.commit(commit).await.unwrap();
        let mut waiting = service.wait(Request::new(WaitRequest::default())).await.unwrap().into_inner();
        let mut compiled = service.push.compilation();
        compiled.wait_for(|compilation| compilation.revision >= revision).await.unwrap();
        let begun = in_time(&mut waiting).await;
        assert_eq!((begun.revision, begun.done, begun.concerned), (revision, false, 0));
        assert_eq!(begun.lacking, "what was revoked last is not on the denylist yet");
        assert_eq!(begun.lacking_fix, findings::FIX_OF_DENYLIST);
        let follow = {
            let (revocations, stop) = (Arc::clone(&control.revocations), control.stop.clone());
            async move { revocations.follow(stop).await }
        };
        control.tasks.spawn(follow);
        while !in_time(&mut waiting).await.done {}
        control.stop.cancel();
    }
}
