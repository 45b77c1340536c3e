//! Where settings come from, and the list of what is wrong with them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{ConfigError, Flags, Mistake, NAMES};

/// Variables of ours that are no settings of the control plane: `HAUBERK_CONFIG` names the file, `HAUBERK_HOME` and
/// `HAUBERK_CONTEXT` belong to the command line.
const OTHER_VARIABLES: &[&str] = &["HAUBERK_CONFIG", "HAUBERK_HOME", "HAUBERK_CONTEXT"];

/// A value of a setting and the place it stands at.
struct Given {
    place: String,
    texts: Vec<String>,
}

/// The three sources, and the mistakes found in them so far.
pub(super) struct Sources<'a> {
    flags: &'a Flags,
    variables: &'a BTreeMap<String, String>,
    file: Option<PathBuf>,
    table: toml::Table,
    mistakes: Vec<Mistake>,
}

impl<'a> Sources<'a> {
    pub(super) fn open(
        flags: &'a Flags,
        variables: &'a BTreeMap<String, String>,
        file: Option<&Path>,
    ) -> Self {
        let file = file
            .map(Path::to_owned)
            .or_else(|| variables.get("HAUBERK_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from));
        let mut sources = Self { flags, variables, file, table: toml::Table::new(), mistakes: Vec::new() };
        sources.read_file();
        sources.check_variables();
        sources
    }

    pub(super) fn file(&self) -> Option<PathBuf> {
        self.file.clone()
    }

    /// A setting of one value.
    pub(super) fn one<T>(&mut self, name: &str, default: T, parse: impl Fn(&str) -> Result<T, String>) -> T {
        let Some(given) = self.given(name) else { return default };
        let [text] = given.texts.as_slice() else {
            self.mistake(given.place, "takes exactly one value".to_owned());
            return default;
        };
        match parse(text) {
            Ok(value) => value,
            Err(message) => {
                self.mistake(given.place, message);
                default
            }
        }
    }

    /// A setting of any number of values; in a variable they are separated by commas.
    pub(super) fn many<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let Some(given) = self.given(name) else { return Vec::new() };
        let mut values = Vec::new();
        for text in given.texts.iter().flat_map(|text| text.split(',')).map(str::trim) {
            match parse(text) {
                Ok(value) => values.push(value),
                Err(message) => self.mistake(given.place.clone(), message),
            }
        }
        values
    }

    /// Says that a setting that was given cannot do without another. Of one that was given and is wrong, that is said alone.
    pub(super) fn needs(&mut self, name: &str, other: &str) {
        if self.place(other).is_some() {
            return;
        }
        let place = self.place(name).unwrap_or_else(|| format!("--{name}"));
        self.mistake(place, format!("is of no use without {other}"));
    }

    /// Says that a setting that was given cannot be with another.
    pub(super) fn excludes(&mut self, name: &str, other: &str) {
        let place = self.place(name).unwrap_or_else(|| format!("--{name}"));
        self.mistake(place, format!("cannot be given with {other}: choose one of them"));
    }

    pub(super) fn finish(self) -> Result<(), ConfigError> {
        if self.mistakes.is_empty() { Ok(()) } else { Err(ConfigError { mistakes: self.mistakes }) }
    }

    /// Where a setting stands that was given, rightly or not.
    fn place(&self, name: &str) -> Option<String> {
        let variable = variable_name(name);
        if self.flags.get(name).is_some_and(|texts| !texts.is_empty()) {
            Some(format!("--{name}"))
        } else if self.variables.contains_key(&variable) {
            Some(variable)
        } else {
            self.table.contains_key(name).then(|| self.file_place(name))
        }
    }

    fn given(&mut self, name: &str) -> Option<Given> {
        if let Some(texts) = self.flags.get(name).filter(|texts| !texts.is_empty()) {
            return Some(Given { place: format!("--{name}"), texts: texts.clone() });
        }
        let variable = variable_name(name);
        if let Some(text) = self.variables.get(&variable) {
            return Some(Given { place: variable, texts: vec![text.clone()] });
        }
        let value = self.table.get(name)?.clone();
        let place = self.file_place(name);
        match file_texts(&value) {
            Some(texts) => Some(Given { place, texts }),
            None => {
                self.mistake(place, format!("a {} is no value for this", value.type_str()));
                None
            }
        }
    }

    fn read_file(&mut self) {
        let Some(path) = self.file.clone() else { return };
        let place = path.display().to_string();
        match std::fs::read_to_string(&path) {
            Err(error) => self.mistake(place, format!("cannot be read: {error}")),
            Ok(text) => match text.parse::<toml::Table>() {
                Err(error) => self.mistake(place, format!("is not TOML: {}", error.to_string().trim_end())),
                Ok(table) => {
                    for key in table.keys().filter(|key| !NAMES.contains(&key.as_str())) {
                        let message = format!("is no setting{}", did_you_mean(key, NAMES.iter().copied()));
                        let place = self.file_place(key);
                        self.mistake(place, message);
                    }
                    self.table = table;
                }
            },
        }
    }

    /// A variable that is nearly one of ours is taken for a slip of the keyboard. Others are let be: orchestrators
    /// add variables named after services, which may begin with our name.
    fn check_variables(&mut self) {
        let ours: Vec<String> = NAMES.iter().map(|name| variable_name(name)).collect();
        for variable in self.variables.keys().filter(|variable| variable.starts_with("HAUBERK_")) {
            if ours.contains(variable) || OTHER_VARIABLES.contains(&variable.as_str()) {
                continue;
            }
            if let Some(near) = ours.iter().find(|name| strsim::damerau_levenshtein(name, variable) <= 2) {
                self.mistakes.push(Mistake {
                    place: variable.clone(),
                    message: format!("is no setting; did you mean {near}?"),
                });
            }
        }
    }

    fn file_place(&self, name: &str) -> String {
        let file = self.file.as_deref().unwrap_or(Path::new("file"));
        format!("{}: {name}", file.display())
    }

    fn mistake(&mut self, place: String, message: String) {
        self.mistakes.push(Mistake { place, message });
    }
}

fn variable_name(name: &str) -> String {
    format!("HAUBERK_{}", name.to_uppercase().replace('-', "_"))
}

fn file_texts(value: &toml::Value) -> Option<Vec<String>> {
    match value {
        toml::Value::String(text) => Some(vec![text.clone()]),
        toml::Value::Array(values) => values.iter().map(|value| value.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

fn did_you_mean<'a>(wrong: &str, right: impl Iterator<Item = &'a str>) -> String {
    let wrong = wrong.to_lowercase().replace('_', "-");
    right
        .map(|name| (strsim::damerau_levenshtein(name, &wrong), name))
        .min()
        .filter(|(distance, name)| *distance <= name.len() / 3)
        .map(|(_, name)| format!("; did you mean {name}?"))
        .unwrap_or_default()
}
