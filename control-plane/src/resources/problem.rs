//! What is wrong with a change: everything at once, each with its place.

use std::fmt::Display;

/// Whose fault a problem is, and so what the answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The author's: it can never be accepted like this.
    Invalid,
    /// The author lacks a role.
    Denied,
    /// The author looked at an older version.
    Stale,
    /// It names something that is not there.
    Missing,
    /// Something else still needs what is to change.
    InUse,
}

/// One problem of one resource of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The resource, by its place in the request.
    pub resource: usize,
    /// The field, as its JSON path within the resource, such as `spec.listeners[0].portMapping.port`. Empty: all of it.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it, where that is known.
    pub help: Option<String>,
    /// Whose fault it is.
    pub fault: Fault,
}

impl Problem {
    /// Message and help in one line.
    pub fn description(&self) -> String {
        match &self.help {
            Some(help) => format!("{}; {help}", self.message),
            None => self.message.clone(),
        }
    }
}

/// Collects the problems of a batch while it is read, resource by resource; or those of a stored resource.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    resource: usize,
    is_stored: bool,
    found: Vec<Problem>,
    warnings: Vec<String>,
}

impl Problems {
    /// Those of a resource that was admitted before, perhaps by an earlier release: what only new ones are refused for is none.
    pub(crate) fn of_stored() -> Self {
        Self { is_stored: true, ..Self::default() }
    }

    /// What is read from here was admitted before, or was not.
    pub(crate) fn of_stored_from_here(&mut self, is_stored: bool) {
        self.is_stored = is_stored;
    }

    /// Whether what is read was admitted before.
    pub(crate) fn are_of_stored(&self) -> bool {
        self.is_stored
    }

    /// What is reported from now on is about the resource at this place.
    pub(crate) fn about(&mut self, resource: usize) -> &mut Self {
        self.resource = resource;
        self
    }

    /// Reports a value that can never be accepted.
    pub(crate) fn invalid(&mut self, field: impl Into<String>, message: impl Display) {
        self.report(Fault::Invalid, field, message, None);
    }

    /// The same with what to do about it.
    pub(crate) fn invalid_but(
        &mut self,
        field: impl Into<String>,
        message: impl Display,
        help: impl Into<String>,
    ) {
        self.report(Fault::Invalid, field, message, Some(help.into()));
    }

    /// Reports any problem.
    pub(crate) fn report(
        &mut self,
        fault: Fault,
        field: impl Into<String>,
        message: impl Display,
        help: Option<String>,
    ) {
        let (field, message) = (field.into(), message.to_string());
        self.found.push(Problem { resource: self.resource, field, message, help, fault });
    }

    /// What a person should know of a resource though nothing is wrong with it.
    pub(crate) fn warn(&mut self, message: String) {
        self.warnings.push(message);
    }

    /// The warnings since this was last asked.
    pub(crate) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// How many there are: a part that reports none is good.
    pub(crate) fn count(&self) -> usize {
        self.found.len()
    }

    /// All of them, in the order of the request.
    pub(crate) fn into_sorted(mut self) -> Vec<Problem> {
        self.found.sort_by_key(|problem| problem.resource);
        self.found
    }
}
