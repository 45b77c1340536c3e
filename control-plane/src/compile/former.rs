//! The views that nodes had before: what was decided by one of them is explained by it, though its agent is gone and the rules are others.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hauberk_identity::SpiffeId;

use super::compilation::CompiledView;

/// How many bytes of them are kept in all, those that were replaced last.
const MOST_BYTES: usize = 32 * 1024 * 1024;

/// What one takes beside its bytes, about: its signature, what is read of it, and its place here. Small ones are many.
const BYTES_BESIDE: usize = 1024;

/// Such views, in the order in which they were replaced. In memory alone: after a start there are none.
#[derive(Debug, Default)]
pub struct FormerViews(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// Of each node, by their numbers. Whoever asks for one must not look at all.
    views: HashMap<SpiffeId, BTreeMap<u64, Arc<CompiledView>>>,
    order: VecDeque<(SpiffeId, Arc<CompiledView>)>,
    bytes: usize,
}

impl FormerViews {
    /// The view that the agents of a node had of this number, if it is kept.
    pub fn find(&self, node: &str, revision: u64) -> Option<Arc<CompiledView>> {
        self.kept().views.get(node)?.get(&revision).cloned()
    }

    pub(super) fn keep(&self, replaced: impl Iterator<Item = (SpiffeId, Arc<CompiledView>)>) {
        let mut kept = self.kept();
        for (node, view) in replaced {
            kept.bytes += bytes(&view);
            kept.views.entry(node.clone()).or_default().insert(view.revision, Arc::clone(&view));
            kept.order.push_back((node, view));
            while kept.bytes > MOST_BYTES
                && let Some((node, oldest)) = kept.order.pop_front()
            {
                kept.bytes -= bytes(&oldest);
                kept.forget(&node, &oldest);
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn forget(&mut self, node: &SpiffeId, view: &Arc<CompiledView>) {
        let Some(of_node) = self.views.get_mut(node) else { return };
        // A later one of the same number may have come in its place.
        if of_node.get(&view.revision).is_some_and(|kept| Arc::ptr_eq(kept, view)) {
            of_node.remove(&view.revision);
        }
        if of_node.is_empty() {
            self.views.remove(node);
        }
    }
}

fn bytes(view: &CompiledView) -> usize {
    view.signed.view.len() + BYTES_BESIDE
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
            former.keep(replaced(revision, MOST_BYTES / 2 - BYTES_BESIDE));
        }
        let found = |revision| former.find(ORDERS, revision).map(|view| view.revision);
        assert_eq!([1, 2, 3].map(found), [None, Some(2), Some(3)]);
        assert!(former.find("spiffe://shop.local/mesh/shop/node/web", 3).is_none());
        former.keep(replaced(4, MOST_BYTES + 1));
        assert_eq!([2, 3, 4].map(found), [None; 3], "one that is too large alone is not kept either");
        former.keep(replaced(5, 1));
        assert_eq!(found(5), Some(5));
    }

    #[test]
    fn what_small_ones_take_beside_their_bytes_is_counted() {
        let former = FormerViews::default();
        let most = (MOST_BYTES / BYTES_BESIDE) as u64;
        former.keep((1..=most + 2).flat_map(|revision| replaced(revision, 0)));
        let kept = former.kept();
        assert_eq!((kept.order.len() as u64, kept.bytes), (most, MOST_BYTES));
        assert_eq!(kept.views.values().map(BTreeMap::len).sum::<usize>(), kept.order.len());
        drop(kept);
        let found = |revision| former.find(ORDERS, revision).map(|view| view.revision);
        assert_eq!([2, 3, most + 2].map(found), [None, Some(3), Some(most + 2)]);
    }

    #[test]
    fn of_two_of_one_number_the_later_one_stays() {
        let former = FormerViews::default();
        former.keep(replaced(1, MOST_BYTES / 2));
        former.keep(replaced(1, 7));
        former.keep(replaced(2, MOST_BYTES / 2));
        let found = |revision| former.find(ORDERS, revision).map(|view| view.signed.view.len());
        assert_eq!([1, 2].map(found), [Some(7), Some(MOST_BYTES / 2)]);
    }
}
