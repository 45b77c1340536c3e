//! All routes of one port, and which of them a request belongs to.

use std::ops::{Deref, Range};

use super::RouteTemplate;
use super::segment::Segment;
use crate::path::CanonicalPath;

/// The routes of a port, the most specific first, each with the place of its resource. A port has hundreds, and each
/// request asks: they stand in a tree by their segments.
#[derive(Debug)]
pub(crate) struct RouteTable {
    routes: Vec<(RouteTemplate, usize)>,
    /// The first is the root. Those that follow upon one node stand side by side in the order of their routes: what a
    /// walk from the left finds first is the most specific.
    nodes: Vec<Node>,
}

/// What some routes begin with.
#[derive(Debug)]
struct Node {
    parent: usize,
    /// What it adds to its parent; of the root that means nothing.
    segment: Segment,
    /// Where those are that follow upon it: literals, ordered by their text, and from `open` on all others.
    children: Range<usize>,
    open: usize,
    /// The routes that end here.
    routes: Range<usize>,
}

/// One segment of a path, with the way to its neighbours.
#[derive(Clone, Copy)]
struct Place<'p> {
    path: &'p str,
    start: usize,
    end: usize,
}

impl RouteTable {
    pub(crate) fn new(mut routes: Vec<(RouteTemplate, usize)>) -> Self {
        routes.sort_by(|(one, _), (other, _)| one.by_specificity(other));
        let mut nodes = vec![Node::new(0, Segment::Rest)];
        // Which routes begin with what a node stands for, and how many segments that is. They stand together, the
        // longer ones first.
        let mut begun = vec![(0..routes.len(), 0)];
        let mut at = 0;
        while let Some((span, depth)) = begun.get(at).cloned() {
            let segment = |template: &RouteTemplate| template.segments.get(depth).cloned();
            let first = nodes.len();
            let (mut open, mut end) = (first, span.start);
            let all = routes.get(span.clone()).unwrap_or_default();
            for alike in all.chunk_by(|(one, _), (other, _)| segment(one) == segment(other)) {
                let Some(segment) = alike.first().and_then(|(template, _)| segment(template)) else { break };
                open += usize::from(matches!(segment, Segment::Literal(_)));
                nodes.push(Node::new(at, segment));
                begun.push((end..end + alike.len(), depth + 1));
                end += alike.len();
            }
            let children = first..nodes.len();
            if let Some(node) = nodes.get_mut(at) {
                (node.children, node.open, node.routes) = (children, open, end..span.end);
            }
            at += 1;
        }
        Self { routes, nodes }
    }

    /// The most specific route that a request belongs to.
    pub(crate) fn find(&self, method: &str, path: &CanonicalPath<'_>) -> Option<&(RouteTemplate, usize)> {
        self.walk(method, path, |_| {})
    }

    /// Walks the tree from the left, and tells which nodes it tries.
    ///
    /// Each is tried once at most, since one way leads to it: whatever is asked, that is no more than all templates
    /// have segments. To go back it needs nothing but the tree and the path.
    fn walk(
        &self,
        method: &str,
        path: &CanonicalPath<'_>,
        mut tries: impl FnMut(usize),
    ) -> Option<&(RouteTemplate, usize)> {
        let mut place = Place::first(path.path().strip_prefix('/')?);
        let mut at = 0;
        let mut next = self.first_upon(self.nodes.first()?, place);
        loop {
            let node = self.nodes.get(at)?;
            let Some(child) = self.nodes.get(next).filter(|_| next < node.children.end) else {
                // Nothing upon this node matches: its neighbour is next.
                place = place.before()?;
                next = self.behind(at)?;
                at = node.parent;
                continue;
            };
            tries(next);
            if child.segment.matches(place.text()) {
                let following = place.after().filter(|_| child.segment != Segment::Rest);
                if let Some(following) = following {
                    place = following;
                    at = next;
                    next = self.first_upon(child, place);
                    continue;
                }
                let mut ending = self.routes.get(child.routes.clone())?.iter();
                if let Some(found) = ending.find(|(template, _)| template.is_for(method)) {
                    return Some(found);
                }
            }
            next = self.behind(next)?;
        }
    }

    /// Which of those upon a node is to be tried first: the one literal that can match, if it is there.
    fn first_upon(&self, node: &Node, place: Place<'_>) -> usize {
        let literals = self.nodes.get(node.children.start..node.open).unwrap_or_default();
        match literals.binary_search_by(|own| own.segment.literal().cmp(&Some(place.text()))) {
            Ok(found) => node.children.start + found,
            Err(_) => node.open,
        }
    }

    /// What is to be tried after a node, beside it. One literal alone can match.
    fn behind(&self, at: usize) -> Option<usize> {
        let parent = self.nodes.get(self.nodes.get(at)?.parent)?;
        Some(parent.open.max(at + 1))
    }
}

impl Deref for RouteTable {
    type Target = [(RouteTemplate, usize)];

    fn deref(&self) -> &Self::Target {
        &self.routes
    }
}

impl Node {
    fn new(parent: usize, segment: Segment) -> Self {
        Self { parent, segment, children: 0..0, open: 0, routes: 0..0 }
    }
}

impl<'p> Place<'p> {
    fn first(path: &'p str) -> Self {
        Self { path, start: 0, end: end_from(path, 0) }
    }

