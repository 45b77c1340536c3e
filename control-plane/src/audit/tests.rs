use std::io;
use std::time::Duration;

use futures_util::FutureExt as _;

use super::*;
use crate::registry::SledStore;

struct Scratch {
    _directory: tempfile::TempDir,
    store: Arc<dyn Store>,
    clock: Clock,
}

fn scratch() -> Scratch {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(SledStore::create(&directory.path().join("registry")).unwrap());
    Scratch { _directory: directory, store, clock: Clock::manual(UnixMillis(1_000_000)) }
}

fn actor() -> Actor {
    Actor { name: "spiffe://shop.local/admin/ada".into(), source: "127.0.0.1:9".into() }
}

#[tokio::test]
async fn records_are_read_latest_first_page_by_page() {
    let scratch = scratch();
    let audit = Audit::open(scratch.store.clone(), scratch.clock.clone()).await.unwrap();
    for index in 0..25 {
        let act = if index % 5 == 0 {
            Act::refused(&actor(), "token.create", index.to_string(), "no such node")
        } else {
            Act::done(&actor(), "resources.apply", index.to_string())
        };
        audit.record(act).await.unwrap();
    }
    let first = audit.list(&Filter::default(), None, 10).await.unwrap();
    assert_eq!(first.records.len(), 10);
    assert_eq!(first.records[0].object, "24");
    let second = audit.list(&Filter::default(), first.next, 10).await.unwrap();
    assert_eq!(second.records[0].object, "14");
    let third = audit.list(&Filter::default(), second.next, 10).await.unwrap();
    assert_eq!((third.records.len(), third.next), (5, None));
    let refused = Filter { refused_only: true, action: "token.".into(), ..Filter::default() };
    assert_eq!(audit.list(&refused, None, 100).await.unwrap().records.len(), 5);
    let nobody = Filter { actor: "spiffe://shop.local/admin/bob".into(), ..Filter::default() };
    assert!(audit.list(&nobody, None, 100).await.unwrap().records.is_empty());

    let reopened = Audit::open(scratch.store.clone(), scratch.clock.clone()).await.unwrap();
    reopened.record(Act::done(&actor(), "resources.apply", "later")).await.unwrap();
    assert_eq!(reopened.list(&Filter::default(), None, 1).await.unwrap().records[0].sequence, 26);
}

#[tokio::test]
async fn the_oldest_records_make_room() {
    let scratch = scratch();
    let audit = Audit::open(scratch.store.clone(), scratch.clock.clone()).await.unwrap();
    audit.record(Act::done(&actor(), "a", "first")).await.unwrap();
    audit.last.lock().unwrap().in_ring[Ring::Acts as usize] = Ring::Acts.retained();
    audit.record(Act::done(&actor(), "a", "much later")).await.unwrap();
    let records = audit.list(&Filter::default(), None, 10).await.unwrap().records;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].object, "much later");
}

#[tokio::test]
async fn floods_of_refusals_are_counted_instead_of_kept() {
    let scratch = scratch();
    let audit = Audit::open(scratch.store.clone(), scratch.clock.clone()).await.unwrap();
    let act =
        || Act::refused(&Actor::unauthenticated("10.0.0.1:5"), "enrollment.attest", "", "x".repeat(4_000));
    for _ in 0..100 {
        audit.record_refusal(act()).await;
    }
    scratch.clock.advance(Duration::from_secs(1));
    audit.record_refusal(act()).await;
    let records = audit.list(&Filter::default(), None, 200).await.unwrap().records;
    assert_eq!(records.len(), refusals::AT_ONCE as usize + 1);
    assert!(records[0].reason.starts_with("(80 refusals before this were not recorded) x"));
    assert!(records[1].reason.chars().count() <= LONGEST_TEXT + 1);
    let since = Filter { since: Some(scratch.clock.now()), ..Filter::default() };
    assert_eq!(audit.list(&since, None, 200).await.unwrap().records.len(), 1);
}

#[tokio::test]
async fn what_an_admin_has_written_is_not_cut_and_the_rest_is() {
    let scratch = scratch();
    let audit = Audit::open(scratch.store.clone(), scratch.clock.clone()).await.unwrap();
    let missing =
        (0..32).map(|n| format!("k8s:pod-label:{n}:{}", "x".repeat(1_000))).collect::<Vec<_>>().join(", ");
    for (written, kept) in
        [(missing.len(), missing.len() + LONGEST_TEXT), (usize::MAX, LONGEST_RULE + LONGEST_TEXT)]
    {
        let reason = format!("{missing}; it has {}", "y".repeat(1 << 20));
        audit.record(Act::refused(&actor(), "workload.deny", "", reason).naming(written)).await.unwrap();
        let records = audit.list(&Filter::default(), None, 1).await.unwrap().records;
        assert!(records[0].reason.starts_with(&missing));
        assert_eq!(records[0].reason.chars().count(), kept + 1);
    }
}

