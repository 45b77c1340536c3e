//! What was decided how often, and what would have been denied.

use std::collections::BTreeSet;
use std::time::Duration;

use hauberk_policy::Mode;
use hauberk_proto::mesh::v1::{Resource, resource::Spec};

use super::*;
use crate::registry::{Commit, keys};
use crate::resources::testing;

pub(super) fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn exemplar(path: &str, count: u64) -> agent::FlowExemplar {
    let facts =
        agent::DecisionFacts { time_unix_ms: NOW.0, method: "GET".into(), ..agent::DecisionFacts::default() };
    agent::FlowExemplar {
        path: path.into(),
        peer_address: "10.0.0.1".into(),
        facts: Some(facts),
        count,
        first_seen_unix_ms: NOW.0 - 1_000,
        last_seen_unix_ms: NOW.0,
        ..agent::FlowExemplar::default()
    }
}

fn flow(caller: &str, exemplars: Vec<agent::FlowExemplar>) -> agent::FlowSummary {
    agent::FlowSummary {
        caller: node(caller).to_string(),
        node: node("orders").to_string(),
        port: 8080,
        action: "GET".into(),
        route: "*undeclared".into(),
        verdict: agent::Verdict::Allow.into(),
        reason: "permitted".into(),
        policies: vec!["p".into()],
        exemplars,
        first_seen_unix_ms: NOW.0 - 1_000,
        last_seen_unix_ms: NOW.0,
        ..agent::FlowSummary::default()
    }
}

fn summaries(flows: Vec<agent::FlowSummary>) -> agent::FlowSummaries {
    agent::FlowSummaries { flows, unrecorded: 0 }
}

fn count(flows: &Flows, summaries: agent::FlowSummaries) -> usize {
    flows.count(&node("orders"), &name("shop"), summaries, NOW)
}

fn recorded(flows: &Flows) -> Vec<agent::FlowSummary> {
    let records = flows.recorded().of(|_| true);
    records.iter().flat_map(|record| &record.flows).map(|flow| (**flow).clone()).collect()
}

#[tokio::test]
async fn counts_add_up_over_instances_and_outlive_the_process() {
    let (flows, store, _directory) = flows().await;
    assert_eq!(count(&flows, summaries(vec![flow("web", vec![exemplar("/1", 3)])])), 0);
    let later = agent::FlowSummary {
        revision: 9,
        others: 4,
        last_seen_unix_ms: NOW.0 - 10,
        ..flow("web", vec![exemplar("/1", 2), exemplar("/2", 1)])
    };
    assert_eq!(count(&flows, summaries(vec![later, flow("cart", vec![exemplar("/1", 1)])])), 0);
    let known = recorded(&flows);
    let of = |flow: &agent::FlowSummary| {
        let counts: Vec<_> = flow.exemplars.iter().map(|one| (one.path.clone(), one.count)).collect();
        (flow.caller.clone(), counts, flow.others)
    };
    let wanted = vec![
        (node("cart").to_string(), vec![("/1".to_owned(), 1)], 0),
        (node("web").to_string(), vec![("/1".to_owned(), 5), ("/2".to_owned(), 1)], 4),
    ];
    assert_eq!(known.iter().map(of).collect::<Vec<_>>(), wanted);
    assert_eq!(known[1].last_seen_unix_ms, NOW.0);
    let stop = CancellationToken::new();
    stop.cancel();
    flows.recorded.run(&store, &stop).await;
    let again = Flows::load(&store).await.unwrap();
    assert_eq!(recorded(&again), known);
    assert_eq!(again.recorded().prune(NOW.plus(REMEMBERED_FOR)), 0);
    assert_eq!(again.recorded().prune(NOW.plus(REMEMBERED_FOR + Duration::from_millis(1))), 2);
    again.recorded.run(&store, &stop).await;
    assert_eq!(recorded(&Flows::load(&store).await.unwrap()), []);
}

