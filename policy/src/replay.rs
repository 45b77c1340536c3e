//! What other policies would make of recorded calls.
//!
//! A recorded call is decided again by two engines, what is in force and a draft, with what was recorded of it. What
//! was not recorded is not guessed: a call that depends on it cannot be decided. Where it was recorded how a condition
//! came out, that is as good as what the condition reads, for whichever statement has the same one.

mod compare;
mod recorded;
mod said;
mod undecidable;
mod vouching;

use std::collections::HashMap;
use std::sync::Arc;

use crate::circumstances::Peer;
use crate::compile::Engine;
use crate::decision::{Attempt, Caller, Decision, Effect, Reason};
use crate::facts::Principal;
use crate::memo::CallerMemo;
use crate::outcomes::ConditionOutcome;
use crate::path::{CanonicalPath, EscapedSlashes};
use crate::quick_hash::QuickMap;
use crate::route::RouteTemplate;
use crate::vocabulary::Action;
use compare::{Side, Weighed};
use said::{Said, depends_on_call, tell_of};

pub use recorded::{RecordedCall, RecordedFlow};
pub use undecidable::Undecidable;
pub use vouching::{Bundle, Issuers, Vouching};
use vouching::{Doubt, not_federated};

/// What becomes of recorded calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    /// The draft decides otherwise.
    Flips {
        /// What is decided now.
        now: Decision,
        /// What the draft decides.
        draft: Decision,
    },
    /// It cannot be said.
    Undecidable(Undecidable),
}

/// Decides recorded flows by two engines of one node. Flows of one caller go fastest one after the other.
#[derive(Debug)]
pub struct Replay<'a> {
    engines: Pair<'a>,
    current: Option<(Caller, Known)>,
    /// Where calls belong, in each of their readings: many callers call the same. Empty where they belong nowhere in
    /// one of them.
    places: HashMap<(u16, Action), Asked>,
}

/// By method and target.
type Asked = HashMap<Box<str>, HashMap<Box<str>, Arc<[Places]>>>;

/// What is in force, and a draft.
#[derive(Debug, Clone, Copy)]
struct Pair<'a> {
    now: &'a Engine,
    draft: &'a Engine,
    /// Both have the same ports, routes, roles and labels: only their statements differ.
    is_one_world: bool,
    vouching: &'a Vouching,
}

/// Which of the resources of both engines a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Places {
    now: usize,
    draft: usize,
    /// The route is not declared by the same template in both.
    has_moved: bool,
}

/// One caller, as both engines know it.
#[derive(Debug)]
struct Known {
    principals: Option<(Principal, Principal)>,
    memos: HashMap<(Peer, Option<Outcomes>), (CallerMemo, CallerMemo)>,
    cells: QuickMap<(Places, Action), Cell>,
}

/// What is known of all calls of one caller to one route by one action.
#[derive(Debug, Clone)]
enum Cell {
    /// Both engines surely decide them alike.
    Alike,
    /// Both engines decide them so, whatever else they are.
    Settled(Arc<(Decision, Decision)>),
    /// Each is to be looked at: what is in play in both tells of most whether they decide it alike.
    Weighed(Arc<(Weighed, Weighed)>),
    /// Each is to be decided.
    Open,
}

/// How conditions came out.
type Outcomes = Arc<[ConditionOutcome]>;

impl<'a> Replay<'a> {
    /// Prepares. Compile `draft` with `now` as its former engine: what both share is then seen at once.
    pub fn new(now: &'a Engine, draft: &'a Engine, vouching: &'a Vouching) -> Self {
        let is_one_world = now.scope() == draft.scope() && now.0.said == draft.0.said;
        let engines = Pair { now, draft, is_one_world, vouching };
        Self { engines, current: None, places: HashMap::new() }
    }

