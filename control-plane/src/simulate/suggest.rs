//! The fewest policies that let through what was recorded.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use hauberk_identity::{Name, TrustDomain};
use hauberk_policy::{
    Attempt, Caller, CallerMemo, CompileError, Decision, EgressIndex, Engine, Fact, Known, Mode, NodeScope,
    Peer, Place, PolicyDocument, PolicyIndex, Reason, RecordedCall, RecordedFlow, Seen, UNDECLARED,
    Undecidable, suggest as write,
};
use hauberk_proto::admin::v1::{PermitUse, Uncovered};
use hauberk_proto::agent::v1 as agent;
use hauberk_proto::convert::decode_flow;
use hauberk_proto::mesh::v1::{PolicySpec, Resource, resource::Spec};

use super::engines::{calls_of, whoever_it_is_for};
use super::{SimulateError, check_readable};
use crate::compile::view::MeshViews;
use crate::flows::NodeRecord;
use crate::resources::MeshCatalog;

/// Policies that let through what was recorded, and how well they fit.
#[derive(Debug, Default)]
pub struct Suggestion {
    /// Ready to be applied.
    pub policies: Vec<Resource>,
    /// What of it goes beyond what was recorded.
    pub generalisations: Vec<String>,
    /// How many decisions to allow were recorded.
    pub seen: u64,
    /// How many of these the policies allow.
    pub covered: u64,
    /// Those that they do not.
    pub uncovered: Vec<Uncovered>,
    /// The permits that allow them now.
    pub used: Vec<PermitUse>,
    /// Since when there are records, in Unix ms.
    pub since: Option<u64>,
    /// Decisions that were not recorded one by one.
    pub unrecorded: u64,
}

/// What was recorded of one node, or of its calls of one external service.
struct AtPlace<'a> {
    now: Engine,
    flows: Vec<(&'a Arc<agent::FlowSummary>, RecordedFlow)>,
}

/// One caller's memories, by where it calls from.
#[derive(Default)]
struct Memos(HashMap<(Caller, Peer), CallerMemo>);

/// What policies do not cover, in the order in which it was found, and where each of it stands there: an agent may have told of a
/// hundred thousand kinds of calls.
#[derive(Default)]
struct Missed<'a> {
    told: Vec<Uncovered>,
    places: HashMap<MissedKey<'a>, usize>,
}

/// Caller, node, external service, port, action, route, and why it is not covered.
type MissedKey<'a> = (&'a str, &'a str, &'a str, u32, &'a str, &'a str, &'static str);

/// Writes policies for what is recorded of nodes of one mesh.
///
/// # Errors
/// What is stored is not understood, or cannot be enforced.
pub fn suggest(
    trust_domain: &TrustDomain,
    mesh: &Name,
    resources: &MeshCatalog,
    records: &[NodeRecord],
) -> Result<Suggestion, SimulateError> {
    check_readable(mesh, resources)?;
    let views = MeshViews::new(trust_domain, mesh, resources);
    let mut suggestion = Suggestion::default();
    let mut used: BTreeMap<String, u64> = BTreeMap::new();
    let mut generalisations = BTreeSet::new();
    for record in records {
        let Some((_, name)) = record.node.mesh_and_node() else { continue };
        let Some(node) = resources.node_or_gateway(&name) else { continue };
        let failed = |source| SimulateError::Compile { mesh: mesh.clone(), node: name.clone(), source };
        let view = views.node(&name, node);
        let egress = *view.egress;
        for policy in view.policies.policies.into_iter().chain(egress.policies.policies) {
            if policy.mode == Mode::Enforce && policy.permits() {
                used.entry(policy.name).or_default();
            }
        }
        let since = record.flows.iter().map(|flow| flow.first_seen_unix_ms).min();
        suggestion.since = suggestion.since.into_iter().chain(since).min();
        suggestion.unrecorded = suggestion.unrecorded.saturating_add(record.unrecorded);
        let mut places: BTreeMap<&str, Vec<_>> = BTreeMap::from([("", Vec::new())]);
        let flows = record.flows.iter().filter(|flow| flow.verdict() != agent::Verdict::Deny);
        for (flow, recorded) in flows.filter_map(|flow| Some((flow, decode_flow(flow)?))) {
            places.entry(flow.external.as_str()).or_default().push((flow, recorded));
        }
        for (external, flows) in places {
            let now = match Name::parse(external) {
                // A flow that stays in the mesh names none.
                Err(_) => whoever_it_is_for(&views, node, &name).map_err(failed)?,
                Ok(external) => match calls_of(&views, &external).map_err(failed)? {
                    Some(now) => now,
                    // Nothing is called any longer.
                    None => continue,
                },
            };
            let at = AtPlace { now, flows };
            let seen = at.seen(&mut used, &mut generalisations);
            let known = egress.externals.iter().find(|known| known.name.as_str() == external);
            // Which one was called is not recorded.
            if let Some(known) = known.filter(|known| known.hosts.len() > 1 && !seen.is_empty()) {
                generalisations
                    .insert(format!("external/{external}: each of its {} hosts", known.hosts.len()));
            }
            let suggested = write(at.now.scope(), &seen);
            let mut documents = Vec::new();
            for policy in suggested.policies {
                let parsed = Name::parse(&policy.name).ok().and_then(|name| {
                    let (mesh, cedar) = (mesh.clone(), &policy.cedar);
                    PolicyDocument::parse(mesh, trust_domain, name, Mode::Enforce, cedar).ok()
                });
                // What cannot be written is not covered, and shows in the figures.
                let Some(document) = parsed else { continue };
                documents.push(document);
                suggestion.policies.push(resource(mesh, policy.name, policy.cedar));
            }
            generalisations.extend(suggested.generalisations);
            let by_suggestion = enforcing(at.now.scope(), &documents).map_err(failed)?;
            at.measure(&by_suggestion, &mut suggestion, &mut generalisations);
        }
    }
    suggestion.generalisations = generalisations.into_iter().collect();
    suggestion.used = used.into_iter().map(|(policy, count)| PermitUse { policy, count }).collect();
    Ok(suggestion)
}

