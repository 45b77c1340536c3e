//! Certificates for the workloads that this agent vouches for, obtained ahead and renewed at half their lives.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, Shared};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use hauberk_identity::{Name, UnixMillis};
use hauberk_proto::agent::v1 as pb;
use hauberk_proto::agent::v1::workloads_client::WorkloadsClient;
use hauberk_proto::refusal;
use hauberk_tls::{
    CertificateDer, CertificateRequest, KeyPair, LiveIdentity, Svid, TrustBundle, Usage, VerifyError,
    verify_svid,
};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::Told;
use super::entry::{Certified, Entries, Entry};
use super::hold::{Held, Outlived};
use crate::clock::{Clock, millis};
use crate::config::HostPort;
use crate::control_plane;
use crate::credentials::Credentials;
use crate::mesh::{Denied, Issuers};
use crate::skew::Skew;

/// How many certificates are asked for at once.
const AT_ONCE: usize = 8;
/// For how long programs are told nothing of what was obtained, so that they are told of much at once.
const TOLD_TOGETHER: Duration = Duration::from_millis(50);
/// Reasons for which this agent is given nothing for an enrollment, whatever becomes of the agent. Others are about the
/// agent itself, as long as it is in quarantine, or about nobody.
const REFUSALS: [&str; 2] = [refusal::NOT_ENROLLED, refusal::NAME_OF_CONTROL_PLANE];
/// The longest sleep without looking at the clock, which may be set or stand still while the host sleeps.
const LOOK: Duration = Duration::from_secs(15);

/// What is known and held of workloads at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept {
    /// As the control plane has told.
    pub(crate) entries: Told,
    /// A valid certificate for each entry that has one.
    pub(crate) svids: BTreeMap<Name, Arc<WorkloadSvid>>,
    /// Those for which the control plane refuses to issue one, because of what they are.
    pub(crate) refused: BTreeSet<Name>,
    /// Those whose certificates have ended by this host's clock when they are issued.
    pub(crate) outlived: BTreeSet<Name>,
}

/// A workload's certificate and its key.
#[derive(Debug)]
pub(crate) struct WorkloadSvid {
    pub(crate) svid: Svid,
    pub(crate) key: KeyPair,
}

/// Obtains and renews. Owned by the one task that does.
pub(crate) struct Keeper {
    control_plane: HostPort,
    credentials: Credentials,
    clock: Clock,
    told: watch::Receiver<Told>,
    denied: Arc<Denied>,
    /// Where it is told whose certificates programs are given.
    issuers: Arc<Issuers>,
    kept: watch::Sender<Kept>,
    held: BTreeMap<Name, Held>,
    asking: Asking,
}

pub(super) struct Obtained {
    pub(super) svid: WorkloadSvid,
    pub(super) issued_at: UnixMillis,
}

/// Why there is no certificate.
struct Unissued {
    problem: String,
    /// Asking again helps nothing as long as the enrollment is as it is. `None`: there was no answer, so what was said
    /// last holds.
    is_refused: Option<bool>,
    /// One was issued, and has ended by this host's clock.
    outlived: Option<Outlived>,
}

impl From<String> for Unissued {
    fn from(problem: String) -> Self {
        Self { problem, is_refused: None, outlived: None }
    }
}

impl From<Status> for Unissued {
    fn from(status: Status) -> Self {
        let problem = format!("{:?}: {}", status.code(), status.message());
        // What has no reason of ours the connection has made up.
        let reason = refusal::reason(&status).filter(|_| status.code() != Code::Unavailable);
        let is_refused = reason.map(|reason| REFUSALS.contains(&reason.as_str()));
        Self { problem, is_refused, outlived: None }
    }
}

/// What came of asking for one certificate.
type Asked = (Name, Certified, Result<Obtained, Unissued>);

/// A connection that several ask over, once there is one.
type Connecting = Shared<BoxFuture<'static, Result<Channel, String>>>;

/// Certificates that are being asked for, and for what.
#[derive(Default)]
struct Asking {
    running: FuturesUnordered<BoxFuture<'static, Asked>>,
    names: BTreeMap<Name, Certified>,
    connection: Option<Connecting>,
}

