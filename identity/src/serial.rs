//! What tells two certificates, and two instances of one node, apart.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The longest serial number that RFC 5280 §4.1.2.2 lets a certificate carry, in octets.
const MAX_SERIAL_LEN: usize = 20;

/// The top three bits of a serial number that says which instance answers for the certificate or token, and how many of its lowest
/// are random.
const OF_INSTANCE: u128 = 0b001;
const RANDOM_BITS: u32 = 128 - 3 - INSTANCE_BITS;

/// How many whole hexadecimal digits lie before the random bits.
const COMMON_DIGITS: usize = ((128 - RANDOM_BITS) / 4) as usize;

/// The serial number of a certificate: a positive integer of at most 20 octets (RFC 5280 §4.1.2.2). Tokens of ours have one too, as
/// their `jti` (RFC 7519 §4.1.7).
///
/// Ours always have exactly 16 octets, of which at least 75 bits are random; those of foreign peers may be shorter or longer.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Serial {
    /// Big-endian, right-aligned, zero-filled on the left.
    octets: [u8; MAX_SERIAL_LEN],
}

/// Why octets or a text are not a [`Serial`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SerialError {
    /// The number is zero, or nothing was given.
    #[error("a serial number must be positive")]
    NotPositive,
    /// The number has more than 20 octets.
    #[error("a serial number has at most 20 octets")]
    TooLong,
    /// The text is not an even number of hexadecimal digits.
    #[error("a serial number is written as pairs of hexadecimal digits")]
    NotHex,
}

impl Serial {
    /// Makes a new serial number from 16 random octets.
    ///
    /// The top bit is cleared, so that DER needs no padding octet, and the next one set, so that the number is never
    /// zero and always has 16 octets. The 126 bits that remain random are well above the 64 that the CA/Browser
    /// Forum asks for.
    pub fn from_random(mut random: [u8; 16]) -> Self {
        random[0] = random[0] & 0x7f | 0x40;
        Self::of_sixteen(random)
    }

    /// Makes a new serial number, from 16 random octets, of a certificate or token that an instance answers for: its own, or that of
    /// a workload which it vouches for. It says which instance, so that all of them can be refused by one name.
    ///
    /// The top bits are 001, which no other serial number of ours has; 50 bits are the instance's, and 75 remain random.
    pub fn of_instance(instance: InstanceId, random: [u8; 16]) -> Self {
        let random = u128::from_be_bytes(random) & ((1 << RANDOM_BITS) - 1);
        let number = OF_INSTANCE << (128 - 3) | u128::from(instance.bits()) << RANDOM_BITS | random;
        Self::of_sixteen(number.to_be_bytes())
    }

    /// The instance that answers for the certificate or token, where the number says so. Only of what our own control plane has signed
    /// does that mean anything.
    pub fn instance(&self) -> Option<InstanceId> {
        let (&head, tail) = self.octets.split_first_chunk::<{ MAX_SERIAL_LEN - 16 }>()?;
        let number = u128::from_be_bytes(*tail.first_chunk()?);
        if head != [0; MAX_SERIAL_LEN - 16] || number >> (128 - 3) != OF_INSTANCE {
            return None;
        }
        let bits = number >> RANDOM_BITS & ((1 << INSTANCE_BITS) - 1);
        u64::try_from(bits).ok().map(InstanceId::from_bits)
    }

    /// How the text of each number begins that [`Self::of_instance`] makes for an instance: 13 of its digits are the same in all of
    /// them. The last bit of the id lies beyond, so that those of one other instance begin alike.
    pub fn beginning_of(instance: InstanceId) -> String {
        let mut text = Self::of_instance(instance, [0; 16]).to_string();
        text.truncate(COMMON_DIGITS);
        text
    }

    /// How the texts of those of our numbers begin that name no instance: [`Self::from_random`] makes them.
    pub const BEGINNINGS_OF_OTHERS: [&str; 4] = ["4", "5", "6", "7"];

