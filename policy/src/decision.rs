//! What is asked of a node's policies, and what they answer.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use hauberk_identity::SpiffeId;

use crate::circumstances::{Gathered, Moment, Peer};
use crate::outcomes::Outcomes;
use crate::path::CanonicalPath;
use crate::reads::{Fact, FactSet};
use crate::vocabulary::Action;

/// Who calls, as the connection proved it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Caller {
    /// Whoever holds a verified SVID with this id.
    Peer(SpiffeId),
    /// Somebody who proved nothing.
    Anonymous,
}

/// What a caller attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt<'a> {
    /// An HTTP request. On a gRPC port it is read as the call of a gRPC method, for the listener's protocol decides and
    /// nothing that the caller says.
    Request {
        /// The method, as sent.
        method: &'a str,
        /// The path that will be forwarded.
        path: &'a CanonicalPath<'a>,
        /// Whether the request also asks for another protocol (an `Upgrade` header). It is then two things at once,
        /// what its method says and an `upgrade`, and both must be let through.
        upgrade: bool,
        /// What was gathered besides.
        gathered: &'a Gathered,
    },
    /// A stream of bytes.
    Stream,
}

/// One thing to be decided.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Who.
    pub caller: &'a Caller,
    /// What is known of the connection.
    pub peer: &'a Peer,
    /// At which of the node's listeners.
    pub port: u16,
    /// What.
    pub attempt: Attempt<'a>,
    /// When.
    pub moment: Moment,
}

/// The outcome of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Let it through.
    Allow,
    /// Stop it.
    Deny,
}

/// Why a decision is as it is. The names are stable: they stand in logs, metrics and answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// A policy permits it and none forbids it.
    Permitted,
    /// No policy permits it, and the port is still in audit: it is let through and recorded.
    AuditDefaultAllow,
    /// A policy forbids it.
    Forbidden,
    /// The mesh's boundary forbids it, whatever policies say.
    ForbiddenByBoundary,
    /// No policy permits it.
    NoPolicyMatched,
    /// A policy could not be evaluated, so nobody knows what it would have said.
    EvaluationError,
    /// A policy reads a fact that was not gathered when the request came, since none read it then.
    FactsMissing,
    /// A policy reads the query, and it has no single reading.
    UnreadableQuery,
    /// A policy reads a header field of which a value is no text, or whose name is spelled in two ways.
    UnreadableHeader,
    /// The route is for users, and the request is made for none.
    UserMissing,
    /// The port takes no users of the issuer of whom the request is made for.
    UserIssuerNotTaken,
    /// The caller's identity is one that never calls services, such as an admin's.
    NotAPrincipal,
    /// The mesh follows no such trust domain, or has no bundle of it: agents end the handshake.
    TrustDomainNotFederated,
    /// The node has no such port.
    NoSuchPort,
    /// A stream on a port for requests, a request on a port for streams, or no gRPC call on a gRPC port.
    WrongProtocol,
    /// The request matches no declared route, and its port denies such requests.
    UndeclaredRoute,
    /// The request's path has several readings.
    AmbiguousPath,
}

impl Reason {
    /// The reason's stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Permitted => "permitted",
            Self::AuditDefaultAllow => "audit_default_allow",
            Self::Forbidden => "forbidden",
            Self::ForbiddenByBoundary => "forbidden_by_boundary",
            Self::NoPolicyMatched => "no_policy_matched",
            Self::EvaluationError => "evaluation_error",
            Self::FactsMissing => "facts_missing",
            Self::UnreadableQuery => "unreadable_query",
            Self::UnreadableHeader => "unreadable_header",
            Self::UserMissing => "user_missing",
            Self::UserIssuerNotTaken => "user_token_issuer_not_taken",
            Self::NotAPrincipal => "not_a_principal",
            Self::TrustDomainNotFederated => "trust_domain_not_federated",
            Self::NoSuchPort => "no_such_port",
            Self::WrongProtocol => "wrong_protocol",
            Self::UndeclaredRoute => "undeclared_route",
            Self::AmbiguousPath => "ambiguous_path",
        }
    }

    /// The reason with a stable name, where it is one.
    pub fn parse(name: &str) -> Option<Self> {
        const ALL: [Reason; 17] = [
            Reason::Permitted,
            Reason::AuditDefaultAllow,
            Reason::Forbidden,
            Reason::ForbiddenByBoundary,
            Reason::NoPolicyMatched,
            Reason::EvaluationError,
            Reason::FactsMissing,
            Reason::UnreadableQuery,
            Reason::UnreadableHeader,
            Reason::UserMissing,
            Reason::UserIssuerNotTaken,
            Reason::NotAPrincipal,
            Reason::TrustDomainNotFederated,
            Reason::NoSuchPort,
            Reason::WrongProtocol,
            Reason::UndeclaredRoute,
            Reason::AmbiguousPath,
        ];
        ALL.into_iter().find(|reason| reason.as_str() == name)
    }

    /// How much it weighs beside another: whatever no grant lifts most, and a plain permit least.
    fn gravity(self) -> u8 {
        match self {
            Self::Permitted => 0,
            Self::AuditDefaultAllow => 1,
            Self::NoPolicyMatched => 2,
            Self::EvaluationError | Self::FactsMissing | Self::UnreadableQuery | Self::UnreadableHeader => 3,
            Self::Forbidden => 4,
            Self::ForbiddenByBoundary => 5,
            Self::UserMissing
            | Self::UserIssuerNotTaken
            | Self::NotAPrincipal
            | Self::TrustDomainNotFederated
            | Self::NoSuchPort
            | Self::WrongProtocol
            | Self::UndeclaredRoute
            | Self::AmbiguousPath => 6,
        }
    }
}

