//! What one caller was told before, so that it need not be evaluated again.

use std::sync::Arc;

use hauberk_identity::UnixMillis;

use crate::allowance::{Allowance, Held};
use crate::cell::{Case, Cell, InPlay, Lesson};
use crate::circumstances::{Moment, Peer};
use crate::compile::Engine;
use crate::context::{Circumstances, Query};
use crate::decision::{Attempt, Caller, Decision, Reason};
use crate::facts::Principal;
use crate::outcomes::ConditionOutcome;
use crate::path::CanonicalPath;
use crate::quick_hash::QuickMap;
use crate::tally::{Counted, Tally};
use crate::vocabulary::Action;

/// How many paths all of one caller's memory holds before it forgets them.
pub(crate) const MAX_PATHS_OF_CALLER: usize = 4_096;

/// One caller's view of an [`Engine`], which remembers what was decided.
///
/// Make one per connection, or per caller, peer and thread, and a new one when the engine changes. Its memory is
/// bounded, and that of many together by what they share ([`within`](Self::within)). Whoever shares one among threads
/// asks it by [`recall`](Self::recall), evaluates what it does not know while others ask, and lets it
/// [`learn`](Self::learn) the outcome.
#[derive(Debug)]
pub struct CallerMemo {
    asking: Arc<Asking>,
    pub(crate) cells: QuickMap<(usize, Action), Cell>,
    /// About how many paths the cells hold in all.
    paths: usize,
    held: Held,
}

/// What does not change while one caller asks.
#[derive(Debug)]
struct Asking {
    engine: Engine,
    caller: Caller,
    peer: Peer,
    /// None for identities that never call services.
    principal: Option<Principal>,
    /// How conditions came out, where that is known of former calls, which were taken for whom they were made.
    given: Option<Arc<[ConditionOutcome]>>,
}

/// What a memory says of a question.
#[derive(Debug)]
pub enum Recalled<'a> {
    /// The decision, and whether it was counted where it is remembered.
    Known(Arc<Decision>, Counted),
    /// It must be evaluated.
    Open(Pending<'a>),
}

/// A question that must be evaluated. It holds on to nothing of the memory, which others may use meanwhile.
#[derive(Debug)]
pub struct Pending<'a> {
    asking: Arc<Asking>,
    port: u16,
    attempt: Attempt<'a>,
    moment: Moment,
    mark: Option<u64>,
    found: Found,
    /// The other reading of its path, where there are two.
    other: Option<Box<(CanonicalPath<'a>, Found)>>,
}

/// What is remembered of one reading of a question.
#[derive(Debug)]
enum Found {
    Known(Arc<Decision>),
    /// All that it is, with what is known of that.
    Parts(Vec<(Action, Part)>),
}

#[derive(Debug)]
enum Part {
    Known(Arc<Decision>),
    /// Which policies are in play is known, but not what they say.
    Open(Arc<InPlay>),
    Unknown,
}

/// A decision with what is worth remembering of it.
#[derive(Debug)]
pub struct Learned {
    decision: Arc<Decision>,
    lessons: Vec<((usize, Action), Lesson)>,
    mark: Option<u64>,
    at: UnixMillis,
}

impl CallerMemo {
    pub(crate) fn new(
        engine: Engine,
        caller: Caller,
        peer: Peer,
        given: Option<Arc<[ConditionOutcome]>>,
    ) -> Self {
        let principal = engine.0.principal(&caller);
        let asking = Asking { engine, caller, peer, principal, given };
        Self { asking: Arc::new(asking), cells: QuickMap::default(), paths: 0, held: Held::default() }
    }

    /// The same, which remembers what there is room for among others.
    #[must_use]
    pub fn within(self, allowance: &Arc<Allowance>) -> Self {
        Self { held: Held::of(allowance), ..self }
    }

    /// The engine that decides.
    pub fn engine(&self) -> &Engine {
        &self.asking.engine
    }

    /// Decides whether the caller may do this at the node's listener on `port`, now. What is already remembered is
    /// answered without allocating.
    pub fn decide(&mut self, port: u16, attempt: Attempt<'_>, moment: Moment) -> Arc<Decision> {
        match self.remembered(port, attempt) {
            Some((decision, _)) => Arc::clone(decision),
            None => self.decide_as(port, attempt, moment, |_| true),
        }
    }

