//! `init`: founds an installation in an empty place.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hauberk_identity::{Name, NameError, TrustDomain, UnixMillis};
use hauberk_tls::{CertificateRequest, CsrError, KeyError, KeyPair};

use crate::admins::{AdminError, Context, ContextFileError, Credential, Role, add_context};
use crate::app::{AppError, ControlPlane, reachable};
use crate::audit::Actor;
use crate::authority::{
    self, AuthorityError, KeyEncryptionKey, KeyStore, MadeKeys, SealError, Token, TokenError,
};
use crate::clock::Clock;
use crate::config::Settings;
use crate::private_file;
use crate::registry::{OpenError, SledStore, Store, StoreError};
use crate::telemetry::LogControl;

/// Stands in the data directory while `init` is at work.
pub(crate) const UNFINISHED_MARKER: &str = "init-unfinished";

/// The name of the first admin.
pub const FIRST_ADMIN: &str = "admin";

/// An installation that was not founded.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Somebody uses the directory.
    #[error("{} is not empty: it is not overwritten. Choose another --data-dir, or remove it", .0.display())]
    NotEmpty(PathBuf),
    /// A former attempt was killed.
    #[error("an earlier `init` did not finish in {}: remove that directory and run `init` again", .0.display())]
    Unfinished(PathBuf),
    /// A key of another installation may stand there.
    #[error(
        "{} exists: `init` makes a new key and overwrites nothing. Choose another --kek-file, or remove it if no \
         installation needs it",
        .0.display()
    )]
    KeyExists(PathBuf),
    /// The file system refuses.
    #[error("cannot write {}", .path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The key-encryption key could not be made.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The registry could not be made.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The registry failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The token is missing, or does not do what is needed.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The authorities could not be made.
    #[error("the authorities could not be made")]
    Authority(#[from] AuthorityError),
    /// The parts do not fit together.
    #[error(transparent)]
    App(#[from] AppError),
    /// The first admin could not be made.
    #[error("the first admin could not be made")]
    Admin(#[from] AdminError),
    /// Its name is none.
    #[error("the first admin has no name")]
    Name(#[from] NameError),
    /// Its key could not be made.
    #[error("the first admin's key could not be made")]
    Key(#[from] KeyError),
    /// Its request could not be made.
    #[error("the first admin's request could not be made")]
    Request(#[from] CsrError),
    /// All is founded, but the credential could not be handed over.
    #[error(
        "the installation is complete, but its first credential could not be written: run `{next}` while the \
             control plane runs"
    )]
    Context {
        /// What to do about it.
        next: String,
        /// Why not.
        source: ContextFileError,
    },
}

/// What was founded, to be told to the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Founded {
    /// SHA-256 of the root.
    pub root_fingerprint: String,
    /// When the first credential expires.
    pub credential_not_after: UnixMillis,
    /// The token in which the authorities' keys are, if in one: its label and serial number.
    pub token: Option<(String, String)>,
}

/// Whether a whole installation stands in the data directory. Of its contents nothing is read: a running control plane
/// holds the registry's lock.
///
/// # Errors
/// An earlier `init` did not finish there.
pub fn is_founded(settings: &Settings) -> Result<bool, InitError> {
    if settings.data_dir.join(UNFINISHED_MARKER).exists() {
        return Err(InitError::Unfinished(settings.data_dir.clone()));
    }
    Ok(settings.registry_directory().is_dir())
}

/// Founds an installation and writes the first admin's context.
///
/// # Errors
/// When anything is there already, or cannot be made: then what was made is taken away again. Where that cannot be either, the
/// directory says so to later commands.
pub async fn init(
    settings: Settings,
    trust_domain: &TrustDomain,
    context: &str,
    context_file: &Path,
    clock: Clock,
) -> Result<Founded, InitError> {
    let data_dir = settings.data_dir.clone();
    let marker = data_dir.join(UNFINISHED_MARKER);
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| InitError::Io { path, source }
    };
    if marker.exists() {
        return Err(InitError::Unfinished(data_dir));
    }
    private_file::create_directory(&data_dir).map_err(failed(&data_dir))?;
    private_file::restrict_directory(&data_dir).map_err(failed(&data_dir))?;
    if std::fs::read_dir(&data_dir).map_err(failed(&data_dir))?.next().is_some() {
        return Err(InitError::NotEmpty(data_dir));
    }
    // Before anything is written: what was begun would have to be removed.
    if settings.kek_file.exists() {
        return Err(InitError::KeyExists(settings.kek_file));
    }
    SledStore::check_room_to_found(&data_dir)?;
    let token = Token::open_if(settings.token.as_ref()).await?;
    private_file::create(&marker, b"").map_err(failed(&marker))?;

    let server = reachable(settings.admin_listen).to_string();
    let mut begun = Begun::new(&settings);
    let outcome = match found(settings, trust_domain, token, clock, &mut begun).await {
        Ok(founded) => std::fs::remove_file(&marker).map_err(failed(&marker)).map(|()| founded),
        Err(error) => Err(error),
    };
    let (control, credential, key) = match outcome {
        Ok(founded) => founded,
        Err(error) => {
            begun.take_back(&marker).await;
            return Err(error);
        }
    };

    let socket_command =
        format!("hauberk-control-plane admin issue {FIRST_ADMIN} --data-dir {}", data_dir.display());
    let token = control.authority.token().map(|token| (token.label().to_owned(), token.serial().to_owned()));
    let founded = Founded {
        token,
        root_fingerprint: control.authority.root_fingerprint(),
        credential_not_after: credential.issued.svid.validity().not_after(),
    };
    let written = context_of(&control, &credential, &key, server);
    add_context(context_file, context, &written)
        .map_err(|source| InitError::Context { next: socket_command, source })?;
    Ok(founded)
}

/// What was made so far of an installation that may yet not be founded.
struct Begun {
    kek_file: PathBuf,
    has_kek: bool,
    registry_directory: PathBuf,
    registry: Option<Arc<SledStore>>,
    keys: Option<(KeyStore, MadeKeys)>,
}

impl Begun {
    fn new(settings: &Settings) -> Self {
        Self {
            kek_file: settings.kek_file.clone(),
            has_kek: false,
            registry_directory: settings.registry_directory(),
            registry: None,
            keys: None,
        }
    }

    /// Takes all of it away, so that `init` may be run again. Where that fails the marker stays, and says so.
    async fn take_back(self, marker: &Path) {
        let Self { kek_file, has_kek, registry_directory, registry, keys } = self;
        if let Some((store, made)) = keys {
            made.destroy(&store).await;
        }
        if let Some(registry) = registry {
            registry.close().await;
        }
        let is_gone = |removed: io::Result<()>| match removed {
            Err(error) => error.kind() == io::ErrorKind::NotFound,
            Ok(()) => true,
        };
        let is_all_gone = is_gone(std::fs::remove_dir_all(&registry_directory))
            && (!has_kek || is_gone(std::fs::remove_file(&kek_file)));
        if is_all_gone {
            let _stays = std::fs::remove_file(marker);
        }
    }
}

async fn found(
    settings: Settings,
    trust_domain: &TrustDomain,
    token: Option<Arc<Token>>,
    clock: Clock,
    begun: &mut Begun,
) -> Result<(Arc<ControlPlane>, Credential, KeyPair), InitError> {
    let kek = KeyEncryptionKey::create(&settings.kek_file);
    // One that came to be there meanwhile is another's; what could be written in part only is ours.
    begun.has_kek =
        !matches!(&kek, Err(SealError::File { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists);
    let keys = KeyStore::new(Arc::new(kek?), token);
    let registry = Arc::new(SledStore::create(&settings.registry_directory())?);
    begun.registry = Some(Arc::clone(&registry));
    let sans = settings.sans.iter().map(ToString::to_string).collect();
    let (founding, authority, made) = authority::found(trust_domain, sans, &keys, clock.now()).await?;
    begun.keys = Some((keys.clone(), made));
    registry.commit(founding).await?;

    let log = LogControl::detached();
    let control = ControlPlane::assemble(settings, clock, log, registry, authority.into(), keys).await?;
    let key = KeyPair::generate()?;
    let actor = Actor { name: "init".to_owned(), source: "local".to_owned() };
    let csr = CertificateRequest::create(&key)?;
    let credential =
        control.admins.issue_locally(&Name::parse(FIRST_ADMIN)?, &[Role::Owner], &csr, &actor).await?;
    control.store.close().await;
    Ok((control, credential, key))
}

fn context_of(control: &ControlPlane, credential: &Credential, key: &KeyPair, server: String) -> Context {
    Context {
        server,
        trust_domain: control.authority.trust_domain().to_string(),
        bundle_pem: control.authority.bundle().to_pem(),
        certificate_pem: credential.issued.svid.to_pem(),
        key_pem: key.to_pkcs8_pem().to_string(),
        admin: credential.admin.name.to_string(),
    }
}
