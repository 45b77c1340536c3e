//! Hops of an identity token: who passed a user on and to whom, each signed by the SVID of that moment over all that came
//! before it, so that nobody can take one out from among others, put one in, or use it elsewhere. Whoever is passed a user has the
//! user's token, though, and can drop all of its hops together and begin anew with its own.

use aws_lc_rs::digest::{Context, SHA256};
use hauberk_identity::{SpiffeId, UnixMillis};
use rustls::SignatureScheme;
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use webpki::EndEntityCert;

use crate::fingerprint::Fingerprint;
use crate::live::LiveState;
use crate::provider::HOP_ALGORITHM;
use crate::signing::SigningError;

/// What stands before anything that is hashed or signed here, so that nothing else that such a key signs is taken for it.
const USER: &[u8] = b"hauberk-identity-v1/user\0";
const HOP: &[u8] = b"hauberk-identity-v1/hop\0";
const LINK: &[u8] = b"hauberk-identity-v1/link\0";

/// All that was signed so far, as one hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link([u8; 32]);

/// What one hop says.
#[derive(Debug, Clone, Copy)]
pub struct Hop<'a> {
    /// The certificate of who passes the user on.
    pub certificate: &'a CertificateDer<'a>,
    /// The SPIFFE id of whom it is passed to.
    pub audience: &'a str,
    /// When.
    pub at: UnixMillis,
}

/// A hop's signature is wrong. The fault is whoever sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the signature of a hop is wrong")]
pub struct BadHop;

impl Link {
    /// The beginning: the user's own token.
    pub fn of_user(token: &str) -> Self {
        Self::hash(&[USER, token.as_bytes()])
    }

    /// With one more hop.
    #[must_use]
    pub fn then(self, hop: &Hop<'_>, signature: &[u8]) -> Self {
        let said = Self::hash(&[&hop.message(self)]);
        Self::hash(&[LINK, &said.0, signature])
    }

    /// Checks that a hop was signed by its certificate's key over all that came before, and adds it. Whom that certificate
    /// names, and whether anybody vouches for it, is for [`crate::verify_svid`] to say.
    ///
    /// # Errors
    /// It was not.
    pub fn verify(self, hop: &Hop<'_>, signature: &[u8]) -> Result<Self, BadHop> {
        let certificate = EndEntityCert::try_from(hop.certificate).map_err(|_| BadHop)?;
        let verified = certificate.verify_signature(HOP_ALGORITHM, &hop.message(self), signature);
        verified.map(|()| self.then(hop, signature)).map_err(|_| BadHop)
    }

    fn hash(parts: &[&[u8]]) -> Self {
        let mut context = Context::new(&SHA256);
        parts.iter().for_each(|part| context.update(part));
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        Self(hash)
    }
}

impl Hop<'_> {
    /// Everything of a fixed length stands before what is not.
    fn message(&self, before: Link) -> Vec<u8> {
        let certificate = Fingerprint::of(self.certificate);
        let at = self.at.0.to_be_bytes();
        [HOP, &before.0, certificate.as_bytes(), &at, self.audience.as_bytes()].concat()
    }
}

impl LiveState {
    /// Signs that whoever this is passes a user on to `audience` at an instant.
    ///
    /// # Errors
    /// There is no certificate yet, or its key cannot be used.
    pub fn sign_hop(
        &self,
        before: Link,
        audience: &SpiffeId,
        at: UnixMillis,
    ) -> Result<Vec<u8>, SigningError> {
        let key = self.certified_key().ok_or(SigningError::Unusable)?;
        let certificate = key.cert.first().ok_or(SigningError::Unusable)?;
        let message = Hop { certificate, audience: audience.as_str(), at }.message(before);
        let signer = key.key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]);
        signer.ok_or(SigningError::Unusable)?.sign(&message).map_err(|_| SigningError::Unusable)
    }
}

#[cfg(test)]
mod tests;
