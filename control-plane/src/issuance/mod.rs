//! Certificates: how they are issued, what is remembered of each, and when that is forgotten.

mod issue;
mod records;

#[cfg(test)]
mod tests;

pub(crate) use issue::fails_as_issuance;
pub use issue::{IssuanceError, Issued, Issuer, IssuerParts, Order};
pub use records::{
    EvidenceRecord, FORGOTTEN_FOR, Held, Holder, InstanceRecord, IssuedPage, IssuedRecord, Ledger,
};
