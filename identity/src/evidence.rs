//! Selectors of evidence: what the control plane can find out about the machine that an agent runs on.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use thiserror::Error;

use crate::serial::Serial;

/// The longest value, in bytes.
const MAX_VALUE: usize = 1_024;

/// The longest name and value of a label, in bytes.
const LONGEST_LABEL_NAME: usize = 128;
const LONGEST_LABEL_VALUE: usize = 256;

/// What verifies evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attestor {
    /// `x509pop`: possession of a certificate.
    X509Pop,
    /// `kubernetes`: the token of a pod.
    Kubernetes,
    /// `aws`: the identity document of an EC2 instance.
    Aws,
    /// `join_token`: a join token with labels.
    JoinToken,
}

/// What is said of evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EvidenceKind {
    /// `x509pop:subject:cn:`: a common name of the certificate's subject.
    X509PopSubjectCn,
    /// `x509pop:san:dns:`: a DNS name of the certificate, in lower case.
    X509PopSanDns,
    /// `x509pop:san:uri:`: a URI of the certificate.
    X509PopSanUri,
    /// `x509pop:san:ip:`: an IP address of the certificate.
    X509PopSanIp,
    /// `x509pop:ca:fingerprint:`: the SHA-256 of an authority of the chain, the configured one among them.
    X509PopCaFingerprint,
    /// `x509pop:serialnumber:`: the certificate's serial number.
    X509PopSerialNumber,
    /// `k8s:ns:`: the pod's namespace.
    K8sNs,
    /// `k8s:sa:`: its service account.
    K8sSa,
    /// `k8s:pod-name:`: its name.
    K8sPodName,
    /// `k8s:pod-uid:`: its uid.
    K8sPodUid,
    /// `k8s:node-name:`: the node of the cluster that it runs on, where the cluster says so.
    K8sNodeName,
    /// `aws:account:`: the account that the instance is of.
    AwsAccount,
    /// `aws:region:`: its region.
    AwsRegion,
    /// `aws:availability-zone:`: its availability zone.
    AwsAvailabilityZone,
    /// `aws:instance-id:`: its id.
    AwsInstanceId,
    /// `aws:image-id:`: the image that it was started from.
    AwsImageId,
    /// `aws:instance-type:`: its type.
    AwsInstanceType,
    /// `join_token:label:`: a label of the token, as NAME:VALUE.
    JoinTokenLabel,
}

/// One thing that is true of evidence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EvidenceSelector {
    kind: EvidenceKind,
    value: Arc<str>,
}

/// Why a text is no [`EvidenceSelector`]. The fault is whoever wrote the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EvidenceSelectorError {
    /// It begins with nothing that is known.
    #[error("it begins with nothing that is known")]
    Kind,
    /// Nothing, too much, or what confuses a terminal.
    #[error("its value must have 1 to 1024 bytes without control characters")]
    Text,
    /// A name with other characters.
    #[error("its value is a name of letters in lower case, digits, hyphens and dots")]
    Name,
    /// Not the number of an account.
    #[error("the 12 digits of an AWS account are needed")]
    Account,
    /// A DNS name in capitals.
    #[error("a DNS name in lower case is needed")]
    Dns,
    /// Not an address in its one spelling.
    #[error("an IP address in its shortest form is needed")]
    Address,
    /// Not a digest.
    #[error("64 hexadecimal digits in lower case are needed: a SHA-256, without colons")]
    Digest,
    /// Not a serial number in its one spelling.
    #[error(
        "a serial number is needed: pairs of hexadecimal digits in lower case, without colons and leading zeros"
    )]
    Serial,
    /// Not a label.
    #[error(
        "a label is NAME:VALUE, with a name of 1 to {LONGEST_LABEL_NAME} letters, digits, dots, hyphens, underscores and slashes, \
         and a value of at most {LONGEST_LABEL_VALUE} printable ASCII characters without spaces at its ends"
    )]
    Label,
}

impl Attestor {
    /// As selectors begin with it, and records name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::X509Pop => "x509pop",
            Self::Kubernetes => "kubernetes",
            Self::Aws => "aws",
            Self::JoinToken => "join_token",
        }
    }
}

impl EvidenceKind {
    /// All kinds.
    pub const ALL: [Self; 18] = [
        Self::X509PopSubjectCn,
        Self::X509PopSanDns,
        Self::X509PopSanUri,
        Self::X509PopSanIp,
        Self::X509PopCaFingerprint,
        Self::X509PopSerialNumber,
        Self::K8sNs,
        Self::K8sSa,
        Self::K8sPodName,
        Self::K8sPodUid,
        Self::K8sNodeName,
        Self::AwsAccount,
        Self::AwsRegion,
        Self::AwsAvailabilityZone,
        Self::AwsInstanceId,
        Self::AwsImageId,
        Self::AwsInstanceType,
        Self::JoinTokenLabel,
    ];

