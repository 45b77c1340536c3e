//! Where evidence comes from, and by what it is verified.

use std::sync::Arc;

use hauberk_identity::{Attestor, Name};
use hauberk_proto::mesh::v1 as wire;
use hauberk_proto::mesh::v1::attest_enrollment::Evidence;
use hauberk_tls::cms::DocumentSigners;
use hauberk_tls::device::DeviceAuthorities;
use hauberk_tls::jwt::JwtKeySet;

use crate::resources::choice;
use crate::resources::problem::Problems;

/// Whom a cluster's tokens are for, unless an enrollment says otherwise.
const DEFAULT_AUDIENCE: &str = "hauberk";

/// Where evidence comes from, and by what it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EvidenceSource {
    /// Certificates of machines, by these authorities.
    X509Pop(DeviceAuthorities),
    /// Tokens of a cluster's pods.
    Kubernetes(ClusterSource),
    /// Identity documents of EC2 instances, by these certificates.
    Aws(DocumentSigners),
    /// Join tokens that were made for it.
    JoinToken,
}

/// A Kubernetes cluster whose pods are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSource {
    audience: String,
    verifier: TokenVerifier,
}

/// What verifies the tokens of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenVerifier {
    /// Its keys.
    Keys {
        /// Whom tokens must be issued by.
        issuer: String,
        /// What they are signed by.
        keys: Arc<JwtKeySet>,
    },
    /// The cluster itself.
    Review {
        /// Which of those that the control plane can ask.
        cluster: Name,
    },
}

impl EvidenceSource {
    /// What verifies it.
    pub fn attestor(&self) -> Attestor {
        match self {
            Self::X509Pop(_) => Attestor::X509Pop,
            Self::Kubernetes(_) => Attestor::Kubernetes,
            Self::Aws(_) => Attestor::Aws,
            Self::JoinToken => Attestor::JoinToken,
        }
    }
}

impl ClusterSource {
    /// Whom tokens must be for.
    pub fn audience(&self) -> &str {
        &self.audience
    }

    /// What verifies them.
    pub fn verifier(&self) -> &TokenVerifier {
        &self.verifier
    }
}

/// Reads what an enrollment believes, and reports everything that is wrong with it.
pub(super) fn read(evidence: Option<&Evidence>, problems: &mut Problems) -> Option<EvidenceSource> {
    match evidence {
        Some(Evidence::X509pop(spec)) => read_x509pop(spec, problems),
        Some(Evidence::Kubernetes(spec)) => read_cluster(spec, problems).map(EvidenceSource::Kubernetes),
        Some(Evidence::Aws(spec)) => read_aws(spec, problems),
        Some(Evidence::JoinToken(wire::JoinTokenEvidence {})) => Some(EvidenceSource::JoinToken),
        None => {
            let help = "write x509pop: {ca: …}, kubernetes: {…}, aws: {certificates: …} or joinToken: {}";
            problems.invalid_but("spec.attest", "what agents show is missing", help);
            None
        }
    }
}

/// What verifies it, also where it cannot be read.
pub(super) fn attestor(evidence: &Evidence) -> Attestor {
    match evidence {
        Evidence::X509pop(_) => Attestor::X509Pop,
        Evidence::Kubernetes(_) => Attestor::Kubernetes,
        Evidence::Aws(_) => Attestor::Aws,
        Evidence::JoinToken(_) => Attestor::JoinToken,
    }
}

fn read_x509pop(spec: &wire::X509PopEvidence, problems: &mut Problems) -> Option<EvidenceSource> {
    let wire::X509PopEvidence { ca } = spec;
    match DeviceAuthorities::from_pem(ca) {
        Ok(authorities) => Some(EvidenceSource::X509Pop(authorities)),
        Err(error) => {
            let help = "write the authorities' certificates in PEM, one after the other";
            problems.invalid_but("spec.attest.x509pop.ca", error, help);
            None
        }
    }
}

fn read_aws(spec: &wire::AwsEvidence, problems: &mut Problems) -> Option<EvidenceSource> {
    let wire::AwsEvidence { certificates } = spec;
    match DocumentSigners::from_pem(certificates) {
        Ok(signers) => Some(EvidenceSource::Aws(signers)),
        Err(error) => {
            let help = "write the regions' certificates for RSA-2048 signatures in PEM, one after the other";
            problems.invalid_but("spec.attest.aws.certificates", error, help);
            None
        }
    }
}

fn read_cluster(spec: &wire::KubernetesEvidence, problems: &mut Problems) -> Option<ClusterSource> {
    let wire::KubernetesEvidence { audience, issuer, jwks, token_review } = spec;
    let field = "spec.attest.kubernetes";
    let audience = audience.clone().unwrap_or_else(|| DEFAULT_AUDIENCE.to_owned());
    if audience.is_empty() {
        problems.invalid_but(format!("{field}.audience"), "it is empty", "leave it out for hauberk");
    }
    let verifier = match (jwks.is_empty(), token_review.is_empty()) {
        (false, true) => {
            if issuer.is_empty() {
                let help = "write what `kubectl get --raw /.well-known/openid-configuration` says";
                problems.invalid_but(format!("{field}.issuer"), "it is missing", help);
            }
            match JwtKeySet::from_jwks(jwks.as_bytes()) {
                Ok(keys) if keys.keys().next().is_some() => {
                    Some(TokenVerifier::Keys { issuer: issuer.clone(), keys: Arc::new(keys) })
                }
                Ok(_) => {
                    problems.invalid(format!("{field}.jwks"), "it holds no key that verifies tokens");
                    None
                }
                Err(error) => {
                    let help = "write what `kubectl get --raw /openid/v1/jwks` prints";
                    problems.invalid_but(format!("{field}.jwks"), error, help);
                    None
                }
            }
        }
        (true, false) => {
            if !issuer.is_empty() {
                let message = "it is of no use with tokenReview: the cluster knows its own tokens";
                problems.invalid(format!("{field}.issuer"), message);
            }
            let cluster = choice::name(problems, &format!("{field}.tokenReview"), token_review);
            cluster.map(|cluster| TokenVerifier::Review { cluster })
        }
        (both_missing, _) => {
            let message = if both_missing {
                "what verifies its tokens is missing"
            } else {
                "its tokens are verified either by jwks or by tokenReview"
            };
            problems.invalid_but(field, message, "write issuer and jwks, or tokenReview");
            None
        }
    };
    Some(ClusterSource { audience, verifier: verifier? })
}