impl Asking {
    /// What came of one of them; for ever where there is none.
    async fn next(&mut self) -> Asked {
        let Some((name, certified, result)) = self.running.next().await else {
            return std::future::pending().await;
        };
        if self.names.get(&name) == Some(&certified) {
            self.names.remove(&name);
        }
        if result.is_err() {
            // It may have broken: others ask over a new one.
            self.connection = None;
        }
        (name, certified, result)
    }
}

impl Keeper {
    pub(crate) fn new(
        control_plane: HostPort,
        credentials: Credentials,
        clock: Clock,
        told: watch::Receiver<Told>,
        (denied, issuers): (Arc<Denied>, Arc<Issuers>),
    ) -> Self {
        let kept = watch::Sender::new(Kept::default());
        let (held, asking) = (BTreeMap::new(), Asking::default());
        Self { control_plane, credentials, clock, told, denied, issuers, kept, held, asking }
    }

    /// What is kept, now and at each change.
    pub(super) fn kept(&self) -> watch::Receiver<Kept> {
        self.kept.subscribe()
    }

    /// Who is refused everywhere.
    pub(super) fn denied(&self) -> &Arc<Denied> {
        &self.denied
    }

    /// Who the agent itself is, and what it trusts.
    pub(super) fn live(&self) -> &LiveIdentity {
        self.credentials.live()
    }

