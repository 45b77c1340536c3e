use hauberk_identity::{Name, TrustDomain};
use hauberk_proto::admin::v1 as admin;

use super::*;
use crate::registry::SledStore;

mod recorded;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fn node(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://shop.local/mesh/shop/node/{}", Name::parse(name).unwrap())).unwrap()
}

fn instance(number: u8) -> InstanceId {
    InstanceId::from_random([number; 8])
}

fn denial(number: u8, rest: &str) -> agent::Decision {
    agent::Decision {
        id: format!("{}-{rest}", instance(number)),
        caller: node("intruder").to_string(),
        node: node("orders").to_string(),
        service: "orders-api".into(),
        action: "GET".into(),
        path: "/orders/1".into(),
        verdict: agent::Verdict::Deny.into(),
        first_of_kind: true,
        ..agent::Decision::default()
    }
}

fn batch(decisions: impl IntoIterator<Item = agent::Decision>) -> agent::Decisions {
    agent::Decisions { decisions: decisions.into_iter().collect(), dropped: 0 }
}

async fn flows() -> (Flows, SledStore, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let store = SledStore::create(&directory.path().join("store")).unwrap();
    (Flows::load(&store).await.unwrap(), store, directory)
}

#[test]
fn a_decision_id_names_its_instance() {
    assert_eq!(instance_of_decision(&denial(1, "8c4d0001").id), Some(instance(1)));
    assert_eq!(instance_of_decision(&denial(1, "8c4d-0001").id), Some(instance(1)));
    for wrong in ["", "-", "0000000000", "0000000000-", "000000000-1", "0000000000-a/b", "0000000000- "] {
        assert_eq!(instance_of_decision(wrong), None, "{wrong:?}");
    }
}

#[tokio::test]
async fn first_denials_outlive_the_process_and_others_do_not() {
    let (flows, store, _directory) = flows().await;
    let repeated = agent::Decision { first_of_kind: false, ..denial(1, "b") };
    flows.record(&node("orders"), instance(1), batch([denial(1, "a"), repeated]), NOW);
    assert!(flows.kept_decision(&denial(1, "b").id).is_some(), "in memory");
    flows.write_all(&store).await.unwrap();
    let flows = Flows::load(&store).await.unwrap();
    let kept = flows.kept_decision(&denial(1, "a").id).unwrap();
    assert_eq!((&*kept.decision, kept.kept_at), (&denial(1, "a"), NOW));
    assert!(flows.kept_decision(&denial(1, "b").id).is_none());
}

#[tokio::test]
async fn denials_of_long_ago_are_forgotten_on_the_disk_too() {
    let (flows, store, _directory) = flows().await;
    let record = |denial: agent::Decision, now| {
        let repeated = agent::Decision { first_of_kind: false, ..denial.clone() };
        let repeated = agent::Decision { id: format!("{}-again", denial.id), ..repeated };
        flows.record(&node("orders"), instance(1), batch([denial, repeated]), now);
    };
    record(denial(1, "old"), NOW);
    record(denial(1, "new"), NOW.plus(Duration::from_secs(1)));
    flows.write_all(&store).await.unwrap();
    let end = NOW.plus(REMEMBERED_FOR);
    assert_eq!(flows.prune(end), (0, 0));
    assert_eq!(flows.prune(end.plus(Duration::from_millis(1))), (0, 2));
    flows.write_all(&store).await.unwrap();
    let again = Flows::load(&store).await.unwrap();
    for flows in [&flows, &again] {
        assert!(flows.kept_decision(&denial(1, "old").id).is_none());
        assert!(flows.kept_decision(&denial(1, "new").id).is_some());
    }
    assert_eq!(store.list("decision/", None, 10).await.unwrap().entries.len(), 1);
}

#[tokio::test]
async fn a_noisy_instance_pushes_out_its_own_denials_alone() {
    let (flows, store, _directory) = flows().await;
    flows.record(&node("orders"), instance(1), batch([denial(1, "a")]), NOW);
    flows.record(&node("orders"), instance(2), batch((0..1_500).map(|n| denial(2, &n.to_string()))), NOW);
    assert!(flows.kept_decision(&denial(1, "a").id).is_some());
    assert!(flows.kept_decision(&denial(2, "499").id).is_none());
    assert!(flows.kept_decision(&denial(2, "500").id).is_some());
    flows.write_all(&store).await.unwrap();
    assert_eq!(store.list("decision/", None, 10_000).await.unwrap().entries.len(), 1_001);
}