    fn of_sixteen(tail: [u8; 16]) -> Self {
        let mut octets = [0; MAX_SERIAL_LEN];
        if let Some(last) = octets.last_chunk_mut() {
            *last = tail;
        }
        Self { octets }
    }

    /// Takes the contents of a DER INTEGER as found in a certificate; leading zero octets do not matter.
    ///
    /// # Errors
    /// The number is zero or has more than 20 significant octets. The sign is the caller's to check.
    pub fn from_be_bytes(bytes: &[u8]) -> Result<Self, SerialError> {
        let start = bytes.iter().position(|b| *b != 0).ok_or(SerialError::NotPositive)?;
        let significant = bytes.get(start..).unwrap_or_default();
        let mut octets = [0; MAX_SERIAL_LEN];
        let at = MAX_SERIAL_LEN.checked_sub(significant.len()).ok_or(SerialError::TooLong)?;
        octets.get_mut(at..).unwrap_or_default().copy_from_slice(significant);
        Ok(Self { octets })
    }

    /// The number, big-endian, without leading zero octets.
    pub fn as_bytes(&self) -> &[u8] {
        let start = self.octets.iter().position(|b| *b != 0).unwrap_or(MAX_SERIAL_LEN);
        self.octets.get(start..).unwrap_or_default()
    }
}

impl FromStr for Serial {
    type Err = SerialError;

    /// Parses what `Display` prints; upper case is accepted too.
    fn from_str(text: &str) -> Result<Self, SerialError> {
        if text.len() > 2 * (MAX_SERIAL_LEN + 1) {
            return Err(SerialError::TooLong);
        }
        let digits: Vec<u8> = text
            .chars()
            .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()).ok_or(SerialError::NotHex))
            .collect::<Result<_, _>>()?;
        let (pairs, rest) = digits.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(SerialError::NotHex);
        }
        let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
        Self::from_be_bytes(&bytes)
    }
}

impl PartialOrd for Serial {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Serial {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.octets.cmp(&other.octets)
    }
}

impl fmt::Display for Serial {
    /// Lower-case hexadecimal, two digits to an octet, as `openssl x509 -serial` prints it but for the case.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Digits of an instance id: no i, l, o, u, so that one read aloud is typed correctly.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// How many digits an instance id has, of five bits each.
const INSTANCE_LEN: usize = 10;
const INSTANCE_BITS: u32 = 50;

/// One running agent among those that share a SPIFFE id: 10 lower-case base32 digits (50 random bits).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId([u8; INSTANCE_LEN]);

/// A text is not an [`InstanceId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an instance id has 10 characters of 0-9 a-z without i, l, o, u")]
pub struct InstanceIdError;

impl InstanceId {
    /// Makes a new instance id from 8 random octets, of which 50 bits are used.
    pub fn from_random(random: [u8; 8]) -> Self {
        let mut bits = u64::from_be_bytes(random);
        Self(std::array::from_fn(|_| {
            bits = bits.rotate_left(5);
            DIGITS.get((bits & 31) as usize).copied().unwrap_or(b'0')
        }))
    }

    /// Parses an instance id; only what `Display` prints is accepted.
    ///
    /// # Errors
    /// Wrong length or a character that is no digit of ours.
    pub fn parse(text: &str) -> Result<Self, InstanceIdError> {
        let digits: [u8; INSTANCE_LEN] = text.as_bytes().try_into().map_err(|_| InstanceIdError)?;
        if digits.iter().all(|d| DIGITS.contains(d)) { Ok(Self(digits)) } else { Err(InstanceIdError) }
    }

    /// From its lowest 50 bits.
    fn from_bits(bits: u64) -> Self {
        Self::from_random((bits << (u64::BITS - INSTANCE_BITS)).to_be_bytes())
    }

