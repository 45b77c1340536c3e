//! Tokens that our own control plane has minted, as users' tokens.

use hauberk_identity::{InstanceId, Serial};

use super::passed::{World, context, id};
use super::views::{look, view};
use super::*;
use crate::mesh::Denylist;
use crate::testing::now;

const INSTANCE: &str = "0123456789";

/// A token for `web`, minted for this instance.
fn minted_for(login: &Provider, instance: &str) -> String {
    let instance: InstanceId = instance.parse().unwrap();
    let mut claims = login.claims();
    claims["sub"] = json!(id("web").to_string());
    claims["jti"] = json!(Serial::of_instance(instance, [7; 16]).to_string());
    claims["exp"] = json!(now().as_secs() + 600);
    login.token(&claims)
}

/// Lists that refuse whom [`minted_for`] names, and why.
fn denylists() -> [(Denylist, &'static str); 3] {
    let instance = || [INSTANCE.parse().unwrap()].into();
    [
        (Denylist { instances: instance(), ..Denylist::default() }, "user_token_revoked"),
        (Denylist { held_instances: instance(), ..Denylist::default() }, "user_token_quarantined"),
        (Denylist { identities: [id("web")].into(), ..Denylist::default() }, "user_token_quarantined"),
    ]
}

#[test]
fn who_is_refused_everywhere_is_no_user_by_a_token_of_ours() {
    let login = Provider::new("login");
    let ours = JwtIssuer { is_ours: true, ..login.issuer() };
    let (ours, others) = (users(vec![ours]), users(vec![login.issuer()]));
    let (token, another) = (minted_for(&login, INSTANCE), minted_for(&login, "vj85pstwk8"));
    let (now, denied) = (now(), Denied::new());
    for (denylist, reason) in denylists() {
        let is_of_instance = denylist.identities.is_empty();
        denied.replace(denylist);
        // What was verified before, what was not, and what is by another issuer, whose numbers say nothing.
        let fresh = users(ours.issuers.iter().map(|issuer| issuer.said.clone()).collect());
        assert_eq!(ours.verify(&token, &denied, now).unwrap_err(), reason);
        assert_eq!(fresh.verify(&token, &denied, now).unwrap_err(), reason);
        assert!(others.verify(&token, &denied, now).is_ok());
        assert_eq!(ours.verify(&another, &denied, now).is_ok(), is_of_instance);
        denied.replace(Denylist::default());
        assert!(ours.verify(&token, &denied, now).is_ok() && fresh.verify(&token, &denied, now).is_ok());
    }
    // None of ours is about nobody.
    let nobody =
        login.token(&json!({"exp": now.as_secs() + 300, "sub": "alice", "iss": login.url, "aud": "shop"}));
    assert_eq!(ours.verify(&nobody, &denied, now).unwrap_err(), "user_token_claims");
}

#[tokio::test]
async fn a_request_under_way_ends_with_the_instance_that_its_token_was_minted_for() {
    let world = World::new();
    let context = context(&world, "orders");
    let ours = JwtIssuer { is_ours: true, ..world.login.issuer() };
    let by_bearer = bearer(&minted_for(&world.login, INSTANCE));
    let (view, without) = (
        view(Some(users(vec![ours])), Some(all())),
        view(Some(users(vec![world.login.issuer()])), Some(all())),
    );
    for (denylist, reason) in denylists() {
        let mut fields = headers(&[("authorization", &by_bearer)]);
        let mut made_for = look(&view, &context, &mut fields);
        let mut by_another = look(&without, &context, &mut headers(&[("authorization", &by_bearer)]));
        made_for.look_again(&view, 8080, &context);
        assert_eq!(made_for.refusal(now()), None);
        context.mesh.denied.replace(denylist);
        made_for.look_again(&view, 8080, &context);
        assert_eq!(made_for.refusal(now()), Some(reason));
        // A view that says whose tokens they are holds for those that came before it.
        by_another.look_again(&without, 8080, &context);
        assert_eq!(by_another.refusal(now()), None);
        by_another.look_again(&view, 8080, &context);
        assert_eq!(by_another.refusal(now()), Some(reason));
        context.mesh.denied.replace(Denylist::default());
    }
}

#[tokio::test]
async fn so_does_one_that_leaves_the_mesh() {
    let world = World::new();
    let (context, handles) = (context(&world, "orders"), Handles::default());
    let ours = users(vec![JwtIssuer { is_ours: true, ..world.login.issuer() }]);
    let identity = ours.verify(&minted_for(&world.login, INSTANCE), &Denied::new(), now()).unwrap();
    let handle = handles.seal(&identity).unwrap();
    let known = view(Some(ours), None);
    let without = view(Some(users(vec![world.login.issuer()])), None);
    let look = |view| ByHandle::look(&handle, Some(view), &handles, &context);
    for (denylist, reason) in denylists() {
        let (mut begun, mut by_another) = (look(&known), look(&without));
        assert!(!begun.look_again(&known, &context));
        assert_eq!(begun.refusal(now()), None);
        context.mesh.denied.replace(denylist);
        assert!(begun.look_again(&known, &context));
        assert_eq!(begun.refusal(now()), Some(reason));
        assert_eq!(look(&known).refusal(now()), Some(reason));
        assert!(!by_another.look_again(&without, &context));
        assert!(by_another.look_again(&known, &context));
        assert_eq!(by_another.refusal(now()), Some(reason));
        context.mesh.denied.replace(Denylist::default());
    }
}
