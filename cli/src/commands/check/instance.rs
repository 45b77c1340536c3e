//! How an instance stands.

use hauberk_identity::UnixMillis;
use hauberk_proto::admin::v1 as api;
use hauberk_proto::refusal::BY_EVERYBODY;

use super::{AGENTS, Report};
use crate::commands::rows::left;
use crate::times::instant;

/// How an instance stands. What the control plane tells of one that is away is not told twice.
pub(super) fn look(
    report: &mut Report,
    instance: &api::Instance,
    told: &[api::Finding],
    now: UnixMillis,
    of_context: &str,
) {
    let name = format!("instance {} of {}/{}", instance.id, instance.mesh, instance.node);
    let not_after = instance.certificate_not_after.as_ref().map(instant);
    let lag = format!("instance {} of {}: {}", instance.id, instance.spiffe_id, instance.lag_reason);
    if !instance.connected
        && let Some(denial) = instance.lag_reason.strip_suffix(BY_EVERYBODY)
    {
        // What it acts on concerns nobody.
        report.good(AGENTS, format!("{name} is away and {denial}{BY_EVERYBODY}"));
    } else if !instance.connected
        && let Some(not_after) = not_after.filter(|not_after| *not_after < now)
    {
        // Everybody refuses it, and it is forgotten by itself.
        report.good(AGENTS, format!("{name} is away, and its certificate {}", left(not_after, now)));
    } else if !instance.connected && told.iter().any(|finding| finding.summary == lag) {
        // With what to do about it.
    } else if !instance.connected {
        let until = not_after.map_or_else(String::new, |not_after| format!(" in {}", left(not_after, now)));
        report.warning(
            AGENTS,
            format!("{name} is away; it acts on what it has"),
            format!(
                "start it again with its state directory; one that does not come back: hauberk revoke instance {}{of_context}, or wait: \
                 its certificate expires{until}",
                instance.id
            ),
        );
    } else if instance.enforced_revision < instance.latest_revision || !instance.lag_reason.is_empty() {
        let told = Some(instance.lag_reason.as_str()).filter(|reason| !reason.is_empty());
        let reason = told.unwrap_or("not acknowledged yet");
        report.bad(
            AGENTS,
            format!(
                "{name} enforces revision {}, not {}: {reason}",
                instance.enforced_revision, instance.latest_revision
            ),
            format!("look at that agent's log; hauberk get instances -o wide{of_context} says where it runs"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Finding, Level};
    use super::*;

    #[test]
    fn an_instance_that_everybody_refuses_is_nothing_to_look_at() {
        let told = |lag_reason: &str| {
            let mut report = Report::default();
            let instance = api::Instance {
                id: "a".to_owned(),
                mesh: "shop".to_owned(),
                node: "web".to_owned(),
                lag_reason: lag_reason.to_owned(),
                ..api::Instance::default()
            };
            look(&mut report, &instance, &[], UnixMillis(0), "");
            let Finding { level, summary, .. } = report.0.swap_remove(0);
            (level, summary)
        };
        for denial in ["revoked", "quarantined"] {
            let summary = format!("instance a of shop/web is away and {denial}: everybody refuses it");
            assert_eq!(told(&format!("{denial}: everybody refuses it")), (Level::Good, summary));
        }
        let (level, summary) = told("not connected");
        assert!(level == Level::Warning && summary.ends_with("it acts on what it has"), "{summary}");
    }

    #[test]
    fn an_instance_that_is_away_is_told_of_once_with_a_fix_that_fits() {
        let mut instance = api::Instance {
            id: "a".to_owned(),
            spiffe_id: "spiffe://shop.local/mesh/shop/node/web".to_owned(),
            mesh: "shop".to_owned(),
            node: "web".to_owned(),
            certificate_not_after: Some(crate::times::timestamp(UnixMillis(60_000))),
            ..api::Instance::default()
        };
        let found = |instance: &api::Instance, told: &[api::Finding], now: u64| {
            let mut report = Report::default();
            look(&mut report, instance, told, UnixMillis(now), " --context prod");
            report
                .0
                .into_iter()
                .map(|Finding { level, summary, fix, .. }| (level, summary, fix))
                .collect::<Vec<_>>()
        };
        let name = "instance a of shop/web is away";
        let fix = "start it again with its state directory; one that does not come back: hauberk revoke instance a --context prod, or \
                   wait: its certificate expires in 60s";
        let away = (Level::Warning, format!("{name}; it acts on what it has"), fix.to_owned());
        assert_eq!(found(&instance, &[], 0), [away]);
        let expired = (Level::Good, format!("{name}, and its certificate expired 60s ago"), String::new());
        assert_eq!(found(&instance, &[], 120_000), [expired]);
        // The control plane tells that it lags, and what to do.
        instance.lag_reason = "not connected".to_owned();
        let summary = format!("instance a of {}: not connected", instance.spiffe_id);
        let told = api::Finding { summary, ..api::Finding::default() };
        assert_eq!(found(&instance, &[told], 0), []);
        assert_eq!(found(&instance, &[], 0).len(), 1, "where many lag it does not name each");
    }
}
