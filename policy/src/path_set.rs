//! Sets of paths, and how the paths that a policy names lie to them: for questions about many paths at once.
//!
//! A set is what all of some patterns match and none of some others. Each pattern is a small automaton; they are run
//! side by side over every text that matters, so that the answer holds for all paths and not for samples of them.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

/// The most situations that are looked at before the answer is given up as [`Relation::Part`].
const MAX_SITUATIONS: usize = 4096;

/// The most patterns whose matches are taken out of a set. What is left in besides makes answers less sharp, never
/// wrong.
const MAX_EXCEPTIONS: usize = 32;

/// A pattern of paths.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Glob(Vec<Step>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// This character.
    Char(char),
    /// One character other than a slash.
    Unslashed,
    /// Any number of characters other than slashes.
    Within,
    /// Any number of characters.
    Any,
    /// Nothing, and not within an escape such as `%2D`.
    Uncut,
}

/// Which paths a question is about.
#[derive(Debug, Default)]
pub(crate) struct PathSet {
    all: Vec<Glob>,
    none: Vec<Glob>,
    known: RefCell<HashMap<Glob, Relation>>,
}

/// How much of a set a pattern matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    Whole,
    None,
    /// Some and not others, or nobody knows.
    Part,
    /// The set is empty.
    Nothing,
}

/// Where the automata stand after some text, each at all the places that it may be at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Situation {
    all: Vec<Vec<usize>>,
    none: Vec<Vec<usize>>,
    asked: Vec<usize>,
    after_slash: bool,
    /// How much of an escape is missing, where some pattern asks for it.
    escape: Option<u8>,
}

impl Glob {
    pub(crate) fn new(steps: Vec<Step>) -> Self {
        Self(steps)
    }

    /// Every path.
    pub(crate) fn anything() -> Self {
        Self(vec![Step::Any])
    }

    pub(crate) fn literally(text: &str) -> Self {
        Self(text.chars().map(Step::Char).collect())
    }

    pub(crate) fn push(&mut self, text: &str) {
        self.0.extend(text.chars().map(Step::Char));
    }

    pub(crate) fn extend(&mut self, steps: impl IntoIterator<Item = Step>) {
        self.0.extend(steps);
    }

    fn start(&self) -> Vec<usize> {
        self.closed(vec![0], false)
    }

    /// Adds what is reached without another character, be it within an escape or not.
    fn closed(&self, mut places: Vec<usize>, is_cut: bool) -> Vec<usize> {
        let mut index = 0;
        while let Some(place) = places.get(index).copied() {
            let is_passed = match self.0.get(place) {
                Some(Step::Within | Step::Any) => true,
                Some(Step::Uncut) => !is_cut,
                Some(Step::Char(_) | Step::Unslashed) | None => false,
            };
            if is_passed && !places.contains(&(place + 1)) {
                places.push(place + 1);
            }
            index += 1;
        }
        // Whatever can be matched from before `Any` can be matched from there too.
        let last = places.iter().copied().filter(|place| self.0.get(*place) == Some(&Step::Any)).max();
        places.retain(|place| last.is_none_or(|last| *place >= last));
        places.sort_unstable();
        places
    }

    /// Where it stands after one more character, which is within an escape or not; none stands for one that no pattern
    /// names.
    fn after(&self, places: &[usize], char: Option<char>, is_cut: bool) -> Vec<usize> {
        let mut next = Vec::with_capacity(places.len());
        for place in places {
            let to = match self.0.get(*place) {
                Some(Step::Char(own)) => (char == Some(*own)).then_some(place + 1),
                Some(Step::Unslashed) => (char != Some('/')).then_some(place + 1),
                Some(Step::Within) => (char != Some('/')).then_some(*place),
                Some(Step::Any) => Some(*place),
                Some(Step::Uncut) | None => None,
            };
            next.extend(to.filter(|to| !next.contains(to)));
        }
        self.closed(next, is_cut)
    }

    fn accepts(&self, places: &[usize]) -> bool {
        places.contains(&self.0.len())
    }

    fn asks_for_escapes(&self) -> bool {
        self.0.contains(&Step::Uncut)
    }

    fn chars(&self) -> impl Iterator<Item = char> {
        self.0.iter().filter_map(|step| match step {
            Step::Char(char) => Some(*char),
            _ => None,
        })
    }
}

