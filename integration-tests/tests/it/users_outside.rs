//! A user's call goes on out of the mesh: the caller's agent knows for whom, and through whom, and sends nothing of it
//! out.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use hauberk_integration_tests::{App, eventually};
use serde_json::json;

use crate::{
    identity_tokens::{Shop, send},
    login::Login,
    shop::{self, PATIENCE},
};

/// The bank is called for a user in support alone, coming through web and orders; what is open, for anybody. Payments
/// are read for every user.
const RULES: &str = "permit (principal == Node::\"payments\", action in Action::\"http\", resource in External::\"bank\") when { \
    context has user && context.user in UserGroup::\"login/support\" && context.actors == [Node::\"web\", Node::\"orders\"] };\n\
    permit (principal == Node::\"payments\", action in Action::\"http\", resource in External::\"bank\") when { \
    context.path == \"/open\" };\n\
    permit (principal == Node::\"orders\", action in Action::\"read\", resource in Service::\"payments\") when { context has user };";

/// The shop, and a bank outside of it.
struct Trade {
    shop: Shop,
    bank: App,
    host: String,
}

impl Trade {
    fn open() -> Self {
        let (shop, bank) = (Shop::open(), App::start("bank"));
        let port = bank.address().port();
        let external = format!(
            "kind: ExternalService\nmesh: shop\nname: bank\nspec:\n  hosts: [localhost]\n  ports: [{{port: {port}, protocol: http}}]\n  \
             allowedAddresses: [127.0.0.0/8]\n"
        );
        shop.mesh.hauberk_with_input(&["apply", "-f", "-", "--wait=20s"], &external).ok();
        shop::set_policy(&shop.mesh, "bank", RULES);
        Self { shop, bank, host: format!("localhost:{port}") }
    }

    /// The handle that the app of payments gets for a user's call that came through web and orders.
    fn handle(&self, token: &str) -> String {
        let of_web = self.shop.enter(token);
        assert_eq!(send(&self.shop.web, "GET", "orders", Some(&of_web)).status, 200);
        let of_orders = self.shop.given(1);
        assert_eq!(send(&self.shop.orders, "GET", "payments", Some(&of_orders)).status, 200);
        self.shop.given(2)
    }

    fn call(&self, handle: Option<&str>) -> hauberk_integration_tests::Response {
        send(&self.shop.payments, "GET", &self.host, handle)
    }

