//! Which identities a program gets: those of the entries all of whose selectors are true of it.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hauberk_identity::{Name, Selector};
use hauberk_proto::agent::v1 as pb;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::attest::Caller;
use super::denials::Denials;
use super::docker::{Docker, DockerError};
use super::entry::Entries;
use super::looks::{Depth, LookError};
use super::systemd::{BusError, Systemd};

/// How many refusals are remembered as told, and for how long: a program that asks again and again is told once.
const TOLD: usize = 1_024;
const TOLD_FOR: Duration = Duration::from_secs(3_600);

/// How much of a refusal the control plane is told: what an enrollment asks for whole, and of what is true of the
/// program so many selectors and characters of each.
const MOST_TOLD: usize = 32;
const LONGEST_TOLD: usize = 200;

/// Matches programs with entries.
#[derive(Debug)]
pub(super) struct Matching {
    /// `None`: nobody is asked for containers.
    docker: Option<Docker>,
    systemd: Systemd,
    told: Mutex<HashMap<String, Instant>>,
    denials: Denials,
}

/// What is found out only where nothing else is missing, for it takes time or takes asking others; in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Costly {
    Container,
    UnitFile,
    Digest,
}

/// What an entry still lacks of a program.
#[derive(Debug, PartialEq, Eq)]
struct Lack {
    enrollment: Name,
    missing: Vec<Selector>,
    /// How many of its selectors are true of the program.
    held: usize,
}

impl Matching {
    pub(super) fn new(docker: Option<Docker>, denials: Denials) -> Self {
        Self { docker, systemd: Systemd::new(), told: Mutex::default(), denials }
    }

    /// The enrollments that are the caller's, in order. Why it has none goes into the log and to the control plane,
    /// once in a while.
    ///
    /// A task of its own finds them out, with the turns that this takes: who waits for it may be left half-way for as
    /// long as a program leaves other answers unread (`untaken.rs`), and would keep turns meanwhile for which other
    /// programs wait.
    ///
    /// # Errors
    /// It cannot be looked at in time.
    pub(super) async fn of(
        self: &Arc<Self>,
        caller: &Arc<Caller>,
        entries: &Arc<Entries>,
    ) -> Result<Vec<Name>, LookError> {
        let (matching, caller, entries) = (Arc::clone(self), Arc::clone(caller), Arc::clone(entries));
        let mut finding = JoinSet::new();
        finding.spawn(async move { matching.find(&caller, &entries).await });
        finding.join_next().await.unwrap_or(Ok(Ok(Vec::new())))?
    }

    async fn find(&self, caller: &Arc<Caller>, entries: &Entries) -> Result<Vec<Name>, LookError> {
        let mut holds = caller.look(Depth::Surface, Caller::selectors).await?;
        let (mut found, mut lacks) = judge(entries, &holds);
        for costly in [Costly::Container, Costly::UnitFile, Costly::Digest] {
            // Of whom nothing at all is true, nothing more is.
            if !holds.is_empty() && lacks.iter().any(|lack| lack.is_open_to(costly)) {
                holds.extend(self.find_out(costly, caller, entries).await?);
                (found, lacks) = judge(entries, &holds);
            }
        }
        if found.is_empty() {
            self.tell(caller, &holds, lacks).await;
        }
        Ok(found)
    }

    /// Nothing is true of what cannot be found out. Why goes into the log, once.
    async fn find_out(
        &self,
        costly: Costly,
        caller: &Arc<Caller>,
        entries: &Entries,
    ) -> Result<BTreeSet<Selector>, LookError> {
        let problem = match costly {
            Costly::Container => {
                let all = entries.values().flat_map(|entry| &entry.selectors);
                let asked: BTreeSet<Selector> =
                    all.filter(|selector| matches!(selector, Selector::DockerEnv(_))).cloned().collect();
                match &self.docker {
                    Some(docker) => match docker.selectors(caller, &asked).await {
                        Ok(selectors) => return Ok(selectors),
                        Err(DockerError::Look(error)) => return Err(error),
                        Err(error) => error.to_string(),
                    },
                    None => "an enrollment asks for containers, and the agent runs without --docker-socket"
                        .to_owned(),
                }
            }
            Costly::UnitFile => match self.systemd.unit_file(caller).await {
                Ok(selector) => return Ok(selector.into_iter().collect()),
                Err(BusError::Look(error)) => return Err(error),
                Err(error) => error.to_string(),
            },
            Costly::Digest => {
                let digest = caller.look(Depth::Whole, Caller::digest).await?;
                return Ok(digest.into_iter().collect());
            }
        };
        if self.is_news(format!("{costly:?} {problem}")) {
            tracing::warn!(
                event = "workload_not_examined",
                uid = caller.uid,
                problem,
                "selectors that ask for it are not true"
            );
        }
        Ok(BTreeSet::new())
    }

