//! Templates of routes: which declared route a request belongs to.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::fields::decode;
use crate::path::CanonicalPath;
use crate::path_set::{Glob, Step};

mod table;

pub(crate) use table::RouteTable;

/// The name of the route that holds whatever no template of a port matches.
pub const UNDECLARED: &str = "*undeclared";

/// A pattern of request paths, or of gRPC methods.
///
/// `/orders/{id}`: a segment `{name}` matches any one segment that is not empty; a last segment `*` or `{name...}`
/// matches the rest, slashes and the empty rest included. `GET,HEAD /orders/{id}` matches these methods only.
/// `shop.Orders/Get` and `shop.Orders/*` match gRPC methods. Literal segments are written as canonical paths spell
/// them.
///
/// Of several templates that match, the most specific one wins: segment by segment from the left, a literal before
/// `{name}` before the rest; then one with methods before one without.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RouteTemplate {
    text: Arc<str>,
    methods: Arc<[String]>,
    segments: Arc<[Segment]>,
    /// The names of parameters, each with the place of its segment.
    parameters: Arc<[(usize, Box<str>)]>,
    is_rpc: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Segment {
    Literal(String),
    Any,
    Rest,
}

/// Why a text is not a [`RouteTemplate`]. The fault is whoever wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RouteTemplateError {
    /// The part before the space is not a list of methods.
    #[error("{0:?} is not an HTTP method; write methods in capitals, joined by commas")]
    Method(String),
    /// A gRPC template that is not `package.Service/Method`.
    #[error("a route is a path such as \"/orders/{{id}}\" or a gRPC method such as \"shop.Orders/Get\"")]
    Shape,
    /// A `*` or `{name...}` before the end.
    #[error("{0:?} matches the rest of the path, so it must be the last segment")]
    RestNotLast(String),
    /// Braces that do not enclose one whole segment.
    #[error("{0:?} is not a parameter; write a whole segment such as {{id}}, or {{rest...}} at the end")]
    Parameter(String),
    /// Two parameters with one name.
    #[error("the parameter {{{0}}} stands there twice")]
    DuplicateParameter(String),
    /// A literal segment that no canonical path holds.
    #[error("{0:?} is not spelled as paths are matched; nothing would ever match it")]
    Literal(String),
}

impl RouteTemplate {
    /// Parses a template.
    ///
    /// # Errors
    /// Says which rule of [`RouteTemplate`] the text breaks.
    pub fn parse(text: &str) -> Result<Self, RouteTemplateError> {
        let (methods, path) = match text.split_once(' ') {
            Some((methods, path)) => (parse_methods(methods)?, path),
            None => (Vec::new(), text),
        };
        let is_rpc = !path.starts_with('/');
        let relative = path.strip_prefix('/').unwrap_or(path);
        let (segments, parameters) = (parse_segments(relative)?, parse_parameters(relative)?);
        if is_rpc
            && !(methods.is_empty()
                && matches!(*segments, [Segment::Literal(_), ref last] if *last != Segment::Any))
        {
            return Err(RouteTemplateError::Shape);
        }
        let (methods, segments, parameters) = (methods.into(), segments.into(), parameters.into());
        Ok(Self { text: text.into(), methods, segments, parameters, is_rpc })
    }

    /// The template as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The HTTP methods that it matches; none: every one.
    pub fn methods(&self) -> &[String] {
        &self.methods
    }

    /// Whether both match the same paths, their methods aside.
    pub fn is_of_same_paths(&self, other: &Self) -> bool {
        self.is_rpc == other.is_rpc && self.segments == other.segments
    }

    /// Whether it is a pattern of gRPC methods.
    pub fn is_rpc(&self) -> bool {
        self.is_rpc
    }

    /// Whether a request belongs here, more specific templates aside. A gRPC method's path is `/service/method`.
    pub fn matches(&self, method: &str, path: &CanonicalPath<'_>) -> bool {
        if !self.methods.is_empty() && !self.methods.iter().any(|own| own == method) {
            return false;
        }
        let Some(path) = path.path().strip_prefix('/') else { return false };
        let mut found = Pieces(Some(path));
        for segment in &*self.segments {
            match (segment, found.next()) {
                (Segment::Rest, Some(_)) => return true,
                (Segment::Any, Some(found)) if !found.is_empty() => {}
                (Segment::Literal(own), Some(found)) if own == found => {}
                _ => return false,
            }
        }
        found.next().is_none()
    }

    /// Whether some path may match both, their methods aside.
    pub(crate) fn may_meet(&self, other: &Self) -> bool {
        for (own, others) in self.segments.iter().zip(&*other.segments) {
            match (own, others) {
                (Segment::Rest, _) | (_, Segment::Rest) => return true,
                (Segment::Literal(own), Segment::Literal(other)) if own != other => return false,
                _ => {}
            }
        }
        self.segments.len() == other.segments.len()
    }

