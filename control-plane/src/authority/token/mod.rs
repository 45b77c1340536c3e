//! A PKCS#11 token (an HSM, a smart card, SoftHSM) in which the keys of authorities are made, and which signs with them.
//!
//! Its module is C code in this process, whose calls wait: they are made on threads that may, by a few sessions, and whoever
//! wants a signature is told within a time what became of it. Once the token has failed, nothing is asked of it but, now and
//! then, whether it works again.

mod error;
mod login;
mod making;
mod module;
mod session;
mod watch;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};
use std::time::Duration;

use hauberk_tls::{AuthorityKey, PublicKey};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::AuthorityError;
use super::records::TokenKeyRecord;
pub use error::TokenError;
use error::said;
use login::Pin;
use making::{MAKING_DEADLINE, NewKeys};
use module::Module;
use session::KeySession;
pub use watch::watch;

/// How many threads use the token at once, each by a session of its own. Tokens have few, and few do more in parallel.
const SESSIONS: usize = 8;

/// How many signatures may be wanted at once; more wait before anything is recorded of what they are for.
const PLACES: usize = 64;

/// How long such a one waits.
const PLACE_DEADLINE: Duration = Duration::from_secs(5);

/// How long a signature may take, with those before it.
const SIGNATURE_DEADLINE: Duration = Duration::from_secs(10);

/// Of a panic in what calls the module.
const BROKE_OFF: &str = "what was asked of it broke off";

/// What the operator says of the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSettings {
    /// The PKCS#11 module: a shared library.
    pub module: PathBuf,
    /// The token's label.
    pub label: String,
    /// The file that holds the user's PIN.
    pub pin_file: PathBuf,
}

/// Which token it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    label: String,
    serial: String,
}

/// A key's CKA_ID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyId(pub(super) Vec<u8>);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The token.
pub struct Token {
    place: Place,
    /// Read by all who call it, written by whoever begins it anew.
    module: RwLock<Module>,
    pin: Pin,
    idle: Mutex<Vec<KeySession>>,
    sessions: Arc<Semaphore>,
    places: Arc<Semaphore>,
    /// Whose turn it is to make keys.
    makers: Arc<Semaphore>,
    new_keys: Mutex<NewKeys>,
    /// Why nothing is asked of it.
    out_of_order: Mutex<Option<Arc<str>>>,
    /// Somebody has seen it fail.
    doubt: Notify,
}

impl Token {
    /// Loads the module and sees whether its token does all that is needed, if the operator has set one.
    ///
    /// # Errors
    /// What is wrong with module, token or PIN.
    pub async fn open_if(settings: Option<&TokenSettings>) -> Result<Option<Arc<Self>>, TokenError> {
        let Some(settings) = settings.cloned() else { return Ok(None) };
        let (label, within) = (settings.label.clone(), MAKING_DEADLINE);
        match timeout(within, tokio::task::spawn_blocking(move || Self::open(&settings))).await {
            Ok(Ok(opened)) => opened.map(Some),
            Ok(Err(_)) => Err(TokenError::Failed { label, reason: BROKE_OFF.to_owned() }),
            Err(_) => Err(TokenError::Late { label, within }),
        }
    }

    fn open(settings: &TokenSettings) -> Result<Arc<Self>, TokenError> {
        let module = Module::load(settings)?;
        let (slot, info) = module.token()?;
        let place = Place { label: info.label().to_owned(), serial: info.serial_number().to_owned() };
        module.check_mechanisms(slot)?;
        let token = Self {
            place,
            module: RwLock::new(module),
            pin: Pin::in_file(settings.pin_file.clone()),
            idle: Mutex::default(),
            sessions: Arc::new(Semaphore::new(SESSIONS)),
            places: Arc::new(Semaphore::new(PLACES)),
            makers: Arc::new(Semaphore::new(1)),
            new_keys: Mutex::default(),
            out_of_order: Mutex::default(),
            doubt: Notify::new(),
        };
        token.check()?;
        Ok(Arc::new(token))
    }

    /// The token's name, for people.
    pub fn label(&self) -> &str {
        &self.place.label
    }

    /// Its serial number.
    pub fn serial(&self) -> &str {
        &self.place.serial
    }

    /// Why it does not work, once that was noticed and until it does again.
    pub fn out_of_order(&self) -> Option<Arc<str>> {
        lock(&self.out_of_order).clone()
    }

