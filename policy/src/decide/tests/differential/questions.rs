//! Questions, each a choice of one of few values for each of its parts. The first of them is the plainest: a question
//! shrinks towards those.

use std::sync::Arc;

use hauberk_identity::UnixMillis;

use super::super::super::*;
use super::nodes::{NODES, Serving};
use crate::circumstances::{Gathered, Moment, Tls};
use crate::path::CanonicalPath;
use crate::testing::{foreign, name, node};
use crate::user::{ClaimsMapping, OnBehalfOf, Origin};

/// How many parts a question has.
pub(super) const PARTS: usize = 15;

/// The place of the part that says who asks.
pub(super) const CALLER: usize = 0;

/// The place of the part that says whether what is asked fits the port, which is seldom changed.
const FITTING: usize = 13;

/// A question by its choices.
pub(super) type Choices = [u8; PARTS];

/// A question in its parts, from which both sides make their own.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// Which of [`NODES`].
    pub(super) node: usize,
    pub(super) caller: &'static str,
    pub(super) address: &'static str,
    pub(super) group: Option<&'static str>,
    pub(super) time: u64,
    pub(super) age: Option<u64>,
    pub(super) port: u16,
    pub(super) what: What,
}

#[derive(Debug, Clone)]
pub(super) enum What {
    Stream,
    Request {
        method: &'static str,
        path: &'static str,
        upgrade: bool,
        host: &'static str,
        /// Names and values; none where the query cannot be read.
        query: Option<Pairs>,
        headers: Lines,
        user: Option<&'static Somebody>,
    },
}

/// Names and values.
pub(super) type Pairs = &'static [(&'static str, &'static str)];
/// The lines of header fields; none for a value that cannot be read.
pub(super) type Lines = &'static [(&'static str, Option<&'static str>)];

/// For whom a request is made.
#[derive(Debug)]
pub(super) struct Somebody {
    pub(super) id: &'static str,
    pub(super) groups: &'static [&'static str],
    pub(super) scopes: &'static [&'static str],
    pub(super) roles: &'static [&'static str],
    pub(super) team: &'static [&'static str],
    pub(super) level: Option<u8>,
    pub(super) actors: &'static [&'static str],
}

/// Who calls; the empty text is somebody who proved nothing.
pub(super) const CALLERS: [&str; 12] = [
    "spiffe://shop.example/mesh/shop/node/web",
    "spiffe://shop.example/mesh/shop/node/intruder",
    "spiffe://shop.example/mesh/shop/node/orders",
    "spiffe://shop.example/mesh/shop/node/cart",
    "spiffe://shop.example/mesh/bank/gateway/edge",
    "spiffe://shop.example/workload/ci",
    "spiffe://partner.example/app",
    "",
    "spiffe://shop.example/admin/alice",
    "spiffe://shop.example/mesh/shop/gateway/edge",
    "spiffe://shop.example/mesh/bank/node/web",
    "spiffe://partner.example/mesh/shop/node/web",
];
const WHO: [usize; 20] = [0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 5, 6, 6, 7, 8, 9, 9, 10, 11];
/// Which of [`NODES`] is asked.
const WHERE: [usize; 20] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 3, 4, 4];
pub(super) const ADDRESSES: [&str; 3] = ["10.1.2.3", "192.0.2.7", "::1"];
pub(super) const GROUPS: [Option<&str>; 3] = [Some("X25519MLKEM768"), Some("X25519"), None];
const TIMES: [u64; 4] = [1_772_445_600, 1_772_445_599, 1_772_400_000, 1_772_531_999];
pub(super) const AGES: [Option<u64>; 5] = [Some(700), Some(599), Some(1), Some(0), None];
const PORTS: [u16; 16] =
    [8080, 8080, 8080, 8080, 8080, 8080, 8080, 9000, 9000, 8081, 50051, 50051, 50051, 6379, 6379, 1];
pub(super) const METHODS: [&str; 12] = [
    "GET",
    "GET",
    "HEAD",
    "POST",
    "POST",
    "DELETE",
    "PUT",
    "LOCK",
    "PROPFIND",
    "PROPPATCH",
    "get",
    "OPTIONS",
];
pub(super) const PATHS: [&str; 13] = [
    "/orders/1",
    "/orders/2",
    "/orders/a%20b",
    "/orders/1",
    "/orders/1/items/2",
    "/orders/1/2",
    "/orders",
    "/files/a/b",
    "/files/",
    "/health",
    "/health",
    "/",
    "/open",
];
pub(super) const RPCS: [&str; 4] =
    ["/shop.Orders/Get", "/shop.Orders/Put", "/bank.Ledger/Get", "/shop.Orders"];
