//! What a recorded decision was asked: the facts by which it can be decided again.

use std::net::{IpAddr, SocketAddr};

use hauberk_identity::UnixMillis;
use hauberk_policy::{Action, Gathered, HeaderLines, Moment, Peer, Tls};

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
    } = facts;
    let tls = (!tls_version.is_empty()).then(|| Tls { version: tls_version.into(), group: tls_group.into() });
    let certificate_since =
        (certificate_not_before_unix_ms > 0).then_some(UnixMillis(certificate_not_before_unix_ms));
    Circumstances {
        peer: Peer::new(address, tls),
        moment: Moment { time: UnixMillis(time_unix_ms), certificate_since },
        gathered: Gathered::recorded(host, headers.into_iter().map(decode_header_lines).collect()),
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
