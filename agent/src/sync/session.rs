//! One stream to the control plane, from Hello until it ends.

use std::time::Duration;

use hauberk_identity::Serial;
use hauberk_proto::agent::v1 as pb;
use hauberk_proto::agent::v1::from_agent::Message as Up;
use hauberk_proto::agent::v1::mesh_client::MeshClient;
use hauberk_proto::agent::v1::to_agent::Message as Down;
use hauberk_proto::refusal;
use hauberk_tls::{LiveState, Svid};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::Sync;
use super::acknowledge::{NotYet, Ours};
use super::denylist::BadDenylist;
use super::disk::Write;
use super::held::{Held, Taken};
use super::token_keys::TokenKeys;
use crate::control_plane::MAX_MESSAGE;
use crate::random::Backoff;
use crate::state::Mark;

/// How many messages up may wait for the network.
const MAX_WAITING: usize = 32;
/// How long a message up may wait before the control plane counts as gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How often what changes often is brought to the disk.
const SAVE: Duration = Duration::from_secs(1);
/// How often is told what was decided how often, and which programs got no identity.
const TELL_FLOWS: Duration = Duration::from_secs(2);

/// How a session ended.
#[derive(Debug)]
pub(super) enum End {
    /// We have a new certificate to prove ourselves by.
    CertificateRenewed,
    /// For this reason.
    Closed(String),
}

