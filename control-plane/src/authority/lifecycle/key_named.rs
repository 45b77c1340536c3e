//! Which kind of key somebody means by what `hauberk authority list` calls a serial.

use super::Authorities;

/// The digits of a view key's id. The longest serial number has 40 (RFC 5280 §4.1.2.2).
const VIEW_KEY_ID: usize = 64;

/// What an id names. Each kind has steps of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyNamed {
    /// A root or an issuing authority, by its serial number; or nothing that there is.
    Authority,
    /// A key that signs views.
    ViewKey,
    /// A key that signs tokens.
    JwtKey,
}

impl Authorities {
    /// What an id names. That of a view key is told by its form, though there may be none; that of a key for tokens may look like any
    /// serial number.
    pub fn key_named(&self, id: &str) -> KeyNamed {
        let is_of_view_key = id.len() == VIEW_KEY_ID && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_of_view_key {
            KeyNamed::ViewKey
        } else if self.parts.signing_keys.current().find(id, self.parts.clock.now()).is_some() {
            KeyNamed::JwtKey
        } else {
            KeyNamed::Authority
        }
    }
}