    fn text(self) -> &'p str {
        self.path.get(self.start..self.end).unwrap_or_default()
    }

    fn after(self) -> Option<Self> {
        let start = self.end + 1;
        (start <= self.path.len()).then(|| Self { start, end: end_from(self.path, start), ..self })
    }

    fn before(self) -> Option<Self> {
        let end = self.start.checked_sub(1)?;
        let start = self.path.get(..end)?.bytes().rposition(|byte| byte == b'/').map_or(0, |slash| slash + 1);
        Some(Self { start, end, ..self })
    }
}

/// Where the segment ends that begins there. Segments are short: to look at each byte takes less than to call what
/// finds one in long texts.
fn end_from(path: &str, start: usize) -> usize {
    let left = path.get(start..).unwrap_or_default();
    left.bytes().position(|byte| byte == b'/').map_or(path.len(), |length| start + length)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn table(templates: impl IntoIterator<Item = impl AsRef<str>>) -> RouteTable {
        let templates = templates.into_iter().map(|text| RouteTemplate::parse(text.as_ref()).unwrap());
        RouteTable::new(templates.zip(0..).collect())
    }

    #[test]
    fn finds_what_a_look_at_each_finds() {
        let table = table([
            "/",
            "/a",
            "/a/{id}",
            "GET /a/{id}",
            "/a/b",
            "/a/b/",
            "/b",
            "/b/*",
            "/ab",
            "/{x}",
            "/{x}/b",
            "POST /{x}/b/c",
            "/*",
            "GET /*",
            "/%C3%A4/x",
            "/a{x}",
            "/{x}c",
            "/{x}.json/b",
            "/{x}.json/{y}/*",
        ]);
        assert!(table.is_sorted_by(|(one, _), (other, _)| one.by_specificity(other).is_le()));
        for path in [
            "/",
            "/a",
            "/a/",
            "/a/1",
            "/a/b",
            "/a/b/",
            "/a/b/c",
            "/a/b/c/",
            "/b",
            "/b/",
            "/ab",
            "/abc",
            "/c/b",
            "/%C3%A4/x",
            "/_",
            "/x.json/b",
            "/x.json/b/",
            "/x.json/c",
            "/ax",
        ] {
            let path = CanonicalPath::parse("GET", path).unwrap();
            for method in ["GET", "POST"] {
                let slowly = table.iter().find(|(template, _)| template.matches(method, &path));
                assert_eq!(table.find(method, &path), slowly, "{method} {path}");
            }
        }
        let star = CanonicalPath::parse("OPTIONS", "*").unwrap();
        assert_eq!(table.find("OPTIONS", &star), None);
    }

    #[test]
    fn a_port_without_routes_has_none_to_find() {
        let table = RouteTable::new(Vec::new());
        assert_eq!(table.find("GET", &CanonicalPath::parse("GET", "/a").unwrap()), None);
    }

    /// How many nodes are tried for a path, each once.
    fn tried(table: &RouteTable, path: &str) -> usize {
        let path = CanonicalPath::parse("GET", path).unwrap();
        let (mut tried, mut times) = (HashSet::new(), 0);
        let found = table.walk("GET", &path, |node| {
            tried.insert(node);
            times += 1;
        });
        assert_eq!(found, table.iter().find(|(template, _)| template.matches("GET", &path)));
        assert_eq!(tried.len(), times, "{path}: one was tried twice");
        times
    }

    #[test]
    fn of_many_routes_few_are_tried() {
        let routes =
            (0..500).flat_map(|number| [format!("/v1/r{number}"), format!("/v1/r{number}/{{id}}/x")]);
        let table = table(routes.chain(["/v1/*".to_owned()]));
        for path in ["/v1/r7", "/v1/r499/1/x", "/v1/r499/1/y", "/v1/none", "/v2", "/v1/"] {
            let tried = tried(&table, path);
            assert!(tried <= 5, "{path}: {tried}");
        }
    }

    #[test]
    fn no_path_makes_it_look_twice_whatever_the_routes_are() {
        const DEPTH: usize = 10;
        // Each segment a literal or a parameter: there are as many ways as templates, and none of them fits in the end.
        let segment = |number: usize, at: usize| match number >> at & 1 {
            0 => "/a".to_owned(),
            _ => format!("/{{p{at}}}"),
        };
        let begun =
            (0..1 << DEPTH).map(|number| (0..DEPTH).map(|at| segment(number, at)).collect::<String>());
        let table = table(begun.map(|begun| begun + "/x"));
        let nodes = table.nodes.len();
        assert_eq!(nodes, (1 << (DEPTH + 1)) - 1 + (1 << DEPTH));
        let all = (1 << (DEPTH + 1)) - 2;
        for (end, expected) in [("/y", all), ("/x/y", nodes - 1), ("", all), ("/x", DEPTH + 1)] {
            assert_eq!(tried(&table, &("/a".repeat(DEPTH) + end)), expected, "{end}");
        }
        // The longest ways back.
        for path in ["/a".repeat(4_000), "/a".repeat(DEPTH) + &"/x".repeat(4_000), "/b".repeat(4_000)] {
            assert!(tried(&table, &path) < nodes);
        }
    }

    #[test]
    fn depth_takes_no_stack() {
        let deep = "/a".repeat(100_000);
        let table = table([format!("{deep}/b"), deep.replace('a', "b")]);
        assert_eq!(tried(&table, &format!("{deep}/c")), 100_000);
        assert_eq!(tried(&table, &deep.replace('a', "b")), 100_000);
    }
}
