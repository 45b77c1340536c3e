//! Groups within groups: what is reached from one, and whether it comes round again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hauberk_identity::Name;

/// `from` and all that is within it, at any depth. `within` says what is in a group itself.
pub(crate) fn reached<'a>(from: &'a Name, within: impl Fn(&Name) -> &'a [Name]) -> BTreeSet<&'a Name> {
    let mut reached = BTreeSet::from([from]);
    let mut pending = vec![from];
    while let Some(group) = pending.pop() {
        pending.extend(within(group).iter().filter(|inner| reached.insert(inner)));
    }
    reached
}

/// The shortest way from a group back to itself, which stands at both ends of it; `None` where there is none.
pub(crate) fn circle<'a>(from: &'a Name, within: impl Fn(&Name) -> &'a [Name]) -> Option<Vec<&'a Name>> {
    let mut came_from: BTreeMap<&Name, &Name> = BTreeMap::new();
    let mut pending = VecDeque::from([from]);
    while let Some(group) = pending.pop_front() {
        for inner in within(group) {
            if came_from.contains_key(inner) {
                continue;
            }
            came_from.insert(inner, group);
            if inner == from {
                let mut way = vec![from];
                let mut last = group;
                while last != from {
                    way.push(last);
                    last = came_from.get(last).copied()?;
                }
                way.push(from);
                way.reverse();
                return Some(way);
            }
            pending.push_back(inner);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_reached_and_the_shortest_circle() {
        let name = |text: &str| Name::parse(text).unwrap();
        let names = |texts: &[&str]| texts.iter().map(|text| name(text)).collect::<Vec<_>>();
        let groups = BTreeMap::from([
            (name("a"), names(&["b", "c"])),
            (name("b"), names(&["d"])),
            (name("c"), names(&["a", "d", "gone"])),
            (name("d"), names(&["c"])),
            (name("e"), names(&["e"])),
            (name("f"), names(&["a"])),
        ]);
        let within = |group: &Name| groups.get(group).map(Vec::as_slice).unwrap_or_default();
        let spell = |names: Vec<&Name>| names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" ");
        let reached_from = |from: &str| {
            let from = name(from);
            spell(reached(groups.get_key_value(&from).unwrap().0, within).into_iter().collect())
        };
        assert_eq!(reached_from("d"), "a b c d gone");
        assert_eq!(reached_from("e"), "e");
        let circle_of = |from: &str| {
            let from = name(from);
            circle(groups.get_key_value(&from).unwrap().0, within).map(spell)
        };
        assert_eq!(circle_of("a").as_deref(), Some("a c a"));
        assert_eq!(circle_of("b").as_deref(), Some("b d c a b"));
        assert_eq!(circle_of("e").as_deref(), Some("e e"));
        assert_eq!(circle_of("f"), None);
    }
}