#[tokio::test]
async fn what_is_in_no_flow_is_known_for_as_long_as_a_flow_and_outlives_the_process_too() {
    let (flows, store, _directory) = flows().await;
    let unrecorded = |flows: &Flows| {
        flows.recorded().of(|_| true).into_iter().map(|record| record.unrecorded).collect::<Vec<_>>()
    };
    let besides = |unrecorded| agent::FlowSummaries { flows: Vec::new(), unrecorded };
    let stop = CancellationToken::new();
    stop.cancel();
    let restarted = async |flows: &Flows| {
        flows.recorded.run(&store, &stop).await;
        Flows::load(&store).await.unwrap()
    };
    count(&flows, besides(7));
    let flows = restarted(&flows).await;
    assert_eq!(unrecorded(&flows), [7]);
    flows.count(&node("orders"), &name("shop"), besides(3), NOW.plus(Duration::from_secs(60)));
    count(&flows, besides(u64::MAX));
    let flows = restarted(&flows).await;
    assert_eq!(unrecorded(&flows), [u64::MAX]);
    // What had to give way is among them, as old as it was.
    let at = |number: u64, last_seen_unix_ms| {
        let one = flow("web", vec![exemplar("/1", 2)]);
        let of = node("payments").to_string();
        agent::FlowSummary { node: of, route: format!("/{number}"), last_seen_unix_ms, ..one }
    };
    let kinds = (0..2_049).map(|number| at(number, NOW.0 - 5_000 + number)).collect();
    flows.count(&node("payments"), &name("shop"), summaries(kinds), NOW);
    assert_eq!(unrecorded(&flows), [u64::MAX, 2]);
    let flows = restarted(&flows).await;
    assert_eq!(unrecorded(&flows), [u64::MAX, 2]);
    let pruned = |last_kept: u64| {
        flows.recorded().prune(UnixMillis(last_kept).plus(REMEMBERED_FOR));
        unrecorded(&flows)
    };
    assert_eq!(pruned(NOW.0 - 5_000), [u64::MAX, 2]);
    assert_eq!(pruned(NOW.0 - 4_999), [u64::MAX, 0], "its flows are younger");
    assert_eq!(pruned(NOW.0 + 60_000), [u64::MAX]);
    assert_eq!(pruned(NOW.0 + 60_001), [0; 0]);
    let flows = restarted(&flows).await;
    assert_eq!(unrecorded(&flows), [0; 0]);
    assert!(store.list(keys::UNRECORDED, None, 10).await.unwrap().entries.is_empty());
}

#[tokio::test]
async fn a_count_that_cannot_be_read_is_left_out() {
    let (_, store, _directory) = flows().await;
    let of = |node: &str| format!("{}{node}", keys::UNRECORDED);
    let wrong = [(of(node("orders").as_str()), vec![0xff]), (of("nobody"), vec![])];
    let commit = wrong.into_iter().fold(Commit::new(), |commit, (key, value)| commit.put(key, value));
    store.commit(commit).await.unwrap();
    let flows = Flows::load(&store).await.unwrap();
    assert!(flows.recorded().of(|_| true).is_empty());
}

#[tokio::test]
async fn the_latest_calls_stand_for_a_flow() {
    let (flows, _store, _directory) = flows().await;
    let at = |path: &str, ago: u64| agent::FlowExemplar {
        first_seen_unix_ms: NOW.0 - ago,
        last_seen_unix_ms: NOW.0 - ago,
        ..exemplar(path, 1)
    };
    let eight = (0..8).map(|number| at(&format!("/{number}"), 1_000 - number)).collect();
    assert_eq!(count(&flows, summaries(vec![flow("web", eight)])), 0);
    let (newer, older) = (at("/new", 1), at("/old", 5_000));
    assert_eq!(count(&flows, summaries(vec![flow("web", vec![newer, older])])), 0);
    let [known] = &recorded(&flows)[..] else { panic!("it is one flow") };
    let paths: BTreeSet<_> = known.exemplars.iter().map(|own| own.path.as_str()).collect();
    assert_eq!(paths, ["/1", "/2", "/3", "/4", "/5", "/6", "/7", "/new"].into());
    assert_eq!(known.others, 2, "one that gave way, and one that came too late");
}

