//! A chain that was verified, to be used again where it would be verified the same way.

use std::sync::Arc;

use hauberk_identity::UnixMillis;
use rustls_pki_types::CertificateDer;

use crate::bundle::TrustBundle;
use crate::chain::PathWindow;
use crate::verifier::{PeerIdentity, Usage, VerifyError, verify_for_a_while};

/// Whom a chain proves in one role, with what vouched for it and how long that stands. What was revoked one by one is on no bundle,
/// and is for whoever uses it to look at.
#[derive(Debug)]
pub struct VouchedChain {
    peer: PeerIdentity,
    usage: Usage,
    by: Arc<TrustBundle>,
    window: PathWindow,
}

impl VouchedChain {
    /// Verifies a chain as [`crate::verify_svid`] does.
    ///
    /// # Errors
    /// As there.
    pub fn verify(
        chain: &[CertificateDer<'_>],
        bundle: &Arc<TrustBundle>,
        now: UnixMillis,
        usage: Usage,
    ) -> Result<Self, VerifyError> {
        let (peer, window) = verify_for_a_while(chain, bundle, now, usage)?;
        Ok(Self { peer, usage, by: Arc::clone(bundle), window })
    }

    /// Whether to verify the chain again would find the same: by this very bundle, in this role, at a time when nothing of its
    /// path has ended or has yet to begin. If not, it may well be good, and only verifying tells.
    pub fn stands(&self, bundle: &Arc<TrustBundle>, now: UnixMillis, usage: Usage) -> bool {
        Arc::ptr_eq(&self.by, bundle) && self.usage == usage && self.window.contains(now)
    }

    /// Whom it proves.
    pub fn peer(&self) -> &PeerIdentity {
        &self.peer
    }
}
