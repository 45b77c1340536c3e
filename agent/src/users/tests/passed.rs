//! Users who were passed on, and whoever would have it so.

use std::sync::Arc;

use hauberk_identity::SpiffeId;
use hauberk_proto::agent::v1 as pb;
use hauberk_tls::{CertificateDer, Hop, KeyPair, Link, LiveIdentity, LiveState};
use prost::Message as _;

use super::super::chain::{Between, Stage, extended};
use super::*;
use crate::clock::Clock;
use crate::context::Context;
use crate::decisions::Decisions;
use crate::mesh::{Denied, Denylist, Mesh};
use crate::testing::{Authorities, HOUR, around, now};

/// Agents of a mesh, and an issuer.
pub(super) struct World {
    pub(super) authorities: Arc<Authorities>,
    pub(super) login: Provider,
    pub(super) users: Arc<Users>,
    pub(super) denied: Denied,
}

pub(super) fn id(node: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://shop.local/mesh/shop/node/{node}")).unwrap()
}

impl World {
    pub(super) fn new() -> Self {
        hauberk_tls::install_provider();
        let login = Provider::new("login");
        let users = users(vec![login.issuer()]);
        Self { authorities: Authorities::new(), login, users, denied: Denied::new() }
    }

    pub(super) fn live(&self, node: &str) -> LiveIdentity {
        self.authorities.live(&format!("mesh/shop/node/{node}"))
    }

    pub(super) fn token(&self, user: &str) -> String {
        let mut claims = self.login.claims();
        claims["sub"] = json!(user);
        claims["exp"] = json!(now().as_secs() + 600);
        self.login.token(&claims)
    }

    /// Who the user is, and by whom the user came, where `own` is shown this by `peer`; or why nobody is.
    fn shown(&self, own: &str, peer: &str, text: &str) -> String {
        let trusted = self.live(own).current();
        let (own, peer) = (&id(own), &id(peer));
        let between = Between { own, peer, trusted: &trusted, denied: &self.denied };
        match self.users.verify_passed(&text.parse().unwrap(), between, now()) {
            Ok(identity) => {
                let actors =
                    identity.origin.actors.iter().map(|actor| actor.path().rsplit('/').next().unwrap());
                let names: Vec<_> = [&*identity.origin.user.id].into_iter().chain(actors).collect();
                names.join(" by ")
            }
            Err(reason) => reason.to_owned(),
        }
    }
}

fn changed(text: &str, change: impl FnOnce(&mut pb::IdentityChain)) -> String {
    let (user, chain) = text.split_once('~').unwrap();
    let mut chain = pb::IdentityChain::decode(&*URL_SAFE_NO_PAD.decode(chain).unwrap()).unwrap();
    change(&mut chain);
    format!("{user}~{}", URL_SAFE_NO_PAD.encode(chain.encode_to_vec()))
}

#[test]
fn a_user_goes_from_agent_to_agent_and_each_one_that_passed_on_is_known() {
    let world = World::new();
    let text = format!("{}~", world.token("alice"));
    let to_orders = extended(&text, &world.live("web").current(), &id("orders"), now()).unwrap();
    assert_eq!(world.shown("orders", "web", &to_orders), "alice");
    assert_eq!(world.shown("orders", "web", &to_orders), "alice", "as remembered");
    assert!(
        world.users.verify(&to_orders, &world.denied, now()).is_err(),
        "what was passed on is no token that a caller may show"
    );
    let long = changed(&to_orders, |chain| chain.hops[0].authorities = vec![0; 1_000]);
    assert_eq!(world.shown("orders", "web", &long), "identity_malformed");
    let orders = world.live("orders").current();
    let to_payments = extended(&to_orders, &orders, &id("payments"), now()).unwrap();
    assert_eq!(world.shown("payments", "orders", &to_payments), "alice by web");
    let to_bank = extended(&to_payments, &world.live("payments").current(), &id("bank"), now()).unwrap();
    assert_eq!(world.shown("bank", "payments", &to_bank), "alice by web by orders");
    // What authorities they have in common stands there once.
    assert!(to_bank.len() < 2 * to_orders.len() + 1_000, "{} {}", to_orders.len(), to_bank.len());
}

