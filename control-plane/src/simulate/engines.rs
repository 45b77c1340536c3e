//! Engines that enforce, without policies in mode audit: these change nothing that is let through, and would make what
//! they read seem to matter.

use std::collections::{BTreeMap, BTreeSet};

use hauberk_identity::{Name, NodeName, TrustDomain};
use hauberk_policy::{
    Bundle, Caller, CompileError, Engine, Issuers, Mode, NodeScope, PolicySlice, PortScope, Vouching,
};
use hauberk_proto::convert::{External, FederatedBundle, JwtIssuer, NodeView};

use crate::compile::view::MeshViews;
use crate::resources::VirtualNode;

/// What a node enforces, or whoever calls an external service, and who vouches there for users and callers.
#[derive(Debug, Clone)]
pub(super) struct Enforced {
    scope: NodeScope,
    policies: PolicySlice,
    issuers: Vec<JwtIssuer>,
    federated: Vec<FederatedBundle>,
    /// The trust domains that are followed, with a bundle or without.
    followed: BTreeSet<TrustDomain>,
    /// Those of them whose bundle is still to be fetched, and by what.
    awaited: BTreeMap<TrustDomain, Option<[u8; 32]>>,
    /// What is called, where that is outside.
    external: Option<External>,
}

/// Whose members are let in now, and by a draft: all agents refuse those of other trust domains, whatever policies permit.
pub(super) struct Strangers {
    now: BTreeSet<TrustDomain>,
    draft: BTreeSet<TrustDomain>,
}

impl Strangers {
    pub(super) fn of(own: &TrustDomain, now: &Enforced, draft: &Enforced) -> Self {
        let known = |of: &Enforced| of.followed.iter().chain([own]).cloned().collect();
        Self { now: known(now), draft: known(draft) }
    }

    /// Whether somebody is refused now, and by the draft.
    pub(super) fn are_refused(&self, caller: &Caller) -> (bool, bool) {
        let Caller::Peer(id) = caller else { return (false, false) };
        let is_stranger = |known: &BTreeSet<TrustDomain>| !known.iter().any(|domain| id.is_member_of(domain));
        (is_stranger(&self.now), is_stranger(&self.draft))
    }
}

/// What is enforced now, and by a draft.
pub(super) struct Sides {
    pub(super) now: Engine,
    pub(super) draft: Engine,
    /// What differs before policies are asked.
    pub(super) vouching: Vouching,
}

/// What is enforced now, and by a draft, in which nobody comes to some ports any longer; none where that is the same.
pub(super) fn sides(
    now: Enforced,
    draft: Enforced,
    not_called: BTreeSet<u16>,
) -> Result<Option<Sides>, CompileError> {
    let vouching = Vouching { not_called, ..vouching(&now, &draft) };
    if now.scope == draft.scope && now.policies == draft.policies && vouching == Vouching::default() {
        return Ok(None);
    }
    let now = Engine::compile(now.scope, &now.policies, None)?;
    let draft = Engine::compile(draft.scope, &draft.policies, Some(&now))?;
    Ok(Some(Sides { now, draft, vouching }))
}

/// What a node enforces, but for which routes are for users alone: that is the listener's to say, and no policy lifts it.
pub(super) fn whoever_it_is_for(
    views: &MeshViews<'_>,
    node: &VirtualNode,
    name: &NodeName,
) -> Result<Engine, CompileError> {
    let Enforced { mut scope, policies, .. } = of_node(views, node, name);
    for port in &mut scope.ports {
        port.users.iter_mut().for_each(|users| users.required = false);
        port.routes.iter_mut().for_each(|route| route.requires_user = None);
    }
    Engine::compile(scope, &policies, None)
}

/// What is enforced on calls of an external service, if there is one.
pub(super) fn calls_of(views: &MeshViews<'_>, external: &Name) -> Result<Option<Engine>, CompileError> {
    let compile = |Enforced { scope, policies, .. }| Engine::compile(scope, &policies, None);
    of_external(views, external).map(compile).transpose()
}

