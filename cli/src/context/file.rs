//! The context file: 0600, replaced as a whole, changed under a lock.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::nearest::suggestion;

/// The environment variable with the folder of `contexts.toml`.
const HOME: &str = "HAUBERK_HOME";

/// One control plane and one admin's credential for it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Context {
    /// Host:port of the admin API.
    pub(crate) server: String,
    pub(crate) trust_domain: String,
    /// The roots that the server's certificate must come from.
    pub(crate) bundle_pem: String,
    /// The admin's certificate chain.
    pub(crate) certificate_pem: String,
    /// Its key, PKCS#8.
    pub(crate) key_pem: String,
    /// The admin's name.
    pub(crate) admin: String,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, trust_domain, admin, .. } = self;
        f.debug_struct("Context")
            .field("server", server)
            .field("trust_domain", trust_domain)
            .field("admin", admin)
            .finish_non_exhaustive()
    }
}

/// Every context that this user has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Contexts {
    /// The one that is meant where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// Why there is no usable context. The fault is the user's configuration or the file system's.
#[derive(Debug, Error)]
pub(crate) enum ContextError {
    /// There is no context at all.
    #[error("no control plane is known yet: {} holds no context", path.display())]
    None { path: PathBuf },
    /// No context is current, or the named one is not there.
    #[error("{0}")]
    Unknown(String),
    /// Neither HAUBERK_HOME nor HOME says where the file is.
    #[error("neither HAUBERK_HOME nor HOME is set, so there is no place for contexts")]
    NoHome,
    /// The file cannot be read or written.
    #[error("cannot {verb} {}: {source}", path.display())]
    Io { verb: &'static str, path: PathBuf, source: std::io::Error },
    /// The file is not what it should be.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    /// The certificate has run out.
    #[error("the credential of context `{context}` expired {ago} ago")]
    Expired { context: String, admin: String, ago: String },
    /// The certificate, key or bundle cannot be used.
    #[error("the credential of context `{context}` cannot be used: {reason}")]
    Unusable { context: String, reason: String },
}

impl ContextError {
    /// What the user can do.
    pub(crate) fn help(&self) -> Vec<String> {
        match self {
            Self::None { .. } => vec![
                "on the control plane's host:  hauberk-control-plane init --data-dir DIR --trust-domain NAME".to_owned(),
                "elsewhere, with a login token: hauberk login --server HOST:PORT --root-fingerprint HEX --token-file FILE".to_owned(),
                "to look around first:          hauberk demo up".to_owned(),
            ],
            Self::Expired { admin, .. } => vec![
                format!("on the control plane's host: hauberk-control-plane admin issue {admin}"),
                format!(
                    "elsewhere: an owner makes you anew (hauberk admin delete {admin}; hauberk admin create {admin} --role ROLE), \
                     and you run the hauberk login that this prints"
                ),
            ],
            Self::Unknown(_) => vec!["hauberk context list shows those there are".to_owned()],
            _ => Vec::new(),
        }
    }
}

/// The file and its folder.
#[derive(Debug, Clone)]
pub(crate) struct ContextStore {
    folder: PathBuf,
}

impl ContextStore {
    /// In `HAUBERK_HOME`, else `~/.config/hauberk`.
    ///
    /// # Errors
    /// Neither variable is set.
    pub(crate) fn of_user() -> Result<Self, ContextError> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        match (set(HOME), set("HOME")) {
            (Some(folder), _) => Ok(Self { folder }),
            (None, Some(home)) => Ok(Self { folder: home.join(".config/hauberk") }),
            (None, None) => Err(ContextError::NoHome),
        }
    }

