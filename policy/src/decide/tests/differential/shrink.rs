//! Makes a world in which something is wrong as small as it goes: fewer questions, fewer policies, then plainer ones.

use super::conditions::Condition;
use super::questions::{CALLER, PARTS};
use super::world::World;

/// How often it is tried at most.
const MAX_TRIES: usize = 4_096;

/// Gives a world that `is_wrong` too, and of which no single part can be left out or made plain.
pub(super) fn smallest(world: World, is_wrong: impl Fn(&World) -> bool) -> World {
    let mut tries = 0;
    let mut is_wrong = |world: &World| {
        tries += 1;
        tries <= MAX_TRIES && is_wrong(world)
    };
    let mut smallest = world;
    // Each question for itself, so that any of them can go.
    let apart = smallest.choices().into_iter().map(|choices| (choices, Vec::new())).collect();
    smallest = World { questions: apart, ..smallest };
    loop {
        let questions = fewer(&smallest.questions, |questions| {
            is_wrong(&World { questions: questions.to_vec(), ..smallest.clone() })
        });
        let policies = fewer(&smallest.policies, |policies| {
            let (policies, questions) = (policies.to_vec(), questions.clone());
            is_wrong(&World { policies, questions, ..smallest.clone() })
        });
        let before = smallest.questions.len() + smallest.policies.len();
        let mut is_smaller = questions.len() + policies.len() < before;
        smallest = World { questions, policies, ..smallest };
        while let Some(plainer) = plainer(&smallest).into_iter().find(|world| is_wrong(world)) {
            smallest = plainer;
            is_smaller = true;
        }
        if !is_smaller {
            return smallest;
        }
    }
}

/// Leaves out what can be, many at a time at first.
fn fewer<T: Clone>(all: &[T], mut is_enough: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut left = all.to_vec();
    let mut size = left.len();
    while size > 0 {
        let mut start = 0;
        while start < left.len() {
            let end = (start + size).min(left.len());
            let without = [&left[..start], &left[end..]].concat();
            if is_enough(&without) {
                left = without;
            } else {
                start = end;
            }
        }
        size /= 2;
    }
    left
}

/// Worlds in which one thing is plainer.
fn plainer(world: &World) -> Vec<World> {
    let mut plainer = Vec::new();
    let mut add = |change: &dyn Fn(&mut World)| {
        let mut other = world.clone();
        change(&mut other);
        plainer.push(other);
    };
    if world.is_open {
        add(&|world| world.is_open = false);
    }
    if world.roles > 0 {
        add(&|world| world.roles = 0);
    }
    if world.labels > 0 {
        add(&|world| world.labels = 0);
    }
    for (index, draft) in world.policies.iter().enumerate() {
        for other in draft.plainer() {
            add(&|world| world.policies[index] = other.clone());
            // Where a policy is of one caller alone, neither can become plain without the other.
            add(&|world| {
                world.policies[index] = other.clone();
                world.questions.iter_mut().for_each(|(choices, _)| choices[CALLER] = 0);
            });
        }
    }
    for part in 0..PARTS {
        let is_plain = |world: &World, index: usize| world.questions[index].0[part] == 0;
        let wanting: Vec<_> = (0..world.questions.len()).filter(|index| !is_plain(world, *index)).collect();
        if wanting.len() > 1 {
            add(&|world| world.questions.iter_mut().for_each(|(choices, _)| choices[part] = 0));
        }
        for index in wanting {
            add(&|world| world.questions[index].0[part] = 0);
        }
    }
    plainer
}

impl Condition {
    /// What it is made of.
    pub(super) fn parts(&self) -> Vec<Self> {
        match self {
            Self::Atom(_) => Vec::new(),
            Self::Not(one) => vec![Self::clone(one)],
            Self::And(one, other) | Self::Or(one, other) => vec![Self::clone(one), Self::clone(other)],
            Self::If(one, two, three) => [one, two, three].map(|part| Self::clone(part)).to_vec(),
        }
    }
}