    fn bits(self) -> u64 {
        self.0.iter().fold(0, |bits, digit| {
            let value = DIGITS.iter().position(|known| known == digit).unwrap_or_default();
            bits << 5 | value as u64
        })
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl FromStr for InstanceId {
    type Err = InstanceIdError;

    fn from_str(text: &str) -> Result<Self, InstanceIdError> {
        Self::parse(text)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn new_serials_are_positive_and_sixteen_octets_long() {
        assert_eq!(Serial::from_random([0; 16]).to_string(), "40000000000000000000000000000000");
        assert_eq!(Serial::from_random([0xff; 16]).to_string(), "7fffffffffffffffffffffffffffffff");
    }

    #[test]
    fn foreign_serials_have_other_lengths() {
        let short = Serial::from_be_bytes(&[0, 0, 1]).unwrap();
        assert_eq!((short.to_string().as_str(), short.instance()), ("01", None));
        assert_eq!(Serial::from_be_bytes(&[0x20; 20]).unwrap().instance(), None);
        assert_eq!(Serial::from_be_bytes(&[0, 0]), Err(SerialError::NotPositive));
        assert_eq!(Serial::from_be_bytes(&[]), Err(SerialError::NotPositive));
        assert_eq!(Serial::from_be_bytes(&[1; 21]), Err(SerialError::TooLong));
        let mut padded = vec![0];
        padded.extend([0xff; 20]);
        assert_eq!(Serial::from_be_bytes(&padded).unwrap().as_bytes(), [0xff; 20]);
        assert_eq!("0G".parse::<Serial>(), Err(SerialError::NotHex));
        assert_eq!("123".parse::<Serial>(), Err(SerialError::NotHex));
        assert_eq!("é0".parse::<Serial>(), Err(SerialError::NotHex));
        assert_eq!("".parse::<Serial>(), Err(SerialError::NotPositive));
        assert_eq!("1".repeat(100).parse::<Serial>(), Err(SerialError::TooLong));
    }

    #[test]
    fn instance_ids_are_exactly_ten_digits() {
        assert_eq!(InstanceId::from_random([0; 8]).as_str(), "0000000000");
        assert_eq!(InstanceId::from_random([0xff; 8]).as_str(), "zzzzzzzzzz");
        for wrong in ["", "000000000", "00000000000", "00000ooooo", "0000000000\n", "ZZZZZZZZZZ", "00000000é"]
        {
            assert_eq!(InstanceId::parse(wrong), Err(InstanceIdError), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn serials_print_what_they_parse(random: [u8; 16]) {
            let serial = Serial::from_random(random);
            prop_assert_eq!(serial.to_string().parse(), Ok(serial));
            prop_assert_eq!(serial.to_string().to_uppercase().parse(), Ok(serial));
            prop_assert_eq!(Serial::from_be_bytes(serial.as_bytes()), Ok(serial));
            prop_assert_eq!(serial.as_bytes().len(), 16);
        }

        #[test]
        fn a_serial_says_which_instance_answers_for_it(id: [u8; 8], random: [u8; 16], other: [u8; 16]) {
            let id = InstanceId::from_random(id);
            let serial = Serial::of_instance(id, random);
            prop_assert_eq!(serial.instance(), Some(id));
            prop_assert_eq!(serial.to_string().parse::<Serial>().unwrap().instance(), Some(id));
            prop_assert_eq!(serial.as_bytes().len(), 16);
            let differs = u128::from_be_bytes(random) << 53 != u128::from_be_bytes(other) << 53;
            prop_assert_eq!(serial != Serial::of_instance(id, other), differs);
            prop_assert_eq!(Serial::from_random(random).instance(), None);
            prop_assert!(serial.to_string().starts_with(&Serial::beginning_of(id)));
            prop_assert_eq!(Serial::beginning_of(id).len(), COMMON_DIGITS);
            let nameless = Serial::from_random(random).to_string();
            prop_assert!(Serial::BEGINNINGS_OF_OTHERS.iter().any(|digit| nameless.starts_with(digit)));
            prop_assert!(!Serial::BEGINNINGS_OF_OTHERS.iter().any(|digit| Serial::beginning_of(id).starts_with(digit)));
        }

        #[test]
        fn instance_ids_print_what_they_parse(random: [u8; 8]) {
            let id = InstanceId::from_random(random);
            prop_assert_eq!(InstanceId::parse(id.as_str()), Ok(id));
        }
    }
}
