//! Which services are known, wanted, or known not to exist.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use hauberk_identity::Name;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Endpoints, Service};

/// How long the first use of a service waits for the control plane.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often idle services are looked for; five rounds without use and a service is dropped.
const ROUND: Duration = Duration::from_secs(60);
const IDLE_ROUNDS: u8 = 5;
/// The most services beyond the backends; the control plane allows no more.
const MAX_WANTED: usize = 1_000;

/// Why a name gives no service. The fault is the caller's, but for [`Unknown::NoAnswer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unknown {
    /// It can be no service's name.
    #[error("this is no possible name of a service")]
    NotAName,
    /// The control plane says that there is none.
    #[error("the mesh has no service of this name")]
    NoSuchService,
    /// The control plane could not be asked, and nothing is known from before.
    #[error("the service is not known yet and the control plane does not answer")]
    NoAnswer,
    /// The agent already follows as many as it may.
    #[error("the agent follows 1000 services already")]
    TooMany,
}

/// The directory of services.
#[derive(Debug)]
pub struct Services {
    /// What `lookup` reads: only services that exist.
    known: ArcSwap<HashMap<Name, Arc<Known>>>,
    wanted: Mutex<Wanted>,
    /// Raised when an answer has come.
    answers: watch::Sender<u64>,
    /// Raised when the set of wanted services has changed.
    wishes: watch::Sender<u64>,
    endpoints: Arc<Endpoints>,
}

#[derive(Debug)]
struct Known {
    service: Arc<Service>,
    is_used: AtomicBool,
    idle_rounds: AtomicU8,
}

#[derive(Debug, Default)]
struct Wanted {
    backends: HashSet<Name>,
    /// Asked for at first use, with the rounds for which there has been no such service.
    subscribed: HashMap<Name, u8>,
    /// Those of both that the control plane has said not to exist.
    gone: HashSet<Name>,
    /// What the running session has been told of `subscribed`.
    told: HashSet<Name>,
}

/// What a session has to tell the control plane.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct WantedChange {
    /// Services to follow from now on.
    pub add: Vec<Name>,
    /// Services to follow no longer.
    pub remove: Vec<Name>,
}

impl Services {
    /// None known.
    pub fn new(endpoints: Arc<Endpoints>) -> Self {
        Self {
            known: ArcSwap::default(),
            wanted: Mutex::default(),
            answers: watch::Sender::new(0),
            wishes: watch::Sender::new(0),
            endpoints,
        }
    }

    /// The service of this name, if it is known already. Never waits.
    pub fn lookup(&self, name: &str) -> Option<Arc<Service>> {
        let known = self.known.load();
        let entry = known.get(name)?;
        if !entry.is_used.load(Ordering::Relaxed) {
            entry.is_used.store(true, Ordering::Relaxed);
        }
        Some(Arc::clone(&entry.service))
    }

    /// The service of this name; asks the control plane at first use and waits up to three seconds for its answer.
    ///
    /// # Errors
    /// There is no such service, or nobody can say.
    pub async fn want(&self, name: &str) -> Result<Arc<Service>, Unknown> {
        if let Some(service) = self.lookup(name) {
            return Ok(service);
        }
        let parsed = Name::parse(name).map_err(|_| Unknown::NotAName)?;
        let mut answers = self.answers.subscribe();
        if !self.subscribe_to(&parsed)? {
            return Err(Unknown::NoSuchService);
        }
        let answered = async {
            loop {
                if let Some(service) = self.lookup(name) {
                    return Ok(service);
                }
                if self.wanted().gone.contains(&parsed) {
                    return Err(Unknown::NoSuchService);
                }
                if answers.changed().await.is_err() {
                    return Err(Unknown::NoAnswer);
                }
            }
        };
        tokio::time::timeout(PATIENCE, answered).await.unwrap_or(Err(Unknown::NoAnswer))
    }

