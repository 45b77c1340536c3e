//! Who may do what: the policies of a mesh, compiled for one node, and the decision on each connection and request.
//!
//! A policy comes as Cedar text ([`PolicyDocument`]), is cut to what one node needs ([`PolicyIndex`]), compiled against
//! that node's ports and routes ([`Engine`]) and asked about each request ([`Question`], [`Decision`]). The control
//! plane and the agents run this same code. The crate is pure: no clock, no I/O, no locks.
#![forbid(unsafe_code)]

mod address;
mod allowance;
mod attributes;
mod cell;
mod circumstances;
mod compile;
mod compiled;
mod context;
mod decide;
mod decision;
mod document;
mod escapes;
mod evaluation;
mod explain;
mod facts;
mod fields;
mod grant;
mod labels;
mod membership;
mod memo;
mod named;
mod names;
mod outcomes;
mod outlook;
mod overlap;
mod path;
mod path_set;
mod pattern;
mod pattern_work;
mod qualify;
mod query_names;
mod quick_hash;
mod reads;
mod replay;
mod route;
mod scope;
#[cfg(test)]
#[allow(dead_code, unreachable_pub, reason = "what the tests of one crate lack, those of another do not")]
#[path = "../../integration-tests/src/skipped.rs"]
mod skipped;
mod slice;
mod statements;
mod suggest;
mod tally;
mod template;
#[cfg(test)]
mod testing;
mod user;
mod vocabulary;

pub use address::{AddressRange, Locality, ParseRangeError, locality, may_be_reached};
pub use allowance::Allowance;
pub use circumstances::{Gathered, HeaderLines, Moment, Peer, Tls, Wanted};
pub use compile::{CompileError, Engine};
pub use decision::{Attempt, AuditOutcome, Caller, Decision, Effect, Question, Reason};
pub use document::{BOUNDARY, MAX_TEXT_LEN, Mode, PolicyDocument, PolicyProblem, Reference, only_permits};
pub use escapes::unescaped;
pub use explain::{Explanation, Mismatch, PolicyNote};
pub use fields::{canonical_host, is_listed_header};
pub use grant::{Access, Grant, GrantCaller, GrantError, GrantTarget, Verb, shell_quote};
pub use labels::{LabelsRead, labels_needed};
pub use memo::{CallerMemo, Learned, Pending, Recalled};
pub use named::{Known, NamedListener, NamedPort, PortRead, ports_needed};
pub use names::{BadName, Compared, Referent, node_named, workload_named};
pub use outcomes::{Condition, ConditionOutcome, MAX_CONDITIONS, Outcomes};
pub use outlook::{Asked, Asker, Clause, Given, Outlook, Paths, Prospect, Survey};
pub use overlap::{Groups, Overlap, overlaps};
pub use path::{AmbiguousPath, CanonicalPath, EscapedSlashes};
pub use pattern::PathPattern;
pub use reads::{Fact, FactSet};
pub use replay::{Bundle, Issuers, RecordedCall, RecordedFlow, Replay, Replayed, Undecidable, Vouching};
pub use route::{RouteTemplate, RouteTemplateError, UNDECLARED};
pub use scope::{
    Authorization, DeclaredRoute, MethodAccess, NodeLabel, NodeScope, ObsText, Place, PortScope, Protocol,
    RoleMembers, Undeclared, UserTokens,
};
pub use slice::{EgressIndex, PolicyIndex, PolicySlice, SlicedPolicy};
pub use suggest::{Seen, Suggested, SuggestedPolicy, suggest};
pub use tally::{Count, Counted, Tally};
pub use template::{LinkProblem, PolicyTemplate, Slot};
pub use user::{ClaimsMapping, ClaimsProblem, OnBehalfOf, Origin, User};
pub use vocabulary::{Action, SCHEMA, SCHEMA_VERSION};
