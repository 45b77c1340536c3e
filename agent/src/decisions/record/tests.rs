use hauberk_identity::SpiffeId;
use hauberk_policy::{
    Attempt, Caller, CallerMemo, CanonicalPath, Decision, Gathered, Moment, Peer, Reason, Recalled,
};

use super::*;
use crate::decisions::facts::Request;
use crate::mesh::{NodeView, ViewStamp};
use crate::testing::{node_view, prepared};

const AT: UnixMillis = UnixMillis(1_700_000_000_000);
const SECOND: Duration = Duration::from_secs(1);

/// One caller at one place, asking the view.
struct Asking {
    view: ViewStamp,
    caller: Caller,
    peer: Peer,
    memo: CallerMemo,
}

impl Asking {
    fn new(view: &Arc<NodeView>, caller: &str, address: &str) -> Self {
        let id = format!("spiffe://shop.local/mesh/shop/node/{caller}");
        let caller = Caller::Peer(SpiffeId::parse(&id).unwrap());
        let peer = Peer::new(Some(address.parse().unwrap()), None);
        let memo = view.engine.caller(&caller, &peer);
        Self { view: ViewStamp::of(view), caller, peer, memo }
    }

    fn ask(&mut self, record: &Record, method: &str, path: &str, at: UnixMillis) {
        let (decision, moment, counted) = self.decide(record, method, path, at);
        record.count(&self.facts(path, method, &decision, moment), counted);
    }

    fn decide(
        &mut self,
        record: &Record,
        method: &str,
        path: &str,
        at: UnixMillis,
    ) -> (Arc<Decision>, Moment, Counted) {
        let canonical = CanonicalPath::parse(method, path).unwrap();
        let gathered = Gathered::nothing();
        let attempt = Attempt::Request { method, path: &canonical, upgrade: false, gathered };
        let moment = Moment { time: at, certificate_since: None };
        let mark = record.mark(method, canonical.path());
        let recalled = self.memo.recall(8080, attempt, moment, Some(mark));
        let (decision, counted) = match recalled {
            Recalled::Known(decision, counted) => (decision, counted),
            Recalled::Open(pending) => self.memo.learn(pending.decide()),
        };
        (decision, moment, counted)
    }

    fn facts<'a>(
        &'a self,
        path: &'a str,
        method: &'a str,
        decision: &'a Decision,
        moment: Moment,
    ) -> Facts<'a> {
        Facts {
            view: Some(&self.view),
            caller: &self.caller,
            caller_serial: None,
            peer_address: "10.0.0.1:9".parse().unwrap(),
            peer: &self.peer,
            moment,
            port: 8080,
            service: "orders.shop",
            leaves_to: None,
            request: Request::Http { method, path, is_upgrade: false },
            query: Some("token=secret"),
            gathered: None,
            ruling: Ruling::Policy(decision),
        }
    }
}

/// A flow's caller, action, paths with their counts, and how many others.
type Told = (String, String, Vec<(String, u64)>, u64);

fn told(record: &Record, now: UnixMillis) -> Vec<Told> {
    let mut flows: Vec<_> = record.take(now).into_iter().flat_map(|message| message.flows).collect();
    flows.sort_by(|one, other| (&one.caller, &one.action).cmp(&(&other.caller, &other.action)));
    let of = |flow: pb::FlowSummary| {
        let mut calls: Vec<_> = flow.exemplars.into_iter().map(|call| (call.path, call.count)).collect();
        calls.sort();
        let caller = flow.caller.rsplit('/').next().unwrap_or_default().to_owned();
        (caller, flow.action, calls, flow.others)
    };
    flows.into_iter().map(of).collect()
}

fn row(caller: &str, action: &str, calls: &[(&str, u64)], others: u64) -> Told {
    let calls = calls.iter().map(|(path, count)| ((*path).to_owned(), *count)).collect();
    (caller.to_owned(), action.to_owned(), calls, others)
}

