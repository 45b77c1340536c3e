//! The fields of a request's head as HPACK (RFC 7541) writes them, walked a byte at a time as they come: what is kept
//! is a few numbers, however long they are. Of an authority as it stands each byte that may not be in one is exchanged
//! for one that may; of one by Huffman's code space, `%` and `/`, which sockets' paths have, and nothing else. The value
//! keeps its length, written and read, so that both sides' tables of fields stay the same.

/// The name, where it is written out: as it is, and by the code of RFC 7541 Appendix B.
const NAME: &[u8] = b":authority";
const CODED_NAME: &[u8] = b"\xb8\x3b\x53\x39\xec\x32\x7d\x7f";
/// Its place in the table that everybody has (RFC 7541 Appendix A).
const NAME_INDEX: u32 = 1;

/// How many codes of each length in bits there are in the code of RFC 7541 Appendix B. They are numbered in the order
/// of their lengths, so that this tells where a code ends.
const CODES: [u32; 31] =
    [0, 0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19, 29, 0, 4];

/// The first index of the table that a connection fills (RFC 7541 §2.3.3).
const FIRST_KEPT: u32 = 62;

/// What is left of 01100 when the ten codes of five bits are counted off.
const SLASH_OR_THREE: u32 = 0b01100 - 10;

/// Which of the fields that a connection has put into its table are authorities: a bit for each, the last one's first.
/// What has left the table is never named again, so that nothing has to be taken out; and no more fit into a table of
/// 4,096 bytes, which is what clients may fill, each with 32 for itself (RFC 7541 §4.1).
#[derive(Debug, Default)]
pub(super) struct Kept(u128);

impl Kept {
    /// Whether the field at this place has the authority's name.
    fn is_authority(&self, index: u32) -> bool {
        let kept = |nth| self.0.checked_shr(nth).unwrap_or_default() & 1 == 1;
        index == NAME_INDEX || index.checked_sub(FIRST_KEPT).is_some_and(kept)
    }

    fn keep(&mut self, is_authority: bool) {
        self.0 = self.0 << 1 | u128::from(is_authority);
    }
}

/// Where in the fields the next byte is.
#[derive(Debug)]
pub(super) enum Fields {
    /// A field begins.
    Begin,
    /// Within a number that did not fit into the bits beside what it is of.
    Number { so_far: u32, shift: u32, of: Of },
    /// A name that is written out begins.
    NameHead { is_kept: bool },
    /// Within one: as far as it is the authority's.
    Name { left: u32, wanted: &'static [u8], matched: Option<usize>, is_kept: bool },
    /// A value begins.
    ValueHead { is_authority: bool },
    /// Within one.
    Value { left: u32, change: Change },
    /// No HPACK: the connection ends by it, and nothing more is looked at.
    Lost,
}

/// What a number says.
#[derive(Clone, Copy, Debug)]
pub(super) enum Of {
    /// Which whole field, or how large a table is.
    Field,
    /// Whose name it has. It goes into the table, or not.
    Name {
        is_kept: bool,
    },
    NameLength {
        is_coded: bool,
        is_kept: bool,
    },
    ValueLength {
        is_coded: bool,
        is_authority: bool,
    },
}

/// What is done to a value.
#[derive(Debug)]
pub(super) enum Change {
    Nothing,
    Bytes,
    Codes(Codes),
}

/// Within a code: how many bits of it there were, and the how manieth of the codes that are longer.
#[derive(Debug, Default)]
pub(super) struct Codes {
    bits: usize,
    nth: u32,
}

impl Fields {
    pub(super) fn next(self, byte: &mut u8, table: &mut Kept) -> Self {
        match self {
            Self::Begin => Self::begin(*byte, table),
            Self::Number { so_far, shift, of } => {
                // More than this no table and no head has (RFC 7541 §5.1).
                if shift > 21 {
                    return Self::Lost;
                }
                let so_far = so_far + (u32::from(*byte & 0x7f) << shift);
                if *byte & 0x80 == 0 {
                    Self::counted(so_far, of, table)
                } else {
                    Self::Number { so_far, shift: shift + 7, of }
                }
            }
            Self::NameHead { is_kept } => {
                Self::number(*byte, 7, Of::NameLength { is_coded: *byte & 0x80 != 0, is_kept }, table)
            }
            Self::Name { left, wanted, matched, is_kept } => {
                let matched = matched.filter(|at| wanted.get(*at) == Some(byte)).map(|at| at + 1);
                if left > 1 {
                    Self::Name { left: left - 1, wanted, matched, is_kept }
                } else {
                    Self::named(matched == Some(wanted.len()), is_kept, table)
                }
            }
            Self::ValueHead { is_authority } => {
                Self::number(*byte, 7, Of::ValueLength { is_coded: *byte & 0x80 != 0, is_authority }, table)
            }
            Self::Value { left, mut change } => {
                change.apply(byte);
                if left > 1 { Self::Value { left: left - 1, change } } else { Self::Begin }
            }
            Self::Lost => Self::Lost,
        }
    }

