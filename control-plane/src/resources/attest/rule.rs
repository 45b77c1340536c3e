//! What evidence makes of an agent, by one rule of an enrollment.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use hauberk_identity::{Attestor, EvidenceKind, EvidenceSelector, EvidenceSelectorError, NodeName};
use hauberk_proto::convert::WrittenNode;
use hauberk_proto::mesh::v1 as wire;

use crate::resources::choice::{self, did_you_mean};
use crate::resources::problem::Problems;
use crate::resources::svid_terms;

/// The most selectors of one rule.
pub(super) const MOST_SELECTORS: usize = 32;

/// What evidence with these properties makes of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AttestRule {
    pub(super) selectors: BTreeSet<EvidenceSelector>,
    pub(super) makes: Makes,
}

/// What becomes of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Makes {
    /// The virtual node or gateway.
    pub node: NodeName,
    /// The life of its certificates; `None`: as agents' are.
    pub ttl: Option<Duration>,
    /// DNS names in its certificates.
    pub dns_names: BTreeSet<String>,
}

/// Why evidence, though good, makes nothing of an agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRule {
    /// There is none to fit.
    #[error("the enrollment has no rules")]
    NoRules,
    /// Each rule demands more. Says what of the nearest is missing.
    #[error(
        "it fits no rule: for {} (rules[{index}]) it lacks {}; it has {}",
        .node.in_words(), in_words(.missing), in_words(.has)
    )]
    Lacks {
        /// The nearest rule: something of it is true, if that is so of any, and it demands least of what is missing.
        index: usize,
        /// Its node.
        node: NodeName,
        /// What is missing.
        missing: Vec<EvidenceSelector>,
        /// What is true.
        has: Vec<EvidenceSelector>,
    },
    /// Rules of different nodes fit.
    #[error(
        "it is ambiguous: it fits rules of {} and {}, and none is preferred", .one.in_words(), .other.in_words()
    )]
    Ambiguous {
        /// One.
        one: NodeName,
        /// Another.
        other: NodeName,
    },
    /// Rules of one node fit that do not say the same of it.
    #[error(
        "it is ambiguous: it fits rules[{one}] and rules[{other}], both of {}, which differ in x509Ttl or \
         dnsNames, and none is preferred",
        .node.in_words()
    )]
    Differ {
        /// The node.
        node: NodeName,
        /// One rule.
        one: usize,
        /// Another.
        other: usize,
    },
}

impl NoRule {
    /// How much of the text, in bytes, an admin has written.
    pub fn of_rule(&self) -> usize {
        match self {
            Self::Lacks { missing, .. } => in_words(missing).len(),
            Self::NoRules | Self::Ambiguous { .. } | Self::Differ { .. } => 0,
        }
    }
}

/// What agents become whose evidence has these properties.
///
/// # Errors
/// No rule fits, or rules that do not say the same.
pub(super) fn judge<'a>(
    rules: &'a [AttestRule],
    found: &BTreeSet<EvidenceSelector>,
) -> Result<&'a Makes, NoRule> {
    let mut fitting = rules.iter().enumerate().filter(|(_, rule)| rule.selectors.is_subset(found));
    if let Some((one, AttestRule { makes, .. })) = fitting.next() {
        let mut others = fitting.filter(|(_, rule)| rule.makes != *makes);
        return match others.next() {
            None => Ok(makes),
            Some((_, rule)) if rule.makes.node != makes.node => {
                Err(NoRule::Ambiguous { one: makes.node.clone(), other: rule.makes.node.clone() })
            }
            Some((other, _)) => Err(NoRule::Differ { node: makes.node.clone(), one, other }),
        };
    }
    let missing = |rule: &AttestRule| rule.selectors.difference(found).cloned().collect::<Vec<_>>();
    // One of which something is true comes before all of which nothing is: those are about other evidence, however little they ask
    // for. Of equals the first stays.
    let distance = |rule: &AttestRule| {
        let missing = missing(rule).len();
        let held = rule.selectors.len() - missing;
        (held == 0, missing, Reverse(held))
    };
    let nearest = rules.iter().enumerate().min_by_key(|(_, rule)| distance(rule));
    let (index, rule) = nearest.ok_or(NoRule::NoRules)?;
    let has = found.iter().cloned().collect();
    Err(NoRule::Lacks { index, node: rule.makes.node.clone(), missing: missing(rule), has })
}

/// Reads one rule, and reports everything that is wrong with it.
pub(super) fn read(
    index: usize,
    rule: &wire::AttestRule,
    attestor: Option<Attestor>,
    problems: &mut Problems,
) -> Option<AttestRule> {
    let wire::AttestRule { node: _, selectors, x509_ttl, dns_names } = rule;
    let field = format!("spec.attest.rules[{index}]");
    let node = choice::node(problems, &field, WrittenNode::of_rule(rule));
    let selectors = read_selectors(&format!("{field}.selectors"), selectors, attestor, problems);
    check_whose(&format!("{field}.selectors"), &selectors, problems);
    let ttl = svid_terms::read_ttl(&format!("{field}.x509Ttl"), x509_ttl.as_ref(), problems);
    svid_terms::check_dns_names(&format!("{field}.dnsNames"), dns_names, problems);
    let dns_names = dns_names.iter().cloned().collect();
    Some(AttestRule { selectors, makes: Makes { node: node?, ttl, dns_names } })
}

/// A cloud vouches for the instances of all its customers, and a cluster for the pods of all who use it: a rule must say of
/// whose it speaks.
fn check_whose(field: &str, selectors: &BTreeSet<EvidenceSelector>, problems: &mut Problems) {
    use EvidenceKind::{AwsAccount, AwsInstanceId, K8sNodeName, K8sNs, K8sPodName, K8sPodUid, K8sSa};
    let has = |kinds: &[EvidenceKind]| selectors.iter().any(|selector| kinds.contains(&selector.kind()));
    let is_aws = selectors.iter().any(|selector| selector.kind().attestor() == Attestor::Aws);
    if is_aws && !has(&[AwsAccount, AwsInstanceId]) {
        let help = "add aws:account: or aws:instance-id:";
        problems.invalid_but(field, "instances of every customer of the cloud would fit", help);
    }
    if has(&[K8sSa, K8sPodName, K8sNodeName]) && !has(&[K8sNs, K8sPodUid]) {
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

/// Of two rules that do not say the same, one must not fit wherever the other does: such evidence would always be ambiguous.
pub(super) fn check_overlaps(rules: &[AttestRule], problems: &mut Problems) {
    for (index, rule) in rules.iter().enumerate() {
        let swallows =
            |other: &AttestRule| other.makes != rule.makes && other.selectors.is_subset(&rule.selectors);
        if let Some((other, wider)) =
            rules.iter().enumerate().find(|(at, other)| *at != index && swallows(other))
        {
            let otherwise = match wider.makes.node == rule.makes.node {
                true => "says another x509Ttl or other dnsNames".to_owned(),
                false => format!("is {}", wider.makes.node.in_words()),
            };
            let message = format!(
                "whatever fits it fits rules[{other}] too, which {otherwise}: such evidence is ambiguous, and refused"
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