    /// Its first segment, where that is a literal one.
    fn first_literal(&self) -> Option<&str> {
        match self.segments.first() {
            Some(Segment::Literal(literal)) => Some(literal),
            _ => None,
        }
    }

    /// The paths that it matches, its methods aside.
    pub(crate) fn glob(&self) -> Glob {
        let mut glob = Glob::new(Vec::new());
        for segment in &*self.segments {
            glob.push("/");
            match segment {
                Segment::Literal(literal) => glob.push(literal),
                Segment::Any => glob.extend([Step::Unslashed, Step::Within]),
                Segment::Rest => glob.extend([Step::Any]),
            }
        }
        glob
    }

    /// The parameters of a path that the template matches, by name, decoded.
    pub(crate) fn parameters<'p>(&self, path: &'p CanonicalPath<'_>) -> Vec<(&str, Cow<'p, str>)> {
        let path = path.path().strip_prefix('/').unwrap_or_default();
        let value = |place: usize| {
            let rest = path.splitn(place + 1, '/').nth(place)?;
            let is_rest = self.segments.get(place) == Some(&Segment::Rest);
            let segment = if is_rest { rest } else { rest.split('/').next()? };
            // Every canonical path decodes.
            decode(segment, false)
        };
        self.parameters.iter().filter_map(|(place, name)| Some((&**name, value(*place)?))).collect()
    }

    /// Orders the more specific template first; equal exactly when both match the same paths and neither has
    /// methods of its own that would tell them apart.
    pub(crate) fn by_specificity(&self, other: &Self) -> Ordering {
        for (own, others) in self.segments.iter().zip(&*other.segments) {
            let order = match (own, others) {
                (Segment::Literal(own), Segment::Literal(other)) => own.cmp(other),
                (own, other) => own.rank().cmp(&other.rank()),
            };
            if order != Ordering::Equal {
                return order;
            }
        }
        let by_length = other.segments.len().cmp(&self.segments.len());
        by_length.then(self.methods.is_empty().cmp(&other.methods.is_empty()))
    }

    /// Whether some request matches both and neither is the more specific one.
    pub(crate) fn collides_with(&self, other: &Self) -> bool {
        self.by_specificity(other) == Ordering::Equal
            && (self.methods.is_empty() || self.methods.iter().any(|method| other.methods.contains(method)))
    }
}

/// What stands between the slashes of a path. Segments are short: to look at each byte takes less than to call what finds one
/// in long texts.
struct Pieces<'p>(Option<&'p str>);

impl<'p> Iterator for Pieces<'p> {
    type Item = &'p str;

    fn next(&mut self) -> Option<&'p str> {
        let left = self.0?;
        let slash = left.bytes().position(|byte| byte == b'/');
        match slash.and_then(|slash| left.split_at_checked(slash)) {
            Some((piece, rest)) => {
                self.0 = rest.get(1..);
                Some(piece)
            }
            None => self.0.take(),
        }
    }
}

impl Segment {
    fn rank(&self) -> u8 {
        match self {
            Self::Literal(_) => 0,
            Self::Any => 1,
            Self::Rest => 2,
        }
    }
}

impl fmt::Display for RouteTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for RouteTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.text, f)
    }
}

fn parse_methods(text: &str) -> Result<Vec<String>, RouteTemplateError> {
    let mut methods = Vec::new();
    for method in text.split(',') {
        if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') {
            return Err(RouteTemplateError::Method(method.to_owned()));
        }
        methods.push(method.to_owned());
    }
    Ok(methods)
}

fn parse_segments(path: &str) -> Result<Vec<Segment>, RouteTemplateError> {
    let mut segments = Vec::new();
    let mut texts = path.split('/').peekable();
    while let Some(text) = texts.next() {
        let segment = parse_segment(text)?;
        if segment == Segment::Rest && texts.peek().is_some() {
            return Err(RouteTemplateError::RestNotLast(text.to_owned()));
        }
        // Empty in the middle is "//", which no canonical path holds.
        if text.is_empty() && texts.peek().is_some() {
            return Err(RouteTemplateError::Literal("//".to_owned()));
        }
        segments.push(segment);
    }
    Ok(segments)
}

fn parse_parameters(path: &str) -> Result<Vec<(usize, Box<str>)>, RouteTemplateError> {
    let mut parameters: Vec<(usize, Box<str>)> = Vec::new();
    for (place, text) in path.split('/').enumerate() {
        let Some(name) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else { continue };
        let name = name.strip_suffix("...").unwrap_or(name);
        if parameters.iter().any(|(_, own)| **own == *name) {
            return Err(RouteTemplateError::DuplicateParameter(name.to_owned()));
        }
        parameters.push((place, name.into()));
    }
    Ok(parameters)
}

