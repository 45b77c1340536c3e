//! What two engines say of a call, and what of that is told.

use super::{RecordedCall, Replayed, Undecidable};
use crate::decision::{Decision, Effect};
use crate::reads::{Fact, FactSet};

/// What both engines decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// Surely the same, whatever it is.
    Alike,
    /// The same of this call; of another one for the same route it may be another.
    AlikeHere,
    Each(Decision, Decision),
}

impl Said {
    /// What is said as well of other calls of the same flow.
    pub(super) fn of_others(self, is_of_all: impl FnOnce(Option<(Effect, Effect)>) -> bool) -> Option<Self> {
        let becomes = match &self {
            Self::Alike => None,
            Self::AlikeHere => return None,
            Self::Each(now, draft) if depends_on_call(now.reads.and(draft.reads)) => return None,
            Self::Each(now, draft) => becomes(now, draft),
        };
        is_of_all(becomes).then_some(self)
    }
}

/// What is decided instead of what, where that is not the same, whichever statements decide it.
pub(super) fn becomes(now: &Decision, draft: &Decision) -> Option<(Effect, Effect)> {
    Some((now.effect, draft.effect)).filter(|(now, draft)| now != draft)
}

/// Whether the outcome may be another one for other calls of the same flow.
pub(super) fn depends_on_call(reads: FactSet) -> bool {
    reads.and(FactSet::of(&[Fact::Identity])) != FactSet::of(&[Fact::Identity])
}

pub(super) fn tell_of<'f>(
    said: Result<Said, Undecidable>,
    count: u64,
    call: Option<&'f RecordedCall>,
    tell: &mut impl FnMut(Replayed, u64, Option<&'f RecordedCall>),
) {
    let (now, draft) = match said {
        Ok(Said::Alike | Said::AlikeHere) => return,
        Ok(Said::Each(now, draft)) => (now, draft),
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
