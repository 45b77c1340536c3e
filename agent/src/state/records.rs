//! What the files of the state directory hold.

use std::collections::HashSet;
use std::time::Duration;

use hauberk_identity::{InstanceId, Serial, SerialError, TrustDomain, UnixMillis};
use hauberk_proto::agent::v1 as pb;
use hauberk_tls::signing::ViewVerifier;
use hauberk_tls::{CertificateDer, Fingerprint, KeyPair, Svid, TrustBundle};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::token::{NoDigest, TokenDigest};

/// Key and certificate, which are of no use without each other.
#[derive(Debug)]
pub struct StoredIdentity {
    /// Our instance among those of the node.
    pub instance: InstanceId,
    /// When the certificate was issued.
    pub issued_at: UnixMillis,
    /// By which token we joined, if it was by one and by a release that looked at it.
    pub used_token: Option<TokenDigest>,
    /// The certificate and its chain.
    pub svid: Svid,
    /// Its key.
    pub key: KeyPair,
}

/// What to trust: roots, and the keys that sign views. Holds only what parses.
#[derive(Debug)]
pub struct StoredTrust {
    message: pb::Trust,
    former: HashSet<Serial>,
    /// The roots.
    pub bundle: TrustBundle,
    /// The keys that sign views.
    pub view_keys: ViewVerifier,
}

/// How far an agent has come: views below are never accepted again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mark {
    /// The control plane's epoch.
    pub epoch: u64,
    /// The revision within the epoch.
    pub revision: u64,
}

#[derive(Serialize)]
struct IdentityText<'a> {
    instance: &'a str,
    issued_at_unix_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    used_token: Option<String>,
    chain_pem: String,
    key_pem: &'a str,
}

#[derive(Deserialize)]
struct IdentityTextOwned {
    instance: String,
    issued_at_unix_ms: u64,
    #[serde(default)]
    used_token: Option<String>,
    chain_pem: String,
    key_pem: String,
}

impl StoredIdentity {
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let key_pem = self.key.to_pkcs8_pem();
        let text = IdentityText {
            instance: self.instance.as_str(),
            issued_at_unix_ms: self.issued_at.0,
            used_token: self.used_token.map(|token| token.to_string()),
            chain_pem: self.svid.to_pem(),
            key_pem: &key_pem,
        };
        // A struct of texts and numbers always serialises; an empty file would be found damaged.
        Zeroizing::new(serde_json::to_vec_pretty(&text).unwrap_or_default())
    }

    pub(super) fn decode(payload: &[u8]) -> Result<Self, String> {
        let text: IdentityTextOwned =
            serde_json::from_slice(payload).map_err(|error| format!("it is not as written: {error}"))?;
        let identity = Self {
            instance: InstanceId::parse(&text.instance).map_err(|error| error.to_string())?,
            issued_at: UnixMillis(text.issued_at_unix_ms),
            used_token: text
                .used_token
                .map(|token| token.parse())
                .transpose()
                .map_err(|error: NoDigest| error.to_string())?,
            svid: Svid::from_pem(&text.chain_pem).map_err(|error| error.to_string())?,
            key: KeyPair::from_pkcs8_pem(&Zeroizing::new(text.key_pem)).map_err(|error| error.to_string())?,
        };
        if identity.key.public_key().fingerprint() != identity.svid.key_fingerprint() {
            return Err("its key is not the certificate's".to_owned());
        }
        Ok(identity)
    }
}

impl StoredTrust {
    /// Takes what the control plane says is to be trusted.
    ///
    /// # Errors
    /// A root or a key does not parse, or is of another trust domain; or there is no root at all.
    pub fn new(message: pb::Trust) -> Result<Self, String> {
        let pb::Trust {
            trust_domain,
            roots,
            view_keys,
            version: _,
            renew_issuers,
            distrusted_keys,
            renew_within_ms: _,
        } = &message;
        let trust_domain = TrustDomain::parse(trust_domain).map_err(|error| error.to_string())?;
        let bundle = TrustBundle::new(trust_domain, roots.iter().cloned().map(CertificateDer::from))
            .map_err(|error| error.to_string())?;
        if bundle.roots().is_empty() {
            return Err("it holds no root".to_owned());
        }
        let distrusted: Vec<Fingerprint> = distrusted_keys
            .iter()
            .map(|key| Fingerprint::from_bytes(key))
            .collect::<Result<_, _>>()
            .map_err(|error| error.to_string())?;
        let bundle = bundle.distrusting(distrusted);
        let keys = view_keys.iter().map(|pb::ViewKey { key_id: _, public_key }| public_key.as_slice());
        let view_keys = ViewVerifier::from_public_keys(keys).map_err(|error| error.to_string())?;
        let former = renew_issuers
            .iter()
            .map(|serial| serial.parse())
            .collect::<Result<_, _>>()
            .map_err(|error: SerialError| error.to_string())?;
        Ok(Self { bundle, view_keys, former, message })
    }

    /// Counts the changes of what is to be trusted.
    pub fn version(&self) -> u64 {
        self.message.version
    }

    /// Over which time to renew this certificate, where the authority that signed it signs no longer.
    pub fn renewal_within(&self, svid: &Svid) -> Option<Duration> {
        self.is_former(svid.issuer_serial()?).then_some(self.renew_within())
    }

    /// Over which time everybody renews whose authority signs no longer.
    pub fn renew_within(&self) -> Duration {
        Duration::from_millis(self.message.renew_within_ms.into())
    }

    /// The issuing authorities that sign no longer.
    pub fn signs_no_longer(&self) -> impl Iterator<Item = Serial> {
        self.former.iter().copied()
    }

    /// Whether this is one of them.
    pub fn is_former(&self, issuer: Serial) -> bool {
        self.former.contains(&issuer)
    }

    /// The message that it was made of.
    pub fn message(&self) -> &pb::Trust {
        &self.message
    }
}

impl Mark {
    pub(super) fn encode(self) -> Vec<u8> {
        [self.epoch.to_be_bytes(), self.revision.to_be_bytes()].concat()
    }

    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let (epoch, rest) = payload.split_first_chunk()?;
        let revision = rest.try_into().ok()?;
        Some(Self { epoch: u64::from_be_bytes(*epoch), revision: u64::from_be_bytes(revision) })
    }
}
