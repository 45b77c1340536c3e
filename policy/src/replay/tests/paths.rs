//! Calls that statements tell apart by path or method: most are decided alike, and seen to be without asking.

use super::*;
use crate::Decision;
use crate::testing::question;

const STATEMENTS: [(Mode, &str); 9] = [
    (Mode::Enforce, ALL),
    (Mode::Enforce, BY_PATH),
    (
        Mode::Enforce,
        "forbid(principal, action in Action::\"http\", resource) when { context.path like \"/orders/2*\" };",
    ),
    (
        Mode::Enforce,
        "permit(principal is Node, action in Action::\"http\", resource) unless { context.method == \"POST\" };",
    ),
    (
        Mode::Enforce,
        "permit(principal is Node, action == Action::\"call\", resource) when { context.path like \"*/Get\" };",
    ),
    (Mode::Enforce, "permit(principal is Node, action == Action::\"connect\", resource) when { true };"),
    (Mode::Enforce, BY_HOUR),
    (
        Mode::Boundary,
        "forbid(principal, action in Action::\"write\", resource) when { context.path != \"/orders/1\" };",
    ),
    (
        Mode::Audit,
        "forbid(principal, action in Action::\"http\", resource) when { context.path == \"/orders/1\" };",
    ),
];

/// Of some of them: those whose bit is set.
fn some(number: usize) -> Vec<(Mode, &'static str)> {
    let all = STATEMENTS.iter().enumerate();
    all.filter(|(index, _)| number >> index & 1 == 1).map(|(_, statement)| *statement).collect()
}

fn compiled(statements: &[(Mode, &str)], authorization: Authorization) -> Engine {
    let mut scope = orders();
    scope.ports.iter_mut().for_each(|port| port.authorization = authorization);
    let documents = documents(statements);
    let slice = PolicyIndex::new(&name("shop"), &documents)
        .slice(&scope, Known { roles: &roles(), ..Known::default() });
    Engine::compile(scope, &slice, None).unwrap()
}

/// Flows to ports of each sort, with one path and with several, recorded in full and not.
fn flows() -> Vec<RecordedFlow> {
    let get = |target: &str| call("GET", target, 1);
    let post = |target: &str| call("POST", target, 1);
    let base = flow("web", vec![get("/orders/1")], 0);
    let of = |action, port, route: &str, calls: Vec<RecordedCall>| RecordedFlow {
        action,
        port,
        route: route.into(),
        calls,
        ..base.clone()
    };
    let mut flows = vec![
        of(Action::Get, 8080, "/orders/{id}", vec![get("/orders/1"), get("/orders/2"), get("/orders/%33?a")]),
        of(Action::Post, 8080, "/orders/{id}", vec![post("/orders/1"), post("/orders/22")]),
        of(Action::Get, 8080, "/health", vec![get("/health")]),
        of(Action::Other, 8080, "/health", vec![call("LOCK", "/health", 1), call("PURGE", "/orders/1", 1)]),
        of(Action::Call, 50051, "shop.Orders/Get", vec![post("/shop.Orders/Get")]),
        of(Action::Connect, 6379, "", vec![call("", "", 1)]),
        of(Action::Get, 8081, "*undeclared", vec![get("/orders/1"), get("/x;y")]),
        of(Action::Upgrade, 8080, "/orders/{id}", vec![get("/orders/1")]),
    ];
    let more: Vec<_> = flows.iter().map(|flow| RecordedFlow { others: 5, ..flow.clone() }).collect();
    flows.extend(more);
    flows
}

/// What each engine decides of a call, asked for it alone.
fn decided(engine: &Engine, flow: &RecordedFlow, call: &RecordedCall) -> Option<Decision> {
    call.with(flow, EscapedSlashes::Reject, |attempt| {
        engine.decide(&question(&flow.caller, flow.port, attempt))
    })
}

#[test]
fn what_is_seen_to_be_alike_is_decided_alike() {
    let pairs = (0..1 << STATEMENTS.len()).step_by(7).map(|number| (number, number * 37 % 512));
    let (mut flipped, mut same) = (0, 0);
    for (number, other) in pairs {
        let authorization = if number % 2 == 0 { Authorization::Enforce } else { Authorization::Audit };
        let (now, draft) = (some(number), some(other));
        let engines = (compiled(&now, authorization), compiled(&draft, authorization));
        for flow in flows() {
            let mut expected = Vec::new();
            for call in &flow.calls {
                let pair = decided(&engines.0, &flow, call).zip(decided(&engines.1, &flow, call));
                match pair {
                    Some((now, draft)) if now.effect != draft.effect => {
                        expected.push((Replayed::Flips { now, draft }, call.count));
                        flipped += 1;
                    }
                    Some(_) => same += 1,
                    None => expected.push((Replayed::Undecidable(Undecidable::Unreadable), call.count)),
                }
            }
            let mut told = Vec::new();
            let vouching = Vouching::default();
            let mut replay = Replay::new(&engines.0, &engines.1, &vouching);
            replay.flow(&flow, |replayed, count, call| {
                if call.is_some() {
                    told.push((replayed, count));
                }
            });
            assert_eq!(told, expected, "{now:?}\n{draft:?}\n{flow:?}");
        }
    }
    assert!(flipped > 100 && same > 100, "{flipped} {same}");
}

#[test]
fn others_of_a_flow_that_is_told_apart_by_path_are_not_guessed() {
    let forbid = "forbid(principal, action in Action::\"http\", resource) when { context.path == \"/x\" };";
    let always = "forbid(principal == Node::\"cart\", action, resource) when { true };";
    let web = flow("web", vec![call("GET", "/orders/1", 3)], 2);
    assert_eq!(told(&engines(&[ALL], &[ALL, forbid]), &web), [("too_many_to_record".to_owned(), 2)]);
    assert_eq!(told(&engines(&[ALL], &[ALL, always]), &web), []);
    let sure = ALL.replace(';', " when { true };");
    assert_eq!(told(&engines(&[ALL], &[&sure]), &web), [], "it reads nothing of them");
}

#[test]
fn how_conditions_came_out_counts_for_more_than_paths() {
    let (now, draft) = engines(&[BY_PATH], &[BY_PATH, GETS]);
    let text = Arc::clone(now.conditions().next().unwrap());
    for is_met in [true, false] {
        let outcomes = Arc::from([ConditionOutcome { text: Arc::clone(&text), is_met }]);
        let flow = RecordedFlow { outcomes, ..flow("web", vec![call("GET", "/orders/2", 3)], 0) };
        let flips = [("Allow p1".to_owned(), 3)];
        assert_eq!(told(&(now.clone(), draft.clone()), &flow), if is_met { &[][..] } else { &flips[..] });
    }
}
