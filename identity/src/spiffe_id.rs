//! SPIFFE ids and trust domains, by the SPIFFE-ID standard §2.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use crate::name::{self, Name, NameError};
use crate::node_name::NodeName;

const SCHEME: &str = "spiffe://";
/// The longest id, in bytes (SPIFFE-ID §2.3).
const MAX_ID_LEN: usize = 2048;
/// The longest trust domain, in bytes (SPIFFE-ID §2.3).
const MAX_TRUST_DOMAIN_LEN: usize = 255;

/// A trust domain: 1 to 255 bytes of `[a-z0-9._-]` (SPIFFE-ID §2.1).
///
/// The standard compares trust domains without regard to case; upper case is refused here, so that one domain has
/// one spelling. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

/// Why a text is not a [`TrustDomain`]. The fault is whoever wrote the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TrustDomainError {
    /// Nothing was given.
    #[error("a trust domain must not be empty")]
    Empty,
    /// More than 255 bytes were given.
    #[error("a trust domain has at most 255 bytes, this one has {0}")]
    TooLong(usize),
    /// A character outside `[a-z0-9._-]` was given.
    #[error("a trust domain consists of a-z 0-9 . _ - and must not contain {0:?}")]
    Character(char),
}

impl TrustDomain {
    /// Parses the bare name of a trust domain, such as `example.org`.
    ///
    /// # Errors
    /// Says which rule of [`TrustDomain`] the text breaks.
    pub fn parse(text: &str) -> Result<Self, TrustDomainError> {
        check_trust_domain(text)?;
        Ok(Self(text.into()))
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trust domain's own id, `spiffe://` and its name without a path, as its authorities carry it.
    pub fn id_string(&self) -> String {
        format!("{SCHEME}{}", self.0)
    }
}

fn check_trust_domain(text: &str) -> Result<(), TrustDomainError> {
    if text.is_empty() {
        return Err(TrustDomainError::Empty);
    }
    if text.len() > MAX_TRUST_DOMAIN_LEN {
        return Err(TrustDomainError::TooLong(text.len()));
    }
    match text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-')) {
        Some(c) => Err(TrustDomainError::Character(c)),
        None => Ok(()),
    }
}

impl FromStr for TrustDomain {
    type Err = TrustDomainError;

    fn from_str(text: &str) -> Result<Self, TrustDomainError> {
        Self::parse(text)
    }
}

impl AsRef<str> for TrustDomain {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// The SPIFFE id of one workload, node, gateway, admin or control plane: a trust domain and a path.
///
/// Equal exactly when the texts are equal. Cheap to clone.
#[derive(Clone)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the path begins in `text`: at the slash after the trust domain.
    path_at: usize,
}

/// Why a text is not a [`SpiffeId`]. The fault is whoever wrote the text, or sent the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SpiffeIdError {
    /// The whole id has more than 2048 bytes.
    #[error("a SPIFFE id has at most 2048 bytes, this one has {0}")]
    TooLong(usize),
    /// It does not begin with exactly `spiffe://`.
    #[error("a SPIFFE id begins with \"spiffe://\"")]
    Scheme,
    /// What follows the scheme is not a trust domain.
    #[error(transparent)]
    TrustDomain(#[from] TrustDomainError),
    /// There is a trust domain and nothing after it.
    #[error("a SPIFFE id needs a path after its trust domain")]
    NoPath,
    /// One segment of the path is empty, dots, or holds a character that is not allowed.
    #[error("segment {number} of the path is wrong: {source}")]
    Segment {
        /// Which segment, counted from 1.
        number: usize,
        /// What is wrong with it.
        source: NameError,
    },
}

/// What an id of this product stands for, by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IdentityKind<'a> {
    /// `/mesh/<mesh>/node/<name>`: a virtual node.
    Node {
        /// The mesh.
        mesh: &'a str,
        /// The virtual node.
        name: &'a str,
    },
    /// `/mesh/<mesh>/gateway/<name>`: a virtual gateway.
    Gateway {
        /// The mesh.
        mesh: &'a str,
        /// The virtual gateway.
        name: &'a str,
    },
    /// `/workload/<path>`: a program without an agent of its own.
    Workload {
        /// Everything after `/workload/`.
        path: &'a str,
    },
    /// `/control-plane/<replica>`.
    ControlPlane {
        /// The replica.
        replica: &'a str,
    },
    /// `/admin/<name>`: a person or program that administers.
    Admin {
        /// The admin.
        name: &'a str,
    },
    /// Any other path, also a malformed one under a reserved first segment.
    Other,
}