/// What was decided, and why. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is let through.
    pub effect: Effect,
    /// Why.
    pub reason: Reason,
    /// The policies that determined it: those that permit, or those that forbid, or those that failed.
    pub policies: Arc<[Arc<str>]>,
    /// What policies in audit mode had to say, if anything.
    pub audit: Option<Arc<AuditOutcome>>,
    /// What the attempt counted as, once that was clear.
    pub action: Option<Action>,
    /// The route or port that was asked for, as policies write it, such as `orders:8080 /orders/{id}`.
    pub resource: Option<Arc<str>>,
    /// What of the context the policies in play read: on nothing else of it does the outcome depend.
    pub reads: FactSet,
    /// How the conditions of the policies in play came out, as far as that is known; none where that is of none.
    pub conditions: Option<Arc<Outcomes>>,
}

/// What would have been decided had the policies in audit mode been enforced too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditOutcome {
    /// The outcome then.
    pub effect: Effect,
    /// The policies in audit mode that permit, forbid or fail.
    pub policies: Arc<[Arc<str>]>,
}

impl Decision {
    /// Whether one that was made of a record depends on what is not in it: the query, the connection, a header field,
    /// the user.
    pub fn lacks_facts(&self, peer: &Peer, is_query_known: bool, is_user_known: bool) -> bool {
        self.reads.contains(Fact::Query) && !is_query_known
            || self.reads.contains(Fact::Tls) && peer.tls().is_none()
            || self.reason == Reason::FactsMissing
            || self.reason == Reason::UserMissing && !is_user_known
    }

    /// A denial that needs no policy.
    pub fn denied(reason: Reason) -> Self {
        Self {
            effect: Effect::Deny,
            reason,
            policies: Arc::default(),
            audit: None,
            action: None,
            resource: None,
            reads: FactSet::NONE,
            conditions: None,
        }
    }

    /// Whether it is let through.
    pub fn is_allowed(&self) -> bool {
        self.effect == Effect::Allow
    }

    /// The decision on something that is two things at once: let through only if both are. The graver of the two is
    /// what it came from; where they are alike, so are their policies, and it counts as `other`. How conditions came
    /// out is told of one thing alone.
    pub(crate) fn and(self, other: Self) -> Self {
        let audit = self.audit.is_some() || other.audit.is_some();
        let audit = audit.then(|| {
            let would_pass = self.would_be() == Effect::Allow && other.would_be() == Effect::Allow;
            let told = |decision: &Self| decision.audit.as_ref().map(|audit| Arc::clone(&audit.policies));
            Arc::new(AuditOutcome {
                effect: if would_pass { Effect::Allow } else { Effect::Deny },
                policies: united(&told(&self).unwrap_or_default(), &told(&other).unwrap_or_default()),
            })
        });
        let (first, second) = (self.reason.gravity(), other.reason.gravity());
        let policies = if first == second { united(&self.policies, &other.policies) } else { Arc::default() };
        let reads = self.reads.and(other.reads);
        let conditions = None;
        match first.cmp(&second) {
            Ordering::Less => Self { audit, reads, conditions, ..other },
            Ordering::Equal => Self { audit, policies, reads, conditions, ..other },
            Ordering::Greater => Self { audit, reads, conditions, ..self },
        }
    }

    /// The outcome had the policies in audit mode been enforced too.
    fn would_be(&self) -> Effect {
        self.audit.as_ref().map_or(self.effect, |audit| audit.effect)
    }
}

/// All names of both, sorted.
fn united(one: &Arc<[Arc<str>]>, other: &Arc<[Arc<str>]>) -> Arc<[Arc<str>]> {
    one.iter().chain(other.iter()).cloned().collect::<BTreeSet<_>>().into_iter().collect()
}
