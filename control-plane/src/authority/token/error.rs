//! What can be wrong with a token, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cryptoki::error::Error;
use hauberk_tls::KeyError;

use crate::random::NoRandomness;

/// A token that does not do what is asked of it.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// What talks to the token cannot be loaded, or does not begin.
    #[error("the PKCS#11 module {} cannot be used: {reason}: see --pkcs11-module", .path.display())]
    Module {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// None is called so.
    #[error(
        "the PKCS#11 module {} has no token that is labelled {label:?}, but {found}: see --pkcs11-token",
        .module.display()
    )]
    NoToken {
        /// Which was asked.
        module: PathBuf,
        /// What was looked for.
        label: String,
        /// What there is.
        found: String,
    },
    /// Several are called so.
    #[error(
        "the PKCS#11 module {} has several tokens that are labelled {label:?} ({}): give the others another label",
        .module.display(), .serials.join(", ")
    )]
    Ambiguous {
        /// Which was asked.
        module: PathBuf,
        /// What was looked for.
        label: String,
        /// Their serial numbers.
        serials: Vec<String>,
    },
    /// It does not do what authorities need.
    #[error("the token {label:?} cannot {what} keys on P-256 ({mechanism}): authorities need another token")]
    Incapable {
        /// Which token.
        label: String,
        /// What it cannot do.
        what: &'static str,
        /// As the standard calls it.
        mechanism: &'static str,
    },
    /// The PIN's file cannot be read.
    #[error("the PIN file {} cannot be read", .path.display())]
    PinFile {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others can read or change the PIN's file.
    #[error(
        "the PIN file {} has mode {mode:04o}: others may read or change it. Run `chmod 600` on it, and ask yourself who \
         has read it",
        .path.display()
    )]
    PinExposed {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The PIN's file holds none.
    #[error("the PIN file {} does not hold one line of text", .0.display())]
    NoPin(PathBuf),
    /// The PIN is wrong, or has been at the last attempt.
    #[error(
        "the token {label:?} refuses the PIN in {} ({reason}): put the right one there. This one is not tried again, since \
         tokens lock after a few wrong ones",
        .path.display()
    )]
    PinRefused {
        /// Which token.
        label: String,
        /// Where the PIN was read.
        path: PathBuf,
        /// What the token says.
        reason: String,
    },
    /// Too many wrong ones were tried.
    #[error("the PIN of the token {0:?} is locked: its security officer can set it anew")]
    PinLocked(String),
    /// A wrong one would lock the token.
    #[error(
        "the token {0:?} locks with the next wrong PIN, so none is tried: log in to it once by hand, such as with `pkcs11-tool \
         --login --list-objects`"
    )]
    LastTry(String),
    /// It is away, has lost its sessions, or is broken.
    #[error("the token {label:?} fails: {reason}. See whether it is there, and what its own log says")]
    Failed {
        /// Which token.
        label: String,
        /// What it says.
        reason: String,
    },
    /// It hangs.
    #[error("the token {label:?} has not answered within {within:?}: see whether it is there")]
    Late {
        /// Which token.
        label: String,
        /// How long it was waited.
        within: Duration,
    },
    /// It has more to do than it can.
    #[error("the token {0:?} has more to sign than it can just now: try again")]
    Busy(String),
    /// It has failed, and does not work again yet.
    #[error("{0}")]
    OutOfOrder(Arc<str>),
    /// A key is not there.
    #[error(
        "the token {label:?} (serial number {serial}) has no private key with the id {id}: was it initialized anew, or the key \
         deleted? Restore the token's backup"
    )]
    NoKey {
        /// Which token.
        label: String,
        /// Its serial number.
        serial: String,
        /// The key's CKA_ID, hexadecimal.
        id: String,
    },
    /// Several keys have one id.
    #[error(
        "the token {label:?} has several private keys with the id {id}: delete those that are not the authority's"
    )]
    SeveralKeys {
        /// Which token.
        label: String,
        /// Their CKA_ID, hexadecimal.
        id: String,
    },
    /// A new key is not what it should be.
    #[error(
        "the token {label:?} made a key that {what}: authorities need another token, or other settings of it"
    )]
    BadKey {
        /// Which token.
        label: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A new key's public part cannot be read.
    #[error("the token {label:?} tells no public key on P-256 for a new key")]
    PublicKey {
        /// Which token.
        label: String,
        /// Why not.
        source: KeyError,
    },
    /// No id for a key can be made.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// What a module says, by the standard's names: `C_Sign says CKR_DEVICE_REMOVED`. The library tells the standard's whole
/// paragraph about each.
pub(super) fn said(error: &Error) -> String {
    match error {
        Error::Pkcs11(code, function) => {
            let name = format!("{code:?}");
            let mut spelt = String::from("CKR");
            for letter in name.chars() {
                if letter.is_ascii_uppercase() {
                    spelt.push('_');
                }
                spelt.push(letter.to_ascii_uppercase());
            }
            format!("C_{function:?} says {spelt}")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use cryptoki::context::Function;
    use cryptoki::error::RvError;

    use super::*;

    #[test]
    fn what_a_module_says_is_told_by_the_standards_names() {
        let told = |code| said(&Error::Pkcs11(code, Function::OpenSession));
        assert_eq!(told(RvError::DeviceRemoved), "C_OpenSession says CKR_DEVICE_REMOVED");
        assert_eq!(told(RvError::SessionHandleInvalid), "C_OpenSession says CKR_SESSION_HANDLE_INVALID");
        assert_eq!(said(&Error::MissingSymbol("C_Sign")), "Missing PKCS#11 symbol: C_Sign");
    }
}