impl SpiffeId {
    /// Parses an id that has a path. No text is normalised: what is not canonical is refused.
    ///
    /// # Errors
    /// Says which rule of the standard the text breaks.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > MAX_ID_LEN {
            return Err(SpiffeIdError::TooLong(text.len()));
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (trust_domain, path) = match rest.split_once('/') {
            Some((trust_domain, path)) => (trust_domain, Some(path)),
            None => (rest, None),
        };
        check_trust_domain(trust_domain)?;
        for (index, segment) in path.ok_or(SpiffeIdError::NoPath)?.split('/').enumerate() {
            name::check_segment(segment)
                .map_err(|source| SpiffeIdError::Segment { number: index + 1, source })?;
        }
        Ok(Self { text: text.into(), path_at: SCHEME.len() + trust_domain.len() })
    }

    /// The id of a virtual node.
    pub fn node(trust_domain: &TrustDomain, mesh: &Name, node: &Name) -> Self {
        Self::compose(trust_domain, format_args!("/mesh/{mesh}/node/{node}"))
    }

    /// The id of a virtual gateway.
    pub fn gateway(trust_domain: &TrustDomain, mesh: &Name, gateway: &Name) -> Self {
        Self::compose(trust_domain, format_args!("/mesh/{mesh}/gateway/{gateway}"))
    }

    /// The id of a program without an agent; `path` has one or more segments and no leading slash.
    ///
    /// # Errors
    /// The path is malformed or makes the id too long.
    pub fn workload(trust_domain: &TrustDomain, path: &str) -> Result<Self, SpiffeIdError> {
        Self::parse(&format!("{SCHEME}{trust_domain}/workload/{path}")).map_err(|error| match error {
            // As whoever wrote `path` counts.
            SpiffeIdError::Segment { number, source } => {
                SpiffeIdError::Segment { number: number.saturating_sub(1), source }
            }
            other => other,
        })
    }

    /// The id of one replica of the control plane.
    pub fn control_plane(trust_domain: &TrustDomain, replica: &Name) -> Self {
        Self::compose(trust_domain, format_args!("/control-plane/{replica}"))
    }

    /// The id of an admin.
    pub fn admin(trust_domain: &TrustDomain, name: &Name) -> Self {
        Self::compose(trust_domain, format_args!("/admin/{name}"))
    }

    /// Joins parts that are valid by their types and, at 255 bytes each, cannot exceed 2048 together.
    fn compose(trust_domain: &TrustDomain, path: fmt::Arguments<'_>) -> Self {
        let text = format!("{SCHEME}{trust_domain}{path}");
        Self { text: text.into(), path_at: SCHEME.len() + trust_domain.as_str().len() }
    }

    /// The whole id as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain that the id belongs to.
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(self.trust_domain_str().into())
    }

    /// Whether the id belongs to `trust_domain`.
    pub fn is_member_of(&self, trust_domain: &TrustDomain) -> bool {
        self.trust_domain_str() == trust_domain.as_str()
    }

    /// The path, with its leading slash.
    pub fn path(&self) -> &str {
        self.text.get(self.path_at..).unwrap_or_default()
    }

    /// What the id stands for.
    pub fn kind(&self) -> IdentityKind<'_> {
        let path = self.path().strip_prefix('/').unwrap_or_default();
        if let Some(path) = path.strip_prefix("workload/") {
            return IdentityKind::Workload { path };
        }
        let mut segments = path.split('/');
        let parts = (segments.next(), segments.next(), segments.next(), segments.next(), segments.next());
        let kind = match parts {
            (Some("mesh"), Some(mesh), Some("node"), Some(name), None) => IdentityKind::Node { mesh, name },
            (Some("mesh"), Some(mesh), Some("gateway"), Some(name), None) => {
                IdentityKind::Gateway { mesh, name }
            }
            (Some("control-plane"), Some(replica), None, ..) => IdentityKind::ControlPlane { replica },
            (Some("admin"), Some(name), None, ..) => IdentityKind::Admin { name },
            _ => IdentityKind::Other,
        };
        // A segment that no resource can be named is nobody's.
        if path.split('/').all(name::fits) { kind } else { IdentityKind::Other }
    }

    /// The mesh and its virtual node or gateway, where the id names one.
    pub fn mesh_and_node(&self) -> Option<(Name, NodeName)> {
        let (mesh, node) = match self.kind() {
            IdentityKind::Node { mesh, name } => (mesh, NodeName::Node(Name::parse(name).ok()?)),
            IdentityKind::Gateway { mesh, name } => (mesh, NodeName::Gateway(Name::parse(name).ok()?)),
            _ => return None,
        };
        Some((Name::parse(mesh).ok()?, node))
    }

    fn trust_domain_str(&self) -> &str {
        self.text.get(SCHEME.len()..self.path_at).unwrap_or_default()
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        Self::parse(text)
    }
}

impl AsRef<str> for SpiffeId {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl Borrow<str> for SpiffeId {
    fn borrow(&self) -> &str {
        &self.text
    }
}

// By the text alone, so that `Borrow<str>` keeps its promise.
impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for SpiffeId {}

impl Hash for SpiffeId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.text, f)
    }
}

#[cfg(test)]
mod tests;
