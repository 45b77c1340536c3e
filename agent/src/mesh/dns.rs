//! Where a target's DNS name is resolved.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Endpoints;
use super::endpoints::Endpoint;
use super::service::AddressFamily;

/// How often a name in use is resolved anew.
const REFRESH: Duration = Duration::from_secs(5);
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is resolved, and what is made of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct DnsName {
    hostname: String,
    port: u16,
    all_addresses: bool,
    family: AddressFamily,
}

impl DnsName {
    pub(super) fn new(hostname: &str, port: u16, all_addresses: bool, family: AddressFamily) -> Self {
        Self { hostname: hostname.to_owned(), port, all_addresses, family }
    }

    /// Asks the system's resolver. A failure is `None`: the last good answer is kept then.
    async fn resolve(&self) -> Option<Vec<Endpoint>> {
        let lookup = tokio::net::lookup_host((self.hostname.as_str(), self.port));
        let failure = match tokio::time::timeout(PATIENCE, lookup).await {
            Ok(Ok(answer)) => {
                let answer: Vec<_> = answer.collect();
                let mut usable = self.family.select(&answer);
                usable.truncate(if self.all_addresses { usize::MAX } else { 1 });
                if !usable.is_empty() {
                    return Some(usable.into_iter().map(Endpoint::found_at).collect());
                }
                "the answer holds no usable address".to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::warn!(event = "name_not_resolved", hostname = self.hostname, failure);
        None
    }
}

pub(super) async fn keep_resolved(endpoints: &Endpoints, stop: CancellationToken) {
    let mut lookups = JoinSet::new();
    let mut tick = tokio::time::interval(REFRESH);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
            () = endpoints.name_added() => {}
        }
        for (name, set) in endpoints.sets_to_resolve() {
            lookups.spawn(async move {
                if let Some(found) = name.resolve().await {
                    set.replace(found);
                }
            });
        }
        // Waiting here bounds the number of lookups under way; each has its deadline.
        tokio::select! {
            () = stop.cancelled() => return,
            () = async { while lookups.join_next().await.is_some() {} } => {}
        }
    }
}