    /// The forms of RFC 7541 §6.
    fn begin(byte: u8, table: &mut Kept) -> Self {
        let (bits, of) = match byte.leading_zeros() {
            0 => (7, Of::Field),
            1 => (6, Of::Name { is_kept: true }),
            2 => (5, Of::Field),
            _ => (4, Of::Name { is_kept: false }),
        };
        Self::number(byte, bits, of, table)
    }

    /// A number whose first bits are the last of a byte (RFC 7541 §5.1).
    fn number(byte: u8, bits: u32, of: Of, table: &mut Kept) -> Self {
        let most = (1 << bits) - 1;
        let so_far = u32::from(byte) & most;
        if so_far == most { Self::Number { so_far, shift: 0, of } } else { Self::counted(so_far, of, table) }
    }

    fn counted(number: u32, of: Of, table: &mut Kept) -> Self {
        match (of, number) {
            (Of::Field, _) | (Of::ValueLength { .. }, 0) => Self::Begin,
            (Of::Name { is_kept }, 0) => Self::NameHead { is_kept },
            (Of::Name { is_kept }, index) => Self::named(table.is_authority(index), is_kept, table),
            (Of::NameLength { is_kept, .. }, 0) => Self::named(false, is_kept, table),
            (Of::NameLength { is_coded, is_kept }, left) => {
                let wanted = if is_coded { CODED_NAME } else { NAME };
                Self::Name { left, wanted, matched: Some(0), is_kept }
            }
            (Of::ValueLength { is_coded, is_authority }, left) => {
                let change = match (is_authority, is_coded) {
                    (false, _) => Change::Nothing,
                    (true, false) => Change::Bytes,
                    (true, true) => Change::Codes(Codes::default()),
                };
                Self::Value { left, change }
            }
        }
    }

    /// Whose name it has is known; its value comes next.
    fn named(is_authority: bool, is_kept: bool, table: &mut Kept) -> Self {
        if is_kept {
            table.keep(is_authority);
        }
        Self::ValueHead { is_authority }
    }
}

impl Change {
    fn apply(&mut self, byte: &mut u8) {
        match self {
            Self::Nothing => {}
            Self::Bytes => {
                if !byte.is_ascii_alphanumeric() && !matches!(byte, b'.' | b'-' | b'_') {
                    *byte = b'-';
                }
            }
            Self::Codes(codes) => *byte = codes.readable(*byte),
        }
    }
}

impl Codes {
    /// Space and `%` are 01010 with another bit, `/` is 011000: each becomes its neighbour (`-`, `.` and `3`) by one
    /// bit set, so that what has been passed on never has to be taken back.
    fn readable(&mut self, byte: u8) -> u8 {
        (0..8).rev().fold(0, |before, place| {
            let read = u32::from(byte >> place) & 1;
            let is_unfit = matches!((self.bits, self.nth, read), (4, 0b0101, 0) | (5, SLASH_OR_THREE, 0));
            let bit = if is_unfit { 1 } else { read };
            self.step(bit);
            before << 1 | u8::from(bit == 1)
        })
    }

    fn step(&mut self, bit: u32) {
        let nth = self.nth << 1 | bit;
        self.bits += 1;
        match CODES.get(self.bits) {
            Some(codes) if nth >= *codes => self.nth = nth - codes,
            // There is no longer one: it ends here, or is none, by which the connection ends.
            _ => *self = Self::default(),
        }
    }
}
