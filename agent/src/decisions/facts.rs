//! What is known of one decision.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{Serial, UnixMillis};
use hauberk_policy::{
    Action, Caller, Condition, Decision, Effect, Fact, FactSet, Gathered, HeaderLines, Moment, OnBehalfOf,
    Origin, Outcomes, Peer, Reason, Tls,
};
use hauberk_proto::agent::v1 as pb;
use hauberk_proto::convert::{encode_header_lines, encode_on_behalf_of};

use super::DecisionId;
use crate::mesh::ViewStamp;

/// The longest query, and the most bytes of host and header fields, that come into a record, so that callers cannot
/// fill our memory or keep a denial from being told.
const MAX_READ: usize = 2_048;
/// The same of what a user's token tells, which issuers say and callers do not.
const MAX_USER: usize = 8 * 1_024;

/// Who asked for what, and what was decided. Borrows, so that gathering it costs nothing.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The view that decided; none where inbound was closed.
    pub view: Option<&'a ViewStamp>,
    /// Who called.
    pub caller: &'a Caller,
    /// The serial number of the caller's certificate.
    pub caller_serial: Option<Serial>,
    /// Where the caller connected from.
    pub peer_address: SocketAddr,
    /// What policies may know of the connection.
    pub peer: &'a Peer,
    /// When it was decided, by which certificate of the caller's.
    pub moment: Moment,
    /// The listener's number in the mesh.
    pub port: u16,
    /// The virtual service that was asked for; empty where none was named.
    pub service: &'a str,
    /// Where a call goes that leaves the mesh; none where it stays.
    pub leaves_to: Option<LeavesTo<'a>>,
    /// What was asked for.
    pub request: Request<'a>,
    /// The request's query, if it has one. It comes into records only where policies read it: it may hold secrets.
    pub query: Option<&'a str>,
    /// What was gathered of the request besides, if anything.
    pub gathered: Option<&'a Arc<Gathered>>,
    /// What was decided, and why.
    pub ruling: Ruling<'a>,
}

/// Where a call goes that leaves the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeavesTo<'a> {
    /// The external service; empty where none has the host.
    pub external: &'a str,
    /// The host, as the app named it.
    pub host: &'a str,
}

/// What was decided, and by whom.
#[derive(Debug, Clone, Copy)]
pub enum Ruling<'a> {
    /// By the view's policies.
    Policy(&'a Decision),
    /// Denied before policies were asked.
    Refused {
        /// A stable name, such as `no_view` or `wrong_service`.
        reason: &'static str,
    },
}

/// What a caller asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// An HTTP request.
    Http {
        /// Its method; empty where none could be read.
        method: &'a str,
        /// Its path, canonical unless it was refused for being ambiguous; empty where none could be read.
        path: &'a str,
        /// Whether it asks for another protocol, which only a GET may.
        is_upgrade: bool,
    },
    /// A gRPC call.
    Grpc {
        /// `/package.Service/Method`.
        path: &'a str,
    },
    /// A TCP stream.
    Connect,
}

/// What a local app wanted of a service, and who was asked. Borrows, so that gathering it costs nothing.
#[derive(Debug, Clone, Copy)]
pub struct OutboundFacts<'a> {
    /// The virtual service; or the host that the app named, where there is no such service.
    pub service: &'a str,
    /// Its port; 0 where there is none.
    pub port: u16,
    /// What was asked for. The path is as the app wrote it.
    pub request: Request<'a>,
    /// The agent that the request was given to last.
    pub endpoint: Option<SocketAddr>,
    /// How many agents it was given to, one after the other.
    pub attempts: u32,
    /// Why the service gave no answer: a stable name, such as `no_endpoints` or `denied`.
    pub error: Option<&'a str>,
    /// The id of the decision by which the far agent denied it.
    pub decision: Option<&'a str>,
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It may pass.
    Allow,
    /// It may not.
    Deny,
    /// Nothing permits it, but `authorization: AUDIT` lets it pass.
    AuditAllow,
}

/// How it ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome {
    /// The HTTP status that was sent; 0 where there is none.
    pub status: u16,
    /// How a gRPC call ended, where that was seen.
    pub grpc_status: Option<u8>,
    /// From the first byte of the request, or of the connection, to the last.
    pub duration: Duration,
    /// Bytes of content from the caller.
    pub bytes_in: u64,
    /// Bytes of content to the caller.
    pub bytes_out: u64,
}

impl Outcome {
    pub(super) fn micros(&self) -> u64 {
        u64::try_from(self.duration.as_micros()).unwrap_or(u64::MAX)
    }
}