impl PathSet {
    /// What all of `all` match and none of `none`.
    pub(crate) fn new(all: Vec<Glob>, none: impl IntoIterator<Item = Glob>) -> Self {
        let none = none.into_iter().take(MAX_EXCEPTIONS).collect();
        Self { all, none, known: RefCell::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.relation(&Glob::anything()) == Relation::Nothing
    }

    /// How much of the set a pattern matches.
    pub(crate) fn relation(&self, asked: &Glob) -> Relation {
        if let Some(known) = self.known.borrow().get(asked) {
            return *known;
        }
        let found = self.explore(asked);
        self.known.borrow_mut().insert(asked.clone(), found);
        found
    }

    fn explore(&self, asked: &Glob) -> Relation {
        let globs = || self.all.iter().chain(&self.none).chain([asked]);
        let escape = globs().any(Glob::asks_for_escapes).then_some(0);
        let sign = escape.map(|_| '%');
        let alphabet: BTreeSet<char> = globs().flat_map(Glob::chars).chain(['/']).chain(sign).collect();
        let alphabet: Vec<Option<char>> = alphabet.into_iter().map(Some).chain([None]).collect();
        let start = Situation {
            all: self.all.iter().map(Glob::start).collect(),
            none: self.none.iter().map(Glob::start).collect(),
            asked: asked.start(),
            after_slash: false,
            escape,
        };
        let (mut within, mut outside) = (false, false);
        let mut seen = HashSet::from([start.clone()]);
        let mut waiting = VecDeque::from([start]);
        while let Some(situation) = waiting.pop_front() {
            if self.holds(&situation) {
                let matched = asked.accepts(&situation.asked);
                within |= matched;
                outside |= !matched;
                if within && outside {
                    return Relation::Part;
                }
            }
            for char in &alphabet {
                let Some(next) = self.after(&situation, asked, *char) else { continue };
                if seen.len() >= MAX_SITUATIONS {
                    return Relation::Part;
                }
                if seen.insert(next.clone()) {
                    waiting.push_back(next);
                }
            }
        }
        match (within, outside) {
            (true, false) => Relation::Whole,
            (false, true) => Relation::None,
            (true, true) => Relation::Part,
            (false, false) => Relation::Nothing,
        }
    }

    /// Whether the text that led here is in the set.
    fn holds(&self, situation: &Situation) -> bool {
        let in_all = self.all.iter().zip(&situation.all).all(|(glob, places)| glob.accepts(places));
        in_all
            && !is_cut(situation.escape)
            && !self.none.iter().zip(&situation.none).any(|(glob, places)| glob.accepts(places))
    }

    /// Where all stand after one more character; none where nothing of the set can follow.
    fn after(&self, situation: &Situation, asked: &Glob, char: Option<char>) -> Option<Situation> {
        let is_slash = char == Some('/');
        if is_slash && situation.after_slash {
            // No canonical path holds two slashes in a row.
            return None;
        }
        let escape = situation.escape_after(char)?;
        let is_cut = is_cut(escape);
        let mut all = Vec::with_capacity(self.all.len());
        for (glob, places) in self.all.iter().zip(&situation.all) {
            let next = glob.after(places, char, is_cut);
            if next.is_empty() {
                return None;
            }
            all.push(next);
        }
        let none =
            self.none.iter().zip(&situation.none).map(|(glob, places)| glob.after(places, char, is_cut));
        let (none, asked) = (none.collect(), asked.after(&situation.asked, char, is_cut));
        Some(Situation { all, none, asked, after_slash: is_slash, escape })
    }
}

fn is_cut(escape: Option<u8>) -> bool {
    escape.is_some_and(|missing| missing > 0)
}

impl Situation {
    /// How much of an escape is missing after one more character; nothing where no canonical path goes on so.
    fn escape_after(&self, char: Option<char>) -> Option<Option<u8>> {
        match (self.escape, char) {
            (None, _) => Some(None),
            (Some(0), Some('%')) => Some(Some(2)),
            (Some(0), _) => Some(Some(0)),
            (Some(_), Some(char)) if !matches!(char, '0'..='9' | 'A'..='F') => None,
            (Some(missing), _) => Some(Some(missing - 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::RouteTemplate;

    /// `*` for any characters.
    fn glob(text: &str) -> Glob {
        Glob(text.chars().map(|char| if char == '*' { Step::Any } else { Step::Char(char) }).collect())
    }

    fn template(text: &str) -> Glob {
        RouteTemplate::parse(text).unwrap().glob()
    }

    #[test]
    fn a_pattern_matches_all_of_a_set_or_a_part_or_nothing() {
        use Relation::{None, Nothing, Part, Whole};
        for (set, asked, expected) in [
            (&["/orders/*"][..], "/orders/*", Whole),
            (&["/orders/*"], "/*", Whole),
            (&["/orders/*"], "/orders/1", Part),
            (&["/orders/*"], "/orders/*/items", Part),
            (&["/orders/*"], "/health", None),
            (&["/orders/1"], "/orders/*", Whole),
            (&["/orders/*", "*/items"], "*items", Whole),
            (&["/a*", "/b*"], "*", Nothing),
            (&["/*a*"], "/*a", Part),
            (&["/*a"], "/*a*", Whole),
            (&["/a/*"], "*//*", None),
        ] {
            let set = PathSet::new(set.iter().map(|text| glob(text)).collect(), []);
            assert_eq!(set.relation(&glob(asked)), expected, "{set:?} {asked}");
        }
    }

    #[test]
    fn routes_take_what_is_theirs() {
        let of = |route: &str, but: &[&str]| {
            PathSet::new(vec![template(route)], but.iter().map(|text| template(text)))
        };
        assert_eq!(of("/orders/{id}", &[]).relation(&glob("/orders/*/items")), Relation::None);
        assert_eq!(of("/orders/{id}", &[]).relation(&glob("/orders/*")), Relation::Whole);
        assert_eq!(of("/orders/{id}", &[]).relation(&glob("/orders/admin")), Relation::Part);
        assert_eq!(of("/orders/{id}", &["/orders/admin"]).relation(&glob("/orders/admin")), Relation::None);
        assert!(of("/orders/{id}", &["/orders/*"]).is_empty());
        assert!(!of("/orders/*", &["/orders/{id}"]).is_empty(), "/orders/ and /orders/1/2 are left");
        assert_eq!(of("/orders/*", &["/orders/{id}"]).relation(&glob("/orders/x")), Relation::None);
        assert_eq!(of("shop.Orders/*", &[]).relation(&glob("/shop.Orders/Get")), Relation::Part);
    }

    #[test]
    fn a_pattern_that_takes_too_long_is_a_part() {
        let many = (0..12).map(|letter| format!("*{}", char::from(b'a' + letter))).collect::<String>();
        let set = PathSet::new(vec![glob(&format!("/{many}*")), glob(&format!("*{many}"))], []);
        assert_ne!(set.relation(&glob("/*zz*yy*xx*ww")), Relation::Whole);
    }
}
