//! What one agent has been sent, and so what is still to send: the difference between that and what is wanted, taken
//! anew whenever either changes. A slow agent therefore gets the latest, never a backlog.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use hauberk_identity::Name;
use hauberk_proto::agent::v1::{self as agent, to_agent::Message};

use super::endpoints::{EndpointSnapshot, TargetPort};
use super::incoming::HeldView;
use crate::compile::{Compilation, CompiledView};
use crate::instances::wanted::{self, Standing};
use crate::instances::{Peer, ViewMark};

/// How many services one agent may subscribe to beyond its backends.
pub(super) const MAX_SUBSCRIPTIONS: usize = 1_000;

/// One agent's side of the world.
#[derive(Debug)]
pub(super) struct Holding {
    subscribed: BTreeSet<Name>,
    node: Option<Sealed>,
    services: BTreeMap<Name, Sent>,
    endpoints: HashMap<TargetPort, Arc<[agent::Endpoint]>>,
    /// The last that it was told to have all up to; `None`: it was not told yet.
    current_at: Option<(u64, u64)>,
    /// It has been sent something of the configuration since. Of what does not concern it it is told nothing.
    is_unconfirmed: bool,
    /// `None`: nothing yet, which is not the same as none.
    workloads: Option<Arc<agent::WorkloadEntries>>,
    plan: VecDeque<Item>,
}

/// What an agent knows of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sent {
    View(Sealed),
    Gone,
}

/// A view by its content and whose signature is on it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sealed {
    digest: [u8; 32],
    /// `None`: an agent of a former release does not say.
    key_id: Option<String>,
}

impl Sealed {
    fn held(held: &HeldView) -> Self {
        Self { digest: held.mark.digest, key_id: held.key_id.clone() }
    }

    fn sent(view: &CompiledView) -> Self {
        Self { digest: view.digest, key_id: Some(view.signed.key_id.clone()) }
    }

    fn is(&self, view: &CompiledView) -> bool {
        self.digest == view.digest && self.key_id.as_ref().is_none_or(|key| *key == view.signed.key_id)
    }
}

/// One message to be made. What is in it is looked up when it is made.
#[derive(Debug)]
enum Item {
    Workloads,
    Node,
    Service(Name),
    Gone(Vec<Name>),
    Endpoints(TargetPort),
    CurrentAt,
}

impl Item {
    /// Whether it comes of a change of the configuration: of instances that come and go nothing is confirmed.
    fn is_of_configuration(&self) -> bool {
        match self {
            Self::Workloads | Self::Node | Self::Service(_) | Self::Gone(_) => true,
            Self::Endpoints(_) | Self::CurrentAt => false,
        }
    }
}

/// A message, and the view in it.
#[derive(Debug)]
pub(super) struct Push {
    pub(super) message: Message,
    /// Which view; the service is `None` for the node's own.
    pub(super) view: Option<(Option<Name>, ViewMark)>,
}

impl Holding {
    /// Begins from what the agent says it holds.
    pub(super) fn new(node: Option<&HeldView>, services: &[(Name, Option<HeldView>)]) -> Self {
        let held = services.iter().filter_map(|(name, held)| {
            let held = Sealed::held(held.as_ref()?);
            Some((name.clone(), Sent::View(held)))
        });
        Self {
            subscribed: services.iter().map(|(name, _)| name.clone()).collect(),
            node: node.map(Sealed::held),
            services: held.collect(),
            endpoints: HashMap::new(),
            current_at: None,
            is_unconfirmed: true,
            workloads: None,
            plan: VecDeque::new(),
        }
    }

    /// Wants more services. False, and nothing is changed, where these are too many.
    pub(super) fn subscribe(&mut self, names: impl IntoIterator<Item = Name>) -> bool {
        let mut subscribed = self.subscribed.clone();
        for name in names {
            // Asked for again: it is told again.
            self.services.remove(&name);
            subscribed.insert(name);
        }
        let fits = subscribed.len() <= MAX_SUBSCRIPTIONS;
        if fits {
            self.subscribed = subscribed;
        }
        fits
    }

    /// Wants a service no longer.
    pub(super) fn unsubscribe(&mut self, name: &str) {
        self.subscribed.remove(name);
    }

    /// Whether there is anything to send.
    pub(super) fn is_behind(&self) -> bool {
        !self.plan.is_empty()
    }