    /// A request that has come to the bank, of whose content the rest never comes.
    fn begin(&self, path: &str, handle: Option<&str>) -> TcpStream {
        let before = self.bank.requests();
        let mut stream = TcpStream::connect(self.shop.payments.outbound()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let identity = handle.map(|handle| format!("hauberk-identity: {handle}\r\n")).unwrap_or_default();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: {}\r\n{identity}content-length: 9\r\n\r\n", self.host);
        stream.write_all(head.as_bytes()).unwrap();
        eventually("the bank has it", PATIENCE, || (self.bank.requests() > before).then_some(()));
        stream
    }
}

#[test]
fn a_bank_outside_is_called_for_support_alone_coming_through_web_and_orders() {
    let trade = Trade::open();
    let shop = &trade.shop;
    let alice = shop.login.token("alice", &["support"]);
    let of_alice = trade.handle(&alice);
    // It ends while the rest is looked at, and not before it has come here.
    let short =
        shop.login.sign(&json!({"kid": "ec", "alg": "ES256"}), &shop.login.claims("alice", &["support"], 20));
    let of_short = trade.handle(&short);
    let answer = trade.call(Some(&of_alice));
    assert_eq!(answer.status, 200, "{answer:?}");
    // Neither the handle goes out, nor anything that stands behind it.
    let last = trade.bank.heads().pop().unwrap().join("\n").to_ascii_lowercase();
    assert!(!last.contains("hauberk") && !last.contains("authorization"), "{last}");
    let seen = trade.bank.requests();

    let denied = trade.call(None);
    assert_eq!(shop.reason(&denied), "no_policy_matched");
    let of_bob = trade.handle(&shop.login.token("bob", &["staff"]));
    let denied = trade.call(Some(&of_bob));
    assert_eq!(shop.reason(&denied), "no_policy_matched");
    let told = shop.mesh.hauberk(&["explain", denied.header("hauberk-decision").unwrap()]).ok().stdout;
    assert!(told.contains("was User::\"login/bob\"") && told.contains("external/bank"), "{told}");
    assert!(told.contains("for    login/bob, passed on by web, orders"), "{told}");
    // The handle of another agent, and what is none.
    let of_orders = shop.given(1);
    let first = if of_alice.starts_with('A') { "B" } else { "A" };
    for forged in [of_orders, alice, "AAAA".to_owned(), format!("{first}{}", &of_alice[1..])] {
        let denied = trade.call(Some(&forged));
        assert_eq!(shop.reason(&denied), "identity_handle_forged");
        assert_eq!(shop.explained(denied.header("hauberk-decision").unwrap()), "identity_handle_forged");
    }
    let ended = eventually("the token ends", PATIENCE * 2, || {
        let answer = trade.call(Some(&of_short));
        (answer.status == 403).then(|| shop.reason(&answer)).filter(|reason| reason != "user_token_expired")
    });
    assert_eq!(ended, "identity_handle_expired");
    assert_eq!(trade.call(Some(&of_alice)).status, 200);
    assert!(trade.bank.requests() > seen);
    let log = shop.payments.process.log();
    assert!(!log.contains("eyJ") && !log.contains(&of_alice), "a token or handle is logged");

    let can = |more: &[&str]| {
        let asked = ["can", "payments", "external/bank", "GET", "/"];
        shop.mesh.hauberk(&asked.iter().chain(more).copied().collect::<Vec<_>>())
    };
    let by = |actors: &[&'static str]| {
        let user = ["--user", "alice@login", "--claims", "{\"groups\": [\"support\"]}"];
        let actors = actors.iter().flat_map(|actor| ["--actor", *actor]);
        can(&user.into_iter().chain(actors).collect::<Vec<_>>()).code
    };
    assert_eq!((by(&["web", "orders"]), by(&["web"]), by(&[])), (0, 1, 1));
    assert_eq!((can(&[]).code, can(&["--without-user"]).code), (3, 1));
    let who = shop.mesh.hauberk(&["who-can", "external/bank", "GET", "/"]).ok().stdout;
    assert!(who.contains("payments") && who.contains("login/support"), "{who}");
}

#[test]
fn a_claim_that_rules_for_the_bank_read_alone_is_known_there() {
    let trade = Trade::open();
    let shop = &trade.shop;
    let rules = "permit (principal == Node::\"payments\", action in Action::\"http\", resource in External::\"bank\") when { \
                 context has user && context.claims.hasTag(\"tier\") };\n\
                 forbid (principal, action in Action::\"http\", resource in External::\"bank\") when { \
                 context has user && context.claims.hasTag(\"suspended\") };\n\
                 permit (principal == Node::\"orders\", action in Action::\"read\", resource in Service::\"payments\") when \
                 { context has user };";
    shop::set_policy(&shop.mesh, "bank", rules);
    let handle = |more: &[&str]| {
        let mut claims = shop.login.claims("alice", &["support"], 600);
        for claim in more {
            claims[*claim] = json!("1");
        }
        trade.handle(&shop.login.sign(&json!({"kid": "ec", "alg": "ES256"}), &claims))
    };
    let answer = trade.call(Some(&handle(&["tier"])));
    assert_eq!(answer.status, 200, "{answer:?}");
    let denied = trade.call(Some(&handle(&["tier", "suspended"])));
    assert_eq!(shop.reason(&denied), "forbidden");
    assert_eq!(shop.reason(&trade.call(Some(&handle(&[])))), "no_policy_matched");
}

#[test]
fn what_has_left_for_a_user_is_cut_when_the_key_goes_and_nothing_else() {
    let trade = Trade::open();
    let alice = trade.handle(&trade.shop.login.token("alice", &["support"]));
    let mut for_alice = trade.begin("/pay", Some(&alice));
    let mut for_anybody = trade.begin("/open", None);
    // Another key by the same name.
    let resource = Login::new("login").resource("");
    trade.shop.mesh.hauberk_with_input(&["apply", "-f", "-", "--wait=20s"], &resource).ok();
    let mut answer = String::new();
    for_alice.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let denied = trade.call(Some(&alice));
    assert_eq!(trade.shop.reason(&denied), "user_token_signature");
    for_anybody.write_all(b"123456789").unwrap();
    let mut head = [0; 12];
    for_anybody.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
}
