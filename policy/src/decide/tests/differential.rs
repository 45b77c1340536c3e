//! The property that everything rests on: sliced for each node, indexed and remembered, this crate says what plain
//! Cedar says of all policies, all entities and the whole context.
//!
//! What is told of questions that leave something open (`outlook`), and what explains a decision, must agree with it
//! too.
//!
//! `HAUBERK_DIFFERENTIAL_DECISIONS` sets how many decisions are compared at least, on all cores together.

mod conditions;
mod foreseen;
mod nodes;
mod oracle;
mod questions;
mod shrink;
mod world;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use proptest::test_runner::{TestError, TestRunner};

use super::super::*;
use crate::decision::Reason;
use crate::document::{Mode, PolicyDocument};
use crate::named::Known;
use crate::path::CanonicalPath;
use crate::scope::Place;
use crate::slice::{EgressIndex, PolicyIndex};
use crate::testing::name;
use hauberk_identity::SpiffeId;
use oracle::{Oracle, Said};
use questions::Asked;
use world::{World, some_world};

/// How many decisions are compared unless the environment says otherwise.
const DECISIONS: usize = 200_000;

/// How many sets of policies are tried before it is looked again whether that was enough.
const WORLDS_AT_ONCE: u32 = 32;

/// Of how many sorts of answers one is explained and foreseen, which takes a hundred times as long as deciding.
const SELDOM: usize = 16;

