//! A user's call goes on through several services: each agent knows for whom, and through whom, and takes nobody's word
//! for it.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hauberk_identity::UnixMillis;
use hauberk_integration_tests::{Agent, AgentOptions, App, MeshBox, Response, dial, eventually, request};
use hauberk_proto::agent::v1::{IdentityChain, IdentityHop};
use hauberk_tls::{CertificateDer, Hop, KeyPair, Link, LiveIdentity, LiveState, Svid};
use prost::Message as _;
use serde_json::{Value, json};

use crate::{
    login::{Login, now},
    peer::{Peer, id},
    shop::{self, PATIENCE, eventually_status},
};

/// edge calls web, web calls orders, orders calls payments.
const NODES: &str = r"
kind: Mesh
name: shop
---
kind: VirtualNode
mesh: shop
name: edge
spec: {}
---
kind: VirtualNode
mesh: shop
name: web
spec: {listeners: [{portMapping: {port: 8080, protocol: http}, users: {mode: REQUIRED}}]}
---
kind: VirtualNode
mesh: shop
name: orders
spec: {listeners: [{portMapping: {port: 8080, protocol: http}}]}
---
kind: VirtualNode
mesh: shop
name: payments
spec: {listeners: [{portMapping: {port: 8080, protocol: http}}]}
---
kind: VirtualService
mesh: shop
name: web
spec: {provider: {virtualNode: {virtualNodeName: web}}}
---
kind: VirtualService
mesh: shop
name: orders
spec: {provider: {virtualNode: {virtualNodeName: orders}}}
---
kind: VirtualService
mesh: shop
name: payments
spec: {provider: {virtualNode: {virtualNodeName: payments}}}
";

/// Whoever is a user may read orders; and the one rule: payments are written for a user in support alone, coming
/// through web and orders.
const RULES: &str = "permit (principal == Node::\"edge\", action in Action::\"http\", resource in Service::\"web\");\n\
    permit (principal == Node::\"web\", action in Action::\"read\", resource in Node::\"orders\") when { context has user };\n\
    permit (principal == Node::\"orders\", action in Action::\"write\", resource in Service::\"payments\") when { \
    context has user && context.user in UserGroup::\"login/support\" && context.actors == [Node::\"web\"] };";

pub(crate) struct Shop {
    pub(crate) mesh: MeshBox,
    pub(crate) login: Login,
    edge: Agent,
    pub(crate) web: Agent,
    pub(crate) orders: Agent,
    pub(crate) payments: Agent,
    apps: [App; 3],
}

impl Shop {
    pub(crate) fn open() -> Self {
        let login = Login::new("login");
        let mesh = MeshBox::start();
        mesh.apply(NODES);
        mesh.apply(&login.resource(""));
        shop::set_policy(&mesh, "users", RULES);
        let apps = [App::start("web"), App::start("orders"), App::start("payments")];
        let agent =
            |node: &str, app: &App| mesh.agent(node, AgentOptions::default().app(8080, app.address()));
        let (web, orders, payments) =
            (agent("web", &apps[0]), agent("orders", &apps[1]), agent("payments", &apps[2]));
        let edge = shop::caller(&mesh, "edge");
        let shop = Self { login, edge, web, orders, payments, apps, mesh };
        let alice = shop.login.token("alice", &["support"]);
        let head = format!("GET / HTTP/1.1\r\nhost: web\r\nauthorization: Bearer {alice}\r\n\r\n");
        eventually_status(&shop.edge, "web", &head, 200);
        let handle = shop.given(0);
        let head = format!("GET / HTTP/1.1\r\nhost: orders\r\nhauberk-identity: {handle}\r\n\r\n");
        eventually_status(&shop.web, "orders", &head, 200);
        let handle = shop.given(1);
        let head = format!(
            "POST / HTTP/1.1\r\nhost: payments\r\nhauberk-identity: {handle}\r\ncontent-length: 0\r\n\r\n"
        );
        eventually_status(&shop.orders, "payments", &head, 200);
        shop
    }

