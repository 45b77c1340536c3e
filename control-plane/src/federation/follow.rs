//! Asks each endpoint in its own time, and keeps the last good bundle.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hauberk_proto::convert::features::MANY_ROOTS;
use hauberk_tls::SpiffeBundle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::Federation;
use super::error::RefreshError;
use super::fetch::{FetchError, fetch, fetch_keys};
use super::followers::{Binding, Followers, Settled};
use super::metrics::FollowedLabel;
use super::status::Answer;
use crate::audit::{Act, Actor};
use crate::compile::view::has_many_roots;
use crate::metrics::OutcomeLabel;
use crate::random;
use crate::registry::{Commit, StoreError, keys};
use crate::resources::{
    Catalog, Entry, FetchedBundle, FetchedKeys, JwtIssuer, KeyEndpoint, Kind, Model, ResourceKey, passed_over,
};

/// How often an endpoint is asked that gives no hint.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(300);

/// The least and the greatest interval, whatever it hints; after a failure it is the least.
const LEAST_INTERVAL: Duration = Duration::from_secs(60);
const GREATEST_INTERVAL: Duration = Duration::from_secs(3_600);

/// How soon after an issuer was asked it is asked again because of tokens that name a key which is not known: anybody can write one.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// How often within the time that an endpoint hints at, so that one answer may be missed.
const QUESTIONS_PER_HINT: u32 = 4;

/// By which part of it an interval is prolonged at the most, so that many do not ask together.
const JITTER: f64 = 0.1;

/// Follows all trust domains and issuers with an endpoint, and each change of them.
pub(super) async fn all(federation: &Arc<Federation>) {
    let mut catalogs = federation.catalogs.subscribe();
    let mut followers = Followers::default();
    let mut is_first = true;
    loop {
        let catalog = Arc::clone(&catalogs.borrow_and_update());
        let wanted = bindings(&catalog);
        let Settled { gone, failed } = followers.settle(&wanted).await;
        gone.iter().for_each(|key| federation.forget(key));
        for key in failed {
            tracing::error!(event = "federation_follower_failed", resource = %key,
                "whoever asked for it has panicked: it is asked for again in {} s", LEAST_INTERVAL.as_secs());
            federation.note(&key, &Err(RefreshError::Panicked));
            let Some(binding) = wanted.get(&key) else { continue };
            let again = one(Arc::clone(federation), key.clone());
            followers.follow(key, binding.clone(), async move {
                // What it failed on may be there still.
                sleep(LEAST_INTERVAL).await;
                again.await;
            });
        }
        let has_gone = std::mem::take(&mut is_first) || !gone.is_empty();
        if has_gone && let Err(error) = prune(federation, &catalog).await {
            tracing::warn!(event = "federation_prune_failed", %error, "it is tried again with the next change");
        }
        for (key, binding) in wanted {
            if !followers.has(&key) {
                let task = one(Arc::clone(federation), key.clone());
                followers.follow(key, binding, task);
            }
        }
        tokio::select! {
            changed = catalogs.changed() => if changed.is_err() { return },
            () = followers.ended() => {}
        }
    }
}

fn bindings(catalog: &Catalog) -> BTreeMap<ResourceKey, Binding> {
    let of_mesh = catalog.meshes().iter().flat_map(|(mesh, resources)| {
        let federated = resources.federated().filter(|(_, followed, _)| followed.endpoint().is_some());
        let federated = federated.map(|(name, followed, _)| {
            (ResourceKey::federated_trust_domain(mesh.clone(), name.clone()), followed.digest())
        });
        let is_asked = |issuer: &JwtIssuer| issuer.endpoint().is_some() && !resources.is_us(issuer);
        let issuers = resources.issuers().filter(move |(_, issuer, _)| is_asked(issuer));
        let issuers = issuers.map(|(name, issuer, _)| {
            let key = ResourceKey { kind: Kind::JwtIssuer, mesh: mesh.clone(), name: name.clone() };
            (key, issuer.digest())
        });
        federated.chain(issuers)
    });
    let bound = of_mesh.filter_map(|(key, digest)| {
        let uid = catalog.get(&key)?.uid().to_owned();
        Some((key, (uid, digest)))
    });
    bound.collect()
}

