//! The admin API's `Rollout` service: when is a change enforced, and who is late?

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use hauberk_identity::Name;
use hauberk_proto::admin::v1::rollout_server::{Rollout, RolloutServer};
use hauberk_proto::admin::v1::{Laggard, WaitRequest, WaitResponse};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::{Code, Request, Response, Status};

use super::{findings, message, status};
use crate::app::ControlPlane;
use crate::compile::Compilation;
use crate::instances;
use crate::push::Push;

/// Progress is not told more often than this; the end is told at once.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// How often certificates are looked at: an instance whose last one expires is waited for no longer.
const EXPIRY_LOOKED_AT_EVERY: Duration = Duration::from_secs(1);

/// The service, ready to be mounted.
pub(super) fn service(control: &Arc<ControlPlane>, push: &Arc<Push>) -> RolloutServer<RolloutService> {
    let service = RolloutService { control: Arc::clone(control), push: Arc::clone(push) };
    RolloutServer::new(service).max_decoding_message_size(super::LARGEST_REQUEST)
}

pub(super) struct RolloutService {
    control: Arc<ControlPlane>,
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
        let mesh = match mesh.as_str() {
            "" => None,
            mesh => Some(Name::parse(mesh).map_err(|error| status::bad_field("mesh", error))?),
        };
        let waiting = Waiting {
            control: Arc::clone(&self.control),
            compilation: self.push.compilation(),
            instances: self.push.instances().changes(),
            push: Arc::clone(&self.push),
            revision: if revision == 0 { current } else { revision },
            mesh,
            told: None,
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

struct Waiting {
    control: Arc<ControlPlane>,
    push: Arc<Push>,
    compilation: watch::Receiver<Arc<Compilation>>,
    instances: watch::Receiver<u64>,
    revision: u64,
    mesh: Option<Name>,
    told: Option<(instances::Rollout, Instant)>,
}

impl Waiting {
    /// The next state worth telling: any at first, then one that differs, then the end.
    async fn next(&mut self) -> Result<WaitResponse, Status> {
        loop {
            let now = Instant::now();
            self.instances.mark_unchanged();
            let compilation = Arc::clone(&self.compilation.borrow_and_update());
            let today = self.control.clock.now();
            let rollout =
                self.push.instances().rollout(&compilation, self.revision, self.mesh.as_ref(), today);
            let (differs, next_telling) = match &self.told {
                None => (true, now),
                Some((told, at)) => (*told != rollout, *at + PROGRESS_EVERY),
            };
            if differs && (rollout.is_done() || next_telling <= now) {
                let response = describe(&rollout);
                self.told = Some((rollout, now));
                return Ok(response);
            }
            tokio::select! {
                () = self.push.stopping().cancelled() => return Err(status::stopping()),
                changed = self.instances.changed() => changed.map_err(|_| status::stopping())?,
                changed = self.compilation.changed() => changed.map_err(|_| status::stopping())?,
                () = sleep_until(next_telling), if differs => {}
                () = sleep(EXPIRY_LOOKED_AT_EVERY) => {}
            }
        }
    }
}

fn describe(rollout: &instances::Rollout) -> WaitResponse {
    let laggards = rollout.laggards.iter().map(|laggard| Laggard {
        instance_id: laggard.instance.to_string(),
        spiffe_id: laggard.spiffe_id.to_string(),
        reason: laggard.lag.to_string(),
        certificate_not_after: Some(message::timestamp(laggard.certificate_not_after)),
        acknowledged_revision: laggard.in_force.map_or(0, |view| view.revision),
        fix: findings::fix_of(laggard),
    });
    let enforced = rollout.concerned.saturating_sub(rollout.laggards.len());
    WaitResponse {
        revision: rollout.revision,
        enforced: u32::try_from(enforced).unwrap_or(u32::MAX),
        concerned: u32::try_from(rollout.concerned).unwrap_or(u32::MAX),
        laggards: laggards.collect(),
        done: rollout.is_done(),
    }
}
