//! Logging in, with a PIN that is never tried again once it was refused.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::TokenInfo;
use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

use super::error::{TokenError, said};
use crate::private_file;

/// The PIN, read from its file each time that it is needed.
pub(super) struct Pin {
    file: PathBuf,
    /// The one that the token has refused. Held while one logs in, so that two do not try the same.
    refused: Mutex<Option<Zeroizing<String>>>,
}

impl Pin {
    pub(super) fn in_file(file: PathBuf) -> Self {
        Self { file, refused: Mutex::default() }
    }

    /// Logs the process in, unless it is: all sessions of a token share that.
    pub(super) fn log_in(&self, session: &Session, token: &TokenInfo) -> Result<(), TokenError> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let label = || token.label().to_owned();
        let failed = |error| TokenError::Failed { label: label(), reason: said(&error) };
        let state = session.get_session_info().map_err(failed)?.session_state();
        if !token.login_required() || matches!(state, SessionState::RoUser | SessionState::RwUser) {
            return Ok(());
        }
        let pin = self.read()?;
        if refused.as_ref() == Some(&pin) {
            let reason = "it has refused it before".to_owned();
            return Err(TokenError::PinRefused { label: label(), path: self.file.clone(), reason });
        }
        if token.user_pin_locked() {
            return Err(TokenError::PinLocked(label()));
        }
        if token.user_pin_final_try() {
            return Err(TokenError::LastTry(label()));
        }
        match session.login(UserType::User, Some(&AuthPin::from(pin.as_str()))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                *refused = None;
                Ok(())
            }
            Err(Error::Pkcs11(RvError::PinLocked, _)) => {
                *refused = Some(pin);
                Err(TokenError::PinLocked(label()))
            }
            Err(error) if is_about_the_pin(&error) => {
                *refused = Some(pin);
                let reason = said(&error);
                Err(TokenError::PinRefused { label: label(), path: self.file.clone(), reason })
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn read(&self) -> Result<Zeroizing<String>, TokenError> {
        let path = &self.file;
        let failed = |source| TokenError::PinFile { path: path.clone(), source };
        if let Some(mode) = private_file::exposed(path).map_err(failed)? {
            return Err(TokenError::PinExposed { path: path.clone(), mode });
        }
        let text = Zeroizing::new(std::fs::read_to_string(path).map_err(failed)?);
        let pin = text.strip_suffix('\n').unwrap_or(&text);
        let pin = pin.strip_suffix('\r').unwrap_or(pin);
        if pin.is_empty() || pin.contains(char::is_control) {
            return Err(TokenError::NoPin(path.clone()));
        }
        Ok(Zeroizing::new(pin.to_owned()))
    }
}

/// Codes of vendors may mean anything: who tries the same again may lock the token.
fn is_about_the_pin(error: &Error) -> bool {
    let Error::Pkcs11(code, _) = error else { return false };
    matches!(
        code,
        RvError::PinIncorrect
            | RvError::PinInvalid
            | RvError::PinLenRange
            | RvError::PinExpired
            | RvError::UserPinNotInitialized
            | RvError::VendorDefined(_)
    )
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_pin_is_one_line_that_others_cannot_read() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pin");
        let pin = Pin::in_file(file.clone());
        assert!(matches!(pin.read(), Err(TokenError::PinFile { .. })));
        for (text, wanted) in [
            ("1234", Some("1234")),
            ("1234\n", Some("1234")),
            ("1234\r\n", Some("1234")),
            (" 12 34 \n", Some(" 12 34 ")),
            ("1234\n\n", None),
            ("1234\n5678\n", None),
            ("\n", None),
            ("", None),
        ] {
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
            assert_eq!(pin.read().ok().as_deref().map(String::as_str), wanted, "{text:?}");
        }
        for mode in [0o644, 0o660, 0o602] {
            std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            assert!(matches!(pin.read(), Err(TokenError::PinExposed { .. })), "{mode:o}");
        }
    }
}
