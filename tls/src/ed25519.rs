//! Which octets are a public key of Ed25519. Libraries that verify signatures ask less of them.

/// The `y` of all points whose order divides eight, of which the points with `x` and `-x` have the same (RFC 8032
/// §5.1.2: the least octet first, without the sign of `x`). By such a key some signatures verify whatever was signed:
/// nobody needs to know a private key.
const OF_SMALL_ORDER: [[u8; 32]; 5] = [
    // Order 4.
    [0; 32],
    // Order 1.
    with_ends(1, 0, 0),
    // Order 2.
    with_ends(0xec, 0xff, 0x7f),
    // Order 8.
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5,
        0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a,
        0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

/// The prime of the field, 2^255 - 19, as `y` is written.
const PRIME: [u8; 32] = with_ends(0xed, 0xff, 0x7f);

/// Whether these are 32 octets of a key (RFC 8032 §5.1.5): `y` is below the prime, so that one key has one form, and
/// the point is none of small order. That the point is on the curve is found out where a signature is verified.
pub(crate) fn is_key(octets: &[u8]) -> bool {
    let Ok(mut y) = <[u8; 32]>::try_from(octets) else { return false };
    let [.., last] = &mut y;
    // The sign of x.
    *last &= 0x7f;
    let is_reduced = y.iter().rev().lt(PRIME.iter().rev());
    is_reduced && !OF_SMALL_ORDER.contains(&y)
}

const fn with_ends(first: u8, between: u8, last: u8) -> [u8; 32] {
    let mut octets = [between; 32];
    let [lowest, .., highest] = &mut octets;
    *lowest = first;
    *highest = last;
    octets
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::key::{KeyError, PublicKey};

    /// All that decoders take for a point of small order: those that are below the prime, and what zero and one are
    /// beside it. What is one below it has no other form within 255 bits.
    pub(crate) fn of_small_order() -> Vec<[u8; 32]> {
        let others = [PRIME, with_ends(0xee, 0xff, 0x7f)];
        let unsigned = OF_SMALL_ORDER.into_iter().chain(others);
        let signed = |y: [u8; 32]| [0, 0x80].map(|sign| with_sign(y, sign));
        unsigned.flat_map(signed).collect()
    }

    fn with_sign(mut y: [u8; 32], sign: u8) -> [u8; 32] {
        y[31] |= sign;
        y
    }

    /// RFC 8410 §4.
    pub(crate) fn spki(key: &[u8]) -> Vec<u8> {
        let length = |more: usize| u8::try_from(key.len() + more).unwrap();
        let before = [0x30, length(10), 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, length(1), 0];
        [&before, key].concat()
    }

    fn refusal(key: &[u8]) -> Option<KeyError> {
        PublicKey::from_spki_der(&spki(key)).err()
    }

    #[test]
    fn keys_by_which_anybody_could_sign_are_none() {
        assert_eq!(of_small_order().len(), 14);
        for key in of_small_order() {
            assert!(!is_key(&key), "{key:02x?}");
            assert_eq!(refusal(&key), Some(KeyError::Ed25519), "{key:02x?}");
        }
    }

    #[test]
    fn a_key_has_32_octets_and_one_form() {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let key = rcgen::PublicKeyData::der_bytes(&key).to_vec();
        assert!(is_key(&key) && refusal(&key).is_none());
        assert!(is_key(&with_ends(0xeb, 0xff, 0x7f)), "two below the prime");
        for other in [Vec::new(), key[1..].to_vec(), [&key[..], &[0]].concat(), spki(&key)] {
            assert!(!is_key(&other), "{other:02x?}");
            assert_eq!(refusal(&other), Some(KeyError::Ed25519), "{other:02x?}");
        }
        for low in 0xed..=0xff {
            assert!(!is_key(&with_ends(low, 0xff, 0x7f)) && !is_key(&with_ends(low, 0xff, 0xff)), "{low}");
        }
    }
}
