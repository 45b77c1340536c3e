use std::sync::mpsc;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use hauberk_identity::{SpiffeId, UnixMillis};
use hauberk_policy::{
    Attempt, Caller, CanonicalPath, Effect, Fact, Gathered, Moment, Peer, Question, Reason, Tls,
};

use super::*;
use crate::mesh::ViewStamp;
use crate::testing::{node_view, prepared};

fn decisions(log: Option<AccessLog>) -> Decisions {
    Decisions::new(
        Clock::starting_at(UnixMillis(1_700_000_000_000)),
        "0123456789".parse().unwrap(),
        [1, 2, 3, 4],
        log,
    )
}

fn intruder() -> Caller {
    Caller::Peer(SpiffeId::parse("spiffe://shop.local/mesh/shop/node/intruder").unwrap())
}

static HERE: LazyLock<Peer> = LazyLock::new(|| {
    let tls = Tls { version: "TLSv1.3".into(), group: "X25519MLKEM768".into() };
    Peer::new(Some("127.0.0.1".parse().unwrap()), Some(tls))
});
const NOW: Moment =
    Moment { time: UnixMillis(1_700_000_000_000), certificate_since: Some(UnixMillis(1_699_999_900_000)) };

fn denied() -> hauberk_policy::Decision {
    hauberk_policy::Decision::denied(Reason::NoPolicyMatched)
}

fn facts<'a>(caller: &'a Caller, path: &'a str, decision: &'a hauberk_policy::Decision) -> Facts<'a> {
    Facts {
        view: None,
        caller,
        caller_serial: None,
        peer_address: "127.0.0.1:9".parse().unwrap(),
        peer: &HERE,
        moment: NOW,
        port: 8080,
        service: "orders.shop",
        leaves_to: None,
        request: Request::Http { method: "GET", path, is_upgrade: false },
        query: None,
        gathered: None,
        ruling: Ruling::Policy(decision),
    }
}

#[test]
fn ids_name_the_instance_and_are_not_used_twice() {
    let (caller, decision) = (intruder(), denied());
    let first = decisions(None);
    let ids: std::collections::HashSet<String> =
        (0..5_000).map(|_| first.record(&facts(&caller, "/", &decision)).to_string()).collect();
    assert_eq!(ids.len(), 5_000);
    assert!(ids.iter().all(|id| id.starts_with("0123456789-1234")));
    let second = Decisions::new(Clock::system(), "0123456789".parse().unwrap(), [9; 4], None);
    assert!(!ids.contains(second.record(&facts(&caller, "/", &decision)).as_str()));
}

#[test]
fn the_last_4096_are_remembered_and_no_more() {
    let (caller, decision) = (intruder(), denied());
    let decisions = decisions(None);
    let ids: Vec<_> =
        (0..4_100).map(|n| decisions.record(&facts(&caller, &format!("/{n}"), &decision))).collect();
    for (n, id) in ids.iter().enumerate() {
        let found = decisions.explain(id.as_str()).map(|detail| detail.decision.unwrap().path);
        assert_eq!(found, (n >= 4).then(|| format!("/{n}")), "{id}");
    }
    for other in
        ["", "-", "0123456789-", "0123456789-12340", "9999999999-12345", "0123456789-1234zzzzzzzzzzzzzz"]
    {
        assert!(decisions.explain(other).is_none(), "{other}");
    }
}

#[test]
fn explains_by_the_engine_that_decided() {
    let view = prepared(&node_view(7));
    let caller = intruder();
    let path = CanonicalPath::parse("GET", "/orders/1").unwrap();
    let gathered = Gathered::nothing();
    let attempt = Attempt::Request { method: "GET", path: &path, upgrade: false, gathered };
    let question = Question { caller: &caller, peer: &HERE, port: 8080, attempt, moment: NOW };
    let decision = view.engine.decide(&question);
    assert_eq!(decision.effect, Effect::Deny);
    let decisions = decisions(None);
    let id = decisions
        .record(&Facts { view: Some(&ViewStamp::of(&view)), ..facts(&caller, "/orders/1", &decision) });
    drop(view);
    let detail = decisions.explain(id.as_str()).unwrap();
    let kept = detail.decision.unwrap();
    assert_eq!((kept.revision, kept.reason.as_str(), kept.action.as_str()), (7, "no_policy_matched", "GET"));
    assert!(detail.suggestion.starts_with("hauberk allow intruder orders.shop"), "{}", detail.suggestion);
    assert!(detail.suggestion.ends_with(" --mesh shop"), "{}", detail.suggestion);
}

