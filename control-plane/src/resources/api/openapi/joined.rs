//! Operations that no request tells apart: those of paths that differ in the names of their parameters, or in a query or
//! fragment that was cut.

use std::collections::{BTreeMap, BTreeSet};

use hauberk_identity::Name;
use hauberk_policy::{DeclaredRoute, RouteTemplate};

use super::{Described, Flaw, MOST_FOUND};

/// How many places of one route are told.
const MOST_PLACES: usize = 3;

const HEAD: &str = "HEAD";

/// A route, and where the document says it.
pub(super) struct Said {
    pub(super) at: String,
    pub(super) route: DeclaredRoute,
}

/// The routes as they can be told apart. What is of the same paths and methods is one route with the data classes of all, by the
/// names that the first gives its parameters.
pub(super) fn joined(said: Vec<Said>) -> Result<Described, Vec<Flaw>> {
    if said.len() > MOST_FOUND {
        // It is refused for that.
        return Ok(Described {
            routes: said.into_iter().map(|said| said.route).collect(),
            shared: Vec::new(),
        });
    }
    let mut groups: Vec<Vec<(usize, Said)>> = Vec::new();
    for (index, one) in said.into_iter().enumerate() {
        let is_like = |group: &&mut Vec<(usize, Said)>| {
            group.first().is_some_and(|(_, first)| first.route.template.is_of_same_paths(&one.route.template))
        };
        match groups.iter_mut().find(is_like) {
            Some(group) => group.push((index, one)),
            None => groups.push(vec![(index, one)]),
        }
    }
    let (mut routes, mut shared) = (Vec::new(), Vec::new());
    for group in groups {
        let collide = |(at, (_, one)): (usize, &(usize, Said))| {
            group.iter().skip(at + 1).any(|(_, other)| share_requests(one, other))
        };
        if !group.iter().enumerate().any(collide) {
            routes.extend(group.into_iter().map(|(index, said)| (index, said.route)));
            continue;
        }
        let Some((index, first)) = group.first() else { continue };
        let index = *index;
        for route in by_method(&group) {
            routes.push((index, route.map_err(|error| vec![Flaw::at(&first.at, error.to_string())])?));
        }
        let places: BTreeSet<&str> = group.iter().map(|(_, said)| &*said.at).collect();
        shared.push(in_words(&places));
    }
    routes.sort_by_key(|(index, _)| *index);
    Ok(Described { routes: routes.into_iter().map(|(_, route)| route).collect(), shared })
}

/// Whether some request of these paths is of both. What one path says of a method goes before what it says of every method, and of HEAD
/// before what it says of GET; of another path's that is not known.
fn share_requests(one: &Said, other: &Said) -> bool {
    let (own, others) = (&one.route.template, &other.route.template);
    let takes_others =
        || own.methods().is_empty() != others.methods().is_empty() || own.is_for(HEAD) && others.is_for(HEAD);
    own.collides_with(others) || one.at != other.at && takes_others()
}

/// The first few of the places of one route: a document may say hundreds.
fn in_words(places: &BTreeSet<&str>) -> String {
    let told = places.iter().copied().take(MOST_PLACES).collect::<Vec<_>>().join(" and ");
    match places.len().saturating_sub(MOST_PLACES) {
        0 => told,
        more => format!("{told} and {more} more"),
    }
}

/// Routes of the same paths, each method with the data classes of all that it may be of: of each path what lists it, or else what is of
/// every method.
fn by_method(group: &[(usize, Said)]) -> Vec<Result<DeclaredRoute, hauberk_policy::RouteTemplateError>> {
    let text = group.first().map(|(_, first)| first.route.template.as_str()).unwrap_or_default();
    let path = text.split_once(' ').map_or(text, |(_, path)| path);
    let (mut listed, mut any): (BTreeMap<&str, Vec<usize>>, Vec<usize>) = (BTreeMap::new(), Vec::new());
    for (place, (_, said)) in group.iter().enumerate() {
        match said.route.template.methods() {
            [] => any.push(place),
            methods => {
                methods.iter().for_each(|method| listed.entry(method.as_str()).or_default().push(place));
            }
        }
    }
    // Of each of these places, then of those of `others` whose path is none of theirs.
    let and_of = |mut places: Vec<usize>, others: &[usize]| {
        let at = |place: &usize| group.get(*place).map(|(_, said)| said.at.as_str());
        let known: BTreeSet<Option<&str>> = places.iter().map(at).collect();
        places.extend(others.iter().filter(|other| !known.contains(&at(other))));
        places
    };
    if let (Some(gets), Some(heads)) = (listed.get("GET").cloned(), listed.get_mut(HEAD)) {
        *heads = and_of(std::mem::take(heads), &gets);
    }
    // Many methods of one place are looked at once.
    let mut places: BTreeMap<Vec<usize>, Vec<&str>> = BTreeMap::new();
    for (method, of) in listed {
        places.entry(of).or_default().push(method);
    }
    let classes = |places: &[usize]| -> BTreeSet<&Name> {
        places
            .iter()
            .filter_map(|place| group.get(*place))
            .flat_map(|(_, said)| &said.route.classes)
            .collect()
    };
    let mut alike: BTreeMap<(bool, BTreeSet<&Name>), BTreeSet<&str>> = BTreeMap::new();
    for (of, methods) in places {
        alike.entry((false, classes(&and_of(of, &any)))).or_default().extend(methods);
    }
    if !any.is_empty() {
        alike.entry((true, classes(&any))).or_default();
    }
    let route = |((_, classes), methods): ((bool, BTreeSet<&Name>), BTreeSet<&str>)| {
        let methods = methods.into_iter().collect::<Vec<_>>().join(",");
        let text = if methods.is_empty() { path.to_owned() } else { format!("{methods} {path}") };
        let classes = classes.into_iter().cloned().collect();
        Ok(DeclaredRoute { classes, ..DeclaredRoute::from(RouteTemplate::parse(&text)?) })
    };
    alike.into_iter().map(route).collect()
}