    /// The decision on a part of what the attempt is.
    pub(crate) fn decide_as(
        &mut self,
        port: u16,
        attempt: Attempt<'_>,
        moment: Moment,
        is_asked: impl Fn(&Action) -> bool,
    ) -> Arc<Decision> {
        match self.look_up(port, attempt, moment, is_asked, None) {
            Recalled::Known(decision, _) => decision,
            Recalled::Open(pending) => self.learn(pending.decide()).0,
        }
    }

    /// What is remembered of a question. Where its decision is, the question is counted; `mark` stands for the
    /// attempt's method and path, and is not 0.
    pub fn recall<'a>(
        &self,
        port: u16,
        attempt: Attempt<'a>,
        moment: Moment,
        mark: Option<u64>,
    ) -> Recalled<'a> {
        match self.remembered(port, attempt) {
            Some((decision, tally)) => {
                let counted = mark.map_or(Counted::No, |mark| tally.count(mark, moment.time));
                Recalled::Known(Arc::clone(decision), counted)
            }
            None => self.look_up(port, attempt, moment, |_| true, mark),
        }
    }

    /// What is remembered of what is one thing and has one reading, as nearly all has.
    fn remembered(&self, port: u16, attempt: Attempt<'_>) -> Option<(&Arc<Decision>, &Arc<Tally>)> {
        let mut own_path = None;
        if let Attempt::Request { path, upgrade, .. } = attempt {
            if upgrade || path.has_two_readings() {
                return None;
            }
            own_path = Some(path.path());
        }
        self.asking.principal.as_ref()?;
        let inner = &*self.asking.engine.0;
        let (port, target) = inner.locate(port, attempt).ok()?;
        if let Attempt::Request { gathered, .. } = attempt
            && self.asking.given.is_none()
        {
            let resource = &inner.resources.get(target.resource)?.resource;
            if port.refuses(resource, gathered.on_behalf_of()).is_some() {
                return None;
            }
        }
        self.cells.get(&(target.resource, target.action))?.recall(own_path)
    }

    /// Remembers what was evaluated, where it depends on nothing that varies and there is room, and counts it there.
    pub fn learn(&mut self, learned: Learned) -> (Arc<Decision>, Counted) {
        let Learned { decision, lessons, mark, at } = learned;
        let mut counted = Counted::No;
        for (place, lesson) in lessons {
            if lesson.has_path() {
                // Callers choose paths, and a node has hundreds of routes.
                if self.paths >= MAX_PATHS_OF_CALLER {
                    self.cells.values_mut().for_each(Cell::forget_paths);
                    self.held.give_paths();
                    self.paths = 0;
                }
                self.paths += 1;
            }
            if let Some(tally) = lesson.enter(self.cells.entry(place), &mut self.held)
                && let Some(mark) = mark
            {
                counted = tally.count(mark, at);
            }
        }
        (decision, counted)
    }

    /// A path that servers read in two ways must be let through in both.
    fn look_up<'a>(
        &self,
        port: u16,
        attempt: Attempt<'a>,
        moment: Moment,
        is_asked: impl Fn(&Action) -> bool,
        mark: Option<u64>,
    ) -> Recalled<'a> {
        let asking = || Arc::clone(&self.asking);
        let found = self.find(port, attempt, &is_asked);
        if let Attempt::Request { method, path, upgrade, gathered } = attempt
            && let Some(path) = path.with_slashes()
        {
            let as_slashes = Attempt::Request { method, path: &path, upgrade, gathered };
            let other = self.find(port, as_slashes, &is_asked);
            // What it counts as is how it stands, and is not told by one memory alone.
            return match (other, found) {
                (Found::Known(one), Found::Known(other)) => {
                    let both = Arc::unwrap_or_clone(one).and(Arc::unwrap_or_clone(other));
                    Recalled::Known(Arc::new(both), Counted::No)
                }
                (other, found) => {
                    let other = Some(Box::new((path, other)));
                    Recalled::Open(Pending {
                        asking: asking(),
                        port,
                        attempt,
                        moment,
                        mark: None,
                        found,
                        other,
                    })
                }
            };
        }
        // What is two things at once has two memories, and is counted in neither.
        let mark = mark.filter(|_| !matches!(attempt, Attempt::Request { upgrade: true, .. }));
        match found {
            Found::Known(decision) => Recalled::Known(decision, Counted::No),
            found => {
                Recalled::Open(Pending { asking: asking(), port, attempt, moment, mark, found, other: None })
            }
        }
    }

    /// What is remembered of one reading.
    fn find(&self, port: u16, attempt: Attempt<'_>, is_asked: &impl Fn(&Action) -> bool) -> Found {
        let inner = &*self.asking.engine.0;
        let denied = |reason| Found::Known(Arc::new(Decision::denied(reason)));
        if self.asking.principal.is_none() {
            return denied(Reason::NotAPrincipal);
        }
        let (port, target) = match inner.locate(port, attempt) {
            Ok(found) => found,
            Err(reason) => return denied(reason),
        };
        let Some(governed) = inner.resources.get(target.resource) else {
            return denied(Reason::EvaluationError);
        };
        let mut path = None;
        if let Attempt::Request { path: own, gathered, .. } = attempt {
            path = Some(own.path());
            if self.asking.given.is_none()
                && let Some(reason) = port.refuses(&governed.resource, gathered.on_behalf_of())
            {
                let (action, resource) = (Some(target.action), Some(governed.label.clone()));
                let refused = Decision { action, resource, ..Decision::denied(reason) };
                return Found::Known(Arc::new(refused));
            }
        }
        let part = |action| {
            let part = match self.cells.get(&(target.resource, action)) {
                None => Part::Unknown,
                Some(cell) => match (cell.recall(path), cell) {
                    (Some((decision, _)), _) => Part::Known(Arc::clone(decision)),
                    (None, Cell::Open(open)) => Part::Open(Arc::clone(&open.in_play)),
                    (None, Cell::Settled(..)) => Part::Unknown,
                },
            };
            (action, part)
        };
        let mut parts = target.actions().filter(is_asked).map(part);
        match (parts.next(), parts.next()) {
            (Some((_, Part::Known(decision))), None) => Found::Known(decision),
            (first, second) => Found::Parts(first.into_iter().chain(second).chain(parts).collect()),
        }
    }
}