/// The engine that enforces these, and nothing else, at a place.
fn enforcing(scope: &NodeScope, documents: &[PolicyDocument]) -> Result<Engine, CompileError> {
    let slice = match &scope.place {
        Place::Node(_) => PolicyIndex::new(&scope.mesh, documents).slice(scope, Known::default()),
        Place::External(_) => {
            EgressIndex::new(std::slice::from_ref(scope), documents).of_all(Known::default())
        }
    };
    Engine::compile(scope.clone(), &slice, None)
}

impl AtPlace<'_> {
    /// What is to be permitted: what was let through, and would be today.
    fn seen(
        &self,
        used: &mut BTreeMap<String, u64>,
        generalisations: &mut BTreeSet<String>,
    ) -> BTreeMap<Caller, BTreeSet<Seen>> {
        let mut seen: BTreeMap<Caller, BTreeSet<Seen>> = BTreeMap::new();
        let mut memos = Memos::default();
        for (summary, flow) in &self.flows {
            for call in &flow.calls {
                match memos.decide(&self.now, flow, call) {
                    Ok(decision) if !decision.is_allowed() => {}
                    Ok(decision) => {
                        for policy in &*decision.policies {
                            add(used.entry(policy.to_string()).or_default(), call.count);
                        }
                        generalisations.extend(dropped(&self.now, flow, &decision));
                        seen.entry(flow.caller.clone()).or_default().extend(self.seen_of(flow, call));
                    }
                    // What it depends on, a policy without conditions would leave out. Of the permits in force those let it
                    // through that did.
                    Err(_) => {
                        for policy in &summary.policies {
                            used.get_mut(policy).into_iter().for_each(|count| add(count, call.count));
                        }
                    }
                }
            }
        }
        seen
    }

    fn seen_of(&self, flow: &RecordedFlow, call: &RecordedCall) -> Option<Seen> {
        let template = self.template_of(flow, call)?;
        // No permit lets through both readings of a path and nothing else.
        let has_readings = |attempt: Attempt<'_>| matches!(attempt, Attempt::Request { path, .. } if path.with_slashes().is_some());
        if call.with(flow, self.now.escaped_slashes(flow.port), has_readings)? {
            return None;
        }
        Some(Seen {
            port: flow.port,
            action: flow.action,
            route: Some(template).filter(|template| !template.is_empty() && template != UNDECLARED),
            method: call.method.to_string(),
            path: path_of(call).to_owned(),
        })
    }

    /// The template of the route that a call would be for today; empty for a stream.
    fn template_of(&self, flow: &RecordedFlow, call: &RecordedCall) -> Option<String> {
        let escaped = self.now.escaped_slashes(flow.port);
        let resource =
            call.with(flow, escaped, |attempt| self.now.resource_of(flow.port, attempt)).flatten()?;
        Some(resource.split_once(' ').map_or("", |(_port, template)| template).to_owned())
    }

    /// Holds the policies against what was recorded.
    fn measure(
        &self,
        by_suggestion: &Engine,
        suggestion: &mut Suggestion,
        generalisations: &mut BTreeSet<String>,
    ) {
        let (mut memos, mut by_now) = (Memos::default(), Memos::default());
        let mut uncovered = Missed::default();
        for (summary, flow) in &self.flows {
            let mut missing: BTreeMap<&'static str, u64> = BTreeMap::new();
            let mut covers_route = !flow.calls.is_empty();
            let mut why_others = Undecidable::TooMany;
            for call in &flow.calls {
                let decision = memos.decide(by_suggestion, flow, call);
                let is_covered = decision.as_ref().is_ok_and(Decision::is_allowed);
                // The others are of the route as it was then.
                covers_route &= self.template_of(flow, call).as_deref() == Some(&*flow.route)
                    && decision.is_ok_and(|decision| {
                        decision.is_allowed() && !decision.reads.contains_any(&[Fact::Path, Fact::Method])
                    });
                add(&mut suggestion.seen, call.count);
                let today = by_now.decide(&self.now, flow, call);
                if is_covered {
                    add(&mut suggestion.covered, call.count);
                    // A forbid stays as it is; that no permit lets it through any longer does not.
                    if today.is_ok_and(|today| today.reason == Reason::NoPolicyMatched) {
                        let (place, path) = (place(&self.now, flow), path_of(call));
                        generalisations.insert(format!("{place}: also {path}, which no policy permits now"));
                    }
                    continue;
                }
                let reason = match &today {
                    Err(why) => why.as_str(),
                    Ok(today) if !today.is_allowed() => "denied_now",
                    Ok(_) => "cannot_be_written",
                };
                add(missing.entry(reason).or_default(), call.count);
                why_others = today.err().unwrap_or(why_others);
            }
            add(&mut suggestion.seen, flow.others);
            if covers_route {
                add(&mut suggestion.covered, flow.others);
            } else if flow.others > 0 {
                add(missing.entry(why_others.as_str()).or_default(), flow.others);
            }
            for (reason, count) in missing.into_iter().filter(|(_, count)| *count > 0) {
                uncovered.add(summary, reason, count);
            }
        }
        suggestion.uncovered.append(&mut uncovered.told);
    }
}

