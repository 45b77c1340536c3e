//! What policies and listeners in audit would have denied.

use std::collections::BTreeMap;

use hauberk_identity::UnixMillis;
use hauberk_proto::admin::v1::{ListWouldDenialsRequest, ListWouldDenialsResponse, WouldDenials};
use tonic::Code;

use crate::commands::decision;
use crate::commands::simulate::{counted, gaps};
use crate::error::CommandError;
use crate::output;
use crate::session::Session;
use crate::times;

/// Of one mesh.
#[derive(Debug, Default)]
pub(super) struct Audited {
    by_policy: BTreeMap<String, WouldDenials>,
    of_listeners: Vec<WouldDenials>,
    silent_instances: Vec<String>,
    /// Decisions that are in none of the figures.
    unrecorded: u64,
}

impl Audited {
    /// Asks for what was counted in a mesh; nothing where the control plane counts nothing, being of a former release.
    ///
    /// # Errors
    /// What the control plane answers.
    pub(super) async fn of(session: &Session, mesh: &str) -> Result<Self, CommandError> {
        let request = ListWouldDenialsRequest { mesh: mesh.to_owned() };
        let answer = match session.record().list_would_denials(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) if status.code() == Code::Unimplemented => return Ok(Self::default()),
            Err(status) => return Err(status.into()),
        };
        let ListWouldDenialsResponse { items, silent_instances, unrecorded } = answer;
        let (of_policies, of_listeners) =
            items.into_iter().partition(|item: &WouldDenials| !item.policy.is_empty());
        let by_policy = Vec::into_iter(of_policies).map(|item| (item.policy.clone(), item)).collect();
        Ok(Self { by_policy, of_listeners, silent_instances, unrecorded })
    }

    /// `12, the last 3m ago`, `none for 2d`; `-` where it is not in audit.
    pub(super) fn of_policy(&self, name: &str, now: UnixMillis) -> String {
        self.by_policy.get(name).map_or_else(|| "-".to_owned(), |item| told(item, now))
    }

    /// What of it is no policy's: listeners in audit, and who counts nothing.
    pub(super) fn remarks(&self, now: UnixMillis) -> Vec<String> {
        let of_listeners = self.of_listeners.iter().map(|item| {
            format!(
                "{}:{} is in AUDIT: without that it would have denied {}",
                decision::short_name(&item.node),
                item.port,
                told(item, now)
            )
        });
        let is_counted = !self.by_policy.is_empty() || !self.of_listeners.is_empty();
        let (unrecorded, silent) =
            if is_counted { (self.unrecorded, &self.silent_instances[..]) } else { (0, &[][..]) };
        of_listeners.chain(gaps(unrecorded, silent)).collect()
    }

    /// What a listener has let through that no policy permits, if it is in audit.
    pub(super) fn of_listener(&self, node: &str, port: u32, now: UnixMillis) -> Option<String> {
        let mut own = self.of_listeners.iter();
        let item = own.find(|item| decision::short_name(&item.node) == node && item.port == port)?;
        Some(told(item, now))
    }
}

fn told(item: &WouldDenials, now: UnixMillis) -> String {
    match item.count {
        0 => format!("none for {}", times::age(item.since.as_ref(), now)),
        count => {
            let last = times::age(item.last_seen.as_ref(), now);
            output::printable(&format!("{}, none for {last}", counted(count, "call")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_many_and_for_how_long_there_was_none() {
        let at = |ago: u64| Some(times::timestamp(UnixMillis(1_800_000_000_000 - ago * 1_000)));
        let item =
            WouldDenials { count: 12, last_seen: at(180), since: at(86_400 * 3), ..WouldDenials::default() };
        let now = UnixMillis(1_800_000_000_000);
        assert_eq!(told(&item, now), "12 calls, none for 3m");
        assert_eq!(told(&WouldDenials { count: 0, ..item }, now), "none for 3d");
    }
}
