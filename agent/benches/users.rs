//! `cargo bench --bench users`: what a user costs an agent, in batches of 1,000, without a network: a token that comes
//! from outside, one that other agents have passed on, and passing it on.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a benchmark: a failure is a panic with a reason, and it is timed by the real clock"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hauberk_agent::clock::Clock;
use hauberk_agent::context::Context;
use hauberk_agent::decisions::Decisions;
use hauberk_agent::mesh::{Mesh, NodeView, Port};
use hauberk_agent::state::StoredTrust;
use hauberk_agent::users::{Arrival, Handles, MadeFor, Users};
use hauberk_identity::{InstanceId, Name, Serial, SpiffeId, TrustDomain, Validity};
use hauberk_policy::{ClaimsMapping, Engine, NodeScope, ObsText, Place, PolicySlice, Protocol, UserTokens};
use hauberk_proto::agent::v1::Trust;
use hauberk_proto::convert::JwtIssuer;
use hauberk_tls::{FederatedBundles, IssuingAuthority, KeyPair, LiveIdentity, RootAuthority, SvidTemplate};
use http::{HeaderMap, HeaderValue, header};
use serde_json::json;
use tokio::sync::watch;

const BATCH: usize = 1_000;
const ISSUER: &str = "https://login.example";

struct World {
    issuing: IssuingAuthority,
    clock: Clock,
    login: EcdsaKeyPair,
}

/// One node's agent, with what it knows.
struct Agent {
    id: SpiffeId,
    context: Context,
    view: Arc<NodeView>,
    handles: Handles,
}

fn main() {
    hauberk_tls::install_provider();
    let world = World::new();
    let (web, orders, payments) =
        (world.agent("web", 1), world.agent("orders", 2), world.agent("payments", 3));
    let bearers = world.bearers("user");
    measure("a token from outside, first seen", |number| web.takes(&bearers[number], None));
    measure("a token from outside, remembered", |_| web.takes(&bearers[0], None));

    let of_web: Vec<HeaderValue> = bearers.iter().map(|headers| web.handle(headers, None)).collect();
    measure("passed on to another agent, signed", |number| drop(web.pass_on(&of_web[number], &orders)));
    measure("passed on to another agent, remembered", |_| drop(web.pass_on(&of_web[0], &orders)));

    let nothing = HeaderMap::new();
    let to_orders: Vec<_> = of_web.iter().map(|handle| web.pass_on(handle, &orders)).collect();
    println!("{:44} {:>10} bytes", "one hop", to_orders[0].len());
    let one_hop = |number: usize| orders.takes(&nothing, Some((&web, &to_orders[number])));
    measure("a user with one hop, first seen", one_hop);
    measure("a user with one hop, remembered", |_| one_hop(0));
    // Other users, each passed on by a certificate that nobody has seen.
    let others = world.bearers("other");
    let by_new: Vec<_> = (0..)
        .zip(&others)
        .map(|(number, headers)| {
            world.certify(&web.context.identity, &web.id, 1_000 + number);
            web.pass_on(&web.handle(headers, None), &orders)
        })
        .collect();
    measure("a user with one hop, its certificate too", |number| {
        orders.takes(&nothing, Some((&web, &by_new[number])));
    });

    let handle = |identity| orders.handle(&nothing, Some((&web, identity)));
    let to_payments: Vec<_> =
        to_orders.iter().map(|identity| orders.pass_on(&handle(identity), &payments)).collect();
    println!("{:44} {:>10} bytes", "two hops", to_payments[0].len());
    let two_hops = |number: usize| payments.takes(&nothing, Some((&orders, &to_payments[number])));
    measure("a user with two hops, first seen", two_hops);
    measure("a user with two hops, remembered", |_| two_hops(0));
}

fn measure(what: &str, mut act: impl FnMut(usize)) {
    let begun = Instant::now();
    (0..BATCH).for_each(&mut act);
    let mean = begun.elapsed().as_secs_f64() * 1e6 / BATCH as f64;
    println!("{what:44} {mean:>10.2} µs");
}

fn bearer(token: &str) -> HeaderMap {
    let value = format!("Bearer {token}").parse().unwrap();
    HeaderMap::from_iter([(header::AUTHORIZATION, value)])
}

impl World {
    fn new() -> Self {
        let clock = Clock::system();
        let (domain, now) = (TrustDomain::parse("shop.example").unwrap(), clock.now());
        let validity =
            Validity::new(now.minus(Duration::from_secs(60)), now.plus(Duration::from_secs(86_400)));
        let serial = |number| Serial::from_random([number; 16]);
        let root = RootAuthority::create(&domain, validity.unwrap(), serial(8)).unwrap();
        let issuing = IssuingAuthority::create(&root, validity.unwrap(), serial(9)).unwrap();
        Self { issuing, clock, login: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap() }
    }