#[tokio::test]
async fn an_agent_counts_for_its_own_node_alone_and_nothing_that_makes_no_sense() {
    let (flows, _store, _directory) = flows().await;
    let good = flow("web", vec![exemplar("/1", 3)]);
    let wrong = [
        agent::FlowSummary { node: node("payments").to_string(), ..good.clone() },
        agent::FlowSummary { caller: "nobody".into(), ..good.clone() },
        agent::FlowSummary { action: "FETCH".into(), ..good.clone() },
        agent::FlowSummary { port: 70_000, ..good.clone() },
        agent::FlowSummary { verdict: 0, ..good.clone() },
        agent::FlowSummary { route: "x".repeat(30_000), ..good.clone() },
        flow("web", (0..9).map(|n| exemplar(&format!("/{n}"), 1)).collect()),
        agent::FlowSummary { conditions: vec![agent::ConditionOutcome::default(); 33], ..good.clone() },
        flow("web", vec![agent::FlowExemplar { facts: None, ..exemplar("/1", 1) }]),
        flow("web", vec![agent::FlowExemplar { peer_address: "here".into(), ..exemplar("/1", 1) }]),
    ];
    let sent = wrong.len();
    assert_eq!(count(&flows, summaries(wrong.to_vec())), sent);
    assert_eq!(recorded(&flows), []);
    // What a clock that is ahead says comes from now.
    let ahead = agent::FlowSummary { last_seen_unix_ms: NOW.0 + 9_000, ..good };
    assert_eq!(count(&flows, summaries(vec![ahead])), 0);
    assert_eq!(recorded(&flows)[0].last_seen_unix_ms, NOW.0);
}

#[tokio::test]
async fn a_hostile_agent_fills_no_more_than_its_own_share() {
    let (flows, _store, _directory) = flows().await;
    let of_payments =
        agent::FlowSummary { node: node("payments").to_string(), ..flow("web", vec![exemplar("/1", 1)]) };
    assert_eq!(flows.count(&node("payments"), &name("shop"), summaries(vec![of_payments]), NOW), 0);
    for number in 0..3_000_u64 {
        let one = agent::FlowSummary { route: format!("/{number}"), ..flow("web", vec![exemplar("/1", 1)]) };
        let one = agent::FlowSummary { last_seen_unix_ms: NOW.0 - 5_000 + number, ..one };
        assert_eq!(count(&flows, summaries(vec![one])), 0);
    }
    let records = flows.recorded().of(|id| *id == node("orders"));
    assert_eq!(records[0].flows.len(), 2_048);
    assert_eq!(records[0].unrecorded, 952);
    assert!(!records[0].flows.iter().any(|flow| flow.route == "/0"), "what was not seen for longest goes");
    assert_eq!(flows.recorded().of(|id| *id == node("payments"))[0].flows.len(), 1);
    let long = |number: u64| {
        let policies = vec!["p".repeat(20_000)];
        agent::FlowSummary { route: format!("/long/{number}"), policies, ..flow("web", Vec::new()) }
    };
    for number in 0..200 {
        assert_eq!(count(&flows, summaries(vec![long(number)])), 0);
    }
    let records = flows.recorded().of(|id| *id == node("orders"));
    let bytes: usize = records[0].flows.iter().map(|flow| flow.encoded_len()).sum();
    assert!(bytes <= 2 * 1024 * 1024, "{bytes}");
}

