//! Those who pass users on, once their certificates are known.

use hauberk_identity::{Serial, Validity};
use hauberk_tls::{KeyPair, LiveIdentity, LiveState};

use super::super::chain::{Between, extended};
use super::passed::{World, id};
use super::*;
use crate::mesh::Denylist;
use crate::testing::{HOUR, around, now};

/// What `orders` makes of a user whom it has not seen before, shown by `web`.
fn shown(world: &World, web: &LiveState, trusted: &LiveState, user: &str, at: UnixMillis) -> &'static str {
    let text = extended(&format!("{}~", world.token(user)), web, &id("orders"), now()).unwrap();
    again(world, trusted, &text, at)
}

fn again(world: &World, trusted: &LiveState, text: &str, at: UnixMillis) -> &'static str {
    let (own, peer) = (&id("orders"), &id("web"));
    let between = Between { own, peer, trusted, denied: &world.denied };
    world.users.verify_passed(&text.parse().unwrap(), between, at).map_or_else(|reason| reason, |_| "taken")
}

fn by(bundle: hauberk_tls::TrustBundle) -> LiveState {
    LiveIdentity::new(bundle).current()
}

#[test]
fn a_taint_takes_back_what_is_known_of_certificates_for_users_old_and_new() {
    let world = World::new();
    let web = world.live("web").current();
    let bundle = world.authorities.issuing.root_bundle();
    let tainted = bundle.clone().distrusting([world.authorities.issuing.key().public_key().fingerprint()]);
    let empty = hauberk_tls::TrustBundle::empty(bundle.trust_domain().clone());
    let orders = by(bundle.clone());
    let alice = extended(&format!("{}~", world.token("alice")), &web, &id("orders"), now()).unwrap();
    assert_eq!(again(&world, &orders, &alice, now()), "taken");
    assert_eq!(shown(&world, &web, &orders, "bob", now()), "taken");
    for (number, worse) in [tainted, empty].into_iter().enumerate() {
        let worse = by(worse);
        assert_eq!(again(&world, &worse, &alice, now()), "identity_certificate");
        assert_eq!(shown(&world, &web, &worse, &format!("carol-{number}"), now()), "identity_certificate");
    }
    assert_eq!(again(&world, &by(bundle.clone()), &alice, now()), "taken");
}

#[test]
fn who_is_on_the_denylist_is_refused_however_well_known_and_let_in_again_after() {
    let world = World::new();
    let (key, instance) = (KeyPair::generate().unwrap(), "0123456789".parse().unwrap());
    let serial = Serial::of_instance(instance, [5; 16]);
    let path = "mesh/shop/node/web";
    let svid = world.authorities.sign_numbered(path, key.public_key(), around(HOUR), serial);
    let web = LiveIdentity::new(world.authorities.issuing.root_bundle().clone());
    web.publish(svid, &key).unwrap();
    let (web, orders) = (web.current(), world.live("orders").current());
    assert_eq!(shown(&world, &web, &orders, "alice", now()), "taken");
    for (number, denylist) in [
        Denylist { serials: [serial].into(), ..Denylist::default() },
        Denylist { instances: [instance].into(), ..Denylist::default() },
        Denylist { identities: [id("web")].into(), ..Denylist::default() },
    ]
    .into_iter()
    .enumerate()
    {
        world.denied.replace(denylist);
        let user = format!("bob-{number}");
        assert_eq!(shown(&world, &web, &orders, &user, now()), "identity_revoked", "{number}");
        world.denied.replace(Denylist::default());
        assert_eq!(shown(&world, &web, &orders, &user, now()), "taken", "{number}");
    }
}

#[test]
fn a_known_certificate_that_has_ended_brings_no_new_user() {
    let world = World::new();
    let (key, end) = (KeyPair::generate().unwrap(), now().plus(Duration::from_secs(30)));
    let validity = Validity::new(now().minus(HOUR), end).unwrap();
    let web = LiveIdentity::new(world.authorities.issuing.root_bundle().clone());
    web.publish(world.authorities.sign("mesh/shop/node/web", key.public_key(), validity), &key).unwrap();
    let (web, orders) = (web.current(), world.live("orders").current());
    let after = end.plus(Duration::from_secs(1));
    assert_eq!(shown(&world, &web, &orders, "alice", now()), "taken");
    assert_eq!(shown(&world, &web, &orders, "bob", after), "identity_expired");
    let before = now().minus(HOUR).minus(Duration::from_secs(1));
    assert_eq!(shown(&world, &web, &orders, "carol", before), "identity_certificate");
    assert_eq!(shown(&world, &web, &orders, "bob", now()), "taken");
}