    /// Keeps everything up until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep() => {}
        }
    }

    async fn keep(&mut self) {
        let (mut trust, mut denied) = (self.credentials.trust_changes(), self.denied.changes());
        self.told.mark_changed();
        // When what was obtained is to be told to programs at the latest.
        let mut tell_by: Option<Instant> = None;
        loop {
            self.ask_due();
            if self.asking.running.is_empty() && tell_by.take().is_some() {
                self.judge();
                self.publish();
            }
            let wake = self.wake_in();
            let tell = async {
                match tell_by {
                    Some(tell_by) => tokio::time::sleep_until(tell_by).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.told.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.take_entries();
                }
                asked = self.asking.next() => {
                    self.take_asked(asked);
                    tell_by.get_or_insert_with(|| Instant::now() + TOLD_TOGETHER);
                }
                () = tell => {
                    tell_by = None;
                    self.judge();
                    self.publish();
                }
                changed = trust.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.judge();
                }
                changed = denied.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.judge();
                }
                () = tokio::time::sleep(wake) => self.judge(),
            }
        }
    }

    /// Takes over what the control plane says now. What is no longer vouched for goes at once; where an enrollment is
    /// another by its DNS names or its life alone, the former certificate is given until the new one is there.
    fn take_entries(&mut self) {
        let told = self.told.borrow_and_update().clone();
        let none = Entries::new();
        let entries = told.as_deref().unwrap_or(&none);
        self.held.retain(|name, _| entries.contains_key(name));
        for (name, Entry { certificate, .. }) in entries {
            let held = self.held.entry(name.clone()).or_insert_with(|| Held::new(certificate.clone()));
            held.change(certificate);
        }
        self.publish();
    }

    fn take_asked(&mut self, (name, certified, result): Asked) {
        // It may have been taken back, or be something else by now.
        let Some(held) = self.held.get_mut(&name).filter(|held| held.certified == certified) else { return };
        match result {
            Ok(obtained) => {
                let (id, not_after) = (obtained.svid.svid.id(), obtained.svid.svid.validity().not_after());
                tracing::info!(event = "workload_certificate", enrollment = %name, spiffe_id = %id, %not_after);
                held.take(obtained, self.clock.now());
            }
            Err(Unissued { problem, is_refused, outlived }) => {
                held.is_refused = is_refused.unwrap_or(held.is_refused);
                let wait = match outlived {
                    Some(outlived) => held.wait_for_the_clock(outlived),
                    None => held.try_again_after(self.clock.now()),
                };
                tracing::warn!(event = "workload_certificate_delayed", enrollment = %name, problem,
                    retry_in_ms = millis(wait));
            }
        }
    }

    /// Drops certificates that nobody accepts any longer; others are asked for at once. Those of an authority that
    /// signs no longer are renewed as the agent's own is.
    fn judge(&mut self) {
        let now = self.clock.now();
        let (trust, live) = (self.credentials.trust(), self.credentials.live().current());
        let mut has_changed = false;
        for (name, held) in &mut self.held {
            has_changed |= held.judge(name, &self.denied, live.bundle(), &trust, now);
        }
        if has_changed {
            self.publish();
        }
    }

    fn publish(&self) {
        let entries = self.told.borrow().clone();
        let svids = self.held.iter().filter_map(|(name, held)| Some((name.clone(), held.svid.clone()?)));
        let svids: BTreeMap<_, _> = svids.collect();
        let issuers = svids.values().filter_map(|workload| workload.svid.issuer_serial());
        let issuers = issuers.collect();
        let refused = self.held.iter().filter(|(_, held)| held.is_refused).map(|(name, _)| name.clone());
        let outlived = self.held.iter().filter(|(_, held)| held.is_outlived());
        let outlived = outlived.map(|(name, _)| name.clone()).collect();
        self.kept.send_replace(Kept { entries, svids, refused: refused.collect(), outlived });
        // Only now: programs have them from here.
        self.issuers.replace(issuers);
    }

    /// Until something is due, or expires.
    fn wake_in(&self) -> Duration {
        let now = self.clock.now();
        let expiries =
            self.held.values().filter_map(|held| Some(held.svid.as_ref()?.svid.validity().not_after()));
        // A millisecond past the instant, for validity includes its last one.
        let expiries = expiries.map(|instant| instant.plus(Duration::from_millis(1)).since(now));
        let dues = self.held.values().filter_map(|held| held.due_in(now));
        let next = expiries.chain(dues).min();
        next.map_or(LOOK, |next| next.clamp(Duration::from_millis(1), LOOK))
    }

    /// Asks for what is due, as far as there is room, beside what is being asked for: a new enrollment waits for no
    /// other.
    fn ask_due(&mut self) {
        let now = self.clock.now();
        let Asking { running, names, connection } = &mut self.asking;
        if running.is_empty() {
            *connection = None;
        }
        let is_asked = |(name, held): &(&Name, &Held)| names.get(*name) == Some(&held.certified);
        let due = self.held.iter().filter(|(_, held)| held.is_due(now)).filter(|held| !is_asked(held));
        let mut due: Vec<_> = due.collect();
        // The longest due first, new ones before all: what fails over and over takes nobody's turn.
        due.sort_by_key(|(_, held)| held.due);
        for (name, held) in due.into_iter().take(AT_ONCE.saturating_sub(running.len())) {
            let (credentials, clock) = (self.credentials.clone(), self.clock);
            let connecting = connection.get_or_insert_with(|| {
                let (control_plane, credentials) = (self.control_plane.clone(), credentials.clone());
                async move { connect(&control_plane, &credentials).await }.boxed().shared()
            });
            let (connecting, name, certified) = (connecting.clone(), name.clone(), held.certified.clone());
            names.insert(name.clone(), certified.clone());
            running.push(Box::pin(async move {
                let result = match connecting.await {
                    Ok(channel) => obtain(channel, &name, &certified, &credentials, clock).await,
                    Err(problem) => Err(problem.into()),
                };
                (name, certified, result)
            }));
        }
    }
}

/// Connects to the control plane as ourselves.
pub(super) async fn connect(control_plane: &HostPort, credentials: &Credentials) -> Result<Channel, String> {
    control_plane::connect_as(control_plane, credentials.live()).await.map_err(|error| error.to_string())
}

