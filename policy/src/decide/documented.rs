//! The examples of docs/authorization.md, with the requests below each.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hauberk_identity::{SpiffeId, UnixMillis};
use serde_json::{Map, Value};

use super::*;
use crate::circumstances::Tls;
use crate::document::Mode;
use crate::named::Known;
use crate::path::CanonicalPath;
use crate::scope::NodeLabel;
use crate::slice::PolicyIndex;
use crate::testing::{HERE, NOW, documents, foreign, name, node, orders, peer, roles};
use crate::user::{ClaimsMapping, OnBehalfOf, Origin};

const PAGE: &str = include_str!("../../../docs/authorization.md");

/// The contents of the page's fences, each with its language.
fn fences() -> Vec<(&'static str, String)> {
    let mut fences: Vec<(&str, String)> = Vec::new();
    let mut is_open = false;
    for line in PAGE.lines() {
        match line.strip_prefix("```") {
            Some(language) => {
                if !is_open {
                    fences.push((language, String::new()));
                }
                is_open = !is_open;
            }
            None if is_open => {
                let (_, text) = fences.last_mut().unwrap();
                text.extend([line, "\n"]);
            }
            None => {}
        }
    }
    fences
}

/// Asks these policies what a line such as `GET /orders/1 x-tenant=blue` says.
fn ask(cedar: &str, line: &str) -> Decision {
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let (mut caller, mut peer_facts, mut moment, mut host) = (peer("web"), HERE.clone(), NOW, "");
    let (mut fields, mut labels) = (Vec::new(), Vec::new());
    let (mut claimed, mut actors) = (Map::new(), Vec::new());
    for (name, value) in words.map(|word| word.split_once('=').unwrap()) {
        match name {
            "caller" if value.starts_with("spiffe:") => caller = foreign(value),
            "caller" => caller = peer(value),
            "from" => peer_facts = Peer::new(Some(value.parse().unwrap()), HERE.tls().cloned()),
            "group" => {
                let tls = Tls { version: "TLSv1.3".into(), group: value.into() };
                peer_facts = Peer::new(HERE.address(), Some(tls));
            }
            "age" => {
                let age = Duration::from_secs(value.parse().unwrap());
                moment.certificate_since = Some(moment.time.minus(age));
            }
            "at" => moment.time = instant(value),
            "host" => host = value,
            "user" => drop(claimed.insert("sub".to_owned(), value.into())),
            "groups" => drop(claimed.insert("groups".to_owned(), value.split(',').collect())),
            "scope" => drop(claimed.insert("scope".to_owned(), value.replace(',', " ").into())),
            "actors" => actors = value.split(',').map(node).collect(),
            name if name.starts_with("label:") => labels.push((name.trim_start_matches("label:"), value)),
            name if name.starts_with("claim:") => {
                let name = name.trim_start_matches("claim:").to_owned();
                claimed.insert(name, value.split(',').collect());
            }
            _ => fields.push((name, value.as_bytes())),
        }
    }
    let engine = &engine_of(cedar, &caller, &labels);
    let (port, method) = if method == "CALL" { (50051, "POST") } else { (8080, method) };
    let path = CanonicalPath::parse(method, target).unwrap();
    let gathered = engine.wanted(port).map(|wanted| wanted.gather(host, fields)).unwrap_or_default();
    let gathered = gathered.made_for(made_for(engine, &claimed, actors));
    let attempt = Attempt::Request { method, path: &path, upgrade: false, gathered: &gathered };
    engine.decide(&Question { caller: &caller, peer: &peer_facts, port, attempt, moment })
}

/// Where the caller has these labels, and nobody any other.
fn engine_of(cedar: &str, caller: &Caller, labels: &[(&str, &str)]) -> Engine {
    let documents = documents(&[(Mode::Enforce, cedar)]);
    let label = |name: &str| {
        let own = labels.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned());
        let node = match caller {
            Caller::Peer(id) => Some(id.clone()),
            Caller::Anonymous => None,
        };
        NodeLabel { name: name.to_owned(), values: node.zip(own).into_iter().collect() }
    };
    let labels: Vec<NodeLabel> =
        documents[0].labels().collect::<BTreeSet<_>>().into_iter().map(label).collect();
    let slice = PolicyIndex::new(&name("shop"), &documents)
        .slice(&orders(), Known { roles: &roles(), labels: &labels, ..Known::default() });
    Engine::compile(orders(), &slice, None).unwrap()
}

/// For the user of the issuer `login` whose token claims this.
fn made_for(engine: &Engine, claimed: &Map<String, Value>, actors: Vec<SpiffeId>) -> OnBehalfOf {
    if !claimed.contains_key("sub") {
        return OnBehalfOf::Nobody;
    }
    let (mapping, issuer) = (ClaimsMapping::default(), "https://login.example".into());
    let user = mapping.user(claimed, engine.claims_read(), &name("login"), &issuer).unwrap();
    OnBehalfOf::User(Arc::new(Origin { user, actors }))
}

/// The second that prints so.
fn instant(text: &str) -> UnixMillis {
    let at = UnixMillis::from_secs;
    let (mut low, mut high) = (0, 4_102_444_800);
    while low < high {
        let middle = (low + high) / 2;
        if at(middle).to_string().as_str() < text { low = middle + 1 } else { high = middle }
    }
    assert_eq!(at(low).to_string(), text);
    at(low)
}

#[test]
fn every_example_of_the_page_does_what_it_says() {
    let fences = fences();
    let mut tried = 0;
    for pair in fences.windows(2) {
        let [("cedar", cedar), (language, requests)] = pair else { continue };
        assert_eq!(*language, "requests", "{cedar}");
        for line in requests.lines() {
            let (expected, line) = line.split_once(' ').unwrap();
            let decision = ask(cedar, line);
            assert_eq!(
                decision.is_allowed(),
                expected == "allow",
                "{line}: {}: {cedar}",
                decision.reason.as_str()
            );
            tried += 1;
        }
    }
    assert!(tried > 30, "{tried}");
}
