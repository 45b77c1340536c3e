//! Templates of routes: which declared route a request belongs to.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::fields::decode;
use crate::path::CanonicalPath;
use crate::path_set::Glob;

mod segment;
mod table;

use segment::Segment;
pub(crate) use table::RouteTable;

/// The name of the route that holds whatever no template of a port matches.
pub const UNDECLARED: &str = "*undeclared";

const HEAD: &str = "HEAD";

/// A pattern of request paths, or of gRPC methods.
///
/// `/orders/{id}`: a segment `{name}` matches any one segment that is not empty; a last segment `*` or `{name...}`
/// matches the rest, slashes and the empty rest included. `GET,POST /orders/{id}` matches these methods only, and with
/// GET also HEAD, which servers answer as they do GET, unless another one of the same paths lists HEAD.
/// `shop.Orders/Get` and `shop.Orders/*` match gRPC methods. Fixed text is written as canonical paths spell it.
///
/// Fixed text may stand around parameters: `{id}.json`, `{id}:cancel`, `{base}...{head}`. Such a parameter is not empty
/// either, and of several in one segment each but the last ends where the fixed text behind it stands first. Between
/// two of them there must be some.
///
/// Of several templates that match, the most specific one wins: segment by segment from the left, a literal before
/// fixed text around parameters, of which the longer comes first, before `{name}` before the rest; then one with
/// methods before one without.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RouteTemplate {
    text: Arc<str>,
    methods: Arc<[String]>,
    segments: Arc<[Segment]>,
    parameters: Arc<[Parameter]>,
    is_rpc: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Parameter {
    name: Box<str>,
    /// The place of its segment, and which of the segment's parameters it is.
    segment: usize,
    number: usize,
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
    /// Braces that do not enclose a name.
    #[error(
        "{0:?} holds no parameter as they are written: {{id}}, and as the whole last segment {{rest...}}"
    )]
    Parameter(String),
    /// Two parameters with nothing in between.
    #[error("nobody could tell where a parameter ends in {0:?}: write text between them")]
    Adjacent(String),
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
        let (segments, parameters) = parse_segments(relative)?;
        let is_method = || matches!(*segments, [Segment::Literal(_), Segment::Literal(_) | Segment::Rest]);
        if is_rpc && !(methods.is_empty() && is_method()) {
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

    /// Whether it matches this method, more specific templates aside.
    pub fn is_for(&self, method: &str) -> bool {
        let listed = || self.methods.iter().any(|own| own == method);
        self.methods.is_empty() || listed() || method == HEAD && self.takes_head_as_get()
    }

    fn takes_head_as_get(&self) -> bool {
        let lists = |method| self.methods.iter().any(|own| own == method);
        lists("GET") && !lists(HEAD)
    }

    /// Whether both match the same paths, their methods aside.
    pub fn is_of_same_paths(&self, other: &Self) -> bool {
        self.is_rpc == other.is_rpc && self.segments == other.segments
    }

    /// Whether fixed text stands around some of its parameters, which agents of earlier releases do not know.
    pub fn has_text_around_parameters(&self) -> bool {
        self.segments.iter().any(|segment| matches!(segment, Segment::Around(_)))
    }

    /// Whether it is a pattern of gRPC methods.
    pub fn is_rpc(&self) -> bool {
        self.is_rpc
    }

    /// Whether a request belongs here, more specific templates aside. A gRPC method's path is `/service/method`.
    pub fn matches(&self, method: &str, path: &CanonicalPath<'_>) -> bool {
        if !self.is_for(method) {
            return false;
        }
        let Some(path) = path.path().strip_prefix('/') else { return false };
        let mut found = Pieces(Some(path));
        for segment in &*self.segments {
            match (segment, found.next()) {
                (Segment::Rest, Some(_)) => return true,
                (segment, Some(found)) if segment.matches(found) => {}
                _ => return false,
            }
        }
        found.next().is_none()
    }

    /// Whether some request may match both.
    pub fn shares_requests_with(&self, other: &Self) -> bool {
        let takes_some = |one: &Self, of: &Self| of.methods.iter().any(|method| one.is_for(method));
        let shares_methods = self.methods.is_empty() && other.methods.is_empty()
            || takes_some(self, other)
            || takes_some(other, self);
        shares_methods && self.may_meet(other)
    }

    /// Whether some path may match both, their methods aside.
    pub(crate) fn may_meet(&self, other: &Self) -> bool {
        for (own, others) in self.segments.iter().zip(&*other.segments) {
            match (own, others) {
                (Segment::Rest, _) | (_, Segment::Rest) => return true,
                (own, others) if own.may_meet(others) => {}
                _ => return false,
            }
        }
        self.segments.len() == other.segments.len()
    }

    /// The paths that it matches, its methods aside.
    pub(crate) fn glob(&self) -> Glob {
        let mut glob = Glob::new(Vec::new());
        for segment in &*self.segments {
            glob.push("/");
            segment.extend(&mut glob);
        }
        glob
    }

    /// The parameters of a path that the template matches, by name, decoded.
    pub(crate) fn parameters<'p>(&self, path: &'p CanonicalPath<'_>) -> Vec<(&str, Cow<'p, str>)> {
        let path = path.path().strip_prefix('/').unwrap_or_default();
        let value = |parameter: &Parameter| {
            let rest = path.splitn(parameter.segment + 1, '/').nth(parameter.segment)?;
            let segment = self.segments.get(parameter.segment)?;
            let found = if *segment == Segment::Rest { rest } else { rest.split('/').next()? };
            // Every canonical path decodes, and so does whatever of it is not cut within an escape.
            decode(segment.value(parameter.number, found)?, false)
        };
        self.parameters.iter().filter_map(|own| Some((&*own.name, value(own)?))).collect()
    }

    /// Orders the more specific template first, and one that lists HEAD before one that takes it as GET.
    pub(crate) fn by_specificity(&self, other: &Self) -> Ordering {
        for (own, others) in self.segments.iter().zip(&*other.segments) {
            let order = own.by_specificity(others);
            if order != Ordering::Equal {
                return order;
            }
        }
        let by_length = other.segments.len().cmp(&self.segments.len());
        let by_methods = || self.methods.is_empty().cmp(&other.methods.is_empty());
        let by_head = || self.takes_head_as_get().cmp(&other.takes_head_as_get());
        by_length.then_with(by_methods).then_with(by_head)
    }

    /// Whether some request matches both and neither is the more specific one.
    pub fn collides_with(&self, other: &Self) -> bool {
        self.is_of_same_paths(other)
            && self.methods.is_empty() == other.methods.is_empty()
            && (self.methods.is_empty() || self.methods.iter().any(|method| other.methods.contains(method)))
    }
}

/// What stands between the slashes of a path. Segments are short: to look at each byte takes less than to call what
/// finds one in long texts.
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

fn parse_segments(path: &str) -> Result<(Vec<Segment>, Vec<Parameter>), RouteTemplateError> {
    let (mut segments, mut parameters): (Vec<_>, Vec<Parameter>) = (Vec::new(), Vec::new());
    let mut texts = path.split('/').peekable();
    while let Some(text) = texts.next() {
        let (segment, names) = Segment::parse(text)?;
        if segment == Segment::Rest && texts.peek().is_some() {
            return Err(RouteTemplateError::RestNotLast(text.to_owned()));
        }
        // Empty in the middle is "//", which no canonical path holds.
        if text.is_empty() && texts.peek().is_some() {
            return Err(RouteTemplateError::Literal("//".to_owned()));
        }
        for (number, name) in names.into_iter().enumerate() {
            if parameters.iter().any(|own| *own.name == *name) {
                return Err(RouteTemplateError::DuplicateParameter(name.to_owned()));
            }
            parameters.push(Parameter { name: name.into(), segment: segments.len(), number });
        }
        segments.push(segment);
    }
    Ok((segments, parameters))
}

#[cfg(test)]
mod tests;
