//! Where a target's DNS name is resolved.

use std::net::SocketAddr;
use std::time::Duration;

use hauberk_proto::convert::{Dns, IpPreference};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Endpoints;
use super::endpoints::Endpoint;

/// How often a name in use is resolved anew.
const REFRESH: Duration = Duration::from_secs(5);
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is resolved, and the port that is put to the answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct DnsName {
    pub(super) dns: Dns,
    pub(super) port: u16,
}

impl DnsName {
    /// Asks the system's resolver. A failure is `None`: the last good answer is kept then.
    async fn resolve(&self) -> Option<Vec<Endpoint>> {
        let Dns { hostname, all_addresses, ip_preference } = &self.dns;
        let lookup = tokio::net::lookup_host((hostname.as_str(), self.port));
        let failure = match tokio::time::timeout(PATIENCE, lookup).await {
            Ok(Ok(answer)) => {
                let answer: Vec<_> = answer.collect();
                let mut usable = select(*ip_preference, &answer);
                usable.truncate(if *all_addresses { usize::MAX } else { 1 });
                if !usable.is_empty() {
                    return Some(usable.into_iter().map(Endpoint::found_at).collect());
                }
                "the answer holds no usable address".to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::warn!(event = "name_not_resolved", hostname, failure);
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

/// The addresses of an answer that are used, in the order of the answer.
fn select(preference: IpPreference, answer: &[SocketAddr]) -> Vec<SocketAddr> {
    let (v4, v6): (Vec<_>, Vec<_>) = answer.iter().copied().partition(SocketAddr::is_ipv4);
    match preference {
        IpPreference::Ipv4Only => v4,
        IpPreference::Ipv6Only => v6,
        IpPreference::Ipv4Preferred if v4.is_empty() => v6,
        IpPreference::Ipv4Preferred => v4,
        IpPreference::Ipv6Preferred if v6.is_empty() => v4,
        IpPreference::Ipv6Preferred => v6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn selects_by_family() {
        let both = addresses(&["[::1]:1", "127.0.0.1:1", "127.0.0.2:1"]);
        assert_eq!(select(IpPreference::Ipv4Only, &both), addresses(&["127.0.0.1:1", "127.0.0.2:1"]));
        assert_eq!(select(IpPreference::Ipv6Preferred, &both), addresses(&["[::1]:1"]));
        assert_eq!(select(IpPreference::Ipv4Preferred, &addresses(&["[::1]:1"])), addresses(&["[::1]:1"]));
        assert!(select(IpPreference::Ipv6Only, &addresses(&["127.0.0.1:1"])).is_empty());
    }
}
