//! Policies that a command line writes: from a few words to Cedar text, and back to the words.

use std::fmt::Write;

use hauberk_identity::{IdentityKind, Name, SpiffeId, TrustDomain};
use thiserror::Error;

use crate::names::principal_kind;
use crate::pattern::{PathPattern, quote};
use crate::vocabulary::{Action, Kind};

/// The longest name that [`Grant::name`] makes, in bytes.
const MAX_NAME_LEN: usize = 120;

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

impl Verb {
    fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }

    fn cedar(self) -> &'static str {
        match self {
            Self::Allow => "permit",
            Self::Deny => "forbid",
        }
    }
}

impl Grant {
    /// The name of the grant's policy, always the same for the same grant and another for another: such as
    /// `allow-web-to-orders`, with a few words and digits more where the grant is anything but one node's full access
    /// to one service.
    pub fn name(&self, verb: Verb) -> String {
        let callers: Vec<_> = self.callers.iter().map(GrantCaller::plain).collect();
        let target = match &self.target {
            GrantTarget::Node(node) => format!("node/{node}"),
            other => other.word(),
        };
        let mut words = format!("{} {} to {target}", verb.as_str(), callers.join(" and "));
        for word in self.details() {
            words.push(' ');
            words.push_str(&word);
        }
        let mut name = String::new();
        for char in words.chars() {
            let kept = if char.is_ascii_alphanumeric() || char == '_' || char == '.' { char } else { '-' };
            if !(kept == '-' && name.ends_with('-')) {
                name.push(kept);
            }
        }
        if self.is_plain() && name.len() <= MAX_NAME_LEN {
            return name;
        }
        let name = name.get(..name.len().min(MAX_NAME_LEN)).unwrap_or_default().trim_matches('-');
        format!("{name}-{:06x}", fnv(&words) & 0xff_ffff)
    }

    /// The grant's policy.
    ///
    /// # Errors
    /// A method or gRPC name in it is malformed.
    pub fn to_cedar(&self, verb: Verb) -> Result<String, GrantError> {
        let (action, mut conditions) = self.access.scope()?;
        let resource = match (&self.target, self.port) {
            (GrantTarget::Service(service), port) => {
                conditions.extend(port.map(|port| format!("(resource is Route && resource.port == {port} || resource is Port && resource.number == {port})")));
                format!("resource in Service::{}", quote(service.as_str()))
            }
            (GrantTarget::Node(_) | GrantTarget::Gateway(_), Some(port)) => {
                format!("resource in Port::{}", quote(&format!("{}:{port}", self.target.word())))
            }
            (GrantTarget::Node(_) | GrantTarget::Gateway(_), None) => {
                format!("resource in Node::{}", quote(&self.target.word()))
            }
        };
        let statements: Vec<String> = self
            .callers
            .iter()
            .map(|caller| {
                let principal = caller.scope();
                let mut text = format!("{}(\n  {principal},\n  {action},\n  {resource}\n)", verb.cedar());
                if !conditions.is_empty() {
                    let _ = write!(text, "\nwhen {{ {} }}", conditions.join(" && "));
                }
                text + ";\n"
            })
            .collect();
        Ok(statements.join("\n"))
    }

    /// The command that makes the grant, quoted for a POSIX shell.
    pub fn command(&self, verb: Verb) -> String {
        let callers: Vec<_> = self.callers.iter().map(GrantCaller::word).collect();
        let mut words =
            vec!["hauberk".to_owned(), verb.as_str().to_owned(), callers.join(","), self.target.word()];
        match &self.access {
            Access::All => {}
            Access::Http { methods, path } => {
                if !methods.is_empty() {
                    words.extend(["--methods".to_owned(), methods.join(",")]);
                }
                if let Some(path) = path {
                    words.extend(["--path".to_owned(), path.to_string()]);
                }
            }
            Access::Rpc { service, method } => {
                words.extend(["--rpc".to_owned(), format!("{service}/{}", method.as_deref().unwrap_or("*"))]);
            }
        }
        words.extend(self.port.into_iter().flat_map(|port| ["--port".to_owned(), port.to_string()]));
        words.iter().map(|word| shell_quote(word)).collect::<Vec<_>>().join(" ")
    }

    /// Whether the two names alone tell the grant, and where one ends and the other begins.
    fn is_plain(&self) -> bool {
        let has_to = |name: &Name| name.as_str().split('-').any(|word| word == "to");
        let is_told = match (self.callers.as_slice(), &self.target) {
            ([GrantCaller::Node(caller)], GrantTarget::Service(target)) => !has_to(caller) && !has_to(target),
            _ => false,
        };
        is_told && self.port.is_none() && self.access == Access::All
    }

