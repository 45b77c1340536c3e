//! One agent's stream: where a view is pushed, and what the agent says to it is heard.
//!
//! A session is one task. What it sends is the difference between what the agent has and what it should have, found
//! anew at each change, so that nothing queues up for a slow agent and no agent waits for another.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use hauberk_identity::Name;
use hauberk_proto::agent::v1::{self as agent, FromAgent, ToAgent, from_agent, to_agent::Message};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::Status;
use tracing::{debug, error, info, warn};

use super::endpoints::EndpointSnapshot;
use super::holding::{Holding, MAX_SUBSCRIPTIONS, Push as Pushed};
use super::incoming::{Hello, ProtocolError, shown};
use super::metrics::{KindLabel, ReasonLabel};
use super::registration::Registration;
use super::{Push, wanted};
use crate::compile::Compilation;
use crate::instances::{Ask, Connected, Enforcement, Peer, Refusal};
use crate::registry::StoreError;
use crate::rpc::status;

/// How long an agent may take to say Hello.
const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// How often the wall clock is asked whether the peer's certificate has expired, at the least.
const CLOCK_LOOKED_AT_EVERY: Duration = Duration::from_secs(30);

/// How many questions to one agent may be open.
const MAX_QUESTIONS: usize = 64;

/// The longest name, in bytes, that is told to be none of a service.
const MAX_ECHOED: usize = 255;

/// How many messages may go before views; with more than that waiting, the agent is not listened to until it reads.
const MAX_URGENT: usize = MAX_QUESTIONS + 16;

/// Messages that an agent may send at once, and how many more each second. Above that it is read more slowly.
const BURST: u32 = 2_000;
const MESSAGES_PER_SECOND: u32 = 200;

/// Why a session ended.
#[derive(Debug, Error)]
pub enum Close {
    /// The agent went away, or the network between.
    #[error("the agent is gone")]
    Gone,
    /// The control plane stops.
    #[error("the control plane is stopping: connect again")]
    Stopping,
    /// A newer stream of the same instance has begun.
    #[error("a newer stream of this instance has taken over")]
    Superseded,
    /// The certificate that the agent proved is no longer valid.
    #[error("the certificate of this connection has expired: renew it and connect again")]
    CertificateExpired,
    /// The virtual node is not in the registry (any longer).
    #[error("the virtual node of this certificate does not exist")]
    NodeDeleted,
    /// No Hello in time.
    #[error("no Hello within {} seconds", HELLO_WITHIN.as_secs())]
    HelloTimeout,
    /// The agent broke the protocol.
    #[error("{0}")]
    Protocol(#[from] ProtocolError),
    /// The registry cannot be read.
    #[error("the registry cannot be read: try again")]
    Store(#[source] StoreError),
}

impl Close {
    /// A stable name, for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Stopping => "stopping",
            Self::Superseded => "superseded",
            Self::CertificateExpired => "certificate_expired",
            Self::NodeDeleted => "node_deleted",
            Self::HelloTimeout => "hello_timeout",
            Self::Protocol(_) => "protocol",
            Self::Store(_) => "store",
        }
    }
}

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
    let mut session = match Session::begin(push, peer, &mut incoming).await {
        Ok(session) => session,
        Err(close) => return close,
    };
    match session.go_on(&mut incoming, outgoing).await {
        Err(close) => close,
        Ok(never) => match never {},
    }
}