/// Follows one of them.
pub(super) async fn one(federation: Arc<Federation>, key: ResourceKey) {
    loop {
        let begun = Instant::now();
        let interval = match federation.refresh(&key).await {
            Ok(hint) => interval(hint),
            Err(_) => LEAST_INTERVAL,
        };
        // Of each time anew: what has no endpoint for a while has another status afterwards.
        let wanted = federation.statuses().entry(key.clone()).or_default().wanted();
        until_due(begun, interval.mul_f64(1.0 + JITTER * random::fraction()), &wanted).await;
    }
}

/// Waits for an interval, or until it is wanted sooner by somebody, at whatever time since it was last due.
async fn until_due(begun: Instant, interval: Duration, wanted: &Notify) {
    let wanted = async {
        sleep_until(begun + AGAIN_AFTER).await;
        wanted.notified().await;
    };
    tokio::select! {
        () = sleep(interval) => {}
        () = wanted => {}
    }
}

/// How long to wait where the endpoint hints at this.
pub(super) fn interval(hint: Option<Duration>) -> Duration {
    let wished = hint.map_or(DEFAULT_INTERVAL, |hint| hint / QUESTIONS_PER_HINT);
    wished.clamp(LEAST_INTERVAL, GREATEST_INTERVAL)
}

/// Forgets what was fetched for those who are followed no longer.
async fn prune(federation: &Federation, catalog: &Catalog) -> Result<(), StoreError> {
    let bundles = federation.store.list(keys::FETCHED_BUNDLES, None, usize::MAX).await?;
    let issuers = federation.store.list(keys::FETCHED_KEYS, None, usize::MAX).await?;
    for (record, stored) in bundles.entries.into_iter().chain(issuers.entries) {
        let resource = FetchedBundle::resource_of(&record).or_else(|| FetchedKeys::resource_of(&record));
        let Some(key) = resource else { continue };
        if catalog.get(&key).is_some() {
            continue;
        }
        let commit = Commit::new().absent(key.store_key()).at(record.clone(), stored.version).delete(record);
        match federation.store.commit(commit).await {
            // It was made again, or somebody else has done it.
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Federation {
    /// Asks an endpoint now, and puts what it answers in force. Says how often it hints to ask.
    ///
    /// # Errors
    /// What was in force before stays so.
    pub async fn refresh(&self, key: &ResourceKey) -> Result<Option<Duration>, RefreshError> {
        let asking = self.statuses().entry(key.clone()).or_default().asking();
        let _one_at_a_time = asking.lock().await;
        let result = self.try_refresh(key).await;
        self.note(key, &result);
        result.map(|answer| answer.hint)
    }

    /// Notes what became of a question.
    fn note(&self, key: &ResourceKey, result: &Result<Answer, RefreshError>) {
        let now = self.clock.now();
        let outcome = if result.is_ok() { "ok" } else { "failed" };
        self.metrics.fetches.get_or_create(&OutcomeLabel { outcome }).inc();
        let (label, mut statuses) = (FollowedLabel::of(key), self.statuses());
        // Who is followed no longer is not heard of again.
        let Some(status) = statuses.get_mut(key) else { return };
        match result {
            Ok(answer) => {
                status.succeed(now);
                // Only now: of an answer that is refused nothing counts.
                let (passed_over, others) = (&answer.passed_over, answer.of_others());
                if status.pass_over(passed_over.clone()) {
                    tracing::warn!(event = "followed_keys_passed_over", resource = %key, ?passed_over, "{others}");
                }
                self.metrics.failing.get_or_create(&label).set(0);
                let seconds = i64::try_from(now.0 / 1_000).unwrap_or(i64::MAX);
                self.metrics.fetched_at.get_or_create(&label).set(seconds);
            }
            Err(RefreshError::NoEndpoint(_)) => drop(statuses.remove(key)),
            Err(error) => {
                self.metrics.failing.get_or_create(&label).set(1);
                // The same failure again at each attempt would bury everything else.
                if status.fail(error, now) {
                    tracing::error!(event = "federation_failed", resource = %key, %error, "what was fetched before stays in force");
                }
            }
        }
    }

    async fn try_refresh(&self, key: &ResourceKey) -> Result<Answer, RefreshError> {
        let catalog = self.catalogs.current().await?;
        let none = || RefreshError::NoEndpoint(key.clone());
        let entry = catalog.get(key).ok_or_else(none)?;
        let followed = match entry.model() {
            Model::FederatedTrustDomain(followed) => followed,
            Model::JwtIssuer(issuer) => {
                if catalog.mesh(key.mesh.as_str()).is_some_and(|mesh| mesh.is_us(issuer)) {
                    // Its keys are ours, and count as soon as they are there.
                    return Ok(Answer { hint: None, passed_over: Vec::new(), has_keys: true });
                }
                let endpoint = issuer.endpoint().ok_or_else(none)?;
                return self.refresh_keys(key, entry, issuer.issuer(), endpoint).await;
            }
            _ => return Err(none()),
        };
        let endpoint = followed.endpoint().ok_or_else(none)?;
        let record = FetchedBundle::store_key(key);
        let stored = self.store.get(&record).await?;
        let read = stored.as_ref().map(|stored| FetchedBundle::from_stored(key, stored));
        // While what is stored cannot be read, nothing is in force.
        let is_damaged = matches!(read, Some(Err(_)));
        let former = read.and_then(Result::ok).filter(|former| former.is_for(entry));
        let held = former.as_ref().map(FetchedBundle::bundle).or(followed.initial());
        let voucher = self.voucher(key, followed, held.map(|held| held.x509())).await?;
        let known_by = (Arc::clone(&voucher.roots), self.refuses());
        let (bundle, errors) = fetch(followed, endpoint, known_by, self.web_roots.as_deref()).await?;
        // What was fetched for this very resource, or else what it says itself.
        let fetched = former.as_ref().and_then(FetchedBundle::highest_sequence);
        let seen = fetched.or_else(|| followed.initial().and_then(|initial| initial.sequence()));
        if let (Some(offered), Some(seen)) = (bundle.sequence(), seen)
            && offered < seen
        {
            return Err(FetchError::Older { offered, seen }.into());
        }
        let answer = Answer {
            hint: bundle.refresh_hint(),
            passed_over: passed_over(&errors),
            has_keys: !bundle.is_empty(),
        };
        self.see_number(key, held.map(|held| (held.sequence(), held.has_same_keys(&bundle))), &bundle);
        let is_in_force = !is_damaged && held.is_some_and(|held| held.has_same_keys(&bundle));
        if is_in_force && former.is_some() && bundle.sequence().is_none_or(|number| Some(number) == seen) {
            return Ok(answer);
        }
        if !held.is_some_and(|held| has_many_roots(held)) {
            self.see_capable(&catalog, key, &bundle)?;
        }
        let Some(fetched) = FetchedBundle::new(entry, former.as_ref(), bundle, self.clock.now()) else {
            return Ok(answer);
        };
        self.see_unchanged(&voucher)?;
        let commit = Commit::new()
            .present(key.store_key())
            .unchanged(record.clone(), stored.as_ref())
            .put(record, fetched.to_bytes(key)?);
        let commit = voucher.bind(commit);
        let written = if is_in_force {
            self.store.commit(commit).await.map(drop)
        } else {
            self.put_in_force(key, entry, &fetched, commit.raising_revision()).await
        };
        written.map(|()| answer).map_err(|error| voucher.explain(error))
    }

    /// Refuses a bundle by which a running agent of an earlier release could verify nobody.
    fn see_capable(
        &self,
        catalog: &Catalog,
        key: &ResourceKey,
        bundle: &SpiffeBundle,
    ) -> Result<(), RefreshError> {
        let resources = catalog.mesh(key.mesh.as_str()).filter(|_| has_many_roots(bundle));
        let own = self.identity.current();
        let nodes = resources.iter().flat_map(|resources| resources.nodes_and_gateways());
        for (name, _) in nodes {
            let node = name.spiffe_id(own.bundle().trust_domain(), &key.mesh);
            if let Some(instance) = (self.missing_feature)(&node, &[MANY_ROOTS]) {
                return Err(RefreshError::Incapable { roots: bundle.x509().roots().len(), instance, node });
            }
        }
        Ok(())
    }

    /// Tells where a bundle has other keys than the one `before` it, and the same number. It is taken all the same: whoever answers has
    /// proved to be the endpoint, and the former keys may be those that were lost.
    fn see_number(&self, key: &ResourceKey, before: Option<(Option<u64>, bool)>, bundle: &SpiffeBundle) {
        let Some((sequence, has_same_keys)) = before else { return };
        let is_same_number = bundle.sequence().is_some() && sequence == bundle.sequence();
        let reused = match (is_same_number, has_same_keys) {
            (true, true) => return,
            (true, false) => bundle.sequence(),
            (false, _) => None,
        };
        if let Some(number) = reused {
            tracing::warn!(event = "federation_sequence_reused", resource = %key, number,
                "other keys have the number of those before: other followers may not take them");
        }
        if let Some(status) = self.statuses().get_mut(key) {
            status.reuse(reused);
        }
    }

    /// The keys of an issuer. What is served now counts, whatever was served before: a key that is gone is gone.
    async fn refresh_keys(
        &self,
        key: &ResourceKey,
        entry: &Entry,
        issuer: &str,
        endpoint: &KeyEndpoint,
    ) -> Result<Answer, RefreshError> {
        let record = FetchedKeys::store_key(key);
        let stored = self.store.get(&record).await?;
        let former = stored.as_ref().and_then(|stored| FetchedKeys::from_stored(key, stored).ok());
        let (keys, errors) = fetch_keys(issuer, endpoint, self.web_roots.as_deref()).await?;
        let answer = Answer { hint: None, passed_over: passed_over(&errors), has_keys: !keys.is_empty() };
        let is_in_force =
            former.as_ref().is_some_and(|former| former.are_for(entry) && **former.keys() == keys);
        let Some(fetched) = FetchedKeys::new(entry, keys, self.clock.now()).filter(|_| !is_in_force) else {
            return Ok(answer);
        };
        let commit = Commit::new()
            .present(key.store_key())
            .unchanged(record.clone(), stored.as_ref())
            .put(record, fetched.to_bytes(key)?)
            .raising_revision();
        let count = fetched.keys().keys().count();
        let what = format!("{count} keys");
        let act = Act::done(&own(), "issuer.keys", key.to_string()).because(&*what);
        self.audit.commit(commit, act).await?;
        if fetched.keys().is_empty() {
            tracing::error!(event = "issuer_keys_empty", resource = %key,
                "the issuer publishes no key that can verify tokens: all its users are denied");
        } else {
            tracing::info!(event = "issuer_keys", resource = %key, what, "other keys are in force");
        }
        Ok(answer)
    }

    async fn put_in_force(
        &self,
        key: &ResourceKey,
        entry: &Entry,
        fetched: &FetchedBundle,
        commit: Commit,
    ) -> Result<(), StoreError> {
        let bundle = fetched.bundle();
        let (roots, tokens) = (bundle.x509().roots().len(), bundle.jwt().keys().count());
        let sequence =
            bundle.sequence().map_or_else(|| "no number".to_owned(), |number| format!("number {number}"));
        let what = format!("{roots} roots, {tokens} keys for tokens, {sequence}");
        self.audit
            .commit(commit, Act::done(&own(), "federation.bundle", key.to_string()).because(&*what))
            .await?;
        let resource_version = entry.resource_version();
        if bundle.is_empty() {
            tracing::error!(event = "federation_bundle_empty", resource = %key, resource_version,
                "the trust domain has taken back all its keys: nobody of it is let in");
        } else {
            tracing::info!(event = "federation_bundle", resource = %key, resource_version, what, "another bundle is in force");
        }
        Ok(())
    }

    fn forget(&self, key: &ResourceKey) {
        self.statuses().remove(key);
        self.metrics.forget(key);
    }
}

/// Who puts in force what was fetched.
fn own() -> Actor {
    Actor { name: "control-plane".to_owned(), source: "local".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_wants_an_issuer_asked_is_heard_once_in_a_while() {
        let wanted = Notify::new();
        let due = async |at: &[u64]| {
            let begun = Instant::now();
            let want = async {
                for at in at {
                    sleep_until(begun + Duration::from_secs(*at)).await;
                    wanted.notify_one();
                }
                std::future::pending().await
            };
            tokio::select! {
                () = until_due(begun, DEFAULT_INTERVAL, &wanted) => {}
                () = want => {}
            }
            begun.elapsed().as_secs()
        };
        assert_eq!(due(&[]).await, 300);
        assert_eq!(due(&[100]).await, 100);
        assert_eq!(due(&[1, 2, 3, 29]).await, 30, "asked just now: for all of them once");
        assert_eq!(due(&[]).await, 300, "none of them is left");
        assert_eq!(due(&[31, 400]).await, 31);
    }
}