    /// What an app was given with its last request.
    pub(crate) fn given(&self, app: usize) -> String {
        let last = self.apps[app].heads().pop().unwrap();
        assert!(!last.iter().any(|line| line.to_ascii_lowercase().starts_with("authorization")), "{last:?}");
        let found = last.iter().find_map(|line| line.strip_prefix("hauberk-identity: "));
        found.unwrap_or_else(|| panic!("{last:?}")).to_owned()
    }

    /// The handle that web's app gets for a user's call.
    pub(crate) fn enter(&self, token: &str) -> String {
        let head = format!(
            "GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        assert_eq!(request(self.edge.outbound(), &head).unwrap().status, 200);
        self.given(0)
    }

    pub(crate) fn reason(&self, response: &Response) -> String {
        assert_eq!(response.status, 403, "{response:?}");
        match response.header("hauberk-error") {
            Some(error) => error.to_owned(),
            None => self.explained(response.header("hauberk-decision").unwrap()),
        }
    }

    pub(crate) fn explained(&self, decision: &str) -> String {
        let told = self.mesh.hauberk(&["explain", decision, "-o", "json"]).ok().stdout;
        let told: Value = serde_json::from_str(&told).unwrap();
        let found = told.pointer("/decision/decision/reason").or_else(|| told.pointer("/decision/reason"));
        found.and_then(Value::as_str).unwrap_or_else(|| panic!("{told}")).to_owned()
    }

    /// What an agent with a hand-made head says, and why.
    async fn says(&self, peer: &Peer, node: &str, agent: &Agent, head: &str) -> String {
        let answer = peer.exchange(node, agent.inbound(8080), head.as_bytes()).await;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        let decision = answer.lines().find_map(|line| line.strip_prefix("hauberk-decision: "));
        match decision {
            Some(decision) => self.explained(decision.trim()),
            None => status.to_owned(),
        }
    }
}

pub(crate) fn send(agent: &Agent, method: &str, service: &str, identity: Option<&str>) -> Response {
    let identity = identity.map(|identity| format!("hauberk-identity: {identity}\r\n")).unwrap_or_default();
    let head = format!(
        "{method} / HTTP/1.1\r\nhost: {service}\r\nconnection: close\r\ncontent-length: 0\r\n{identity}\r\n"
    );
    request(agent.outbound(), &head).unwrap()
}

#[test]
fn payments_are_written_for_support_alone_coming_through_web_and_orders() {
    let mut shop = Shop::open();
    let alice = shop.login.token("alice", &["support"]);
    // It ends while the rest is looked at, and not before it has come here.
    let short =
        shop.login.sign(&json!({"kid": "ec", "alg": "ES256"}), &shop.login.claims("alice", &["support"], 20));
    let of_short = shop.enter(&short);
    let of_web = shop.enter(&alice);
    assert!(!of_web.contains(&alice) && !of_web.contains('~'), "it is opaque");
    assert_eq!(send(&shop.web, "GET", "orders", Some(&of_web)).status, 200);
    let of_orders = shop.given(1);
    assert_ne!(of_orders, of_web);
    assert_eq!(send(&shop.orders, "POST", "payments", Some(&of_orders)).status, 200);
    // Without a handle there is no user; with a colleague's, not these rights.
    let denied = send(&shop.orders, "POST", "payments", None);
    assert_eq!(shop.reason(&denied), "no_policy_matched");
    assert_eq!(shop.reason(&send(&shop.web, "GET", "orders", None)), "no_policy_matched");
    let of_bob = shop.enter(&shop.login.token("bob", &["staff"]));
    assert_eq!(send(&shop.web, "GET", "orders", Some(&of_bob)).status, 200);
    let denied = send(&shop.orders, "POST", "payments", Some(&shop.given(1)));
    assert_eq!(shop.reason(&denied), "no_policy_matched");
    let told = shop.mesh.hauberk(&["explain", denied.header("hauberk-decision").unwrap()]).ok().stdout;
    assert!(told.contains("was User::\"login/bob\""), "{told}");
    assert!(told.contains("for    login/bob, passed on by web"), "{told}");
    // Not through web: the same user, who came to orders alone.
    assert_eq!(shop.reason(&send(&shop.web, "POST", "payments", Some(&of_web))), "no_policy_matched");

    // A handle is of use to the agent that gave it, and as it was given.
    let handle = |text: &str| shop.reason(&send(&shop.orders, "POST", "payments", Some(text)));
    assert_eq!(handle(&of_web), "identity_handle_forged");
    assert_eq!(handle("AAAA"), "identity_handle_forged");
    assert_eq!(handle(&alice), "identity_handle_forged");
    let first = if of_orders.starts_with('A') { "B" } else { "A" };
    assert_eq!(handle(&format!("{first}{}", &of_orders[1..])), "identity_handle_forged");
    let twice = format!("{of_orders}\r\nhauberk-identity: {of_orders}");
    assert_eq!(send(&shop.orders, "POST", "payments", Some(&twice)).status, 400);
    // It ends with the user's token.
    let ended = eventually("the token ends", PATIENCE * 2, || {
        let answer = send(&shop.web, "GET", "orders", Some(&of_short));
        // At the very end of it the next agent may be first to say so.
        (answer.status == 403 && answer.header("hauberk-error").is_some()).then_some(answer)
    });
    assert_eq!(shop.reason(&ended), "identity_handle_expired");
    // And with the agent.
    let folder = shop.mesh.folder().to_owned();
    shop.web.restart(&folder);
    let refused = eventually("web is back", PATIENCE, || {
        let answer = send(&shop.web, "GET", "orders", Some(&of_web));
        (answer.status == 403).then_some(answer)
    });
    assert_eq!(shop.reason(&refused), "identity_handle_forged");

    let can = |more: &[&str]| {
        let asked = ["can", "orders", "payments", "POST", "/", "--user", "alice@login"];
        let asked: Vec<_> = asked.iter().chain(more).copied().collect();
        shop.mesh.hauberk(&asked).code
    };
    let support = ["--claims", "{\"groups\": [\"support\"]}"];
    assert_eq!(can(&[&support[..], &["--actor", "web"]].concat()), 0);
    assert_eq!(can(&support), 1);
    assert_eq!(can(&[&support[..], &["--actor", "edge"]].concat()), 1);
}

#[test]
fn a_user_whose_issuer_a_port_does_not_take_is_none_there_by_whichever_way() {
    let shop = Shop::open();
    let of_web = shop.enter(&shop.login.token("alice", &["support"]));
    assert_eq!(send(&shop.web, "GET", "orders", Some(&of_web)).status, 200);
    let of_orders = shop.given(1);
    let pay = || send(&shop.orders, "POST", "payments", Some(&of_orders));
    assert_eq!(pay().status, 200);
    let taking = |issuer: &str| {
        format!(
            "kind: VirtualNode\nmesh: shop\nname: payments\nspec: {{listeners: [{{portMapping: {{port: 8080, protocol: \
             http}}, users: {{issuers: [{issuer}]}}}}]}}\n"
        )
    };
    shop.mesh.apply(&format!("{}---\n{}", Login::new("partners").resource(""), taking("partners")));
    shop.mesh.wait_enforced();
    let refused = pay();
    assert_eq!(shop.reason(&refused), "user_token_issuer_not_taken");
    let can = [
        "can",
        "orders",
        "payments",
        "POST",
        "/",
        "--actor",
        "web",
        "--claims",
        "{\"groups\": [\"support\"]}",
    ];
    let can = |user: &str| shop.mesh.hauberk(&[&can[..], &["--user", user]].concat());
    let told = can("alice@login");
    assert!(told.code == 1 && told.stdout.contains("the port takes no users of that issuer"), "{told:?}");
    shop.mesh.apply(&taking("login"));
    shop.mesh.wait_enforced();
    assert_eq!((pay().status, can("alice@login").code), (200, 0));
}

/// What an attacker finds in an agent's state directory.
pub(crate) fn stolen(agent: &Agent) -> (Svid, KeyPair) {
    let file = std::fs::read(agent.state_dir().join("identity")).unwrap();
    let start = file.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let found: Value = serde_json::from_slice(&file[start..]).unwrap();
    let text = |name: &str| found[name].as_str().unwrap().to_owned();
    (Svid::from_pem(&text("chain_pem")).unwrap(), KeyPair::from_pkcs8_pem(&text("key_pem")).unwrap())
}

fn live(mesh: &MeshBox, (svid, key): &(Svid, KeyPair)) -> LiveState {
    let live = LiveIdentity::new(dial::bundle(mesh));
    live.publish(svid.clone(), key).unwrap();
    live.current()
}

/// A chain of hops, each with the certificate that it claims, the key that really signs it, and whom it is for.
pub(crate) fn chain(user: &str, hops: &[(&Svid, &LiveState, &str)]) -> String {
    let mut link = Link::of_user(user);
    let mut chain = IdentityChain::default();
    for (claimed, signer, audience) in hops {
        let (audience, at) = (id(audience), UnixMillis::from_secs(now()));
        let signature = signer.sign_hop(link, &audience, at).unwrap();
        let certificate: &CertificateDer<'_> = &claimed.chain()[0];
        link = link.then(&Hop { certificate, audience: audience.as_str(), at }, &signature);
        let authority = claimed.chain()[1].to_vec();
        let above = chain.authorities.iter().position(|known| *known == authority).unwrap_or_else(|| {
            chain.authorities.push(authority);
            chain.authorities.len() - 1
        });
        chain.hops.push(IdentityHop {
            certificate: certificate.to_vec(),
            authorities: vec![u32::try_from(above).unwrap()],
            audience: audience.to_string(),
            at_unix_ms: at.0,
            signature,
        });
    }
    format!("{user}~{}", URL_SAFE_NO_PAD.encode(chain.encode_to_vec()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compromised_service_invents_neither_a_user_nor_a_caller_before_itself() {
    let shop = Shop::open();
    let of_web = stolen(&shop.web);
    let web = live(&shop.mesh, &of_web);
    let peer = Peer::with(&shop.mesh, &of_web.0, &of_web.1);
    let bob = shop.login.token("bob", &["staff"]);
    let handle = shop.enter(&bob);
    let get =
        |identity: &str| format!("GET / HTTP/1.1\r\nhost: orders\r\nhauberk-identity: {identity}\r\n\r\n");
    let to_orders = |identity: String| {
        let head = get(&identity);
        let (shop, peer) = (&shop, &peer);
        async move { shop.says(peer, "orders", &shop.orders, &head).await }
    };
    let own = |user: &str| chain(user, &[(&of_web.0, &web, "orders")]);

    // What it may: say that a user came to it who did.
    assert_eq!(to_orders(own(&bob)).await, "200");
    let seen = shop.apps[1].requests();
    // No user: neither one of its own making, nor the token of another one changed, nor what its app was given.
    let mallory = Login::new("login");
    assert_eq!(to_orders(own(&mallory.token("alice", &["support"]))).await, "user_token_signature");
    let stranger = Login::new("mallory");
    assert_eq!(to_orders(own(&stranger.token("alice", &["support"]))).await, "user_token_unknown_issuer");
    let mut parts: Vec<&str> = bob.split('.').collect();
    let promoted = shop.login.claims("bob", &["support"], 600).to_string();
    let promoted = URL_SAFE_NO_PAD.encode(promoted);
    parts[1] = &promoted;
    assert_eq!(to_orders(own(&parts.join("."))).await, "user_token_signature");
    let unsigned = format!("{}.{promoted}.", URL_SAFE_NO_PAD.encode("{\"alg\":\"none\",\"kid\":\"ec\"}"));
    assert_eq!(to_orders(own(&unsigned)).await, "user_token_algorithm");
    assert_eq!(
        to_orders(own(&shop.login.sign(
            &json!({"kid": "ec", "alg": "ES256"}),
            &json!({
                "iss": shop.login.issuer(), "sub": "alice", "aud": "shop", "exp": now() - 1
            })
        )))
        .await,
        "user_token_expired"
    );
    assert_eq!(to_orders(handle.clone()).await, "identity_malformed");
    assert_eq!(to_orders(bob.clone()).await, "identity_malformed");
    assert_eq!(to_orders(format!("{bob}~")).await, "identity_malformed");
    let bearer = format!("GET / HTTP/1.1\r\nhost: orders\r\nauthorization: Bearer {bob}\r\n\r\n");
    assert_eq!(
        shop.says(&peer, "orders", &shop.orders, &bearer).await,
        "no_policy_matched",
        "no user by that way here"
    );
    // Names that agents set are taken out in every spelling: this one says nothing.
    for name in ["Hauberk_Identity", "x-hauberk-user", "x-hauberk-identity"] {
        let head = format!("GET / HTTP/1.1\r\nhost: orders\r\n{name}: {}\r\n\r\n", own(&bob));
        assert_eq!(shop.says(&peer, "orders", &shop.orders, &head).await, "no_policy_matched", "{name}");
    }
    assert_eq!(shop.apps[1].requests(), seen, "orders has heard of none of it");

    // No caller: orders is in the same hands now, with a token of alice's that it has seen; it came from nobody but
    // itself.
    let of_orders = stolen(&shop.orders);
    let orders = live(&shop.mesh, &of_orders);
    let peer = Peer::with(&shop.mesh, &of_orders.0, &of_orders.1);
    let alice = shop.login.token("alice", &["support"]);
    let post = |identity: &str| {
        format!(
            "POST / HTTP/1.1\r\nhost: payments\r\ncontent-length: 0\r\nhauberk-identity: {identity}\r\n\r\n"
        )
    };
    let (shop_ref, peer_ref) = (&shop, &peer);
    let to_payments = |identity: String| {
        let head = post(&identity);
        async move { shop_ref.says(peer_ref, "payments", &shop_ref.payments, &head).await }
    };
    let seen = shop.apps[2].requests();
    let to = |hops: &[(&Svid, &LiveState, &str)]| chain(&alice, hops);
    let last = (&of_orders.0, &orders, "payments");
    assert_eq!(to_payments(to(&[last])).await, "no_policy_matched", "that it came through web is not said");
    let web_certificate = shop.web_svid();
    assert_eq!(to_payments(to(&[(&web_certificate, &orders, "orders"), last])).await, "identity_signature");
    assert_eq!(to_payments(to(&[(&of_orders.0, &orders, "orders"), last])).await, "no_policy_matched");
    // What web did sign for bob, it did not sign for alice; and not for anybody else to show.
    let real = chain(&bob, &[(&of_web.0, &web, "orders"), last]);
    assert_eq!(to_payments(real.clone()).await, "no_policy_matched", "bob is not in support");
    let (_, hops) = real.split_once('~').unwrap();
    assert_eq!(to_payments(format!("{alice}~{hops}")).await, "identity_signature");
    assert_eq!(to_payments(to(&[(&of_web.0, &web, "payments")])).await, "identity_signer");
    assert_eq!(to_payments(to(&[(&of_web.0, &web, "cart"), last])).await, "identity_spliced");
    assert_eq!(to_payments(to(&[(&of_web.0, &web, "orders")])).await, "identity_audience");
    let too_many = vec![(&of_orders.0, &orders, "orders"); 8];
    let too_many: Vec<_> = too_many.into_iter().chain([last]).collect();
    assert_eq!(to_payments(to(&too_many)).await, "identity_too_many_hops");
    assert_eq!(shop.apps[2].requests(), seen, "payments has heard of none of it");

    // Web is found out: what it has signed is worth nothing from then on.
    let honest = to(&[(&of_web.0, &web, "orders"), last]);
    assert_eq!(to_payments(honest.clone()).await, "200");
    let serial = of_web.0.serial().to_string();
    shop.mesh.hauberk(&["revoke", "serial", &serial, "--wait=20s"]).ok();
    let refused =
        hauberk_integration_tests::eventually_async("it is revoked", Duration::from_secs(20), async || {
            let said = to_payments(honest.clone()).await;
            (said != "200").then_some(said)
        });
    assert_eq!(refused.await, "identity_revoked");
}

impl Shop {
    /// The certificate of web, which everybody sees who speaks to it.
    fn web_svid(&self) -> Svid {
        stolen(&self.web).0
    }
}
