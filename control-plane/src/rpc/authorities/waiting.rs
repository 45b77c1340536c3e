//! Waits until a change of authorities, or of keys that sign tokens, has reached everybody.

use std::sync::Arc;
use std::time::Duration;

use hauberk_proto::admin::v1::{Laggard, WaitForAuthoritiesResponse};
use tokio::time::sleep;
use tonic::Status;

use crate::app::ControlPlane;
use crate::authority::{Progress, Unsettled};
use crate::instances;
use crate::push::Push;
use crate::resources::Catalogs;
use crate::rpc::{message, rollout, status};

/// How often it is looked how far it has come.
const LOOKED_AT_EVERY: Duration = Duration::from_millis(100);

/// How far a change of authorities has come, as it is told to one who waits.
pub(super) struct Waiting {
    pub(super) control: Arc<ControlPlane>,
    pub(super) catalogs: Catalogs,
    pub(super) push: Arc<Push>,
    /// What was told last.
    pub(super) told: Option<WaitForAuthoritiesResponse>,
}

impl Waiting {
    /// Instances of meshes in which an issuer of users' tokens is us, whose views do not have the keys that are ours now.
    async fn without_our_keys(&self) -> Result<Vec<instances::Laggard>, Status> {
        let catalog = self.catalogs.current().await.map_err(|error| status::of_store(&error))?;
        let compilation = Arc::clone(&self.push.compilation().borrow());
        let now = self.control.clock.now();
        let meshes = catalog.meshes().iter();
        let concerned = meshes.filter_map(|(mesh, resources)| Some((mesh, resources.own_keys_since()?)));
        let late = concerned.flat_map(|(mesh, since)| {
            self.push.instances().without_views_of(&compilation, since.0, mesh, now)
        });
        Ok(late.collect())
    }

    /// The next state worth telling: any at first, then one that differs, then the end.
    pub(super) async fn next(&mut self) -> Result<WaitForAuthoritiesResponse, Status> {
        loop {
            let progress = self.control.authorities.progress().await;
            let progress = progress.map_err(|error| status::of_authority(&error))?;
            let response = describe(&progress, &self.without_our_keys().await?);
            if self.told.as_ref() != Some(&response) {
                self.told = Some(response.clone());
                return Ok(response);
            }
            tokio::select! {
                () = self.control.stop.cancelled() => return Err(status::stopping()),
                () = sleep(LOOKED_AT_EVERY) => {}
            }
        }
    }
}

/// `without_our_keys`: those that do not verify users' tokens by the keys that are ours now.
fn describe(progress: &Progress, without_our_keys: &[instances::Laggard]) -> WaitForAuthoritiesResponse {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let is_named = |late: &&instances::Laggard| {
        progress.unsettled.iter().any(|unsettled| unsettled.instance == late.instance)
    };
    let without_our_keys = without_our_keys.iter().filter(|late| !is_named(late)).map(rollout::laggard);
    let laggards: Vec<_> = progress.unsettled.iter().map(laggard).chain(without_our_keys).collect();
    WaitForAuthoritiesResponse {
        concerned: count(progress.concerned),
        settled: count(progress.concerned.saturating_sub(laggards.len())),
        waiting: progress.waiting.clone().unwrap_or_default(),
        done: progress.is_done() && laggards.is_empty(),
        laggards,
    }
}

fn laggard(unsettled: &Unsettled) -> Laggard {
    Laggard {
        instance_id: unsettled.instance.to_string(),
        spiffe_id: unsettled.spiffe_id.to_string(),
        reason: unsettled.reason.to_owned(),
        certificate_not_after: Some(message::timestamp(unsettled.not_after)),
        acknowledged_revision: 0,
        fix: unsettled.fix.clone(),
        obstructed: false,
    }
}

#[cfg(test)]
mod tests {
    use hauberk_identity::{InstanceId, SpiffeId, UnixMillis};

    use super::*;
    use crate::instances::Lag;

    #[test]
    fn whose_view_lacks_our_keys_is_waited_for_and_named_once() {
        let late = |id: &str| instances::Laggard {
            instance: InstanceId::parse(id).unwrap(),
            spiffe_id: SpiffeId::parse("spiffe://shop.local/mesh/shop/node/orders").unwrap(),
            lag: Lag::NotAcknowledged,
            certificate_not_after: UnixMillis(0),
            in_force: None,
        };
        let unsettled = Unsettled {
            instance: InstanceId::parse("aaaaaaaaaa").unwrap(),
            spiffe_id: late("aaaaaaaaaa").spiffe_id,
            reason: "has not acknowledged the trust bundle",
            fix: String::new(),
            not_after: UnixMillis(0),
        };
        let progress = |unsettled| Progress { concerned: 3, unsettled, waiting: None };
        let done = describe(&progress(Vec::new()), &[]);
        assert_eq!((done.done, done.settled), (true, 3));
        let waits = describe(&progress(Vec::new()), &[late("bbbbbbbbbb")]);
        assert_eq!((waits.done, waits.settled, waits.laggards.len()), (false, 2, 1));
        let why =
            "the view of virtual node shop/orders cannot be made: its policies do not compile".to_owned();
        let lag = Lag::Obstructed { why: why.clone(), fix: "delete it".to_owned() };
        let stuck = describe(&progress(Vec::new()), &[instances::Laggard { lag, ..late("bbbbbbbbbb") }]);
        assert_eq!((stuck.done, stuck.laggards[0].obstructed), (false, true));
        assert_eq!(stuck.laggards[0].reason, format!("its view cannot be compiled: {why}"));
        assert!(stuck.laggards[0].fix.starts_with("delete it; until then the former view stays in force"));
        let both = describe(&progress(vec![unsettled]), &[late("aaaaaaaaaa"), late("bbbbbbbbbb")]);
        let named: Vec<_> = both.laggards.iter().map(|late| late.instance_id.as_str()).collect();
        assert_eq!((both.settled, named), (1, vec!["aaaaaaaaaa", "bbbbbbbbbb"]));
    }
}
