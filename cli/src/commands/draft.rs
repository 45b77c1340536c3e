//! What a draft is made of: resources of files, and the names of what is taken away.

use std::collections::BTreeSet;
use std::path::PathBuf;

use hauberk_proto::mesh::v1::{Kind, Resource, ResourceRef};
use tonic::Status;

use crate::arguments::Global;
use crate::commands::{apply, kind_and_name};
use crate::documents::{self, Documents};
use crate::error::CommandError;
use crate::kinds;
use crate::output::printable;
use crate::session::Session;

/// Resources to apply, then others to remove.
pub(crate) struct Draft {
    documents: Documents,
    pub(crate) removed: Vec<ResourceRef>,
}

impl Draft {
    /// Reads the files, and what is written as `KIND/NAME`. Those are of the mesh that is named, else of the only one
    /// of the files, else of the only one there is.
    ///
    /// # Errors
    /// What is wrong in the files, or with the names; there is no usable context, or no control plane.
    pub(crate) async fn read(
        global: &Global,
        files: &[PathBuf],
        removed: &[String],
    ) -> Result<(Self, Session), CommandError> {
        let documents = match files {
            [] => Documents::default(),
            files => documents::read(files, global.mesh.as_deref())?,
        };
        let named = removed.iter().map(|word| named(word)).collect::<Result<Vec<_>, _>>()?;
        let session = Session::open(global).await?;
        let of_files = documents.meshes();
        let mesh = match (&of_files[..], session.named_mesh()) {
            _ if named.iter().all(|(kind, _)| *kind == Kind::Mesh) => String::new(),
            ([only], None) => only.clone(),
            _ => session.mesh().await?,
        };
        let reference = |(kind, name): (Kind, String)| {
            let mesh = if kind == Kind::Mesh { String::new() } else { mesh.clone() };
            ResourceRef { kind: kind.into(), mesh, name }
        };
        let removed = named.into_iter().map(reference).collect();
        Ok((Self { documents, removed }, session))
    }

    /// The resources of the files.
    pub(crate) fn resources(&self) -> Vec<Resource> {
        self.documents.resources().cloned().collect()
    }

    /// The meshes that something is changed in, in order.
    pub(crate) fn meshes(&self) -> Vec<String> {
        let of_removed = self.removed.iter().map(|named| match named.kind() {
            Kind::Mesh => named.name.clone(),
            _ => named.mesh.clone(),
        });
        let meshes: BTreeSet<String> = self.documents.meshes().into_iter().chain(of_removed).collect();
        meshes.into_iter().collect()
    }

    /// What the control plane answers, with what is wrong shown in the files.
    pub(crate) fn refused(&self, status: Status) -> CommandError {
        apply::located(&self.documents, status)
    }

    /// Fails where the control plane, which says how many were taken away, knows of no such drafts.
    ///
    /// # Errors
    /// It took away others than were named.
    pub(crate) fn check_removed(&self, removed: u64) -> Result<(), CommandError> {
        check_removed(&self.removed, removed)
    }
}

/// The same of what was taken away without any files.
///
/// # Errors
/// It took away others than were named.
pub(crate) fn check_removed(named: &[ResourceRef], removed: u64) -> Result<(), CommandError> {
    if u64::try_from(named.len()).is_ok_and(|named| named == removed) {
        return Ok(());
    }
    Err(CommandError::advised(
        "the control plane is of a former release, and cannot say what follows from a removal",
        "update it",
    ))
}

fn named(word: &str) -> Result<(Kind, String), CommandError> {
    let (kind, name) = kind_and_name(word, None)?;
    let kind = kinds::resource_kind(&kind).map_err(CommandError::Usage)?;
    let name = name.filter(|name| !name.is_empty()).ok_or_else(|| {
        let (said, word) = (kinds::said(kind), printable(word));
        CommandError::Usage(format!("which {said}? Write --delete {said}/NAME instead of {word}"))
    })?;
    Ok((kind, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_away_is_named_by_kind_and_name() {
        let told = |word: &str| named(word).map_err(|error| error.to_string());
        assert_eq!(told("policy/web-reads"), Ok((Kind::Policy, "web-reads".to_owned())));
        assert_eq!(told("vn/orders"), Ok((Kind::VirtualNode, "orders".to_owned())));
        for word in ["policy", "policy/"] {
            let told = told(word).unwrap_err();
            assert!(told.contains("Write --delete policy/NAME"), "{told}");
        }
        assert!(told("polcy/a").unwrap_err().contains("did you mean"));
    }

    #[test]
    fn a_control_plane_that_takes_nothing_away_is_found_out() {
        let named = vec![ResourceRef { kind: Kind::Policy.into(), mesh: "shop".into(), name: "p".into() }];
        assert!(check_removed(&named, 1).is_ok() && check_removed(&[], 0).is_ok());
        assert!(check_removed(&named, 0).unwrap_err().to_string().contains("of a former release"));
    }
}
