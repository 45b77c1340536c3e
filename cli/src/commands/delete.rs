//! `hauberk delete`

use hauberk_proto::admin::v1::{DeleteRequest, DeleteTarget};
use hauberk_proto::mesh::v1::{Kind, ResourceRef};

use crate::arguments::{Delete, Global};
use crate::commands::kind_and_name;
use crate::documents;
use crate::error::CommandError;
use crate::kinds;
use crate::output;
use crate::session::Session;

/// Runs the command.
///
/// # Errors
/// Something is not there, or others still refer to it.
pub(crate) async fn run(global: &Global, arguments: Delete) -> Result<(), CommandError> {
    let session;
    let references = if arguments.files.is_empty() {
        let (kind, names) = kind_and_names(&arguments)?;
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
    Ok(())
}

fn kind_and_names(arguments: &Delete) -> Result<(Kind, Vec<String>), CommandError> {
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
            "write: hauberk {} delete NAME",
            command.trim_end_matches('s')
        )));
    }
    let kind = kinds::resource_kind(&kind).map_err(CommandError::Usage)?;
    if names.is_empty() {
        let kind = kinds::said(kind);
        return Err(CommandError::Usage(format!("which {kind}? Write: hauberk delete {kind} NAME")));
    }
    Ok((kind, names))
}
