//! What a join token is asked for, and whether there is that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use hauberk_identity::{EvidenceSelector, EvidenceSelectorError, Name, NodeName};
use serde::{Deserialize, Serialize};

use super::{TokenRecord, Uses};
use crate::enrollment::attest::{Readings, Stored};
use crate::enrollment::node::StoredNode;
use crate::random::NoRandomness;
use crate::registry::{Store, StoreError};
use crate::resources::{EvidenceSource, MOST_LABELS, NoRule};

/// How much of a label that is none is told.
const TOLD_OF_LABEL: usize = 80;

/// What a token is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// The mesh.
    pub mesh: Name,
    /// What its bearers become.
    pub of: TokenFor,
    /// Its life; ten minutes where none is given.
    pub ttl: Option<Duration>,
    /// How many agents may use it.
    pub uses: Uses,
}

/// What the bearers of a token become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenFor {
    /// This virtual node or gateway.
    Node(NodeName),
    /// What an enrollment makes of these labels.
    Enrollment {
        /// The enrollment.
        name: Name,
        /// By name.
        labels: BTreeMap<String, String>,
    },
}

/// The enrollment that says what a token's bearers become, and by what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollmentOfToken {
    /// In the token's mesh.
    pub name: String,
    /// Which enrollment of that name.
    pub uid: String,
    /// What is said of the bearers.
    pub labels: BTreeMap<String, String>,
}

impl EnrollmentOfToken {
    /// The labels as selectors.
    pub(in crate::enrollment) fn selectors(
        &self,
    ) -> impl Iterator<Item = Result<EvidenceSelector, EvidenceSelectorError>> {
        self.labels.iter().map(|(name, value)| EvidenceSelector::of_label(name, value))
    }
}

/// `env=prod, zone=a`.
impl fmt::Display for EnrollmentOfToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.labels.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{name}={value}")?;
        }
        Ok(())
    }
}

/// A token that is not made or not taken back.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The caller asked for an impossible life.
    #[error("a token lives at least 1s and at most 24h")]
    BadTtl,
    /// The caller asked for no uses.
    #[error("a token is used at least once")]
    NoUses,
    /// The caller named a node that does not exist.
    #[error("mesh {mesh} has no {}: apply it first", .node.in_words())]
    NoSuchNode {
        /// The mesh.
        mesh: Name,
        /// The node.
        node: NodeName,
    },
    /// The caller gave something that is no label.
    #[error("{label:?}: {source}")]
    BadLabel {
        /// Name and value, as far as they are printed.
        label: String,
        /// What would be right.
        source: EvidenceSelectorError,
    },
    /// The caller gave more labels than rules can ask for.
    #[error("{0} labels are too many: at most {MOST_LABELS}")]
    TooManyLabels(usize),
    /// The caller gave no label.
    #[error("an enrollment's rules ask for labels, and none is given")]
    NoLabels,
    /// The caller named an enrollment that does not exist, or takes no tokens.
    #[error(
        "mesh {mesh} has no enrollment {name} of agents by join tokens: apply one with attest: {{joinToken: {{}}}} first"
    )]
    NoSuchEnrollment {
        /// The mesh.
        mesh: String,
        /// The enrollment.
        name: String,
    },
    /// The caller gave labels of which the enrollment makes nothing, as it is now.
    #[error("enrollment {name} makes nothing of a token with these labels: {why}")]
    NoRule {
        /// The enrollment.
        name: String,
        /// Why not.
        why: NoRule,
    },
    /// The caller named a token that does not exist.
    #[error("there is no token {0}")]
    NoSuchToken(String),
    /// The registry failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No secret can be made.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// What a new token is for.
pub(super) struct Destination {
    /// What its bearers become, as things are now.
    pub(super) node: NodeName,
    /// Which node, where the token is bound to it.
    pub(super) node_uid: Option<String>,
    pub(super) enrollment: Option<EnrollmentOfToken>,
    /// The registry's key of what must still be there when the token is written.
    pub(super) key: String,
}

impl Destination {
    /// # Errors
    /// There is no such thing, or the enrollment makes nothing of such labels.
    pub(super) async fn of(store: &dyn Store, mesh: &Name, of: TokenFor) -> Result<Self, TokenError> {
        let (name, labels) = match of {
            TokenFor::Enrollment { name, labels } => (name, labels),
            TokenFor::Node(node) => {
                let Some(StoredNode { uid, key, .. }) = StoredNode::read(store, mesh, &node).await? else {
                    return Err(TokenError::NoSuchNode { mesh: mesh.clone(), node });
                };
                return Ok(Self { node, node_uid: Some(uid), enrollment: None, key });
            }
        };
        let selectors = read_labels(&labels)?;
        let name = name.to_string();
        let stored = Readings::default().get(store, mesh.as_str(), &name).await?;
        let Some(Stored { key, uid, enrollment, .. }) =
            stored.filter(|stored| *stored.enrollment.source() == EvidenceSource::JoinToken)
        else {
            return Err(TokenError::NoSuchEnrollment { mesh: mesh.to_string(), name });
        };
        let makes = match enrollment.makes(&selectors) {
            Ok(makes) => makes,
            Err(why) => return Err(TokenError::NoRule { name, why }),
        };
        let node = makes.node.clone();
        Ok(Self { node, node_uid: None, enrollment: Some(EnrollmentOfToken { name, uid, labels }), key })
    }
}

impl TokenRecord {
    /// What it was for is there no longer.
    pub(super) fn gone(self, mesh: Name, node: NodeName) -> TokenError {
        match self.enrollment {
            Some(of) => TokenError::NoSuchEnrollment { mesh: self.mesh, name: of.name },
            None => TokenError::NoSuchNode { mesh, node },
        }
    }
}

fn read_labels(labels: &BTreeMap<String, String>) -> Result<BTreeSet<EvidenceSelector>, TokenError> {
    if labels.is_empty() {
        return Err(TokenError::NoLabels);
    }
    if labels.len() > MOST_LABELS {
        return Err(TokenError::TooManyLabels(labels.len()));
    }
    let read = labels.iter().map(|(name, value)| {
        let label = || format!("{name}={value}").chars().take(TOLD_OF_LABEL).collect();
        EvidenceSelector::of_label(name, value)
            .map_err(|source| TokenError::BadLabel { label: label(), source })
    });
    read.collect()
}
