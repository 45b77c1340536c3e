//! JWT-SVIDs: the keys that sign them, how one follows another, and minting.
//!
//! A key is made and published at half the life of the one before it, signs when a sixth of that is left, and stays
//! published until it expires, which no token of its outlives. All of that is written down once, when the key is made:
//! what a key is at a moment follows from the clock, so that by itself there is no step between which a crash could leave
//! anything undecided. What is done by hand is one commit for each step: `authority/lifecycle/jwt_keys.rs`.

mod keys;
mod mint;
mod record;
mod rotate;

#[cfg(test)]
mod tests;

pub use keys::{KeySet, SigningKeyError, SigningKeys};
pub use mint::{LONGEST_TOKEN_LIFE, MintError, Minted, Minter, MinterParts};
pub(crate) use rotate::{Due, Prepare, remove};
pub use rotate::{JwtKeyView, PUBLISHED_FOR};
