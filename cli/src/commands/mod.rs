//! One file for each command.

pub(crate) mod admin;
pub(crate) mod apply;
pub(crate) mod audit;
pub(crate) mod authority;
pub(crate) mod bundle;
pub(crate) mod can;
pub(crate) mod check;
pub(crate) mod context;
pub(crate) mod decision;
pub(crate) mod delete;
pub(crate) mod describe;
mod describe_groups;
mod describe_instance;
mod describe_policies;
pub(crate) mod diff;
mod draft;
pub(crate) mod explain;
pub(crate) mod get;
pub(crate) mod grant;
mod issuer_keys;
mod left_out;
pub(crate) mod login;
mod names;
pub(crate) mod policy_diff;
pub(crate) mod policy_test;
mod programs_refused;
mod prospect;
pub(crate) mod revoke;
pub(crate) mod rows;
mod served;
pub(crate) mod simulate;
mod still_denied;
pub(crate) mod suggest;
pub(crate) mod tap;
pub(crate) mod token;
pub(crate) mod wait;
pub(crate) mod who_can;
mod would_deny;

use crate::error::CommandError;

/// Splits `vn/orders`, where the name is not given apart.
///
/// # Errors
/// Two names are given.
pub(crate) fn kind_and_name(
    kind: &str,
    name: Option<&str>,
) -> Result<(String, Option<String>), CommandError> {
    match (kind.split_once('/'), name) {
        (None, name) => Ok((kind.to_owned(), name.map(str::to_owned))),
        (Some((kind, name)), None) => Ok((kind.to_owned(), Some(name.to_owned()))),
        (Some(_), Some(name)) => {
            Err(CommandError::Usage(format!("`{kind}` names one already; what is `{name}`?")))
        }
    }
}