    /// Tells what becomes of a flow, with how many calls that is and one of them where one is known. What stays as it
    /// is is not told. Calls that were not recorded one by one are taken for others of the route that they were counted
    /// for.
    pub fn flow<'f>(
        &mut self,
        flow: &'f RecordedFlow,
        mut tell: impl FnMut(Replayed, u64, Option<&'f RecordedCall>),
    ) {
        let engines = self.engines;
        let (caller, mut known) = match self.current.take() {
            Some((caller, known)) if caller == flow.caller => (caller, known),
            _ => (flow.caller.clone(), Known::of(engines, &flow.caller)),
        };
        // Of what is decided alike whatever is asked, those that were not recorded can be told too.
        let mut of_others: Option<Result<Said, Undecidable>> = None;
        for call in &flow.calls {
            let places = self.places(flow, call);
            let said = known.replay(engines, &places, flow, call);
            if flow.others > 0 {
                // What belongs nowhere is refused before policies are asked.
                let is_nowhere = engines.is_one_world && flow.route.is_empty();
                let is_same_route = match &*places {
                    [] => is_nowhere,
                    // Of those with escaped slashes it is not known which routes they belong to besides.
                    [places] => engines.is_at(*places, &flow.route) && !engines.keeps_slashes(flow.port),
                    _ => false,
                };
                let is_of_all = |becomes| {
                    let within = |_| known.is_of_all_within(engines, flow, becomes);
                    is_same_route && places.first().is_none_or(within)
                };
                let own = said.clone().and_then(|said| said.of_others(is_of_all).ok_or(Undecidable::TooMany));
                of_others = match of_others {
                    None => Some(own),
                    Some(former) if former == own => Some(former),
                    Some(_) => Some(Err(Undecidable::TooMany)),
                };
            }
            tell_of(said, call.count, Some(call), &mut tell);
        }
        if flow.others > 0 {
            tell_of(of_others.unwrap_or(Err(Undecidable::TooMany)), flow.others, None, &mut tell);
        }
        self.current = Some((caller, known));
    }

    fn places(&mut self, flow: &RecordedFlow, call: &RecordedCall) -> Arc<[Places]> {
        let of_action = self.places.entry((flow.port, flow.action)).or_default();
        if let Some(known) = of_action.get(&call.method).and_then(|targets| targets.get(&call.target)) {
            return Arc::clone(known);
        }
        let found = self.engines.places(flow, call).unwrap_or_default();
        let targets = of_action.entry(call.method.clone()).or_default();
        targets.insert(call.target.clone(), Arc::clone(&found));
        found
    }
}

impl<'a> Pair<'a> {
    fn places(&self, flow: &RecordedFlow, call: &RecordedCall) -> Option<Arc<[Places]>> {
        let place = |attempt: Attempt<'_>| {
            let (_, now) = self.now.0.locate(flow.port, attempt).ok()?;
            let (_, draft) = self.draft.0.locate(flow.port, attempt).ok()?;
            let has_moved = now.template != draft.template;
            Some(Places { now: now.resource, draft: draft.resource, has_moved })
        };
        let escaped = escaped(self.now, flow.port);
        if escaped != self::escaped(self.draft, flow.port) && has_escapes(call) {
            return None;
        }
        let found = call.with(flow, escaped, |attempt| {
            let as_it_stands = place(attempt)?;
            let Attempt::Request { method, path, upgrade, gathered } = attempt else {
                return Some([as_it_stands].into());
            };
            let Some(path) = path.with_slashes() else { return Some([as_it_stands].into()) };
            let as_slashes = place(Attempt::Request { method, path: &path, upgrade, gathered })?;
            Some([as_it_stands, as_slashes].into())
        });
        found.flatten()
    }

    fn keeps_slashes(&self, port: u16) -> bool {
        [self.now, self.draft].iter().any(|engine| engine.escaped_slashes(port) == EscapedSlashes::Keep)
    }

    /// How conditions came out, where it can be told that neither the route nor whoever vouches is another one.
    fn outcomes(&self, places: &[Places], flow: &RecordedFlow) -> Option<Outcomes> {
        if flow.outcomes.is_empty() {
            return None;
        }
        let is_told = match places {
            // Where the draft refuses, what is in force alone is asked.
            [places] => {
                let is_vague = matches!(self.doubts(flow), Some(Doubt::Perhaps(_)));
                self.is_at(*places, &flow.route) && !is_vague
            }
            _ => false,
        };
        is_told.then(|| Arc::clone(&flow.outcomes))
    }

    /// Whether the resources are those of this route, and the port has the same routes in both.
    fn is_at(&self, places: Places, route: &str) -> bool {
        let Some(governed) = self.now.0.resources.get(places.now) else { return false };
        let template = governed.label.split_once(' ').map_or("", |(_port, template)| template);
        let has_same_routes = self.is_one_world || self.now.scope().ports == self.draft.scope().ports;
        has_same_routes && !places.has_moved && template == route
    }
}