/// How much was compared.
#[derive(Debug, Default)]
struct Compared {
    decisions: AtomicUsize,
    worlds: AtomicUsize,
    policies: AtomicUsize,
    foreseen: AtomicUsize,
    explained: AtomicUsize,
    /// How many decisions had been compared when something was wrong.
    failed: Mutex<Option<usize>>,
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scrutiny {
    /// Decisions, and of some of them what explains and foresees them.
    Ordinary,
    Decisions,
    /// Of each sort of answer what explains and foresees it.
    Thorough,
}

fn given(decision: &Decision) -> Said {
    let named = |policies: &[Arc<str>]| policies.iter().map(ToString::to_string).collect();
    Said {
        reason: decision.reason,
        policies: named(&decision.policies),
        audit: decision.audit.as_ref().map(|audit| (audit.effect, named(&audit.policies))),
        action: decision.action.map(Action::as_str),
        resource: decision.resource.as_ref().map(ToString::to_string),
    }
}

fn fails(said: &Said) -> bool {
    said.reason == Reason::EvaluationError
}

/// Asks all questions of one set of policies, and again from the last to the first, so that what is remembered of some
/// answers others. `expected` may say something else than the oracle does, which is then found to be wrong.
fn compare(
    world: &World,
    scrutiny: Scrutiny,
    compared: &Compared,
    believe: impl Fn(&Asked, Said) -> Said,
) -> Result<(), TestCaseError> {
    let made = world.documents();
    let (documents, drafts): (Vec<PolicyDocument>, Vec<_>) = made.into_iter().unzip();
    let (roles, labels, questions) = (world.roles(), world.labels(), world.questions());
    let shop = name("shop");
    let index = PolicyIndex::new(&shop, &documents);
    let ports = nodes::named(documents.iter().flat_map(PolicyDocument::ports_read));
    let known = Known { roles: &roles, labels: &labels, ports: &ports };
    let compile = |asked: &Asked| {
        let scope = asked.serving().scope(world.is_open);
        let slice = match scope.place {
            Place::Node(_) => index.slice(&scope, known),
            Place::External(_) => {
                let node = SpiffeId::parse(asked.decided_by()).unwrap();
                EgressIndex::new(std::slice::from_ref(&scope), &documents).slice(&node, known)
            }
        };
        Engine::compile(scope, &slice, None).unwrap()
    };
    let mut engines: HashMap<(usize, &str), Engine> = HashMap::new();
    for asked in &questions {
        engines.entry((asked.node, asked.decided_by())).or_insert_with(|| compile(asked));
    }
    let oracle = Oracle::new(world, &drafts);
    compared.worlds.fetch_add(1, Ordering::Relaxed);
    compared.policies.fetch_add(documents.len(), Ordering::Relaxed);
    let targets: Vec<String> = questions.iter().map(Asked::target).collect();
    let asked: Vec<_> = questions
        .iter()
        .zip(&targets)
        .map(|(asked, target)| {
            let path = CanonicalPath::parse("GET", target).unwrap();
            let engine = &engines[&(asked.node, asked.decided_by())];
            let peer = engine.peer_as_read(&asked.peer());
            (asked, path, engine, asked.gathered(engine), peer, believe(asked, oracle.ask(asked)))
        })
        .collect();
    let mut memos: HashMap<(usize, &str, &Peer), CallerMemo> = HashMap::new();
    let mut told: HashSet<&Said> = HashSet::new();
    let first = compared.worlds.load(Ordering::Relaxed);
    for (asked, path, engine, gathered, peer, expected) in asked.iter().chain(asked.iter().rev()) {
        let attempt = asked.attempt(path, gathered);
        let new = || engine.caller(&asked.caller(), peer);
        let memo = memos.entry((asked.node, asked.caller, peer)).or_insert_with(new);
        let decision = memo.decide(asked.port, attempt, asked.moment());
        compared.decisions.fetch_add(1, Ordering::Relaxed);
        prop_assert_eq!(&given(&decision), expected, "{:?}", asked);
        reads_in_two_ways(engine, memo, asked, attempt)?;
        let is_chosen = match scrutiny {
            // What fails is seldom, and hard to foresee: the first of it in each world is looked at.
            Scrutiny::Ordinary if fails(expected) && !told.iter().any(|said| fails(said)) => true,
            Scrutiny::Ordinary => (told.len() + first).is_multiple_of(SELDOM),
            Scrutiny::Decisions => false,
            Scrutiny::Thorough => true,
        };
        if told.insert(expected) && is_chosen {
            compared
                .foreseen
                .fetch_add(foreseen::agrees(engine, asked, attempt, expected)?, Ordering::Relaxed);
            // What explains must agree with what decides.
            let (caller, peer) = (&asked.caller(), &asked.peer());
            let question = Question { caller, peer, port: asked.port, attempt, moment: asked.moment() };
            let explained = engine.explain(&question);
            prop_assert_eq!(&given(&explained.decision), expected, "{:?}", asked);
            for note in &explained.policies {
                let applies = note.mismatches.is_empty();
                let determines = explained.decision.policies.contains(&note.name);
                prop_assert!(applies || !determines || note.error.is_some(), "{:?} {note:?}", asked);
                // What fails denies, unless it is only recorded.
                let is_denied = !decision.is_allowed() && decision.reason != Reason::NoPolicyMatched;
                prop_assert!(
                    note.error.is_none() || note.mode == Mode::Audit || is_denied,
                    "{:?} {note:?}",
                    asked
                );
            }
            compared.explained.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Asks the same with the last slash escaped, where that may stand: it must be let through in both readings, each of
/// which is decided by itself as plain paths are.
fn reads_in_two_ways(
    engine: &Engine,
    memo: &mut CallerMemo,
    asked: &Asked,
    attempt: Attempt<'_>,
) -> Result<(), TestCaseError> {
    let Attempt::Request { method, path, upgrade, gathered } = attempt else { return Ok(()) };
    let Some((before, after)) = path.path().rsplit_once('/').filter(|(before, _)| !before.is_empty()) else {
        return Ok(());
    };
    let target = format!("{before}%2F{after}");
    let Ok(escaped) = CanonicalPath::parse_with("GET", &target, engine.escaped_slashes(asked.port)) else {
        return Ok(());
    };
    let (as_it_stands, as_slashes) = (escaped.as_it_stands(), escaped.with_slashes().unwrap());
    let read = |path| Attempt::Request { method, path, upgrade, gathered };
    let (caller, peer) = (&asked.caller(), &engine.peer_as_read(&asked.peer()));
    let by_itself = |path| {
        let question =
            Question { caller, peer, port: asked.port, attempt: read(path), moment: asked.moment() };
        engine.decide(&question)
    };
    let both = by_itself(&as_slashes).and(by_itself(&as_it_stands));
    for _ in 0..2 {
        let decision = memo.decide(asked.port, read(&escaped), asked.moment());
        prop_assert_eq!(&*decision, &both, "{:?} {}", asked, target);
    }
    Ok(())
}

/// Tries worlds until enough decisions are compared; gives what is wrong, made as small as it goes.
fn search(
    enough: usize,
    compared: &Compared,
    believe: impl Fn(&Asked, Said) -> Said,
) -> Option<(World, String)> {
    // What is wrong is made smaller by what knows what it is made of.
    let config = ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 0,
        ..ProptestConfig::with_cases(WORLDS_AT_ONCE)
    };
    let failed = || compared.failed.lock().unwrap();
    while compared.decisions.load(Ordering::Relaxed) < enough && failed().is_none() {
        // One runner tries as many as it is told to, once.
        let outcome = TestRunner::new(config.clone()).run(&some_world(), |world| {
            compare(&world, Scrutiny::Ordinary, compared, &believe).inspect_err(|_| {
                let before = compared.decisions.load(Ordering::Relaxed);
                failed().get_or_insert(before);
            })
        });
        match outcome {
            Ok(()) => {}
            Err(TestError::Fail(reason, world)) => {
                let wrong =
                    |scrutiny, world: &World| compare(world, scrutiny, &Compared::default(), &believe).err();
                let shows = |scrutiny: &Scrutiny| wrong(*scrutiny, &world).is_some();
                let scrutiny = [Scrutiny::Decisions].into_iter().find(shows).unwrap_or(Scrutiny::Thorough);
                let smallest = shrink::smallest(world, |world| wrong(scrutiny, world).is_some());
                let reason = wrong(scrutiny, &smallest).map_or(reason.to_string(), |wrong| wrong.to_string());
                return Some((smallest, reason));
            }
            Err(aborted) => panic!("{aborted}"),
        }
    }
    None
}

#[test]
fn decides_as_plain_cedar_does() {
    let set = std::env::var("HAUBERK_DIFFERENTIAL_DECISIONS").ok();
    let enough = set.map_or(DECISIONS, |count| count.parse().unwrap());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(4);
    let compared = Compared::default();
    let found: Vec<(World, String)> = std::thread::scope(|scope| {
        let search = || search(enough, &compared, |_, said| said);
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(search)).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    println!("{compared:?}");
    if let Some((world, reason)) = found.first() {
        let before = compared.failed.lock().unwrap().unwrap_or_default();
        panic!("after {before} decisions: {reason}\n{world:#?}");
    }
    assert!(compared.decisions.load(Ordering::Relaxed) >= enough);
}

#[test]
fn what_is_wrong_is_told_as_small_as_it_goes() {
    let compared = Compared::default();
    let is_meant = |asked: &Asked| {
        matches!(asked.what, questions::What::Request { method: "DELETE", path: "/orders/2", .. })
    };
    // As if nobody might delete this one order, which some worlds never ask.
    let (world, _) = search(10 * DECISIONS, &compared, |asked, said| match said.reason {
        Reason::Permitted if is_meant(asked) => Said { reason: Reason::Forbidden, ..said },
        _ => said,
    })
    .unwrap();
    let questions = world.questions();
    let told = format!("{world:#?}");
    assert_eq!((world.documents().len(), questions.len()), (1, 1), "{told}");
    assert!(is_meant(&questions[0]), "{told}");
    let plain = Asked::new(&[0; questions::PARTS]);
    let simple = |asked: &Asked| (asked.node, asked.caller, asked.port);
    assert_eq!(simple(&questions[0]), simple(&plain), "{told}");
    assert!(world.documents()[0].0.text().len() < 120, "{told}");
}