pub(super) const HOSTS: [&str; 3] = ["orders.shop", "other", ""];
pub(super) const QUERIES: [Option<Pairs>; 11] = [
    Some(&[]),
    Some(&[("id", "1")]),
    Some(&[("id", "2"), ("id", "1")]),
    Some(&[("id", "a b")]),
    Some(&[("a&b", "1"), ("id", "")]),
    Some(&[("orders.shop", "2")]),
    Some(&[("é", "1"), ("id", "1"), ("id", "1")]),
    Some(&[("other", "")]),
    Some(&[("id", "3")]),
    Some(&[("id", "1"), ("other", "1"), ("id", "2")]),
    None,
];
pub(super) const HEADERS: [Lines; 12] = [
    &[],
    &[("x-tenant", Some("blue"))],
    &[("x-tenant", Some("a"))],
    &[("x-tenant", Some("blue, a"))],
    &[("x-tenant", Some("a")), ("x-tenant", Some("blue"))],
    &[("x-team", Some("a"))],
    &[("x-team", Some("a")), ("x-team", Some(""))],
    &[("x-tenant", Some("blue")), ("x-team", Some("a"))],
    &[("x-other", None)],
    &[("x-tenant", None)],
    &[("x-team", Some("a")), ("x-team", None)],
    &[("x-tenant", Some("blue")), ("x_tenant", Some("red"))],
];
/// The same names with different facts, and different names with the same.
pub(super) static USERS: [Somebody; 8] = [
    Somebody { groups: &["support"], ..ALICE },
    Somebody { ..ALICE },
    Somebody { groups: &["staff", "support"], scopes: &["read", "write"], actors: &["web"], ..ALICE },
    Somebody { scopes: &["read"], roles: &["boss"], team: &["blue"], level: Some(7), ..ALICE },
    Somebody { id: "bob", groups: &["support"], actors: &["cart", "web"], ..ALICE },
    Somebody { id: "bob", scopes: &["read"], team: &["red", "blue"], ..ALICE },
    Somebody { id: "bob", team: &["red"], actors: &["web"], level: Some(8), ..ALICE },
    Somebody {
        id: "carol",
        groups: &["staff"],
        scopes: &["write", "read"],
        actors: &["web", "web"],
        ..ALICE
    },
];
const ALICE: Somebody =
    Somebody { id: "alice", groups: &[], scopes: &[], roles: &[], team: &[], level: None, actors: &[] };

impl Asked {
    pub(super) fn new(choices: &Choices) -> Self {
        let [
            caller,
            address,
            group,
            time,
            age,
            port,
            method,
            path,
            upgrade,
            host,
            query,
            headers,
            user,
            fitting,
            node,
        ] = choices.map(usize::from);
        fn of<T: Copy, const N: usize>(options: &[T; N], choice: usize) -> T {
            options[choice % N]
        }
        let port = of(&PORTS, port);
        let fits = fitting % 32 != 31;
        let what = if (port == 6379) == fits {
            What::Stream
        } else {
            let query = of(&QUERIES, query);
            let (path, method, upgrade) = match port {
                50051 if fits => (of(&RPCS, path), "POST", false),
                _ => (of(&PATHS, path), of(&METHODS, method), upgrade % 4 == 3),
            };
            // One thing that cannot be read at a time, so that there is one right reason.
            let all_headers = of(&HEADERS, headers);
            let headers =
                if query.is_none() && unreadable(all_headers).next().is_some() { &[] } else { all_headers };
            // Nobody, every other time.
            let user = (user % 2 == 1).then(|| &USERS[user / 2 % USERS.len()]);
            What::Request { method, path, upgrade, host: of(&HOSTS, host), query, headers, user }
        };
        let caller = CALLERS[of(&WHO, caller)];
        Self {
            node: of(&WHERE, node),
            caller,
            address: of(&ADDRESSES, address),
            group: of(&GROUPS, group),
            time: of(&TIMES, time),
            // Who proved nothing has shown no certificate.
            age: of(&AGES, age).filter(|_| !caller.is_empty()),
            port,
            what,
        }
    }