/// What is logged by this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// What became of each act that was logged, in order.
    fn outcomes(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines()
            .map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                line["fields"]["outcome"].as_str().unwrap().to_owned()
            })
            .collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_tells_an_act_once_it_is_known_what_came_of_it() {
    let scratch = scratch();
    let audit = Audit::open(scratch.store.clone(), scratch.clock.clone()).await.unwrap();
    let act = || Act::done(&actor(), "token.delete", "one");
    // As long as there is one listener, what is listened to is asked in the thread that happens to ask: other tests'
    // threads have none. With a second one all are asked.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
    let _logged = tracing::subscriber::set_default(subscriber);

    let mut commit = Box::pin(audit.commit(Commit::new().absent("a").put("a", "1"), act()));
    assert!(commit.as_mut().now_or_never().is_none(), "a commit takes a disk's time");
    assert_eq!(log.outcomes(), Vec::<String>::new(), "nothing is told before it is answered");
    commit.await.unwrap();
    assert_eq!(log.outcomes(), ["ok"]);

    audit.commit(Commit::new().absent("a"), act()).await.unwrap_err();
    audit.record(Act::refused(&actor(), "token.delete", "two", "there is none")).await.unwrap();
    assert_eq!(log.outcomes(), ["ok", "failed", "refused"]);

    // A caller that goes away in between.
    assert!(audit.commit(Commit::new(), act()).now_or_never().is_none());
    scratch.store.close().await;
    audit.commit(Commit::new(), act()).await.unwrap_err();
    assert_eq!(log.outcomes(), ["ok", "failed", "refused", "unknown", "failed"]);
}

#[tokio::test]
async fn what_happens_often_pushes_out_only_its_own_kind() {
    let scratch = scratch();
    let audit = Audit::open(scratch.store.clone(), scratch.clock.clone()).await.unwrap();
    let stranger = Actor::unauthenticated("10.0.0.1:5");
    let acts = [
        Act::done(&actor(), "resources.apply", "0"),
        Act::done(&actor(), "certificate.renew", "1"),
        Act::refused(&actor(), "token.create", "2", "no such node"),
        Act::refused(&stranger, "enrollment.attest", "3", "unknown"),
        Act::done(&actor(), "token.create", "4"),
    ];
    for act in acts {
        audit.record(act).await.unwrap();
    }
    let objects = async |audit: &Audit, page: usize| {
        let (mut objects, mut from) = (String::new(), None);
        loop {
            let page = audit.list(&Filter::default(), from, page).await.unwrap();
            objects.extend(page.records.into_iter().map(|record| record.object));
            // As it goes over the wire.
            from = match page.next {
                Some(next) => Some(next.to_string().parse().unwrap()),
                None => return objects,
            };
        }
    };
    assert_eq!(objects(&audit, 100).await, "43210");
    assert_eq!(objects(&audit, 1).await, "43210");
    for (ring, gone) in [(Ring::Issuance, "1"), (Ring::Refusals, "2"), (Ring::Strangers, "3")] {
        let audit = Audit::open(scratch.store.clone(), scratch.clock.clone()).await.unwrap();
        audit.last.lock().unwrap().in_ring[ring as usize] = ring.retained();
        let act = match ring {
            Ring::Acts | Ring::Issuance => Act::done(&actor(), "certificate.renew", ""),
            Ring::Refusals => Act::refused(&actor(), "token.create", "", "no such node"),
            Ring::Strangers => Act::refused(&stranger, "admin.login", "", "unknown"),
        };
        audit.record(act).await.unwrap();
        assert!(!objects(&audit, 2).await.contains(gone));
    }
    assert_eq!(objects(&audit, 100).await, "40");
    assert_eq!("1.2.3".parse::<Position>(), Err(NotAPosition));
    assert_eq!("1.2.3.x".parse::<Position>(), Err(NotAPosition));
}

#[tokio::test]
async fn one_flood_of_refusals_hides_nobody_else() {
    let scratch = scratch();
    let audit = Audit::open(scratch.store.clone(), scratch.clock.clone()).await.unwrap();
    let refused = |name: &str, source: &str| {
        let actor = Actor { name: name.into(), source: source.into() };
        Act::refused(&actor, "access.check", "", "no")
    };
    for index in 0..100 {
        audit.record_refusal(refused("unauthenticated", &format!("10.0.0.{index}:5"))).await;
        audit.record_refusal(refused("eve", "10.0.0.9:5")).await;
    }
    audit.record_refusal(refused("mallory", "10.0.0.9:6")).await;
    let by = async |actor: &str| {
        let filter = Filter { actor: actor.into(), ..Filter::default() };
        audit.list(&filter, None, 200).await.unwrap().records.len()
    };
    assert_eq!(by("unauthenticated").await, refusals::OF_STRANGERS_PER_SECOND as usize);
    assert_eq!(by("eve").await, refusals::AT_ONCE as usize);
    assert_eq!(by("mallory").await, 1);
}