#[test]
fn what_is_remembered_is_counted_where_it_is_remembered() {
    let (record, view) = (Record::default(), prepared(&node_view(7)));
    let mut web = Asking::new(&view, "web", "10.0.0.1");
    let mut elsewhere = Asking::new(&view, "web", "10.0.0.2");
    for _ in 0..5 {
        web.ask(&record, "GET", "/a", AT);
        web.ask(&record, "GET", "/b", AT);
        elsewhere.ask(&record, "GET", "/a", AT);
    }
    web.ask(&record, "POST", "/a", AT);
    let wanted = [row("web", "GET", &[("/a", 10), ("/b", 5)], 0), row("web", "POST", &[("/a", 1)], 0)];
    assert_eq!(told(&record, AT), wanted);
    assert_eq!(told(&record, AT), [], "it was told");
    web.ask(&record, "GET", "/b", AT.plus(SECOND));
    assert_eq!(told(&record, AT), [row("web", "GET", &[("/b", 1)], 0)]);
    // What a memory has counted is not lost with it.
    web.ask(&record, "GET", "/b", AT.plus(SECOND));
    drop((web, elsewhere));
    assert_eq!(told(&record, AT), [row("web", "GET", &[("/b", 1)], 0)]);
    assert_eq!(record.state().sources.len(), 0);
    record.tell_again();
    let again = [row("web", "GET", &[("/a", 0), ("/b", 0)], 0), row("web", "POST", &[("/a", 0)], 0)];
    assert_eq!(told(&record, AT), again);
}

#[test]
fn of_many_paths_some_are_told_and_all_are_counted() {
    let (record, view) = (Record::default(), prepared(&node_view(7)));
    let mut web = Asking::new(&view, "web", "10.0.0.1");
    for _ in 0..2 {
        for number in 0..20 {
            web.ask(&record, "GET", &format!("/{number}"), AT);
        }
    }
    web.ask(&record, "GET", &format!("/{}", "x".repeat(MAX_PATH)), AT);
    let found = told(&record, AT);
    let [(_, _, calls, others)] = &found[..] else { panic!("{found:?}") };
    assert_eq!((calls.len(), calls.iter().map(|(_, count)| count).sum::<u64>() + others), (8, 41));
    assert!(calls.iter().all(|(_, count)| *count == 2), "{calls:?}");
}

#[test]
fn only_what_policies_read_is_told() {
    let (record, view) = (Record::default(), prepared(&node_view(7)));
    let web = Asking::new(&view, "web", "10.0.0.1");
    let moment = Moment { time: AT, certificate_since: None };
    let decision = Decision::denied(Reason::NoPolicyMatched);
    record.count(&web.facts("/a", "GET", &decision, moment), Counted::No);
    let messages = record.take(AT);
    let told = format!("{messages:?}");
    assert!(!told.contains("secret") && !told.contains("10.0.0.1"), "{told}");
    let flow = &messages[0].flows[0];
    let call = &flow.exemplars[0];
    assert_eq!((flow.reason.as_str(), call.query_known, call.count), ("no_policy_matched", false, 1));
    assert_eq!((flow.revision, flow.node.as_str()), (view.revision, view.spiffe_id.as_str()));
}

