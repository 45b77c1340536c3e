//! What agents send first, parsed at the door.

use std::collections::BTreeSet;

use hauberk_identity::{Name, UnixMillis};
use hauberk_proto::agent::v1 as agent;
use thiserror::Error;

use super::holding::MAX_SUBSCRIPTIONS;
use crate::instances::{HelloFacts, ViewMark};
use crate::revocation::Mark;

/// The longest text that an agent can have shown, in characters.
const MAX_TEXT: usize = 256;

/// How many features an agent may announce, and how long the name of one is at the most, in bytes: they are remembered for as
/// long as the instance is.
const MAX_FEATURES: usize = 32;
const MAX_FEATURE: usize = 64;

/// How many keys an agent may say it believes: there are two for a day after one has followed another.
const MAX_VIEW_KEYS: usize = 32;

/// Something that no agent of ours says. The fault is the agent's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// The first message was something else.
    #[error("the first message must be Hello")]
    NotHello,
    /// Hello came again.
    #[error("Hello was sent already")]
    SecondHello,
    /// A message without content, or of a kind that this control plane does not know.
    #[error("a message without a known content")]
    Empty,
    /// A list that is too long.
    #[error("{field}: at most {limit} are taken")]
    TooMany {
        /// Which list.
        field: &'static str,
        /// Its limit.
        limit: usize,
    },
    /// A field that does not parse.
    #[error("{field}: {why}")]
    Field {
        /// Which.
        field: &'static str,
        /// What is wrong.
        why: &'static str,
    },
}

/// A view that an agent says it holds.
#[derive(Debug, Clone)]
pub(super) struct HeldView {
    pub(super) mark: ViewMark,
    /// The key that signed it; agents of former releases do not say.
    pub(super) key_id: Option<String>,
}

/// The first message of an agent.
#[derive(Debug)]
pub(super) struct Hello {
    pub(super) facts: HelloFacts,
    pub(super) node: Option<HeldView>,
    pub(super) services: Vec<(Name, Option<HeldView>)>,
    /// What it holds; `None` where it knows nothing of denylists.
    pub(super) denylist: Option<Mark>,
    /// The key that signed that, where it says so.
    pub(super) denylist_key: Option<String>,
    /// The keys by which it believes what is signed.
    pub(super) view_keys: Vec<String>,
    /// The highest (epoch, revision) that it says it has accepted or holds.
    pub(super) highest: (u64, u64),
    /// It serves a Workload API.
    pub(super) serves_workload_api: bool,
}

impl Hello {
    pub(super) fn parse(message: agent::Hello, now: UnixMillis) -> Result<Self, ProtocolError> {
        let agent::Hello {
            version,
            hostname,
            features,
            held,
            services,
            now_unix_ms,
            highest_epoch,
            highest_revision,
            denylist,
            serves_workload_api,
            reports_flows,
            view_key_ids,
        } = message;
        if features.len() > MAX_FEATURES {
            return Err(ProtocolError::TooMany { field: "features", limit: MAX_FEATURES });
        }
        if features.iter().any(|feature| feature.len() > MAX_FEATURE) {
            return Err(ProtocolError::Field { field: "features", why: "no name of a feature" });
        }
        if view_key_ids.len() > MAX_VIEW_KEYS {
            return Err(ProtocolError::TooMany { field: "view_key_ids", limit: MAX_VIEW_KEYS });
        }
        if services.len() > MAX_SUBSCRIPTIONS {
            return Err(ProtocolError::TooMany { field: "services", limit: MAX_SUBSCRIPTIONS });
        }
        let node = held.map(|held| parse_held(&held, "held.digest")).transpose()?.flatten();
        let services = services.iter().map(parse_service).collect::<Result<Vec<_>, _>>()?;
        let held = node.iter().chain(services.iter().filter_map(|(_, held)| held.as_ref()));
        let highest = held.map(|held| (held.mark.epoch, held.mark.revision)).max().unwrap_or_default();
        let denylist_key =
            denylist.as_ref().and_then(|held| Some(held.key_id.clone()).filter(|key| is_key_id(key)));
        let denylist =
            denylist.map(|agent::HeldDenylist { epoch, revision, key_id: _ }| Mark { epoch, revision });
        let highest = highest.max(denylist.map(|mark| (mark.epoch, mark.revision)).unwrap_or_default());
        let facts = HelloFacts {
            version: shown(&version),
            hostname: shown(&hostname),
            features: features.into_iter().collect::<BTreeSet<_>>(),
            clock_skew_ms: skew(now_unix_ms, now),
            ahead: None,
            reports_flows,
        };
        let highest = highest.max((highest_epoch, highest_revision));
        let view_keys = view_key_ids.into_iter().filter(|key| is_key_id(key)).collect();
        Ok(Self { facts, node, services, denylist, denylist_key, view_keys, highest, serves_workload_api })
    }
}

/// Cuts a text that an agent wants shown, and takes control characters out.
pub(super) fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}

/// Such a text is remembered for as long as the session is.
fn is_key_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn parse_service(message: &agent::HeldService) -> Result<(Name, Option<HeldView>), ProtocolError> {
    let agent::HeldService { name, held } = message;
    let name = Name::parse(name)
        .map_err(|_| ProtocolError::Field { field: "services.name", why: "no name of a service" })?;
    let held = held.as_ref().map(|held| parse_held(held, "services.held.digest")).transpose()?.flatten();
    Ok((name, held))
}

fn parse_held(message: &agent::Held, field: &'static str) -> Result<Option<HeldView>, ProtocolError> {
    let agent::Held { epoch, revision, digest, key_id } = message;
    if digest.is_empty() && *revision == 0 {
        return Ok(None);
    }
    let digest = <[u8; 32]>::try_from(digest.as_slice())
        .map_err(|_| ProtocolError::Field { field, why: "not a SHA-256 digest" })?;
    let mark = ViewMark { epoch: *epoch, revision: *revision, digest };
    Ok(Some(HeldView { mark, key_id: Some(key_id.clone()).filter(|key| is_key_id(key)) }))
}

fn skew(theirs: u64, ours: UnixMillis) -> i64 {
    let difference = i128::from(theirs) - i128::from(ours.0);
    difference.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}