impl Request<'_> {
    /// The action's name in policies; of an upgrade, which is a `GET` as well, the rarer one.
    pub fn action(&self) -> &'static str {
        match self {
            Self::Http { is_upgrade: true, .. } => Action::Upgrade,
            Self::Http { method, .. } => Action::of_method(method),
            Self::Grpc { .. } => Action::Call,
            Self::Connect => Action::Connect,
        }
        .as_str()
    }

    /// The HTTP method; every gRPC call has the same.
    pub(super) fn method(&self) -> Option<&str> {
        match self {
            Self::Http { method, .. } => Some(*method).filter(|method| !method.is_empty()),
            Self::Grpc { .. } | Self::Connect => None,
        }
    }

    /// The path without a leading slash for gRPC methods, as templates write them; empty for TCP.
    pub fn path(&self) -> &str {
        match self {
            Self::Http { path, .. } => path,
            Self::Grpc { path } => path.strip_prefix('/').unwrap_or(path),
            Self::Connect => "",
        }
    }
}

impl Verdict {
    /// The name in access lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::AuditAllow => "audit_allow",
        }
    }

    pub(super) fn to_proto(self) -> i32 {
        match self {
            Self::Allow => pb::Verdict::Allow,
            Self::Deny => pb::Verdict::Deny,
            Self::AuditAllow => pb::Verdict::AuditAllow,
        }
        .into()
    }
}

impl<'a> Ruling<'a> {
    /// Whether it passed.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Policy(Decision { effect: Effect::Deny, .. }) | Self::Refused { .. } => Verdict::Deny,
            Self::Policy(Decision { reason: Reason::AuditDefaultAllow, .. }) => Verdict::AuditAllow,
            Self::Policy(_) => Verdict::Allow,
        }
    }

    /// Why: a stable name such as `no_policy_matched`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Policy(decision) => decision.reason.as_str(),
            Self::Refused { reason } => reason,
        }
    }

    /// What of the context the policies in play read.
    pub fn reads(&self) -> FactSet {
        match self {
            Self::Policy(decision) => decision.reads,
            Self::Refused { .. } => FactSet::NONE,
        }
    }

    /// The policies that decided.
    pub fn policies(&self) -> &'a [Arc<str>] {
        match self {
            Self::Policy(decision) => &decision.policies,
            Self::Refused { .. } => &[],
        }
    }

    /// The template of the route that the request belongs to; empty where there is none.
    pub fn route(&self) -> &'a str {
        let label = match self {
            Self::Policy(decision) => decision.resource.as_deref().unwrap_or_default(),
            Self::Refused { .. } => "",
        };
        label.split_once(' ').map_or("", |(_port, template)| template)
    }

    /// How conditions of policies came out, as far as that is known.
    pub(super) fn conditions(&self) -> impl Iterator<Item = (&'a Condition, bool)> + use<'a> {
        let outcomes = match self {
            Self::Policy(decision) => decision.conditions.as_deref(),
            Self::Refused { .. } => None,
        };
        outcomes.into_iter().flat_map(Outcomes::iter)
    }

    /// The policies in mode audit that would have changed it.
    pub(super) fn audit_policies(&self) -> &'a [Arc<str>] {
        match self {
            Self::Policy(Decision { effect, audit: Some(audit), .. }) if audit.effect != *effect => {
                &audit.policies
            }
            Self::Policy(_) | Self::Refused { .. } => &[],
        }
    }

    /// What policies in mode audit would have said, where that differs.
    pub fn audit_verdict(&self) -> Option<Verdict> {
        match self {
            Self::Policy(Decision { effect, audit: Some(audit), .. }) if audit.effect != *effect => {
                Some(if audit.effect == Effect::Allow { Verdict::Allow } else { Verdict::Deny })
            }
            Self::Policy(_) | Self::Refused { .. } => None,
        }
    }
}

