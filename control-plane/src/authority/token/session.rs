//! What is done with keys over one session.

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use hauberk_tls::PublicKey;

use super::error::{TokenError, said};
use super::{KeyId, Place};

/// The object identifier of P-256 in DER (RFC 5480 §2.1.1.1).
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// The tag and length of an octet string that holds a point: tokens should tell points so, and some leave it out.
const POINT_IN_OCTETS: &[u8] = &[0x04, 0x41];

/// A session of a process that is logged in, used by one thread at a time.
pub(super) struct KeySession {
    session: Session,
    place: Place,
    /// The key that was used last: one authority signs nearly everything.
    last: Option<(KeyId, ObjectHandle)>,
}

impl KeySession {
    pub(super) fn new(session: Session, place: Place) -> Self {
        Self { session, place, last: None }
    }

    /// Signs a digest: r and s.
    pub(super) fn sign(&mut self, id: &KeyId, digest: &[u8; 32]) -> Result<[u8; 64], TokenError> {
        let key = match &self.last {
            Some((last, key)) if last == id => *key,
            _ => self.find(id)?,
        };
        self.last = Some((id.clone(), key));
        let signature =
            self.session.sign(&Mechanism::Ecdsa, key, digest).map_err(|error| self.failed(error))?;
        let length = signature.len();
        signature.try_into().map_err(|_| TokenError::Failed {
            label: self.place.label.clone(),
            reason: format!("C_Sign gives {length} bytes instead of 64"),
        })
    }

    /// Makes a key that cannot leave the token and can do nothing but sign. The session must be one that may write.
    pub(super) fn generate(&self, id: &KeyId, label: &str) -> Result<PublicKey, TokenError> {
        let both = || {
            let label = Attribute::Label(label.as_bytes().to_vec());
            [Attribute::Token(true), Attribute::Id(id.0.clone()), label].into_iter()
        };
        let public = both()
            .chain([Attribute::EcParams(P256.to_vec()), Attribute::Verify(true)])
            .chain([Attribute::Encrypt(false), Attribute::Wrap(false)])
            .collect::<Vec<_>>();
        let private = both()
            .chain([Attribute::Private(true), Attribute::Sensitive(true), Attribute::Extractable(false)])
            .chain([Attribute::Sign(true), Attribute::SignRecover(false), Attribute::Decrypt(false)])
            .chain([Attribute::Unwrap(false), Attribute::Derive(false)])
            .collect::<Vec<_>>();
        let (public, private) = self
            .session
            .generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)
            .map_err(|error| self.failed(error))?;
        self.check_private(private)?;
        self.read_public(public)
    }

    /// Destroys what was made under an id, both halves. Whether anything was there.
    pub(super) fn destroy(&self, id: &KeyId) -> Result<bool, TokenError> {
        let mut is_there = false;
        for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
            for object in self.find_all(class, id)? {
                self.session.destroy_object(object).map_err(|error| self.failed(error))?;
                is_there = true;
            }
        }
        Ok(is_there)
    }

    fn find(&self, id: &KeyId) -> Result<ObjectHandle, TokenError> {
        let Place { label, serial } = self.place.clone();
        match self.find_all(ObjectClass::PRIVATE_KEY, id)?.as_slice() {
            [key] => Ok(*key),
            [] => Err(TokenError::NoKey { label, serial, id: id.to_string() }),
            _ => Err(TokenError::SeveralKeys { label, id: id.to_string() }),
        }
    }

    fn find_all(&self, class: ObjectClass, id: &KeyId) -> Result<Vec<ObjectHandle>, TokenError> {
        let like = [Attribute::Class(class), Attribute::Id(id.0.clone()), Attribute::Token(true)];
        self.session.find_objects(&like).map_err(|error| self.failed(error))
    }

    /// Tokens that take a template and do otherwise exist.
    fn check_private(&self, key: ObjectHandle) -> Result<(), TokenError> {
        let asked = [AttributeType::Sensitive, AttributeType::Extractable, AttributeType::Token];
        let told = self.session.get_attributes(key, &asked).map_err(|error| self.failed(error))?;
        let needed = [
            (Attribute::Sensitive(true), "is not kept secret (CKA_SENSITIVE)"),
            (Attribute::Extractable(false), "can leave it (CKA_EXTRACTABLE)"),
            (Attribute::Token(true), "it does not keep (CKA_TOKEN)"),
        ];
        match needed.into_iter().find(|(needed, _)| !told.contains(needed)) {
            None => Ok(()),
            Some((_, what)) => Err(TokenError::BadKey { label: self.place.label.clone(), what }),
        }
    }

    fn read_public(&self, key: ObjectHandle) -> Result<PublicKey, TokenError> {
        let told = self.session.get_attributes(key, &[AttributeType::EcPoint]);
        let told = told.map_err(|error| self.failed(error))?;
        let point = match told.first() {
            Some(Attribute::EcPoint(point)) => point.as_slice(),
            _ => &[],
        };
        let point = point.strip_prefix(POINT_IN_OCTETS).filter(|bare| bare.len() == 65).unwrap_or(point);
        PublicKey::from_p256_point(point)
            .map_err(|source| TokenError::PublicKey { label: self.place.label.clone(), source })
    }

    fn failed(&self, error: cryptoki::error::Error) -> TokenError {
        TokenError::Failed { label: self.place.label.clone(), reason: said(&error) }
    }
}