    /// Everything known, by name.
    pub fn all(&self) -> Vec<Arc<Service>> {
        let mut all: Vec<_> = self.known.load().values().map(|entry| Arc::clone(&entry.service)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Puts services in place of the former ones of their names.
    pub fn install(&self, services: Vec<Arc<Service>>) {
        let mut wanted = self.wanted();
        self.known.rcu(|known| {
            let mut known = HashMap::clone(known);
            for service in &services {
                known.insert(service.name.clone(), Known::of(service));
            }
            known
        });
        for service in &services {
            wanted.gone.remove(&service.name);
            if !wanted.is_followed(&service.name) {
                // Kept from before a restart: followed until it proves idle.
                wanted.subscribed.insert(service.name.clone(), 0);
                self.wishes.send_modify(|count| *count += 1);
            }
        }
        drop(wanted);
        self.answers.send_modify(|count| *count += 1);
    }

    /// Notes that these services do not exist.
    pub fn remove(&self, names: &[Name]) {
        let mut wanted = self.wanted();
        let gone: Vec<Name> = names.iter().filter(|name| wanted.is_followed(name)).cloned().collect();
        wanted.gone.extend(gone);
        self.forget(|name| names.contains(name));
        drop(wanted);
        self.answers.send_modify(|count| *count += 1);
    }

    /// Forgets all services and whom they were for.
    pub fn clear(&self) {
        let mut wanted = self.wanted();
        *wanted = Wanted::default();
        self.forget(|_| true);
        drop(wanted);
        self.answers.send_modify(|count| *count += 1);
    }

    /// Sets the services that are followed whether used or not.
    pub fn set_backends(&self, names: impl IntoIterator<Item = Name>) {
        let mut wanted = self.wanted();
        let backends: HashSet<Name> = names.into_iter().collect();
        let former = std::mem::replace(&mut wanted.backends, backends);
        let Wanted { backends, subscribed, gone, .. } = &mut *wanted;
        subscribed.retain(|name, _| !backends.contains(name));
        gone.retain(|name| backends.contains(name) || subscribed.contains_key(name));
        // What was a backend and is known goes on until it proves idle.
        let known = self.known.load();
        for name in former {
            if !backends.contains(&name) && known.contains_key(&name) {
                subscribed.insert(name, 0);
            }
        }
        drop(wanted);
        self.wishes.send_modify(|count| *count += 1);
    }

    /// The services that a new session names in its first message, and a start for [`Services::next_change`].
    pub fn begin_session(&self) -> Vec<Name> {
        let mut wanted = self.wanted();
        wanted.told = wanted.subscribed.keys().cloned().collect();
        wanted.told.iter().cloned().collect()
    }

    /// Wakes a session when [`Services::next_change`] may have something for it.
    pub fn wishes(&self) -> watch::Receiver<u64> {
        self.wishes.subscribe()
    }

    /// What has changed since the session was last told.
    pub fn next_change(&self) -> WantedChange {
        let mut wanted = self.wanted();
        let add: Vec<Name> =
            wanted.subscribed.keys().filter(|name| !wanted.told.contains(*name)).cloned().collect();
        let remove: Vec<Name> =
            wanted.told.iter().filter(|name| !wanted.subscribed.contains_key(*name)).cloned().collect();
        wanted.told = wanted.subscribed.keys().cloned().collect();
        WantedChange { add, remove }
    }

    /// Drops services that nobody has used for five minutes, until `stop`.
    pub async fn drop_idle(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(ROUND) => self.end_round(),
            }
        }
    }

    fn end_round(&self) {
        let mut wanted = self.wanted();
        let known = self.known.load_full();
        let is_idle = |(name, absent_rounds): (&Name, &mut u8)| {
            let Some(entry) = known.get(name) else {
                // Asked for and not there. One round's grace, since somebody may be waiting for the answer.
                *absent_rounds += 1;
                return (*absent_rounds > 1).then(|| name.clone());
            };
            let rounds = match entry.is_used.swap(false, Ordering::Relaxed) {
                true => 0,
                false => entry.idle_rounds.load(Ordering::Relaxed) + 1,
            };
            entry.idle_rounds.store(rounds, Ordering::Relaxed);
            (rounds >= IDLE_ROUNDS).then(|| name.clone())
        };
        let idle: HashSet<Name> = wanted.subscribed.iter_mut().filter_map(is_idle).collect();
        if !idle.is_empty() {
            wanted.subscribed.retain(|name, _| !idle.contains(name));
            wanted.gone.retain(|name| !idle.contains(name));
            self.forget(|name| idle.contains(name));
            self.wishes.send_modify(|count| *count += 1);
        }
        drop(wanted);
        drop(known);
        self.endpoints.drop_unused();
    }