impl<'a> Facts<'a> {
    /// The caller's SPIFFE id; empty for an anonymous one.
    pub fn caller_id(&self) -> &'a str {
        match self.caller {
            Caller::Peer(id) => id.as_str(),
            Caller::Anonymous => "",
        }
    }

    /// The external service that is called; empty where the call stays in the mesh, and where no external service has
    /// the host.
    pub(super) fn external(&self) -> &'a str {
        self.leaves_to.map_or("", |to| to.external)
    }

    /// The query, where policies read it.
    pub(super) fn query_read(&self) -> Option<&'a str> {
        self.query.filter(|_| self.ruling.reads().contains(Fact::Query))
    }

    /// The host, where policies read it.
    pub(super) fn host_read(&self) -> Option<&'a str> {
        let host = self.gathered.and_then(|gathered| gathered.host());
        host.filter(|_| self.ruling.reads().contains(Fact::Host))
    }

    /// The caller's address, where policies read it.
    pub(super) fn address_read(&self) -> Option<IpAddr> {
        self.peer.address().filter(|_| self.ruling.reads().contains(Fact::Address))
    }

    /// What the handshake negotiated, where policies read it.
    pub(super) fn tls_read(&self) -> Option<&'a Tls> {
        self.peer.tls().filter(|_| self.ruling.reads().contains(Fact::Tls))
    }

    /// The header fields that were looked for, where policies read any.
    pub(super) fn headers_read(&self) -> &'a [HeaderLines] {
        let gathered = self.gathered.filter(|_| self.ruling.reads().contains(Fact::Headers));
        gathered.map_or(&[], |gathered| gathered.headers())
    }

    /// For whom it was made, where policies read it.
    pub(super) fn on_behalf_of_read(&self) -> Option<&'a OnBehalfOf> {
        let read = self.gathered.filter(|_| self.ruling.reads().are_of_users());
        read.map(|gathered| gathered.on_behalf_of())
    }

    /// The user that it was made for, where policies read that.
    pub(super) fn origin_read(&self) -> Option<&'a Origin> {
        self.on_behalf_of_read().and_then(OnBehalfOf::origin).map(|origin| &**origin)
    }

    /// What was gathered, where policies read any of it.
    pub(super) fn gathered_read(&self) -> Option<&'a Arc<Gathered>> {
        let reads = self.ruling.reads();
        self.gathered.filter(|_| reads.contains_any(&[Fact::Headers, Fact::Host]) || reads.are_of_users())
    }

    /// Whether the query or the header fields that were read are too long for a record.
    pub(super) fn is_long(&self) -> bool {
        self.query_read().is_some_and(|query| query.len() > MAX_READ)
            || self.gathered_read().is_some_and(|gathered| gathered.size() > MAX_READ)
            || self.origin_read().is_some_and(|origin| origin.size() > MAX_USER)
    }

    pub(super) fn known_to_policies(&self) -> pb::DecisionFacts {
        let is_long = self.is_long();
        let tls = self.peer.tls();
        pb::DecisionFacts {
            time_unix_ms: self.moment.time.0,
            certificate_not_before_unix_ms: self.moment.certificate_since.map_or(0, |since| since.0),
            tls_version: tls.map(|tls| tls.version.to_string()).unwrap_or_default(),
            tls_group: tls.map(|tls| tls.group.to_string()).unwrap_or_default(),
            method: self.request.method().unwrap_or_default().to_owned(),
            host: self.host_read().filter(|_| !is_long).map(str::to_owned),
            query: self.query_read().filter(|_| !is_long).map(str::to_owned),
            headers: if is_long { &[] } else { self.headers_read() }
                .iter()
                .map(encode_header_lines)
                .collect(),
            shortened: is_long,
            on_behalf_of: self.on_behalf_of_read().filter(|_| !is_long).and_then(encode_on_behalf_of),
        }
    }

    pub(super) fn to_proto(
        self,
        at: UnixMillis,
        id: Option<&DecisionId>,
        outcome: Option<&Outcome>,
    ) -> pb::Decision {
        pb::Decision {
            id: id.map(ToString::to_string).unwrap_or_default(),
            at_unix_ms: at.0,
            caller: self.caller_id().to_owned(),
            caller_serial: self.caller_serial.map(|serial| serial.to_string()).unwrap_or_default(),
            node: self.view.map(|view| view.spiffe_id.to_string()).unwrap_or_default(),
            port: self.port.into(),
            service: self.service.to_owned(),
            action: self.request.action().to_owned(),
            path: self.request.path().to_owned(),
            route: self.ruling.route().to_owned(),
            verdict: self.ruling.verdict().to_proto(),
            reason: self.ruling.reason().to_owned(),
            policies: self.ruling.policies().iter().map(ToString::to_string).collect(),
            status: outcome.map_or(0, |outcome| outcome.status.into()),
            duration_us: outcome.map_or(0, Outcome::micros),
            peer_address: self.peer_address.to_string(),
            first_of_kind: false,
            audit_verdict: self.ruling.audit_verdict().map_or(0, Verdict::to_proto),
            epoch: self.view.map_or(0, |view| view.epoch),
            revision: self.view.map_or(0, |view| view.revision),
            grpc_status: outcome.and_then(|outcome| outcome.grpc_status).map(u32::from),
            facts: Some(self.known_to_policies()),
            external: self.external().to_owned(),
            external_host: self.leaves_to.map(|to| to.host.to_owned()).unwrap_or_default(),
        }
    }
}
