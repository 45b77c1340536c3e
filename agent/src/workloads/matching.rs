//! Which identities a program gets: those of the entries all of whose selectors are true of it.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use hauberk_identity::{Name, Selector};
use tokio::sync::Semaphore;

use super::attest::Caller;
use super::entry::Entries;

/// How many refusals are remembered as told.
const TOLD: usize = 1_024;

/// Matches programs with entries.
#[derive(Debug)]
pub(super) struct Matching {
    /// One executable at a time is read: whoever connects a thousand times does not take the whole processor.
    hashing: Semaphore,
    told: Mutex<HashSet<String>>,
}

/// What an entry still lacks of a program.
#[derive(Debug, PartialEq, Eq)]
struct Lack {
    enrollment: Name,
    missing: Vec<Selector>,
}

impl Matching {
    pub(super) fn new() -> Self {
        Self { hashing: Semaphore::new(1), told: Mutex::default() }
    }

    /// The enrollments that are the caller's, in order. Why it has none goes into the log, once.
    pub(super) async fn of(&self, caller: &Arc<Caller>, entries: &Entries) -> Vec<Name> {
        let asked = Arc::clone(caller);
        let mut holds = blocking(move || asked.selectors()).await.unwrap_or_default();
        let (mut found, mut lacks) = judge(entries, &holds);
        // Only where the digest alone is still open is it worth its time.
        if lacks.iter().any(Lack::is_of_a_digest)
            && let Ok(_turn) = self.hashing.acquire().await
        {
            let asked = Arc::clone(caller);
            holds.extend(blocking(move || asked.digest()).await.flatten());
            (found, lacks) = judge(entries, &holds);
        }
        if found.is_empty() {
            self.tell(caller, &holds, lacks);
        }
        found
    }

    fn tell(&self, caller: &Caller, holds: &BTreeSet<Selector>, lacks: Vec<Lack>) {
        let nearest = lacks.into_iter().min_by_key(|lack| lack.missing.len());
        let (enrollment, missing) = match nearest {
            Some(Lack { enrollment, missing }) => (enrollment.to_string(), in_words(&missing)),
            None => ("none".to_owned(), "no enrollment has this node as its parent".to_owned()),
        };
        let holds = in_words(holds);
        let refusal = format!("{holds}/{enrollment}/{missing}");
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= TOLD {
            told.clear();
        }
        if told.insert(refusal) {
            tracing::warn!(
                event = "workload_denied",
                uid = caller.uid,
                gid = caller.gid,
                nearest = enrollment,
                missing,
                holds,
                "a program asked for an identity and no enrollment is its"
            );
        }
    }
}

impl Lack {
    fn is_of_a_digest(&self) -> bool {
        self.missing.iter().all(|selector| matches!(selector, Selector::UnixSha256(_)))
    }
}

fn judge(entries: &Entries, holds: &BTreeSet<Selector>) -> (Vec<Name>, Vec<Lack>) {
    let (mut found, mut lacks) = (Vec::new(), Vec::new());
    for (name, entry) in entries {
        let missing: Vec<Selector> =
            entry.selectors.iter().filter(|selector| !holds.contains(selector)).cloned().collect();
        if missing.is_empty() {
            found.push(name.clone());
        } else {
            lacks.push(Lack { enrollment: name.clone(), missing });
        }
    }
    (found, lacks)
}

fn in_words<'a>(selectors: impl IntoIterator<Item = &'a Selector>) -> String {
    selectors.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// /proc is read, and files may lie on disks that are slow.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

#[cfg(test)]
mod tests {
    use hauberk_identity::SpiffeId;

    use super::super::entry::{Certified, Entry};
    use super::*;

    fn entries(all: &[(&str, &[&str])]) -> Entries {
        let entry = |selectors: &[&str]| Entry {
            selectors: selectors.iter().map(|text| text.parse().unwrap()).collect(),
            hint: String::new(),
            certificate: Certified {
                id: SpiffeId::parse("spiffe://shop.local/workload/x").unwrap(),
                dns_names: Vec::new(),
                ttl: None,
            },
        };
        all.iter().map(|(name, selectors)| (Name::parse(name).unwrap(), entry(selectors))).collect()
    }

    async fn found(all: &[(&str, &[&str])]) -> Vec<String> {
        let (ours, _theirs) = tokio::net::UnixStream::pair().unwrap();
        let caller = Arc::new(Caller::of(&ours).unwrap());
        let found = Matching::new().of(&caller, &entries(all)).await;
        found.iter().map(Name::to_string).collect()
    }

    #[tokio::test]
    async fn all_selectors_must_hold() {
        let uid = format!("unix:uid:{}", rustix::process::geteuid().as_raw());
        let other = format!("unix:uid:{}", rustix::process::geteuid().as_raw() + 1);
        let path = format!("unix:path:{}", std::env::current_exe().unwrap().display());
        let file = std::fs::read("/proc/self/exe").unwrap();
        let digest = hauberk_tls::Fingerprint::of(&file);
        let (sha, wrong) = (format!("unix:sha256:{digest}"), format!("unix:sha256:{}", "0".repeat(64)));
        let all: [(&str, &[&str]); 7] = [
            ("by-digest", &[&uid, &sha]),
            ("by-other-digest", &[&uid, &wrong]),
            ("by-other-user", &[&other]),
            ("by-other-user-and-path", &[&other, &path]),
            ("by-path", &[&path]),
            ("by-user", &[&uid]),
            ("by-user-and-missing-path", &[&uid, "unix:path:/usr/bin/none"]),
        ];
        assert_eq!(found(&all).await, ["by-digest", "by-path", "by-user"]);
        assert_eq!(found(&[]).await, [""; 0]);
    }
}
