//! One agent's stream: where a view is pushed.
//!
//! A session is one task. What it sends is the difference between what the agent has and what it should have, found
//! anew at each change, so that nothing queues up for a slow agent and no agent waits for another.

mod denials;
mod hear;
mod tell;

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use hauberk_identity::Name;
use hauberk_proto::agent::v1::{self as agent, FromAgent, ToAgent, from_agent, to_agent::Message};
use hauberk_tls::Usage;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;
use tracing::{debug, error, info};

use super::close::{Close, HELLO_WITHIN, check_denied, check_node};
use super::endpoints::EndpointSnapshot;
use super::holding::{Holding, Push as Pushed};
use super::incoming::{Hello, ProtocolError};
use super::metrics::{KindLabel, ReasonLabel, kind};
use super::pace::Pace;
use super::workload_api::{self, ForWorkloadApi};
use super::{Push, dismiss};
use crate::compile::Compilation;
use crate::instances::{Ask, Connected, Enforcement, Peer};
use crate::revocation::{Denylist, Mark};
use crate::rpc::status;

/// How often the wall clock is asked whether the peer's certificate has expired, at the least.
const CLOCK_LOOKED_AT_EVERY: Duration = Duration::from_secs(30);

/// How many questions to one agent may be open.
const MAX_QUESTIONS: usize = 64;

/// How many messages may go before views; with more than that waiting, the agent is not listened to until it reads.
const MAX_URGENT: usize = MAX_QUESTIONS + 16;

/// Runs a session to its end.
pub(super) async fn run<S>(
    push: Arc<Push>,
    peer: Peer,
    incoming: S,
    outgoing: mpsc::Sender<Result<ToAgent, Status>>,
) where
    S: Stream<Item = Result<FromAgent, Status>> + Send + Unpin,
{
    let close = tokio::select! {
        close = serve(&push, &peer, incoming, &outgoing) => close,
        () = push.stop.cancelled() => Close::Stopping,
        () = expiry(&push, &peer) => Close::CertificateExpired,
        () = outgoing.closed() => Close::Gone,
    };
    push.metrics.closed.get_or_create(&ReasonLabel { reason: close.reason() }).inc();
    info!(event = "session_closed", instance = %peer.instance, spiffe_id = %peer.spiffe_id,
        reason = close.reason(), detail = %close);
    // An agent that reads nothing is not told.
    let _told = outgoing.try_send(Err(status::of_close(&close)));
    drop(outgoing);
    if close.is_dismissal() {
        dismiss::record(&push, &peer, &close).await;
    }
}

async fn expiry(push: &Push, peer: &Peer) {
    loop {
        let now = push.clock.now();
        if now > peer.certificate.not_after {
            return;
        }
        let left = peer.certificate.not_after.since(now) + Duration::from_millis(1);
        sleep(left.min(CLOCK_LOOKED_AT_EVERY)).await;
    }
}

async fn serve<S>(
    push: &Arc<Push>,
    peer: &Peer,
    mut incoming: S,
    outgoing: &mpsc::Sender<Result<ToAgent, Status>>,
) -> Close
where
    S: Stream<Item = Result<FromAgent, Status>> + Send + Unpin,
{
    let arriving = push.arriving.take(peer.instance);
    let begun = tokio::select! {
        begun = Session::begin(push, peer, &mut incoming) => begun,
        () = arriving.lost() => Err(Close::Superseded),
    };
    drop(arriving);
    let close = match begun {
        Ok(mut session) => match session.go_on(&mut incoming, outgoing).await {
            Err(close) => close,
            Ok(never) => match never {},
        },
        Err(close) => close,
    };
    if close.is_dismissal() {
        let leaving = push.leaving.take(peer.instance);
        let told = async {
            match close {
                Close::Denied(_) => dismiss::deny(push, peer, &mut incoming, outgoing).await,
                _ => dismiss::dismiss(push, peer, &mut incoming, outgoing).await,
            }
        };
        tokio::select! {
            () = told => {}
            () = leaving.lost() => {}
        }
    }
    close
}

/// A session after its Hello.
struct Session<'a> {
    push: &'a Push,
    peer: &'a Peer,
    presence: Presence,
    denylist: watch::Receiver<Arc<Denylist>>,
    /// The denylist that the agent has, or has been sent, and the key that signed it where that is known.
    told_denylist: (Mark, Option<String>),
    /// The keys by which the agent believes what is signed, as far as it was told.
    view_keys: Vec<String>,
    compilation: watch::Receiver<Arc<Compilation>>,
    endpoints: watch::Receiver<Arc<EndpointSnapshot>>,
    observed: watch::Receiver<bool>,
    /// It counts what it decides, once it is told to.
    reports_flows: bool,
    trust: watch::Receiver<Arc<agent::Trust>>,
    for_workload_api: ForWorkloadApi,
    asks: mpsc::Receiver<Ask>,
    /// What the plan of `holding` was made from.
    world: (Arc<Compilation>, Arc<EndpointSnapshot>),
    holding: Holding,
    /// The agent holds more than we do: no views for it.
    is_ahead: bool,
    /// Goes before views.
    urgent: VecDeque<Message>,
    questions: HashMap<u64, Question>,
    last_question: u64,
    pace: Pace,
    /// Nothing more is heard before it is taken.
    registering: Option<(agent::Register, Instant)>,
    recent_unknown_keys: hear::RecentUnknownKeys,
}