#[test]
fn how_conditions_came_out_is_told_and_nothing_of_what_they_read() {
    let mut view = node_view(7);
    let policy =
        |name: &str, cedar: String| pb::Policy { name: name.to_owned(), cedar, ..pb::Policy::default() };
    let permit =
        |condition: &str| format!("permit(principal, action == Action::\"GET\", resource) {condition};");
    let Some(pb::view::Body::Node(node)) = &mut view.body else { panic!("it is a node\'s") };
    node.policies = vec![
        policy("all", permit("")),
        policy("by-path", permit("when { context.path like \"/secret*\" }")),
        policy("by-role", permit("when { principal == Node::\"spiffe://shop.local/mesh/shop/node/web\" }")),
        policy("same", permit("when { (context.path like \"/secret*\") }")),
    ];
    let (record, view) = (Record::default(), prepared(&view));
    let mut web = Asking::new(&view, "web", "10.0.0.1");
    for path in ["/secret/1", "/secret/2", "/open", "/secret/1"] {
        web.ask(&record, "GET", path, AT);
    }
    let mut flows: Vec<_> = record.take(AT).into_iter().flat_map(|message| message.flows).collect();
    flows.sort_by_key(|flow| flow.exemplars.len());
    let told = |flow: &pb::FlowSummary| -> Vec<_> {
        flow.conditions.iter().map(|outcome| (outcome.policy.clone(), outcome.met)).collect()
    };
    let both = |met| [("by-path".to_owned(), met), ("same".to_owned(), met)];
    assert_eq!((told(&flows[0]), told(&flows[1])), (both(false).to_vec(), both(true).to_vec()));
    assert_eq!((flows[0].exemplars.len(), flows[1].exemplars.len()), (1, 2));
    let [one, other] = &flows[1].conditions[..] else { panic!("{flows:?}") };
    assert_eq!((one.digest.len(), &one.digest), (DIGEST_LEN, &other.digest), "they say the same");
}

#[test]
fn its_memory_is_bounded_and_what_is_too_much_is_counted() {
    let (record, view) = (Record::default(), prepared(&node_view(7)));
    for number in 0..MAX_FLOWS + 100 {
        Asking::new(&view, &format!("c{number}"), "10.0.0.1").ask(&record, "GET", "/", AT);
    }
    // Before the first of its kind finds no room, others count by it.
    let mut late = Asking::new(&view, "late", "10.0.0.1");
    let (decision, moment, first) = late.decide(&record, "GET", "/", AT);
    assert!(matches!(first, Counted::First { .. }));
    for _ in 0..6 {
        assert!(matches!(late.decide(&record, "GET", "/", AT).2, Counted::Yes));
    }
    record.count(&late.facts("/", "GET", &decision, moment), first);
    let messages = record.take(AT);
    assert_eq!(messages.iter().map(|message| message.flows.len()).sum::<usize>(), MAX_FLOWS);
    assert_eq!(messages.iter().map(|message| message.unrecorded).sum::<u64>(), 107);
    assert!(messages.iter().all(|message| message.flows.len() <= MAX_BATCH));
    let later = AT.plus(FORGET_AFTER + SECOND);
    assert_eq!(record.take(later), []);
    Asking::new(&view, "new", "10.0.0.1").ask(&record, "GET", "/", later);
    assert_eq!(told(&record, later), [row("new", "GET", &[("/", 1)], 0)], "the others were forgotten");
}

#[test]
fn calls_of_a_former_view_give_way_to_those_of_a_new_one() {
    let (record, former) = (Record::default(), prepared(&node_view(7)));
    for number in 0..MAX_FLOWS {
        Asking::new(&former, &format!("c{number}"), "10.0.0.1").ask(&record, "GET", "/", AT);
    }
    let mut still_there = Asking::new(&former, "c0", "10.0.0.1");
    still_there.ask(&record, "GET", "/", AT);
    assert_eq!(told(&record, AT).len(), MAX_FLOWS);
    let view = prepared(&node_view(8));
    let mut web = Asking::new(&view, "web", "10.0.0.1");
    still_there.ask(&record, "GET", "/", AT);
    web.ask(&record, "GET", "/", AT);
    let messages = record.take(AT);
    assert_eq!(messages.iter().map(|message| message.unrecorded).sum::<u64>(), 0);
    let callers: Vec<_> =
        messages.iter().flat_map(|message| &message.flows).map(|flow| &flow.caller).collect();
    assert_eq!(callers.len(), 2, "what is counted by a memory of before is told too: {callers:?}");
}
