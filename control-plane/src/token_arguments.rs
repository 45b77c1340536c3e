//! Arguments of `init` and `run` about the PKCS#11 token in which authorities' keys are made.

use clap::Args;

// No doc comment: it would become that of the command.
#[derive(Args)]
pub(crate) struct TokenArguments {
    /// The PKCS#11 module of the token in which the authorities' keys are made, such as
    /// /usr/lib/softhsm/libsofthsm2.so [default: keys are sealed in the data directory] [env: HAUBERK_PKCS11_MODULE]
    #[arg(long, value_name = "FILE")]
    pkcs11_module: Option<String>,
    /// The label of that token [env: HAUBERK_PKCS11_TOKEN]
    #[arg(long, value_name = "LABEL")]
    pkcs11_token: Option<String>,
    /// The file that holds the PIN of the token's user, one line that others cannot read [env: HAUBERK_PKCS11_PIN_FILE]
    #[arg(long, value_name = "FILE")]
    pkcs11_pin_file: Option<String>,
}

impl TokenArguments {
    /// The settings that were given, by their names.
    pub(crate) fn flags(self) -> [(&'static str, Option<String>); 3] {
        let Self { pkcs11_module, pkcs11_token, pkcs11_pin_file } = self;
        [
            ("pkcs11-module", pkcs11_module),
            ("pkcs11-token", pkcs11_token),
            ("pkcs11-pin-file", pkcs11_pin_file),
        ]
    }
}