    /// Finds out what is to be sent. Gives the services that the agent has no use for any more.
    pub(super) fn plan(
        &mut self,
        peer: &Peer,
        compilation: &Compilation,
        endpoints: &EndpointSnapshot,
    ) -> Vec<Name> {
        self.plan.clear();
        // Where its own view could not be made, it is told all the same who serves what it calls. Others of its mesh may be missing too:
        // they are not gone, nor is it current.
        let node = match wanted::standing(compilation, &peer.spiffe_id, peer.node_uid.as_deref()) {
            Standing::Here(node) => Some(node),
            Standing::NotMade => None,
            Standing::Deleted | Standing::MadeAnew | Standing::Unknown => return Vec::new(),
        };
        // Those of its name may be another node's, where that cannot be told.
        let is_certain =
            node.is_some() || matches!(compilation.node_uids.get(&peer.spiffe_id), Some(Some(_)));
        if is_certain && self.workloads != Some(workloads(compilation, peer)) {
            self.plan.push_back(Item::Workloads);
        }
        if let Some(node) = node
            && !self.node.as_ref().is_some_and(|held| held.is(node))
        {
            self.plan.push_back(Item::Node);
        }
        // What it has is of use for as long as it is not known of what it makes use.
        let backends = node.map(|node| node.backends.as_slice()).unwrap_or_default();
        let held = self.services.keys().filter(|_| node.is_none());
        let names: BTreeSet<Name> = self.subscribed.iter().chain(backends).chain(held).cloned().collect();
        let mut gone = Vec::new();
        let mut targets = BTreeSet::new();
        for name in &names {
            match wanted::service(compilation, &peer.mesh, name) {
                Some(view) => {
                    targets.extend(
                        view.targets.iter().map(|(spiffe_id, port)| TargetPort {
                            spiffe_id: spiffe_id.clone(),
                            port: *port,
                        }),
                    );
                    let has = matches!(self.services.get(name), Some(Sent::View(held)) if held.is(view));
                    if !has {
                        self.plan.push_back(Item::Service(name.clone()));
                    }
                }
                None if node.is_some() && self.services.get(name) != Some(&Sent::Gone) => {
                    gone.push(name.clone());
                }
                None => {}
            }
        }
        if !gone.is_empty() {
            self.plan.push_back(Item::Gone(gone));
        }
        self.endpoints.retain(|target, _| node.is_none() || targets.contains(target));
        for target in targets {
            let known = self.endpoints.get(&target).map(|list| &list[..]);
            if known != Some(published(endpoints, &target)) {
                self.plan.push_back(Item::Endpoints(target));
            }
        }
        let concerns_it = self.is_unconfirmed || self.plan.iter().any(Item::is_of_configuration);
        if node.is_some() && concerns_it && self.current_at != Some((compilation.epoch, compilation.revision))
        {
            self.plan.push_back(Item::CurrentAt);
        }
        let unused: Vec<Name> = self.services.keys().filter(|name| !names.contains(*name)).cloned().collect();
        for name in &unused {
            self.services.remove(name);
        }
        unused
    }

    /// Makes the next message of the plan, from the same state of the world that the plan was made from.
    pub(super) fn next(
        &mut self,
        peer: &Peer,
        compilation: &Compilation,
        endpoints: &EndpointSnapshot,
    ) -> Option<Push> {
        loop {
            let item = self.plan.pop_front()?;
            self.is_unconfirmed |= item.is_of_configuration();
            let push = match item {
                Item::Workloads => {
                    let entries = workloads(compilation, peer);
                    self.workloads = Some(Arc::clone(&entries));
                    Some(Push::without_view(Message::Workloads((*entries).clone())))
                }
                Item::Node => {
                    let view = compilation.nodes.get(&peer.spiffe_id);
                    self.node = view.map(|view| Sealed::sent(view));
                    view.map(|view| view_push(compilation, None, view))
                }
                Item::Service(name) => self.service_push(peer, compilation, name),
                Item::Gone(names) => {
                    self.services.extend(names.iter().map(|name| (name.clone(), Sent::Gone)));
                    let names = names.iter().map(Name::to_string).collect();
                    let revision = compilation.revision;
                    Some(Push::without_view(Message::ServicesGone(agent::ServicesGone { names, revision })))
                }
                Item::Endpoints(target) => {
                    let list = endpoints.get(&target).cloned().unwrap_or_else(|| Arc::from([]));
                    let update = agent::EndpointsUpdate {
                        spiffe_id: target.spiffe_id.to_string(),
                        listener_port: target.port.into(),
                        endpoints: list.to_vec(),
                    };
                    self.endpoints.insert(target, list);
                    Some(Push::without_view(Message::Endpoints(update)))
                }
                Item::CurrentAt => {
                    let (epoch, revision) = (compilation.epoch, compilation.revision);
                    (self.current_at, self.is_unconfirmed) = (Some((epoch, revision)), false);
                    Some(Push::without_view(Message::CurrentAt(agent::CurrentAt { epoch, revision })))
                }
            };
            if push.is_some() {
                return push;
            }
        }
    }

    fn service_push(&mut self, peer: &Peer, compilation: &Compilation, name: Name) -> Option<Push> {
        let view = wanted::service(compilation, &peer.mesh, &name)?;
        let push = view_push(compilation, Some(name.clone()), view);
        self.services.insert(name, Sent::View(Sealed::sent(view)));
        Some(push)
    }
}

impl Push {
    pub(super) fn without_view(message: Message) -> Self {
        Self { message, view: None }
    }
}

/// The signed bytes are shared by all who are sent them.
fn view_push(compilation: &Compilation, service: Option<Name>, view: &CompiledView) -> Push {
    let mark = wanted::mark(compilation, view);
    Push { message: Message::View(view.signed.clone()), view: Some((service, mark)) }
}

/// The workloads for which the agents of a peer's node vouch.
pub(super) fn workloads(compilation: &Compilation, peer: &Peer) -> Arc<agent::WorkloadEntries> {
    compilation.workloads.get(&peer.spiffe_id).cloned().unwrap_or_default()
}

fn published<'a>(endpoints: &'a EndpointSnapshot, target: &TargetPort) -> &'a [agent::Endpoint] {
    endpoints.get(target).map(|list| &list[..]).unwrap_or_default()
}