#[test]
fn what_is_forged_replayed_spliced_or_old_is_refused_by_name() {
    let world = World::new();
    let start = |user: &str| format!("{}~", world.token(user));
    let (web, orders) = (world.live("web").current(), world.live("orders").current());
    let to_orders = extended(&start("alice"), &web, &id("orders"), now()).unwrap();
    let to_payments = extended(&to_orders, &orders, &id("payments"), now()).unwrap();
    assert_eq!(world.shown("payments", "orders", &to_payments), "alice by web");
    let see = |text: &str| world.shown("payments", "orders", text);

    // Replayed elsewhere, or by somebody else; also where it was seen before.
    assert_eq!(world.shown("bank", "orders", &to_payments), "identity_audience");
    assert_eq!(world.shown("payments", "intruder", &to_payments), "identity_signer");
    assert_eq!(world.shown("payments", "web", &to_orders), "identity_audience");
    assert_eq!(world.shown("orders", "intruder", &to_orders), "identity_signer");
    // Without hops it comes from no agent.
    assert_eq!(see(&start("alice")), "identity_malformed");
    assert_eq!(see(&world.token("alice")), "identity_malformed");
    assert_eq!(see("~"), "identity_malformed");
    // The same chain in another spelling, with a field that nobody knows, would be kept a second time.
    let mut encoded = URL_SAFE_NO_PAD.decode(to_payments.split_once('~').unwrap().1).unwrap();
    encoded.extend([0x78, 1]);
    let spelled = format!("{}~{}", world.token("alice"), URL_SAFE_NO_PAD.encode(encoded));
    assert_eq!(see(&spelled), "identity_malformed");
    assert_eq!(see(&format!("{}~AAAA~", world.token("alice"))), "identity_malformed");
    assert_eq!(see(&"x".repeat(10 * 1024 + 1)), "identity_too_large");
    // The user exchanged, by one who is as real.
    let (_, chain) = to_payments.split_once('~').unwrap();
    assert_eq!(see(&format!("{}~{chain}", world.token("bob"))), "identity_signature");
    let forged = world.token("alice").replacen("eyJ", "eyK", 1);
    let of_nobody = format!("{forged}~{chain}");
    assert!(see(&of_nobody).starts_with("user_token_"));
    // Whoever shows what another one was given costs no signature: neither the token's nor a hop's is looked at.
    assert_eq!(world.shown("payments", "intruder", &of_nobody), "identity_signer");
    assert_eq!(world.shown("bank", "orders", &of_nobody), "identity_audience");
    // A hop taken out, put in twice, or exchanged.
    assert_eq!(see(&changed(&to_payments, |chain| drop(chain.hops.remove(0)))), "identity_signature");
    let twice = changed(&to_payments, |chain| {
        let hop = chain.hops[0].clone();
        chain.hops.insert(0, hop);
    });
    assert_eq!(see(&twice), "identity_spliced");
    let of_bob = extended(&start("bob"), &web, &id("orders"), now()).unwrap();
    let from_bob = |chain: &mut pb::IdentityChain| {
        let (_, other) = of_bob.split_once('~').unwrap();
        let other = pb::IdentityChain::decode(&*URL_SAFE_NO_PAD.decode(other).unwrap()).unwrap();
        chain.hops[0] = other.hops[0].clone();
    };
    assert_eq!(see(&changed(&to_payments, from_bob)), "identity_signature");
    let elsewhere = extended(&to_orders, &orders, &id("bank"), now()).unwrap();
    let redirected = changed(&elsewhere, |chain| chain.hops[1].audience = id("payments").to_string());
    assert_eq!(see(&redirected), "identity_signature");
    let misled = changed(&to_payments, |chain| chain.hops[0].audience = id("bank").to_string());
    assert_eq!(see(&misled), "identity_signature");
    let later = changed(&to_payments, |chain| chain.hops[1].at_unix_ms += 1);
    assert_eq!(see(&later), "identity_signature");
    let nowhere = changed(&to_payments, |chain| chain.hops[0].authorities = vec![9]);
    assert_eq!(see(&nowhere), "identity_malformed");
    // Whoever it was meant for did not sign the next hop.
    let to_cart = extended(&start("alice"), &web, &id("cart"), now()).unwrap();
    let spliced = extended(&to_cart, &orders, &id("payments"), now()).unwrap();
    assert_eq!(see(&spliced), "identity_spliced");
    // From the future, and from before its certificate.
    let ahead = extended(&to_orders, &orders, &id("payments"), now().plus(Duration::from_secs(120))).unwrap();
    assert_eq!(see(&ahead), "identity_time");
    let before = extended(&to_orders, &orders, &id("payments"), UnixMillis(0)).unwrap();
    assert_eq!(see(&before), "identity_time");
    // More hops than anybody needs.
    let mut long = start("alice");
    for _ in 0..8 {
        long = extended(&long, &web, &id("web"), now()).unwrap();
    }
    assert_eq!(world.shown("web", "web", &long).matches(" by ").count(), 7);
    assert_eq!(extended(&long, &web, &id("web"), now()).unwrap_err(), "identity_too_many_hops");
}

