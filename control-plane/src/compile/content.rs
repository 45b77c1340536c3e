//! The content of one view: checked as an agent will check it, then numbered and signed.

use aws_lc_rs::digest;
use bytes::Bytes;
use hauberk_identity::{Name, TrustDomain};
use hauberk_policy::{Authorization, CompileError};
use hauberk_proto::agent::v1 as wire;
use hauberk_proto::convert::{
    Body, ConvertError, Discovery, decode_view, encode_node_view, encode_service_view, features,
};
use hauberk_tls::signing::{Purpose, SigningError, ViewSigner};
use prost::Message;

use super::checked::Checked;
use super::compilation::CompiledView;
use super::fit::LARGEST;
use crate::registry::Revision;

/// Everything in a view except its number.
#[derive(Debug)]
pub(super) struct Content {
    mesh: Name,
    uid: String,
    body: Body,
    features: Vec<&'static str>,
    /// The message with (epoch, revision) (0, 0).
    unnumbered: wire::View,
    digest: [u8; 32],
}

/// A view that no agent would accept. The fault is ours, or the sum of what resources ask for.
#[derive(Debug, thiserror::Error)]
pub(super) enum ContentError {
    /// It does not read back.
    #[error("it does not read back as it was made: {0}")]
    Unreadable(#[from] ConvertError),
    /// It reads back as something else.
    #[error("it does not read back as it was made")]
    Different,
    /// Its policies cannot be enforced.
    #[error("its policies do not compile: {0}")]
    Policies(#[from] CompileError),
    /// It does not fit into a message.
    #[error("it has {0} bytes, and at most {LARGEST} can be sent")]
    TooLarge(usize),
}

impl ContentError {
    /// What to do about it.
    pub(super) fn fix(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "narrow policies that concern every node, or split the node or mesh",
            Self::Policies(_) => "correct the policy that is named, or delete it",
            Self::Unreadable(_) | Self::Different => {
                "undo the latest change of this resource; this is a fault of the control plane"
            }
        }
    }
}

impl Content {
    /// Encodes a body and checks that an agent will accept it. `uid` is the node's, or empty. `checked` is what views of this
    /// mesh were compiled to: they share statements, which need not be compiled for each of them.
    pub(super) fn new(
        trust_domain: &TrustDomain,
        mesh: &Name,
        uid: &str,
        body: Body,
        checked: &mut Checked,
    ) -> Result<Self, ContentError> {
        let features = features::needed(&body);
        let unnumbered = wire::View {
            epoch: 0,
            revision: 0,
            features: features.iter().map(|feature| (*feature).to_owned()).collect(),
            trust_domain: trust_domain.to_string(),
            mesh: mesh.to_string(),
            body: Some(match &body {
                Body::Node(node) => wire::view::Body::Node(encode_node_view(node)),
                Body::Service(service) => wire::view::Body::Service(encode_service_view(service)),
            }),
        };
        let encoded = unnumbered.encode_to_vec();
        if encoded.len() > LARGEST {
            return Err(ContentError::TooLarge(encoded.len()));
        }
        let read = decode_view(&encoded)?;
        if read.body != body {
            return Err(ContentError::Different);
        }
        if let Body::Node(node) = read.body {
            checked.compile(node.scope, &node.policies)?;
        }
        let digest = sha256(&encoded);
        Ok(Self { mesh: mesh.clone(), uid: uid.to_owned(), body, features, unnumbered, digest })
    }

    /// Whether this is what a view is to say, and whom it is for.
    pub(super) fn is(&self, uid: &str, body: &Body) -> bool {
        self.uid == uid && self.body == *body
    }

    /// What the view says.
    pub(super) fn body(&self) -> &Body {
        &self.body
    }

    /// SHA-256 of everything but the number.
    pub(super) fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The view under a number, signed.
    pub(super) fn seal(
        &self,
        epoch: u64,
        revision: Revision,
        signer: &ViewSigner,
    ) -> Result<CompiledView, SigningError> {
        let view = wire::View { epoch, revision: revision.0, ..self.unnumbered.clone() };
        let view = Bytes::from(view.encode_to_vec());
        let signature = Bytes::from(signer.sign(Purpose::View, &view)?);
        let digest = sha256(&view);
        let signed = wire::SignedView { view, signature, key_id: signer.key_id().to_owned() };
        let (mut backends, mut targets, mut audit_ports) = (Vec::new(), Vec::new(), Vec::new());
        match &self.body {
            Body::Node(node) => {
                backends.clone_from(&node.backends);
                let audited =
                    node.scope.ports.iter().filter(|port| port.authorization == Authorization::Audit);
                audit_ports.extend(audited.map(|port| port.number));
            }
            Body::Service(service) => {
                for port in &service.ports {
                    let registered =
                        port.targets.iter().filter(|target| target.discovery == Discovery::Registered);
                    targets.extend(registered.map(|target| (target.spiffe_id.clone(), port.number)));
                }
            }
        }
        Ok(CompiledView {
            revision: revision.0,
            digest,
            signed,
            features: self.features.clone(),
            mesh: self.mesh.clone(),
            uid: self.uid.clone(),
            backends,
            targets,
            audit_ports,
        })
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}
