//! Keeps all resources in memory, as of the last durable commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hauberk_identity::TrustDomain;
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::catalog::Catalog;
use super::own_issuer::{OwnIssuer, OwnIssuerParts};
use crate::registry::{Change, Store, StoreError, Version, WatchEnd, keys};

/// Before the registry is read again after a failure.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How long whoever wants all resources waits for those of the last commit: there in a moment, unless they cannot be
/// read.
const CURRENT_WITHIN: Duration = Duration::from_secs(10);

/// How many writes of one commit are read at once: to read thousands of resources takes seconds, and is not for a
/// thread that others wait for.
const FEW_WRITES: usize = 64;

/// How many bytes of values are: a few nodes whose routes come from descriptions take as long as thousands of others.
const FEW_BYTES: usize = 64 * 1024;

/// Where that stands which others publish.
const FETCHED: [&str; 2] = [keys::FETCHED_BUNDLES, keys::FETCHED_KEYS];

/// All resources, as of the last durable commit. Cheap to clone.
#[derive(Clone)]
pub struct Catalogs {
    store: Arc<dyn Store>,
    latest: watch::Receiver<Arc<Catalog>>,
    unreadable: Arc<AtomicBool>,
}

impl Catalogs {
    /// Reads all resources, and follows the registry until `stop`. `own_issuer`: ourselves as an issuer of users'
    /// tokens, if we are one.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn start(
        store: Arc<dyn Store>,
        trust_domain: TrustDomain,
        own_issuer: Option<OwnIssuerParts>,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Self, StoreError> {
        let first = list(&*store, &trust_domain, own_issuer.as_ref()).await?;
        let (sender, latest) = watch::channel(Arc::new(first));
        let unreadable = Arc::default();
        let follower = Follower {
            store: Arc::clone(&store),
            trust_domain,
            own_issuer,
            sender,
            unreadable: Arc::clone(&unreadable),
        };
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = follower.run() => {}
            }
        });
        Ok(Self { store, latest, unreadable })
    }

    /// All resources as of a revision that is at least the one that is durable now: what was answered before this call
    /// is in it.
    ///
    /// # Errors
    /// When the registry cannot be read, or is closed; or resources were not those of now for ten seconds.
    pub async fn current(&self) -> Result<Arc<Catalog>, StoreError> {
        self.current_within(CURRENT_WITHIN).await
    }

    /// The same for one whom others wait for: where it is known that resources cannot be read, nobody waits for that.
    ///
    /// # Errors
    /// As of [`Catalogs::current`].
    pub async fn current_in_turn(&self) -> Result<Arc<Catalog>, StoreError> {
        self.current_within(if self.are_unreadable() { Duration::ZERO } else { CURRENT_WITHIN }).await
    }

    async fn current_within(&self, time: Duration) -> Result<Arc<Catalog>, StoreError> {
        let revision = self.store.revision().await?;
        let mut latest = self.latest.clone();
        let current = latest.wait_for(|catalog| catalog.revision() >= revision);
        match tokio::time::timeout(time, current).await {
            Ok(catalog) => catalog.map(|catalog| Arc::clone(&catalog)).map_err(|_| StoreError::Closed),
            Err(_) if self.are_unreadable() => Err(StoreError::NotFollowed),
            Err(_) => Err(StoreError::Behind),
        }
    }

    /// Such as are followed by whoever holds the sender.
    #[cfg(test)]
    pub(super) fn followed_by_hand(store: Arc<dyn Store>) -> (Self, watch::Sender<Arc<Catalog>>) {
        let (sender, latest) = watch::channel(Arc::new(Catalog::default()));
        (Self { store, latest, unreadable: Arc::default() }, sender)
    }

    /// Whether changes of resources reach nobody, for they cannot be read just now.
    pub fn are_unreadable(&self) -> bool {
        self.unreadable.load(Ordering::Acquire)
    }

    /// Follows all changes; some may be skipped, the last never is.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Catalog>> {
        self.latest.clone()
    }
}

struct Follower {
    store: Arc<dyn Store>,
    trust_domain: TrustDomain,
    own_issuer: Option<OwnIssuerParts>,
    sender: watch::Sender<Arc<Catalog>>,
    unreadable: Arc<AtomicBool>,
}

impl Follower {
    async fn run(self) {
        // Everything is watched, not resources alone: trust and revocation raise the revision too.
        let mut watch = self.store.watch("", self.version());
        loop {
            match watch.next().await {
                Ok(change) => self.take_over(change).await,
                Err(WatchEnd::Closed) => return,
                Err(WatchEnd::Compacted) => {
                    let catalog = self.read_again().await;
                    self.sender.send_replace(Arc::new(catalog));
                    self.unreadable.store(false, Ordering::Release);
                    watch = self.store.watch("", self.version());
                }
            }
        }
    }