    /// How its selectors begin.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::X509PopSubjectCn => "x509pop:subject:cn:",
            Self::X509PopSanDns => "x509pop:san:dns:",
            Self::X509PopSanUri => "x509pop:san:uri:",
            Self::X509PopSanIp => "x509pop:san:ip:",
            Self::X509PopCaFingerprint => "x509pop:ca:fingerprint:",
            Self::X509PopSerialNumber => "x509pop:serialnumber:",
            Self::K8sNs => "k8s:ns:",
            Self::K8sSa => "k8s:sa:",
            Self::K8sPodName => "k8s:pod-name:",
            Self::K8sPodUid => "k8s:pod-uid:",
            Self::K8sNodeName => "k8s:node-name:",
            Self::AwsAccount => "aws:account:",
            Self::AwsRegion => "aws:region:",
            Self::AwsAvailabilityZone => "aws:availability-zone:",
            Self::AwsInstanceId => "aws:instance-id:",
            Self::AwsImageId => "aws:image-id:",
            Self::AwsInstanceType => "aws:instance-type:",
            Self::JoinTokenLabel => "join_token:label:",
        }
    }

    /// What finds it out.
    pub fn attestor(self) -> Attestor {
        match self {
            Self::X509PopSubjectCn
            | Self::X509PopSanDns
            | Self::X509PopSanUri
            | Self::X509PopSanIp
            | Self::X509PopCaFingerprint
            | Self::X509PopSerialNumber => Attestor::X509Pop,
            Self::K8sNs | Self::K8sSa | Self::K8sPodName | Self::K8sPodUid | Self::K8sNodeName => {
                Attestor::Kubernetes
            }
            Self::AwsAccount
            | Self::AwsRegion
            | Self::AwsAvailabilityZone
            | Self::AwsInstanceId
            | Self::AwsImageId
            | Self::AwsInstanceType => Attestor::Aws,
            Self::JoinTokenLabel => Attestor::JoinToken,
        }
    }

    fn check(self, value: &str) -> Result<(), EvidenceSelectorError> {
        if value.is_empty() || value.len() > MAX_VALUE || value.chars().any(char::is_control) {
            return Err(EvidenceSelectorError::Text);
        }
        let check = |is_right: bool, error| if is_right { Ok(()) } else { Err(error) };
        match self {
            Self::X509PopSubjectCn | Self::X509PopSanUri => Ok(()),
            // RFC 1123 names, with dots for those of pods and nodes; and what AWS gives out.
            Self::K8sNs
            | Self::K8sSa
            | Self::K8sPodName
            | Self::K8sPodUid
            | Self::K8sNodeName
            | Self::AwsRegion
            | Self::AwsAvailabilityZone
            | Self::AwsInstanceId
            | Self::AwsImageId
            | Self::AwsInstanceType => {
                let is_name = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
                check(value.bytes().all(is_name), EvidenceSelectorError::Name)
            }
            Self::AwsAccount => {
                let is_account = value.len() == 12 && value.bytes().all(|byte| byte.is_ascii_digit());
                check(is_account, EvidenceSelectorError::Account)
            }
            Self::X509PopSanDns => {
                check(!value.bytes().any(|byte| byte.is_ascii_uppercase()), EvidenceSelectorError::Dns)
            }
            Self::X509PopSanIp => {
                let address = value.parse::<IpAddr>();
                check(address.is_ok_and(|ip| ip.to_string() == value), EvidenceSelectorError::Address)
            }
            Self::X509PopCaFingerprint => {
                let is_digest = value.len() == 64 && value.bytes().all(is_lower_hex);
                check(is_digest, EvidenceSelectorError::Digest)
            }
            Self::X509PopSerialNumber => {
                let serial = value.parse::<Serial>();
                check(serial.is_ok_and(|serial| serial.to_string() == value), EvidenceSelectorError::Serial)
            }
            // Names hold no colon, so that the first one ends the name.
            Self::JoinTokenLabel => {
                let is_label = value.split_once(':').is_some_and(|(name, value)| is_label(name, value));
                check(is_label, EvidenceSelectorError::Label)
            }
        }
    }
}

impl EvidenceSelector {
    /// What was found out.
    ///
    /// # Errors
    /// The value is none of its kind.
    pub fn new(kind: EvidenceKind, value: &str) -> Result<Self, EvidenceSelectorError> {
        kind.check(value)?;
        Ok(Self { kind, value: value.into() })
    }

    /// What a label of a join token says.
    ///
    /// # Errors
    /// It is no label.
    pub fn of_label(name: &str, value: &str) -> Result<Self, EvidenceSelectorError> {
        // Joined with a colon, a name that holds one would be another label's.
        if !is_label(name, value) {
            return Err(EvidenceSelectorError::Label);
        }
        Self::new(EvidenceKind::JoinTokenLabel, &format!("{name}:{value}"))
    }

    /// Parses a selector. One thing has one spelling.
    ///
    /// # Errors
    /// Says what would be right.
    pub fn parse(text: &str) -> Result<Self, EvidenceSelectorError> {
        EvidenceKind::ALL
            .into_iter()
            .find_map(|kind| Some((kind, text.strip_prefix(kind.prefix())?)))
            .ok_or(EvidenceSelectorError::Kind)
            .and_then(|(kind, value)| Self::new(kind, value))
    }

    /// What it is about.
    pub fn kind(&self) -> EvidenceKind {
        self.kind
    }
}