#[test]
fn what_was_refused_before_policies_is_not_explained_by_policies() {
    let view = prepared(&node_view(7));
    let caller = intruder();
    let nothing = denied();
    let decisions = decisions(None);
    // No policy lets this caller in as long as the token it came with has expired.
    let ruling = Ruling::Refused { reason: "user_token_expired" };
    let view = &ViewStamp::of(&view);
    let id = decisions.record(&Facts { view: Some(view), ruling, ..facts(&caller, "/orders/1", &nothing) });
    let detail = decisions.explain(id.as_str()).unwrap();
    assert_eq!(detail.no_policies(), hauberk_proto::agent::v1::NoPolicies::NotAsked);
    assert_eq!(detail.decision.unwrap().reason, "user_token_expired");
    assert_eq!((detail.suggestion.as_str(), detail.policies.len()), ("", 0));
}

#[test]
fn a_decision_without_policies_says_why_there_are_none() {
    use hauberk_proto::agent::v1::NoPolicies::{Differs, RulesGone, Unspecified};
    let view = prepared(&node_view(7));
    let stamp = ViewStamp::of(&view);
    let (caller, decisions) = (intruder(), decisions(None));
    let forbidden = hauberk_policy::Decision::denied(Reason::Forbidden);
    let lacking = hauberk_policy::Decision::denied(Reason::NoPolicyMatched);
    for (decision, view, why) in [
        // As the rules would not decide.
        (&forbidden, Some(&stamp), Differs),
        (&lacking, None, RulesGone),
        (&lacking, Some(&stamp), Unspecified),
    ] {
        let id = decisions.record(&Facts { view, ..facts(&caller, "/orders/1", decision) });
        assert_eq!(decisions.explain(id.as_str()).unwrap().no_policies(), why);
    }
}

#[tokio::test]
async fn the_first_of_a_kind_streams_up_and_all_do_while_observed() {
    let (caller, decision) = (intruder(), denied());
    let decisions = decisions(None);
    for path in ["/a", "/b", "/c"] {
        decisions.record(&facts(&caller, path, &decision));
    }
    let batch = decisions.next_batch().await;
    assert_eq!(batch.decisions.len(), 1);
    assert!(batch.decisions[0].first_of_kind);
    let other = hauberk_policy::Decision::denied(Reason::Forbidden);
    decisions.record(&facts(&caller, "/a", &other));
    assert_eq!(decisions.next_batch().await.decisions.len(), 1);

    assert!(!decisions.wants_outcomes());
    decisions.observe(&pb::Observe { all: true, limit_per_second: 5, ..pb::Observe::default() });
    assert!(decisions.wants_outcomes());
    for _ in 0..8 {
        decisions.finish(&facts(&caller, "/a", &decision), None, &Outcome::default());
    }
    let batch = decisions.next_batch().await;
    assert_eq!((batch.decisions.len(), batch.dropped), (5, 3));
    decisions.observe(&pb::Observe::default());
    assert!(!decisions.wants_outcomes());
}

#[tokio::test]
async fn a_denial_is_told_with_how_it_ended() {
    let (caller, decision) = (intruder(), denied());
    let decisions = decisions(None);
    let facts = facts(&caller, "/a", &decision);
    let recorded = decisions.begin(&facts);
    assert_eq!(decisions.upstream.queue_len(), 0);
    let duration = Duration::from_micros(70);
    let outcome = Outcome { status: 200, grpc_status: Some(7), duration, ..Outcome::default() };
    decisions.finish(&facts, Some(&recorded), &outcome);
    let told = decisions.next_batch().await.decisions.remove(0);
    assert_eq!((told.status, told.duration_us, told.first_of_kind), (200, 70, true));
    assert_eq!(told.grpc_status, Some(7));
    let kept = decisions.explain(recorded.id().as_str()).unwrap().decision.unwrap();
    assert_eq!((kept.status, kept.duration_us, &kept.id), (200, 70, &told.id));
    assert_eq!(kept.grpc_status, Some(7));
    // The second of a kind is told to nobody who does not ask.
    decisions.finish(&facts, Some(&decisions.begin(&facts)), &outcome);
    assert_eq!(decisions.upstream.queue_len(), 0);
}