struct Question {
    decision_id: String,
    answer: oneshot::Sender<Option<agent::DecisionDetail>>,
}

impl<'a> Session<'a> {
    async fn begin<S>(push: &'a Arc<Push>, peer: &'a Peer, incoming: &mut S) -> Result<Self, Close>
    where
        S: Stream<Item = Result<FromAgent, Status>> + Unpin,
    {
        let first = timeout(HELLO_WITHIN, incoming.next()).await.map_err(|_| Close::HelloTimeout)?;
        let Some(from_agent::Message::Hello(hello)) = content(first)? else {
            return Err(ProtocolError::NotHello.into());
        };
        let now = push.clock.now();
        let mut hello = Hello::parse(hello, now)?;
        // What is durable may not be compiled yet; before that nobody is told that a node is gone, or is ahead.
        let durable = push.store.revision().await.map_err(Close::Store)?.0;
        let mut compilation = push.compilation.clone();
        let compiled = compilation.wait_for(|compilation| compilation.revision >= durable).await;
        let compiled = compiled.map_err(|_| Close::Stopping)?.clone();
        let is_ahead = hello.highest > (compiled.epoch, compiled.revision);
        if is_ahead {
            let (epoch, revision) = hello.highest;
            error!(event = "agent_ahead", instance = %peer.instance, spiffe_id = %peer.spiffe_id, epoch, revision,
                "an agent holds a newer configuration than this control plane: nothing is pushed to it");
            hello.facts.ahead = Some(hello.highest);
        }
        let mut denylist = push.denylist.clone();
        check_denied(&denylist.borrow_and_update(), peer)?;
        check_node(&compiled, peer)?;
        info!(event = "session_began", instance = %peer.instance, spiffe_id = %peer.spiffe_id,
            version = hello.facts.version, clock_skew_ms = hello.facts.clock_skew_ms);
        let holding = Holding::new(hello.node.as_ref(), &hello.services);
        let services = hello.services.into_iter().map(|(name, held)| (name, held.map(|held| held.mark)));
        let enforcement = Enforcement::new(hello.node.map(|held| held.mark), services);
        let (ask, asks) = mpsc::channel(MAX_QUESTIONS);
        let reports_flows = hello.facts.reports_flows;
        let connected = push.instances.connect(peer, hello.facts, enforcement, hello.denylist, ask, now);
        push.metrics.connected.set(push.instances.connected().try_into().unwrap_or(i64::MAX));
        let mut endpoints = push.endpoints.subscribe();
        let known_endpoints = Arc::clone(&endpoints.borrow_and_update());
        let mut trust = push.trust.clone();
        let mut urgent = VecDeque::from([Message::Trust((**trust.borrow_and_update()).clone())]);
        let for_workload_api = ForWorkloadApi::begin(push, hello.serves_workload_api, &mut urgent);
        let mut session = Session {
            push,
            peer,
            presence: Presence { push: Arc::clone(push), peer: peer.clone(), connected },
            denylist,
            // To an agent that knows nothing of them, having none is as good as the empty one.
            told_denylist: (
                hello.denylist.unwrap_or(Mark { epoch: compiled.epoch, revision: 0 }),
                hello.denylist_key,
            ),
            view_keys: hello.view_keys,
            compilation,
            endpoints,
            asks,
            world: (compiled, known_endpoints),
            holding,
            is_ahead,
            urgent,
            questions: HashMap::new(),
            last_question: 0,
            pace: Pace::new(),
            registering: None,
            recent_unknown_keys: hear::RecentUnknownKeys::default(),
            observed: push.flows.observed(),
            reports_flows,
            trust,
            for_workload_api,
        };
        session.check_trust()?;
        session.presence.connected.believes(&session.view_keys);
        if *session.observed.borrow() || session.reports_flows {
            session.tell_observed();
        }
        session.plan();
        Ok(session)
    }