    /// All resources, as soon as they can be read: whoever gave up would leave agents with what they have for good.
    async fn read_again(&self) -> Catalog {
        loop {
            match list(&*self.store, &self.trust_domain, self.own_issuer.as_ref()).await {
                Ok(catalog) => return catalog,
                Err(error) => {
                    self.unreadable.store(true, Ordering::Release);
                    tracing::error!(
                        event = "resources_unreadable",
                        %error,
                        "changes of resources reach nobody until they can be read"
                    );
                    tokio::time::sleep(READ_AGAIN_AFTER).await;
                }
            }
        }
    }

    fn version(&self) -> Version {
        self.sender.borrow().version()
    }

    async fn take_over(&self, change: Arc<Change>) {
        if !change.raised_revision {
            return;
        }
        let before = Arc::clone(&self.sender.borrow());
        let after = if is_little(&change) {
            after(&before, &change, &self.trust_domain, self.own_issuer.as_ref())
        } else {
            let (trust_domain, own_issuer) = (self.trust_domain.clone(), self.own_issuer.clone());
            let read = move || after(&before, &change, &trust_domain, own_issuer.as_ref());
            let Some(after) = elsewhere(read).await else { return };
            after
        };
        self.sender.send_replace(Arc::new(after));
    }
}

/// Whether a change is read in a moment.
fn is_little(change: &Change) -> bool {
    let values = change.writes.iter().filter_map(|(_, stored)| stored.as_ref());
    change.writes.len() <= FEW_WRITES && values.map(|stored| stored.value.len()).sum::<usize>() <= FEW_BYTES
}

/// Does what takes its time on a thread that nobody else waits for; `None` where the process ends.
async fn elsewhere<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    match tokio::task::spawn_blocking(read).await.map_err(JoinError::try_into_panic) {
        Ok(read) => Some(read),
        // As if it had been read here.
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => None,
    }
}

/// All resources after a change.
fn after(
    before: &Catalog,
    change: &Change,
    trust_domain: &TrustDomain,
    own_issuer: Option<&OwnIssuerParts>,
) -> Catalog {
    let mut catalog = before.clone();
    for (key, stored) in change.under(keys::RESOURCES) {
        catalog.write(key, stored, trust_domain);
    }
    for prefix in FETCHED {
        for (key, stored) in change.under(prefix) {
            catalog.write_fetched(key, stored);
        }
    }
    if let (Some(parts), Some(own)) = (own_issuer, catalog.own_issuer())
        && change.under(keys::JWT_KEYS).next().is_some()
    {
        let own = own.after(parts, change.under(keys::JWT_KEYS), change.revision);
        catalog.set_own_issuer(own);
    }
    catalog.move_on(change.version, change.revision);
    catalog
}

