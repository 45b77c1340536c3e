//! Which nodes have too many patterns, found out once for each state of all resources.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use hauberk_identity::TrustDomain;
use tonic::Status;

use crate::bulkhead::Bulkhead;
use crate::compile::{HeavyPatterns, heavy_patterns};
use crate::registry::Revision;
use crate::resources::Catalog;
use crate::rpc::status;

/// Finds them out, and knows what was found last.
pub(super) struct HeavyNodes {
    bulkhead: Bulkhead,
    last: Arc<Mutex<Found>>,
}

/// Of which resources, of which revision, and what.
type Found = (Weak<Catalog>, Revision, Arc<[HeavyPatterns]>);

impl HeavyNodes {
    pub(super) fn new() -> Self {
        let nothing = (Weak::new(), Revision(0), Arc::default());
        Self { bulkhead: Bulkhead::one_at_a_time(), last: Arc::new(Mutex::new(nothing)) }
    }

    /// All nodes of these resources that have too much. Every policy may be looked at for every node: that waits for a turn of the
    /// caller's, unless it is known.
    ///
    /// # Errors
    /// When the caller asks too much at once.
    pub(super) async fn of(
        &self,
        catalog: &Arc<Catalog>,
        trust_domain: &TrustDomain,
        caller: &str,
    ) -> Result<Arc<[HeavyPatterns]>, Status> {
        if let Some(known) = known(&self.last, catalog) {
            return Ok(known);
        }
        let turn = self.bulkhead.turn(caller).await.map_err(status::of_busy)?;
        let (last, catalog, trust_domain) =
            (Arc::clone(&self.last), Arc::clone(catalog), trust_domain.clone());
        let found = turn.run(move || {
            // Whose turn came before has found out the same.
            known(&last, &catalog).unwrap_or_else(|| {
                let found: Arc<[HeavyPatterns]> = heavy_patterns(&trust_domain, &catalog).into();
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                // Whoever asks next asks of the newest.
                if last.1 <= catalog.revision() {
                    *last = (Arc::downgrade(&catalog), catalog.revision(), Arc::clone(&found));
                }
                found
            })
        });
        found.await.map_err(|error| status::internal(&error))
    }
}

fn known(last: &Mutex<Found>, catalog: &Arc<Catalog>) -> Option<Arc<[HeavyPatterns]>> {
    let last = last.lock().unwrap_or_else(PoisonError::into_inner);
    // What is held weakly keeps its address: no other can have come to stand there.
    let is_same = std::ptr::eq(last.0.as_ptr(), Arc::as_ptr(catalog));
    is_same.then(|| Arc::clone(&last.2))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::registry::Version;
    use crate::resources::testing::{catalog_of, shop, trust_domain};

    #[tokio::test]
    async fn the_same_resources_are_looked_at_once() {
        let heavy = HeavyNodes::new();
        let catalog = Arc::new(catalog_of(&shop()));
        let first = heavy.of(&catalog, &trust_domain(), "ada").await.unwrap();
        // Whatever else is under way, what is known is answered.
        let turn = heavy.bulkhead.turn("ada").await.unwrap();
        let again = heavy.of(&catalog, &trust_domain(), "ada").now_or_never();
        assert!(Arc::ptr_eq(&first, &again.expect("it is known").unwrap()));
        let other = Arc::new(Catalog::clone(&catalog));
        let domain = trust_domain();
        let mut waiting = Box::pin(heavy.of(&other, &domain, "bob"));
        assert!(waiting.as_mut().now_or_never().is_none(), "another waits for its turn");
        drop(turn);
        assert!(!Arc::ptr_eq(&first, &waiting.await.unwrap()));
    }

    #[tokio::test]
    async fn what_was_found_of_the_newest_resources_stays_known() {
        let heavy = HeavyNodes::new();
        let former = Arc::new(catalog_of(&shop()));
        let mut newest = Catalog::clone(&former);
        newest.move_on(Version(newest.version().0 + 1), Revision(newest.revision().0 + 1));
        let newest = Arc::new(newest);
        let found = heavy.of(&newest, &trust_domain(), "ada").await.unwrap();
        // Somebody had read them before they changed, and waited.
        heavy.of(&former, &trust_domain(), "bob").await.unwrap();
        let again = known(&heavy.last, &newest).expect("it is known");
        assert!(Arc::ptr_eq(&found, &again));
    }
}
