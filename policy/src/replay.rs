//! What other policies would make of recorded calls.
//!
//! A recorded call is decided again by two engines, what is in force and a draft, with what was recorded of it. What was
//! not recorded is not guessed: a call that depends on it cannot be decided. Where it was recorded how a condition came out, that is as
//! good as what the condition reads, for whichever statement has the same one.

mod compare;
mod recorded;
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
use crate::reads::{Fact, FactSet};
use crate::route::RouteTemplate;
use crate::vocabulary::Action;
use compare::Side;

pub use recorded::{RecordedCall, RecordedFlow};
pub use undecidable::Undecidable;
pub use vouching::{Issuers, Vouching};

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
    /// Where calls belong, in each of their readings: many callers call the same. Empty where they belong nowhere in one of them.
    places: HashMap<Asked, Arc<[Places]>>,
}

/// What was asked for: the port, the action, the method and the target.
type Asked = (u16, Action, Box<str>, Box<str>);

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
    cells: HashMap<(Places, Action), Cell>,
}

/// What is known of all calls of one caller to one route by one action.
#[derive(Debug, Clone)]
enum Cell {
    /// Both engines surely decide them alike.
    Alike,
    /// Both engines decide them so, whatever else they are.
    Settled(Box<(Decision, Decision)>),
    /// Each is to be decided.
    Open,
}

/// How conditions came out.
type Outcomes = Arc<[ConditionOutcome]>;

/// What both engines decide; none: surely the same.
type Said = Result<Option<(Decision, Decision)>, Undecidable>;

impl<'a> Replay<'a> {
    /// Prepares. Compile `draft` with `now` as its former engine: what both share is then seen at once.
    pub fn new(now: &'a Engine, draft: &'a Engine, vouching: &'a Vouching) -> Self {
        let is_one_world = now.scope() == draft.scope() && now.0.said == draft.0.said;
        let engines = Pair { now, draft, is_one_world, vouching };
        Self { engines, current: None, places: HashMap::new() }
    }

    /// Tells what becomes of a flow, with how many calls that is and one of them where one is known. What stays as it is
    /// is not told. Calls that were not recorded one by one are taken for others of the route that they were counted for.
    pub fn flow<'f>(
        &mut self,
        flow: &'f RecordedFlow,
        mut tell: impl FnMut(Replayed, u64, Option<&'f RecordedCall>),
    ) {
        let engines = self.engines;
        let mut known = match self.current.take() {
            Some((caller, known)) if caller == flow.caller => known,
            _ => Known::of(engines, &flow.caller),
        };
        // Of what is decided alike whatever is asked, those that were not recorded can be told too.
        let mut of_others: Option<Said> = None;
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
                let mut is_of_all = |pair: &Option<(Decision, Decision)>| {
                    places.first().is_none_or(|_| known.is_of_all_within(engines, flow, pair.as_ref()))
                };
                let own = said.clone().and_then(|pair| match pair {
                    _ if !is_same_route || !is_of_all(&pair) => Err(Undecidable::TooMany),
                    Some((now, draft)) if depends_on_call(now.reads.and(draft.reads)) => {
                        Err(Undecidable::TooMany)
                    }
                    pair => Ok(pair),
                });
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
        self.current = Some((flow.caller.clone(), known));
    }

    fn places(&mut self, flow: &RecordedFlow, call: &RecordedCall) -> Arc<[Places]> {
        let engines = self.engines;
        let asked = (flow.port, flow.action, call.method.clone(), call.target.clone());
        let find = || engines.places(flow, call).unwrap_or_default();
        Arc::clone(self.places.entry(asked).or_insert_with(find))
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
        let is_told = match places {
            [places] => self.is_at(*places, &flow.route) && self.doubts(flow).is_none(),
            _ => false,
        };
        Some(Arc::clone(&flow.outcomes)).filter(|outcomes| is_told && !outcomes.is_empty())
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
        Self { principals, memos: HashMap::new(), cells: HashMap::new() }
    }

