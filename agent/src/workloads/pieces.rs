//! Messages in pieces, so that what is large in them, and everybody's, is not copied into each.

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use prost::Message;
use prost::encoding::encode_varint;

/// What is written after what stands before it.
#[derive(Debug, Clone)]
pub(super) enum Piece {
    /// Of this message alone.
    Own(Vec<u8>),
    /// Revocation lists: one copy for all messages.
    Lists(Bytes),
}

/// What tells one message from another, without a copy of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    digest: Vec<u8>,
    lists: Option<u64>,
}

impl Piece {
    /// A message as far as it is none in pieces. What is written after it is merged into it: the other fields (Protocol
    /// Buffers Encoding, Last One Wins).
    pub(super) fn of(message: &impl Message) -> Self {
        Self::Own(message.encode_to_vec())
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Own(bytes) => bytes.len(),
            Self::Lists(bytes) => bytes.len(),
        }
    }
}

impl Content {
    /// Of these pieces. `number`: of the revocation lists that may be among them, which are told apart by it alone.
    pub(super) fn of(pieces: &[Piece], number: u64) -> Self {
        let mut context = Context::new(&SHA256);
        for piece in pieces {
            if let Piece::Own(bytes) = piece {
                context.update(bytes);
            }
        }
        let lists = have_lists(pieces).then_some(number);
        Self { digest: context.finish().as_ref().to_vec(), lists }
    }
}

/// Whether there are revocation lists among them.
pub(super) fn have_lists(pieces: &[Piece]) -> bool {
    pieces.iter().any(|piece| matches!(piece, Piece::Lists(_)))
}

/// Bytes, text or a message as a field of the message around it.
pub(super) fn field(number: u8, content: Vec<Piece>) -> Vec<Piece> {
    const LENGTH_DELIMITED: u64 = 2;
    let length = content.iter().map(Piece::len).sum::<usize>();
    let mut head = Vec::new();
    encode_varint(u64::from(number) << 3 | LENGTH_DELIMITED, &mut head);
    encode_varint(length as u64, &mut head);
    [Piece::Own(head)].into_iter().chain(content).collect()
}
