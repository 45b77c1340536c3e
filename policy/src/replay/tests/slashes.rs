//! Paths that servers read in two ways.

use super::*;
use crate::EscapedSlashes;

/// The first port lets escaped slashes stand.
fn keeping() -> NodeScope {
    let mut scope = orders();
    scope.ports[0].escaped_slashes = EscapedSlashes::Keep;
    scope.ports[0].routes = ["/repos/{name}", "/repos/{name}/keys"]
        .map(|route| RouteTemplate::parse(route).unwrap().into())
        .into();
    scope
}

fn told_of(now: &[&str], draft: &[&str], flow: &RecordedFlow) -> Vec<(String, u64)> {
    told(&engines_of(keeping(), now, keeping(), draft), flow)
}

fn escaped() -> RecordedFlow {
    RecordedFlow { route: "/repos/{name}".into(), ..flow("web", vec![call("GET", "/repos/a%2Fkeys", 3)], 0) }
}

const KEYS: &str =
    "permit(principal is Node, action, resource == Route::\"orders:8080 /repos/{name}/keys\") when { true };";
const REPOS: &str = "permit(principal is Node, action, resource == Route::\"orders:8080 /repos/{name}\");";
const NO_KEYS: &str =
    "forbid(principal, action in Action::\"http\", resource == Route::\"orders:8080 /repos/{name}/keys\");";

#[test]
fn both_readings_are_decided() {
    let (now, permits) = (&[ALL][..], &[REPOS, KEYS][..]);
    for (draft, wanted) in [
        (&[ALL, "permit(principal == Node::\"cart\", action == Action::\"GET\", resource);"][..], None),
        (permits, None),
        (&[REPOS], Some("Deny ")),
        (&[KEYS], Some("Deny ")),
        (&[ALL, NO_KEYS], Some("Deny p1")),
    ] {
        let wanted: Vec<_> = wanted.iter().map(|what| ((*what).to_owned(), 3)).collect();
        assert_eq!(told_of(now, draft, &escaped()), wanted, "{draft:?}");
    }
    assert_eq!(told_of(&[REPOS], permits, &escaped()), [("Allow p0,p1".to_owned(), 3)]);
    assert_eq!(told_of(&[BY_HEADER], &[BY_HEADER], &escaped()), [], "the very same policies");
    let unknown = [("facts_not_recorded".to_owned(), 3)];
    assert_eq!(told_of(now, &[BY_HEADER], &escaped()), unknown);
}

#[test]
fn a_listener_that_lets_them_stand_no_longer_denies_them() {
    let mut rejecting = keeping();
    rejecting.ports[0].escaped_slashes = EscapedSlashes::Reject;
    let refused = told(&engines_of(keeping(), &[ALL], rejecting.clone(), &[ALL]), &escaped());
    assert_eq!(refused, [("Deny ".to_owned(), 3)]);
    let let_stand = told(&engines_of(rejecting.clone(), &[ALL], keeping(), &[ALL]), &escaped());
    assert_eq!(let_stand, [("Allow p0".to_owned(), 3)]);
    let neither = told(&engines_of(rejecting.clone(), &[ALL], rejecting, &[]), &escaped());
    assert_eq!(neither, [("unreadable_record".to_owned(), 3)]);
}

#[test]
fn of_calls_that_are_not_known_one_by_one_it_is_not_known_whether_they_have_two_readings() {
    let plain =
        RecordedFlow { route: "/repos/{name}".into(), ..flow("web", vec![call("GET", "/repos/a", 3)], 4) };
    assert_eq!(told_of(&[ALL], &[ALL, NO_KEYS], &plain), [("too_many_to_record".to_owned(), 4)]);
    let mut rejecting = keeping();
    rejecting.ports[0].escaped_slashes = EscapedSlashes::Reject;
    assert_eq!(told(&engines_of(rejecting.clone(), &[ALL], rejecting, &[ALL, NO_KEYS]), &plain), []);
}
