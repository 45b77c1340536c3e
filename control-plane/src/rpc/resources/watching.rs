//! What a watcher is told: all resources as they are, one by one as it reads them, then every change.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use hauberk_proto::admin::v1::{WatchEvent, WatchResponse};
use hauberk_proto::mesh::v1::Resource;
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::Filter;
use crate::registry::{Change, Store, StoreError, Stored, Watch, WatchEnd, keys};
use crate::resources::{Catalog, Catalogs, ResourceKey};
use crate::rpc::status;

/// How many watches one admin may have open.
const WATCHES_OF_ONE: usize = 16;

/// Who watches.
#[derive(Clone, Default)]
pub(super) struct Watchers(Arc<Mutex<HashMap<String, usize>>>);

/// One watch of an admin; given back when dropped.
pub(super) struct Place {
    watchers: Watchers,
    admin: String,
}

impl Watchers {
    /// Takes a place.
    ///
    /// # Errors
    /// The admin has as many as one may have.
    pub(super) fn join(&self, admin: String) -> Result<Place, Status> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_admin = open.entry(admin.clone()).or_default();
        if *of_admin >= WATCHES_OF_ONE {
            let message = format!("{admin} has {WATCHES_OF_ONE} watches open already: end one of them");
            return Err(status::refusal(Code::ResourceExhausted, "TOO_MANY_WATCHES", message));
        }
        *of_admin += 1;
        drop(open);
        Ok(Place { watchers: self.clone(), admin })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.watchers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_admin) = open.get_mut(&self.admin) {
            *of_admin -= 1;
            if *of_admin == 0 {
                open.remove(&self.admin);
            }
        }
    }
}

/// One watcher's place in the sequence of changes.
pub(super) struct Watching {
    filter: Filter,
    /// What there was at the beginning, shared with all who read it then; `None` once it has been told.
    beginning: Option<Beginning>,
    ready: VecDeque<WatchResponse>,
    changes: Watch,
    stop: CancellationToken,
    _place: Place,
}

struct Beginning {
    catalog: Arc<Catalog>,
    told: Option<ResourceKey>,
}

impl Watching {
    /// Tells all resources of now first.
    ///
    /// # Errors
    /// As of [`Catalogs::current`].
    pub(super) async fn begin(
        catalogs: &Catalogs,
        store: &dyn Store,
        filter: Filter,
        stop: CancellationToken,
        place: Place,
    ) -> Result<Self, StoreError> {
        // Resources are those of the last commit that raised the revision, which may be forgotten for many that did
        // not. All of these up to here are passed over: what is current below is what they found.
        let passed = store.list(keys::RESOURCES, None, 1).await?.version;
        let catalog = catalogs.current().await?;
        let changes = store.watch(keys::RESOURCES, passed.max(catalog.version()));
        let beginning = Some(Beginning { catalog, told: None });
        Ok(Self { filter, beginning, ready: VecDeque::new(), changes, stop, _place: place })
    }

    pub(super) async fn next(&mut self) -> Result<WatchResponse, Status> {
        if let Some(response) = self.next_of_beginning() {
            return Ok(response);
        }
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let change: Arc<Change> = tokio::select! {
                () = self.stop.cancelled() => return Err(status::stopping()),
                change = self.changes.next() => change.map_err(|end| match end {
                    WatchEnd::Compacted => {
                        let message = "changes came faster than this stream was read: watch again";
                        status::refusal(Code::OutOfRange, "WATCH_TOO_SLOW", message)
                    }
                    WatchEnd::Closed => status::stopping(),
                })?,
            };
            for (key, stored) in change.under(keys::RESOURCES) {
                self.tell(key, stored, change.revision.0);
            }
        }
    }

    /// The next resource that there was, and after the last of them that these were all.
    fn next_of_beginning(&mut self) -> Option<WatchResponse> {
        let Beginning { catalog, told } = self.beginning.as_mut()?;
        let revision = catalog.revision().0;
        let next = self.filter.matching(catalog, told.as_ref()).next();
        match next.map(|(key, resource)| (key, resource.clone())) {
            Some((key, resource)) => {
                *told = Some(key);
                let event = WatchEvent::Applied.into();
                Some(WatchResponse { event, resource: Some(resource), revision })
            }
            None => {
                self.beginning = None;
                Some(WatchResponse { event: WatchEvent::Synced.into(), resource: None, revision })
            }
        }
    }

    fn tell(&mut self, key: &str, stored: Option<&Stored>, revision: u64) {
        let Some(key) = ResourceKey::from_store_key(key).filter(|key| self.filter.admits(key)) else {
            return;
        };
        let (event, resource) = match stored {
            Some(stored) => match Resource::decode(stored.value.clone()) {
                Ok(resource) => (WatchEvent::Applied, resource),
                Err(error) => {
                    tracing::error!(event = "resource_unreadable", resource = %key, %error, "it is not shown");
                    return;
                }
            },
            None => {
                let (mesh, name) = (key.mesh.to_string(), key.name.to_string());
                let spec = Some(key.kind.empty_spec());
                (WatchEvent::Deleted, Resource { mesh, name, spec, ..Resource::default() })
            }
        };
        self.ready.push_back(WatchResponse { event: event.into(), resource: Some(resource), revision });
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::registry::{Commit, REMEMBERED_WRITES, SledStore};
    use crate::resources::testing::{mesh, trust_domain};

    #[tokio::test]
    async fn a_watch_begins_also_where_much_was_written_since_a_resource_changed() {
        let directory = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(SledStore::create(directory.path()).unwrap());
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let started = Catalogs::start(Arc::clone(&store), trust_domain(), None, &tasks, stop.clone());
        let catalogs = started.await.unwrap();
        let applied = |name: &str| {
            let key = keys::resource("Mesh", name, name);
            Commit::new().put(key, mesh(name).encode_to_vec()).raising_revision()
        };
        store.commit(applied("shop")).await.unwrap();
        for _ in 0..2 {
            let numbers = 0..REMEMBERED_WRITES;
            let records =
                numbers.fold(Commit::new(), |commit, number| commit.put(format!("x/{number}"), "x"));
            store.commit(records).await.unwrap();
        }
        let place = Watchers::default().join("ada".into()).unwrap();
        let filter = Filter { kind: None, mesh: String::new(), labels: HashMap::new() };
        let begun = Watching::begin(&catalogs, &*store, filter, stop.clone(), place);
        let mut watching = begun.await.unwrap();
        assert_eq!(watching.next().await.unwrap().resource.unwrap().name, "shop");
        assert_eq!(watching.next().await.unwrap().event(), WatchEvent::Synced);
        store.commit(applied("depot")).await.unwrap();
        assert_eq!(watching.next().await.unwrap().resource.unwrap().name, "depot");
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }

    #[test]
    fn an_admin_has_only_so_many_watches() {
        let watchers = Watchers::default();
        let mut places: Vec<_> =
            (0..WATCHES_OF_ONE).map(|_| watchers.join("ada".into()).ok().unwrap()).collect();
        let refused = watchers.join("ada".into()).err().unwrap();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(watchers.join("bob".into()).is_ok());
        places.pop();
        places.extend(watchers.join("ada".into()).ok());
        assert_eq!(places.len(), WATCHES_OF_ONE);
        drop(places);
        assert!(watchers.0.lock().unwrap().is_empty());
    }
}
