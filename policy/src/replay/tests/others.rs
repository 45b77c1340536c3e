//! Calls that were not recorded one by one.

use super::*;

/// The first port has these routes.
fn with_routes(routes: &[&str]) -> NodeScope {
    let mut scope = orders();
    scope.ports[0].routes = routes.iter().map(|route| RouteTemplate::parse(route).unwrap().into()).collect();
    scope
}

#[test]
fn a_route_that_may_have_been_declared_since_is_not_passed_over() {
    let routes = ["/admin/{x}", "/orders/{id}", "/orders/{id}/card"];
    let of = |route: &str, target: &str, draft: &[&str]| {
        let flow = RecordedFlow { route: route.into(), ..flow("web", vec![call("GET", target, 3)], 2) };
        told(&engines_of(with_routes(&routes), &[ALL], with_routes(&routes), draft), &flow)
    };
    let forbid = |route: &str| {
        format!("forbid(principal, action in Action::\"http\", resource == Route::\"orders:8080 {route}\");")
    };
    let too_many = [("too_many_to_record".to_owned(), 2)];
    // Recorded when nothing was declared: some of the others may be for what is an admin's now.
    let admin = forbid("/admin/{x}");
    assert_eq!(of("*undeclared", "/health", &[ALL, &admin]), too_many);
    assert_eq!(of("/orders/{id}", "/orders/1", &[ALL, &admin]), [], "no order's path is an admin's");
    let cards = forbid("/orders/{id}/card");
    assert_eq!(of("/orders/{id}", "/orders/1", &[ALL, &cards]), [], "nor a card's");
    // What becomes of all is sure.
    let all = [("Deny ".to_owned(), 3), ("Deny ".to_owned(), 2)];
    assert_eq!(of("*undeclared", "/health", &[]), all);
    let another = "permit(principal == Node::\"cart\", action == Action::\"GET\", resource);";
    assert_eq!(of("*undeclared", "/health", &[ALL, another]), []);
}

#[test]
fn what_other_statements_decide_alike_stays_as_it_is() {
    let scope = || with_routes(&["/admin/{x}"]);
    let told = |now: &[&str], draft: &[&str]| {
        let flow =
            RecordedFlow { route: "*undeclared".into(), ..flow("web", vec![call("GET", "/health", 3)], 2) };
        told(&engines_of(scope(), now, scope(), draft), &flow)
    };
    let at = |effect: &str, route: &str, whose: &str| {
        format!(
            "{effect}(principal {whose}, action in Action::\"http\", resource == Route::\"orders:8080 {route}\");"
        )
    };
    let [admin, admins] = ["== Node::\"web\"", "is Node"].map(|whose| at("permit", "/admin/{x}", whose));
    let [rest, others] = ["== Node::\"web\"", "is Node"].map(|whose| at("permit", "*undeclared", whose));
    // There, by more than before, or by something else; here, by what is.
    assert_eq!(told(&[ALL], &[ALL, &admin]), []);
    assert_eq!(told(&[&rest, &admin], &[&rest, &admins]), []);
    // Here by something else, there by what is; and nowhere by what was.
    assert_eq!(told(&[&rest, &admin], &[&others, &admin]), []);
    assert_eq!(told(&[&rest], &[&others]), []);
    assert_eq!(told(&[&rest], &[&others, &at("forbid", "/admin/{x}", "is Node")]), []);
    // What becomes another there or here alone is not said of both.
    let [three, two] = [("Deny ".to_owned(), 3), ("too_many_to_record".to_owned(), 2)];
    assert_eq!(told(&[&rest, &admin], &[&others]), std::slice::from_ref(&two));
    assert_eq!(told(&[&rest, &admin], &[&admins]), [three.clone(), two.clone()]);
    assert_eq!(told(&[&rest], &[]), [three, two]);
}
