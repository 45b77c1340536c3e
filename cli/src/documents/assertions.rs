//! Files of assertions about policies.

use std::path::Path;

use hauberk_proto::admin::v1::PolicyTests;

use super::locate::locate;
use super::message::build;
use super::problem::{Problem, Problems, Source};
use super::read::{ReadError, collect};
use super::schema;
use super::yaml::{self, Node, Position};

/// One file of assertions, with the places of its parts.
#[derive(Debug)]
pub(crate) struct Assertions {
    source: Source,
    node: Node,
    tests: PolicyTests,
}

/// Reads a file, or `-` for standard input.
///
/// # Errors
/// Everything that is wrong in it, at once.
pub(crate) fn read_assertions(path: &Path) -> Result<Vec<Assertions>, ReadError> {
    let mut sources = Vec::new();
    collect(path, &mut sources)?;
    sources.into_iter().map(parse).collect()
}

fn parse(source: Source) -> Result<Assertions, ReadError> {
    let (nodes, faults) = yaml::parse(&source.text);
    let mut problems: Vec<Problem> = faults
        .into_iter()
        .map(|fault| Problem {
            source: 0,
            at: fault.at,
            length: fault.length,
            path: String::new(),
            message: fault.message,
        })
        .collect();
    let mut nodes = nodes.into_iter().filter(|node| !node.is_null());
    let (Some(node), descriptor) = (nodes.next(), schema::message("hauberk.admin.v1.PolicyTests")) else {
        return Err(match problems.is_empty() {
            true => ReadError::Nothing(source.name),
            false => ReadError::Wrong(Problems { sources: vec![source], problems }),
        });
    };
    if let Some(second) = nodes.next() {
        let message = "a file of assertions has one document".to_owned();
        problems.push(Problem { source: 0, at: second.at, length: 1, path: String::new(), message });
    }
    let mut defects = Vec::new();
    let built = descriptor.map(|descriptor| build(&descriptor, &node, "", &mut defects));
    problems.extend(defects.into_iter().map(|defect| Problem::from_defect(0, defect)));
    let tests: Option<PolicyTests> = built.and_then(|built| built.transcode_to().ok());
    match tests {
        Some(tests) if problems.is_empty() => Ok(Assertions { source, node, tests }),
        _ => Err(ReadError::Wrong(Problems { sources: vec![source], problems })),
    }
}

impl Assertions {
    /// What it says.
    pub(crate) fn tests(&self) -> &PolicyTests {
        &self.tests
    }

    /// As the user named it.
    pub(crate) fn name(&self) -> &str {
        &self.source.name
    }

    /// Where a field stands: `tests.yaml:12:5`.
    pub(crate) fn place(&self, path: &str) -> String {
        let (Position { line, column }, _) = locate(&self.node, path);
        format!("{}:{line}:{column}", self.source.name)
    }

    /// Says that a field is wrong.
    pub(crate) fn wrong(&self, path: String, message: String) -> ReadError {
        let (at, length) = locate(&self.node, &path);
        let problems = vec![Problem { source: 0, at, length, path, message }];
        ReadError::Wrong(Problems { sources: vec![self.source.clone()], problems })
    }
}
