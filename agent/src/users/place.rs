//! Where a request has its token. More than one is none: nobody could say which of them the app would read.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName};

use super::{Identity, Issuer, Users, reason};
use crate::wire::headers::is_any_spelling_of;

/// Where a token stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// `Authorization: Bearer`.
    Bearer,
    /// Alone in this header field, or after `Bearer`.
    Field(Arc<str>),
}

/// The header fields in which tokens stand by a view; `authorization` aside. Every request holds on to them: cheap to
/// clone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenFields(Arc<[Arc<str>]>);

impl TokenFields {
    pub(super) fn of(issuers: &[Issuer]) -> Self {
        let fields = issuers.iter().filter_map(|issuer| match &issuer.place {
            Place::Bearer => None,
            Place::Field(own) => Some(Arc::clone(own)),
        });
        Self(fields.collect())
    }

    /// Whether one of them has this name, however it is spelled.
    pub(crate) fn hold(&self, name: &str) -> bool {
        self.0.iter().any(|own| is_any_spelling_of(name, own))
    }
}

/// Two tokens, or a field with one that stands there twice.
pub(super) const AMBIGUOUS: &str = "user_token_ambiguous";
/// A token that stands where its issuer's do not.
pub(super) const MISPLACED: &str = "user_token_misplaced";

impl Users {
    /// The token of a request, where there is one. Those of every issuer are looked for: users of one whose users are
    /// none at a port are denied there, and their tokens come to no app.
    pub(super) fn find<'h>(&self, headers: &'h HeaderMap) -> Result<Option<(&'h str, Place)>, &'static str> {
        let mut found: Option<(&str, Place)> = None;
        for place in self.places() {
            // Several issuers may share one place.
            if found.as_ref().is_some_and(|(_, known)| known == place) {
                continue;
            }
            let here = match place {
                Place::Bearer => bearer(headers)?,
                Place::Field(name) => alone(headers, name)?,
            };
            match (here, &found) {
                (Some(_), Some(_)) => return Err(AMBIGUOUS),
                (Some(token), None) => found = Some((token, place.clone())),
                (None, _) => {}
            }
        }
        Ok(found)
    }

    /// Where tokens stand, one place perhaps several times.
    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        self.issuers.iter().map(|issuer| &issuer.place)
    }

    /// The fields in which tokens of an issuer stand.
    pub(crate) fn token_fields(&self) -> &TokenFields {
        &self.token_fields
    }

    /// Where an issuer's tokens stand.
    pub(super) fn place_of(&self, identity: &Identity) -> Option<&Place> {
        let own = &identity.origin.user.issuer;
        self.issuers.iter().find(|issuer| issuer.said.name == *own).map(|issuer| &issuer.place)
    }
}

impl Place {
    /// Takes the token out of a request.
    pub(super) fn strip(&self, headers: &mut HeaderMap) {
        match self {
            Self::Bearer => drop(headers.remove(header::AUTHORIZATION)),
            Self::Field(name) => {
                let spelled: Vec<HeaderName> = headers
                    .keys()
                    .filter(|found| is_any_spelling_of(found.as_str(), name))
                    .cloned()
                    .collect();
                for name in spelled {
                    headers.remove(name);
                }
            }
        }
    }
}

pub(super) fn place(header: Option<&str>) -> Place {
    header.map_or(Place::Bearer, |name| Place::Field(name.into()))
}

/// The token of `Authorization: Bearer` (RFC 6750 §2.1). Other schemes are the app's own, but none that has the word
/// anywhere else: apps are known that look for it after white space, Unicode's too, or after a comma, and would find a
/// token that nobody has verified.
pub(super) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, &'static str> {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    if !headers.get_all(header::AUTHORIZATION).iter().any(|line| names_bearer(line.as_bytes())) {
        return Ok(None);
    }
    let (Some(line), None) = (lines.next(), lines.next()) else { return Err(AMBIGUOUS) };
    let text = line.to_str().map_err(|_| reason::MALFORMED)?;
    let (scheme, token) = text.split_once(SPACE).ok_or(reason::MALFORMED)?;
    if !scheme.eq_ignore_ascii_case(BEARER) || names_bearer(token.as_bytes()) {
        return Err(reason::MALFORMED);
    }
    Ok(Some(token.trim_matches(SPACE)))
}

const BEARER: &str = "bearer";
/// What stands between words of a field.
const SPACE: [char; 2] = [' ', '\t'];

/// Whether the word stands in a value by itself.
fn names_bearer(value: &[u8]) -> bool {
    let mut words = value.split(|byte| !byte.is_ascii_alphanumeric());
    words.any(|word| word.eq_ignore_ascii_case(BEARER.as_bytes()))
}

/// The token that a field holds alone, however it is spelled. Some write it there as they would in `Authorization`.
fn alone<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, &'static str> {
    let mut lines =
        headers.iter().filter(|(found, _)| is_any_spelling_of(found.as_str(), name)).map(|(_, value)| value);
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(AMBIGUOUS);
    }
    let text = line.to_str().map_err(|_| reason::MALFORMED)?.trim_matches(SPACE);
    Ok(Some(match text.split_once(SPACE) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(BEARER) => token.trim_matches(SPACE),
        _ => text,
    }))
}