#[tokio::test]
async fn where_all_together_is_too_much_whoever_has_most_gives_way() {
    let (flows, _store, _directory) = flows().await;
    let count = |of: &str, number: u32, bytes: usize| {
        let one = agent::FlowSummary {
            node: node(of).to_string(),
            route: format!("/{number}"),
            policies: vec!["p".repeat(bytes)],
            ..flow("web", Vec::new())
        };
        assert_eq!(flows.count(&node(of), &name("shop"), summaries(vec![one]), NOW), 0);
    };
    let bytes = |of: &str| -> usize {
        let records = flows.recorded().of(|id| *id == node(of));
        records.iter().flat_map(|record| &record.flows).map(|flow| flow.encoded_len()).sum()
    };
    count("modest", 0, 10);
    // Each less than a node may have, and together more than there is room for.
    let nodes: Vec<_> = (0..68).map(|number| format!("heavy-{number}")).collect();
    for node in &nodes {
        (0..87).for_each(|number| count(node, number, 23_000));
    }
    let all: usize = nodes.iter().map(|node| bytes(node)).sum();
    assert!(all <= 128 * 1024 * 1024, "{all}");
    assert!(all > 127 * 1024 * 1024, "{all}");
    count("modest", 1, 24_000);
    let modest = flows.recorded().of(|id| *id == node("modest"));
    assert_eq!((modest[0].flows.len(), modest[0].unrecorded), (2, 0), "the first of them, too");
    let least = nodes.iter().map(|node| bytes(node)).min().unwrap_or_default();
    assert!(least > 1_800_000, "nobody gave way much more than others: {least}");
}

#[tokio::test]
async fn what_is_in_audit_is_counted_since_it_last_changed() {
    let (flows, store, _directory) = flows().await;
    let trust_domain = TrustDomain::parse("shop.local").unwrap();
    let audited = |cedar: &str, mode: &str| {
        let mut policy = testing::policy("watched", cedar);
        if let Some(Spec::Policy(spec)) = &mut policy.spec {
            spec.mode = Some(mode.to_owned());
        }
        policy
    };
    let mut orders =
        testing::node("orders", [testing::listener(8080, "http"), testing::listener(9090, "http")]);
    testing::node_spec(&mut orders).listeners[1].authorization = Some("AUDIT".to_owned());
    let forbid = "forbid(principal, action, resource);";
    let catalog = testing::catalog_of(&[testing::mesh("shop"), orders, audited(forbid, "AUDIT")]);
    let in_audit = would_deny::in_audit(&catalog, &trust_domain);
    assert_eq!(in_audit.len(), 2, "{in_audit:?}");
    let denials = &flows.would_denials;
    // Calls were made long before, as an agent says whose clock is slow.
    denials.keep(&in_audit, 7, NOW.plus(Duration::from_secs(60)));
    let would = |policies: &[&str], port, verdict: agent::Verdict| agent::FlowSummary {
        port,
        verdict: verdict.into(),
        audit_verdict: agent::Verdict::Deny.into(),
        audit_policies: policies.iter().map(|name| (*name).to_owned()).collect(),
        epoch: 7,
        ..flow("web", vec![exemplar("/1", 3)])
    };
    let sent = vec![
        would(&["watched/first", "watched/second"], 8080, agent::Verdict::Allow),
        would(&["other"], 8080, agent::Verdict::Allow),
        would(&[], 9090, agent::Verdict::AuditAllow),
        would(&[], 8080, agent::Verdict::AuditAllow),
        flow("web", vec![exemplar("/1", 100)]),
    ];
    assert_eq!(count(&flows, summaries(sent)), 0);
    let told = |flows: &Flows| {
        let of = flows.would_denials().of(&name("shop"));
        of.into_iter().map(|(what, tally)| (what, tally.count, tally.last_seen_unix_ms)).collect::<Vec<_>>()
    };
    let policy = Auditing::Policy { mesh: name("shop"), name: name("watched") };
    let listener = Auditing::Listener { node: node("orders"), port: 9090 };
    assert_eq!(told(&flows), [(policy.clone(), 3, NOW.0), (listener.clone(), 3, NOW.0)]);
    let stop = CancellationToken::new();
    stop.cancel();
    flows.would_denials.run(&store, &stop).await;
    let again = Flows::load(&store).await.unwrap();
    assert_eq!(told(&again), told(&flows));
    // As it stands nothing begins anew; what has changed does, and what is enforced is not counted.
    again.would_denials.keep(&in_audit, 7, NOW);
    assert_eq!(told(&again), told(&flows));
    let mut changed = in_audit;
    let of = |version: &str, revision| would_deny::Audited { version: version.to_owned(), revision };
    changed.insert(policy.clone(), of("another/2/a", 12));
    changed.remove(&listener);
    again.would_denials.keep(&changed, 7, NOW);
    assert_eq!(told(&again), [(policy.clone(), 0, 0)]);
    let counted = |revision| {
        let flow = agent::FlowSummary { revision, ..would(&["watched"], 8080, agent::Verdict::Allow) };
        assert_eq!(count(&again, summaries(vec![flow])), 0);
        told(&again)[0].1
    };
    assert_eq!(counted(11), 0, "that was decided before it changed, whatever clocks say");
    assert_eq!(counted(12), 3);
    // It says what it said: agents go on with the views that they have.
    changed.insert(policy, of("another/3/a", 13));
    again.would_denials.keep(&changed, 7, NOW);
    assert_eq!(counted(12), 3);
    let catalog = testing::catalog_of(&[testing::mesh("shop"), audited(forbid, "ENFORCE")]);
    assert_eq!(
        catalog.mesh("shop").unwrap().policies().next().map(|policy| policy.mode()),
        Some(Mode::Enforce)
    );
    assert!(would_deny::in_audit(&catalog, &trust_domain).is_empty());
}

