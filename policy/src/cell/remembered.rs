//! What is remembered of one caller, action and resource.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::InPlay;
use crate::allowance::Held;
use crate::decision::Decision;
use crate::quick_hash::QuickMap;
use crate::tally::Tally;
use crate::vocabulary::Action;

/// How many paths one caller's memory of one route and action holds before it starts afresh.
pub(crate) const MAX_REMEMBERED_PATHS: usize = 64;

/// The longest path that is remembered, in bytes.
const MAX_REMEMBERED_PATH_LEN: usize = 256;

/// About what each takes of memory, in bytes: a decision with its place in a map; which policies are in play, and those
/// of them that Cedar must be asked about; an entity that these can look at.
const DECISION_BYTES: usize = 640;
const IN_PLAY_BYTES: usize = 2_048;
const POLICY_BYTES: usize = 4_096;
const ENTITY_BYTES: usize = 1_024;

/// What is known of one route, or port, and action.
#[derive(Debug)]
pub(crate) enum Cell {
    /// No policy in play reads what may vary: always the same.
    Settled(Arc<Decision>, Arc<Tally>),
    Open(Box<OpenCell>),
}

#[derive(Debug)]
pub(crate) struct OpenCell {
    pub(crate) in_play: Arc<InPlay>,
    /// Counts, where the path alone tells the outcome; otherwise nothing is remembered.
    by_path: Option<Arc<Tally>>,
    /// At most [`MAX_REMEMBERED_PATHS`].
    pub(crate) remembered: QuickMap<Box<str>, Arc<Decision>>,
}

/// What one evaluation teaches.
#[derive(Debug)]
pub(crate) struct Lesson {
    decision: Arc<Decision>,
    /// The policies in play, where the outcome may be another one for another question.
    in_play: Option<Arc<InPlay>>,
    /// Where the path alone tells it: that, unless it is too long to be kept.
    path: Option<Option<Box<str>>>,
}

impl Cell {
    /// What is remembered of a question, with where it is counted.
    pub(crate) fn recall(&self, path: Option<&str>) -> Option<(&Arc<Decision>, &Arc<Tally>)> {
        match self {
            Self::Settled(decision, tally) => Some((decision, tally)),
            Self::Open(open) => {
                let tally = open.by_path.as_ref()?;
                Some((open.remembered.get(path?)?, tally))
            }
        }
    }

    pub(crate) fn forget_paths(&mut self) {
        if let Self::Open(open) = self {
            open.remembered = QuickMap::default();
        }
    }
}

impl Lesson {
    /// Whatever is asked, the outcome is this one.
    pub(super) fn settled(decision: Arc<Decision>) -> Self {
        Self { decision, in_play: None, path: None }
    }

    /// The outcome may be another one for another question; `path` is there where that alone tells it, none within
    /// where there is none.
    pub(super) fn open(decision: Arc<Decision>, in_play: Arc<InPlay>, path: Option<Option<&str>>) -> Self {
        let short = |path: &&str| path.len() <= MAX_REMEMBERED_PATH_LEN;
        let path = path.map(|path| path.filter(short).map(Box::from));
        Self { decision, in_play: Some(in_play), path }
    }

    /// What was decided.
    pub(crate) fn decision(&self) -> &Arc<Decision> {
        &self.decision
    }

    /// Whether it is remembered by a path.
    pub(crate) fn has_path(&self) -> bool {
        matches!(self.path, Some(Some(_)))
    }

    /// Writes it down where there is room, and gives where questions like it are counted. What somebody else has
    /// written there stays.
    pub(crate) fn enter(
        self,
        place: Entry<'_, (usize, Action), Cell>,
        held: &mut Held,
    ) -> Option<Arc<Tally>> {
        let Self { decision, in_play, path } = self;
        let is_settled = in_play.is_none();
        let cell = match (place, in_play) {
            (Entry::Occupied(known), _) => known.into_mut(),
            (Entry::Vacant(free), None) => {
                let has_room = held.take(DECISION_BYTES);
                return has_room.then(|| {
                    let tally = Tally::new(true);
                    free.insert(Cell::Settled(decision, Arc::clone(&tally)));
                    tally
                });
            }
            (Entry::Vacant(free), Some(in_play)) => {
                if !held.take(in_play.bytes()) {
                    return None;
                }
                let by_path = path.is_some().then(|| Tally::new(false));
                free.insert(Cell::Open(Box::new(OpenCell {
                    in_play,
                    by_path,
                    remembered: QuickMap::default(),
                })))
            }
        };
        match (cell, path) {
            (Cell::Settled(_, tally), None) if is_settled => Some(Arc::clone(tally)),
            (Cell::Open(open), Some(path)) => {
                if let Some(path) = path {
                    open.remember(path, decision, held);
                }
                open.by_path.clone()
            }
            _ => None,
        }
    }
}

impl OpenCell {
    /// Where there is no room, its other paths make some: those that nobody asks for any longer are among them.
    fn remember(&mut self, path: Box<str>, decision: Arc<Decision>, held: &mut Held) {
        let bytes = bytes_of(&path);
        if self.remembered.len() >= MAX_REMEMBERED_PATHS {
            self.forget_paths(held);
        }
        if !held.take_path(bytes) {
            self.forget_paths(held);
            if !held.take_path(bytes) {
                return;
            }
        }
        if self.remembered.insert(path, decision).is_some() {
            held.give_path(bytes);
        }
    }

    fn forget_paths(&mut self, held: &mut Held) {
        held.give_path(self.remembered.keys().map(|path| bytes_of(path)).sum());
        self.remembered.clear();
    }
}

/// About what a decision takes that is remembered by its path.
fn bytes_of(path: &str) -> usize {
    DECISION_BYTES + path.len()
}

impl InPlay {
    /// About what it takes of memory.
    fn bytes(&self) -> usize {
        let parts = [&self.boundary, &self.enforce, &self.audit];
        let for_cedar: usize = parts.iter().map(|part| part.for_cedar.num_of_policies()).sum();
        IN_PLAY_BYTES + for_cedar * POLICY_BYTES + self.entities.iter().count() * ENTITY_BYTES
    }
}