#[test]
fn nobody_invents_who_was_before() {
    let world = World::new();
    // `orders` is in an attacker's hands: its key, its certificate, and a token of alice that it has seen.
    let orders = world.live("orders").current();
    let token = world.token("alice");
    let see = |text: &str| world.shown("payments", "orders", text);
    let certificate_of = |state: &LiveState| state.svid().unwrap().chain().to_vec();
    let hop = |chain: &[CertificateDer<'static>], audience: &str, signature: Vec<u8>| pb::IdentityHop {
        certificate: chain[0].to_vec(),
        authorities: vec![0],
        audience: id(audience).to_string(),
        at_unix_ms: now().0,
        signature,
    };
    let at = now();
    // A hop of web, signed by the only key that there is.
    let of_web = certificate_of(&world.live("web").current());
    let begin = Link::of_user(&token);
    let mut claimed = hop(&of_web, "orders", orders.sign_hop(begin, &id("orders"), at).unwrap());
    claimed.at_unix_ms = at.0;
    let chain = pb::IdentityChain { authorities: vec![of_web[1].to_vec()], hops: vec![claimed] };
    let text = format!("{token}~{}", URL_SAFE_NO_PAD.encode(chain.encode_to_vec()));
    let invented = extended(&text, &orders, &id("payments"), at).unwrap();
    assert_eq!(see(&invented), "identity_signature");
    // A certificate of web by an authority of its own.
    let (own, key) = (Authorities::new(), KeyPair::generate().unwrap());
    let fake = LiveIdentity::new(own.issuing.root_bundle().clone());
    fake.publish(own.sign("mesh/shop/node/web", key.public_key(), around(HOUR)), &key).unwrap();
    let from_fake = extended(&format!("{token}~"), &fake.current(), &id("orders"), at).unwrap();
    assert_eq!(see(&extended(&from_fake, &orders, &id("payments"), at).unwrap()), "identity_certificate");
    // A workload, an admin and a control plane pass nobody on.
    for path in ["workload/batch", "admin/olga", "control-plane/0"] {
        let somebody = world.authorities.live(path).current();
        let text = extended(&format!("{token}~"), &somebody, &id("orders"), at).unwrap();
        assert_eq!(see(&extended(&text, &orders, &id("payments"), at).unwrap()), "identity_signer", "{path}");
    }
    // What is true it can say: that the user came to it.
    let own = extended(&format!("{token}~"), &orders, &id("payments"), at).unwrap();
    assert_eq!(see(&own), "alice");
    // A signature of another certificate of its own does not help either.
    let renewed = world.live("orders").current();
    let swapped = changed(&own, |chain| chain.hops[0].certificate = certificate_of(&renewed)[0].to_vec());
    assert_eq!(see(&swapped), "identity_signature");
    let _: Hop<'_> = Hop { certificate: &of_web[0], audience: "", at };
}

