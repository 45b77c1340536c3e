//! OpenID Connect discovery: who accepts JWT-SVIDs without knowing SPIFFE finds the issuer's document and its keys here
//! (`web` serves them).

mod documents;

pub use documents::Documents;
