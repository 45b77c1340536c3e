//! Operations that no request tells apart: those of paths that differ in the names of their parameters, or in a query or
//! fragment that was cut.

use std::collections::{BTreeMap, BTreeSet};

use hauberk_identity::Name;
use hauberk_policy::{DeclaredRoute, RouteTemplate};

use super::{Described, Flaw, MOST_FOUND};

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
            group
                .iter()
                .skip(at + 1)
                .any(|(_, other)| one.route.template.collides_with(&other.route.template))
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
        shared.push(places.into_iter().collect::<Vec<_>>().join(" and "));
    }
    routes.sort_by_key(|(index, _)| *index);
    Ok(Described { routes: routes.into_iter().map(|(_, route)| route).collect(), shared })
}

/// Routes of the same paths, each method with the data classes of all that list it.
fn by_method(group: &[(usize, Said)]) -> Vec<Result<DeclaredRoute, hauberk_policy::RouteTemplateError>> {
    let text = group.first().map(|(_, first)| first.route.template.as_str()).unwrap_or_default();
    let path = text.split_once(' ').map_or(text, |(_, path)| path);
    // None stands for every method that is not listed.
    let mut classes: BTreeMap<Option<&str>, BTreeSet<&Name>> = BTreeMap::new();
    for (_, said) in group {
        let methods = said.route.template.methods();
        let any = methods.is_empty().then_some(None);
        for method in methods.iter().map(|method| Some(method.as_str())).chain(any) {
            classes.entry(method).or_default().extend(&said.route.classes);
        }
    }
    let mut alike: BTreeMap<(bool, BTreeSet<&Name>), Vec<&str>> = BTreeMap::new();
    for (method, classes) in classes {
        alike.entry((method.is_none(), classes)).or_default().extend(method);
    }
    let route = |((_, classes), methods): ((bool, BTreeSet<&Name>), Vec<&str>)| {
        let text = if methods.is_empty() { path.to_owned() } else { format!("{} {path}", methods.join(",")) };
        let classes = classes.into_iter().cloned().collect();
        Ok(DeclaredRoute { classes, ..DeclaredRoute::from(RouteTemplate::parse(&text)?) })
    };
    alike.into_iter().map(route).collect()
}
