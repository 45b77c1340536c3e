use hauberk_proto::mesh::v1::{DeclaredUsers, Resource, UserClaims};

use crate::resources::Catalog;
use crate::resources::testing::*;

fn declaring(name: &str, claims: &[&str], groups: &[&str]) -> Resource {
    let texts = |all: &[&str]| all.iter().map(ToString::to_string).collect();
    issuer(name, |spec| {
        spec.declares = Some(DeclaredUsers { claims: texts(claims), groups: texts(groups) });
        spec.claims = Some(UserClaims { roles: vec!["realm_access.roles".into()], ..UserClaims::default() });
    })
}

fn asking(condition: &str) -> Resource {
    let text = format!("forbid(principal, action in Action::\"http\", resource)\nwhen {{ {condition} }};");
    policy("p", &text)
}

fn catalog(issuers: &[Resource]) -> Catalog {
    catalog_of(&[&shop()[..], issuers].concat())
}

/// What is refused, and what is warned of.
fn told(issuers: &[Resource], condition: &str) -> (Vec<String>, Vec<String>) {
    match try_admit(&catalog(issuers), &[asking(condition)], EVERYTHING) {
        Ok(admission) => (Vec::new(), admission.warnings),
        Err(problems) => (problems.iter().map(|problem| problem.description()).collect(), Vec::new()),
    }
}

#[test]
fn a_claim_that_no_issuer_declares_is_refused_with_what_is_nearest() {
    let login = declaring("login", &["department", "address"], &[]);
    let claim = |name: &str| format!("context.claims.hasTag(\"{name}\")");
    let issuers = [login.clone(), declaring("partners", &["tenant"], &[])];
    let refused = |name: &str| told(&issuers, &claim(name)).0;
    assert_eq!(
        refused("departement"),
        ["2:30+13: no issuer declares the claim \"departement\"; did you mean \"department\"?"]
    );
    assert_eq!(
        refused("grups"),
        ["2:30+7: no issuer declares the claim \"grups\"; did you mean \"groups\"?"]
    );
    let help = "write it to declares.claims of the JwtIssuer";
    assert_eq!(refused("x"), [format!("2:30+3: no issuer declares the claim \"x\"; {help}")]);
    assert_eq!(refused("addresses.country").len(), 1);
    for known in
        ["department", "tenant", "address.country", "groups", "sub", "auth_time", "realm_access.roles"]
    {
        assert_eq!(told(&issuers, &claim(known)), (Vec::new(), Vec::new()), "{known}");
    }
    // One that says nothing may have any.
    let issuers = [login, issuer("partners", |_| {})];
    let warned = |name: &str| told(&issuers, &claim(name));
    assert_eq!(
        warned("grups").1,
        ["Policy shop/p, 2:30: the claim \"grups\" is none that an issuer declares or maps; did you mean \
             \"groups\"?"]
    );
    let far = "Policy shop/p, 2:30: the claim \"shoe_size\" is none that an issuer declares or maps; where no token has it \
               nothing is forbidden: write it to declares.claims of the JwtIssuer whose tokens have it";
    assert_eq!(warned("shoe_size"), (Vec::new(), vec![far.to_owned()]));
    let permit = "permit(principal is Node, action in Action::\"http\", resource)\nwhen { context.claims.hasTag(\"shoe_size\") };";
    let admission = try_admit(&catalog(&issuers), &[policy("p", permit)], EVERYTHING).unwrap();
    assert_eq!(admission.warnings, [""; 0]);
}

#[test]
fn a_group_that_its_issuer_does_not_declare_is_refused_with_what_is_nearest() {
    let issuers = [declaring("login", &[], &["support", "staff"]), issuer("partners", |_| {})];
    let group =
        |name: &str| told(&issuers, &format!("context has user && context.user in UserGroup::\"{name}\""));
    assert_eq!(
        group("login/suport").0,
        ["2:44+25: issuer \"login\" declares no group \"suport\"; did you mean \"support\"?"]
    );
    let help = "write it to declares.groups of the JwtIssuer login";
    assert_eq!(group("login/x").0, [format!("2:44+20: issuer \"login\" declares no group \"x\"; {help}")]);
    for known in ["login/support", "partners/suport"] {
        assert_eq!(group(known), (Vec::new(), Vec::new()), "{known}");
    }
}

#[test]
fn an_issuer_that_comes_to_declare_less_tells_whom_it_leaves_behind() {
    let login = declaring("login", &["department"], &["support"]);
    let condition = "context.claims.hasTag(\"department\") && context has user && context.user in \
                     UserGroup::\"login/support\"";
    let catalog = catalog_of(&[&shop()[..], &[login, asking(condition)]].concat());
    let warnings = |issuer: Resource| try_admit(&catalog, &[issuer], EVERYTHING).unwrap().warnings;
    assert_eq!(
        warnings(declaring("login", &["departments"], &["staff"])),
        [
            "Policy shop/p, 2:83: issuer \"login\" declares no group \"support\"; write it to declares.groups of the \
             JwtIssuer login",
            "Policy shop/p, 2:30: no issuer declares the claim \"department\"; did you mean \"departments\"?",
        ]
    );
    assert_eq!(warnings(declaring("login", &[], &[])), [""; 0]);
}

#[test]
fn a_label_that_no_node_has_is_warned_of_with_what_is_nearest() {
    let web = labelled(node("web", []), &[("team", "checkout")]);
    let told = |name: &str| {
        let text = format!("forbid(principal, action, resource)\nwhen {{ principal.hasTag(\"{name}\") }};");
        let catalog = catalog_of(&[mesh("shop"), web.clone()]);
        try_admit(&catalog, &[policy("p", &text)], EVERYTHING).unwrap().warnings
    };
    assert_eq!(told("team"), [""; 0]);
    assert_eq!(
        told("taem"),
        ["Policy shop/p, 2:25: no virtual node or gateway has the label \"taem\"; did you mean \"team\"?"]
    );
    assert_eq!(
        told("suspect"),
        ["Policy shop/p, 2:25: no virtual node or gateway has the label \"suspect\""]
    );
}
