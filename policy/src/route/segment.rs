//! What stands between two slashes of a template.

use std::cmp::Ordering;
use std::sync::Arc;

use super::RouteTemplateError;
use crate::path::CanonicalPath;
use crate::path_set::{Glob, Step};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Segment {
    Literal(Arc<str>),
    /// Parameters with fixed text around them.
    Around(Arc<Around>),
    Any,
    Rest,
}

/// Fixed text around one parameter or more, each of which stands for one character at the least. What is between two of
/// them is not empty.
///
/// An escape such as `%2D` counts as one character, so that no parameter begins or ends within it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Around {
    first: Box<str>,
    between: Box<[Box<str>]>,
    last: Box<str>,
}

impl Segment {
    /// Reads one segment, with the names of its parameters.
    pub(super) fn parse(text: &str) -> Result<(Self, Vec<&str>), RouteTemplateError> {
        if text == "*" {
            return Ok((Self::Rest, Vec::new()));
        }
        let rest = text.strip_prefix('{').and_then(|inner| inner.strip_suffix("...}"));
        if let Some(name) = rest.filter(|name| is_name(name)) {
            return Ok((Self::Rest, vec![name]));
        }
        let (mut fixed, mut names) = (Vec::new(), Vec::new());
        let mut left = text;
        while let Some((before, after)) = left.split_once('{') {
            let named = after.split_once('}').filter(|(name, _)| is_name(name) && !before.contains('}'));
            let Some((name, after)) = named else { return Err(parameter(text)) };
            fixed.push(before);
            names.push(name);
            left = after;
        }
        if left.contains('}') {
            return Err(parameter(text));
        }
        // Any parameter has some value with which it is spelled as it should be.
        let spelled = fixed.iter().fold("/".to_owned(), |text, before| text + before + "x") + left;
        let is_canonical = CanonicalPath::parse("GET", &spelled)
            .is_ok_and(|path| !path.was_rewritten() && path.query().is_none() && path.path() == spelled);
        if !is_canonical || text.contains('*') {
            return Err(RouteTemplateError::Literal(text.to_owned()));
        }
        let Some((first, between)) = fixed.split_first() else {
            return Ok((Self::Literal(text.into()), names));
        };
        if between.contains(&"") {
            return Err(RouteTemplateError::Adjacent(text.to_owned()));
        }
        if let ("", [], "") = (*first, between, left) {
            return Ok((Self::Any, names));
        }
        let between = between.iter().map(|text| (*text).into()).collect();
        let around = Around { first: (*first).into(), between, last: left.into() };
        Ok((Self::Around(Arc::new(around)), names))
    }

    /// The text that alone it matches, if it is a literal.
    pub(super) fn literal(&self) -> Option<&str> {
        match self {
            Self::Literal(literal) => Some(literal),
            Self::Around(_) | Self::Any | Self::Rest => None,
        }
    }

    /// Whether it matches a segment of a path, or what is left of a path.
    pub(super) fn matches(&self, found: &str) -> bool {
        match self {
            Self::Literal(own) => **own == *found,
            Self::Around(around) => around.split(found, |_| {}).is_some(),
            Self::Any => !found.is_empty(),
            Self::Rest => true,
        }
    }

    /// Whether some segment of a path may match both.
    pub(super) fn may_meet(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Literal(literal), pattern) | (pattern, Self::Literal(literal)) => pattern.matches(literal),
            (Self::Around(own), Self::Around(other)) => own.may_meet(other),
            (Self::Any | Self::Rest, _) | (_, Self::Any | Self::Rest) => true,
        }
    }

    /// Puts the more specific one first: a literal, then fixed text around parameters, `{name}`, the rest.
    pub(super) fn by_specificity(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Literal(own), Self::Literal(other)) => own.cmp(other),
            (Self::Around(own), Self::Around(other)) => own.by_specificity(other),
            _ => self.rank().cmp(&other.rank()),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Literal(_) => 0,
            Self::Around(_) => 1,
            Self::Any => 2,
            Self::Rest => 3,
        }
    }

    /// The value of one of its parameters in what it matches.
    pub(super) fn value<'p>(&self, number: usize, found: &'p str) -> Option<&'p str> {
        let Self::Around(around) = self else { return Some(found) };
        let (mut values, mut value) = (0.., None);
        around.split(found, |next| {
            if values.next() == Some(number) {
                value = Some(next);
            }
        })?;
        value
    }

    /// Adds what it matches.
    pub(super) fn extend(&self, glob: &mut Glob) {
        match self {
            Self::Literal(literal) => glob.push(literal),
            Self::Around(around) => {
                let Around { first, between, last } = &**around;
                glob.push(first);
                for text in between.iter().chain([last]) {
                    glob.extend([Step::Unslashed, Step::Within, Step::Uncut]);
                    glob.push(text);
                }
            }
            Self::Any => glob.extend([Step::Unslashed, Step::Within]),
            Self::Rest => glob.extend([Step::Any]),
        }
    }
}

impl Around {
    /// Splits a segment of a canonical path, and hands out the values of its parameters from left to right; nothing
    /// where it does not match. Each value but the last ends where the fixed text behind it stands first, so that there
    /// is one way to do it; and where there is any, that one is found: to look further on would leave less for the
    /// rest.
    fn split<'t>(&self, text: &'t str, mut take: impl FnMut(&'t str)) -> Option<()> {
        let mut left = without_last(text.strip_prefix(&*self.first)?, &self.last)?;
        for fixed in &self.between {
            let (value, rest) = cut(left, fixed)?;
            take(value);
            left = rest;
        }
        (!left.is_empty()).then(|| take(left))
    }

    /// Whatever stands in between, parameters can hold it for each other.
    fn may_meet(&self, other: &Self) -> bool {
        let (long, short) = if self.last.len() < other.last.len() {
            (&other.last, &self.last)
        } else {
            (&self.last, &other.last)
        };
        (self.first.starts_with(&*other.first) || other.first.starts_with(&*self.first))
            && without_last(long, short).is_some()
    }

    /// The longer fixed text first. Whatever matches all that another one matches, and more, has less of it.
    fn by_specificity(&self, other: &Self) -> Ordering {
        let length = |own: &Self| own.pieces().map(|text| text.len()).sum::<usize>();
        length(other).cmp(&length(self)).then_with(|| self.pieces().cmp(other.pieces()))
    }

    fn pieces(&self) -> impl Iterator<Item = &Box<str>> {
        [&self.first].into_iter().chain(&self.between).chain([&self.last])
    }
}

/// What is before the first place at which fixed text stands, of one character at the least, and what is behind the
/// text.
fn cut<'t>(text: &'t str, fixed: &str) -> Option<(&'t str, &'t str)> {
    let ends = 1..=text.len().checked_sub(fixed.len())?;
    ends.filter_map(|end| text.split_at_checked(end)).find_map(|(value, rest)| {
        Some((value, rest.strip_prefix(fixed)?)).filter(|(value, _)| is_whole(value))
    })
}

fn without_last<'t>(text: &'t str, last: &str) -> Option<&'t str> {
    text.strip_suffix(last).filter(|before| is_whole(before))
}

/// Whether a text that begins outside of an escape ends outside of one.
fn is_whole(text: &str) -> bool {
    !matches!(text.as_bytes(), [.., b'%'] | [.., b'%', _])
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

fn parameter(text: &str) -> RouteTemplateError {
    RouteTemplateError::Parameter(text.to_owned())
}
