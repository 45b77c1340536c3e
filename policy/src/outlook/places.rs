//! Which actions and routes a question about one port is about.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::{Asked, Paths};
use crate::compile::Port;
use crate::path_set::{Glob, PathSet, Relation, Step};
use crate::route::RouteTemplate;
use crate::scope::{Protocol, Undeclared};
use crate::vocabulary::Action;

/// One action on one route, or port.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) port: &'a Port,
    pub(super) action: Action,
    /// The request's method, where it is known.
    pub(super) method: Option<&'a str>,
    pub(super) resource: usize,
    pub(super) template: Option<&'a RouteTemplate>,
    /// The paths that are asked about and belong here.
    pub(super) paths: Rc<PathSet>,
    /// Requests that match no route are denied here whatever policies say.
    pub(super) is_refused: bool,
}

/// A sort of requests that routes tell apart.
#[derive(Debug, Clone, Copy)]
struct Method<'a> {
    action: Action,
    name: Option<&'a str>,
}

/// All that the question is about, in the order of methods, the most specific route first.
pub(super) fn places<'a>(port: &'a Port, asked: Asked<'a>) -> Vec<Place<'a>> {
    if port.protocol == Protocol::Tcp {
        let (action, paths) = (Action::Connect, Rc::new(PathSet::new(Vec::new(), [])));
        let (method, template, is_refused) = (None, None, false);
        return vec![Place { port, action, method, resource: port.stream, template, paths, is_refused }];
    }
    let mut places = Vec::new();
    // Most methods go the same ways.
    let mut former: Option<(Vec<bool>, Vec<Way>)> = None;
    for method in methods(port, asked.method) {
        let takes: Vec<bool> = port.routes.iter().map(|(template, _)| takes(template, method)).collect();
        let ways = match former.take() {
            Some((same, ways)) if same == takes => ways,
            _ => ways(port, asked.paths, &takes),
        };
        for (index, paths) in &ways {
            let route = index.and_then(|index| port.routes.get(index));
            places.push(Place {
                port,
                action: method.action,
                method: method.name,
                resource: route.map_or(port.undeclared_route, |(_, resource)| *resource),
                template: route.map(|(template, _)| template),
                paths: Rc::clone(paths),
                is_refused: route.is_none() && port.undeclared == Undeclared::Deny,
            });
        }
        former = Some((takes, ways));
    }
    places
}

fn takes(template: &RouteTemplate, method: Method<'_>) -> bool {
    template.methods().is_empty() || method.name.is_some_and(|name| template.is_for(name))
}

/// A route by its place, or what matches none, with the paths that are left for it.
type Way = (Option<usize>, Rc<PathSet>);

/// The routes that can be met, each with the paths that are left for it; the last one for what matches none of them.
fn ways(port: &Port, asked: Paths<'_>, takes: &[bool]) -> Vec<Way> {
    let asked = match asked {
        Paths::All => None,
        Paths::Exactly(path) => Some(Glob::literally(path.path())),
        Paths::Matching(pattern) => Some(pattern.glob()),
    };
    let shape = match port.protocol {
        Protocol::Grpc => Glob::new(vec![
            Step::Char('/'),
            Step::Unslashed,
            Step::Within,
            Step::Char('/'),
            Step::Unslashed,
            Step::Within,
        ]),
        // `OPTIONS *` has no slash.
        _ => Glob::anything(),
    };
    let common = || asked.iter().cloned().chain([shape.clone()]);
    // Those that nothing asked belongs to would only use up how many can be taken out of a set.
    let in_question = PathSet::new(common().collect(), []);
    let is_met = |template: &RouteTemplate| {
        asked.is_none() || matches!(in_question.relation(&template.glob()), Relation::Whole | Relation::Part)
    };
    let taking: Vec<_> = (port.routes.iter().zip(takes).enumerate())
        .filter(|(_, ((template, _), takes))| **takes && is_met(template))
        .collect();
    let taking = || taking.iter().copied();
    let mut ways = Vec::new();
    for (index, ((template, _), _)) in taking() {
        let before = taking().take_while(|(other, _)| *other < index);
        let before = before.map(|(_, ((other, _), _))| other).filter(|other| other.may_meet(template));
        let paths =
            PathSet::new(common().chain([template.glob()]).collect(), before.map(RouteTemplate::glob));
        if !paths.is_empty() {
            ways.push((Some(index), Rc::new(paths)));
        }
    }
    let declared = taking().map(|(_, ((template, _), _))| template.glob());
    let paths = PathSet::new(common().collect(), declared);
    if !paths.is_empty() {
        ways.push((None, Rc::new(paths)));
    }
    ways
}

fn methods<'a>(port: &'a Port, asked: Option<&'a str>) -> Vec<Method<'a>> {
    if port.protocol == Protocol::Grpc {
        return vec![Method { action: Action::Call, name: Some("POST") }];
    }
    match asked {
        // Another protocol is asked for with GET alone.
        Some("upgrade") => vec![Method { action: Action::Upgrade, name: Some("GET") }],
        Some(method) => vec![Method { action: Action::of_method(method), name: Some(method) }],
        None => {
            let named = port.routes.iter().flat_map(|(template, _)| template.methods());
            let others: BTreeSet<&str> =
                named.map(String::as_str).filter(|name| Action::of_method(name) == Action::Other).collect();
            let of_action = |action: Action| match action {
                Action::Upgrade => Method { action, name: Some("GET") },
                Action::Other => Method { action, name: None },
                _ => Method { action, name: Some(action.as_str()) },
            };
            let others = others.into_iter().map(|name| Method { action: Action::Other, name: Some(name) });
            Action::HTTP.into_iter().map(of_action).chain(others).collect()
        }
    }
}