/// Reads all resources at one instant: a listing in several parts could mix two commits. So could two listings, unless
/// no commit that counts came between them.
async fn list(
    store: &dyn Store,
    trust_domain: &TrustDomain,
    own_issuer: Option<&OwnIssuerParts>,
) -> Result<Catalog, StoreError> {
    loop {
        let resources = store.list(keys::RESOURCES, None, usize::MAX).await?;
        let mut fetched = Vec::new();
        for prefix in FETCHED {
            fetched.push(store.list(prefix, None, usize::MAX).await?);
        }
        let jwt_keys = store.list(keys::JWT_KEYS, None, usize::MAX).await?;
        if fetched.iter().chain([&jwt_keys]).all(|page| page.revision == resources.revision) {
            let (trust_domain, own_issuer) = (trust_domain.clone(), own_issuer.cloned());
            let read = move || {
                let records = jwt_keys.entries.iter().map(|(key, stored)| (key.as_str(), stored));
                let own_issuer = own_issuer.map(|parts| OwnIssuer::read(&parts, records, resources.revision));
                Catalog::from_pages(&resources, &fetched, own_issuer, &trust_domain)
            };
            return elsewhere(read).await.ok_or(StoreError::Closed);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use prost::Message;

    use super::*;
    use crate::health::Health;
    use crate::registry::{Commit, Revision, SledStore, Stored};
    use crate::resources::testing::{mesh, trust_domain};
    use crate::testing::Busy;

    #[tokio::test(start_paused = true)]
    async fn resources_that_cannot_be_read_for_a_while_are_followed_afterwards() {
        let directory = tempfile::tempdir().unwrap();
        let stored = |name: &str| {
            let key = keys::resource("Mesh", name, name);
            Commit::new().put(key, mesh(name).encode_to_vec()).raising_revision()
        };
        let store = SledStore::create(directory.path()).unwrap();
        store.commit(stored("shop")).await.unwrap();
        store.close().await;
        drop(store);
        // What was committed before a store was opened is no longer remembered as changes.
        let store = Busy::new(SledStore::open(directory.path()).unwrap());
        let (catalogs, sender) = Catalogs::followed_by_hand(Arc::clone(&store) as Arc<dyn Store>);
        let mut latest = catalogs.subscribe();
        let follower = Follower {
            store: Arc::clone(&store) as Arc<dyn Store>,
            trust_domain: trust_domain(),
            own_issuer: None,
            sender,
            unreadable: Arc::clone(&catalogs.unreadable),
        };
        let founded = crate::testing::scratch().await;
        let health = Health::new(
            Arc::clone(&store) as Arc<dyn Store>,
            Arc::clone(&founded.control.authority),
            Arc::clone(&founded.control.revocations),
            Arc::default(),
            watch::Sender::default().subscribe(),
            founded.clock.clone(),
        );
        health.set_serving(true);
        health.watch_resources(&catalogs);
        store.damage(Some(keys::RESOURCES));
        let mut following = tokio::task::JoinSet::new();
        following.spawn(follower.run());
        let given_up = tokio::time::timeout(READ_AGAIN_AFTER * 3, latest.changed()).await;
        assert!(given_up.is_err(), "it waits until they can be read: {given_up:?}");
        assert!(catalogs.are_unreadable());
        let unready = health.unready_reason().unwrap();
        assert!(unready.starts_with("changes of resources reach nobody"), "{unready}");
        // Whoever asks for them meanwhile is told so, and holds nothing up for good.
        let current = tokio::time::timeout(CURRENT_WITHIN * 2, catalogs.current()).await;
        assert!(matches!(current, Ok(Err(StoreError::NotFollowed))), "{current:?}");
        let asked_at = tokio::time::Instant::now();
        let current = catalogs.current_in_turn().await;
        assert!(matches!(current, Err(StoreError::NotFollowed)), "{current:?}");
        assert!(asked_at.elapsed() < READ_AGAIN_AFTER, "nobody waits in a turn for what cannot be read");
        store.damage(None);
        let followed = latest.wait_for(|catalog| catalog.mesh("shop").is_some());
        drop(
            tokio::time::timeout(READ_AGAIN_AFTER * 3, followed).await.expect("they are read again").unwrap(),
        );
        assert!(catalogs.current().await.unwrap().mesh("shop").is_some());
        assert!(!catalogs.are_unreadable());
        assert_eq!(health.unready_reason(), None);
        store.commit(stored("depot")).await.unwrap();
        let followed = latest.wait_for(|catalog| catalog.mesh("depot").is_some());
        drop(tokio::time::timeout(READ_AGAIN_AFTER * 3, followed).await.expect("they are followed").unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn where_resources_are_late_the_log_is_not_said_to_tell_why() {
        let directory = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(SledStore::create(directory.path()).unwrap());
        let (catalogs, _nobody_follows) = Catalogs::followed_by_hand(Arc::clone(&store));
        let commit = Commit::new().put(keys::resource("Mesh", "shop", "shop"), "").raising_revision();
        store.commit(commit).await.unwrap();
        let late = catalogs.current().await.unwrap_err();
        assert!(matches!(late, StoreError::Behind), "{late}");
    }

    #[test]
    fn a_large_change_is_not_read_by_a_thread_that_others_wait_for() {
        let change = |count: usize, padding: usize, revision: u64| {
            let writes = (0..count).map(|number| {
                let mut mesh = mesh(&format!("m{number}"));
                mesh.labels.insert("note".to_owned(), "x".repeat(padding));
                let stored = Stored { version: Version(revision), value: mesh.encode_to_vec().into() };
                (keys::resource("Mesh", &mesh.name, &mesh.name), Some(stored))
            });
            let (version, writes) = (Version(revision), writes.collect());
            Arc::new(Change { version, revision: Revision(revision), raised_revision: true, writes })
        };
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let store: Arc<dyn Store> = Arc::new(SledStore::create(directory.path()).unwrap());
            let (catalogs, sender) = Catalogs::followed_by_hand(Arc::clone(&store));
            let unreadable = Arc::clone(&catalogs.unreadable);
            let trust_domain = trust_domain();
            let follower =
                Follower { store: Arc::clone(&store), trust_domain, own_issuer: None, sender, unreadable };
            // The only thread for what takes its time has something to do.
            let (done, busy) = std::sync::mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || busy.recv());
            let few = follower.take_over(change(FEW_WRITES, 0, 1)).now_or_never();
            assert!(few.is_some(), "a few are read at once");
            let mut many = std::pin::pin!(follower.take_over(change(FEW_WRITES + 1, 0, 2)));
            assert!(many.as_mut().now_or_never().is_none(), "many are read elsewhere");
            let mut large = std::pin::pin!(follower.take_over(change(1, FEW_BYTES, 3)));
            assert!(large.as_mut().now_or_never().is_none(), "so is one that is large");
            let mut all = std::pin::pin!(list(&*store, &follower.trust_domain, None));
            assert!(all.as_mut().now_or_never().is_none(), "and so are all");
            done.send(()).unwrap();
            busy.await.unwrap().unwrap();
            many.await;
            let latest = Arc::clone(&catalogs.latest.borrow());
            assert_eq!((latest.meshes().len(), latest.revision()), (FEW_WRITES + 1, Revision(2)));
            large.await;
            assert_eq!(catalogs.latest.borrow().revision(), Revision(3));
            assert!(all.await.unwrap().meshes().is_empty());
        });
    }
}