    fn token(&self, user: &str) -> String {
        let encode = |part: serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let claims = json!({
            "iss": ISSUER, "sub": user, "aud": "shop", "exp": self.clock.now().as_secs() + 3_600,
            "groups": ["support", "staff"], "email": "somebody@shop.example", "name": "Somebody Else"
        });
        let signed = format!("{}.{}", encode(json!({"alg": "ES256", "kid": "a"})), encode(claims));
        let signature = self.login.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn bearers(&self, users: &str) -> Vec<HeaderMap> {
        (0..BATCH).map(|number| bearer(&self.token(&format!("{users}-{number}")))).collect()
    }

    fn issuer(&self) -> JwtIssuer {
        let point = self.login.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        let key = json!({"kty": "EC", "crv": "P-256", "kid": "a", "x": x, "y": y});
        JwtIssuer {
            name: Name::parse("login").unwrap(),
            issuer: ISSUER.to_owned(),
            audiences: vec!["shop".to_owned()],
            jwks: json!({"keys": [key]}).to_string().into_bytes(),
            claims: ClaimsMapping::default(),
            token_header: None,
            audience_is_client: false,
            is_ours: false,
        }
    }

    /// Gives it a certificate of this number.
    fn certify(&self, identity: &LiveIdentity, id: &SpiffeId, serial: u128) {
        let (key, now) = (KeyPair::generate().unwrap(), self.clock.now());
        let validity =
            Validity::new(now.minus(Duration::from_secs(60)), now.plus(Duration::from_secs(3_600)));
        let template = SvidTemplate {
            id: id.clone(),
            public_key: key.public_key(),
            serial: Serial::from_random(serial.to_be_bytes()),
            validity: validity.unwrap(),
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
        };
        identity.publish(self.issuing.sign(&template).unwrap(), &key).unwrap();
    }

    fn agent(&self, node: &str, serial: u128) -> Agent {
        let bundle = self.issuing.root_bundle().clone();
        let (trust_domain, mesh) = (bundle.trust_domain().clone(), Name::parse("shop").unwrap());
        let id = SpiffeId::node(&trust_domain, &mesh, &Name::parse(node).unwrap());
        let identity = LiveIdentity::new(bundle.clone());
        self.certify(&identity, &id, serial);
        let roots = bundle.roots().iter().map(|root| root.der().to_vec()).collect();
        let trust = Trust { trust_domain: trust_domain.to_string(), roots, ..Trust::default() };
        let decisions = Decisions::new(self.clock, InstanceId::from_random([3; 8]), [1, 2, 3, 4], None);
        let context = Context {
            clock: self.clock,
            identity,
            trust: watch::Sender::new(Arc::new(StoredTrust::new(trust).unwrap())).subscribe(),
            mesh: Mesh::new(),
            decisions: Arc::new(decisions),
            metrics: Arc::default(),
        };
        // The app is to have the token, so that it is there for the next round.
        let users = Some(UserTokens { required: false, issuers: Vec::new(), kept: true });
        let (obs_text, services) = (ObsText::Reject, Vec::new());
        let port = Port { number: 8080, protocol: Protocol::Http, services, users, obs_text };
        let scope = NodeScope { trust_domain, mesh, place: Place::Node(id.clone()), ports: Vec::new() };
        let engine = Engine::compile(scope, &PolicySlice::default(), None).unwrap();
        let users = Users::of(vec![self.issuer()], &engine.claims_read(), None);
        let view = NodeView {
            epoch: 1,
            revision: 1,
            digest: [0; 32],
            spiffe_id: id.clone(),
            ports: vec![port],
            engine,
            federated: FederatedBundles::default(),
            users,
            externals: Vec::new(),
        };
        Agent { id, context, view: Arc::new(view), handles: Handles::default() }
    }
}

impl Agent {
    fn look(&self, headers: &HeaderMap, passed: Option<(&Self, &HeaderValue)>) -> MadeFor {
        let peer = passed.map_or(&self.id, |(from, _)| &from.id);
        let identity = passed.map(|(_, identity)| identity);
        let arrival = Arrival { port: 8080, peer, identity, context: &self.context };
        MadeFor::look(&self.view, arrival, &mut headers.clone())
    }

    fn takes(&self, headers: &HeaderMap, passed: Option<(&Self, &HeaderValue)>) {
        assert!(self.look(headers, passed).is_for_user());
    }

    fn handle(&self, headers: &HeaderMap, passed: Option<(&Self, &HeaderValue)>) -> HeaderValue {
        self.look(headers, passed).handle(&self.handles).unwrap()
    }

    fn pass_on(&self, handle: &HeaderValue, to: &Self) -> HeaderValue {
        self.handles.pass_on(handle, &to.id, &self.context).unwrap()
    }
}