    /// In this folder.
    #[cfg(test)]
    pub(crate) fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Where the contexts are.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join("contexts.toml")
    }

    /// Reads the contexts; none where there is no file.
    ///
    /// # Errors
    /// The file cannot be read or is damaged.
    pub(crate) fn load(&self) -> Result<Contexts, ContextError> {
        let path = self.path();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Contexts::default()),
            Err(source) => return Err(ContextError::Io { verb: "read", path, source }),
        };
        // The message of the parser quotes the text around, which may be a key: only its place is told.
        toml::from_str(&text).map_err(|error: toml::de::Error| {
            let line = error
                .span()
                .map_or(1, |span| text.get(..span.start).map_or(1, |before| before.lines().count()));
            ContextError::Damaged { path, reason: format!("{} (near line {line})", error.message()) }
        })
    }

    /// The named context, else the current one.
    ///
    /// # Errors
    /// There is none, or none of that name.
    pub(crate) fn select(&self, name: Option<&str>) -> Result<(String, Context), ContextError> {
        let Contexts { current, contexts } = self.load()?;
        if contexts.is_empty() {
            return Err(ContextError::None { path: self.path() });
        }
        let Some(name) = name.map(str::to_owned).or(current) else {
            return Err(ContextError::Unknown(
                "no context is current: choose one with hauberk context use NAME".to_owned(),
            ));
        };
        match contexts.get(&name) {
            Some(context) => Ok((name, context.clone())),
            None => {
                let nearest = suggestion(&name, contexts.keys().map(String::as_str));
                Err(ContextError::Unknown(format!("there is no context `{name}`{nearest}")))
            }
        }
    }

    /// Changes the contexts, against others who do so at the same time.
    ///
    /// # Errors
    /// The file cannot be read or written, or is damaged.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut Contexts) -> T) -> Result<T, ContextError> {
        let _held_until_return = self.lock()?;
        let mut contexts = self.load()?;
        let result = change(&mut contexts);
        self.save(&contexts)?;
        Ok(result)
    }

    /// Takes the lock of that name if nobody has it.
    ///
    /// # Errors
    /// The lock file cannot be made.
    pub(crate) fn try_lock(&self, name: &str) -> Result<Option<File>, ContextError> {
        let file = self.lock_file(name)?;
        Ok(file.try_lock().is_ok().then_some(file))
    }

    fn lock(&self) -> Result<File, ContextError> {
        let file = self.lock_file("contexts.toml.lock")?;
        file.lock().map_err(|source| ContextError::Io { verb: "lock", path: self.path(), source })?;
        Ok(file)
    }

    fn lock_file(&self, name: &str) -> Result<File, ContextError> {
        let io = |verb, path: &Path| {
            let path = path.to_owned();
            move |source| ContextError::Io { verb, path, source }
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(io("make", &self.folder))?;
        let path = self.folder.join(name);
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(io("open", &path))
    }

    fn save(&self, contexts: &Contexts) -> Result<(), ContextError> {
        let path = self.path();
        let io = |source| ContextError::Io { verb: "write", path: path.clone(), source };
        let text = toml::to_string(contexts)
            .map_err(|error| ContextError::Damaged { path: path.clone(), reason: error.to_string() })?;
        write_private(&path, text.as_bytes()).map_err(io)
    }
}

/// Writes a file that only its owner can read, as a whole or not at all.
///
/// # Errors
/// The file system refuses.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let draft = path.with_file_name(format!(".{name}.{}.new", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&draft, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        let _best_effort = std::fs::remove_file(&draft);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(server: &str) -> Context {
        Context {
            server: server.to_owned(),
            trust_domain: "shop.local".to_owned(),
            bundle_pem: "B".to_owned(),
            certificate_pem: "C".to_owned(),
            key_pem: "secret".to_owned(),
            admin: "admin".to_owned(),
        }
    }

    #[test]
    fn the_file_is_private_and_keeps_other_contexts() {
        let folder = tempfile::tempdir().unwrap();
        let store = ContextStore::at(&folder.path().join("hauberk"));
        assert!(matches!(store.select(None), Err(ContextError::None { .. })));
        for name in ["demo", "shop"] {
            store
                .update(|contexts| {
                    contexts.contexts.insert(name.to_owned(), context(name));
                    contexts.current = Some(name.to_owned());
                })
                .unwrap();
        }
        let mode = std::fs::metadata(store.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let folder_mode = std::fs::metadata(store.path().parent().unwrap()).unwrap().permissions().mode();
        assert_eq!(folder_mode & 0o777, 0o700);
        assert_eq!(store.select(None).unwrap().0, "shop");
        assert_eq!(store.select(Some("demo")).unwrap().1.server, "demo");
        let error = store.select(Some("dem")).unwrap_err();
        assert_eq!(error.to_string(), "there is no context `dem`; did you mean `demo`?");
    }

    #[test]
    fn a_damaged_file_is_named_without_its_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let store = ContextStore::at(folder.path());
        std::fs::write(store.path(), "[contexts.demo]\nkey_pem = \"secret\n").unwrap();
        let error = store.load().unwrap_err().to_string();
        assert!(error.contains("is damaged") && !error.contains("secret"), "{error}");
        assert!(!format!("{:?}", context("x")).contains("secret"));
    }
}
