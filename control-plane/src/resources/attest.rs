//! An enrollment of agents by evidence, as it is accepted.

use std::collections::BTreeSet;
use std::sync::Arc;

use hauberk_identity::{Attestor, EvidenceKind, EvidenceSelector, EvidenceSelectorError, Name};
use hauberk_proto::mesh::v1 as wire;
use hauberk_proto::mesh::v1::attest_enrollment::Evidence;
use hauberk_tls::cms::DocumentSigners;
use hauberk_tls::device::DeviceAuthorities;
use hauberk_tls::jwt::JwtKeySet;

use super::choice::{self, did_you_mean};
use super::problem::Problems;

/// The most rules of one enrollment, and selectors of one rule.
const MOST_RULES: usize = 256;
const MOST_SELECTORS: usize = 32;

/// Whom a cluster's tokens are for, unless an enrollment says otherwise.
const DEFAULT_AUDIENCE: &str = "hauberk";

/// An enrollment that is well-formed: one source of evidence, and what agents become by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttestEnrollment {
    source: EvidenceSource,
    rules: Vec<AttestRule>,
}

/// Where evidence comes from, and by what it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EvidenceSource {
    /// Certificates of machines, by these authorities.
    X509Pop(DeviceAuthorities),
    /// Tokens of a cluster's pods.
    Kubernetes(ClusterSource),
    /// Identity documents of EC2 instances, by these certificates.
    Aws(DocumentSigners),
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

/// What evidence with these properties makes of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct AttestRule {
    node: Name,
    selectors: BTreeSet<EvidenceSelector>,
}

/// Why evidence, though good, makes nothing of an agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRule {
    /// There is none to fit.
    #[error("the enrollment has no rules")]
    NoRules,
    /// Each rule demands more. Says what of the nearest is missing.
    #[error(
        "it fits no rule: for virtual node {node} (rules[{index}]) it lacks {}; it has {}",
        in_words(.missing), in_words(.has)
    )]
    Lacks {
        /// The rule that demands least of what is missing.
        index: usize,
        /// Its node.
        node: Name,
        /// What is missing.
        missing: Vec<EvidenceSelector>,
        /// What is true.
        has: Vec<EvidenceSelector>,
    },
    /// Rules of different nodes fit.
    #[error("it is ambiguous: it fits rules of virtual nodes {one} and {other}, and none is preferred")]
    Ambiguous {
        /// One.
        one: Name,
        /// Another.
        other: Name,
    },
}