#[test]
fn a_certificate_that_ends_or_is_revoked_takes_its_hops_along() {
    let world = World::new();
    let key = KeyPair::generate().unwrap();
    let end = now().plus(Duration::from_secs(30));
    let validity = hauberk_identity::Validity::new(now().minus(HOUR), end).unwrap();
    let svid = world.authorities.sign("mesh/shop/node/web", key.public_key(), validity);
    let web = LiveIdentity::new(world.authorities.issuing.root_bundle().clone());
    web.publish(svid.clone(), &key).unwrap();
    let text = format!("{}~", world.token("alice"));
    let to_orders = extended(&text, &web.current(), &id("orders"), now()).unwrap();
    let orders = world.live("orders").current();
    let (own, peer) = (&id("orders"), &id("web"));
    let between = Between { own, peer, trusted: &orders, denied: &world.denied };
    let see = |at: UnixMillis| world.users.verify_passed(&to_orders.parse().unwrap(), between, at);
    let identity = see(now()).unwrap();
    assert!(identity.passes_on_until() <= end, "no longer than who vouches for it");
    assert_eq!(see(end.plus(Duration::from_secs(1))).unwrap_err(), "identity_expired");
    let fresh = users(vec![world.login.issuer()]);
    let late = fresh.verify_passed(&to_orders.parse().unwrap(), between, end.plus(Duration::from_secs(1)));
    assert_eq!(late.unwrap_err(), "identity_expired");
    world.denied.replace(Denylist { serials: [svid.serial()].into(), ..Denylist::default() });
    assert_eq!(see(now()).unwrap_err(), "identity_revoked", "also as it is remembered");
    let anew = fresh.verify_passed(&to_orders.parse().unwrap(), between, now());
    assert_eq!(anew.unwrap_err(), "identity_revoked");
}

#[test]
fn of_what_is_under_way_the_last_certificate_may_end_and_no_other() {
    let world = World::new();
    let end = now().plus(Duration::from_secs(30));
    let for_a_while = |node: &str| {
        let validity = hauberk_identity::Validity::new(now().minus(HOUR), end).unwrap();
        let stored = world.authorities.identity(&format!("mesh/shop/node/{node}"), validity);
        let live = LiveIdentity::new(world.authorities.issuing.root_bundle().clone());
        live.publish(stored.svid.clone(), &stored.key).unwrap();
        (live, stored.svid.serial())
    };
    let text = format!("{}~", world.token("alice"));
    let ((web, web_serial), lasting) = (for_a_while("web"), world.live("orders"));
    let to_orders = extended(&text, &web.current(), &id("orders"), now()).unwrap();
    let to_payments = extended(&to_orders, &lasting.current(), &id("payments"), now()).unwrap();
    let late = end.plus(Duration::from_secs(1));
    let trusted = |bundle: hauberk_tls::TrustBundle| LiveIdentity::new(bundle).current();
    let ours = trusted(world.authorities.issuing.root_bundle().clone());
    let empty = hauberk_tls::TrustBundle::empty(ours.bundle().trust_domain().clone());
    for (own, peer, text, is_last) in
        [("orders", "web", &to_orders, true), ("payments", "orders", &to_payments, false)]
    {
        let (own, peer) = (&id(own), &id(peer));
        let between = Between { own, peer, trusted: &ours, denied: &world.denied };
        let identity = world.users.verify_passed(&text.parse().unwrap(), between, now()).unwrap();
        let passed = identity.passed.as_ref().unwrap();
        let check =
            |by: &LiveState, at, stage| passed.check(by, &world.denied, &world.users.vouched, at, stage);
        let under_way = |by: &LiveState, at| {
            let ended = identity.end(at);
            ended.map_or_else(|| check(by, at, Stage::UnderWay), Err)
        };
        assert_eq!(under_way(&ours, now()), Ok(()));
        assert_eq!(under_way(&trusted(empty.clone()), now()), Err("identity_certificate"));
        assert_eq!(under_way(&ours, late), if is_last { Ok(()) } else { Err("identity_expired") });
        assert_eq!(check(&ours, late, Stage::Arriving), Err("identity_expired"));
        assert_eq!(identity.passes_on_until(), end.floor_to_second());
        world.denied.replace(Denylist { serials: [web_serial].into(), ..Denylist::default() });
        let is_ended = !is_last;
        assert_eq!(
            under_way(&ours, late),
            Err(if is_ended { "identity_expired" } else { "identity_revoked" })
        );
        world.denied.replace(Denylist::default());
    }
}

