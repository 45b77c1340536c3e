//! The module that talks to tokens, and which of its tokens is ours.

use std::path::PathBuf;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::Error;
use cryptoki::mechanism::MechanismType;
use cryptoki::slot::{Slot, TokenInfo};

use super::TokenSettings;
use super::error::{TokenError, said};

/// The size of keys on P-256, as mechanisms count it.
const P256_BITS: usize = 256;

/// A module that was loaded and initialized.
pub(super) struct Module {
    context: Pkcs11,
    path: PathBuf,
    label: String,
}

impl Module {
    pub(super) fn load(settings: &TokenSettings) -> Result<Self, TokenError> {
        let TokenSettings { module: path, label, .. } = settings;
        let failed = |reason| TokenError::Module { path: path.clone(), reason };
        // The loader's own words are many.
        std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
        let context = Pkcs11::new(path).map_err(|error| match error {
            Error::LibraryLoading(error) => failed(error.to_string()),
            Error::MissingSymbol(_) => failed("it is no PKCS#11 module".to_owned()),
            error => failed(said(&error)),
        })?;
        // Never unloaded: threads that used it end later, and call then what its libraries keep for them (OpenSSL does).
        std::mem::forget(context.clone());
        let module = Self { context, path: path.clone(), label: label.clone() };
        module.initialize().map_err(|error| failed(said(&error)))?;
        Ok(module)
    }

    /// What some modules need once their token was away. All sessions end, so nobody may hold one.
    pub(super) fn begin_anew(&mut self) -> Result<(), TokenError> {
        // One that cannot end was not begun.
        let _ended = self.context.clone().finalize();
        self.initialize()
            .map_err(|error| TokenError::Failed { label: self.label.clone(), reason: said(&error) })
    }

    fn initialize(&self) -> Result<(), Error> {
        self.context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
    }

    pub(super) fn context(&self) -> &Pkcs11 {
        &self.context
    }

    /// The one token of our label. Its place may be another after it was away.
    pub(super) fn token(&self) -> Result<(Slot, TokenInfo), TokenError> {
        let failed = |error: Error| TokenError::Failed { label: self.label.clone(), reason: said(&error) };
        let (mut found, mut unreadable) = (Vec::new(), None);
        for slot in self.context.get_slots_with_token().map_err(failed)? {
            match self.context.get_token_info(slot) {
                Ok(token) if token.token_initialized() => found.push((slot, token)),
                Ok(_) => {}
                Err(error) => unreadable = Some(error),
            }
        }
        let (mut ours, others): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|(_, token)| token.label() == self.label);
        match (ours.pop(), unreadable) {
            (Some(one), _) if ours.is_empty() => Ok(one),
            (Some(last), _) => {
                let serials = ours.iter().chain([&last]).map(|(_, token)| serial_of(token)).collect();
                Err(TokenError::Ambiguous { module: self.path.clone(), label: self.label.clone(), serials })
            }
            (None, Some(error)) => Err(failed(error)),
            (None, None) => Err(TokenError::NoToken {
                module: self.path.clone(),
                label: self.label.clone(),
                found: listed(others.iter().map(|(_, token)| token)),
            }),
        }
    }

    /// Whether the token can make and use keys of authorities.
    pub(super) fn check_mechanisms(&self, slot: Slot) -> Result<(), TokenError> {
        let needed = [
            ("make", "CKM_EC_KEY_PAIR_GEN", MechanismType::ECC_KEY_PAIR_GEN),
            ("sign with", "CKM_ECDSA", MechanismType::ECDSA),
        ];
        for (what, mechanism, mechanism_type) in needed {
            let takes_p256 = self.context.get_mechanism_info(slot, mechanism_type).is_ok_and(|info| {
                (info.min_key_size()..=info.max_key_size()).contains(&P256_BITS)
                    && (info.sign() || info.generate_key_pair())
            });
            if !takes_p256 {
                return Err(TokenError::Incapable { label: self.label.clone(), what, mechanism });
            }
        }
        Ok(())
    }
}

fn serial_of(token: &TokenInfo) -> String {
    format!("serial number {}", token.serial_number())
}

fn listed<'a>(tokens: impl Iterator<Item = &'a TokenInfo>) -> String {
    let listed: Vec<_> = tokens.map(|token| format!("{:?} ({})", token.label(), serial_of(token))).collect();
    if listed.is_empty() { "none at all that is initialized".to_owned() } else { listed.join(", ") }
}
