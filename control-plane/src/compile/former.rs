//! The views that nodes had before: what was decided by one of them is explained by it, though its agent is gone and the rules are others.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hauberk_identity::SpiffeId;

use super::compilation::CompiledView;

/// How many bytes of them are kept in all, those that were replaced last.
const MOST_BYTES: usize = 32 * 1024 * 1024;

/// Such views, in the order in which they were replaced. In memory alone: after a start there are none.
#[derive(Debug, Default)]
pub struct FormerViews(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    views: VecDeque<(SpiffeId, Arc<CompiledView>)>,
    bytes: usize,
}

impl FormerViews {
    /// The view that the agents of a node had of this number, if it is kept.
    pub fn find(&self, node: &str, revision: u64) -> Option<Arc<CompiledView>> {
        let kept = self.kept();
        let found = kept.views.iter().rfind(|(of, view)| of.as_str() == node && view.revision == revision);
        found.map(|(_, view)| Arc::clone(view))
    }

    pub(super) fn keep(&self, replaced: impl Iterator<Item = (SpiffeId, Arc<CompiledView>)>) {
        let mut kept = self.kept();
        for (node, view) in replaced {
            kept.bytes += view.signed.view.len();
            kept.views.push_back((node, view));
            while kept.bytes > MOST_BYTES
                && let Some((_, oldest)) = kept.views.pop_front()
            {
                kept.bytes -= oldest.signed.view.len();
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hauberk_identity::Name;
    use hauberk_proto::agent::v1::SignedView;

    use super::*;

    fn replaced(revision: u64, bytes: usize) -> std::iter::Once<(SpiffeId, Arc<CompiledView>)> {
        let signed = SignedView { view: Bytes::from(vec![0; bytes]), ..SignedView::default() };
        let view = CompiledView {
            revision,
            digest: [0; 32],
            signed,
            features: Vec::new(),
            mesh: Name::parse("shop").unwrap(),
            uid: String::new(),
            backends: Vec::new(),
            targets: Vec::new(),
            audit_ports: Vec::new(),
        };
        std::iter::once((SpiffeId::parse(ORDERS).unwrap(), Arc::new(view)))
    }

    const ORDERS: &str = "spiffe://shop.local/mesh/shop/node/orders";

    #[test]
    fn those_that_were_replaced_last_are_kept_as_far_as_there_is_room() {
        let former = FormerViews::default();
        for revision in 1..=3 {
            former.keep(replaced(revision, MOST_BYTES / 2));
        }
        let found = |revision| former.find(ORDERS, revision).map(|view| view.revision);
        assert_eq!([1, 2, 3].map(found), [None, Some(2), Some(3)]);
        assert!(former.find("spiffe://shop.local/mesh/shop/node/web", 3).is_none());
        former.keep(replaced(4, MOST_BYTES + 1));
        assert_eq!([2, 3, 4].map(found), [None; 3], "one that is too large alone is not kept either");
        former.keep(replaced(5, 1));
        assert_eq!(found(5), Some(5));
    }
}