impl Pending<'_> {
    /// Evaluates it.
    pub fn decide(self) -> Learned {
        let Self { asking, port, attempt, moment, mark, found, other } = self;
        let mut lessons = Vec::new();
        let as_slashes = other.map(|other| {
            let (path, found) = *other;
            let read = match attempt {
                Attempt::Request { method, upgrade, gathered, .. } => {
                    Attempt::Request { method, path: &path, upgrade, gathered }
                }
                Attempt::Stream => Attempt::Stream,
            };
            asking.judge(port, read, moment, found, &mut lessons)
        });
        let as_it_stands = asking.judge(port, attempt, moment, found, &mut lessons);
        let decision = match as_slashes {
            Some(as_slashes) => {
                Arc::new(Arc::unwrap_or_clone(as_slashes).and(Arc::unwrap_or_clone(as_it_stands)))
            }
            None => as_it_stands,
        };
        Learned { decision, lessons, mark, at: moment.time }
    }
}

impl Asking {
    /// Evaluates what is not known of one reading.
    fn judge(
        &self,
        port: u16,
        attempt: Attempt<'_>,
        moment: Moment,
        found: Found,
        lessons: &mut Vec<((usize, Action), Lesson)>,
    ) -> Arc<Decision> {
        let parts = match found {
            Found::Known(decision) => return decision,
            Found::Parts(parts) => parts,
        };
        let inner = &*self.engine.0;
        let decision = parts.into_iter().map(|(action, part)| {
            let in_play = match part {
                Part::Known(decision) => return decision,
                Part::Open(in_play) => Some(in_play),
                Part::Unknown => None,
            };
            let located = inner.locate(port, attempt).ok();
            let located = located
                .and_then(|(port, target)| Some((port, inner.resources.get(target.resource)?, target)));
            let (Some(principal), Some((port, governed, target))) = (&self.principal, located) else {
                return Arc::new(Decision::denied(Reason::EvaluationError));
            };
            let (caller, peer, is_foreign) = (&self.caller, &self.peer, principal.is_foreign);
            let template = target.template;
            let about = Circumstances {
                caller,
                is_foreign,
                peer,
                moment,
                action,
                attempt,
                template,
                query: Query::default(),
            };
            let given = self.given.as_deref().unwrap_or_default();
            let lesson = Case { inner, principal, port, governed, about, given }.evaluate(in_play);
            let decision = Arc::clone(lesson.decision());
            lessons.push(((target.resource, action), lesson));
            decision
        });
        let both = |one: Arc<Decision>, other: Arc<Decision>| {
            Arc::new(Arc::unwrap_or_clone(one).and(Arc::unwrap_or_clone(other)))
        };
        decision.reduce(both).unwrap_or_else(|| Arc::new(Decision::denied(Reason::EvaluationError)))
    }
}