#[tokio::test]
async fn what_audit_lets_through_is_told_at_once_and_only_once() {
    let (caller, mut decision) = (intruder(), denied());
    (decision.effect, decision.reason) = (Effect::Allow, Reason::AuditDefaultAllow);
    let decisions = decisions(None);
    let facts = facts(&caller, "/a", &decision);
    decisions.observe(&pb::Observe { all: true, limit_per_second: 5, ..pb::Observe::default() });
    let (first, second) = (decisions.begin(&facts), decisions.begin(&facts));
    assert_eq!(decisions.next_batch().await.decisions.len(), 1);
    decisions.finish(&facts, Some(&first), &Outcome::default());
    assert_eq!(decisions.upstream.queue_len(), 0);
    decisions.finish(&facts, Some(&second), &Outcome { status: 200, ..Outcome::default() });
    assert_eq!(decisions.next_batch().await.decisions[0].status, 200);
}

#[tokio::test(start_paused = true)]
async fn outbound_lines_leave_out_what_is_not_known() {
    let (sender, written) = mpsc::channel();
    let (log, writer) = AccessLog::start(Sink(sender)).unwrap();
    let decisions = decisions(Some(log));
    let request = Request::Http { method: "GET", path: "/orders", is_upgrade: false };
    let answered = OutboundFacts {
        service: "orders",
        port: 8080,
        request,
        endpoint: Some("10.0.0.1:8080".parse().unwrap()),
        attempts: 2,
        error: None,
        decision: None,
    };
    decisions.finish_outbound(&answered, &Outcome { status: 200, bytes_out: 5, ..Outcome::default() });
    let unknown = OutboundFacts {
        service: "oders",
        port: 0,
        endpoint: None,
        attempts: 0,
        error: Some("x"),
        ..answered
    };
    decisions.finish_outbound(&unknown, &Outcome { status: 502, ..Outcome::default() });
    writer.close();
    let text = String::from_utf8(written.iter().flatten().collect()).unwrap();
    assert_eq!(
        text,
        r#"{"timestamp":"2023-11-14T22:13:20.000Z","event":"access","direction":"outbound","service":"orders","port":8080,"action":"GET","method":"GET","path":"/orders","endpoint":"10.0.0.1:8080","attempts":2,"status":200,"duration_us":0,"bytes_in":0,"bytes_out":5}
{"timestamp":"2023-11-14T22:13:20.000Z","event":"access","direction":"outbound","error":"x","service":"oders","action":"GET","method":"GET","path":"/orders","status":502,"duration_us":0,"bytes_in":0,"bytes_out":0}
"#
    );
}

#[test]
fn what_nobody_fetches_is_bounded() {
    let decision = denied();
    let decisions = decisions(None);
    for n in 0..10_000 {
        let caller = Caller::Peer(SpiffeId::parse(&format!("spiffe://shop.local/workload/{n}")).unwrap());
        decisions.record(&facts(&caller, &"/x".repeat(4_000), &decision));
    }
    let batch = decisions.upstream.queue_len();
    assert_eq!(batch, 1_024);
}

struct Sink(mpsc::Sender<Vec<u8>>);

