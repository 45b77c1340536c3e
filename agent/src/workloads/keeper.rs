//! Certificates for the workloads that this agent vouches for, obtained ahead and renewed at half their lives.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use hauberk_identity::{Name, UnixMillis};
use hauberk_proto::agent::v1 as pb;
use hauberk_proto::agent::v1::workloads_client::WorkloadsClient;
use hauberk_tls::{
    CertificateDer, CertificateRequest, KeyPair, LiveIdentity, ServerExpectation, Svid, TrustBundle, Usage,
    verify_svid,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::Told;
use super::entry::{Certified, Entries};
use super::hold::Held;
use crate::clock::Clock;
use crate::config::HostPort;
use crate::control_plane;
use crate::credentials::Credentials;
use crate::mesh::Denied;

/// How many certificates are asked for at once.
const AT_ONCE: usize = 8;
/// The longest sleep without looking at the clock, which may be set or stand still while the host sleeps.
const LOOK: Duration = Duration::from_secs(15);

/// What is known and held of workloads at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept {
    /// As the control plane has told.
    pub(crate) entries: Told,
    /// A valid certificate for each entry that has one.
    pub(crate) svids: BTreeMap<Name, Arc<WorkloadSvid>>,
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
    kept: watch::Sender<Kept>,
    held: BTreeMap<Name, Held>,
}

pub(super) struct Obtained {
    pub(super) svid: WorkloadSvid,
    pub(super) issued_at: UnixMillis,
}

/// Certificates that are being asked for, and for what.
type Round = Pin<Box<dyn Future<Output = Vec<(Name, Certified, Result<Obtained, String>)>> + Send>>;

