//! Where an agent accepts a view.
//!
//! Two steps, in an order that must not change: [`authenticate`] tells whether the view is the control plane's, newer
//! than what is held and meant for us; if not it is discarded and the former stays. [`Authentic::prepare`] makes it
//! ready to decide by; where that fails, the control plane wants something that we cannot enforce, and inbound closes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use hauberk_identity::{Name, SpiffeId, TrustDomain};
use hauberk_policy::{CompileError, Engine};
use hauberk_proto::agent::v1 as pb;
use hauberk_proto::convert::{self, Body, ConvertError, FederatedBundle, ServiceView, features};
use hauberk_tls::signing::{Purpose, SignatureError, ViewVerifier};
use hauberk_tls::{FederatedBundles, SpiffeBundle};
use prost::Message;
use thiserror::Error;

use crate::credentials::{CredentialsError, mesh_of};
use crate::mesh::{ClosedReason, External, NodeView, Port};
use crate::state::Mark;
use crate::users::Users;

/// Whom views must be for.
#[derive(Debug, Clone)]
pub struct Recipient {
    /// Who we are.
    pub spiffe_id: SpiffeId,
    /// Our trust domain.
    pub trust_domain: TrustDomain,
    /// Our mesh.
    pub mesh: Name,
}

impl Recipient {
    /// Who we are, as views name it.
    ///
    /// # Errors
    /// The id is no node's or gateway's.
    pub fn of(id: &SpiffeId) -> Result<Self, CredentialsError> {
        Ok(Self { spiffe_id: id.clone(), trust_domain: id.trust_domain(), mesh: mesh_of(id)? })
    }
}

/// Below what a view is older than what was accepted before.
#[derive(Debug, Clone, Default)]
pub struct Floors {
    /// For our own view.
    pub node: Mark,
    /// For the views of services that are held.
    pub services: BTreeMap<Name, Mark>,
}

/// A view that is the control plane's, new enough and for us.
#[derive(Debug)]
pub struct Authentic {
    /// Its number.
    pub mark: Mark,
    /// The SHA-256 of the encoded view.
    pub digest: [u8; 32],
    /// The service that it is about; none for our own view.
    pub service: Option<Name>,
    encoded: bytes::Bytes,
}

/// A view that can be put in force.
#[derive(Debug)]
pub struct Prepared {
    /// Its number.
    pub mark: Mark,
    /// The SHA-256 of the encoded view.
    pub digest: [u8; 32],
    /// What it says.
    pub content: Content,
}

/// What a view says.
#[derive(Debug)]
pub enum Content {
    /// About ourselves.
    Node {
        /// What decides.
        view: Arc<NodeView>,
        /// Services to follow whether used or not.
        backends: Vec<Name>,
        /// How old the view may become.
        max_view_age: Option<Duration>,
    },
    /// About a service.
    Service(ServiceView),
}

/// Why a view is not accepted. [`Rejection::reason`] is the name on the wire.
#[derive(Debug, Error)]
pub enum Rejection {
    /// It is not signed by a key that we trust.
    #[error("the view is not the control plane's: {0}")]
    BadSignature(#[from] SignatureError),
    /// It is older than what was accepted before.
    #[error("the view ({offered:?}) is older than one that was accepted before ({held:?})")]
    Older {
        /// Its number.
        offered: Mark,
        /// The highest number so far.
        held: Mark,
    },
    /// It is another node's, mesh's or trust domain's.
    #[error("the view is for {0}")]
    OtherNode(String),
    /// It needs a feature that this release lacks.
    #[error(
        "the view needs the feature {0:?}, which this agent lacks: update it; until then it denies every call"
    )]
    MissingFeature(String),
    /// It is no view.
    #[error("the view cannot be read: {0}")]
    Undecodable(#[from] prost::DecodeError),
    /// It says something impossible.
    #[error("the view says what cannot be: {0}")]
    Impossible(#[from] ConvertError),
    /// Its policies do not compile.
    #[error("the view's policies do not compile: {0}")]
    Policies(#[from] CompileError),
}

impl Rejection {
    /// The stable name.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BadSignature(_) => "bad_signature",
            Self::Older { .. } => "older",
            Self::OtherNode(_) => "other_node",
            Self::MissingFeature(_) => "missing_feature",
            Self::Undecodable(_) | Self::Impossible(_) | Self::Policies(_) => "invalid",
        }
    }

    /// Why inbound closes on a view of ours that is rejected so; none where the former view stays.
    pub fn closes(&self) -> Option<ClosedReason> {
        match self {
            Self::BadSignature(_) | Self::Older { .. } | Self::OtherNode(_) => None,
            Self::MissingFeature(_) => Some(ClosedReason::MissingFeature),
            Self::Undecodable(_) | Self::Impossible(_) | Self::Policies(_) => Some(ClosedReason::InvalidView),
        }
    }
}