impl Known {
    fn of(engines: Pair<'_>, caller: &Caller) -> Self {
        let principals = engines.now.0.principal(caller).zip(engines.draft.0.principal(caller));
        Self { principals, memos: HashMap::new(), cells: QuickMap::default() }
    }

    fn replay(
        &mut self,
        engines: Pair<'_>,
        places: &[Places],
        flow: &RecordedFlow,
        call: &RecordedCall,
    ) -> Result<Said, Undecidable> {
        let doubts = engines.doubts(flow);
        let sure = |now: Decision, draft: Decision| match doubts {
            Some(Doubt::Perhaps(why)) if draft.is_allowed() => Err(why),
            _ => Ok(Said::Each(now, draft)),
        };
        let cell = self.cell_of(engines, places, flow);
        if let Cell::Settled(pair) = &cell {
            return sure(pair.0.clone(), pair.1.clone());
        }
        let given = engines.outcomes(places, flow);
        if doubts.is_none() && cell.decides_alike(engines, flow, call, given.as_deref()) {
            return Ok(if matches!(cell, Cell::Alike) { Said::Alike } else { Said::AlikeHere });
        }
        let memo = |engine: &Engine| engine.caller_given(&flow.caller, &call.peer, given.clone());
        let memos = self.memos.entry((call.peer.clone(), given.clone()));
        let (now, draft) = memos.or_insert_with(|| (memo(engines.now), memo(engines.draft)));
        let decide = |engine: &Engine, memo: &mut CallerMemo| {
            call.with(flow, escaped(engine, flow.port), |attempt| call.decide(memo, flow.port, attempt))
        };
        let now = decide(engines.now, now);
        let draft = match doubts {
            Some(Doubt::Refused) => now.is_some().then(|| Ok(not_federated())),
            Some(Doubt::Perhaps(_)) | None => decide(engines.draft, draft),
        };
        if now.is_none() && draft.is_none() {
            return Err(Undecidable::Unreadable);
        }
        // One of them refuses the path before policies are asked.
        let refused = || Ok(Decision::denied(Reason::AmbiguousPath));
        sure(now.unwrap_or_else(refused)?, draft.unwrap_or_else(refused)?)
    }

    /// Whether what is said of calls of a flow's route is said of those of each route too that may have been declared
    /// within it since they were recorded.
    fn is_of_all_within(
        &mut self,
        engines: Pair<'_>,
        flow: &RecordedFlow,
        becomes: Option<(Effect, Effect)>,
    ) -> bool {
        let Some(port) = engines.now.0.ports.get(&flow.port) else { return false };
        let own = port.routes.iter().position(|(template, _)| template.as_str() == &*flow.route);
        // The most specific stand first.
        let (own, before) = match own {
            Some(own) => (port.routes.get(own), port.routes.get(..own)),
            None => (None, port.routes.get(..)),
        };
        let meets = |template: &RouteTemplate| own.is_none_or(|(own, _)| own.may_meet(template));
        let within = before.unwrap_or_default().iter().filter(|(template, _)| meets(template));
        within.map(|(_, place)| Places { now: *place, draft: *place, has_moved: false }).all(|places| {
            match self.cell(engines, places, flow) {
                Cell::Alike => becomes.is_none(),
                Cell::Settled(other) => becomes == said::becomes(&other.0, &other.1),
                Cell::Weighed(_) | Cell::Open => false,
            }
        })
    }

    /// What is known of calls that are for these, in all of their readings.
    fn cell_of(&mut self, engines: Pair<'_>, places: &[Places], flow: &RecordedFlow) -> Cell {
        if let [places] = places {
            return self.cell(engines, *places, flow);
        }
        let is_alike = |places: &Places| matches!(self.cell(engines, *places, flow), Cell::Alike);
        if !places.is_empty() && places.iter().all(is_alike) { Cell::Alike } else { Cell::Open }
    }

