//! RSA keys whose primes were made so that they can be found (CVE-2017-15361, "ROCA"): a maker of smart cards and TPMs made each
//! prime as `k·M + 65537^a mod M`, where M is a product of small primes.

/// The factors of M for moduli from 1,984 bits on are all primes up to here; those of longer ones, and more.
const LARGEST_FACTOR: u32 = 701;

/// Such primes are of the form given above modulo each factor of M too, and so is their product: it lies among the powers of
/// this.
const GENERATOR: u32 = 65_537;

/// Whether a modulus (big-endian, of 2048 bits or more) was made so. For any other, that it looks so is as likely as that a key of
/// 128 bits is guessed.
pub(crate) fn has_fingerprint(modulus: &[u8]) -> bool {
    odd_primes().all(|prime| {
        let residue = modulus.iter().fold(0, |value, byte| (value * 256 + u32::from(*byte)) % prime);
        powers(prime).any(|power| power == residue)
    })
}

fn odd_primes() -> impl Iterator<Item = u32> {
    (3..=LARGEST_FACTOR)
        .step_by(2)
        .filter(|number| (3..*number).step_by(2).all(|factor| number % factor != 0))
}

/// The powers of the generator, each once, beginning with itself and ending with one.
fn powers(prime: u32) -> impl Iterator<Item = u32> {
    let generator = GENERATOR % prime;
    let next = move |power: &u32| (*power != 1).then_some(power * generator % prime);
    std::iter::successors(Some(generator), next)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the product of all factors is to be, to be held against a prime by its residues.
    fn modulus(exponent: u32, random: u64) -> Vec<u8> {
        // Digits of the base 256, the least first: 65537^exponent modulo M plus a multiple of M has these residues, and so has
        // 65537^exponent itself.
        let mut digits = vec![1_u32];
        let multiply = |by: u32, digits: &mut Vec<u32>| {
            let mut carry = 0;
            for digit in digits.iter_mut() {
                let value = *digit * by + carry;
                (*digit, carry) = (value % 256, value / 256);
            }
            while carry > 0 {
                digits.push(carry % 256);
                carry /= 256;
            }
        };
        for _ in 0..exponent {
            multiply(GENERATOR, &mut digits);
        }
        let mut multiple = vec![1];
        for prime in [2].into_iter().chain(odd_primes()) {
            multiply(prime, &mut multiple);
        }
        for byte in random.to_be_bytes() {
            multiply(u32::from(byte) + 1, &mut multiple);
        }
        let length = digits.len().max(multiple.len()) + 1;
        digits.resize(length, 0);
        multiple.resize(length, 0);
        let mut carry = 0;
        let sum: Vec<u8> = digits
            .iter()
            .zip(&multiple)
            .map(|(a, b)| {
                let value = a + b + carry;
                carry = value / 256;
                u8::try_from(value % 256).unwrap()
            })
            .collect();
        sum.into_iter().rev().collect()
    }

    #[test]
    fn what_was_made_so_is_known_by_its_residues() {
        assert_eq!(odd_primes().count(), 125);
        for (exponent, random) in [(1, 7), (40, 0x1234_5678_9abc_def0), (130, u64::MAX)] {
            let mut weak = modulus(exponent, random);
            assert!(has_fingerprint(&weak), "{exponent}");
            assert!(has_fingerprint(&[&[0, 0], &weak[..]].concat()), "leading zeros are no part of it");
            *weak.last_mut().unwrap() ^= 2;
            assert!(!has_fingerprint(&weak), "{exponent}");
        }
    }

    #[test]
    fn keys_that_were_made_well_are_not() {
        for size in [aws_lc_rs::rsa::KeySize::Rsa2048, aws_lc_rs::rsa::KeySize::Rsa3072] {
            let key = aws_lc_rs::rsa::KeyPair::generate(size).unwrap();
            let public: aws_lc_rs::rsa::PublicKeyComponents<Vec<u8>> =
                aws_lc_rs::signature::KeyPair::public_key(&key).into();
            assert!(!has_fingerprint(&public.n));
        }
    }
}
