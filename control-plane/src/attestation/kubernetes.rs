//! `kubernetes`: the token of a pod's service account, verified by the cluster's keys or by asking the cluster.

use std::collections::BTreeSet;

use hauberk_identity::{Attestor, EvidenceKind, EvidenceSelector, UnixMillis};
use hauberk_tls::Fingerprint;
use hauberk_tls::jwt::{JwtKeySet, MAX_TOKEN_BYTES, check_before_asking, verify_issued_token};
use serde_json::{Map, Value};

use super::token_review::TokenReviewers;
use super::{Attested, EvidenceError, Occasion};
use crate::resources::{ClusterSource, TokenVerifier};

/// How service accounts are called among a cluster's users.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// A pod, as its cluster vouches for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) service_account: String,
    pub(super) name: String,
    pub(super) uid: String,
    /// What it runs on. Clusters before 1.30 do not say.
    pub(super) node: Option<String>,
}

pub(super) async fn verify(
    token: &str,
    source: &ClusterSource,
    reviewers: &TokenReviewers,
    occasion: Occasion<'_>,
) -> Result<Attested, EvidenceError> {
    let Occasion { now, network, .. } = occasion;
    if token.len() > MAX_TOKEN_BYTES {
        return Err(EvidenceError::TokenTooLong(token.len()));
    }
    match source.verifier() {
        TokenVerifier::Keys { issuer, keys } => {
            let (pod, key) = by_keys(token, issuer, source.audience(), keys, now)?;
            pod.attested(by_key(issuer, key))
        }
        TokenVerifier::Review { cluster } => {
            // What the cluster could not vouch for, it is not asked about: strangers may show anything.
            check_before_asking(token, source.audience(), now)?;
            let user = reviewers.ask(cluster, token, source.audience(), (network, now)).await?;
            Pod::of_user(&user).ok_or(EvidenceError::NoPod)?.attested(by_cluster(cluster))
        }
    }
}

/// Whether `voucher` still vouches for a cluster's pods: many clusters call their issuer the same, so the key counts too.
pub(super) fn is_voucher(source: &ClusterSource, voucher: &str) -> bool {
    match source.verifier() {
        TokenVerifier::Keys { issuer, keys } => {
            keys.keys().any(|key| by_key(issuer, key.fingerprint()) == voucher)
        }
        TokenVerifier::Review { cluster } => by_cluster(cluster) == voucher,
    }
}

fn by_key(issuer: &str, key: Fingerprint) -> String {
    format!("issuer {issuer}, key {key}")
}

fn by_cluster(cluster: impl std::fmt::Display) -> String {
    format!("cluster {cluster}")
}

fn by_keys(
    token: &str,
    issuer: &str,
    audience: &str,
    keys: &JwtKeySet,
    now: UnixMillis,
) -> Result<(Pod, Fingerprint), EvidenceError> {
    let (claims, key) = verify_issued_token(token, issuer, audience, keys, now)?;
    Ok((Pod::of_claims(&claims).ok_or(EvidenceError::NoPod)?, key))
}

impl Pod {
    /// From a token's own claims. Tokens that are bound to no pod outlive what they were made for, and count for nothing.
    fn of_claims(claims: &Map<String, Value>) -> Option<Self> {
        let bound = claims.get("kubernetes.io")?;
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let of = |what: &str, member: &str| text(bound.get(what)?.get(member));
        let pod = Self {
            namespace: text(bound.get("namespace"))?,
            service_account: of("serviceaccount", "name")?,
            name: of("pod", "name")?,
            uid: of("pod", "uid")?,
            node: of("node", "name"),
        };
        // It says the same twice, or is none of ours to interpret.
        let user = format!("{SERVICE_ACCOUNT}{}:{}", pod.namespace, pod.service_account);
        (claims.get("sub").and_then(Value::as_str) == Some(user.as_str())).then_some(pod)
    }

    /// From what a cluster says of a token's user (`status.user` of a TokenReview).
    pub(super) fn of_user(user: &Value) -> Option<Self> {
        let account = user.get("username")?.as_str()?.strip_prefix(SERVICE_ACCOUNT)?;
        let (namespace, service_account) = account.split_once(':')?;
        let extra = |name: &str| match user.get("extra")?.get(name)?.as_array()?.as_slice() {
            [Value::String(one)] => Some(one.clone()),
            _ => None,
        };
        Some(Self {
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            name: extra("authentication.kubernetes.io/pod-name")?,
            uid: extra("authentication.kubernetes.io/pod-uid")?,
            node: extra("authentication.kubernetes.io/node-name"),
        })
    }

    fn attested(self, voucher: String) -> Result<Attested, EvidenceError> {
        let Self { namespace, service_account, name, uid, node } = self;
        let node = node.map(|node| EvidenceSelector::new(EvidenceKind::K8sNodeName, &node));
        let said = [
            EvidenceSelector::new(EvidenceKind::K8sNs, &namespace),
            EvidenceSelector::new(EvidenceKind::K8sSa, &service_account),
            EvidenceSelector::new(EvidenceKind::K8sPodName, &name),
            EvidenceSelector::new(EvidenceKind::K8sPodUid, &uid),
        ];
        let selectors: Result<BTreeSet<_>, _> = said.into_iter().chain(node).collect();
        Ok(Attested {
            attestor: Attestor::Kubernetes,
            subject: format!("pod {uid}"),
            selectors: selectors.map_err(|_| EvidenceError::NoPod)?,
            voucher,
        })
    }
}