impl EvidenceSource {
    /// What verifies it.
    pub fn attestor(&self) -> Attestor {
        match self {
            Self::X509Pop(_) => Attestor::X509Pop,
            Self::Kubernetes(_) => Attestor::Kubernetes,
            Self::Aws(_) => Attestor::Aws,
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

impl AttestEnrollment {
    /// Reads a spec's `attest`, and reports everything that is wrong with it.
    pub(crate) fn parse(spec: &wire::AttestEnrollment, problems: &mut Problems) -> Option<Self> {
        let before = problems.count();
        let wire::AttestEnrollment { rules, evidence } = spec;
        let source = match evidence {
            Some(Evidence::X509pop(spec)) => read_x509pop(spec, problems),
            Some(Evidence::Kubernetes(spec)) => read_cluster(spec, problems).map(EvidenceSource::Kubernetes),
            Some(Evidence::Aws(spec)) => read_aws(spec, problems),
            None => {
                let help = "write x509pop: {ca: …}, kubernetes: {…} or aws: {certificates: …}";
                problems.invalid_but("spec.attest", "what agents show is missing", help);
                None
            }
        };
        let attestor = evidence.as_ref().map(|evidence| match evidence {
            Evidence::X509pop(_) => Attestor::X509Pop,
            Evidence::Kubernetes(_) => Attestor::Kubernetes,
            Evidence::Aws(_) => Attestor::Aws,
        });
        if rules.is_empty() {
            let help = "write rules: [{virtualNode: …, selectors: […]}]";
            problems.invalid_but("spec.attest.rules", "what agents become is missing", help);
        }
        if rules.len() > MOST_RULES {
            problems
                .invalid("spec.attest.rules", format!("{} are too many: at most {MOST_RULES}", rules.len()));
        }
        let read = rules.iter().take(MOST_RULES).enumerate();
        let rules: Vec<_> =
            read.filter_map(|(index, rule)| read_rule(index, rule, attestor, problems)).collect();
        if problems.count() == before {
            check_overlaps(&rules, problems);
        }
        let enrollment = Self { source: source?, rules };
        (problems.count() == before).then_some(enrollment)
    }

    /// What evidence is verified by.
    pub fn source(&self) -> &EvidenceSource {
        &self.source
    }

    /// The virtual nodes that agents may become.
    pub fn nodes(&self) -> impl Iterator<Item = &Name> {
        self.rules.iter().map(|rule| &rule.node)
    }

    /// What agents become whose evidence has these properties.
    ///
    /// # Errors
    /// No rule fits, or rules of different nodes do.
    pub fn node_of(&self, found: &BTreeSet<EvidenceSelector>) -> Result<&Name, NoRule> {
        let mut fitting = self.rules.iter().filter(|rule| rule.selectors.is_subset(found));
        if let Some(first) = fitting.next() {
            return match fitting.find(|other| other.node != first.node) {
                None => Ok(&first.node),
                Some(other) => Err(NoRule::Ambiguous { one: first.node.clone(), other: other.node.clone() }),
            };
        }
        let missing = |rule: &AttestRule| rule.selectors.difference(found).cloned().collect::<Vec<_>>();
        let nearest = self.rules.iter().enumerate().min_by_key(|(_, rule)| missing(rule).len());
        let (index, rule) = nearest.ok_or(NoRule::NoRules)?;
        let has = found.iter().cloned().collect();
        Err(NoRule::Lacks { index, node: rule.node.clone(), missing: missing(rule), has })
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

fn read_rule(
    index: usize,
    rule: &wire::AttestRule,
    attestor: Option<Attestor>,
    problems: &mut Problems,
) -> Option<AttestRule> {
    let wire::AttestRule { virtual_node, selectors } = rule;
    let field = format!("spec.attest.rules[{index}]");
    let node = choice::name(problems, &format!("{field}.virtualNode"), virtual_node);
    let selectors = read_selectors(&format!("{field}.selectors"), selectors, attestor, problems);
    check_whose(&format!("{field}.selectors"), &selectors, problems);
    Some(AttestRule { node: node?, selectors })
}

/// A cloud vouches for the instances of all its customers, and a cluster for the pods of all who use it: a rule must say of
/// whose it speaks.
fn check_whose(field: &str, selectors: &BTreeSet<EvidenceSelector>, problems: &mut Problems) {
    use EvidenceKind::{AwsAccount, AwsInstanceId, K8sNs, K8sPodName, K8sPodUid, K8sSa};
    let has = |kinds: &[EvidenceKind]| selectors.iter().any(|selector| kinds.contains(&selector.kind()));
    let is_aws = selectors.iter().any(|selector| selector.kind().attestor() == Attestor::Aws);
    if is_aws && !has(&[AwsAccount, AwsInstanceId]) {
        let help = "add aws:account: or aws:instance-id:";
        problems.invalid_but(field, "instances of every customer of the cloud would fit", help);
    }
    if has(&[K8sSa, K8sPodName]) && !has(&[K8sNs, K8sPodUid]) {
        problems.invalid_but(field, "pods of every namespace of the cluster would fit", "add k8s:ns:");
    }
}

fn read_selectors(
    field: &str,
    texts: &[String],
    attestor: Option<Attestor>,
    problems: &mut Problems,
) -> BTreeSet<EvidenceSelector> {
    let known =
        || EvidenceKind::ALL.into_iter().filter(|kind| attestor.is_none_or(|own| own == kind.attestor()));
    let prefixes = || known().map(EvidenceKind::prefix);
    let all = || prefixes().collect::<Vec<_>>().join(", ");
    if texts.is_empty() {
        let help = format!("write at least one; they begin with {}", all());
        problems.invalid_but(field, "without selectors whoever has any such evidence would become it", help);
    }
    if texts.len() > MOST_SELECTORS {
        problems.invalid(field, format!("{} are too many: at most {MOST_SELECTORS}", texts.len()));
    }
    let mut selectors = BTreeSet::new();
    for (index, text) in texts.iter().enumerate() {
        let field = format!("{field}[{index}]");
        match EvidenceSelector::parse(text) {
            Ok(selector) if attestor.is_some_and(|own| own != selector.kind().attestor()) => {
                let message = format!("{text:?} is never true of this evidence");
                problems.invalid_but(field, message, format!("selectors here begin with {}", all()));
            }
            Ok(selector) => {
                if !selectors.insert(selector) {
                    problems.invalid(field, format!("{text} stands there twice"));
                }
            }
            Err(EvidenceSelectorError::Kind) => {
                let kind = text.rsplit_once(':').map_or(text.as_str(), |(kind, _)| kind);
                let help = did_you_mean(&format!("{kind}:"), prefixes());
                let help = help.unwrap_or_else(|| format!("it begins with one of {}", all()));
                problems.invalid_but(field, format!("{text:?} is no selector that is known"), help);
            }
            Err(error) => problems.invalid(field, format!("{text:?}: {error}")),
        }
    }
    selectors
}

/// Of two rules for different nodes, one must not fit wherever the other does: such evidence would always be ambiguous.
fn check_overlaps(rules: &[AttestRule], problems: &mut Problems) {
    for (index, rule) in rules.iter().enumerate() {
        let swallows =
            |other: &&AttestRule| other.node != rule.node && other.selectors.is_subset(&rule.selectors);
        if let Some((other, wider)) =
            rules.iter().enumerate().find(|(at, other)| *at != index && swallows(other))
        {
            let message = format!(
                "whatever fits it fits rules[{other}] too, which is virtual node {}: such evidence is ambiguous, and refused",
                wider.node
            );
            let help = format!("give rules[{other}] a selector that sets it apart");
            problems.invalid_but(format!("spec.attest.rules[{index}].selectors"), message, help);
        }
    }
}

fn in_words(selectors: &[EvidenceSelector]) -> String {
    if selectors.is_empty() {
        return "nothing".to_owned();
    }
    selectors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