    /// Whether this was not told before, or long ago.
    fn is_news(&self, text: String) -> bool {
        let (mut told, now) = (self.told.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        if told.get(&text).is_some_and(|at| now.duration_since(*at) < TOLD_FOR) {
            return false;
        }
        if told.len() >= TOLD {
            told.clear();
        }
        told.insert(text, now);
        true
    }

    async fn tell(&self, caller: &Arc<Caller>, holds: &BTreeSet<Selector>, lacks: Vec<Lack>) {
        let nearest = lacks.into_iter().min_by_key(Lack::distance);
        let lacks_path = nearest.as_ref().is_some_and(Lack::is_of_path);
        let lacking = nearest.as_ref().map(|lack| words(&lack.missing)).unwrap_or_default();
        let (enrollment, missing) = match &nearest {
            Some(Lack { enrollment, missing, held: _ }) => (enrollment.to_string(), in_words(missing)),
            None => ("none".to_owned(), "no enrollment has this node as its parent".to_owned()),
        };
        let has = words(holds);
        let holds = in_words(holds);
        let problem = match lacks_path {
            true => caller.look(Depth::Surface, Caller::path_problem).await.ok().flatten(),
            false => None,
        };
        if self.is_news(format!("{holds}/{enrollment}/{missing}/{problem:?}")) {
            tracing::warn!(
                event = "workload_denied",
                uid = caller.uid,
                gid = caller.gid,
                nearest = enrollment,
                missing,
                holds,
                problem,
                "a program asked for an identity and no enrollment is its"
            );
            self.denials.add(pb::WorkloadDenied {
                nearest: nearest.map(|lack| lack.enrollment.to_string()).unwrap_or_default(),
                missing: lacking,
                holds: shortened(has),
                problem: problem.unwrap_or_default().chars().take(LONGEST_TOLD).collect(),
                left_out: 0,
            });
        }
    }
}

impl Lack {
    /// The nearer, the less. One of which something is true comes before all of which nothing is: those are about other programs,
    /// however little they ask for. Of equals the first by name stays, for entries come in that order.
    fn distance(&self) -> (bool, usize, Reverse<usize>) {
        (self.held == 0, self.missing.len(), Reverse(self.held))
    }

    fn is_of_path(&self) -> bool {
        self.missing.iter().any(|selector| matches!(selector, Selector::UnixPath(_)))
    }

    /// Whether this could be true yet, and takes that.
    fn is_open_to(&self, costly: Costly) -> bool {
        // What still lacks something that was looked for before is lost.
        self.missing.iter().all(|selector| cost(selector).is_some_and(|cost| cost >= costly))
            && self.missing.iter().any(|selector| cost(selector) == Some(costly))
    }
}

/// `None`: it would have been found out already.
fn cost(selector: &Selector) -> Option<Costly> {
    match selector {
        Selector::DockerLabel(_)
        | Selector::DockerEnv(_)
        | Selector::DockerImageId(_)
        | Selector::DockerImageConfigDigest(_) => Some(Costly::Container),
        Selector::SystemdFragmentPath(_) => Some(Costly::UnitFile),
        Selector::UnixSha256(_) => Some(Costly::Digest),
        Selector::UnixUid(_)
        | Selector::UnixGid(_)
        | Selector::UnixSupplementaryGid(_)
        | Selector::UnixPath(_)
        | Selector::SystemdId(_) => None,
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
            let held = entry.selectors.len() - missing.len();
            lacks.push(Lack { enrollment: name.clone(), missing, held });
        }
    }
    (found, lacks)
}

fn shortened(words: Vec<String>) -> Vec<String> {
    words.into_iter().take(MOST_TOLD).map(|word| word.chars().take(LONGEST_TOLD).collect()).collect()
}

fn in_words<'a>(selectors: impl IntoIterator<Item = &'a Selector>) -> String {
    words(selectors).join(", ")
}