/// A session after its Hello.
struct Session<'a> {
    push: &'a Push,
    peer: &'a Peer,
    presence: Presence,
    compilation: watch::Receiver<Arc<Compilation>>,
    endpoints: watch::Receiver<Arc<EndpointSnapshot>>,
    observed: watch::Receiver<bool>,
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
        let compiled = compilation.wait_for(|compilation| wanted::revision(compilation) >= durable).await;
        let compiled = Arc::clone(&*compiled.map_err(|_| Close::Stopping)?);
        if wanted::node(&compiled, &peer.spiffe_id).is_none() {
            return Err(Close::NodeDeleted);
        }
        let is_ahead = hello.highest > (wanted::epoch(&compiled), wanted::revision(&compiled));
        if is_ahead {
            let (epoch, revision) = hello.highest;
            error!(event = "agent_ahead", instance = %peer.instance, spiffe_id = %peer.spiffe_id, epoch, revision,
                "an agent holds a newer configuration than this control plane: nothing is pushed to it");
            hello.facts.ahead = Some(hello.highest);
        }
        info!(event = "session_began", instance = %peer.instance, spiffe_id = %peer.spiffe_id,
            version = hello.facts.version, clock_skew_ms = hello.facts.clock_skew_ms);
        let holding = Holding::new(hello.node, &hello.services);
        let enforcement = Enforcement::new(hello.node, hello.services);
        let (ask, asks) = mpsc::channel(MAX_QUESTIONS);
        let connected = push.instances.connect(peer, hello.facts, enforcement, ask, now);
        push.metrics.connected.set(push.instances.connected().try_into().unwrap_or(i64::MAX));
        let mut endpoints = push.endpoints.subscribe();
        let known_endpoints = Arc::clone(&endpoints.borrow_and_update());
        let mut observed = push.flows.observed();
        let mut session = Session {
            push,
            peer,
            presence: Presence { push: Arc::clone(push), peer: peer.clone(), connected },
            compilation,
            endpoints,
            asks,
            world: (compiled, known_endpoints),
            holding,
            is_ahead,
            urgent: VecDeque::from([Message::Trust(push.trust.clone())]),
            questions: HashMap::new(),
            last_question: 0,
            pace: Pace::new(),
            observed: observed.clone(),
        };
        if *observed.borrow_and_update() {
            session.tell_observed();
        }
        session.observed = observed;
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
            let has_more = !self.urgent.is_empty() || self.holding.is_behind();
            tokio::select! {
                () = superseded.cancelled() => return Err(Close::Superseded),
                message = self.pace.next(incoming), if self.urgent.len() < MAX_URGENT => {
                    let message = content(message)?.ok_or(ProtocolError::Empty)?;
                    self.hear(message)?;
                }
                changed = self.compilation.changed() => {
                    changed.map_err(|_| Close::Stopping)?;
                    self.world.0 = Arc::clone(&self.compilation.borrow_and_update());
                    if wanted::node(&self.world.0, &self.peer.spiffe_id).is_none() {
                        return Err(Close::NodeDeleted);
                    }
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
                Some(ask) = self.asks.recv() => self.ask(ask),
                permit = outgoing.reserve(), if has_more => {
                    let permit = permit.map_err(|_| Close::Gone)?;
                    if let Some(message) = self.next_message() {
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

    fn next_message(&mut self) -> Option<Message> {
        let message = match self.urgent.pop_front() {
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

    fn hear(&mut self, message: from_agent::Message) -> Result<(), Close> {
        self.presence.connected.seen(self.push.clock.now());
        match message {
            from_agent::Message::Hello(_) => return Err(ProtocolError::SecondHello.into()),
            from_agent::Message::Acknowledge(message) => self.hear_acknowledge(&message),
            from_agent::Message::Refuse(message) => self.hear_refuse(&message),
            from_agent::Message::Register(message) => self.hear_register(&message),
            from_agent::Message::Subscribe(message) => self.hear_subscribe(message)?,
            from_agent::Message::Decisions(message) => self.hear_decisions(message),
            from_agent::Message::Answer(message) => self.hear_answer(message),
        }
        Ok(())
    }

    fn hear_acknowledge(&self, message: &agent::Acknowledge) {
        let agent::Acknowledge { epoch, revision, service } = message;
        match self.presence.connected.acknowledged(named(service), *epoch, *revision) {
            Some(after) => self.push.metrics.acknowledged.observe(after.as_secs_f64()),
            None => debug!(event = "acknowledge_unexpected", instance = %self.peer.instance, revision),
        }
    }

    fn hear_refuse(&self, message: &agent::Refuse) {
        let agent::Refuse { epoch, revision, service, reason, detail } = message;
        let refusal = Refusal {
            service: named(service).map(shown),
            revision: *revision,
            reason: shown(reason),
            detail: shown(detail),
        };
        warn!(event = "view_refused", instance = %self.peer.instance, spiffe_id = %self.peer.spiffe_id,
            %refusal, "an agent does not apply a view");
        self.push.metrics.refusals.inc();
        self.presence.connected.refused(named(service), *epoch, refusal);
    }

    fn hear_register(&self, message: &agent::Register) {
        let refused = match Registration::parse(message) {
            Ok(registration) => {
                let (peer, session) = (self.peer, self.presence.connected.number());
                self.push.endpoints.register(&peer.spiffe_id, peer.instance, session, registration);
                None
            }
            Err(error) => {
                warn!(event = "registration_refused", instance = %self.peer.instance, %error,
                    "an agent's endpoints are not taken; its former ones stay");
                Some(error.to_string())
            }
        };
        self.presence.connected.registered(refused);
    }

    fn hear_subscribe(&mut self, message: agent::Subscribe) -> Result<(), ProtocolError> {
        let agent::Subscribe { add, remove } = message;
        let too_many = ProtocolError::TooMany { field: "subscribe", limit: MAX_SUBSCRIPTIONS };
        if add.len() > MAX_SUBSCRIPTIONS || remove.len() > MAX_SUBSCRIPTIONS {
            return Err(too_many);
        }
        for name in &remove {
            self.holding.unsubscribe(name);
        }
        let mut impossible = Vec::new();
        let mut names = Vec::new();
        for text in add {
            match Name::parse(&text) {
                Ok(name) => names.push(name),
                Err(_) if text.len() <= MAX_ECHOED => impossible.push(text),
                Err(_) => {}
            }
        }
        if !self.holding.subscribe(names) {
            return Err(too_many);
        }
        if !impossible.is_empty() {
            let revision = wanted::revision(&self.world.0);
            self.urgent.push_back(Message::ServicesGone(agent::ServicesGone { names: impossible, revision }));
        }
        self.plan();
        Ok(())
    }

    fn hear_decisions(&self, message: agent::Decisions) {
        let count = message.decisions.len();
        let (peer, now) = (self.peer, self.push.clock.now());
        let foreign = self.push.flows.record(&peer.spiffe_id, peer.instance, message, now);
        self.push.metrics.decisions.inc_by(count as u64);
        if foreign > 0 {
            self.push.metrics.foreign_decisions.inc_by(foreign as u64);
            warn!(event = "foreign_decisions", instance = %peer.instance, spiffe_id = %peer.spiffe_id, foreign,
                "an agent reported decisions that are not its own: they are left out");
        }
    }

    fn hear_answer(&mut self, message: agent::Answer) {
        let agent::Answer { question_id, decision } = message;
        if let Some(question) = self.questions.remove(&question_id) {
            let is_own = |detail: &agent::DecisionDetail| {
                detail.decision.as_ref().is_some_and(|decision| {
                    decision.id == question.decision_id && decision.node == self.peer.spiffe_id.as_str()
                })
            };
            // Whoever asked may have stopped waiting.
            let _heard = question.answer.send(decision.filter(is_own));
        }
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

    fn tell_observed(&mut self) {
        let all = *self.observed.borrow_and_update();
        let limit_per_second = if all { self.push.decisions_per_second() } else { 0 };
        self.urgent.retain(|message| !matches!(message, Message::Observe(_)));
        self.urgent.push_back(Message::Observe(agent::Observe { all, limit_per_second }));
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

/// How fast an agent is listened to: a bucket of tokens.
struct Pace {
    tokens: u32,
    refilled: Instant,
}

impl Pace {
    fn new() -> Self {
        Self { tokens: BURST, refilled: Instant::now() }
    }

    /// The next message, as soon as its turn has come. May be cancelled without loss.
    async fn next<S>(&mut self, incoming: &mut S) -> Option<S::Item>
    where
        S: Stream + Unpin,
    {
        let interval = Duration::from_secs(1) / MESSAGES_PER_SECOND;
        let earned = self.refilled.elapsed().as_micros() / interval.as_micros();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if self.tokens.saturating_add(earned) >= BURST {
            (self.tokens, self.refilled) = (BURST, Instant::now());
        } else {
            self.tokens += earned;
            self.refilled += interval * earned;
        }
        if self.tokens == 0 {
            sleep_until(self.refilled + interval).await;
            (self.tokens, self.refilled) = (1, self.refilled + interval);
        }
        let message = incoming.next().await;
        self.tokens -= 1;
        message
    }
}

/// What came: a message, `None` for one without a known content, or the end.
fn content(message: Option<Result<FromAgent, Status>>) -> Result<Option<from_agent::Message>, Close> {
    match message {
        Some(Ok(message)) => Ok(message.message),
        Some(Err(_)) | None => Err(Close::Gone),
    }
}

fn named(service: &str) -> Option<&str> {
    if service.is_empty() { None } else { Some(service) }
}

fn kind(message: &Message) -> &'static str {
    match message {
        Message::View(_) => "view",
        Message::ServicesGone(_) => "services_gone",
        Message::Endpoints(_) => "endpoints",
        Message::Trust(_) => "trust",
        Message::Question(_) => "question",
        Message::Observe(_) => "observe",
        Message::CurrentAt(_) => "current_at",
    }
}