pub(super) struct Session<'a> {
    pub(super) sync: &'a Sync,
    pub(super) held: &'a mut Held,
    identity: watch::Receiver<LiveState>,
    pub(super) not_yet: NotYet,
    pub(super) token_keys: TokenKeys,
    /// The control plane is to be told of programs that got no identity.
    tells_denials: bool,
    /// The control plane is to be told of tokens that name unknown keys.
    tells_unknown_keys: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(sync: &'a Sync, held: &'a mut Held, identity: watch::Receiver<LiveState>) -> Self {
        Self {
            sync,
            held,
            identity,
            not_yet: NotYet::default(),
            token_keys: TokenKeys::default(),
            tells_denials: false,
            tells_unknown_keys: false,
        }
    }

    pub(super) async fn run(mut self, channel: Channel, backoff: &mut Backoff) -> End {
        match self.exchange(channel, backoff).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn exchange(&mut self, channel: Channel, backoff: &mut Backoff) -> Result<Never, End> {
        let (up, waiting) = mpsc::channel(MAX_WAITING);
        let up = Uplink(up);
        let mut registrations = self.sync.registrations.clone();
        let mut wishes = self.sync.mesh.services.wishes();
        let mut applied = self.sync.mesh.applied.subscribe();
        let mut denied = self.sync.mesh.denied.applied();
        let mut kept = self.held.disk.changes();
        let mut save = tokio::time::interval(SAVE);
        save.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tell_flows = tokio::time::interval(TELL_FLOWS);
        tell_flows.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let serial = serial_of(&self.identity.borrow());

        let keys = &self.sync.credentials.trust().view_keys;
        let hello = self.held.hello(self.sync.clock.now(), self.sync.workloads.is_served(), keys);
        up.send(Up::Hello(hello)).await?;
        let register = registrations.borrow_and_update().clone();
        up.send(Up::Register(register)).await?;
        wishes.mark_changed();
        applied.mark_changed();
        let mut trust_applied = self.sync.mesh.applied.subscribe_trust();
        let mut followed = self.sync.mesh.applied.subscribe_followed();
        let mut client = MeshClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let opened = client.sync(ReceiverStream::new(waiting)).await;
        if let Err(status) = &opened
            && refusal::reason(status).as_deref() == Some(refusal::NOT_ON_RECORD)
        {
            self.sync.credentials.tell_not_on_record(serial);
        }
        let mut down = opened.map_err(closed)?.into_inner();
        self.sync.connected.send_replace(true);
        tracing::info!(event = "control_plane_connected");
        loop {
            tokio::select! {
                message = next(&mut down) => {
                    let message = message?;
                    // Only now: a stream that is opened may still be refused, or we be told to go. Whom to believe is
                    // told first either way.
                    if !matches!(message.message, Some(Down::NodeGone(_) | Down::Denylist(_) | Down::Trust(_) | Down::JwtKeys(_))) {
                        backoff.reset();
                    }
                    self.take(message, &up).await?;
                }
                changed = applied.changed() => {
                    or_stopping(changed)?;
                    applied.mark_unchanged();
                    self.acknowledge(&up).await?;
                }
                changed = denied.changed() => {
                    or_stopping(changed)?;
                    denied.mark_unchanged();
                    self.acknowledge_denylist(&up).await?;
                }
                changed = trust_applied.changed() => {
                    or_stopping(changed)?;
                    trust_applied.mark_unchanged();
                    self.acknowledge_trust(&up).await?;
                }
                changed = followed.changed() => {
                    or_stopping(changed)?;
                    followed.mark_unchanged();
                    self.acknowledge_trust(&up).await?;
                }
                changed = kept.changed() => {
                    or_stopping(changed)?;
                    kept.mark_unchanged();
                    self.acknowledge_all(&up).await?;
                }
                changed = registrations.changed() => {
                    or_stopping(changed)?;
                    let register = registrations.borrow_and_update().clone();
                    up.send(Up::Register(register)).await?;
                }
                changed = wishes.changed() => {
                    or_stopping(changed)?;
                    self.subscribe(&up).await?;
                }
                issuer = self.sync.mesh.unknown_keys.next(), if self.tells_unknown_keys => {
                    up.send(Up::UnknownKey(pb::UnknownKey { issuer: issuer.to_string() })).await?;
                }
                batch = self.sync.decisions.next_batch() => up.send(Up::Decisions(batch)).await?,
                changed = self.identity.changed() => {
                    or_stopping(changed)?;
                    if serial_of(&self.identity.borrow_and_update()) != serial {
                        return Err(End::CertificateRenewed);
                    }
                }
                _ = tell_flows.tick() => {
                    for summaries in self.sync.decisions.flow_summaries() {
                        up.send(Up::Flows(summaries)).await?;
                    }
                    // Like news of unknown keys: a control plane that does not know the message would end the stream.
                    let denials = if self.tells_denials { self.sync.workloads.next_denials() } else { Vec::new() };
                    for denied in denials {
                        up.send(Up::WorkloadDenied(denied)).await?;
                    }
                }
                _ = save.tick() => {
                    self.held.save(self.sync.clock.now());
                    self.held.save_trust(&self.sync.credentials);
                    // A renewal writes what to trust too.
                    self.acknowledge_trust(&up).await?;
                }
            }
        }
    }

    async fn take(&mut self, message: pb::ToAgent, up: &Uplink) -> Result<(), End> {
        let Some(message) = message.message else {
            // A newer control plane may say what we do not understand; what must be understood is a view's feature.
            tracing::debug!(event = "message_not_understood");
            return Ok(());
        };
        match message {
            Down::Workloads(entries) => self.sync.workloads.take_entries(entries),
            Down::JwtKeys(keys) => self.token_keys.take(keys, self.sync, self.held),
            Down::RevocationList(list) => self.sync.workloads.take_revocation_lists(list),
            Down::View(signed) => self.take_view(signed, up).await?,
            Down::Denylist(signed) => {
                match self.held.take_denylist(signed, &self.sync.credentials.trust().view_keys) {
                    Ok(mark) => {
                        self.not_yet.denylist = Some(mark);
                        // Whom everybody refuses vouches for nobody. Who is let in again is told anew, in a new
                        // session.
                        let us = self.sync.credentials.live().current();
                        if self.sync.mesh.denied.denial_of_us(&us).is_some() {
                            self.sync.workloads.vouch_for_nobody();
                        }
                        self.acknowledge_denylist(up).await?;
                    }
                    Err(error) => {
                        tracing::error!(event = "denylist_refused", %error, "the former stays in force");
                        if let BadDenylist::BadSignature(_) = error {
                            // Whoever is told anew whom we believe and what we hold, tells us first whom to believe.
                            return Err(End::Closed(
                                "the denylist is signed by nobody whom we know".to_owned(),
                            ));
                        }
                    }
                }
            }
            Down::ServicesGone(gone) => self.held.take_gone(&gone),
            Down::Endpoints(update) => {
                if let Err(error) = self.held.take_endpoints(&update, true) {
                    tracing::error!(event = "endpoints_refused", %error);
                }
            }
            Down::Trust(trust) => {
                self.take_trust(trust).await;
                self.acknowledge_trust(up).await?;
            }
            Down::Question(pb::Question { question_id, decision_id }) => {
                let decision = self.sync.decisions.explain(&decision_id);
                up.send(Up::Answer(pb::Answer { question_id, decision })).await?;
            }
            Down::Observe(observe) => {
                self.sync.decisions.observe(&observe);
                self.tells_denials = observe.workload_denials;
                self.tells_unknown_keys = observe.unknown_keys;
            }
            Down::CurrentAt(pb::CurrentAt { .. }) => {
                self.held.confirmed();
                self.sync.settled.send_replace(true);
            }
            Down::NodeGone(pb::NodeGone { epoch, revision }) => {
                let at = Mark { epoch, revision };
                if self.held.take_node_gone(at) {
                    // Who vouched for them is nobody any longer.
                    self.sync.workloads.vouch_for_nobody();
                    let _gone = self.sync.credentials.forget_if_gone();
                    self.not_yet.ours = Some(Ours::NodeGone(at));
                    self.acknowledge(up).await?;
                }
            }
        }
        Ok(())
    }

    async fn take_trust(&mut self, trust: pb::Trust) {
        let credentials = self.sync.credentials.clone();
        match tokio::task::spawn_blocking(move || credentials.replace_trust(trust)).await {
            Ok(Ok(wanted)) => {
                self.not_yet.trust = Some(wanted);
                if !self.sync.credentials.is_trust_kept() {
                    self.held.disk.keep(Write::Trust(self.sync.credentials.clone()));
                }
            }
            Ok(Err(error)) => tracing::error!(event = "trust_refused", %error),
            Err(error) => tracing::error!(event = "trust_refused", %error),
        }
    }

    async fn take_view(&mut self, signed: pb::SignedView, up: &Uplink) -> Result<(), End> {
        let came = Instant::now();
        match self.held.take(signed, &self.sync.credentials.trust().view_keys).await {
            Taken::Node(view) => {
                self.not_yet.ours = Some(Ours::View(view, came));
                self.acknowledge(up).await
            }
            Taken::Service(acknowledge) => up.send(Up::Acknowledge(acknowledge)).await,
            Taken::Refused(refuse) => up.send(Up::Refuse(refuse)).await,
        }
    }

    async fn subscribe(&mut self, up: &Uplink) -> Result<(), End> {
        let change = self.sync.mesh.services.next_change();
        if change.add.is_empty() && change.remove.is_empty() {
            return Ok(());
        }
        self.held.forget(&change.remove);
        let texts = |names: &[hauberk_identity::Name]| names.iter().map(ToString::to_string).collect();
        up.send(Up::Subscribe(pb::Subscribe { add: texts(&change.add), remove: texts(&change.remove) })).await
    }
}

enum Never {}

pub(super) struct Uplink(mpsc::Sender<pb::FromAgent>);

impl Uplink {
    pub(super) async fn send(&self, message: Up) -> Result<(), End> {
        match self.0.send_timeout(pb::FromAgent { message: Some(message) }, SEND_TIMEOUT).await {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                Err(End::Closed("the control plane takes nothing any longer".to_owned()))
            }
            // Why is what the other direction says.
            Err(mpsc::error::SendTimeoutError::Closed(_)) => {
                Err(End::Closed("the stream has ended".to_owned()))
            }
        }
    }
}

async fn next(down: &mut Streaming<pb::ToAgent>) -> Result<pb::ToAgent, End> {
    match down.message().await {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(End::Closed("the control plane has ended the stream".to_owned())),
        Err(status) => Err(closed(status)),
    }
}

fn closed(status: tonic::Status) -> End {
    End::Closed(format!("{:?}: {}", status.code(), status.message()))
}

fn or_stopping(changed: Result<(), watch::error::RecvError>) -> Result<(), End> {
    changed.map_err(|_| End::Closed("the agent is stopping".to_owned()))
}

fn serial_of(state: &LiveState) -> Option<Serial> {
    state.svid().map(Svid::serial)
}