/// For people. Variables of a container may hold what is nobody's business: their names suffice.
fn words<'a>(selectors: impl IntoIterator<Item = &'a Selector>) -> Vec<String> {
    let words = selectors.into_iter().map(|selector| {
        let text = selector.to_string();
        match (selector, text.split_once('=')) {
            (Selector::DockerEnv(_), Some((name, _))) => format!("{name}=…"),
            _ => text,
        }
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use hauberk_identity::SpiffeId;
    use tokio_util::sync::CancellationToken;

    use super::super::entry::{Certified, Entry};
    use super::super::looks::Looks;
    use super::*;

    fn entries(all: &[(&str, &[&str])]) -> Arc<Entries> {
        let entry = |selectors: &[&str]| Entry {
            selectors: selectors.iter().map(|text| text.parse().unwrap()).collect(),
            hint: String::new(),
            federates_with: BTreeSet::new(),
            token_life: None,
            certificate: Certified {
                id: SpiffeId::parse("spiffe://shop.local/workload/x").unwrap(),
                dns_names: Vec::new(),
                ttl: None,
            },
        };
        Arc::new(all.iter().map(|(name, selectors)| (Name::parse(name).unwrap(), entry(selectors))).collect())
    }

    #[test]
    fn no_value_of_a_variable_is_told() {
        let selectors: Vec<Selector> =
            ["docker:env:KEY=s3cret=", "unix:uid:7"].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(in_words(&selectors), "docker:env:KEY=…, unix:uid:7");
    }

    async fn found(all: &[(&str, &[&str])]) -> Vec<String> {
        let (ours, _theirs) = tokio::net::UnixStream::pair().unwrap();
        let caller = Arc::new(Caller::of(&ours, &Looks::new(CancellationToken::new())).unwrap());
        let found =
            Arc::new(Matching::new(None, Denials::default())).of(&caller, &entries(all)).await.unwrap();
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

    #[tokio::test]
    async fn all_that_is_missing_is_told_however_long_it_is() {
        let (ours, _theirs) = tokio::net::UnixStream::pair().unwrap();
        let caller = Arc::new(Caller::of(&ours, &Looks::new(CancellationToken::new())).unwrap());
        let denials = Denials::default();
        let selectors: Vec<_> = (10..42).map(|n| format!("docker:label:{n}:{}", "x".repeat(1_000))).collect();
        let selectors: Vec<&str> = selectors.iter().map(String::as_str).collect();
        let entries = entries(&[("long", &selectors)]);
        let matching = Arc::new(Matching::new(None, denials.clone()));
        assert!(matching.of(&caller, &entries).await.unwrap().is_empty());
        assert_eq!(denials.next()[0].missing, selectors);
    }

    #[tokio::test]
    async fn the_nearest_is_one_of_which_something_is_true() {
        let uid = format!("unix:uid:{}", rustix::process::geteuid().as_raw());
        let gid = format!("unix:gid:{}", rustix::process::getegid().as_raw());
        let none = "unix:uid:4000000000";
        let worker: &[&str] = &[&uid, "unix:path:/usr/bin/none", "docker:label:a:b"];
        for (all, wanted) in [
            // Fewer selectors are no nearer where none is true.
            (vec![("aa-one", &[none][..]), ("worker", worker)], "worker"),
            // Then as few as possible missing, as many as possible true, and the first by name.
            (vec![("aa-two", worker), ("one", &[&uid, none][..])], "one"),
            (vec![("aa-one", &[&uid, none][..]), ("more", &[&uid, &gid, none])], "more"),
            (vec![("b", &[&uid, none][..]), ("a", &[&uid, none])], "a"),
            (vec![("aa-two", &[none, "docker:label:a:b"][..]), ("one", &[none])], "one"),
        ] {
            let (ours, _theirs) = tokio::net::UnixStream::pair().unwrap();
            let caller = Arc::new(Caller::of(&ours, &Looks::new(CancellationToken::new())).unwrap());
            let denials = Denials::default();
            let matching = Arc::new(Matching::new(None, denials.clone()));
            assert!(matching.of(&caller, &entries(&all)).await.unwrap().is_empty());
            assert_eq!(denials.next()[0].nearest, wanted);
        }
    }

    #[tokio::test]
    async fn the_control_plane_is_told_what_is_missing_once() {
        let (ours, _theirs) = tokio::net::UnixStream::pair().unwrap();
        let caller = Arc::new(Caller::of(&ours, &Looks::new(CancellationToken::new())).unwrap());
        let denials = Denials::default();
        let matching = Arc::new(Matching::new(None, denials.clone()));
        let uid = format!("unix:uid:{}", rustix::process::geteuid().as_raw());
        let all: [(&str, &[&str]); 2] = [
            ("far", &["unix:uid:4000000000", "unix:gid:4000000000", "docker:env:KEY=s3cret"]),
            ("near", &[&uid, "docker:env:KEY=s3cret"]),
        ];
        for _ in 0..10 {
            assert_eq!(matching.of(&caller, &entries(&all)).await.unwrap(), [] as [Name; 0]);
        }
        let [denied] = &denials.next()[..] else { panic!("told otherwise than once") };
        assert_eq!(
            (denied.nearest.as_str(), &denied.missing[..]),
            ("near", &["docker:env:KEY=…".to_owned()][..])
        );
        assert!(denied.holds.contains(&uid), "{denied:?}");
        assert!(matching.of(&caller, &Arc::default()).await.unwrap().is_empty());
        assert_eq!(denials.next()[0].nearest, "", "of no enrollment at all");
    }
}