impl std::io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(std::io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn access_lines_are_json_that_steers_no_terminal() {
    let (sender, written) = mpsc::channel();
    let (log, writer) = AccessLog::start(Sink(sender)).unwrap();
    let decisions = decisions(Some(log));
    let (caller, decision) = (intruder(), denied());
    let hostile = "/a\n\u{1b}[31m\u{2028}\u{7f}\"\\é😀";
    let facts = facts(&caller, hostile, &decision);
    let recorded = decisions.begin(&facts);
    let outcome = Outcome {
        status: 403,
        grpc_status: Some(7),
        duration: Duration::from_micros(1_500),
        bytes_in: 1,
        bytes_out: 2,
    };
    decisions.finish(&facts, Some(&recorded), &outcome);
    decisions.finish(&facts, None, &outcome);
    writer.close();
    let text = String::from_utf8(written.iter().flatten().collect()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(text.chars().all(|c| c == '\n' || matches!(c, ' '..='~')), "{text}");
    let line: serde_json::Value = serde_json::from_str(lines[0]).unwrap();
    assert_eq!(line["path"], hostile);
    assert_eq!(line["id"], recorded.id().as_str());
    assert_eq!(line["direction"], "inbound");
    assert_eq!(line["grpc_status"], 7);
    assert_eq!(line["decision"], "deny");
    assert_eq!(line["status"], 403);
    assert_eq!(line["duration_us"], 1_500);
    assert_eq!(line["timestamp"], "2023-11-14T22:13:20.000Z");
}

#[test]
fn a_log_that_is_not_read_costs_lines_and_no_time() {
    let (sender, written) = mpsc::sync_channel::<Vec<u8>>(0);
    struct Stuck(mpsc::SyncSender<Vec<u8>>);
    impl std::io::Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(std::io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (log, writer) = AccessLog::start(Stuck(sender)).unwrap();
    let decisions = decisions(Some(log));
    let (caller, decision) = (intruder(), denied());
    for _ in 0..20_000 {
        decisions.finish(&facts(&caller, "/", &decision), None, &Outcome::default());
    }
    assert!(decisions.dropped_lines() > 0);
    drop(written);
    writer.close();
}

#[test]
fn what_policies_read_is_kept_and_the_rest_is_not() {
    let mut described = node_view(7);
    if let Some(pb::view::Body::Node(node)) = &mut described.body {
        let cedar = "permit(principal is Node, action == Action::\"GET\", resource) when { \
                     context.query.hasTag(\"id\") && context.query.getTag(\"id\").contains(\"1\") && \
                     context.headers.hasTag(\"x-tenant\") && context.headers.getTag(\"x-tenant\").contains(\"blue\") };";
        node.policies =
            vec![pb::Policy { name: "p".to_owned(), cedar: cedar.to_owned(), ..pb::Policy::default() }];
    }
    let view = prepared(&described);
    let (sender, written) = mpsc::channel();
    let (log, writer) = AccessLog::start(Sink(sender)).unwrap();
    let decisions = decisions(Some(log));
    let caller = intruder();
    let path = CanonicalPath::parse("GET", "/orders?id=1").unwrap();
    let lines = [("x-tenant", &b"red"[..]), ("x-other", b"secret")];
    let gathered = Arc::new(view.engine.wanted(8080).unwrap().gather("orders.shop", lines));
    let attempt = Attempt::Request { method: "GET", path: &path, upgrade: false, gathered: &gathered };
    let question = Question { caller: &caller, peer: &HERE, port: 8080, attempt, moment: NOW };
    let decision = view.engine.decide(&question);
    assert!(decision.reads.contains(Fact::Query) && !decision.reads.contains(Fact::Host));
    let stamp = ViewStamp::of(&view);
    let asked = |decision| Facts {
        view: Some(&stamp),
        query: Some("id=1"),
        gathered: Some(&gathered),
        ..facts(&caller, "/orders", decision)
    };
    let asked_of = asked(&decision);
    let recorded = decisions.begin(&asked_of);
    decisions.finish(&asked_of, Some(&recorded), &Outcome::default());
    let detail = decisions.explain(recorded.id().as_str()).unwrap();
    assert_eq!(
        detail.policies[0].difference,
        "context.headers.getTag(\"x-tenant\"): expected contains(\"blue\"), was [\"red\"]"
    );
    let kept = detail.decision.unwrap().facts.unwrap();
    assert_eq!((kept.query.as_deref(), kept.host), (Some("id=1"), None));
    assert_eq!((kept.headers.len(), kept.headers[0].values.join("|").as_str()), (1, "red"));
    assert_eq!((kept.tls_group.as_str(), kept.time_unix_ms), ("X25519MLKEM768", NOW.time.0));
    writer.close();
    let line = String::from_utf8(written.iter().flatten().collect()).unwrap();
    assert!(line.contains(r#""query":"id=1","headers":{"x-tenant":["red"]}"#), "{line}");
    assert!(!line.contains("secret") && !line.contains("tls_group"), "{line}");
    // A decision that read none of it.
    let plain = denied();
    let id = decisions.record(&asked(&plain));
    let kept = decisions.explain(id.as_str()).unwrap().decision.unwrap().facts.unwrap();
    assert_eq!((kept.query, kept.headers.len()), (None, 0));
}