/// A fresh key each time, so that one that leaked is of use for one life at the most.
async fn obtain(
    channel: Channel,
    name: &Name,
    certified: &Certified,
    credentials: &Credentials,
    clock: Clock,
) -> Result<Obtained, Unissued> {
    let key = KeyPair::generate().map_err(|error| error.to_string())?;
    let csr = CertificateRequest::create(&key).map_err(|error| error.to_string())?;
    let request = pb::SignWorkloadCertificateRequest { enrollment: name.to_string(), csr };
    let answer = WorkloadsClient::new(channel).sign_certificate(request).await?.into_inner();
    let lacks = || "the control plane's answer lacks the certificate".to_owned();
    let certificate = answer.certificate.ok_or_else(lacks)?;
    let bundle = credentials.live().current();
    check(certificate, key, certified, bundle.bundle(), clock.now())
}

/// Reads what was issued, and verifies it as a peer would.
fn check(
    certificate: pb::Certificate,
    key: KeyPair,
    certified: &Certified,
    bundle: &TrustBundle,
    now: UnixMillis,
) -> Result<Obtained, Unissued> {
    let issued_at = UnixMillis(certificate.issued_at_unix_ms);
    let svid = Svid::from_der(certificate.chain.into_iter().map(CertificateDer::from))
        .map_err(|error| error.to_string())?;
    if *svid.id() != certified.id {
        // The enrollment was changed at this moment: its new form is on its way.
        return Err(format!("the certificate names {}, not {}", svid.id(), certified.id).into());
    }
    if svid.key_fingerprint() != key.public_key().fingerprint() {
        return Err("the certificate is not for our key".to_owned().into());
    }
    match verify_svid(svid.chain(), bundle, now, Usage::Client) {
        Ok(_) => Ok(Obtained { svid: WorkloadSvid { svid, key }, issued_at }),
        Err(error @ VerifyError::Expired { .. }) => {
            let outlived = Outlived::new(issued_at, svid.validity().not_after());
            let skew = Skew::Ahead(outlived.ahead(now));
            let problem = format!("{skew} (the certificate does not verify: {error})");
            Err(Unissued { problem, is_refused: Some(false), outlived: Some(outlived) })
        }
        Err(error) => Err(format!("the certificate does not verify: {error}").into()),
    }
}

#[cfg(test)]
mod tests {
    use hauberk_identity::{SpiffeId, Validity};

    use super::super::told::Board;
    use super::*;
    use crate::credentials::Issued;
    use crate::mesh::Denylist;
    use crate::state::{State, StoredTrust};
    use crate::testing::{Authorities, HOUR, around, now};

    fn certified(path: &str) -> Certified {
        let id = SpiffeId::parse(&format!("spiffe://shop.local/{path}")).unwrap();
        Certified { id, dns_names: Vec::new(), ttl: None }
    }

    /// One that nobody runs, and whose control plane does not answer.
    fn keeper(authorities: &Authorities, board: &Board) -> (Keeper, tempfile::TempDir) {
        hauberk_tls::install_provider();
        let folder = tempfile::tempdir().unwrap();
        let state = Arc::new(State::open(folder.path()).unwrap());
        let trust = StoredTrust::new(authorities.trust()).unwrap();
        let issued = Issued { identity: authorities.identity("mesh/shop/node/web", around(HOUR)), trust };
        let credentials = Credentials::new(issued, state).unwrap();
        let nowhere = HostPort { host: "127.0.0.1".to_owned(), port: 1 };
        let mesh = (Arc::new(Denied::new()), Arc::default());
        (Keeper::new(nowhere, credentials, Clock::system(), board.entries(), mesh), folder)
    }

