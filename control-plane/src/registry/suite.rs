//! What every implementation of [`Store`] must do, whatever is underneath. An implementation's tests call [`all`]
//! with a way of making an empty store.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::*;

/// Runs the whole suite, each part on a store of its own.
pub(super) async fn all<S: Store, F: Future<Output = S>>(empty: impl Fn() -> F) {
    writes_are_read_back(&empty().await).await;
    guards_decide(&empty().await).await;
    commits_are_whole_or_nothing(&empty().await).await;
    pages_follow_each_other(&empty().await).await;
    revisions_are_raised_on_request(&empty().await).await;
    sizes_are_limited(&empty().await).await;
    watchers_see_every_commit_in_order(&empty().await).await;
    slow_watchers_are_told_to_list_again(&empty().await).await;
    one_of_many_wins(Arc::new(empty().await)).await;
    nothing_is_written_after_closing(&empty().await).await;
}

async fn writes_are_read_back(store: &impl Store) {
    assert_eq!(store.get("a").await.unwrap(), None);
    let first = store.commit(Commit::new().put("a", "1").put("b", "2")).await.unwrap();
    let second = store.commit(Commit::new().put("a", "3").delete("b").delete("never")).await.unwrap();
    assert!(second.version > first.version);
    let a = store.get("a").await.unwrap().unwrap();
    assert_eq!((a.version, a.value), (second.version, Bytes::from("3")));
    assert_eq!(store.get("b").await.unwrap(), None);
    let large = vec![7; MAX_VALUE_BYTES];
    store.commit(Commit::new().put("large", large.clone()).put("empty", "")).await.unwrap();
    assert_eq!(store.get("large").await.unwrap().unwrap().value, large);
    assert_eq!(store.get("empty").await.unwrap().unwrap().value, "");
}

async fn guards_decide(store: &impl Store) {
    let first = store.commit(Commit::new().absent("a").put("a", "1")).await.unwrap();
    let conflict = store.commit(Commit::new().absent("a").put("a", "2")).await.unwrap_err();
    assert!(matches!(conflict, StoreError::Conflict { guard: Guard::Absent(key) } if key == "a"));
    let second = store.commit(Commit::new().at("a", first.version).present("a").put("a", "2")).await.unwrap();
    assert!(store.commit(Commit::new().at("a", first.version).put("a", "3")).await.is_err());
    assert!(store.commit(Commit::new().present("b").put("b", "1")).await.is_err());
    assert!(store.commit(Commit::new().at("b", second.version).put("b", "1")).await.is_err());
    store.commit(Commit::new().delete("a")).await.unwrap();
    let anew = store.commit(Commit::new().absent("a").put("a", "2")).await.unwrap();
    assert!(anew.version > second.version, "a version never comes back");
    let seen = store.get("a").await.unwrap();
    store
        .commit(Commit::new().unchanged("a", seen.as_ref()).unchanged("c", None).put("c", "1"))
        .await
        .unwrap();
    assert!(store.commit(Commit::new().unchanged("c", None)).await.is_err());
}

async fn commits_are_whole_or_nothing(store: &impl Store) {
    let before = store.commit(Commit::new().put("a", "1")).await.unwrap();
    assert!(store.commit(Commit::new().put("a", "2").put("b", "2").present("missing")).await.is_err());
    assert_eq!(store.get("a").await.unwrap().unwrap().version, before.version);
    assert_eq!(store.get("b").await.unwrap(), None);
    let empty = store.commit(Commit::new().present("a")).await.unwrap();
    assert_eq!(empty.version, before.version, "nothing was written, so nothing is counted");
}

async fn pages_follow_each_other(store: &impl Store) {
    let mut commit = Commit::new().put("x/0", "before").put("z/0", "after");
    for index in 0..25 {
        commit = commit.put(format!("y/{index:02}"), format!("{index}"));
    }
    let committed = store.commit(commit).await.unwrap();
    let mut keys = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.list("y/", after.as_deref(), 10).await.unwrap();
        assert_eq!(page.version, committed.version);
        assert!(page.entries.len() <= 10);
        keys.extend(page.entries.iter().map(|(key, _)| key.clone()));
        after = keys.last().cloned();
        if !page.more {
            break;
        }
    }
    assert_eq!(keys, (0..25).map(|index| format!("y/{index:02}")).collect::<Vec<_>>());
    assert!(store.list("none/", None, 10).await.unwrap().entries.is_empty());
    assert_eq!(store.list("", None, 100).await.unwrap().entries.len(), 27);
    let exact = store.list("y/", None, 25).await.unwrap();
    assert!(!exact.more);
}