    fn cell(&mut self, engines: Pair<'_>, places: Places, flow: &RecordedFlow) -> Cell {
        let Some((principal, draft_principal)) = &self.principals else { return Cell::Open };
        let find = || {
            let Some(now) = Side::of(engines.now, principal, flow.port, places.now) else {
                return Cell::Open;
            };
            if engines.is_refused(&flow.caller) {
                return refused(&now, flow.action);
            }
            let Some(draft) = Side::of(engines.draft, draft_principal, flow.port, places.draft) else {
                return Cell::Open;
            };
            // What is two things at once is decided as a whole.
            let actions: &[Action] = match &flow.action {
                Action::Upgrade => &[Action::Get, Action::Upgrade],
                action => std::slice::from_ref(action),
            };
            if !places.has_moved
                && actions.iter().all(|action| now.is_alike(&draft, *action, engines.is_one_world))
            {
                return Cell::Alike;
            }
            if flow.action == Action::Upgrade {
                return Cell::Open;
            }
            let Some(pair) = now.settled(flow.action).zip(draft.settled(flow.action)) else {
                let weighed = now.weighed(flow.action).zip(draft.weighed(flow.action));
                return weighed.map_or(Cell::Open, |pair| Cell::Weighed(Arc::new(pair)));
            };
            // Of users nothing is recorded: what is let through for them alone is nobody's to tell.
            let for_users =
                (now.is_for_users() && pair.0.is_allowed(), draft.is_for_users() && pair.1.is_allowed());
            match for_users {
                (false, false) => Cell::Settled(Arc::new(pair)),
                (true, true) => Cell::Alike,
                _ => Cell::Open,
            }
        };
        self.cells.entry((places, flow.action)).or_insert_with(find).clone()
    }
}

/// What is known of calls that the draft refuses, whatever its policies say.
fn refused(now: &Side<'_>, action: Action) -> Cell {
    // What is two things at once is decided as a whole, and of users nothing is recorded.
    let is_sure =
        |decision: &Decision| action != Action::Upgrade && !(now.is_for_users() && decision.is_allowed());
    let settled = now.settled(action).filter(is_sure);
    settled.map_or(Cell::Open, |now| Cell::Settled(Arc::new((now, not_federated()))))
}

impl Cell {
    /// Whether both engines surely do the same with this call. Where there are others like it, that they are told too
    /// must not come to naught: what reads nothing of the call is decided.
    fn decides_alike(
        &self,
        engines: Pair<'_>,
        flow: &RecordedFlow,
        call: &RecordedCall,
        given: Option<&[ConditionOutcome]>,
    ) -> bool {
        let Self::Weighed(pair) = self else { return matches!(self, Self::Alike) };
        if !call.counts_as(flow.action) {
            return false;
        }
        let given = given.unwrap_or_default();
        let alike = call.with(flow, escaped(engines.now, flow.port), |attempt| {
            let (now, of_now) = pair.0.effect(attempt, given)?;
            let (draft, of_draft) = pair.1.effect(attempt, given)?;
            Some(now == draft && (flow.others == 0 || depends_on_call(of_now.and(of_draft))))
        });
        alike.flatten().unwrap_or(false)
    }
}

impl Engine {
    /// The route or port that an attempt is for, as policies write it, if it is for one.
    pub fn resource_of(&self, port: u16, attempt: Attempt<'_>) -> Option<Arc<str>> {
        let (_, target) = self.0.locate(port, attempt).ok()?;
        self.0.resources.get(target.resource).map(|governed| Arc::clone(&governed.label))
    }
}

/// What becomes of paths with escaped slashes; where there is no such port, that is what is told of them.
fn escaped(engine: &Engine, port: u16) -> EscapedSlashes {
    engine.0.ports.get(&port).map_or(EscapedSlashes::Keep, |port| port.escaped_slashes)
}

/// Whether it has two readings, or might.
fn has_escapes(call: &RecordedCall) -> bool {
    let parsed = CanonicalPath::parse_with(&call.method, &call.target, EscapedSlashes::Keep);
    parsed.is_ok_and(|path| path.with_slashes().is_some())
}

#[cfg(test)]
mod tests;