    #[tokio::test]
    async fn what_is_edited_is_given_as_it_was_until_it_is_issued_anew() {
        let (authorities, board) = (Authorities::new(), Board::new(true));
        let (mut keeper, _folder) = keeper(&authorities, &board);
        let name = Name::parse("a").unwrap();
        let enroll = |keeper: &mut Keeper, path: &str, ttl_ms: u64, dns_names: &[&str]| {
            let entry = pb::WorkloadEntry {
                enrollment: "a".to_owned(),
                spiffe_id: format!("spiffe://shop.local/workload/{path}"),
                selectors: vec!["unix:uid:7".to_owned()],
                ttl_ms,
                dns_names: dns_names.iter().map(|name| (*name).to_owned()).collect(),
                ..pb::WorkloadEntry::default()
            };
            board.take_entries(pb::WorkloadEntries { entries: vec![entry] });
            keeper.take_entries();
            keeper.held[&name].certified.clone()
        };
        let answer = |keeper: &mut Keeper, certified: &Certified| {
            let key = KeyPair::generate().unwrap();
            let svid = authorities.sign("workload/a", key.public_key(), around(HOUR));
            let serial = svid.serial();
            let obtained = Obtained { svid: WorkloadSvid { svid, key }, issued_at: now() };
            keeper.take_asked((name.clone(), certified.clone(), Ok(obtained)));
            keeper.publish();
            serial
        };
        let given = |keeper: &Keeper| {
            let kept = keeper.kept();
            let kept = kept.borrow();
            (kept.svids.get(&name).map(|workload| workload.svid.serial()), kept.refused.contains(&name))
        };
        let before = enroll(&mut keeper, "a", 0, &[]);
        let first = answer(&mut keeper, &before);
        assert!(keeper.held[&name].due > now());
        for (ttl_ms, dns_names) in [(60_000, &[][..]), (60_000, &["worker.internal"])] {
            let changed = enroll(&mut keeper, "a", ttl_ms, dns_names);
            assert_eq!(given(&keeper), (Some(first), false));
            assert!(keeper.held[&name].due <= now(), "another is asked for at once");
            assert_ne!(changed, before);
        }
        let is_by_ours = |keeper: &Keeper| keeper.issuers.any(|it| *it == authorities.issuing.serial());
        assert!(is_by_ours(&keeper), "what is given as it was counts too");
        // What was asked for before says what is meant no longer.
        answer(&mut keeper, &before);
        assert_eq!(given(&keeper).0, Some(first));
        // Refused, the former is good all the same, as far as it goes.
        let changed = enroll(&mut keeper, "a", 60_000, &["worker.internal"]);
        let refused = Unissued { problem: "no".to_owned(), is_refused: Some(true), outlived: None };
        keeper.take_asked((name.clone(), changed.clone(), Err(refused)));
        keeper.publish();
        assert_eq!(given(&keeper), (Some(first), true));
        let second = answer(&mut keeper, &changed);
        assert_eq!(given(&keeper), (Some(second), false));

        // A revocation does not wait for another, nor does another name.
        let changed = enroll(&mut keeper, "a", 120_000, &[]);
        keeper.denied.replace(Denylist { serials: [second].into(), ..Denylist::default() });
        keeper.judge();
        assert_eq!(given(&keeper).0, None);
        answer(&mut keeper, &changed);
        enroll(&mut keeper, "b", 120_000, &[]);
        assert_eq!(given(&keeper).0, None);
        assert!(!is_by_ours(&keeper));
    }

    #[tokio::test]
    async fn only_what_is_said_of_the_enrollment_itself_refuses_it() {
        let board = Board::new(true);
        let (mut keeper, _folder) = keeper(&Authorities::new(), &board);
        let entry = pb::WorkloadEntry {
            enrollment: "a".to_owned(),
            spiffe_id: "spiffe://shop.local/workload/a".to_owned(),
            selectors: vec!["unix:uid:7".to_owned()],
            ..pb::WorkloadEntry::default()
        };
        board.take_entries(pb::WorkloadEntries { entries: vec![entry] });
        keeper.take_entries();
        let name = Name::parse("a").unwrap();
        let mut is_refused_after = |unissued: Unissued| {
            let certified = keeper.held[&name].certified.clone();
            keeper.take_asked((name.clone(), certified, Err(unissued)));
            keeper.publish();
            keeper.kept.borrow().refused.contains(&name)
        };
        let answer = |code, reason| Unissued::from(refusal::with_reason(code, reason, "no"));
        // Those are about the agent, and pass.
        for reason in ["QUARANTINED", "REVOKED", refusal::NOT_ON_RECORD, "NODE_GONE"] {
            assert!(!is_refused_after(answer(Code::PermissionDenied, reason)), "{reason}");
        }
        for (code, reason) in [
            (Code::PermissionDenied, refusal::NOT_ENROLLED),
            (Code::FailedPrecondition, refusal::NAME_OF_CONTROL_PLANE),
        ] {
            assert!(is_refused_after(answer(code, reason)), "{reason}");
            // Nothing is said by what is no answer.
            assert!(is_refused_after("no connection".to_owned().into()));
            assert!(is_refused_after(Status::unknown("transport error").into()));
            assert!(is_refused_after(answer(Code::Unavailable, "STOPPING")));
            assert!(!is_refused_after(answer(Code::PermissionDenied, "QUARANTINED")));
        }
    }

