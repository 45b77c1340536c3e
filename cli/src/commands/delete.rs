//! `hauberk delete`

use hauberk_proto::admin::v1::{DeleteRequest, DeleteTarget};
use hauberk_proto::mesh::v1::{Kind, ResourceRef};

use crate::arguments::{Delete, Global};
use crate::commands::{apply, kind_and_name, simulate};
use crate::documents;
use crate::error::CommandError;
use crate::kinds;
use crate::output;
use crate::session::Session;

/// What a trouble of a dry run exits with: 1 means "something would be denied".
const TROUBLE: u8 = 2;

/// Runs the command.
///
/// # Errors
/// Something is not there, or others still refer to it; not enforced in time. Of a dry run `Exit(1)` where something
/// would be denied that is allowed, `Exit(2)` after a failure.
pub(crate) async fn run(global: &Global, arguments: Delete) -> Result<(), CommandError> {
    let is_dry = arguments.dry_run;
    match delete(global, arguments).await {
        Ok(0) => Ok(()),
        Ok(_) => Err(CommandError::Exit(1)),
        Err(error) if is_dry => Err(error.exiting(TROUBLE, &global.of_context())),
        Err(error) => Err(error),
    }
}

/// How many recorded flows would be denied, if it is a dry run.
async fn delete(global: &Global, arguments: Delete) -> Result<u64, CommandError> {
    let session;
    let references = if arguments.files.is_empty() {
        let (kind, names) = kind_and_names(&arguments, &global.of_context())?;
        session = Session::open(global).await?;
        let mesh = if kind == Kind::Mesh { String::new() } else { session.mesh().await? };
        names.into_iter().map(|name| ResourceRef { kind: kind.into(), mesh: mesh.clone(), name }).collect()
    } else {
        let documents = documents::read(&arguments.files, global.mesh.as_deref())?;
        let mut references: Vec<ResourceRef> = documents.resources().map(kinds::reference).collect();
        // What refers to others goes before them.
        references.reverse();
        session = Session::open(global).await?;
        references
    };
    let targets = references
        .into_iter()
        .map(|reference| DeleteTarget {
            r#ref: Some(reference),
            resource_version: 0,
            ignore_missing: arguments.ignore_not_found,
        })
        .collect();
    let request = DeleteRequest { targets, validate_only: arguments.dry_run };
    let answer = session.resources().delete(request).await?.into_inner();
    let suffix = if arguments.dry_run { " (server dry run)" } else { "" };
    for resource in &answer.resources {
        output::line(format_args!("{} deleted{suffix}", kinds::label(resource)))?;
    }
    if answer.resources.is_empty() {
        output::note("nothing was there to delete");
    }
    apply::tell_warnings(&answer.warnings);
    if arguments.dry_run {
        let removed = answer.resources.iter().map(kinds::reference).collect();
        return simulate::beside_dry_run(&session, Vec::new(), removed).await;
    }
    let changed = !answer.resources.is_empty();
    apply::until_enforced(&session, answer.revision, changed, arguments.wait).await?;
    Ok(0)
}

fn kind_and_names(arguments: &Delete, of_context: &str) -> Result<(Kind, Vec<String>), CommandError> {
    let word = arguments.kind.as_deref().unwrap_or_default();
    let (kind, names) = if word.contains('/') {
        let (kind, name) = kind_and_name(word, arguments.names.first().map(String::as_str))?;
        (kind, name.into_iter().collect())
    } else {
        (word.to_owned(), arguments.names.clone())
    };
    if let Ok(kinds::Listed::Tokens | kinds::Listed::Admins) = kinds::listed(&kind) {
        let command = kind.to_lowercase();
        return Err(CommandError::Usage(format!(
            "write: hauberk {} delete NAME{of_context}",
            command.trim_end_matches('s')
        )));
    }
    let kind = kinds::resource_kind(&kind).map_err(CommandError::Usage)?;
    if names.is_empty() {
        let kind = kinds::said(kind);
        let message = format!("which {kind}? Write: hauberk delete {kind} NAME{of_context}");
        return Err(CommandError::Usage(message));
    }
    Ok((kind, names))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_written_instead_means_the_same_context() {
        let told = |kind: &str| {
            let arguments = Delete {
                kind: Some(kind.to_owned()),
                names: Vec::new(),
                files: Vec::new(),
                ignore_not_found: false,
                dry_run: false,
                wait: None,
            };
            kind_and_names(&arguments, " --context prod").unwrap_err().to_string()
        };
        assert_eq!(told("tokens"), "write: hauberk token delete NAME --context prod");
        assert!(told("policy").ends_with(" NAME --context prod"), "{}", told("policy"));
    }
}
