//! What a recorded decision was asked: the facts by which it can be decided again.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hauberk_identity::{Name, SpiffeId, UnixMillis};
use hauberk_policy::{Action, Gathered, HeaderLines, Moment, OnBehalfOf, Origin, Peer, Tls, User};

use crate::agent::v1 as wire;

/// What was known of a decision, besides who asked for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Circumstances {
    /// What was known of the connection.
    pub peer: Peer,
    /// When it was decided.
    pub moment: Moment,
    /// What was gathered of the request.
    pub gathered: Gathered,
    /// Its query, where policies read it.
    pub query: Option<String>,
    /// Its method, as sent; empty for what is no HTTP request.
    pub method: String,
    /// Some of it was too long to be told.
    pub is_shortened: bool,
}

/// The message for the lines of a header field.
pub fn encode_header_lines(lines: &HeaderLines) -> wire::HeaderLines {
    let HeaderLines { name, values } = lines;
    wire::HeaderLines {
        name: name.to_string(),
        unreadable: values.is_none(),
        values: values.iter().flatten().map(ToString::to_string).collect(),
    }
}

/// Reads what was known of a recorded decision. Older agents tell less: the time at which they recorded it is that of
/// the decision then, and the method what its action says.
pub fn decode_circumstances(decision: &wire::Decision) -> Circumstances {
    let address: Option<SocketAddr> = decision.peer_address.parse().ok();
    let address = address.map(|address| address.ip());
    let Some(facts) = &decision.facts else {
        let upgrade = decision.action == Action::Upgrade.as_str();
        return Circumstances {
            peer: Peer::new(address, None),
            moment: Moment { time: UnixMillis(decision.at_unix_ms), certificate_since: None },
            gathered: Gathered::default(),
            query: None,
            // Agents take no other method for an upgrade.
            is_shortened: false,
            method: if upgrade { "GET".to_owned() } else { decision.action.clone() },
        };
    };
    decode_facts(facts.clone(), address)
}

/// The same of the facts alone, and the caller's address.
pub(super) fn decode_facts(facts: wire::DecisionFacts, address: Option<IpAddr>) -> Circumstances {
    let wire::DecisionFacts {
        time_unix_ms,
        certificate_not_before_unix_ms,
        tls_version,
        tls_group,
        method,
        host,
        query,
        headers,
        shortened,
        on_behalf_of,
    } = facts;
    let tls = (!tls_version.is_empty()).then(|| Tls { version: tls_version.into(), group: tls_group.into() });
    let certificate_since =
        (certificate_not_before_unix_ms > 0).then_some(UnixMillis(certificate_not_before_unix_ms));
    Circumstances {
        peer: Peer::new(address, tls),
        moment: Moment { time: UnixMillis(time_unix_ms), certificate_since },
        gathered: Gathered::recorded(host, headers.into_iter().map(decode_header_lines).collect())
            .made_for(on_behalf_of.map(decode_on_behalf_of).unwrap_or_default()),
        query,
        method,
        is_shortened: shortened,
    }
}

fn decode_header_lines(lines: wire::HeaderLines) -> HeaderLines {
    let wire::HeaderLines { name, values, unreadable } = lines;
    let values = (!unreadable).then(|| values.into_iter().map(Into::into).collect());
    HeaderLines { name: name.into(), values }
}

/// The message for whom a request is made for; none where nobody looked.
pub fn encode_on_behalf_of(on_behalf_of: &OnBehalfOf) -> Option<wire::OnBehalfOf> {
    let origin = match on_behalf_of {
        OnBehalfOf::NotLookedAt => return None,
        OnBehalfOf::Nobody => return Some(wire::OnBehalfOf::default()),
        OnBehalfOf::User(origin) => origin,
    };
    let Origin { user, actors } = &**origin;
    let User { issuer, issuer_url, id, groups, scopes, roles, claims } = user;
    let texts = |values: &[Box<str>]| values.iter().map(ToString::to_string).collect();
    let claims =
        claims.iter().map(|(name, values)| wire::Claim { name: name.to_string(), values: texts(values) });
    let user = wire::User {
        issuer: issuer.to_string(),
        issuer_url: issuer_url.to_string(),
        id: id.to_string(),
        groups: texts(groups),
        scopes: texts(scopes),
        roles: texts(roles),
        claims: claims.collect(),
    };
    Some(wire::OnBehalfOf { user: Some(user), actors: actors.iter().map(ToString::to_string).collect() })
}

/// What is no user is not looked at: whatever depends on it is denied.
fn decode_on_behalf_of(told: wire::OnBehalfOf) -> OnBehalfOf {
    let wire::OnBehalfOf { user, actors } = told;
    let Some(user) = user else { return OnBehalfOf::Nobody };
    let wire::User { issuer, issuer_url, id, groups, scopes, roles, claims } = user;
    let actors: Result<Vec<_>, _> = actors.iter().map(|actor| SpiffeId::parse(actor)).collect();
    let (Ok(issuer), Ok(actors)) = (Name::parse(&issuer), actors) else { return OnBehalfOf::NotLookedAt };
    let texts = |values: Vec<String>| values.into_iter().map(Into::into).collect::<Vec<Box<str>>>();
    let claims = claims.into_iter().map(|wire::Claim { name, values }| (name.into(), texts(values)));
    let user = User {
        issuer,
        issuer_url: issuer_url.into(),
        id: id.into(),
        groups: texts(groups),
        scopes: texts(scopes),
        roles: texts(roles),
        claims: claims.collect(),
    };
    OnBehalfOf::User(Arc::new(Origin { user, actors }))
}