    /// Follows a service; `false` where it is known not to exist.
    fn subscribe_to(&self, name: &Name) -> Result<bool, Unknown> {
        let mut wanted = self.wanted();
        if wanted.is_followed(name) {
            return Ok(!wanted.gone.contains(name));
        }
        if wanted.subscribed.len() >= MAX_WANTED {
            // Names that do not exist make room: they cost one question when they are asked for again.
            let Wanted { subscribed, gone, .. } = &mut *wanted;
            subscribed.retain(|name, _| !gone.remove(name));
        }
        if wanted.subscribed.len() >= MAX_WANTED {
            return Err(Unknown::TooMany);
        }
        wanted.subscribed.insert(name.clone(), 0);
        drop(wanted);
        self.wishes.send_modify(|count| *count += 1);
        Ok(true)
    }

    fn forget(&self, is_meant: impl Fn(&Name) -> bool) {
        self.known.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.retain(|name, _| !is_meant(name));
            known
        });
    }

    fn wanted(&self) -> std::sync::MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wanted {
    fn is_followed(&self, name: &Name) -> bool {
        self.backends.contains(name) || self.subscribed.contains_key(name)
    }
}

impl Known {
    fn of(service: &Arc<Service>) -> Arc<Self> {
        Arc::new(Self {
            service: Arc::clone(service),
            is_used: AtomicBool::new(true),
            idle_rounds: AtomicU8::new(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn service(text: &str) -> Arc<Service> {
        Arc::new(Service { name: name(text), epoch: 1, revision: 1, digest: [0; 32], ports: vec![] })
    }

    fn services() -> Services {
        Services::new(Arc::new(Endpoints::new()))
    }

    #[tokio::test(start_paused = true)]
    async fn asks_at_first_use_and_waits_for_the_answer() {
        let services = services();
        services.begin_session();
        let (got, ()) = tokio::join!(services.want("orders"), async {
            assert_eq!(services.next_change(), WantedChange { add: vec![name("orders")], remove: vec![] });
            services.install(vec![service("orders")]);
        });
        assert_eq!(got.unwrap().name, "orders");
        assert!(services.lookup("orders").is_some());
        assert_eq!(services.next_change(), WantedChange::default());
    }

    #[tokio::test(start_paused = true)]
    async fn knows_what_does_not_exist_until_it_does() {
        let services = services();
        let (got, ()) = tokio::join!(services.want("nope"), async { services.remove(&[name("nope")]) });
        assert_eq!(got.unwrap_err(), Unknown::NoSuchService);
        assert_eq!(services.want("nope").await.unwrap_err(), Unknown::NoSuchService);
        services.install(vec![service("nope")]);
        assert!(services.want("nope").await.is_ok());
        assert_eq!(services.want("no/name").await.unwrap_err(), Unknown::NotAName);
    }

    #[tokio::test(start_paused = true)]
    async fn says_when_nobody_answers() {
        assert_eq!(services().want("orders").await.unwrap_err(), Unknown::NoAnswer);
    }

    #[tokio::test(start_paused = true)]
    async fn drops_the_idle_but_never_backends() {
        let services = services();
        services.set_backends([name("backend")]);
        services.install(vec![service("backend"), service("other")]);
        assert_eq!(services.begin_session(), [name("other")]);
        for _ in 0..IDLE_ROUNDS {
            services.end_round();
            assert!(services.known.load().contains_key("other"));
        }
        services.end_round();
        assert!(services.lookup("other").is_none());
        assert!(services.lookup("backend").is_some());
        assert_eq!(services.next_change(), WantedChange { add: vec![], remove: vec![name("other")] });
    }

    #[tokio::test]
    async fn a_used_service_stays() {
        let services = services();
        services.install(vec![service("other")]);
        for _ in 0..20 {
            services.end_round();
            assert!(services.lookup("other").is_some());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn unknown_names_cannot_fill_the_directory() {
        let services = services();
        for index in 0..MAX_WANTED {
            let text = format!("s{index}");
            services.subscribe_to(&name(&text)).unwrap();
            services.remove(&[name(&text)]);
        }
        assert_eq!(services.subscribe_to(&name("fresh")), Ok(true));
        assert!(services.wanted().subscribed.len() < 10);
    }
}
