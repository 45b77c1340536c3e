use std::path::PathBuf;

use bytes::Bytes;

use super::*;
use crate::health::Health;
use crate::registry::suite;

struct Scratch {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

fn scratch() -> Scratch {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry");
    Scratch { _directory: directory, path }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn does_what_every_store_does() {
    let root = tempfile::tempdir().unwrap();
    let count = std::sync::atomic::AtomicUsize::new(0);
    suite::all(|| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = root.path().join(number.to_string());
        async move { SledStore::create(&path).unwrap() }
    })
    .await;
}

async fn fill(path: &Path, keys: usize) {
    let store = SledStore::create(path).unwrap();
    for index in 0..keys {
        let value = format!("value of {index} ").repeat(10);
        store.commit(Commit::new().put(format!("k/{index:04}"), value).raising_revision()).await.unwrap();
    }
    store.close().await;
}

#[tokio::test]
async fn survives_being_closed_and_opened() {
    let scratch = scratch();
    fill(&scratch.path, 40).await;
    let store = SledStore::open(&scratch.path).unwrap();
    let page = store.list("k/", None, 100).await.unwrap();
    assert_eq!(page.entries.len(), 40);
    assert_eq!((page.version, page.revision), (Version(40), Revision(40)));
    assert_eq!(store.commit(Commit::new().put("k/new", "v")).await.unwrap().version, Version(41));
}

#[tokio::test]
async fn its_thread_has_a_name_and_has_ended_once_it_is_closed() {
    let store = SledStore::create(&scratch().path).unwrap();
    let name = |writer: &JoinHandle<()>| writer.thread().name().map(str::to_owned);
    assert_eq!(store.writer.lock().await.as_ref().and_then(name).as_deref(), Some(writer::NAME));
    store.close().await;
    assert!(store.writer.lock().await.is_none());
    assert_eq!(Arc::strong_count(&store.shared), 1, "the thread has let go of what it shared");
}

#[tokio::test]
async fn is_opened_once_at_a_time_and_made_once() {
    let scratch = scratch();
    assert!(matches!(SledStore::open(&scratch.path), Err(OpenError::Missing(_))));
    let store = SledStore::create(&scratch.path).unwrap();
    assert!(matches!(SledStore::open(&scratch.path), Err(OpenError::InUse(_))));
    store.close().await;
    drop(store);
    assert!(matches!(SledStore::create(&scratch.path), Err(OpenError::Exists(_))));
}

#[tokio::test]
async fn half_written_snapshots_do_not_matter() {
    let scratch = scratch();
    fill(&scratch.path, 10).await;
    std::fs::write(scratch.path.join("sled/snap.0000000000000099.generating"), b"torn").unwrap();
    let store = SledStore::open(&scratch.path).unwrap();
    assert_eq!(store.list("k/", None, 100).await.unwrap().entries.len(), 10);
}

#[tokio::test]
async fn a_damaged_snapshot_is_rebuilt_from_the_log() {
    let scratch = scratch();
    fill(&scratch.path, 10).await;
    SledStore::open(&scratch.path).unwrap().close().await;
    let mut damaged = 0;
    for entry in std::fs::read_dir(scratch.path.join("sled")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("snap.") {
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
            std::fs::write(&path, bytes).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0, "sled writes a snapshot when it opens");
    let store = SledStore::open(&scratch.path).unwrap();
    assert_eq!(store.list("k/", None, 100).await.unwrap().entries.len(), 10);
    assert!(scratch.path.with_file_name("registry.damaged").exists());
}

#[tokio::test]
async fn flipped_bits_are_found_or_harmless() {
    let scratch = scratch();
    fill(&scratch.path, 60).await;
    let log = std::fs::read(scratch.path.join("sled/db")).unwrap();
    let used = log.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut found = 0;
    for round in 0..150_usize {
        let copy = scratch.path.with_file_name("copy");
        let _absent = std::fs::remove_dir_all(&copy);
        let _absent = std::fs::remove_dir_all(copy.with_file_name("copy.damaged"));
        std::fs::create_dir_all(copy.join("sled/blobs")).unwrap();
        for name in ["acknowledged", "sled/conf"] {
            std::fs::copy(scratch.path.join(name), copy.join(name)).unwrap();
        }
        let mut flipped = log.clone();
        flipped[(round * 7_919 + 13) % used] ^= 1 << (round % 8);
        std::fs::write(copy.join("sled/db"), flipped).unwrap();
        match SledStore::open(&copy) {
            Err(OpenError::Damaged { .. }) => found += 1,
            Err(other) => panic!("{other}"),
            Ok(store) => {
                let entries = store.list("k/", None, 100).await.unwrap().entries;
                let values: Vec<_> = entries.iter().map(|(_, stored)| stored.value.clone()).collect();
                let right: Vec<_> =
                    (0..60).map(|index| Bytes::from(format!("value of {index} ").repeat(10))).collect();
                assert_eq!(values, right, "round {round}: a wrong value was read in silence");
                store.close().await;
            }
        }
    }
    assert!(found > 0);
}

#[tokio::test]
async fn a_log_that_lost_its_end_is_not_served() {
    let scratch = scratch();
    fill(&scratch.path, 5).await;
    let old = std::fs::read(scratch.path.join("sled/db")).unwrap();
    let store = SledStore::open(&scratch.path).unwrap();
    store.commit(Commit::new().put("k/later", "v")).await.unwrap();
    store.close().await;
    drop(store);
    directory::remove_all_snapshots(&scratch.path.join("sled")).unwrap();
    std::fs::write(scratch.path.join("sled/db"), old).unwrap();
    let error = SledStore::open(&scratch.path).unwrap_err().to_string();
    assert!(error.contains("acknowledged writes are missing"), "{error}");
}

#[tokio::test]
async fn a_newer_format_is_refused_by_name() {
    let scratch = scratch();
    fill(&scratch.path, 1).await;
    {
        let db = sled::Config::new().path(scratch.path.join("sled")).open().unwrap();
        let tree = db.open_tree("registry").unwrap();
        let mut state = tree.get(META_KEY).unwrap().unwrap().to_vec();
        state[0] = 9;
        tree.insert(META_KEY, state).unwrap();
        db.flush().unwrap();
    }
    let error = SledStore::open(&scratch.path).unwrap_err();
    assert!(matches!(error, OpenError::NewerFormat { found: 9, known: 1 }), "{error}");
}

#[tokio::test]
async fn an_unfinished_store_says_so() {
    let scratch = scratch();
    std::fs::create_dir_all(scratch.path.join("sled")).unwrap();
    drop(sled::Config::new().path(scratch.path.join("sled")).open().unwrap());
    let error = SledStore::open(&scratch.path).unwrap_err();
    assert!(matches!(error, OpenError::Unfinished(_)), "{error}");
}

#[tokio::test]
async fn what_is_being_written_is_not_seen() {
    let scratch = scratch();
    let store = SledStore::create(&scratch.path).unwrap();
    store.commit(Commit::new().put("a", "old").put("b", "old")).await.unwrap();
    // As the writer does between applying a batch and its fdatasync.
    {
        let mut durable = store.shared.durable.write().unwrap();
        for key in ["a", "b", "c"] {
            let before = read(&store.shared.tree, key).unwrap();
            durable.before.insert(key.to_owned(), before);
        }
    }
    let record = record::encode(b"a", Version(2), b"new");
    store.shared.tree.insert(physical("a"), record).unwrap();
    store.shared.tree.remove(physical("b")).unwrap();
    store.shared.tree.insert(physical("c"), record::encode(b"c", Version(2), b"new")).unwrap();
    assert_eq!(store.get("a").await.unwrap().unwrap().value, "old");
    assert_eq!(store.get("c").await.unwrap(), None);
    let entries = store.list("", None, 1).await.unwrap();
    assert_eq!((entries.entries.len(), entries.more), (1, true));
    let entries = store.list("", None, 10).await.unwrap().entries;
    let seen: Vec<_> = entries.iter().map(|(key, stored)| (key.as_str(), stored.value.as_ref())).collect();
    assert_eq!(seen, vec![("a", b"old".as_slice()), ("b", b"old".as_slice())]);
}

#[tokio::test]
async fn a_store_that_failed_once_is_read_only_and_shows_what_is_durable() {
    let scratch = scratch();
    let store = SledStore::create(&scratch.path).unwrap();
    store.commit(Commit::new().put("a", "durable")).await.unwrap();
    // As the writer leaves it when a flush fails after a batch was applied.
    let before = read(&store.shared.tree, "a").unwrap();
    store.shared.durable.write().unwrap().before.insert("a".to_owned(), before);
    store.shared.tree.insert(physical("a"), record::encode(b"a", Version(2), b"lost")).unwrap();
    *store.shared.broken.lock().unwrap() = Some("input/output error".to_owned());
    let refused = store.commit(Commit::new().put("a", "more")).await.unwrap_err();
    assert!(matches!(refused, StoreError::ReadOnly { .. }));
    assert_eq!(store.get("a").await.unwrap().unwrap().value, "durable");
    let Condition::Broken(reason) = store.condition() else { panic!("it says so") };
    assert!(reason.contains("input/output error"), "{reason}");
}

/// A store whose disk does not confirm what it is handed: fdatasync of /dev/null fails.
fn on_a_failing_disk(path: &Path) -> SledStore {
    let mut opened = open::create(path).unwrap();
    opened.disk.log = std::fs::File::open("/dev/null").unwrap();
    SledStore::start(opened).unwrap()
}

#[tokio::test]
async fn what_the_disk_does_not_confirm_is_not_acknowledged_and_nothing_follows_it() {
    let scratch = scratch();
    let store = Arc::new(on_a_failing_disk(&scratch.path));
    let founded = crate::testing::scratch().await;
    let health = Health::new(
        store.clone(),
        Arc::clone(&founded.control.authority),
        Arc::clone(&founded.control.revocations),
        Arc::default(),
        tokio::sync::watch::Sender::default().subscribe(),
        founded.clock.clone(),
    );
    health.set_serving(true);
    assert_eq!(health.unready_reason(), None);
    let mut watch = store.watch("", Version(0));

    // Of one group or of several: none is acknowledged, nor is a refusal that rests on one that was not written.
    let writes =
        ["a", "b", "c"].map(|key| store.commit(Commit::new().absent(key).put(key, "1").raising_revision()));
    let twice = store.commit(Commit::new().absent("a").put("a", "2"));
    let (writes, twice) = futures_util::future::join(futures_util::future::join_all(writes), twice).await;
    for answer in writes.into_iter().chain([twice]) {
        assert!(matches!(answer, Err(StoreError::ReadOnly { .. })), "{answer:?}");
    }
    // Nor is anything after, not even what may use the reserve, and nobody is shown what is not durable.
    let refused = store.commit(Commit::new().put("d", "1").using_reserve()).await.unwrap_err();
    assert!(matches!(refused, StoreError::ReadOnly { .. }), "{refused}");
    for key in ["a", "b", "c", "d"] {
        assert_eq!(store.get(key).await.unwrap(), None);
    }
    let page = store.list("", None, 10).await.unwrap();
    assert_eq!((page.entries.len(), page.version, page.revision), (0, Version(0), Revision(0)));
    assert_eq!(store.revision().await.unwrap(), Revision(0));
    assert!(watch.next().now_or_never().is_none(), "nobody is told of it");
    let unready = health.unready_reason().unwrap();
    assert!(
        unready.contains("the registry takes no writes") && unready.contains("nvalid argument"),
        "{unready}"
    );

    store.close().await;
    drop((health, watch));
    drop(Arc::into_inner(store).unwrap());
    // It was handed to the disk, which may have kept it after all, whole.
    let store = SledStore::open(&scratch.path).unwrap();
    assert_eq!(store.condition(), Condition::Writable);
    let version = store.commit(Commit::new().put("d", "2")).await.unwrap().version;
    assert_eq!(store.get("d").await.unwrap().unwrap(), Stored { version, value: "2".into() });
}

#[tokio::test]
async fn a_store_whose_writer_has_ended_says_so() {
    let scratch = scratch();
    let store = SledStore::create(&scratch.path).unwrap();
    // As a panic leaves it.
    *store.jobs.lock().unwrap() = Some(mpsc::channel(1).0);
    let refused = store.commit(Commit::new().put("a", "1")).await.unwrap_err();
    assert!(matches!(refused, StoreError::Closed), "{refused}");
    assert!(matches!(store.condition(), Condition::Broken(_)), "{:?}", store.condition());
}

#[tokio::test]
async fn a_full_disk_takes_only_what_may_use_the_reserve_until_there_is_room() {
    let scratch = scratch();
    let store = SledStore::create(&scratch.path).unwrap();
    let room = |mib: u64| store.pretend_room(mib);
    room(7);
    let refused = store.commit(Commit::new().put("a", "1")).await.unwrap_err();
    assert!(matches!(refused, StoreError::Full { available_mib: 7, needed_mib: 8 }));
    let Condition::Full(reason) = store.condition() else { panic!("it says so") };
    assert!(reason.contains("7 MiB left"), "{reason}");
    store.commit(Commit::new().put("b", "1").using_reserve()).await.unwrap();
    room(1);
    let refused = store.commit(Commit::new().put("c", "1").using_reserve()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Full { available_mib: 1, needed_mib: 2 }));
    room(9);
    store.commit(Commit::new().put("a", "1")).await.unwrap();
    assert_eq!(store.condition(), Condition::Writable);
    assert_eq!(store.get("c").await.unwrap(), None);
}