/// What a node enforces.
pub(super) fn of_node(views: &MeshViews<'_>, node: &VirtualNode, name: &NodeName) -> Enforced {
    let NodeView { scope, policies, issuers, federated, .. } = views.node(name, node);
    let (followed, awaited) = (views.followed(), views.awaited());
    Enforced { scope, policies: deciding(policies), issuers, federated, followed, awaited, external: None }
}

/// What is enforced where an external service is called.
pub(super) fn of_external(views: &MeshViews<'_>, external: &Name) -> Option<Enforced> {
    let (external, scope, policies) = views.external(external)?;
    let (policies, external) = (deciding(policies), Some(external.clone()));
    // Who leaves the mesh is one of ours.
    let (issuers, federated) = (views.issuers(), Vec::new());
    let (followed, awaited) = (BTreeSet::new(), BTreeMap::new());
    Some(Enforced { scope, policies, issuers, federated, followed, awaited, external })
}

impl Enforced {
    /// The ports that calls come to.
    pub(super) fn ports(&self) -> &[PortScope] {
        &self.scope.ports
    }

    /// What is left where there is nothing to call: agents of a node that is gone have no port.
    pub(super) fn gone(&self) -> Self {
        Self { scope: NodeScope { ports: Vec::new(), ..self.scope.clone() }, ..self.clone() }
    }

    /// What is left where nothing is permitted.
    pub(super) fn without_policies(&self) -> Self {
        Self { policies: PolicySlice::default(), ..self.clone() }
    }
}

fn deciding(mut slice: PolicySlice) -> PolicySlice {
    slice.policies.retain(|policy| policy.mode != Mode::Audit);
    slice
}

fn vouching(now: &Enforced, draft: &Enforced) -> Vouching {
    let fields = |of: &Enforced| -> BTreeSet<String> {
        of.issuers.iter().filter_map(|issuer| issuer.token_header.clone()).collect()
    };
    let token_fields = fields(draft).difference(&fields(now)).cloned().collect();
    let reaches_less = match (&now.external, &draft.external) {
        (Some(now), Some(draft)) => !reaches(draft, now),
        (Some(_), None) | (None, _) => false,
    };
    let issuers = if now.issuers == draft.issuers {
        Issuers::Same
    } else if now.issuers.iter().all(|issuer| draft.issuers.contains(issuer)) {
        Issuers::More
    } else {
        Issuers::Other
    };
    let other_bundles = other_bundles(now, draft);
    Vouching { issuers, other_bundles, reaches_less, token_fields, not_called: BTreeSet::new() }
}

/// The trust domains of which one side has another bundle, or awaits one that the other does not. That a draft has none
/// says nothing of what will be fetched: whether somebody is followed at all, resources say.
fn other_bundles(now: &Enforced, draft: &Enforced) -> BTreeMap<TrustDomain, Bundle> {
    let differing = |own: &Enforced, other: &Enforced| {
        let held = own.federated.iter().filter(|bundle| !other.federated.contains(bundle));
        let awaited = own.awaited.iter().filter(|(domain, from)| other.awaited.get(domain) != Some(from));
        let awaited = awaited.map(|(domain, _)| domain);
        held.map(|bundle| &bundle.trust_domain).chain(awaited).cloned().collect::<BTreeSet<_>>()
    };
    let others = differing(now, draft).into_iter().chain(differing(draft, now));
    let becomes = |domain: TrustDomain| {
        let bundle = if draft.followed.contains(&domain) { Bundle::Other } else { Bundle::Gone };
        (domain, bundle)
    };
    others.map(becomes).collect()
}

/// Whether all that is reached as `former` is reached so as `other`.
fn reaches(other: &External, former: &External) -> bool {
    former.hosts.iter().all(|host| other.hosts.contains(host))
        && former.allowed.iter().all(|range| other.allowed.contains(range))
        && former.ports.iter().all(|port| other.ports.contains(port))
}
