//! Who vouches for callers of another trust domain decides before policies do.

use std::collections::BTreeMap;

use hauberk_identity::TrustDomain;

use super::*;

const MEMBERS: &str = "permit(principal is Workload, action, resource);";
const PARTNER: &str = "spiffe://partner.example/billing";

/// The bundle of partner.example becomes this.
fn becomes(bundle: Bundle) -> Vouching {
    let partner = TrustDomain::parse("partner.example").unwrap();
    Vouching { other_bundles: BTreeMap::from([(partner, bundle)]), ..Vouching::default() }
}

fn by(caller: Caller) -> RecordedFlow {
    RecordedFlow { caller, ..flow("web", vec![call("GET", "/orders/1", 3)], 2) }
}

fn both(what: &str) -> [(String, u64); 2] {
    [(what.to_owned(), 3), (what.to_owned(), 2)]
}

#[test]
fn of_members_who_are_verified_by_another_bundle_nothing_is_known() {
    let other = becomes(Bundle::Other);
    let same = engines(&[ALL, MEMBERS], &[ALL, MEMBERS]);
    assert_eq!(told_where(&other, &same, &by(foreign(PARTNER))), both("bundle_changes"));
    assert_eq!(told_where(&other, &same, &by(foreign("spiffe://other.example/billing"))), []);
    assert_eq!(told_where(&other, &same, &by(peer("web"))), []);
    // What the draft denies is denied by whatever bundle.
    let narrowed = engines(&[ALL, MEMBERS], &[ALL]);
    assert_eq!(told_where(&other, &narrowed, &by(foreign(PARTNER))), both("Deny "));
}

#[test]
fn members_of_a_trust_domain_that_is_followed_no_longer_are_surely_denied() {
    let gone = becomes(Bundle::Gone);
    let same = engines(&[ALL, MEMBERS], &[ALL, MEMBERS]);
    assert_eq!(told_where(&gone, &same, &by(foreign(PARTNER))), both("Deny "));
    assert_eq!(told_where(&gone, &same, &by(foreign("spiffe://other.example/billing"))), []);
    assert_eq!(told_where(&gone, &same, &by(peer("web"))), []);
    let public = "permit(principal is Anonymous, action in Action::\"http\", resource);";
    assert_eq!(told_where(&gone, &engines(&[public], &[public]), &by(Caller::Anonymous)), []);
    // Whatever the draft permits besides; and who is denied now stays so.
    assert_eq!(
        told_where(&gone, &engines(&[MEMBERS], &[ALL, MEMBERS]), &by(foreign(PARTNER))),
        both("Deny ")
    );
    assert_eq!(told_where(&gone, &engines(&[ALL], &[ALL, MEMBERS]), &by(foreign(PARTNER))), []);
    // Where another route is declared within, the others are denied on it too.
    let wider = RecordedFlow {
        route: "/orders/*".into(),
        calls: vec![call("GET", "/orders/1/card", 3)],
        ..by(foreign(PARTNER))
    };
    assert_eq!(told_where(&gone, &same, &wider), both("Deny "));
    // What is two things at once, and a stream.
    let upgrade = RecordedFlow { action: Action::Upgrade, others: 0, ..by(foreign(PARTNER)) };
    assert_eq!(told_where(&gone, &same, &upgrade), both("Deny ")[..1]);
    let stream = RecordedFlow {
        port: 6379,
        action: Action::Connect,
        route: "".into(),
        calls: vec![call("", "", 3)],
        ..by(foreign(PARTNER))
    };
    assert_eq!(told_where(&gone, &same, &stream), both("Deny "));
    // The reason is told.
    let mut reasons = Vec::new();
    Replay::new(&same.0, &same.1, &gone).flow(&by(foreign(PARTNER)), |replayed, _, _| match replayed {
        Replayed::Flips { draft, .. } => reasons.push(draft.reason.as_str()),
        Replayed::Undecidable(why) => reasons.push(why.as_str()),
    });
    assert_eq!(reasons, ["trust_domain_not_federated"; 2]);
}

#[test]
fn what_is_sure_of_members_comes_before_what_may_be() {
    let not_called = Vouching { not_called: BTreeSet::from([8080]), ..becomes(Bundle::Gone) };
    let same = engines(&[MEMBERS], &[MEMBERS]);
    assert_eq!(told_where(&not_called, &same, &by(foreign(PARTNER))), both("Deny "));
    let not_called = Vouching { not_called: BTreeSet::from([8080]), ..becomes(Bundle::Other) };
    assert_eq!(told_where(&not_called, &same, &by(foreign(PARTNER))), both("no_longer_called"));
    // Of the draft nothing is asked, so that what it reads does not matter.
    let by_header = "permit(principal is Workload, action in Action::\"http\", resource) when { context.headers.hasTag(\"x-tenant\") };";
    let gone = becomes(Bundle::Gone);
    assert_eq!(told_where(&gone, &engines(&[MEMBERS], &[by_header]), &by(foreign(PARTNER))), both("Deny "));
    // It does where it decides what is done now, unless it is known how that came out.
    let reading = engines(&[by_header], &[by_header]);
    assert_eq!(told_where(&gone, &reading, &by(foreign(PARTNER))), both("facts_not_recorded"));
    let text = reading.0.conditions().next().unwrap();
    for (is_met, told) in [(true, &both("Deny ")[..]), (false, &[])] {
        let outcomes = Arc::from([ConditionOutcome { text: Arc::clone(text), is_met }]);
        let known = RecordedFlow { outcomes, ..by(foreign(PARTNER)) };
        assert_eq!(told_where(&gone, &reading, &known), told, "met: {is_met}");
    }
    // Nor does one for a user tell of anybody.
    let for_users = engines_of(with_users(true), &[MEMBERS], with_users(true), &[MEMBERS]);
    assert_eq!(told_where(&gone, &for_users, &by(foreign(PARTNER))), both("facts_not_recorded"));
}