    /// Whoever is asked.
    pub(super) fn serving(&self) -> &'static Serving {
        &NODES[self.node]
    }

    /// Whose agent decides: that of whoever is asked, and of what leaves the mesh the caller's, where it has one.
    pub(super) fn decided_by(&self) -> &'static str {
        match self.serving().external() {
            Some(_) if self.calls_from_its_mesh() => self.caller,
            Some(_) => CALLERS[0],
            None => self.serving().id,
        }
    }

    /// Whether a node or gateway of the policies' own mesh calls.
    pub(super) fn calls_from_its_mesh(&self) -> bool {
        self.caller.starts_with("spiffe://shop.example/mesh/shop/")
    }

    pub(super) fn caller(&self) -> Caller {
        if self.caller.is_empty() { Caller::Anonymous } else { foreign(self.caller) }
    }

    pub(super) fn peer(&self) -> Peer {
        let tls = self.group.map(|group| Tls { version: "TLSv1.3".into(), group: group.into() });
        Peer::new(Some(self.address.parse().unwrap()), tls)
    }

    pub(super) fn moment(&self) -> Moment {
        let time = UnixMillis::from_secs(self.time);
        let certificate_since = self.age.map(|age| UnixMillis::from_secs(self.time - age));
        Moment { time, certificate_since }
    }

    /// The request's target, its query escaped in one way or another.
    pub(super) fn target(&self) -> String {
        let What::Request { path, query, .. } = &self.what else { return "/".to_owned() };
        let escape = |text: &str| text.replace(' ', "+").replace('&', "%26").replace('é', "%C3%A9");
        match query {
            None => format!("{path}?a=%zz"),
            Some([]) => (*path).to_owned(),
            Some(pairs) => {
                let pairs = pairs.iter().map(|(name, value)| format!("{}={}", escape(name), escape(value)));
                format!("{path}?{}", pairs.collect::<Vec<_>>().join("&"))
            }
        }
    }

    pub(super) fn gathered(&self, engine: &Engine) -> Gathered {
        let What::Request { host, headers, user, .. } = &self.what else { return Gathered::default() };
        let lines = headers.iter().map(|(name, value)| (*name, value.map_or(&b"\xff"[..], str::as_bytes)));
        let gathered = engine.wanted(self.port).map(|wanted| wanted.gather(host, lines));
        let made_for = user.map_or(OnBehalfOf::Nobody, |user| user.seen_by(engine));
        gathered.unwrap_or_default().made_for(made_for)
    }

    pub(super) fn attempt<'a>(&self, path: &'a CanonicalPath<'a>, gathered: &'a Gathered) -> Attempt<'a> {
        match self.what {
            What::Stream => Attempt::Stream,
            What::Request { method, upgrade, .. } => Attempt::Request { method, path, upgrade, gathered },
        }
    }
}

/// The fields of which a value cannot be read, or that are spelled in another way too.
pub(super) fn unreadable(lines: Lines) -> impl Iterator<Item = &'static str> {
    let bad = |(name, value): &(&'static str, Option<&str>)| match *name {
        "x_tenant" => Some("x-tenant"),
        name => value.is_none().then_some(name),
    };
    lines.iter().filter_map(bad)
}

/// Another question that has one part of its own.
pub(super) fn neighbour(base: &Choices, part: usize, choice: u8) -> Choices {
    let mut choices = *base;
    // What does not fit its port is seldom of interest.
    let part = if part == FITTING && choice % 4 != 3 { 7 } else { part };
    choices[part] = choice;
    choices
}

impl Somebody {
    fn seen_by(&self, engine: &Engine) -> OnBehalfOf {
        let Self { id, groups, scopes, roles, team, level, actors } = self;
        let claims = serde_json::json!({
            "sub": id, "groups": groups, "scope": scopes.join(" "), "roles": roles, "team": team, "level": level
        });
        let (mut claims, wanted) = (claims.as_object().unwrap().clone(), engine.claims_read());
        // A claim without a value is one that is not made.
        claims.retain(|_, value| !value.is_null() && *value != serde_json::json!([]));
        let issuer = "https://login.example".into();
        let user = ClaimsMapping::default().user(&claims, wanted, &name("login"), &issuer).unwrap();
        let actors = actors.iter().copied().map(node).collect();
        OnBehalfOf::User(Arc::new(Origin { user, actors }))
    }
}