    #[tokio::test]
    async fn a_new_enrollment_waits_for_no_other() {
        let board = Board::new(true);
        let (mut keeper, _folder) = keeper(&Authorities::new(), &board);
        let mut tell = |names: &[&str]| {
            let entry = |name: &&str| pb::WorkloadEntry {
                enrollment: (*name).to_owned(),
                spiffe_id: format!("spiffe://shop.local/workload/{name}"),
                selectors: vec!["unix:uid:7".to_owned()],
                ..pb::WorkloadEntry::default()
            };
            board.take_entries(pb::WorkloadEntries { entries: names.iter().map(entry).collect() });
            keeper.take_entries();
            keeper.ask_due();
            keeper.asking.names.keys().map(Name::to_string).collect::<Vec<_>>()
        };
        // Nobody answers meanwhile.
        assert_eq!(tell(&["b"]), ["b"]);
        assert_eq!(tell(&["a", "b"]), ["a", "b"]);
        let many: Vec<String> = (0..20).map(|number| format!("c{number:02}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).chain(["a", "b"]).collect();
        assert_eq!(tell(&many).len(), AT_ONCE, "no more than so many at once");
        // The next ones as soon as there is room.
        drop(keeper.asking.next().await);
        keeper.ask_due();
        assert_eq!(keeper.asking.running.len(), AT_ONCE);
    }

    #[test]
    fn only_what_was_asked_for_is_taken() {
        let authorities = Authorities::new();
        let bundle = authorities.issuing.root_bundle();
        let key = || KeyPair::generate().unwrap();
        let issued = |path: &str, key: &KeyPair, validity| {
            let svid = authorities.sign(path, key.public_key(), validity);
            let chain = svid.chain().iter().map(|der| der.to_vec()).collect();
            pb::Certificate { chain, issued_at_unix_ms: now().0, ..pb::Certificate::default() }
        };
        let check = |certificate, key| {
            let checked = check(certificate, key, &certified("workload/a"), bundle, now());
            checked.map_err(|unissued| (unissued.problem, unissued.outlived.is_some()))
        };
        let own = key();
        let obtained = check(issued("workload/a", &own, around(HOUR)), own).unwrap();
        assert_eq!(obtained.svid.svid.id().as_str(), "spiffe://shop.local/workload/a");
        let own = key();
        let (problem, _) = check(issued("workload/b", &own, around(HOUR)), own).map(drop).unwrap_err();
        assert!(problem.contains("workload/b"), "{problem}");
        let (problem, _) = check(issued("workload/a", &key(), around(HOUR)), key()).map(drop).unwrap_err();
        assert!(problem.contains("our key"), "{problem}");
        // By a clock that is ahead of its life.
        let own = key();
        let ended = Validity::new(now().minus(2 * HOUR), now().minus(HOUR)).unwrap();
        let mut certificate = issued("workload/a", &own, ended);
        certificate.issued_at_unix_ms = now().minus(HOUR + Duration::from_secs(60)).0;
        let (problem, is_outlived) = check(certificate, own).map(drop).unwrap_err();
        assert!(is_outlived && problem.starts_with("this host's clock is 3,660 s ahead"), "{problem}");
        let foreign = Authorities::new();
        let own = key();
        let certificate = issued("workload/a", &own, around(HOUR));
        let bundle = foreign.issuing.root_bundle();
        assert!(super::check(certificate, own, &certified("workload/a"), bundle, now()).is_err());
    }
}