async fn revisions_are_raised_on_request(store: &impl Store) {
    assert_eq!(store.revision().await.unwrap(), Revision(0));
    assert_eq!(store.commit(Commit::new().put("a", "1")).await.unwrap().revision, Revision(0));
    let raised = store.commit(Commit::new().put("a", "2").raising_revision()).await.unwrap();
    assert_eq!(raised.revision, Revision(1));
    assert!(store.commit(Commit::new().at_revision(Revision(0)).put("a", "3")).await.is_err());
    let again =
        store.commit(Commit::new().at_revision(Revision(1)).put("a", "3").raising_revision()).await.unwrap();
    assert_eq!(again.revision, Revision(2));
    assert_eq!(store.revision().await.unwrap(), Revision(2));
    assert_eq!(store.list("a", None, 1).await.unwrap().revision, Revision(2));
}

async fn sizes_are_limited(store: &impl Store) {
    let large = Commit::new().put("a", vec![0; MAX_VALUE_BYTES + 1]);
    assert!(matches!(store.commit(large).await, Err(StoreError::TooLarge { .. })));
    assert!(matches!(store.commit(Commit::new().put("", "")).await, Err(StoreError::BadKey { bytes: 0 })));
    let long = "k".repeat(MAX_KEY_BYTES + 1);
    assert!(matches!(store.commit(Commit::new().put(long, "")).await, Err(StoreError::BadKey { .. })));
}

async fn watchers_see_every_commit_in_order(store: &impl Store) {
    store.commit(Commit::new().put("a/0", "0")).await.unwrap();
    let page = store.list("a/", None, 10).await.unwrap();
    let mut watch = store.watch("a/", page.version);
    let first = store.commit(Commit::new().put("a/1", "1").put("b/1", "1").raising_revision()).await.unwrap();
    store.commit(Commit::new().put("b/2", "2")).await.unwrap();
    let second = store.commit(Commit::new().delete("a/0")).await.unwrap();
    let change = next(&mut watch).await.unwrap();
    assert_eq!(
        (change.version, change.revision, change.raised_revision),
        (first.version, first.revision, true)
    );
    let (key, stored) = change.under("a/").next().unwrap();
    assert_eq!((key, stored.unwrap().value.as_ref()), ("a/1", b"1".as_slice()));
    let change = next(&mut watch).await.unwrap();
    assert_eq!(change.version, second.version);
    assert_eq!(change.under("a/").collect::<Vec<_>>(), vec![("a/0", None)]);
    let third = store.commit(Commit::new().put("a/3", "3")).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap().version, third.version);
    store.close().await;
    assert_eq!(next(&mut watch).await, Err(WatchEnd::Closed));
}

async fn slow_watchers_are_told_to_list_again(store: &impl Store) {
    let start = store.commit(Commit::new().put("a", "0")).await.unwrap();
    let mut slow = store.watch("", start.version);
    for round in 0..20 {
        let mut commit = Commit::new();
        for index in 0..1_000 {
            commit = commit.put(format!("many/{round:02}/{index:04}"), "x");
        }
        store.commit(commit).await.unwrap();
    }
    assert_eq!(next(&mut slow).await, Err(WatchEnd::Compacted));
    let now = store.list("a", None, 1).await.unwrap().version;
    let mut fresh = store.watch("", now);
    store.commit(Commit::new().put("a", "1")).await.unwrap();
    assert!(next(&mut fresh).await.is_ok());
}

async fn one_of_many_wins(store: Arc<impl Store>) {
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..64 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            store.commit(Commit::new().absent("token").put("token", vec![index])).await.is_ok()
        });
    }
    let winners = tasks.join_all().await.into_iter().filter(|won| *won).count();
    assert_eq!(winners, 1);
}

async fn nothing_is_written_after_closing(store: &impl Store) {
    store.commit(Commit::new().put("a", "1")).await.unwrap();
    store.close().await;
    store.close().await;
    assert!(matches!(store.commit(Commit::new().put("a", "2")).await, Err(StoreError::Closed)));
}

async fn next(watch: &mut Watch) -> Result<Arc<Change>, WatchEnd> {
    tokio::time::timeout(Duration::from_secs(30), watch.next()).await.expect("a change within half a minute")
}
