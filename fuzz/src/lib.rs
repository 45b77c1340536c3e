//! The parsers that meet the network, each held against any bytes whatever.
//!
//! A [`Target`] gives bytes to one parser and says what must hold besides that it returns: what was signed is believed
//! in no other form than the one that was signed, and what is read is written as it was read.
//! `cargo fuzz run TARGET --features libfuzzer` looks for bytes that break it, led by the code that they reach; the tests
//! of this crate try a few thousand that are made from good ones, so that each build does some of that too.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure is a panic with a reason: that is what whoever fuzzes looks for"
)]

mod certificates;
mod keys;
mod names;
mod policies;
mod tokens;

use std::fmt;

#[doc(hidden)]
#[cfg(feature = "libfuzzer")]
pub use libfuzzer_sys;

/// Whether a parser takes these bytes for good. Panics where what must hold does not.
type Check = dyn Fn(&[u8]) -> bool + Send + Sync;

/// One parser, and what must hold of whatever it is given.
pub struct Target {
    /// What it is called on the command line.
    pub name: &'static str,
    /// Good inputs, from which others are made.
    pub seeds: Vec<Vec<u8>>,
    check: Box<Check>,
}

impl Target {
    fn new(
        name: &'static str,
        seeds: impl IntoIterator<Item = impl Into<Vec<u8>>>,
        check: impl Fn(&[u8]) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { name, seeds: seeds.into_iter().map(Into::into).collect(), check: Box::new(check) }
    }

    /// The same for a parser of text. Bytes that are none are passed over, as those are that never reach it.
    fn of_text<'s>(
        name: &'static str,
        seeds: impl IntoIterator<Item = &'s str>,
        check: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self::new(name, seeds, move |bytes| std::str::from_utf8(bytes).is_ok_and(&check))
    }

    /// Gives these bytes to the parser, and says whether it takes them for good, as it does each seed.
    ///
    /// # Panics
    /// What must hold does not.
    pub fn check(&self, bytes: &[u8]) -> bool {
        (self.check)(bytes)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All of them.
pub fn targets() -> Vec<Target> {
    vec![
        certificates::certificate_request(),
        certificates::certificate_chain(),
        certificates::device_chain(),
        certificates::revocation_list(),
        certificates::signed_document(),
        certificates::client_hello(),
        tokens::jwt_svid(),
        tokens::user_token(),
        tokens::jwk_set(),
        tokens::spiffe_bundle(),
        names::spiffe_id(),
        names::selector(),
        policies::request_path(),
        policies::route(),
        policies::policy(),
    ]
}

/// The one of this name.
///
/// # Panics
/// There is none.
pub fn target(name: &str) -> Target {
    targets().into_iter().find(|target| target.name == name).expect("a target of this crate")
}

/// What a binary of `cargo fuzz` consists of: the target of this name.
#[cfg(feature = "libfuzzer")]
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        static TARGET: std::sync::LazyLock<$crate::Target> =
            std::sync::LazyLock::new(|| $crate::target($name));

        $crate::libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
            TARGET.check(bytes);
        });
    };
}
