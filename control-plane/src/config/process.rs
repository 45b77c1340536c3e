//! Settings from the flags and the environment of this process.

use std::collections::BTreeMap;
use std::path::Path;

use super::{ConfigError, Flags, Settings};

impl Settings {
    /// Reads all settings: flags that are given once, flags that may be given several times, the environment, and a file.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn of_process(
        once: BTreeMap<&'static str, Option<String>>,
        many: impl IntoIterator<Item = (&'static str, Vec<String>)>,
        file: Option<&Path>,
    ) -> Result<Self, ConfigError> {
        let once = once.into_iter().filter_map(|(name, value)| value.map(|value| (name, vec![value])));
        let flags: Flags = once.chain(many).collect();
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| {
                Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
            })
            .collect();
        Self::load(&flags, &variables, file)
    }
}
