//! Resources in files: read with the place of every mistake, and written so that they can be read again.

mod assertions;
mod description;
mod locate;
mod message;
mod problem;
mod read;
mod reference;
mod resource;
mod schema;
mod structure;
mod write;
mod yaml;

pub(crate) use assertions::{Assertions, read_assertions};
pub(crate) use problem::Problems;
pub(crate) use read::{Documents, ReadError, read};
pub(crate) use reference::describe;
pub(crate) use structure::json_of;
pub(crate) use write::{Defaults, Tree, resource_tree, to_json, to_json_line, to_yaml, tree_of};

#[cfg(test)]
mod tests;