fn parse_segment(text: &str) -> Result<Segment, RouteTemplateError> {
    if text == "*" {
        return Ok(Segment::Rest);
    }
    if text.contains(['{', '}']) {
        let inner = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let (name, segment) = match inner {
            Some(inner) => match inner.strip_suffix("...") {
                Some(name) => (name, Segment::Rest),
                None => (inner, Segment::Any),
            },
            None => ("", Segment::Any),
        };
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        {
            return Err(RouteTemplateError::Parameter(text.to_owned()));
        }
        return Ok(segment);
    }
    let spelled = format!("/{text}");
    let is_canonical = CanonicalPath::parse("GET", &spelled)
        .is_ok_and(|path| !path.was_rewritten() && path.query().is_none() && path.path() == spelled);
    if !is_canonical || text.contains('*') {
        return Err(RouteTemplateError::Literal(text.to_owned()));
    }
    Ok(Segment::Literal(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(template: &str, method: &str, path: &str) -> bool {
        RouteTemplate::parse(template).unwrap().matches(method, &CanonicalPath::parse("GET", path).unwrap())
    }

    #[test]
    fn matches_by_segments() {
        for (template, path, expected) in [
            ("/", "/", true),
            ("/", "/a", false),
            ("/orders/{id}", "/orders/1", true),
            ("/orders/{id}", "/orders/", false),
            ("/orders/{id}", "/orders", false),
            ("/orders/{id}", "/orders/1/2", false),
            ("/orders/*", "/orders/", true),
            ("/orders/*", "/orders/1/2", true),
            ("/orders/*", "/orders", false),
            ("/orders/*", "/ordersx", false),
            ("/{all...}", "/a/b", true),
            ("/orders/", "/orders/", true),
            ("/orders/", "/orders", false),
            ("/{a}/b", "/x/b", true),
            ("shop.Orders/Get", "/shop.Orders/Get", true),
            ("shop.Orders/*", "/shop.Orders/Get", true),
            ("shop.Orders/Get", "/shop.Orders/Put", false),
        ] {
            assert_eq!(matches(template, "GET", path), expected, "{template} {path}");
        }
        assert!(matches("GET,HEAD /a", "HEAD", "/a"));
        assert!(!matches("GET,HEAD /a", "get", "/a"));
    }

    #[test]
    fn parameters_are_decoded_segment_by_segment() {
        for (template, path, expected) in [
            ("/orders/{id}", "/orders/a%20b+c", "id=a b+c"),
            ("/{a}/x/{b}", "/1/x/2", "a=1 b=2"),
            ("/files/{rest...}", "/files/a/b%25", "rest=a/b%"),
            ("/files/{rest...}", "/files/", "rest="),
            ("/files/*", "/files/a", ""),
            ("/a", "/a", ""),
        ] {
            let template = RouteTemplate::parse(template).unwrap();
            let path = CanonicalPath::parse("GET", path).unwrap();
            assert!(template.matches("GET", &path));
            let found = template.parameters(&path).into_iter().map(|(name, value)| format!("{name}={value}"));
            assert_eq!(found.collect::<Vec<_>>().join(" "), expected, "{template}");
        }
        assert_eq!(
            RouteTemplate::parse("/{a}/{a}").unwrap_err(),
            RouteTemplateError::DuplicateParameter("a".to_owned())
        );
    }

    #[test]
    fn refuses_what_could_never_match() {
        for template in [
            "",
            "orders",
            "a/b/c",
            "a/{b}",
            "get /a",
            "GET, /a",
            "/a/*/b",
            "/{a...}/b",
            "/x{a}",
            "/{}",
            "/{a b}",
            "//",
            "/a//b",
            "/%61",
            "/a;b",
            "/..",
            "/a?b",
            "/é",
            "/a*",
            "/a b",
            "GET a/b",
            "/a%2f",
        ] {
            assert!(RouteTemplate::parse(template).is_err(), "{template:?}");
        }
    }

    #[test]
    fn the_more_specific_comes_first() {
        let order = ["GET /a/b", "/a/b", "/a/b/*", "/a/{x}/c", "/a/{x}", "/a/*", "/{x}/b", "/{x...}"];
        let mut sorted: Vec<_> = order.iter().rev().map(|text| RouteTemplate::parse(text).unwrap()).collect();
        sorted.sort_by(RouteTemplate::by_specificity);
        for (path, winner) in [
            ("/a/b", "GET /a/b"),
            ("/a/x", "/a/{x}"),
            ("/a/x/d", "/a/*"),
            ("/c/b", "/{x}/b"),
            ("/c", "/{x...}"),
        ] {
            let path = CanonicalPath::parse("GET", path).unwrap();
            assert_eq!(sorted.iter().find(|t| t.matches("GET", &path)).unwrap().as_str(), winner);
        }
    }

    #[test]
    fn collides_only_where_a_request_would_belong_to_both() {
        let collide =
            |a, b| RouteTemplate::parse(a).unwrap().collides_with(&RouteTemplate::parse(b).unwrap());
        assert!(collide("/a/{x}", "/a/{y}"));
        assert!(collide("GET /a", "GET,PUT /a"));
        assert!(!collide("GET /a", "PUT /a"));
        assert!(!collide("GET /a", "/a"));
        assert!(!collide("/a/{x}", "/a/*"));
    }
}
