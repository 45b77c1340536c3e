//! What is known of a question of which only a part is told.

use super::places::Place;
use super::{Asker, Given, Paths, Survey};
use crate::decision::{Attempt, Caller};
use crate::path::CanonicalPath;
use crate::reads::{Fact, FactSet};
use crate::vocabulary::Action;

impl Survey<'_> {
    /// The question with what is known of it, and a path in any case.
    pub(super) fn attempt<'b>(&'b self, place: &Place<'b>) -> Attempt<'b> {
        static ANY: std::sync::LazyLock<Option<CanonicalPath<'static>>> =
            std::sync::LazyLock::new(|| CanonicalPath::parse("GET", "/").ok());
        match self.path().or(ANY.as_ref()) {
            Some(path) if place.action != Action::Connect => Attempt::Request {
                method: place.method.unwrap_or_default(),
                path,
                upgrade: place.action == Action::Upgrade,
                gathered: &self.gathered,
            },
            _ => Attempt::Stream,
        }
    }

    /// The one path that is asked about, if it is one.
    pub(super) fn path(&self) -> Option<&CanonicalPath<'_>> {
        match self.asked.paths {
            Paths::Exactly(path) => Some(path),
            Paths::Matching(_) | Paths::All => self.only.as_ref(),
        }
    }

    /// What of the context is known.
    pub(super) fn known(&self, asker: &Asker, place: &Place<'_>) -> FactSet {
        let Given { address, tls, time, certificate_age, host, headers: _, made_for, untold_claims: _ } =
            self.given;
        let is_exact = self.path().is_some();
        // A stream is made for no user.
        let is_user_known = made_for.is_some() || place.action == Action::Connect;
        let age = certificate_age.is_some() || asker.caller == Caller::Anonymous;
        let facts = [
            (Fact::Method, place.method.is_some()),
            (Fact::Path, is_exact),
            (Fact::Params, is_exact),
            (Fact::Host, host.is_some()),
            (Fact::Query, self.query().is_some()),
            // Each field by itself.
            (Fact::Headers, true),
            (Fact::Time, time.is_some()),
            (Fact::CertificateAge, age),
            (Fact::Address, address.is_some()),
            (Fact::Tls, tls.is_some()),
            (Fact::User, is_user_known),
            (Fact::Claims, is_user_known),
            (Fact::Actors, is_user_known),
            (Fact::Identity, !asker.is_representative),
        ];
        facts
            .iter()
            .filter(|(_, is_known)| *is_known)
            .fold(FactSet::NONE, |all, (fact, _)| all.and(FactSet::of(&[*fact])))
    }
}

/// The path that a pattern without wildcards matches. One with an escaped slash has two readings at some ports, and
/// stays a pattern.
pub(super) fn only_path(paths: Paths<'_>) -> Option<CanonicalPath<'_>> {
    let Paths::Matching(pattern) = paths else { return None };
    // Of a pattern that was read only what `OPTIONS` asks for begins without a slash.
    CanonicalPath::parse("OPTIONS", pattern.as_exact()?).ok()
}
