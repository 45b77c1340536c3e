//! A change that is judged and not made, so that others can look at what would follow from it.

use std::sync::Arc;

use hauberk_proto::mesh::v1::Resource;

use super::{ChangeError, Resources, check_size};
use crate::resources::admit::{Rights, admit};
use crate::resources::catalog::Catalog;

/// A change that could be made.
#[derive(Debug)]
pub struct Draft {
    /// All resources as they are.
    pub before: Arc<Catalog>,
    /// As they would be.
    pub after: Catalog,
    /// What a person should know about it.
    pub warnings: Vec<String>,
}

impl Resources {
    /// Judges a batch as [`Resources::apply`] would for somebody who may change everything: who only asks needs no right to
    /// change anything. Nothing waits for it.
    ///
    /// # Errors
    /// What the change would be refused for.
    pub async fn draft(&self, batch: &[Resource]) -> Result<Draft, ChangeError> {
        check_size(batch)?;
        let before = self.parts.catalogs.current().await?;
        let rights = Rights { resources: true, policies: true, boundaries: true, identities: true };
        let admission =
            admit(&before, batch, rights, &self.parts.trust_domain).map_err(ChangeError::Refused)?;
        self.check_enforceable(&before, &admission)?;
        Ok(Draft { before, after: admission.after, warnings: admission.warnings })
    }
}