    /// A key that was made here. The token is not asked for it; whoever signs with it waits.
    pub(super) fn key(self: &Arc<Self>, record: &TokenKeyRecord) -> Result<AuthorityKey, AuthorityError> {
        let public_key = PublicKey::from_spki_der(&record.public_key)?;
        let (token, id) = (Arc::clone(self), record.key_id());
        let sign = move |digest: &[u8; 32]| {
            token.over_any(|session| session.sign(&id, digest)).map_err(|error| {
                token.doubt.notify_one();
                error.to_string()
            })
        };
        Ok(AuthorityKey::elsewhere(public_key, Box::new(sign))?)
    }

    /// Destroys a key. Whether it was there. It waits.
    pub(super) fn destroy(&self, record: &TokenKeyRecord) -> Result<bool, TokenError> {
        self.destroy_by_id(&record.key_id())
    }

    fn destroy_by_id(&self, id: &KeyId) -> Result<bool, TokenError> {
        self.over_one_that_writes(|session| session.destroy(id))
    }

    /// Whether it can be logged in to. It waits.
    fn check(&self) -> Result<(), TokenError> {
        self.over_any(|_| Ok(()))
    }

    /// Has the module begin anew, which ends all sessions: some find a token that was away only then. It waits.
    pub(super) fn begin_anew(&self) -> Result<(), TokenError> {
        let mut module = match self.module.try_write() {
            Ok(module) => module,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Whoever is in the module is not to find it gone.
            Err(TryLockError::WouldBlock) => return Err(TokenError::Busy(self.place.label.clone())),
        };
        // Before the new ones, whose handles may be the same numbers.
        lock(&self.idle).clear();
        module.begin_anew()
    }

    /// Does something over a session that is there. If it fails there it is done over a new one: the session may be of before
    /// the token was away.
    fn over_any<T>(&self, work: impl Fn(&mut KeySession) -> Result<T, TokenError>) -> Result<T, TokenError> {
        let module = self.module.read().unwrap_or_else(PoisonError::into_inner);
        let idle = lock(&self.idle).pop();
        if let Some(mut session) = idle {
            if let Ok(done) = work(&mut session) {
                lock(&self.idle).push(session);
                return Ok(done);
            }
            drop(session);
            lock(&self.idle).clear();
        }
        let mut session = self.session(&module, false)?;
        let done = work(&mut session)?;
        lock(&self.idle).push(session);
        Ok(done)
    }

    fn over_one_that_writes<T>(
        &self,
        work: impl FnOnce(&KeySession) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let module = self.module.read().unwrap_or_else(PoisonError::into_inner);
        work(&self.session(&module, true)?)
    }

    fn session(&self, module: &Module, writes: bool) -> Result<KeySession, TokenError> {
        let (slot, info) = module.token()?;
        let context = module.context();
        let opened = if writes { context.open_rw_session(slot) } else { context.open_ro_session(slot) };
        let session = opened
            .map_err(|error| TokenError::Failed { label: self.place.label.clone(), reason: said(&error) })?;
        self.pin.log_in(&session, &info)?;
        Ok(KeySession::new(session, self.place.clone()))
    }

    /// A place among those for whom it signs.
    pub(super) async fn place(&self) -> Result<OwnedSemaphorePermit, TokenError> {
        if let Some(reason) = self.out_of_order() {
            return Err(TokenError::OutOfOrder(reason));
        }
        match timeout(PLACE_DEADLINE, Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(TokenError::Busy(self.place.label.clone())),
        }
    }

    /// Does what waits for one signature on a thread that may.
    pub(super) async fn signs<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, TokenError> {
        self.within(SIGNATURE_DEADLINE, self.on_a_thread(work)).await
    }

    /// Does what waits for the token on a thread that may; `None` where it breaks off.
    async fn on_a_thread<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let session = Arc::clone(&self.sessions).acquire_owned().await.ok()?;
        let work = move || {
            // Also when nobody waits for it any longer: a module that hangs gets no more threads than these.
            let _held = session;
            work()
        };
        tokio::task::spawn_blocking(work).await.ok()
    }

    async fn within<T>(
        &self,
        within: Duration,
        done: impl Future<Output = Option<T>>,
    ) -> Result<T, TokenError> {
        let label = || self.place.label.clone();
        match timeout(within, done).await {
            Ok(Some(done)) => Ok(done),
            Ok(None) => Err(TokenError::Failed { label: label(), reason: BROKE_OFF.to_owned() }),
            Err(_) => {
                self.doubt.notify_one();
                Err(TokenError::Late { label: label(), within })
            }
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("place", &self.place).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
