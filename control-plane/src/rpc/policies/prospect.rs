//! Prospects as messages.

use hauberk_identity::Name;
use hauberk_policy as policy;
use hauberk_proto::admin::v1::{Clause, Outlook, Prospect};

/// Where something is asked for.
pub(super) struct Place<'a> {
    /// Empty where an external service is called.
    pub(super) node: &'a str,
    pub(super) external: &'a str,
    pub(super) port: u16,
    pub(super) services: &'a [Name],
}

pub(super) fn encode_prospect(
    prospect: policy::Prospect,
    caller: &str,
    stands_for_others: bool,
    place: &Place<'_>,
) -> Prospect {
    let policy::Prospect {
        action,
        method,
        resource,
        outlook,
        reason,
        policies,
        permits,
        forbids,
        denied_where,
    } = prospect;
    let outlook = match outlook {
        policy::Outlook::Always => Outlook::Always,
        policy::Outlook::Part => Outlook::Part,
        policy::Outlook::Conditional => Outlook::Conditional,
        policy::Outlook::Never => Outlook::Never,
    };
    // A route is named by its port and its template.
    let route = resource.split_once(' ').map_or("", |(_port, template)| template);
    let clauses = |clauses: Vec<policy::Clause>| {
        let clause = |clause: policy::Clause| Clause {
            policy: clause.policy.to_string(),
            conditions: clause.conditions,
            held: clause.held,
        };
        clauses.into_iter().map(clause).collect()
    };
    Prospect {
        caller: caller.to_owned(),
        stands_for_others,
        node: place.node.to_owned(),
        external: place.external.to_owned(),
        port: place.port.into(),
        services: place.services.iter().map(ToString::to_string).collect(),
        action: action.as_str().to_owned(),
        method: method.unwrap_or_default(),
        route: route.to_owned(),
        outlook: outlook.into(),
        reason: reason.as_str().to_owned(),
        policies: policies.iter().map(ToString::to_string).collect(),
        permits: clauses(permits),
        forbids: clauses(forbids),
        denied_where,
    }
}