/// Tells whether a view is the control plane's, new enough and for us.
///
/// # Errors
/// It is not, or it is signed and no view at all.
pub fn authenticate(
    signed: &pb::SignedView,
    keys: &ViewVerifier,
    recipient: &Recipient,
    floors: &Floors,
) -> Result<Authentic, Rejection> {
    let pb::SignedView { view: encoded, signature, key_id } = signed;
    keys.verify(Purpose::View, key_id, encoded, signature)?;
    let view = pb::View::decode(&**encoded)?;
    let mark = Mark { epoch: view.epoch, revision: view.revision };
    let Recipient { spiffe_id, trust_domain, mesh } = recipient;
    if view.trust_domain != trust_domain.as_str() || view.mesh != mesh.as_str() {
        return Err(Rejection::OtherNode(format!("mesh {} of {}", view.mesh, view.trust_domain)));
    }
    let (service, held) = match &view.body {
        Some(pb::view::Body::Node(node)) if node.spiffe_id != spiffe_id.as_str() => {
            return Err(Rejection::OtherNode(node.spiffe_id.clone()));
        }
        Some(pb::view::Body::Service(service)) => {
            let name = Name::parse(&service.name).ok();
            let held = name.as_ref().and_then(|name| floors.services.get(name)).copied();
            (name, held.unwrap_or_default())
        }
        // A body of an unknown kind counts as ours: it closes rather than being passed over.
        Some(pb::view::Body::Node(_)) | None => (None, floors.node),
    };
    if mark < held {
        return Err(Rejection::Older { offered: mark, held });
    }
    Ok(Authentic { mark, digest: sha256(encoded), service, encoded: encoded.clone() })
}

impl Authentic {
    /// Makes the view ready. Takes time in proportion to its policies that `former`, what is in force now, does not
    /// have.
    ///
    /// # Errors
    /// It cannot be enforced here.
    pub fn prepare(&self, former: Option<&NodeView>) -> Result<Prepared, Rejection> {
        // Before anything else is read: what an unknown feature changes in the meaning of the rest is unknown too.
        let header = pb::View::decode(&*self.encoded)?;
        if let Some(missing) = header.features.iter().find(|needed| !features::ALL.contains(&needed.as_str()))
        {
            return Err(Rejection::MissingFeature(missing.clone()));
        }
        let content = match convert::decode_view(&self.encoded)?.body {
            Body::Node(node) => {
                let ports = node.scope.ports.iter().map(|port| Port {
                    number: port.number,
                    protocol: port.protocol,
                    services: port.services.clone(),
                    users: port.users.clone(),
                    obs_text: port.obs_text,
                });
                let ports = ports.collect();
                // Whether it is ours was seen when it was authenticated.
                let spiffe_id =
                    node.scope.node().cloned().ok_or_else(|| Rejection::OtherNode(String::new()))?;
                let externals = External::all(*node.egress, &node.scope, former)?;
                let engine =
                    Engine::compile(node.scope, &node.policies, former.map(|former| &former.engine))?;
                let users = former.and_then(|former| former.users.as_ref());
                // One user is told to all of them: what any reads must be known.
                let engines = externals.iter().map(|external| &external.engine).chain([&engine]);
                let users = Users::of(node.issuers, &engines.flat_map(Engine::claims_read).collect(), users);
                let view = NodeView {
                    epoch: self.mark.epoch,
                    revision: self.mark.revision,
                    digest: self.digest,
                    spiffe_id,
                    ports,
                    engine,
                    federated: federated(&node.federated),
                    users,
                    externals,
                };
                Content::Node {
                    view: Arc::new(view),
                    backends: node.backends,
                    max_view_age: node.max_view_age,
                }
            }
            Body::Service(service) => Content::Service(service),
        };
        Ok(Prepared { mark: self.mark, digest: self.digest, content })
    }
}

/// The bundles of other trust domains. One that cannot be read is left out, and told: nobody of that domain is let in.
fn federated(bundles: &[FederatedBundle]) -> FederatedBundles {
    let read = |FederatedBundle { trust_domain, document }: &FederatedBundle| {
        let parsed = SpiffeBundle::parse(trust_domain, document);
        parsed
            .inspect_err(|error| {
                tracing::error!(event = "federated_bundle_refused", %trust_domain, %error, "nobody of it is let in");
            })
            .ok()
            .map(Arc::new)
    };
    bundles.iter().filter_map(read).collect()
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}