impl Keeper {
    pub(crate) fn new(
        control_plane: HostPort,
        credentials: Credentials,
        clock: Clock,
        told: watch::Receiver<Told>,
        denied: Arc<Denied>,
    ) -> Self {
        let kept = watch::Sender::new(Kept::default());
        Self { control_plane, credentials, clock, told, denied, kept, held: BTreeMap::new() }
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
        let mut round: Option<Round> = None;
        let (mut trust, mut denied) = (self.credentials.trust_changes(), self.denied.changes());
        self.told.mark_changed();
        loop {
            if round.is_none() {
                round = self.begin_round();
            }
            let wake = self.wake_in();
            let outcome = async {
                match &mut round {
                    Some(round) => round.await,
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
                obtained = outcome => {
                    round = None;
                    self.take_obtained(obtained);
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

    /// Takes over what the control plane says now. What is no longer vouched for goes at once.
    fn take_entries(&mut self) {
        let told = self.told.borrow_and_update().clone();
        let none = Entries::new();
        let entries = told.as_deref().unwrap_or(&none);
        self.held
            .retain(|name, held| entries.get(name).is_some_and(|entry| entry.certificate == held.certified));
        for (name, entry) in entries {
            self.held.entry(name.clone()).or_insert_with(|| Held::new(entry.certificate.clone()));
        }
        self.publish();
    }

    fn take_obtained(&mut self, obtained: Vec<(Name, Certified, Result<Obtained, String>)>) {
        let now = self.clock.now();
        for (name, certified, result) in obtained {
            // It may have been taken back, or be something else by now.
            let Some(held) = self.held.get_mut(&name).filter(|held| held.certified == certified) else {
                continue;
            };
            match result {
                Ok(obtained) => {
                    let (id, not_after) =
                        (obtained.svid.svid.id(), obtained.svid.svid.validity().not_after());
                    tracing::info!(event = "workload_certificate", enrollment = %name, spiffe_id = %id, %not_after);
                    held.take(obtained);
                }
                Err(problem) => {
                    let wait = held.try_again_after(now);
                    tracing::warn!(event = "workload_certificate_delayed", enrollment = %name, problem,
                        retry_in_ms = wait.as_millis() as u64);
                }
            }
        }
        self.judge();
        self.publish();
    }

    /// Drops certificates that nobody accepts any longer; others are asked for at once. Those of an authority that signs no
    /// longer are renewed as the agent's own is.
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
        self.kept.send_replace(Kept { entries, svids: svids.collect() });
    }

    /// Until something is due, or expires.
    fn wake_in(&self) -> Duration {
        let now = self.clock.now();
        let expiries =
            self.held.values().filter_map(|held| Some(held.svid.as_ref()?.svid.validity().not_after()));
        // A millisecond past the instant, for validity includes its last one.
        let expiries = expiries.map(|instant| instant.plus(Duration::from_millis(1)));
        let dues = self.held.values().map(|held| held.due).filter(|due| *due > now);
        let next = expiries.chain(dues).min();
        next.map_or(LOOK, |next| next.since(now).clamp(Duration::from_millis(1), LOOK))
    }

    fn begin_round(&self) -> Option<Round> {
        let now = self.clock.now();
        let due = self.held.iter().filter(|(_, held)| held.due <= now);
        let due: Vec<_> = due.map(|(name, held)| (name.clone(), held.certified.clone())).collect();
        if due.is_empty() {
            return None;
        }
        let (control_plane, credentials, clock) =
            (self.control_plane.clone(), self.credentials.clone(), self.clock);
        Some(Box::pin(async move {
            let channel = connect(&control_plane, &credentials).await;
            let asked = due.into_iter().map(|(name, certified)| {
                let (channel, credentials) = (channel.clone(), credentials.clone());
                async move {
                    let result = match channel {
                        Ok(channel) => obtain(channel, &name, &certified, &credentials, clock).await,
                        Err(problem) => Err(problem),
                    };
                    (name, certified, result)
                }
            });
            futures_util::stream::iter(asked).buffer_unordered(AT_ONCE).collect().await
        }))
    }
}

/// Connects to the control plane as ourselves.
pub(super) async fn connect(control_plane: &HostPort, credentials: &Credentials) -> Result<Channel, String> {
    let connector = credentials
        .live()
        .connector(
            ServerExpectation::ControlPlane,
            control_plane::ALPN,
            true,
            control_plane::HANDSHAKE_TIMEOUT,
        )
        .map_err(|error| error.to_string())?;
    control_plane::connect(control_plane, &connector).await.map_err(|error| error.to_string())
}

/// A fresh key each time, so that one that leaked is of use for one life at the most.
async fn obtain(
    channel: Channel,
    name: &Name,
    certified: &Certified,
    credentials: &Credentials,
    clock: Clock,
) -> Result<Obtained, String> {
    let key = KeyPair::generate().map_err(|error| error.to_string())?;
    let csr = CertificateRequest::create(&key).map_err(|error| error.to_string())?;
    let request = pb::SignWorkloadCertificateRequest { enrollment: name.to_string(), csr };
    let answer = WorkloadsClient::new(channel)
        .sign_certificate(request)
        .await
        .map_err(|status| format!("{:?}: {}", status.code(), status.message()))?
        .into_inner();
    let certificate = answer.certificate.ok_or("the control plane's answer lacks the certificate")?;
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
) -> Result<Obtained, String> {
    let issued_at = UnixMillis(certificate.issued_at_unix_ms);
    let svid = Svid::from_der(certificate.chain.into_iter().map(CertificateDer::from))
        .map_err(|error| error.to_string())?;
    if *svid.id() != certified.id {
        // The enrollment was changed at this moment: its new form is on its way.
        return Err(format!("the certificate names {}, not {}", svid.id(), certified.id));
    }
    if svid.key_fingerprint() != key.public_key().fingerprint() {
        return Err("the certificate is not for our key".to_owned());
    }
    verify_svid(svid.chain(), bundle, now, Usage::Client)
        .map_err(|error| format!("the certificate does not verify: {error}"))?;
    Ok(Obtained { svid: WorkloadSvid { svid, key }, issued_at })
}

#[cfg(test)]
mod tests {
    use hauberk_identity::SpiffeId;

    use super::*;
    use crate::testing::{Authorities, HOUR, around, now};

    fn certified(path: &str) -> Certified {
        let id = SpiffeId::parse(&format!("spiffe://shop.local/{path}")).unwrap();
        Certified { id, dns_names: Vec::new(), ttl: None }
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
        let check = |certificate, key| check(certificate, key, &certified("workload/a"), bundle, now());
        let own = key();
        let obtained = check(issued("workload/a", &own, around(HOUR)), own).unwrap();
        assert_eq!(obtained.svid.svid.id().as_str(), "spiffe://shop.local/workload/a");
        let own = key();
        let problem = check(issued("workload/b", &own, around(HOUR)), own).map(drop).unwrap_err();
        assert!(problem.contains("workload/b"), "{problem}");
        let problem = check(issued("workload/a", &key(), around(HOUR)), key()).map(drop).unwrap_err();
        assert!(problem.contains("our key"), "{problem}");
        let foreign = Authorities::new();
        let own = key();
        let certificate = issued("workload/a", &own, around(HOUR));
        let bundle = foreign.issuing.root_bundle();
        assert!(super::check(certificate, own, &certified("workload/a"), bundle, now()).is_err());
    }
}
