//! What the boundary and the policies say of one question, put together.

use std::sync::Arc;

use super::places::Place;
use super::{Clause, Outlook, Prospect, Survey};
use crate::decision::Reason;
use crate::reads::{Fact, FactSet};
use crate::vocabulary::Action;

/// What one part of the policies says.
#[derive(Default)]
pub(super) struct View {
    /// What cannot be known, by which statements, whatever else holds.
    pub(super) lacking: Option<(Reason, Vec<Arc<str>>)>,
    pub(super) permits: Vec<Clause>,
    pub(super) forbids: Vec<Clause>,
    pub(super) denied_where: Vec<String>,
}

impl View {
    /// Nobody knows what this statement says.
    pub(super) fn lack(&mut self, reason: Reason, policy: &Arc<str>) {
        let (_, policies) = self.lacking.get_or_insert_with(|| (reason, Vec::new()));
        policies.push(Arc::clone(policy));
    }
}

impl Survey<'_> {
    pub(super) fn never(&self, place: &Place<'_>, reason: Reason, policies: Vec<Arc<str>>) -> Prospect {
        self.settled(place, Outlook::Never, reason, policies)
    }

    pub(super) fn settled(
        &self,
        place: &Place<'_>,
        outlook: Outlook,
        reason: Reason,
        policies: Vec<Arc<str>>,
    ) -> Prospect {
        let resource =
            self.engine.0.resources.get(place.resource).map(|governed| Arc::clone(&governed.label));
        Prospect {
            action: place.action,
            method: place.method.filter(|_| place.action == Action::Other).map(str::to_owned),
            resource: resource.unwrap_or_default(),
            outlook,
            reason,
            policies,
            permits: Vec::new(),
            forbids: Vec::new(),
            denied_where: Vec::new(),
        }
    }

    /// What all policies together say.
    pub(super) fn sum_up(
        &self,
        place: &Place<'_>,
        bounded: View,
        enforced: View,
        by_default: bool,
    ) -> Prospect {
        let certain = |clauses: &[Clause]| -> Vec<Arc<str>> {
            let certain = clauses.iter().filter(|clause| clause.conditions.is_empty());
            certain.map(|clause| Arc::clone(&clause.policy)).collect()
        };
        // A boundary never permits; whatever says so is not one of ours, and denies.
        let bounds: Vec<Clause> = bounded.forbids.into_iter().chain(bounded.permits).collect();
        for (lacking, forbids, reason) in [
            (bounded.lacking, &bounds, Reason::ForbiddenByBoundary),
            (enforced.lacking, &enforced.forbids, Reason::Forbidden),
        ] {
            if let Some((reason, policies)) = lacking {
                return self.never(place, reason, policies);
            }
            let forbidding = certain(forbids);
            if !forbidding.is_empty() {
                return self.never(place, reason, forbidding);
            }
        }
        if enforced.permits.is_empty() && !by_default {
            return self.never(place, Reason::NoPolicyMatched, Vec::new());
        }
        let permitting = certain(&enforced.permits);
        let reason = match permitting.is_empty() && by_default {
            true => Reason::AuditDefaultAllow,
            false => Reason::Permitted,
        };
        let permits = match (&reason, permitting.is_empty()) {
            (Reason::AuditDefaultAllow, _) => Vec::new(),
            (_, true) => enforced.permits,
            // The others add nothing.
            (_, false) => {
                enforced.permits.into_iter().filter(|clause| clause.conditions.is_empty()).collect()
            }
        };
        let forbids: Vec<Clause> = bounds.into_iter().chain(enforced.forbids).collect();
        let mut denied_where = bounded.denied_where;
        denied_where.extend(enforced.denied_where);
        denied_where.dedup();
        let is_permitted = reason == Reason::AuditDefaultAllow || !permitting.is_empty();
        if is_permitted && forbids.is_empty() && denied_where.is_empty() {
            return self.settled(place, Outlook::Always, reason, permitting);
        }
        let of_paths = FactSet::of(&[Fact::Path, Fact::Params]);
        let clauses = || permits.iter().chain(&forbids);
        let by_path = denied_where.is_empty()
            && clauses().all(|clause| clause.reads.without(of_paths) == FactSet::NONE);
        let outlook = if by_path { Outlook::Part } else { Outlook::Conditional };
        Prospect { permits, forbids, denied_where, ..self.settled(place, outlook, reason, Vec::new()) }
    }
}