    /// What makes the grant narrower than all access, in words.
    fn details(&self) -> Vec<String> {
        let mut words: Vec<String> = self.port.iter().map(ToString::to_string).collect();
        match &self.access {
            Access::All => {}
            Access::Http { methods, path } => {
                words.push(if methods.is_empty() {
                    "http".to_owned()
                } else {
                    methods.join(" ").to_lowercase()
                });
                words.extend(path.as_ref().map(ToString::to_string));
            }
            Access::Rpc { service, method } => {
                words.push(format!("{service}/{}", method.as_deref().unwrap_or("*")));
            }
        }
        words
    }
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

    /// As the command line takes it.
    fn word(&self) -> String {
        match self {
            Self::Node(name) => name.to_string(),
            Self::Gateway(name) => format!("gateway/{name}"),
            Self::Role(name) => format!("role/{name}"),
            Self::Foreign(id) | Self::Workload(id) => id.to_string(),
            Self::Anonymous => "@anonymous".to_owned(),
        }
    }

    /// The same for a policy's name.
    fn plain(&self) -> String {
        match self {
            Self::Foreign(id) | Self::Workload(id) => id.as_str().trim_start_matches("spiffe://").to_owned(),
            other => other.word(),
        }
    }

    fn scope(&self) -> String {
        match self {
            Self::Node(_) | Self::Gateway(_) | Self::Foreign(_) => {
                format!("principal == Node::{}", quote(&self.word()))
            }
            Self::Role(role) => format!("principal in Role::{}", quote(role.as_str())),
            Self::Workload(id) => format!("principal == Workload::{}", quote(id.as_str())),
            Self::Anonymous => "principal is Anonymous".to_owned(),
        }
    }
}

impl GrantTarget {
    fn word(&self) -> String {
        match self {
            Self::Service(name) | Self::Node(name) => name.to_string(),
            Self::Gateway(name) => format!("gateway/{name}"),
        }
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

    /// The scope's `action` clause, and conditions.
    fn scope(&self) -> Result<(String, Vec<String>), GrantError> {
        match self {
            Self::All => Ok(("action".to_owned(), Vec::new())),
            Self::Http { methods, path } => {
                let mut conditions = Vec::new();
                let action = methods_scope(methods, &mut conditions)?;
                conditions.extend(path.as_ref().map(|path| format!("context.path {}", path.to_cedar())));
                Ok((action, conditions))
            }
            Self::Rpc { service, method } => {
                let is_word = |text: &str, more: &str| {
                    !text.is_empty()
                        && text.chars().all(|char| char.is_ascii_alphanumeric() || more.contains(char))
                };
                if !is_word(service, "._") || !method.as_deref().is_none_or(|method| is_word(method, "_")) {
                    let method = method.as_deref().unwrap_or("*");
                    return Err(GrantError::Rpc(format!("{service}/{method}")));
                }
                let mut conditions = vec![format!("context.service == {}", quote(service))];
                conditions.extend(method.as_ref().map(|method| format!("context.rpc == {}", quote(method))));
                Ok(("action == Action::\"call\"".to_owned(), conditions))
            }
        }
    }
}

fn methods_scope(methods: &[String], conditions: &mut Vec<String>) -> Result<String, GrantError> {
    let is_token = |method: &&String| {
        !method.is_empty()
            && method.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    };
    if let Some(bad) = methods.iter().find(|method| !is_token(method)) {
        return Err(GrantError::Method(bad.clone()));
    }
    let mut actions: Vec<&str> = Vec::new();
    let mut has_other = false;
    for method in methods {
        let action = match method.as_str() {
            "upgrade" => Action::Upgrade,
            method => Action::of_method(method),
        };
        has_other |= action == Action::Other;
        if !actions.contains(&action.as_str()) {
            actions.push(action.as_str());
        }
    }
    if has_other {
        let methods: Vec<_> =
            methods.iter().filter(|method| *method != "upgrade").map(|method| quote(method)).collect();
        let mut condition = format!("[{}].contains(context.method)", methods.join(", "));
        if actions.contains(&Action::Upgrade.as_str()) {
            condition = format!("(action == Action::\"upgrade\" || {condition})");
        }
        conditions.push(condition);
    }
    let uids: Vec<_> = actions.iter().map(|action| format!("Action::{}", quote(action))).collect();
    Ok(match uids.as_slice() {
        [] => "action in Action::\"http\"".to_owned(),
        [one] => format!("action == {one}"),
        several => format!("action in [{}]", several.join(", ")),
    })
}

/// Quotes one word for a POSIX shell, if it needs it.
fn shell_quote(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:,@%+=".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// FNV-1a: stable wherever the name is made, which the standard library's hashes are not.
fn fnv(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests;