#[test]
fn what_a_policy_follows_and_names_is_part_of_what_is_counted() {
    let trust_domain = TrustDomain::parse("shop.local").unwrap();
    let audited = |mut policy: Resource| {
        if let Some(Spec::Policy(spec)) = &mut policy.spec {
            spec.mode = Some("AUDIT".to_owned());
        }
        policy
    };
    // Stored as they were, whatever comes of what they follow and name.
    let policies = [
        audited(testing::linked("follows", "writers", Some("Node::\"web\""), None)),
        audited(testing::policy("of-role", "forbid(principal in Role::\"outer\", action, resource);")),
        audited(testing::policy("of-class", "forbid(principal, action, resource in DataClass::\"outer\");")),
        audited(testing::policy("of-neither", "forbid(principal, action, resource);")),
    ];
    let template = |action: &str| {
        testing::template(
            "writers",
            &format!("forbid(principal == ?principal, action == {action}, resource);"),
        )
    };
    let versions = |others: [Resource; 5]| {
        let nodes = ["web", "cart"].map(|name| testing::node(name, []));
        let batch: Vec<_> = [&[testing::mesh("shop")], &nodes[..], &others, &policies].concat();
        let versions = would_deny::in_audit(&testing::catalog_of(&batch), &trust_domain);
        versions.into_iter().map(|(what, version)| (format!("{what:?}"), version)).collect::<Vec<_>>()
    };
    let as_is = [
        template("Action::\"POST\""),
        testing::role("outer", &[], &[], &["inner"]),
        testing::role("inner", &["web"], &[], &[]),
        testing::data_class("outer", &["inner"]),
        testing::data_class("inner", &[]),
    ];
    let before = versions(as_is.clone());
    assert_eq!(before, versions(as_is.clone()));
    let changes = [
        (0, template("Action::\"GET\""), "follows"),
        (2, testing::role("inner", &["web", "cart"], &[], &[]), "of-role"),
        (3, testing::data_class("outer", &[]), "of-class"),
    ];
    for (place, change, counted_anew) in changes {
        let mut others = as_is.clone();
        others[place] = change;
        let after = versions(others);
        let changed = before.iter().zip(&after).filter(|(before, after)| before != after);
        let changed: Vec<_> = changed.map(|((what, _), _)| what.as_str()).collect();
        assert!(
            matches!(&changed[..], [what] if what.contains(&format!("\"{counted_anew}\""))),
            "{changed:?}"
        );
    }
}