#[test]
fn another_bundle_that_does_not_vouch_for_a_hop_takes_it_back() {
    let world = World::new();
    let text = format!("{}~", world.token("alice"));
    let to_orders = extended(&text, &world.live("web").current(), &id("orders"), now()).unwrap();
    assert_eq!(world.shown("orders", "web", &to_orders), "alice");
    let empty = LiveIdentity::new(hauberk_tls::TrustBundle::empty(
        world.authorities.issuing.root_bundle().trust_domain().clone(),
    ));
    let (own, peer) = (&id("orders"), &id("web"));
    let between = Between { own, peer, trusted: &empty.current(), denied: &world.denied };
    let refused = world.users.verify_passed(&to_orders.parse().unwrap(), between, now());
    assert_eq!(refused.unwrap_err(), "identity_certificate");
}

pub(super) fn context(world: &World, node: &str) -> Context {
    let clock = Clock::starting_at(now());
    Context {
        clock,
        identity: world.live(node),
        trust: tokio::sync::watch::Sender::new(Arc::new(world.authorities.stored_trust())).subscribe(),
        mesh: Mesh::new(),
        decisions: Arc::new(Decisions::new(clock, "0123456789".parse().unwrap(), [1, 2, 3, 4], None)),
        metrics: Arc::default(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_handle_is_of_use_to_the_agent_that_gave_it_and_for_as_long_as_the_token() {
    let world = World::new();
    let (of_web, of_orders) = (context(&world, "web"), context(&world, "orders"));
    let (handles, others) = (Handles::default(), Handles::default());
    let token = world.token("alice");
    let identity = world.users.verify(&token, &world.denied, now()).unwrap();
    let to_orders = id("orders");
    let guessed = HeaderValue::from_static("AAAA");
    assert_eq!(handles.pass_on(&guessed, &to_orders, &of_web).unwrap_err(), "identity_handle_forged");
    let handle = handles.seal(&identity).unwrap();
    let text = handle.to_str().unwrap();
    assert!(!format!("{handle:?}").contains(text), "it is not printed");
    assert!(!text.contains(&token) && !URL_SAFE_NO_PAD.decode(text).unwrap().is_ascii());
    let passed_on = handles.pass_on(&handle, &to_orders, &of_web).unwrap();
    assert_eq!(world.shown("orders", "web", passed_on.to_str().unwrap()), "alice");
    // Signed once for one audience, and for each its own.
    assert_eq!(handles.pass_on(&handle, &to_orders, &of_web).unwrap(), passed_on);
    let to_cart = handles.pass_on(&handle, &id("cart"), &of_web).unwrap();
    assert_eq!(world.shown("cart", "web", to_cart.to_str().unwrap()), "alice");
    assert_ne!(to_cart, passed_on);
    // By a renewed certificate it is signed anew.
    let renewed = world.authorities.identity("mesh/shop/node/web", around(HOUR));
    of_web.identity.publish(renewed.svid, &renewed.key).unwrap();
    assert_ne!(handles.pass_on(&handle, &to_orders, &of_web).unwrap(), passed_on);
    // Another instance, another key, what is between agents, and the token itself are none.
    assert!(others.seal(&identity).is_some());
    for (handles, value) in [
        (&others, handle.clone()),
        (&handles, passed_on.clone()),
        (&handles, token.parse().unwrap()),
        (&handles, format!("{token}~").parse().unwrap()),
        (&handles, others.seal(&identity).unwrap()),
        (&handles, HeaderValue::from_bytes(b"\xff").unwrap()),
    ] {
        let refused = handles.pass_on(&value, &to_orders, &of_orders).unwrap_err();
        assert_eq!(refused, "identity_handle_forged");
    }
    for bit in 0..text.len() {
        let mut flipped = text.as_bytes().to_vec();
        flipped[bit] = if flipped[bit] == b'A' { b'B' } else { b'A' };
        let flipped = HeaderValue::from_bytes(&flipped).unwrap();
        assert!(handles.pass_on(&flipped, &to_orders, &of_web).is_err() || flipped == handle);
    }
    tokio::time::advance(Duration::from_secs(601)).await;
    assert_eq!(handles.pass_on(&handle, &to_orders, &of_web).unwrap_err(), "identity_handle_expired");
}
