//! Who follows: one task for each trust domain and issuer, ended with what it follows.

use std::collections::BTreeMap;

use tokio::task::{AbortHandle, JoinSet};

use crate::resources::ResourceKey;

/// What a task follows: the resource as it was made, and what it says.
pub(super) type Binding = (String, [u8; 32]);

/// The tasks, each with what it follows.
#[derive(Default)]
pub(super) struct Followers {
    tasks: JoinSet<()>,
    following: BTreeMap<ResourceKey, (Binding, AbortHandle)>,
}

/// What became of tasks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// What is followed no longer as it was, by tasks that have ended.
    pub(super) gone: Vec<ResourceKey>,
    /// Whose task has ended by itself, which none does but by a panic.
    pub(super) failed: Vec<ResourceKey>,
}

impl Followers {
    /// Ends those who follow something that is not wanted, or is another by now, and says who of the others has failed.
    pub(super) async fn settle(&mut self, wanted: &BTreeMap<ResourceKey, Binding>) -> Settled {
        let is_gone =
            |(key, (binding, _)): &(&ResourceKey, &(Binding, AbortHandle))| wanted.get(*key) != Some(binding);
        let gone: Vec<_> = self.following.iter().filter(is_gone).map(|(key, _)| key.clone()).collect();
        for key in &gone {
            let Some((_, task)) = self.following.remove(key) else { continue };
            task.abort();
            // On another thread it goes on for a moment, and what it notes after that would be there for good.
            while !task.is_finished() && self.tasks.join_next().await.is_some() {}
        }
        // After that: ends of these may have been taken from the set as well, and nothing tells of them once more.
        let is_failed = |(_, (_, task)): &(&ResourceKey, &(Binding, AbortHandle))| task.is_finished();
        let failed = self.following.iter().filter(is_failed).map(|(key, _)| key.clone()).collect();
        Settled { gone, failed }
    }

    /// Whether somebody follows it, or has failed to.
    pub(super) fn has(&self, key: &ResourceKey) -> bool {
        self.following.contains_key(key)
    }

    /// Has a task follow something, in place of the one before.
    pub(super) fn follow(
        &mut self,
        key: ResourceKey,
        binding: Binding,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let task = self.tasks.spawn(task);
        self.following.insert(key, (binding, task));
    }

    /// Waits until one ends of whose end [`Followers::settle`] has not said yet; for ever where there is nobody.
    pub(super) async fn ended(&mut self) {
        if self.tasks.join_next().await.is_none() {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hauberk_identity::Name;
    use tokio::sync::Notify;

    use super::*;

    fn key(name: &str) -> ResourceKey {
        ResourceKey::federated_trust_domain(Name::parse("shop").unwrap(), Name::parse(name).unwrap())
    }

    /// Whoever waits for another to end may take its end from the set, where nobody would find it again.
    #[tokio::test]
    async fn who_fails_while_another_is_ended_is_told() {
        let mut followers = Followers::default();
        let binding = |revision: u8| (String::new(), [revision; 32]);
        let (first, second) = (key("a.example"), key("b.example"));
        let told = Arc::new(Notify::new());
        let fails = Arc::clone(&told);
        followers.follow(first.clone(), binding(1), std::future::pending());
        followers.follow(second.clone(), binding(1), async move {
            fails.notified().await;
            panic!("as planned");
        });
        let wanted =
            |of_first: u8| BTreeMap::from([(first.clone(), binding(of_first)), (second.clone(), binding(1))]);
        tokio::task::yield_now().await;
        assert_eq!(followers.settle(&wanted(1)).await, Settled::default());
        // On this one thread it ends before the other, which is aborted after that.
        told.notify_one();
        let (gone, failed) = (vec![first.clone()], vec![second.clone()]);
        assert_eq!(followers.settle(&wanted(2)).await, Settled { gone, failed });
        assert!(!followers.has(&first) && followers.has(&second));
        followers.follow(second.clone(), binding(1), std::future::pending());
        assert_eq!(followers.settle(&BTreeMap::from([(second, binding(1))])).await, Settled::default());
    }
}