impl<'a> Missed<'a> {
    /// What only differs in what is not told of it, such as who the user was, is told once.
    fn add(&mut self, summary: &'a agent::FlowSummary, reason: &'static str, count: u64) {
        let agent::FlowSummary { caller, node, external, port, action, route, .. } = summary;
        let key = (
            caller.as_str(),
            node.as_str(),
            external.as_str(),
            *port,
            action.as_str(),
            route.as_str(),
            reason,
        );
        let place = *self.places.entry(key).or_insert_with(|| {
            self.told.push(Uncovered {
                caller: caller.clone(),
                node: node.clone(),
                port: *port,
                action: action.clone(),
                route: route.clone(),
                count: 0,
                reason: reason.to_owned(),
                external: external.clone(),
            });
            self.told.len() - 1
        });
        if let Some(known) = self.told.get_mut(place) {
            add(&mut known.count, count);
        }
    }
}

impl Memos {
    fn decide(
        &mut self,
        engine: &Engine,
        flow: &RecordedFlow,
        call: &RecordedCall,
    ) -> Result<Decision, Undecidable> {
        let key = (flow.caller.clone(), call.peer.clone());
        let memo = self.0.entry(key).or_insert_with(|| engine.caller(&flow.caller, &call.peer));
        let escaped = engine.escaped_slashes(flow.port);
        call.with(flow, escaped, |attempt| call.decide(memo, flow.port, attempt))
            .unwrap_or(Err(Undecidable::Unreadable))
    }
}

/// An agent may say of itself what numbers it likes.
fn add(sum: &mut u64, count: u64) {
    *sum = sum.saturating_add(count);
}

/// What is asked for now, and would be no longer.
fn dropped(now: &Engine, flow: &RecordedFlow, decision: &Decision) -> Option<String> {
    // Users are not among them: of a request whose policies read them nothing is decided here, and a stream has none.
    const ASKED: [(Fact, &str); 7] = [
        (Fact::Time, "time"),
        (Fact::CertificateAge, "certificate's age"),
        (Fact::Address, "caller's address"),
        (Fact::Tls, "TLS version and group"),
        (Fact::Host, "host"),
        (Fact::Query, "query"),
        (Fact::Headers, "header fields"),
    ];
    let asked = ASKED.into_iter().filter(|(fact, _)| decision.reads.contains(*fact));
    // A suggestion names the caller and the route, in whatever roles and data classes they are.
    let memberships = now.memberships_asked_by(&decision.policies);
    let asked: Vec<_> = asked.map(|(_, name)| name.to_owned()).chain(memberships).collect();
    if asked.is_empty() {
        return None;
    }
    Some(format!("{}: whatever the {}, which policies ask for now", place(now, flow), asked.join(", the ")))
}

/// Who calls what, in few words.
fn place(now: &Engine, flow: &RecordedFlow) -> String {
    let caller = match &flow.caller {
        Caller::Peer(id) => id.mesh_and_node().map_or(id.to_string(), |(_, name)| name.to_string()),
        Caller::Anonymous => "@anonymous".to_owned(),
    };
    let place = match &now.scope().place {
        Place::Node(node) => node.mesh_and_node().map(|(_, name)| name.to_string()).unwrap_or_default(),
        Place::External(external) => format!("external/{external}"),
    };
    format!("{caller} {} {place}:{} {}", flow.action.as_str(), flow.port, flow.route)
}

fn path_of(call: &RecordedCall) -> &str {
    call.target.split('?').next().unwrap_or_default()
}

fn resource(mesh: &Name, name: String, cedar: String) -> Resource {
    let description = Some("Permits what was seen, as `hauberk suggest` wrote it".to_owned());
    let spec = Spec::Policy(PolicySpec { cedar, description, ..PolicySpec::default() });
    Resource { mesh: mesh.to_string(), name, spec: Some(spec), ..Resource::default() }
}