#[tokio::test]
async fn an_instance_has_only_so_many_denials_written() {
    let (flows, store, _directory) = flows().await;
    let record = |from: u32, to: u32, now| {
        let all = (from..to).map(|n| denial(2, &n.to_string()));
        flows.record(&node("orders"), instance(2), batch(all), now);
    };
    record(0, 2_048, NOW);
    record(2_048, 2_100, NOW);
    flows.write_all(&store).await.unwrap();
    let written = async || store.list("decision/", None, 10_000).await.unwrap().entries.len();
    assert_eq!(written().await, 1_000 - 52);
    assert!(flows.kept_decision(&denial(2, "2099").id).is_some(), "in memory");
    flows.record(&node("orders"), instance(1), batch([denial(1, "a")]), NOW);
    record(2_100, 2_102, NOW.plus(Duration::from_millis(100)));
    flows.write_all(&store).await.unwrap();
    // Another's is written, and one more of its own, which with what is not written pushes out two.
    assert_eq!(written().await, 1_000 - 52 + 1 + 1 - 2);
}

#[tokio::test]
async fn an_instance_speaks_for_itself_alone() {
    let (flows, _store, _directory) = flows().await;
    let of_other_node = agent::Decision { node: node("payments").to_string(), ..denial(1, "a") };
    let huge = agent::Decision { path: "/".repeat(MAX_DECISION_BYTES), ..denial(1, "c") };
    let foreign = batch([of_other_node, denial(2, "b"), huge]);
    assert_eq!(flows.record(&node("orders"), instance(1), foreign, NOW), 3);
    assert!(flows.kept_decision(&denial(1, "a").id).is_none());
    assert!(flows.kept_decision(&denial(2, "b").id).is_none());
}

#[test]
fn filters_name_nodes_ids_and_services() {
    let shows = |change: fn(&mut admin::ObserveRequest)| {
        let mut request = admin::ObserveRequest::default();
        change(&mut request);
        Filter::parse(request).unwrap().shows(&denial(1, "a"))
    };
    assert!(shows(|_| {}));
    assert!(shows(|request| request.caller = "intruder".into()));
    assert!(shows(|request| request.caller = node("intruder").to_string()));
    assert!(!shows(|request| request.caller = "web".into()));
    assert!(shows(|request| request.target = "orders".into()));
    assert!(shows(|request| request.target = "orders-api".into()));
    assert!(!shows(|request| request.target = "order".into()));
    assert!(shows(|request| request.mesh = "shop".into()));
    assert!(!shows(|request| request.mesh = "bank".into()));
    assert!(shows(|request| request.action = "get".into()));
    assert!(!shows(|request| request.action = "POST".into()));
    assert!(shows(|request| request.path_prefix = "/orders/".into()));
    assert!(!shows(|request| request.path_prefix = "/orders/2".into()));
    assert!(shows(|request| request.set_verdict(agent::Verdict::Deny)));
    assert!(!shows(|request| request.set_verdict(agent::Verdict::Allow)));
    assert!(Filter::parse(admin::ObserveRequest { verdict: 9, ..Default::default() }).is_err());
}

#[tokio::test]
async fn a_slow_observer_is_told_how_many_it_missed() {
    let (flows, _store, _directory) = flows().await;
    let mut observation = flows.observe(Filter::default()).unwrap();
    assert!(*flows.observed().borrow());
    for number in 0..300 {
        let pair = batch([denial(1, &format!("{number}-a")), denial(1, &format!("{number}-b"))]);
        flows.record(&node("orders"), instance(1), agent::Decisions { dropped: 1, ..pair }, NOW);
    }
    let mut seen = 0;
    for _ in 0..256 {
        let response = observation.next().await.unwrap();
        assert_eq!(response.dropped, 1);
        seen += response.decisions.len() as u64;
    }
    flows.record(&node("orders"), instance(1), batch([denial(1, "last")]), NOW);
    let response = observation.next().await.unwrap();
    assert_eq!(response.decisions[0].id, denial(1, "last").id);
    // 44 batches were lost, with what their agent had left out.
    assert_eq!((seen, response.dropped), (512, 600 - 512 + 44));
    drop(observation);
    assert!(!*flows.observed().borrow());
}

#[tokio::test]
async fn observers_are_counted() {
    let (flows, _store, _directory) = flows().await;
    let mut observations: Vec<_> = (0..32).map(|_| flows.observe(Filter::default()).unwrap()).collect();
    assert!(flows.observe(Filter::default()).is_err());
    observations.pop();
    assert!(flows.observe(Filter::default()).is_ok());
}
