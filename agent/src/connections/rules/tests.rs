use hauberk_policy::{CanonicalPath, Gathered};

use super::*;
use crate::connections::tests::view_with;
use crate::testing::{Authorities, now};

#[test]
fn strangers_fill_their_own_slice_alone() {
    let by_path =
        "permit(principal, action == Action::\"GET\", resource) when { context.path == \"/orders\" };";
    let view = view_with(&Authorities::new(), 1, &[by_path.to_owned()]);
    let rules = Rules::new(Arc::new(Inbound::Open(view)));
    let moment = Moment { time: now(), certificate_since: None };
    let ask = |id: &str, paths: usize| {
        let caller = Caller::Peer(id.parse().unwrap());
        let memo = rules.memo(&caller, &Peer::new(None, None), 0).unwrap();
        for path in (0..paths).map(|number| format!("/{number:0>200}")) {
            let path = CanonicalPath::parse("GET", &path).unwrap();
            let gathered = Gathered::nothing();
            decide(
                &memo,
                8080,
                Attempt::Request { method: "GET", path: &path, upgrade: false, gathered },
                moment,
                None,
            );
        }
        memo
    };
    // As if each of them had a connection.
    let strangers: Vec<_> =
        (0..200).map(|number| ask(&format!("spiffe://partner.example/w{number}"), 60)).collect();
    assert!(rules.foreign.allowance.is_spent() && rules.foreign.known.lock().unwrap().len() == 200);
    assert!(!rules.own.allowance.is_spent() && rules.own.known.lock().unwrap().is_empty());
    drop(strangers);
    ask("spiffe://partner.example/another", 1);
    assert_eq!(rules.foreign.known.lock().unwrap().len(), 1, "those without connections are forgotten");
    assert!(!rules.foreign.allowance.is_spent(), "what they took was given back");
    let own = ask("spiffe://shop.local/mesh/shop/node/web", 1);
    assert_eq!((rules.own.known.lock().unwrap().len(), Arc::strong_count(&own)), (1, 2));
}
