//! X.509-SVIDs over rustls: keys, requests, authorities, bundles, the verifier, live configurations and streams.
//!
//! No other crate names rustls. TLS 1.3 only, mutual by SPIFFE id, without tickets, resumption or early data, so that
//! every connection is a full handshake against the bundle of that moment.
#![forbid(unsafe_code)]

mod authority;
mod authority_key;
mod bootstrap;
mod bundle;
mod certificate;
mod chain;
pub mod cms;
mod crl;
pub mod device;
mod dumps;
mod ed25519;
mod endpoint;
mod federated;
mod fingerprint;
mod greeting;
mod handshake;
mod hop;
mod issue;
pub mod jwt;
mod key;
mod live;
mod pem;
mod provider;
mod request;
mod roca;
mod seal;
pub mod signing;
#[cfg(test)]
#[allow(dead_code, unreachable_pub, reason = "what the tests of one crate lack, those of another do not")]
#[path = "../../integration-tests/src/skipped.rs"]
mod skipped;
mod spiffe_bundle;
mod stream;
mod svid;
mod verifier;
mod vouched;
mod web;
mod words;

pub use authority::names_as_issuer;
pub use authority::{AuthorityCertificate, AuthorityError, IssuingAuthority, RootAuthority};
pub use authority::{OperatorAuthority, OperatorAuthorityError};
pub use authority::{Place, UpstreamChain, UpstreamError, check_root, is_self_issued};
pub use authority_key::{AuthorityKey, SignDigest};
pub use bootstrap::{BootstrapTrust, bootstrap_connector, clock_connector};
pub use bundle::{BundleError, Root, TrustBundle};
pub use certificate::CertificateFault;
pub use crl::{CrlEntry, CrlError, CrlIssue, KeptCrlError, crl_to_pem, verify_kept_crl};
pub use dumps::forbid_dumps;
pub use endpoint::{EndpointConnector, Refuses, WebRoots, WebRootsError};
pub use federated::FederatedBundles;
pub use fingerprint::{Fingerprint, FingerprintError};
pub use greeting::{Greeting, MAX_GREETING};
pub use hop::{BadHop, Hop, Link};
pub use issue::{IssueError, SelfCheckError, SvidTemplate, is_dns_name, verify_issued};
pub use key::{KeyError, KeyPair, PublicKey};
pub use live::{ClientAuth, LiveIdentity, LiveIdentityError, LiveState, ServerExpectation};
pub use pem::{NotPem, certificates_from_pem, certificates_to_pem};
pub use provider::{SetupError, install_provider};
pub use request::{CertificateRequest, CsrError, RequestedKey};
pub use rustls_pki_types::CertificateDer;
pub use seal::SealingKey;
pub use spiffe_bundle::{MAX_BUNDLE_BYTES, SpiffeBundle, SpiffeBundleError, bundle_document};
pub use stream::{Acceptor, Connection, Connector, ExporterError, HandshakeError, Negotiated};
pub use svid::{MAX_CHAIN, Svid, SvidError};
pub use tokio_rustls::TlsStream;
pub use verifier::{PeerIdentity, Usage, VerifyError, unverified_id, verify_svid};
pub use vouched::VouchedChain;
pub use web::{WebCertificate, WebCertificateError};