    async fn go_on<S>(
        &mut self,
        incoming: &mut S,
        outgoing: &mpsc::Sender<Result<ToAgent, Status>>,
    ) -> Result<Infallible, Close>
    where
        S: Stream<Item = Result<FromAgent, Status>> + Unpin,
    {
        let superseded = self.presence.connected.superseded().clone();
        loop {
            let is_denylist_due = self.is_denylist_due(&self.denylist.borrow());
            let has_more = is_denylist_due || !self.urgent.is_empty() || self.holding.is_behind();
            tokio::select! {
                () = superseded.cancelled() => return Err(Close::Superseded),
                () = hear::turn(self.registering.as_ref()), if self.registering.is_some() => self.register(),
                message = self.pace.next(incoming),
                    if self.registering.is_none() && self.urgent.len() < MAX_URGENT =>
                {
                    let message = content(message)?.ok_or(ProtocolError::Empty)?;
                    self.hear(message)?;
                }
                changed = self.denylist.changed() => {
                    changed.map_err(|_| Close::Stopping)?;
                    check_denied(&self.denylist.borrow_and_update(), self.peer)?;
                }
                changed = self.compilation.changed() => {
                    changed.map_err(|_| Close::Stopping)?;
                    self.world.0 = Arc::clone(&self.compilation.borrow_and_update());
                    check_node(&self.world.0, self.peer)?;
                    self.plan();
                }
                changed = self.endpoints.changed() => {
                    changed.map_err(|_| Close::Stopping)?;
                    self.world.1 = Arc::clone(&self.endpoints.borrow_and_update());
                    self.plan();
                }
                changed = self.observed.changed() => {
                    changed.map_err(|_| Close::Stopping)?;
                    self.tell_observed();
                }
                changed = self.trust.changed() => {
                    changed.map_err(|_| Close::Stopping)?;
                    self.check_trust()?;
                    self.tell_trust();
                }
                message = self.for_workload_api.next() => workload_api::queue(message?, &mut self.urgent),
                Some(ask) = self.asks.recv() => self.ask(ask),
                permit = outgoing.reserve(), if has_more => {
                    let permit = permit.map_err(|_| Close::Gone)?;
                    // Taken before that is looked at: a list of later may be by a key of which is not told yet.
                    let denylist = Arc::clone(&self.denylist.borrow());
                    check_denied(&denylist, self.peer)?;
                    // What is to be sent may be signed by a key of which only this tells.
                    if self.trust.has_changed().map_err(|_| Close::Stopping)? {
                        self.check_trust()?;
                        self.tell_trust();
                    }
                    if let Some(message) = self.next_message(&denylist) {
                        permit.send(Ok(ToAgent { message: Some(message) }));
                    }
                }
            }
        }
    }

    fn plan(&mut self) {
        if self.is_ahead {
            return;
        }
        let (compilation, endpoints) = &self.world;
        for unused in self.holding.plan(self.peer, compilation, endpoints) {
            self.presence.connected.dropped(unused.as_str());
        }
    }

    fn next_message(&mut self, denylist: &Denylist) -> Option<Message> {
        // Before anything that it could let somebody in by; but what it does not believe it would not take.
        let is_first =
            self.is_denylist_due(denylist) && (self.urgent.is_empty() || self.is_denylist_believed(denylist));
        let first = if is_first { Some(self.tell_denylist(denylist)) } else { self.urgent.pop_front() };
        if let Some(Message::Trust(trust)) = &first {
            self.view_keys = trust.view_keys.iter().map(|key| key.key_id.clone()).collect();
        }
        let message = match first {
            Some(message) => message,
            None => {
                let (compilation, endpoints) = &self.world;
                let Pushed { message, view } = self.holding.next(self.peer, compilation, endpoints)?;
                if let Some((service, mark)) = view {
                    debug!(event = "view_pushed", instance = %self.peer.instance, revision = mark.revision,
                        service = service.as_ref().map(Name::as_str));
                    self.presence.connected.pushed(service.as_ref(), mark);
                }
                message
            }
        };
        self.push.metrics.pushes.get_or_create(&KindLabel { kind: kind(&message) }).inc();
        Some(message)
    }

    fn ask(&mut self, ask: Ask) {
        self.questions.retain(|_, question| !question.answer.is_closed());
        if self.questions.len() >= MAX_QUESTIONS {
            // Dropping the question tells who asked that there will be no answer.
            return;
        }
        self.last_question += 1;
        let Ask { decision_id, answer } = ask;
        self.urgent.push_back(Message::Question(agent::Question {
            question_id: self.last_question,
            decision_id: decision_id.clone(),
        }));
        self.questions.insert(self.last_question, Question { decision_id, answer });
    }

    /// Whether the peer would be let in today.
    fn check_trust(&self) -> Result<(), Close> {
        let bundle = Arc::clone(self.push.identity.current().bundle());
        let now = self.push.clock.now();
        match &self.peer.proof {
            Some(proof) => {
                proof.verify_again(&bundle, now, Usage::Client).map(drop).map_err(Close::NotTrusted)
            }
            None => Ok(()),
        }
    }
}

/// Stands for a connected agent: however a session ends, its endpoints are marked, once.
struct Presence {
    push: Arc<Push>,
    peer: Peer,
    connected: Connected,
}

impl Drop for Presence {
    fn drop(&mut self) {
        if self.connected.end() {
            let Peer { spiffe_id, instance, .. } = &self.peer;
            self.push.endpoints.disconnected(spiffe_id, *instance, self.connected.number());
        }
        let connected = self.push.instances.connected();
        self.push.metrics.connected.set(connected.try_into().unwrap_or(i64::MAX));
    }
}

/// What came: a message, `None` for one without a known content, or the end.
pub(super) fn content(
    message: Option<Result<FromAgent, Status>>,
) -> Result<Option<from_agent::Message>, Close> {
    match message {
        Some(Ok(message)) => Ok(message.message),
        Some(Err(_)) | None => Err(Close::Gone),
    }
}
