//! What is found only where every policy is looked at for every node, found out once for each state of all resources.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use hauberk_identity::TrustDomain;
use tonic::Status;

use crate::bulkhead::Bulkhead;
use crate::compile::{HeavyPatterns, heavy_patterns};
use crate::registry::Revision;
use crate::resources::Catalog;
use crate::rpc::findings::{ToldDetours, ToldIdle};
use crate::rpc::status;

/// What is found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Nodes that have too many patterns.
    pub(super) heavy: Vec<HeavyPatterns>,
    /// Listeners at which what is said of some routes is gone round.
    pub(super) detours: ToldDetours,
    /// Forbids that stop nothing.
    pub(super) idle: ToldIdle,
}

/// Finds it out, and knows what was found last.
pub(super) struct Looker {
    bulkhead: Bulkhead,
    last: Arc<Mutex<Last>>,
}

/// Of which resources, of which revision, and what.
type Last = (Weak<Catalog>, Revision, Arc<Found>);

impl Looker {
    pub(super) fn new() -> Self {
        let nothing = (Weak::new(), Revision(0), Arc::default());
        Self { bulkhead: Bulkhead::one_at_a_time(), last: Arc::new(Mutex::new(nothing)) }
    }

    /// What these resources are like. Every policy may be looked at for every node: that waits for a turn of the caller's, unless it is
    /// known.
    ///
    /// # Errors
    /// When the caller asks too much at once.
    pub(super) async fn of(
        &self,
        catalog: &Arc<Catalog>,
        trust_domain: &TrustDomain,
        caller: &str,
    ) -> Result<Arc<Found>, Status> {
        if let Some(known) = known(&self.last, catalog) {
            return Ok(known);
        }
        let turn = self.bulkhead.turn(caller).await.map_err(status::of_busy)?;
        let (last, catalog, trust_domain) =
            (Arc::clone(&self.last), Arc::clone(catalog), trust_domain.clone());
        let found = turn.run(move || {
            // Whose turn came before has found out the same.
            known(&last, &catalog).unwrap_or_else(|| {
                let heavy = heavy_patterns(&trust_domain, &catalog);
                let (detours, idle) = (ToldDetours::of(&catalog), ToldIdle::of(&catalog));
                let found = Arc::new(Found { heavy, detours, idle });
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

fn known(last: &Mutex<Last>, catalog: &Arc<Catalog>) -> Option<Arc<Found>> {
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
    use crate::resources::testing::{
        catalog_of, classified, data_class, listener, mesh, node, policy, shop, trust_domain,
    };

    #[tokio::test]
    async fn the_same_resources_are_looked_at_once() {
        let looker = Looker::new();
        let catalog = Arc::new(catalog_of(&[
            mesh("shop"),
            data_class("pii", &[]),
            node("orders", [classified(listener(8080, "http"), "/card", &["pii"])]),
            policy("all", "permit(principal is Node, action, resource);"),
            policy("pii", "forbid(principal, action, resource in DataClass::\"pii\");"),
        ]));
        let first = looker.of(&catalog, &trust_domain(), "ada").await.unwrap();
        assert_ne!(first.detours, ToldDetours::default());
        // Whatever else is under way, what is known is answered.
        let turn = looker.bulkhead.turn("ada").await.unwrap();
        let again = looker.of(&catalog, &trust_domain(), "ada").now_or_never();
        assert!(Arc::ptr_eq(&first, &again.expect("it is known").unwrap()));
        let other = Arc::new(Catalog::clone(&catalog));
        let domain = trust_domain();
        let mut waiting = Box::pin(looker.of(&other, &domain, "bob"));
        assert!(waiting.as_mut().now_or_never().is_none(), "another waits for its turn");
        drop(turn);
        assert!(!Arc::ptr_eq(&first, &waiting.await.unwrap()));
    }

    #[tokio::test]
    async fn what_was_found_of_the_newest_resources_stays_known() {
        let looker = Looker::new();
        let former = Arc::new(catalog_of(&shop()));
        let mut newest = Catalog::clone(&former);
        newest.move_on(Version(newest.version().0 + 1), Revision(newest.revision().0 + 1));
        let newest = Arc::new(newest);
        let found = looker.of(&newest, &trust_domain(), "ada").await.unwrap();
        // Somebody had read them before they changed, and waited.
        looker.of(&former, &trust_domain(), "bob").await.unwrap();
        let again = known(&looker.last, &newest).expect("it is known");
        assert!(Arc::ptr_eq(&found, &again));
    }
}
