//! Policies that a command line writes: from a few words to Cedar text (`cedar.rs`), and back to the words
//! (`words.rs`).

mod cedar;
mod words;

use hauberk_identity::{IdentityKind, Name, SpiffeId, TrustDomain};
use thiserror::Error;

use crate::names::principal_kind;
use crate::pattern::PathPattern;
use crate::vocabulary::Kind;

pub(crate) use words::MAX_NAME_LEN;
pub use words::shell_quote;

/// A simple permission, or prohibition: these callers, that target, and what exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Who. Several become one statement each.
    pub callers: Vec<GrantCaller>,
    /// What is called.
    pub target: GrantTarget,
    /// One port of the target only.
    pub port: Option<u16>,
    /// What may be done there.
    pub access: Access,
}

/// Who a grant is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrantCaller {
    /// A virtual node of the policy's mesh, written `web`.
    Node(Name),
    /// A virtual gateway of the policy's mesh, written `gateway/edge`.
    Gateway(Name),
    /// The members of a role of the policy's mesh, written `role/clerks`.
    Role(Name),
    /// A node or gateway of another mesh of the trust domain, written as its SPIFFE id.
    Foreign(SpiffeId),
    /// A program without an agent, or an identity of another trust domain; written `workload/<path>` where it belongs
    /// to this trust domain, or as its SPIFFE id.
    Workload(SpiffeId),
    /// Callers who prove no identity, written `@anonymous`.
    Anonymous,
}

/// What a grant opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrantTarget {
    /// A virtual service: the ports that provide it.
    Service(Name),
    /// A virtual node: all its ports.
    Node(Name),
    /// A virtual gateway: all its ports.
    Gateway(Name),
    /// An external service, written `external/stripe`: all its ports.
    External(Name),
}

/// What a grant is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Everything: requests, calls and streams.
    All,
    /// HTTP requests.
    Http {
        /// These methods, as HTTP writes them, or `upgrade`, which a WebSocket needs beside `GET`; all if empty.
        methods: Vec<String>,
        /// These paths only.
        path: Option<PathPattern>,
    },
    /// gRPC calls.
    Rpc {
        /// The service, such as `shop.Orders`.
        service: String,
        /// The method; all if absent.
        method: Option<String>,
    },
}

/// Why words do not make a grant. The fault is whoever wrote them.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GrantError {
    /// Not a name, `gateway/<name>`, `role/<name>`, `workload/<path>`, SPIFFE id or `@anonymous`.
    #[error("{text:?} is no caller: {reason}")]
    Caller {
        /// What was written.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Not a path that any request has.
    #[error("{text:?} is no pattern of paths: {reason}")]
    Path {
        /// What was written.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Not a method.
    #[error("{0:?} is no HTTP method")]
    Method(String),
    /// Not `package.Service/Method`, with `*` for all methods.
    #[error("{0:?} is no gRPC method; write package.Service/Method, or package.Service/* for all of them")]
    Rpc(String),
}

/// Whether a grant's policy permits or forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// `hauberk allow`
    Allow,
    /// `hauberk deny`
    Deny,
}

impl GrantCaller {
    /// Reads a caller as command lines write it.
    ///
    /// # Errors
    /// The text is none of the forms that the variants list.
    pub fn parse(text: &str, trust_domain: &TrustDomain, mesh: &Name) -> Result<Self, GrantError> {
        let bad = |reason: String| GrantError::Caller { text: text.to_owned(), reason };
        let name = |text: &str| Name::parse(text).map_err(|error| bad(error.to_string()));
        if text == "@anonymous" {
            Ok(Self::Anonymous)
        } else if text.starts_with("spiffe:") {
            let id = SpiffeId::parse(text).map_err(|error| bad(error.to_string()))?;
            Self::of(&id, trust_domain, mesh)
                .ok_or_else(|| bad("identities of admins and control planes never call services".to_owned()))
        } else if let Some(gateway) = text.strip_prefix("gateway/") {
            name(gateway).map(Self::Gateway)
        } else if let Some(role) = text.strip_prefix("role/") {
            name(role).map(Self::Role)
        } else if let Some(path) = text.strip_prefix("workload/") {
            SpiffeId::workload(trust_domain, path).map(Self::Workload).map_err(|error| bad(error.to_string()))
        } else {
            name(text).map(Self::Node)
        }
    }

    /// The caller that holds `id`, unless it never calls services.
    pub fn of(id: &SpiffeId, trust_domain: &TrustDomain, mesh: &Name) -> Option<Self> {
        let kind = principal_kind(id, trust_domain)?;
        let own = |other: &str, name: &str| if *mesh == *other { Name::parse(name).ok() } else { None };
        Some(match (kind, id.kind()) {
            (Kind::Node, IdentityKind::Node { mesh, name }) => {
                own(mesh, name).map_or_else(|| Self::Foreign(id.clone()), Self::Node)
            }
            (Kind::Node, IdentityKind::Gateway { mesh, name }) => {
                own(mesh, name).map_or_else(|| Self::Foreign(id.clone()), Self::Gateway)
            }
            _ => Self::Workload(id.clone()),
        })
    }
}

impl Access {
    /// Reads `package.Service/Method`, or `package.Service/*`.
    ///
    /// # Errors
    /// The text is neither.
    pub fn rpc(text: &str) -> Result<Self, GrantError> {
        let (service, method) = text.split_once('/').ok_or_else(|| GrantError::Rpc(text.to_owned()))?;
        let method = (method != "*").then(|| method.to_owned());
        let access = Self::Rpc { service: service.to_owned(), method };
        access.scope().map(|_| access)
    }

    /// This one method, as a request named it: the caller chose it, so that an asterisk is none for all methods.
    ///
    /// # Errors
    /// No service and method can be called so.
    pub fn exactly_rpc(service: &str, method: &str) -> Result<Self, GrantError> {
        let access = Self::Rpc { service: service.to_owned(), method: Some(method.to_owned()) };
        access.scope().map(|_| access)
    }
}

#[cfg(test)]
mod tests;
