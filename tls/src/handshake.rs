//! Where rustls asks who the peer is, and our verifier answers.

use std::sync::Arc;

use hauberk_identity::{SpiffeId, UnixMillis};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::bootstrap::BootstrapTrust;
use crate::bundle::TrustBundle;
use crate::certificate::Facts;
use crate::live::{ClientAuth, LiveIdentity, LiveState, ServerExpectation};
use crate::provider;
use crate::verifier::{Usage, VerifyError, unverified_id, verify_parts};
use crate::words;

/// A server's check of its clients: any member of the trust domain, and of those whose bundles are published.
#[derive(Debug)]
pub(crate) struct VerifyClients {
    pub(crate) live: LiveIdentity,
    pub(crate) client_auth: ClientAuth,
}

/// A client's check of its server.
#[derive(Debug)]
pub(crate) struct VerifyServer(pub(crate) ServerTrust);

/// What a client's check rests on.
#[derive(Debug)]
pub(crate) enum ServerTrust {
    /// The bundle of the moment, and who is expected.
    Live(LiveIdentity, ServerExpectation),
    /// What a newcomer was given.
    Bootstrap(BootstrapTrust),
    /// The same, whatever the time is.
    AtAnyTime(BootstrapTrust),
    /// One bundle, and the only server that is expected.
    Fixed(Arc<TrustBundle>, SpiffeId),
}

impl ServerTrust {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixMillis,
    ) -> Result<(), VerifyError> {
        match self {
            Self::Live(live, expected) => {
                expected.check(verify_parts(leaf, others, live.current().bundle(), now, Usage::Server)?)
            }
            Self::Bootstrap(trust) => trust.verify(leaf, others, now),
            Self::AtAnyTime(trust) => {
                let valid = Facts::read(leaf).map_err(VerifyError::Leaf)?.validity;
                trust.verify(leaf, others, now.clamp(valid.not_before(), valid.not_after()))
            }
            Self::Fixed(bundle, expected) => {
                let id = verify_parts(leaf, others, bundle, now, Usage::Server)?;
                if id == *expected { Ok(()) } else { Err(VerifyError::UnexpectedId(id)) }
            }
        }
    }
}

impl ClientCertVerifier for VerifyClients {
    fn client_auth_mandatory(&self) -> bool {
        self.client_auth == ClientAuth::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[] // Names of roots would only tell strangers about us.
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let state = self.live.current();
        match state.verify_client(leaf, others, unix_millis(now)) {
            // Nobody vouches for whoever says that it is a stranger: that is told as what it is.
            Err(VerifyError::UnknownIssuer) => Err(as_named(leaf, &state).into()),
            verified => {
                verified?;
                Ok(ClientCertVerified::assertion())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        provider::refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        provider::verify_handshake_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider::handshake_schemes()
    }
}

impl ServerCertVerifier for VerifyServer {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.0.verify(leaf, others, unix_millis(now))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        provider::refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        provider::verify_handshake_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider::handshake_schemes()
    }
}

/// What is wrong with a certificate that nobody vouches for: where it says that it is of another trust domain, which we know nothing
/// of, that.
fn as_named(leaf: &CertificateDer<'_>, state: &LiveState) -> VerifyError {
    let trust_domain = state.bundle().trust_domain();
    match unverified_id(leaf) {
        Ok(id) if !id.is_member_of(trust_domain) && state.federated().get(&id.trust_domain()).is_none() => {
            VerifyError::ForeignTrustDomain { id, trust_domain: trust_domain.clone() }
        }
        _ => VerifyError::UnknownIssuer,
    }
}

/// Towards the peer: the alert that fits. Towards us the error itself comes back through `refusal`.
impl From<VerifyError> for rustls::Error {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Expired { not_after, now } => {
                CertificateError::ExpiredContext { time: unix_time(now), not_after: unix_time(not_after) }
            }
            VerifyError::NotYetValid { not_before, now } => CertificateError::NotValidYetContext {
                time: unix_time(now),
                not_before: unix_time(not_before),
            },
            VerifyError::UnknownIssuer => CertificateError::UnknownIssuer,
            VerifyError::BadSignature => CertificateError::BadSignature,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        }
        .into()
    }
}

/// The reason of ours for which rustls broke a handshake off, if it was one.
pub(crate) fn refusal(error: &rustls::Error) -> Option<VerifyError> {
    let rustls::Error::InvalidCertificate(error) = error else { return None };
    match error {
        CertificateError::ExpiredContext { time, not_after } => {
            Some(VerifyError::Expired { not_after: unix_millis(*not_after), now: unix_millis(*time) })
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            Some(VerifyError::NotYetValid { not_before: unix_millis(*not_before), now: unix_millis(*time) })
        }
        CertificateError::UnknownIssuer => Some(VerifyError::UnknownIssuer),
        CertificateError::BadSignature => Some(VerifyError::BadSignature),
        CertificateError::Other(error) => Some(match error.0.downcast_ref::<VerifyError>() {
            Some(ours) => ours.clone(),
            None => other_fault(error),
        }),
        CertificateError::NotValidForNameContext { expected, presented } => {
            // As the library prints names: `DnsName("a.example")`.
            let presented = presented.iter().map(|name| name.split('"').nth(1).unwrap_or(name));
            let presented = presented.collect::<Vec<_>>().join(", ");
            let presented = if presented.is_empty() { "no name" } else { &presented };
            Some(VerifyError::Path(format!(
                "the certificate is for {presented}, not for {}",
                expected.to_str()
            )))
        }
        other => Some(VerifyError::Path(words::of(other))),
    }
}

/// What the library's own verification finds.
fn other_fault(error: &OtherError) -> VerifyError {
    match error.0.downcast_ref::<webpki::Error>() {
        Some(error) => error.clone().into(),
        None => VerifyError::Path(words::of(&error.0)),
    }
}

fn unix_millis(time: UnixTime) -> UnixMillis {
    UnixMillis::from_secs(time.as_secs())
}

fn unix_time(instant: UnixMillis) -> UnixTime {
    UnixTime::since_unix_epoch(instant.since(UnixMillis(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_library_finds_is_told_in_words() {
        let told = |error: CertificateError| refusal(&error.into()).unwrap().to_string();
        let other = |error: webpki::Error| CertificateError::Other(OtherError(Arc::new(error)));
        assert_eq!(told(other(webpki::Error::CaUsedAsEndEntity)), "the certificate is that of an authority");
        let name = CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("a.example").unwrap(),
            presented: vec!["DnsName(\"b.example\")".to_owned(), "IpAddress(127.0.0.1)".to_owned()],
        };
        assert_eq!(
            told(name),
            "the chain is refused: the certificate is for b.example, IpAddress(127.0.0.1), not for a.example"
        );
        assert_eq!(
            told(CertificateError::UnhandledCriticalExtension),
            "the chain is refused: unhandled critical extension"
        );
    }
}