    fn replay(
        &mut self,
        engines: Pair<'_>,
        places: &[Places],
        flow: &RecordedFlow,
        call: &RecordedCall,
    ) -> Said {
        let doubts = engines.doubts(flow);
        let sure = |(now, draft): (Decision, Decision)| match doubts {
            Some(why) if draft.is_allowed() => Err(why),
            _ => Ok(Some((now, draft))),
        };
        match self.cell_of(engines, places, flow) {
            Cell::Alike if doubts.is_none() => return Ok(None),
            Cell::Settled(pair) => return sure(*pair),
            Cell::Alike | Cell::Open => {}
        }
        let given = engines.outcomes(places, flow);
        let memo = |engine: &Engine| engine.caller_given(&flow.caller, &call.peer, given.clone());
        let memos = self.memos.entry((call.peer.clone(), given.clone()));
        let (now, draft) = memos.or_insert_with(|| (memo(engines.now), memo(engines.draft)));
        let decide = |engine: &Engine, memo: &mut CallerMemo| {
            call.with(flow, escaped(engine, flow.port), |attempt| call.decide(memo, flow.port, attempt))
        };
        let (now, draft) = (decide(engines.now, now), decide(engines.draft, draft));
        if now.is_none() && draft.is_none() {
            return Err(Undecidable::Unreadable);
        }
        // One of them refuses the path before policies are asked.
        let refused = || Ok(Decision::denied(Reason::AmbiguousPath));
        sure((now.unwrap_or_else(refused)?, draft.unwrap_or_else(refused)?))
    }

    /// Whether what is said of calls of a flow's route is said of those of each route too that may have been declared within it since
    /// they were recorded.
    fn is_of_all_within(
        &mut self,
        engines: Pair<'_>,
        flow: &RecordedFlow,
        pair: Option<&(Decision, Decision)>,
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
                Cell::Alike => becomes(pair).is_none(),
                Cell::Settled(other) => becomes(pair) == becomes(Some(&other)),
                Cell::Open => false,
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
            let Some(draft) = Side::of(engines.draft, draft_principal, flow.port, places.draft) else {
                return Cell::Open;
            };
            // What is two things at once is decided as a whole.
            let actions = match flow.action {
                Action::Upgrade => [Action::Get, Action::Upgrade],
                action => [action; 2],
            };
            if !places.has_moved
                && actions.iter().all(|action| now.is_alike(&draft, *action, engines.is_one_world))
            {
                return Cell::Alike;
            }
            let settled = now.settled(flow.action).zip(draft.settled(flow.action));
            let Some(pair) = settled.filter(|_| flow.action != Action::Upgrade) else { return Cell::Open };
            // Of users nothing is recorded: what is let through for them alone is nobody's to tell.
            let for_users =
                (now.is_for_users() && pair.0.is_allowed(), draft.is_for_users() && pair.1.is_allowed());
            match for_users {
                (false, false) => Cell::Settled(Box::new(pair)),
                (true, true) => Cell::Alike,
                _ => Cell::Open,
            }
        };
        self.cells.entry((places, flow.action)).or_insert_with(find).clone()
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

/// What is decided instead of what, where that is not the same, whichever statements decide it.
fn becomes(said: Option<&(Decision, Decision)>) -> Option<(Effect, Effect)> {
    said.map(|(now, draft)| (now.effect, draft.effect)).filter(|(now, draft)| now != draft)
}

/// Whether the outcome may be another one for other calls of the same flow.
fn depends_on_call(reads: FactSet) -> bool {
    reads.and(FactSet::of(&[Fact::Identity])) != FactSet::of(&[Fact::Identity])
}

fn tell_of<'f>(
    said: Said,
    count: u64,
    call: Option<&'f RecordedCall>,
    tell: &mut impl FnMut(Replayed, u64, Option<&'f RecordedCall>),
) {
    let (now, draft) = match said {
        Ok(None) => return,
        Ok(Some(pair)) => pair,
        Err(why) => return tell(Replayed::Undecidable(why), count, call),
    };
    let changes_with_time = now.reads.and(draft.reads).change_with_time();
    let flips = now.effect != draft.effect;
    // Of what depends on the time, the moment of one call alone is known.
    let (sure, unsure) = if changes_with_time { (count.min(1), count.saturating_sub(1)) } else { (count, 0) };
    if flips {
        tell(Replayed::Flips { now, draft }, sure, call);
    }
    if unsure > 0 {
        tell(Replayed::Undecidable(Undecidable::DependsOnTime), unsure, call);
    }
}

#[cfg(test)]
mod tests;
