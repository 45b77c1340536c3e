//! SHA-256 fingerprints of certificates and public keys.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use thiserror::Error;

/// The SHA-256 of some DER, printed as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

/// A text is not a [`Fingerprint`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a SHA-256 fingerprint is 64 hexadecimal digits, optionally with a colon after each pair")]
pub struct FingerprintError;

impl Fingerprint {
    /// The fingerprint of `der`.
    pub fn of(der: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, der).as_ref());
        Self(hash)
    }

    /// A fingerprint that was made elsewhere, from its bytes.
    ///
    /// # Errors
    /// They are not 32.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FingerprintError> {
        bytes.try_into().map(Self).map_err(|_| FingerprintError)
    }

    /// The hash itself.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    /// Parses what `Display` prints, and what `openssl x509 -fingerprint -sha256` prints after the equals sign.
    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let digits: Vec<u8> = match text.len() {
            64 => text.bytes().collect(),
            95 if text.bytes().skip(2).step_by(3).all(|b| b == b':') => {
                text.bytes().enumerate().filter(|(i, _)| i % 3 != 2).map(|(_, b)| b).collect()
            }
            _ => return Err(FingerprintError),
        };
        let value = |b: u8| char::from(b).to_digit(16).ok_or(FingerprintError);
        let mut hash = [0; 32];
        for (byte, [high, low]) in hash.iter_mut().zip(digits.as_chunks::<2>().0) {
            *byte = u8::try_from(value(*high)? << 4 | value(*low)?).map_err(|_| FingerprintError)?;
        }
        Ok(Self(hash))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_its_own_print_and_openssl_s() {
        let fingerprint = Fingerprint::of(b"");
        let text = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(fingerprint.to_string(), text);
        assert_eq!(text.parse(), Ok(fingerprint));
        let pairs: Vec<String> =
            text.to_uppercase().as_bytes().chunks(2).map(|p| String::from_utf8(p.into()).unwrap()).collect();
        assert_eq!(pairs.join(":").parse(), Ok(fingerprint));
        assert_eq!(pairs.join(";").parse::<Fingerprint>(), Err(FingerprintError));
        for wrong in ["", &text[1..], &"g".repeat(64), &"é".repeat(32), &format!("{text}0")] {
            assert_eq!(wrong.parse::<Fingerprint>(), Err(FingerprintError), "{wrong}");
        }
    }
}
