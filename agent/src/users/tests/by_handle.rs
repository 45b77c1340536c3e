//! For whom a request is made that leaves the mesh.

use hauberk_policy::OnBehalfOf;

use super::super::chain::{Between, extended};
use super::passed::{World, context, id};
use super::views::view;
use super::*;
use crate::context::Context;
use crate::mesh::{Denylist, NodeView};
use crate::testing::{now, recipient};

/// The node whose app calls out.
fn own() -> String {
    recipient().spiffe_id.path().rsplit('/').next().unwrap().to_owned()
}

/// The handle that our app has of alice: as a caller's token, or passed on by these, the first one first.
fn handle(world: &World, handles: &Handles, by: &[&str]) -> HeaderValue {
    let own = own();
    let mut text = format!("{}~", world.token("alice"));
    let identity = match by.split_last() {
        None => world.users.verify(&world.token("alice"), &world.denied, now()).unwrap(),
        Some((last, _)) => {
            let to = by.iter().skip(1).copied().chain([own.as_str()]);
            for (from, to) in by.iter().zip(to) {
                text = extended(&text, &world.live(from).current(), &id(to), now()).unwrap();
            }
            let trusted = &world.live(&own).current();
            let between = Between { own: &id(&own), peer: &id(last), trusted, denied: &world.denied };
            world.users.verify_passed(&text.parse().unwrap(), between, now()).unwrap()
        }
    };
    handles.seal(&identity).unwrap()
}

/// Who it is made for, or why for nobody.
fn told(user: &ByHandle, context: &Context) -> String {
    match (user.refusal(context.clock.now()), user.on_behalf_of()) {
        (Some(reason), _) => reason.to_owned(),
        (None, OnBehalfOf::User(origin)) => {
            let actors = origin.actors.iter().map(|actor| actor.path().rsplit('/').next().unwrap());
            [&*origin.user.id].into_iter().chain(actors).collect::<Vec<_>>().join(" by ")
        }
        (None, _) => "nobody".to_owned(),
    }
}

fn known(world: &World) -> Arc<NodeView> {
    view(Some(Arc::clone(&world.users)), None)
}

#[tokio::test]
async fn a_handle_says_what_the_next_agent_would_be_told() {
    let world = World::new();
    let (context, handles) = (context(&world, &own()), Handles::default());
    let known = known(&world);
    let look =
        |handle: &HeaderValue| told(&ByHandle::look(handle, Some(&known), &handles, &context), &context);
    assert_eq!(look(&handle(&world, &handles, &[])), "alice");
    assert_eq!(look(&handle(&world, &handles, &["web"])), "alice by web");
    assert_eq!(look(&handle(&world, &handles, &["edge", "web"])), "alice by edge by web");
    assert_eq!(told(&ByHandle::nobody(), &context), "nobody");
    // Nobody else's handle, and nothing that stands behind one.
    let others = Handles::default();
    let of_others = handle(&world, &others, &["web"]);
    for forged in [
        of_others,
        HeaderValue::from_static("AAAA"),
        world.token("alice").parse().unwrap(),
        format!("{}~", world.token("alice")).parse().unwrap(),
        HeaderValue::from_bytes(b"\xff").unwrap(),
    ] {
        assert_eq!(look(&forged), "identity_handle_forged");
    }
    // Without rules nobody is believed to be a user, also once they come.
    let by_web = handle(&world, &handles, &["web"]);
    let mut early = ByHandle::look(&by_web, None, &handles, &context);
    assert!(!early.look_again(&known, &context));
    assert_eq!(told(&early, &context), "user_token_unknown_issuer");
    let unissued = ByHandle::look(&by_web, Some(&view(None, None)), &handles, &context);
    assert_eq!(told(&unissued, &context), "user_token_unknown_issuer");
}

#[tokio::test(start_paused = true)]
async fn a_user_who_has_left_ends_with_all_that_vouched_for_it() {
    let world = World::new();
    let (context, handles) = (context(&world, &own()), Handles::default());
    let first = known(&world);
    let begin = || {
        let by_web = handle(&world, &handles, &["edge", "web"]);
        ByHandle::look(&by_web, Some(&first), &handles, &context)
    };
    let again = |mut user: ByHandle, view: &Arc<NodeView>| {
        let is_other = user.look_again(view, &context);
        (is_other, told(&user, &context))
    };
    let alice = "alice by edge by web".to_owned();
    assert_eq!(again(begin(), &first), (false, alice.clone()));
    // Another view with the same issuer.
    let same = view(Some(users(vec![world.login.issuer()])), None);
    assert_eq!(again(begin(), &same), (false, alice));
    let other_key = Provider::new("login").issuer();
    let other = view(Some(users(vec![other_key])), None);
    assert_eq!(again(begin(), &other), (true, "user_token_signature".to_owned()));
    assert_eq!(again(begin(), &view(None, None)), (true, "user_token_unknown_issuer".to_owned()));
    // Revoked, the last one among them, of whose connection nothing is known here.
    for node in ["edge", "web"] {
        let begun = begin();
        context.mesh.denied.replace(Denylist { identities: [id(node)].into(), ..Denylist::default() });
        assert_eq!(again(begun, &first), (true, "identity_revoked".to_owned()), "{node}");
        context.mesh.denied.replace(Denylist::default());
    }
    let begun = begin();
    let none =
        hauberk_tls::TrustBundle::empty(world.authorities.issuing.root_bundle().trust_domain().clone());
    context.identity.publish_bundle(none).unwrap();
    assert_eq!(again(begun, &first), (true, "identity_certificate".to_owned()));
    context.identity.publish_bundle(world.authorities.issuing.root_bundle().clone()).unwrap();
    let begun = begin();
    assert_eq!(begun.refusal(context.clock.now()), None);
    tokio::time::advance(Duration::from_secs(601)).await;
    assert_eq!(told(&begun, &context), "user_token_expired");
    assert_eq!(told(&begin(), &context), "identity_handle_expired");
}