/// What admins write down and compare by eye: nothing that looks like something else.
fn is_label(name: &str, value: &str) -> bool {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'/');
    (1..=LONGEST_LABEL_NAME).contains(&name.len())
        && name.bytes().all(is_of_name)
        && value.len() <= LONGEST_LABEL_VALUE
        && value.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && value.trim_matches(' ') == value
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

impl fmt::Display for Attestor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for EvidenceSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.kind.prefix(), self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_has_one_spelling() {
        for (text, attestor) in [
            ("k8s:ns:shop", Attestor::Kubernetes),
            ("k8s:pod-uid:5b5e9a3c-8d0e-4e0c-9d4b-0c3f6b2a1f00", Attestor::Kubernetes),
            ("k8s:node-name:ip-10-0-0-7.eu-west-1.compute.internal", Attestor::Kubernetes),
            ("aws:account:012345678901", Attestor::Aws),
            ("aws:instance-type:t3.micro", Attestor::Aws),
        ] {
            let selector = EvidenceSelector::parse(text).unwrap();
            assert_eq!((selector.to_string().as_str(), selector.kind().attestor()), (text, attestor));
        }
        let digest = format!("x509pop:ca:fingerprint:{}", "0a".repeat(32));
        for text in [
            "x509pop:subject:cn:vm 1: the first",
            "x509pop:san:dns:vm-1.example",
            "x509pop:san:uri:spiffe://shop.example/vm/1",
            "x509pop:san:ip:10.0.0.7",
            "x509pop:san:ip:2001:db8::7",
            "x509pop:serialnumber:51318d570d44ac4a9c5da18f653ca95d",
            &digest,
        ] {
            let selector = EvidenceSelector::parse(text).unwrap();
            assert_eq!(
                (selector.to_string().as_str(), selector.kind().attestor()),
                (text, Attestor::X509Pop)
            );
        }
        for (text, error) in [
            ("k8s:ns:Shop", EvidenceSelectorError::Name),
            ("k8s:sa:", EvidenceSelectorError::Text),
            ("k8s:node-name:N1", EvidenceSelectorError::Name),
            ("aws:account:12345", EvidenceSelectorError::Account),
            ("aws:region:eu_west_1", EvidenceSelectorError::Name),
            ("", EvidenceSelectorError::Kind),
            ("unix:uid:0", EvidenceSelectorError::Kind),
            ("X509POP:subject:cn:a", EvidenceSelectorError::Kind),
            ("x509pop:subject:cn:", EvidenceSelectorError::Text),
            ("x509pop:subject:cn:a\nb", EvidenceSelectorError::Text),
            ("x509pop:san:dns:VM-1.example", EvidenceSelectorError::Dns),
            ("x509pop:san:ip:010.0.0.7", EvidenceSelectorError::Address),
            ("x509pop:san:ip:2001:db8:0:0:0:0:0:7", EvidenceSelectorError::Address),
            ("x509pop:serialnumber:51:31", EvidenceSelectorError::Serial),
            ("x509pop:ca:fingerprint:0a", EvidenceSelectorError::Digest),
        ] {
            assert_eq!(EvidenceSelector::parse(text), Err(error), "{text}");
        }
        for text in ["env:prod", "a/b.c-d_E:", "x:a:b = c", "x:\"'\\~"] {
            let text = format!("join_token:label:{text}");
            assert_eq!(EvidenceSelector::parse(&text).unwrap().to_string(), text);
        }
        for text in [
            "env",
            ":prod",
            "e v:prod",
            "env: prod",
            "env:prod ",
            "env:pr\u{f6}d",
            "env:\u{202e}x",
            "\u{443}:x",
        ] {
            let text = format!("join_token:label:{text}");
            assert_eq!(EvidenceSelector::parse(&text), Err(EvidenceSelectorError::Label), "{text}");
        }
        let capitals = digest.replace('a', "A").replace("x509pop:cA", "x509pop:ca");
        assert!(EvidenceSelector::parse(&capitals).is_err());
        let long = format!("x509pop:subject:cn:{}", "x".repeat(1_025));
        assert_eq!(EvidenceSelector::parse(&long), Err(EvidenceSelectorError::Text));
    }

    #[test]
    fn no_label_is_anothers_selector() {
        let label = EvidenceSelector::of_label;
        assert_eq!(label("a", "b:c").unwrap().to_string(), "join_token:label:a:b:c");
        assert_eq!(label("a:b", "c"), Err(EvidenceSelectorError::Label));
        assert_eq!(label("", "a:b"), Err(EvidenceSelectorError::Label));
        assert_eq!(label("a", "b\n"), Err(EvidenceSelectorError::Label));
        label(&"n".repeat(LONGEST_LABEL_NAME), &"v".repeat(LONGEST_LABEL_VALUE)).unwrap();
        assert!(label(&"n".repeat(LONGEST_LABEL_NAME + 1), "").is_err());
        assert!(label("n", &"v".repeat(LONGEST_LABEL_VALUE + 1)).is_err());
        assert_ne!(label("env", "prod"), label("env", "Prod"));
    }
}
