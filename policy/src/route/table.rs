//! All routes of one port, and which of them a request belongs to.

use std::ops::{Deref, Range};

use super::{Pieces, RouteTemplate};
use crate::path::CanonicalPath;
use crate::quick_hash::QuickMap;

/// The routes of a port, the most specific first, each with the place of its resource. A port has hundreds, and each request
/// asks: the first segment of a path rules most of them out.
#[derive(Debug)]
pub(crate) struct RouteTable {
    routes: Vec<(RouteTemplate, usize)>,
    /// Where those stand that begin with this literal. Ordered by specificity, they stand together.
    by_first: QuickMap<Box<str>, Range<usize>>,
    /// Where those begin whose first segment is no literal. They are after all others.
    open: usize,
}

impl RouteTable {
    pub(crate) fn new(mut routes: Vec<(RouteTemplate, usize)>) -> Self {
        routes.sort_by(|(one, _), (other, _)| one.by_specificity(other));
        let mut by_first: QuickMap<Box<str>, Range<usize>> = QuickMap::default();
        let mut open = 0;
        for (index, (template, _)) in routes.iter().enumerate() {
            let Some(first) = template.first_literal() else { break };
            by_first.entry(first.into()).or_insert(index..index).end = index + 1;
            open = index + 1;
        }
        Self { routes, by_first, open }
    }

    /// The most specific route that a request belongs to.
    pub(crate) fn find(&self, method: &str, path: &CanonicalPath<'_>) -> Option<&(RouteTemplate, usize)> {
        self.worth_trying(path).find(|(template, _)| template.matches(method, path))
    }

    /// Those that the first segment of a path does not rule out.
    fn worth_trying(&self, path: &CanonicalPath<'_>) -> impl Iterator<Item = &(RouteTemplate, usize)> {
        let first = Pieces(Some(path.path().strip_prefix('/').unwrap_or_default())).next();
        let same = first.and_then(|first| self.by_first.get(first)).cloned().unwrap_or_default();
        let same = self.routes.get(same).unwrap_or_default();
        same.iter().chain(self.routes.iter().skip(self.open))
    }
}

impl Deref for RouteTable {
    type Target = [(RouteTemplate, usize)];

    fn deref(&self) -> &Self::Target {
        &self.routes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_worth_trying_does_not_match() {
        let templates = [
            "/",
            "/a",
            "/a/{id}",
            "GET /a/{id}",
            "/a/b",
            "/b",
            "/b/*",
            "/ab",
            "/{x}",
            "/{x}/b",
            "/*",
            "GET /*",
            "/%C3%A4/x",
            "/a{x}",
            "/{x}c",
            "/{x}.json/b",
        ];
        let templates = templates.iter().map(|text| RouteTemplate::parse(text).unwrap());
        let table = RouteTable::new(templates.zip(0..).collect());
        assert!(table.is_sorted_by(|(one, _), (other, _)| one.by_specificity(other).is_le()));
        for path in [
            "/",
            "/a",
            "/a/1",
            "/a/b",
            "/a/b/c",
            "/b",
            "/b/",
            "/ab",
            "/abc",
            "/c/b",
            "/%C3%A4/x",
            "/_",
            "/x.json/b",
            "/ax",
        ] {
            let path = CanonicalPath::parse("GET", path).unwrap();
            for method in ["GET", "POST"] {
                let slowly = table.iter().find(|(template, _)| template.matches(method, &path));
                assert_eq!(table.find(method, &path), slowly, "{method} {path}");
            }
            let tried = table.worth_trying(&path).count();
            assert!(tried < table.len(), "{path}: {tried}");
        }
        let star = CanonicalPath::parse("OPTIONS", "*").unwrap();
        assert_eq!(table.find("OPTIONS", &star), None);
    }

    #[test]
    fn a_port_without_routes_has_none_to_find() {
        let table = RouteTable::new(Vec::new());
        assert_eq!(table.find("GET", &CanonicalPath::parse("GET", "/a").unwrap()), None);
    }
}
